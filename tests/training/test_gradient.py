"""Gradient stages: they learn, stop, average; resume to the bit; and run on any mesh alike."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from eegsr_jax.errors import MethodError
from eegsr_jax.geometry import make_geometry, montage
from eegsr_jax.methods import GradientStage
from eegsr_jax.training.gradient import train_stage
from eegsr_jax.training.journal import Journal, RunJournal, Stopped
from eegsr_jax.training.loop import nameless
from eegsr_jax.training.windows import MemoryWindows

NAMES = "Fp1 Fp2 F3 Fz F4 C3 Cz C4 P3 Pz P4 Oz".split()
OBSERVED = "Fp1 C3 C4 Pz Oz".split()
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def geometry():
    positions = {n: xyz for n, xyz in montage("standard_1005").items() if n in NAMES}
    return nameless(make_geometry(OBSERVED, NAMES, positions))


@pytest.fixture(scope="module")
def windows():
    """Eleven training windows and five validation windows of five sources in twelve channels."""
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((12, 5))
    eeg = np.einsum("cs,wst->wct", mixing, generator.standard_normal((16, 5, 16)))
    part = (np.arange(16) >= 11).astype(np.int32)
    return MemoryWindows(lambda: [{"eeg": eeg.astype(np.float32), "part": part}])


def predict(params, eeg, geometry):
    return jnp.einsum(
        "ml,blt->bmt", params["map"] * params["fixed"], eeg[:, geometry.observed_index]
    )


def loss(params, batch, geometry):
    noise = jax.vmap(lambda k: jax.random.normal(k, batch["eeg"].shape[1:]))(batch["key"])
    error = predict(params, batch["eeg"], geometry) - batch["eeg"] + 0.01 * noise
    return jnp.mean(error**2), {"worst": jnp.max(jnp.abs(params["map"]))}


def score(params, batch, geometry):
    kept = (batch["part"] >= 0)[:, None, None]
    error = predict(params, batch["eeg"], geometry) - batch["eeg"]
    sums = [jnp.sum(jnp.where(kept, x, 0.0) ** 2) for x in (error, batch["eeg"])]
    return jnp.stack(sums)


def adam(rate, steps):
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


STAGE = GradientStage(
    name="map",
    loss=loss,
    score=score,
    trainable=("map",),
    optimizer=functools.partial(adam, 0.05),
    epochs=12,
    batch_size=4,
    average=0.9,
)
PARAMS = {"map": jnp.zeros((12, 5)), "fixed": jnp.ones(())}


class Notes(Journal):
    """Remembers what it is told; keeps checkpoints in memory, and stops at a step if asked to."""

    def __init__(self, stop_at=None, kept=None):
        self.epochs, self.steps, self.stop_at, self.kept = [], 0, stop_at, kept

    def epoch(self, stage, numbers, remaining=0.0, of=0):
        assert remaining >= 0
        self.epochs.append(numbers)

    def due(self):
        self.steps += 1
        return self.steps == self.stop_at

    def keep(self, stage, state, position):
        self.kept = stage, jax.tree.map(np.asarray, state), position
        raise Stopped()

    def resume(self, stage, like):
        if self.kept is None:
            return None
        assert jax.tree.structure(like) == jax.tree.structure(self.kept[1])
        return self.kept[1:]


def train(windows, geometry, stage=STAGE, **options):
    return train_stage(stage, PARAMS, geometry, windows, KEY, **options)


@pytest.fixture(scope="module")
def trained(windows, geometry):
    notes = Notes()
    with jax.numpy_dtype_promotion("strict"):
        return train(windows, geometry, journal=notes), notes


def test_it_learns_what_is_trainable_and_nothing_else(trained, windows, geometry):
    params, notes = trained
    np.testing.assert_array_equal(params["fixed"], 1)
    first, *_, last = notes.epochs
    assert first == {"epoch": 0, "step": 0, "validate": pytest.approx(1.0)}
    assert last["epoch"] == 12 and last["step"] == 36  # 11 windows are 3 batches of 4
    assert last["validate"] < 0.2 and last["loss"] < notes.epochs[1]["loss"]
    assert {"worst", "gradient_norm", "best_validate", "best_epoch"} <= set(last)
    eeg = windows.load(1)
    part = np.ones(len(eeg), np.int32)
    error, power = score(params, {"eeg": jnp.asarray(eeg), "part": part}, geometry)
    assert float(error / power) == pytest.approx(last["best_validate"], rel=1e-5)


def test_the_same_key_gives_the_same_and_another_key_another(trained, windows, geometry):
    again = train(windows, geometry)
    np.testing.assert_array_equal(again["map"], trained[0]["map"])
    other = train_stage(STAGE, PARAMS, geometry, windows, jax.random.key(4))
    assert np.abs(other["map"] - again["map"]).max() > 1e-4


@pytest.mark.parametrize("stop_at", [1, 3, 17, 35])
def test_stopped_and_resumed_it_is_the_same_to_the_bit(trained, windows, geometry, stop_at):
    first = Notes(stop_at)
    with pytest.raises(SystemExit) as stopped:
        train(windows, geometry, journal=first)
    assert stopped.value.code == 0
    second = Notes(kept=first.kept)
    params = train(windows, geometry, journal=second)
    np.testing.assert_array_equal(params["map"], trained[0]["map"])
    told = [*first.epochs, *second.epochs]
    for found, expected in zip(told, trained[1].epochs, strict=True):
        for numbers in (found, expected):
            numbers.pop("seconds_per_step", None)
        assert found == expected


def test_the_best_epoch_is_kept_and_patience_ends_it(windows, geometry):
    # So large a step that it gets worse from the start: the start is the best.
    wild = STAGE._replace(optimizer=functools.partial(adam, 30.0), patience=3)
    notes = Notes()
    params = train(windows, geometry, wild, journal=notes)
    np.testing.assert_array_equal(params["map"], 0)
    assert [n["epoch"] for n in notes.epochs] == [0, 1, 2, 3]
    assert notes.epochs[-1]["best_epoch"] == 0
    unmoved = STAGE._replace(patience=1, min_delta=2.0)  # no score falls by as much
    np.testing.assert_array_equal(train(windows, geometry, unmoved)["map"], 0)


def test_without_validation_windows_the_last_epoch_is_kept(windows, geometry):
    eeg = windows.load(0)
    alone = MemoryWindows(lambda: [{"eeg": eeg, "part": np.zeros(len(eeg), np.int32)}])
    notes = Notes()
    params = train(alone, geometry, journal=notes)
    assert math.isnan(notes.epochs[-1]["validate"])
    assert np.abs(params["map"]).max() > 0.1


def test_the_average_is_of_the_params(windows, geometry):
    plain = train(windows, geometry, STAGE._replace(average=0.0))
    assert np.abs(plain["map"] - train(windows, geometry)["map"]).max() > 1e-4


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_eight_devices_are_one(windows, geometry, axis_type):
    stage = STAGE._replace(batch_size=8, epochs=3)
    alone = train(windows, geometry, stage)
    mesh = jax.make_mesh((8,), ("windows",), axis_types=(axis_type,))
    spread = train(windows, geometry, stage, mesh=mesh)
    np.testing.assert_allclose(spread["map"], alone["map"], rtol=0, atol=2e-6)
    first = Notes(stop_at=3)
    with pytest.raises(SystemExit):
        train(windows, geometry, stage, mesh=mesh, journal=first)
    resumed = train(windows, geometry, stage, mesh=mesh, journal=Notes(kept=first.kept))
    np.testing.assert_array_equal(resumed["map"], spread["map"])


def test_a_batch_that_does_not_divide_is_refused(windows, geometry):
    mesh = jax.make_mesh((8,), ("windows",), axis_types=(AxisType.Auto,))
    with pytest.raises(MethodError, match="batch of 4 windows does not divide among 8 devices"):
        train(windows, geometry, mesh=mesh)


def test_nothing_to_train_on_and_numbers_that_are_not_finite_are_refused(windows, geometry):
    eeg = windows.load(1)
    with pytest.raises(MethodError, match="map: there are no training windows"):
        train(MemoryWindows(lambda: [{"eeg": eeg, "part": np.ones(5, np.int32)}]), geometry)
    with pytest.raises(MethodError, match="there are no windows"):
        MemoryWindows(list)
    broken = windows.load(0).copy()
    broken[0, 0, 0] = np.nan
    part = np.zeros(len(broken), np.int32)
    with pytest.raises(MethodError, match="map: epoch 1 has loss nan.*lower the learning rate"):
        train(MemoryWindows(lambda: [{"eeg": broken, "part": part}]), geometry)


def test_a_run_directory_keeps_metrics_and_checkpoints(windows, geometry, trained, tmp_path):
    said = []

    def journal():
        return RunJournal(tmp_path, open_folder=lambda: None, every=0.0, say=said.append)

    class Killed(Exception):
        pass

    first = journal()
    told = first.epoch

    def kill(stage, numbers, **rest):  # after the checkpoint of the last step of epoch 6
        if numbers["epoch"] == 6:
            raise Killed
        told(stage, numbers, **rest)

    first.epoch = kill
    with pytest.raises(Killed):
        train(windows, geometry, journal=first)
    params = train(windows, geometry, journal=journal())
    np.testing.assert_array_equal(params["map"], trained[0]["map"])
    import json

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(13))
    assert all(line["stage"] == "map" for line in lines)
    assert "map: epoch 12/12" in said[-1] and "ETA 0:00" in said[-1]
    assert any("resumed" in line for line in said)
