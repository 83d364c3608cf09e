"""A training that is stopped goes on as if it had not been; a sweep trains all its trials."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import jax
import numpy as np
import pytest

from eegsr_jax import config
from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import prepare
from eegsr_jax.errors import ConfigError
from eegsr_jax.training import memory
from eegsr_jax.training.experiment import Experiment, trial_name
from eegsr_jax.training.run import load, load_card, train
from eegsr_jax.training.sweep import note_failure, train_sweep

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
from eegsr_jax.training.experiment import Experiment
from eegsr_jax.training.run import Path, train
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


def small(**changes):
    return replace(EXPERIMENT, **({"method": SMALL.format(2)} | changes))


def done(out, experiment):
    return (out / trial_name(experiment) / "checkpoints/params").exists()


def test_a_sweep_is_its_trials(store, tmp_path):
    trials = [
        small(subjects=(subject,), layout=layout)
        for subject in ("1", "2")
        for layout in ("spread:8", "spread:6")
    ]
    out, told = tmp_path / "all", []
    assert train_sweep(trials, store, out, then=lambda *trial: told.append(trial)) == {}
    folders = [out / trial_name(trial) for trial in trials]
    assert sorted(folder for _, folder in told) == sorted(folders)
    train(trials[2], store, tmp_path / "alone")
    equal(load(folders[2])[1], load(tmp_path / "alone")[1], 1e-3)
    assert load_card(folders[2]) == load_card(tmp_path / "alone")
    # What is complete is left alone; what is missing is trained.
    before = [(f / "config.json").stat().st_mtime_ns for f in folders]
    assert train_sweep([*trials, small(seed=9)], store, out) == {}
    assert [(f / "config.json").stat().st_mtime_ns for f in folders] == before
    assert done(out, small(seed=9))
    with pytest.raises(ConfigError, match=f"{trial_name(trials[0])} is there twice"):
        train_sweep([trials[1], trials[0], trials[0]], store, out)


def test_what_changes_no_number_changes_no_name():
    assert trial_name(EXPERIMENT) == trial_name(replace(EXPERIMENT, mesh="windows:2"))
    assert trial_name(EXPERIMENT) != trial_name(replace(EXPERIMENT, seed=6))


def test_a_trial_that_fails_fails_alone(store, tmp_path):
    good, out = small(seed=1), tmp_path / "out"
    wrong = {
        small(layout="spread:99"): "99",
        small(subjects=("7",)): "subject '?7'?",
        small(seed=2, method="emag_paper(samples=40,sfreq=80)"): "bound to windows of 40 samples",
    }
    failed = train_sweep([*wrong, good], store, out)
    assert done(out, good) and not any(done(out, trial) for trial in wrong)
    assert failed.keys() == {out / trial_name(trial) for trial in wrong}
    for trial, words in wrong.items():
        why = (out / "failed" / f"{trial_name(trial)}.txt").read_text()
        assert why.strip() == failed[out / trial_name(trial)]
        assert re.search(words, why), why
    # The reason goes when the trial has its result.
    note_failure(out, trial_name(good), "it was something else")
    assert train_sweep([good], store, out) == {}
    assert not (out / "failed" / f"{trial_name(good)}.txt").exists()


PACK = """
import sys
from eegsr_jax import config
from eegsr_jax.data.store import open_store
from eegsr_jax.training.experiment import Experiment
from eegsr_jax.training.run import Path
from eegsr_jax.training.sweep import train_sweep
trials = config.load_list(Experiment, sys.argv[2])
print(train_sweep(trials, open_store(sys.argv[1]), Path(sys.argv[3])))
"""


def test_a_stopped_pack_goes_on_to_the_same_bits(store, tmp_path):
    trials = [small(seed=seed, method=SMALL.format(60)) for seed in (1, 2)]
    (tmp_path / "trials.json").write_text(config.list_to_json(trials))
    words = [sys.executable, "-c", PACK, store.path, tmp_path / "trials.json", tmp_path / "out"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def lines():
        files = list(tmp_path.glob("out/packs/*/metrics.jsonl"))
        return files[0].read_text().splitlines() if files else []

    for _ in range(2400):
        if child.poll() is not None or len(lines()) > 3:
            break
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=60)
    assert child.returncode == 0 and "stopped, and saved" in said[1], said
    assert 3 < len(lines()) < 61 and not any(done(tmp_path / "out", trial) for trial in trials)
    shutil.copytree(tmp_path / "out", tmp_path / "turned")
    assert train_sweep(trials, store, tmp_path / "out") == {}
    assert train_sweep(trials, store, tmp_path / "whole") == {}
    # In another order it is another pack: no model goes on with the state of another.
    assert train_sweep(trials[::-1], store, tmp_path / "turned") == {}
    for trial in trials:
        name = trial_name(trial)
        equal(load(tmp_path / "out" / name)[1], load(tmp_path / "whole" / name)[1])
        equal(load(tmp_path / "turned" / name)[1], load(tmp_path / "whole" / name)[1], 1e-3)
    epochs = [json.loads(line)["epoch"] for line in lines()]
    assert epochs == list(range(61))
    assert not list(tmp_path.glob("out/packs/*/checkpoints"))


def test_a_pack_too_large_for_memory_is_cut(store, tmp_path, monkeypatch):
    trials = [small(seed=seed) for seed in range(5)]
    asked = []

    def free():
        asked.append(1)
        return 10_000 if len(asked) == 1 else 10**12

    monkeypatch.setattr(memory, "free_bytes", free)
    assert train_sweep(trials, store, tmp_path / "out") == {}
    assert all(done(tmp_path / "out", trial) for trial in trials)
    assert len(list((tmp_path / "out/packs").iterdir())) > 1  # groups that were trained
    whole = tmp_path / "whole"
    assert train_sweep(trials, store, whole) == {}
    for trial in trials:
        name = trial_name(trial)
        equal(load(tmp_path / "out" / name)[1], load(whole / name)[1], 1e-4)


def test_a_trial_that_another_process_holds_is_waited_for(store, tmp_path):
    trial, out = small(), tmp_path / "out"
    out.mkdir()
    hold = f"""
import fcntl, sys, time
file = open({str(out / ".lock")!r}, "ab")
fcntl.lockf(file, fcntl.LOCK_EX, 1, int({trial_name(trial)[:15]!r}, 16))
print("held", flush=True)
sys.stdin.read()
"""
    words = [sys.executable, "-c", hold]
    holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    worker = threading.Thread(target=train_sweep, args=([trial], store, out))
    worker.start()
    worker.join(3)
    assert worker.is_alive() and not done(out, trial)
    holder.communicate(b"")  # its lock goes with it
    worker.join(120)
    assert done(out, trial)
