"""Many models in one compiled call are what each would be alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eegsr_jax.errors import MethodError
from eegsr_jax.geometry import make_geometry, montage
from eegsr_jax.methods import GradientStage, Method, MomentStage
from eegsr_jax.methods.base import linear_apply
from eegsr_jax.training.journal import Journal
from eegsr_jax.training.loop import fit
from eegsr_jax.training.many import Task, fit_groups, fit_many
from eegsr_jax.training.windows import MemoryWindows

NAMES = "Fp1 Fp2 F3 Fz F4 C3 Cz C4 P3 Pz P4 Oz".split()
LAYOUTS = "Fp1 C3 C4 Pz Oz".split(), "Fp2 F3 C4 P3 Oz".split(), "Fp2 F3 Fz C4 P3 P4".split()
PASSES = []


def power(params, sums, batch, geometry):
    kept = (batch["part"] >= 0)[:, None, None]
    return sums + jnp.sum(jnp.where(kept, batch["eeg"], 0.0) ** 2)


def error(params, eeg, geometry):
    given = jnp.tanh(eeg[:, geometry.observed_index] / params["scale"])
    return jnp.einsum("ml,blt->bmt", params["map"], given) - eeg / params["scale"]


def loss(params, batch, geometry):
    noise = jax.vmap(lambda k: jax.random.normal(k, batch["eeg"].shape[1:]))(batch["key"])
    return jnp.mean((error(params, batch["eeg"], geometry) + 0.01 * noise) ** 2), {}


def score(params, batch, geometry):
    kept = (batch["part"] >= 0)[:, None, None]
    wrong = error(params, batch["eeg"], geometry) * params["scale"]
    return jnp.stack([jnp.sum(jnp.where(kept, x, 0.0) ** 2) for x in (wrong, batch["eeg"])])


def init(key, geometry, window):
    shape = geometry.target.shape[0], geometry.observed.shape[0]
    return {"map": 0.1 * jax.random.normal(key, shape), "scale": jnp.ones(())}


STAGES = (
    MomentStage(
        lambda params, geometry: jnp.zeros(()),
        power,
        lambda params, sums, geometry: params | {"scale": jnp.sqrt(sums / 3000)},
    ),
    GradientStage(
        name="map",
        loss=loss,
        score=score,
        trainable=("map",),
        optimizer=lambda steps: optax.adam(optax.cosine_decay_schedule(0.02, steps)),
        epochs=6,
        batch_size=4,
        patience=2,
        min_delta=0.01,
        average=0.9,
    ),
)
METHOD = Method("toy", init, STAGES, lambda params, geometry: params, linear_apply)


def subject(seed, count):
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((12, 5))
    eeg = np.einsum("cs,wst->wct", mixing, generator.standard_normal((count, 5, 16)))
    part = (np.arange(count) >= count - 5).astype(np.int32)
    windows = MemoryWindows(lambda: [{"eeg": eeg.astype(np.float32), "part": part}])
    return Counted(windows, seed)


class Counted:
    """Windows that count the passes over them."""

    def __init__(self, windows, name):
        self.name = name
        self.steps, self.shuffled, self.load = windows.steps, windows.shuffled, windows.load
        self.recorded = windows.recorded
        self.windows = windows

    def __call__(self):
        PASSES.append(self.name)
        return self.windows()


@pytest.fixture(scope="module")
def tasks():
    positions = {n: xyz for n, xyz in montage("standard_1005").items() if n in NAMES}
    where = [make_geometry(observed, NAMES, positions) for observed in LAYOUTS]
    people = subject(0, 16), subject(1, 15), subject(2, 24)  # the last takes more steps an epoch
    return [
        Task(geometry, windows, jax.random.key(seed))
        for windows in people
        for geometry in where
        for seed in ((0, 1) if windows is people[0] else (0,))
    ]


class Groups(Journal):
    number = 0

    def epoch(self, stage, numbers, remaining=0.0, of=0):
        self.number += numbers["epoch"] == 0


def test_many_are_each_alone(tasks):
    journal = Groups()
    PASSES.clear()
    together = fit_many(METHOD, tasks, journal=journal)
    assert PASSES == [0, 1, 2]  # one for each subject, whatever the layout
    assert journal.number == 4  # layouts of 5 and of 6 inputs, and the subject with more steps
    for task, params in zip(tasks, together, strict=True):
        alone = fit(METHOD, task.geometry, task.windows, key=jax.random.clone(task.key))
        for name in alone:
            np.testing.assert_allclose(params[name], alone[name], rtol=1e-5, atol=1e-6)
    assert np.abs(together[0]["map"] - together[1]["map"]).max() > 1e-3  # two seeds


def test_a_model_that_is_not_finite_fails_alone(tasks):
    eeg = np.array(tasks[0].windows.load(0))
    spoilt = np.where(np.arange(eeg.size).reshape(eeg.shape) == 77, np.nan, eeg)
    part = np.repeat([0, 1], [len(eeg) - 3, 3]).astype(np.int32)
    wrong, right = (MemoryWindows(lambda x=x: [{"eeg": x, "part": part}]) for x in (spoilt, eeg))
    three = [
        tasks[0]._replace(windows=windows, key=jax.random.key(seed))
        for seed, windows in enumerate((right, wrong, right))
    ]
    ((members, found),) = fit_groups(METHOD, three, journal_of=lambda members: Journal())
    assert members == [0, 1, 2] and isinstance(found[1], MethodError)
    assert "expected finite numbers" in str(found[1])
    for number in (0, 2):
        alone = fit(METHOD, three[number].geometry, right, key=jax.random.key(number))
        np.testing.assert_allclose(found[number]["map"], alone["map"], rtol=1e-5, atol=1e-6)
    with pytest.raises(MethodError, match="expected finite numbers"):
        fit_many(METHOD, [t._replace(key=jax.random.key(9)) for t in three])


def test_without_validation_windows_the_last_epoch_is_kept(tasks):
    eeg = tasks[0].windows.load(0)
    alone = MemoryWindows(lambda: [{"eeg": eeg, "part": np.zeros(len(eeg), np.int32)}])
    task = tasks[0]._replace(windows=alone, key=jax.random.clone(tasks[0].key))
    (found,) = fit_many(METHOD, [task])
    expected = fit(METHOD, task.geometry, alone, key=jax.random.clone(task.key))
    np.testing.assert_allclose(found["map"], expected["map"], rtol=1e-5, atol=1e-6)
