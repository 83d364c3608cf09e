"""Run directories: what is trained is what is loaded, and damage is told in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from eegsr_jax import geometry as geo
from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.segments import Segment
from eegsr_jax.data.store import prepare
from eegsr_jax.errors import ChannelError, ConfigError, EEGSRError, SplitError
from eegsr_jax.methods import make, reconstruct
from eegsr_jax.training import run as runs
from eegsr_jax.training.experiment import Experiment
from eegsr_jax.training.loop import fit
from eegsr_jax.training.run import load, load_card, train
from eegsr_jax.training.windows import StoreWindows

NAMES = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()
OBSERVED = "Fp1 F7 Fz F8 C3 C4 O1 O2".split()
EXPERIMENT = Experiment(
    dataset="simulated",
    preprocessing=PREPROCESSING["none"],
    layout=",".join(OBSERVED),
    method="lagged_ridge(lags=2)",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """2 subjects, 20 s of 20 channels at 80 Hz."""
    dataset = datasets.load(
        "simulated", montage=NAMES, num_subjects=2, seconds=20.0, sfreq=80.0, num_sources=40
    )
    out = tmp_path_factory.mktemp("training") / "store"
    return prepare(dataset, out, PREPROCESSING["none"], progress=False)


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "deep" / "run"
    with jax.numpy_dtype_promotion("strict"):
        card = train(EXPERIMENT, store, out)
    return out, card


@pytest.fixture
def run(trained, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def test_the_folder_says_all_there_is_to_know(trained, store):
    out, card = trained
    assert sorted(p.name for p in out.iterdir()) == ["checkpoints", "config.json", "geometry.json"]
    assert [p.name for p in out.parent.iterdir()] == ["run"]  # nothing temporary is left
    assert load_card(out) == card
    assert card.experiment == EXPERIMENT
    assert (card.sfreq, card.reference) == (80.0, "native")
    assert card.recordings == ("sub-1_ses-1_run-1", "sub-2_ses-1_run-1")
    assert (card.citation, card.licence) == (store.citation, store.licence)
    assert out.stat().st_mode & 0o777 == 0o755


def test_loaded_is_what_was_trained(trained, store):
    method, params, where = load(trained[0])
    assert method.name == "lagged_ridge" and method.context == 2
    assert where.observed_names == tuple(OBSERVED) and where.target_names == tuple(NAMES)

    # Trained by hand: the last fifth of each subject sets the error bars.
    train, validate = (
        [Segment(r.key, start, stop) for r in store.recordings]
        for start, stop in ((0, 1280), (1280, 1600))
    )
    expected = fit(
        make("lagged_ridge", lags=2),
        where,
        StoreWindows(
            store=store,
            train=tuple(train),
            validate=tuple(validate),
            window=160,
            batch_size=32,
            channels=tuple(NAMES),
        ),
    )
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(params[name], array, err_msg=name)
        assert params[name].dtype == array.dtype

    x = store.read(store.recordings[0].key, 0, 160)[None]
    estimate = reconstruct(method, params, where, x[:, np.asarray(where.observed_index)])
    missing = np.setdiff1d(np.arange(20), where.observed_index)
    wrong = (np.asarray(estimate.mean) - x)[:, missing]
    assert (wrong**2).sum() < 0.5 * (x[:, missing] ** 2).sum()


@pytest.mark.parametrize("method", ["spherical_spline", "gaussian(lags=0)"])
def test_every_kind_of_params_comes_back(store, tmp_path, method):
    card = train(replace(EXPERIMENT, method=method), store, tmp_path / "run")
    found, params, where = load(tmp_path / "run")
    assert found.name == method.partition("(")[0] and card.experiment.method == method
    assert np.isfinite(jax.tree.leaves(params)[0]).all()
    plan = found.plan(params, where)
    mean, std = found.apply(plan, np.zeros((1, 8, 10), np.float32), None)
    assert mean.shape == std.shape == (1, 20, 10)


def test_an_existing_folder_is_refused_and_left_alone(store, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="run exists; choose another --workdir, or delete it"):
        train(EXPERIMENT, store, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layout": "Fz,Cz,Pz,Nowhere"}, ChannelError, "Nowhere not among the 20 channels"),
        ({"method": "ridge,lagged_ridge"}, ConfigError, "expected one method, found 2"),
        ({"method": "rigde"}, ConfigError, "did you mean ridge"),
        ({"window_seconds": 30.0}, SplitError, "no window of 2400 usable samples"),
        ({"validate": 0.0}, ConfigError, "validate=0.0: expected a share between 0 and 1"),
        ({"validate": 1.5}, ConfigError, "validate=1.5"),
        ({"validate": -0.5}, ConfigError, "validate=-0.5"),
    ],
)
def test_bad_experiments_leave_nothing(store, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        train(replace(EXPERIMENT, **change), store, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_while_writing_it_leaves_nothing(store, tmp_path, monkeypatch, fault):
    def fail(path, params):
        path.mkdir(parents=True)
        (path / "half").write_text("half")
        raise fault

    monkeypatch.setattr(runs, "save_params", fail)
    with pytest.raises(fault if isinstance(fault, type) else type(fault)):
        train(replace(EXPERIMENT, method="nearest"), store, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import open_store
from eegsr_jax.training import run
run.save_params = lambda path, params: os.kill(os.getpid(), 9)
store = open_store(sys.argv[1])
experiment = run.Experiment(method="nearest", layout="spread:8")
run.train(experiment, store, run.Path(sys.argv[2]))
"""


