"""A training that is stopped goes on as if it had not been; a sweep trains all its trials."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jax
import numpy as np
import pytest

from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import prepare
from eegsr_jax.errors import ConfigError
from eegsr_jax.training.run import Experiment, load, train
from eegsr_jax.training.sweep import train_sweep, trial_names

NAMES = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()
SMALL = "emag(lags=2,resolution=3,components=4,widths=(2,),features=8,epochs={},batch_size=4)"
EXPERIMENT = Experiment(
    dataset="simulated",
    preprocessing=PREPROCESSING["none"],
    layout="Fp1,F7,Fz,F8,C3,C4,O1,O2",
    method=SMALL.format(40),
    window_seconds=1.0,
    seed=5,
)
CHILD = """
import sys
from eegsr_jax import config
from eegsr_jax.data.store import open_store
from eegsr_jax.training.run import Experiment, Path, train
store = open_store(sys.argv[1])
train(config.from_json(Experiment, sys.argv[2]), store, Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """2 subjects, 20 s of 20 channels at 80 Hz."""
    dataset = datasets.load(
        "simulated", montage=NAMES, num_subjects=2, seconds=20.0, sfreq=80.0, num_sources=40
    )
    out = tmp_path_factory.mktemp("resume") / "store"
    return prepare(dataset, out, PREPROCESSING["none"], progress=False)


def equal(a, b, tolerance=0.0):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        size = max(np.abs(np.where(np.isfinite(y), y, 0)).max(), 1e-6) if np.size(y) else 1.0
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * size)


def metrics(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k != "seconds_per_step"} for line in lines
    ]


def test_stopped_by_a_signal_it_goes_on_to_the_same_bits(store, tmp_path):
    from eegsr_jax import config

    words = [sys.executable, "-c", CHILD, store.path, config.to_json(EXPERIMENT), tmp_path / "run"]
    child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    record = tmp_path / "run" / "metrics.jsonl"
    for _ in range(1200):
        if child.poll() is not None or (record.exists() and len(metrics(tmp_path / "run")) > 3):
            break
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0, said
    done = len(metrics(tmp_path / "run"))
    assert 3 < done < 41
    with pytest.raises(ConfigError, match="training has not finished.*goes on with it"):
        load(tmp_path / "run")
    with pytest.raises(ConfigError, match="unfinished run of another experiment.seed, 5, not 6"):
        train(replace(EXPERIMENT, seed=6), store, tmp_path / "run")

    train(EXPERIMENT, store, tmp_path / "run")
    train(EXPERIMENT, store, tmp_path / "whole")
    equal(load(tmp_path / "run")[1], load(tmp_path / "whole")[1])
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    for run in ("run", "whole"):
        names = sorted(p.name for p in (tmp_path / run).iterdir())
        assert names == ["checkpoints", "config.json", "geometry.json", "metrics.jsonl"]
        assert [p.name for p in (tmp_path / run / "checkpoints").iterdir()] == ["params"]


def test_a_sweep_is_its_trials(store, tmp_path):
    base = replace(EXPERIMENT, method=SMALL.format(2))
    trials = [
        replace(base, subjects=(subject,), layout=layout)
        for subject in ("1", "2")
        for layout in ("spread:8", "spread:6")
    ]
    folders = train_sweep(trials, store, tmp_path / "all")
    assert [f.name for f in folders] == [
        "subjects-1_layout-spread-8",
        "subjects-1_layout-spread-6",
        "subjects-2_layout-spread-8",
        "subjects-2_layout-spread-6",
    ]
    train(trials[2], store.select(subjects=["2"]), tmp_path / "alone")
    equal(load(folders[2])[1], load(tmp_path / "alone")[1], 1e-3)
    # What is complete is left alone; what is missing is trained.
    before = [(f / "config.json").stat().st_mtime_ns for f in folders]
    assert train_sweep(trials, store, tmp_path / "all") == folders
    assert [(f / "config.json").stat().st_mtime_ns for f in folders] == before
    other = [replace(trials[0], seed=9), *trials[1:]]
    with pytest.raises(ConfigError, match="twice|exists"):
        train_sweep([other[0], trials[0], other[0]], store, tmp_path / "all")


def test_trials_are_named_by_what_varies():
    trials = [replace(EXPERIMENT, seed=seed, runs=("1", "2")) for seed in (0, 1)]
    assert trial_names(trials) == ["seed-0", "seed-1"]
    with pytest.raises(ConfigError, match="twice"):
        trial_names([EXPERIMENT, EXPERIMENT])