def test_killed_while_writing_it_leaves_no_run(store, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, store.path, tmp_path / "run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="run is no run directory: it has no config.json"):
        load(tmp_path / "run")
    train(replace(EXPERIMENT, method="nearest"), store, tmp_path / "run")  # nothing is in the way
    load(tmp_path / "run")


# ---------------------------------------------------------------------------------------- damage


def config_text(change):
    def damage(run: Path):
        file = run / "config.json"
        file.write_text(change(file.read_text()))

    return damage


def geometry_json(**changes):
    def damage(run: Path):
        file = run / "geometry.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return damage


DAMAGE = {
    "no config": (lambda run: (run / "config.json").unlink(), "is no run directory"),
    "half a config": (config_text(lambda t: t[: len(t) // 2]), "config.json: not valid JSON"),
    "no text": (
        lambda run: (run / "config.json").write_bytes(b"\xff\xfe\x00"),
        "config.json: .*can't decode",
    ),
    "unknown field": (
        config_text(lambda t: t.replace('"sfreq"', '"sfrek"')),
        "config.json: unknown field sfrek; did you mean sfreq",
    ),
    "wrong type": (
        config_text(lambda t: t.replace("80.0", '"fast"')),
        "config.json: sfreq: found 'fast', expected float",
    ),
    "unknown method": (config_text(lambda t: t.replace("lagged_ridge", "lost")), "'lost'"),
    "no geometry": (lambda run: (run / "geometry.json").unlink(), "geometry.json: cannot be read"),
    "an empty geometry": (
        lambda run: (run / "geometry.json").write_text(""),
        "geometry.json: cannot be read",
    ),
    "half a geometry": (
        lambda run: (run / "geometry.json").write_text('{"observed": [[0, 0, 1]]}'),
        "geometry.json: cannot be read.*observed_index",
    ),
    "no checkpoint": (
        lambda run: shutil.rmtree(run / "checkpoints"),
        "training has not finished",
    ),
    "an empty checkpoint": (
        lambda run: [p.write_bytes(b"") for p in (run / "checkpoints").rglob("*") if p.is_file()],
        "checkpoints/params: cannot be loaded as a checkpoint",
    ),
    "another method": (
        config_text(lambda t: t.replace("lagged_ridge(lags=2)", "nearest")),
        r"params: \['filters'\] is float32\[5, 20, 8\], expected no such entry; the checkpoint is "
        "of another method",
    ),
    "another number of lags": (
        config_text(lambda t: t.replace("lags=2", "lags=3")),
        r"params: \['filters'\] is float32\[5, 20, 8\], expected float32\[7, 20, 8\]",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_line_that_names_the_file(run, kind, capfd):
    damage, message = DAMAGE[kind]
    damage(run)
    with pytest.raises(EEGSRError, match=message) as caught:
        load(run)
    text = str(caught.value)
    assert str(run) in text or kind == "unknown method"
    assert "\n" not in text


def test_another_geometry_does_not_fit_the_checkpoint(run):
    file = run / "geometry.json"
    values = json.loads(file.read_text())
    for name in ("observed", "observed_index", "observed_names"):
        values[name] = values[name][:-1]
    file.write_text(json.dumps(values))
    geo.from_json(values)
    with pytest.raises(ConfigError, match=r"is float32\[5, 20, 8\], expected float32\[5, 20, 7\]"):
        load(run)
