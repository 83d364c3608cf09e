"""A run of several stages that is stopped, wherever it is, goes on as if it had not been."""

from __future__ import annotations

import functools
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eegsr_jax import methods
from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import prepare
from eegsr_jax.errors import ConfigError, MethodError
from eegsr_jax.geometry import make_geometry, montage
from eegsr_jax.methods import GradientStage, Method, MomentStage
from eegsr_jax.methods.base import linear_apply
from eegsr_jax.training.experiment import Experiment
from eegsr_jax.training.journal import RunJournal, Stopped
from eegsr_jax.training.loop import fit
from eegsr_jax.training.many import Task, fit_many
from eegsr_jax.training.run import load, train
from eegsr_jax.training.windows import MemoryWindows, StoreWindows

NAMES = "Fp1 Fp2 F3 Fz F4 C3 Cz C4 P3 Pz P4 Oz".split()
OBSERVED = "Fp1 C3 C4 Pz Oz".split()
EPOCHS = {"map": 3, "bend": 4}
EXPERIMENT = Experiment(
    dataset="simulated",
    preprocessing=PREPROCESSING["none"],
    layout=",".join(OBSERVED),
    method="four_stages",
    window_seconds=0.5,
    checkpoint_seconds=1e9,
    seed=5,
)


# ------------------------------------------------- a method of two closed forms and two descents


def moments(name, value):
    """Fits `params[name]` to the root mean square of something in the training windows."""

    def update(params, sums, batch, geometry):
        kept = (batch["part"] == 0)[:, None, None]
        square = jnp.where(kept, value(params, batch["eeg"], geometry), 0.0) ** 2
        count = jnp.sum(kept, dtype=jnp.float32) * square[0].size
        return sums + jnp.stack([jnp.sum(square), count])

    def solve(params, sums, geometry):
        return params | {name: jnp.sqrt(sums[0] / sums[1])}

    return MomentStage(lambda params, geometry: jnp.zeros(2), update, solve)


def seen(params, eeg, geometry):
    return eeg[:, geometry.observed_index] / params["scale"]


def mapped(params, given):
    return jnp.einsum("ml,blt->bmt", params["map"], given)


def residual(params, eeg, geometry):
    return eeg / params["scale"] - mapped(params, seen(params, eeg, geometry))


def descent(name, predict, derive=None):
    def loss(params, batch, geometry):
        noise = jax.vmap(lambda key: jax.random.normal(key, batch["eeg"].shape[1:]))(batch["key"])
        error = predict(params, batch, geometry) - batch["eeg"] / params["scale"]
        return jnp.mean((error + 0.01 * noise) ** 2), {}

    def score(params, batch, geometry):
        kept = (batch["part"] >= 0)[:, None, None]
        truth = batch["eeg"] / params["scale"]
        both = (predict(params, batch, geometry) - truth, truth)
        return jnp.stack([jnp.sum(jnp.where(kept, x, 0.0) ** 2) for x in both])

    return GradientStage(
        name=name,
        loss=loss,
        score=score,
        trainable=(name,),
        optimizer=lambda steps: optax.adam(0.02),
        epochs=EPOCHS[name],
        batch_size=8,
        average=0.9,
        derive=derive,
    )


def bent(params, batch, geometry):
    given = jnp.tanh(batch["mapped"] / params["rest"])
    return batch["mapped"] + jnp.einsum("nm,bmt->bnt", params["bend"], given)


def init(key, geometry, window):
    shape = geometry.target.shape[0], geometry.observed.shape[0]
    return {
        "scale": jnp.ones(()),
        "map": 0.1 * jax.random.normal(key, shape),
        "rest": jnp.ones(()),
        "bend": jnp.zeros((shape[0],) * 2),
    }


STAGES = (
    moments("scale", lambda params, eeg, geometry: eeg),
    descent("map", lambda p, batch, geometry: mapped(p, seen(p, batch["eeg"], geometry))),
    moments("rest", residual),
    descent(
        "bend",
        bent,
        derive=lambda p, batch, geometry: {"mapped": mapped(p, seen(p, batch["eeg"], geometry))},
    ),
)


@functools.cache  # so that its programs are compiled once
def four_stages() -> Method:
    """Two closed forms and two descents by turns."""
    return Method("four_stages", init, STAGES, lambda params, where: params, linear_apply)


# ---------------------------------------------------------------------------------------- the runs


@pytest.fixture(scope="module", autouse=True)
def _registered():
    methods.METHODS["four_stages"] = four_stages
    yield
    del methods.METHODS["four_stages"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """2 subjects, 20 s of 12 channels at 80 Hz."""
    dataset = datasets.load(
        "simulated", montage=NAMES, num_subjects=2, seconds=20.0, sfreq=80.0, num_sources=40
    )
    out = tmp_path_factory.mktemp("stages") / "store"
    return prepare(dataset, out, PREPROCESSING["none"], progress=False)


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    with jax.numpy_dtype_promotion("strict"):
        train(EXPERIMENT, store, out)
    return out


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds_per_step"} for line in lines]


class Killed(Exception):
    """Stands for the end of the process."""


def ask():
    signal.raise_signal(signal.SIGTERM)


def kill():
    raise Killed


def at_epoch(monkeypatch, stage, epoch, end):
    """Ends the run when an epoch of a stage has been told."""
    tell = RunJournal.epoch

    def told(self, name, numbers, *rest, **others):
        tell(self, name, numbers, *rest, **others)
        if (name, numbers["epoch"]) == (stage, epoch):
            end()

    monkeypatch.setattr(RunJournal, "epoch", told)


def at_pass(monkeypatch, number, end):
    """Ends the run in the middle of a pass over the windows: one for each closed form."""
    read, passes = StoreWindows.__call__, []

    def batches(self):
        passes.append(True)
        for place, batch in enumerate(read(self)):
            if (len(passes), place) == (number, 1):
                end()
            yield batch

    monkeypatch.setattr(StoreWindows, "__call__", batches)


STOPS = {
    # where: how, what is then in checkpoints/progress, and which stages take steps afterwards
    "in the first form": ((at_pass, 1, ask), {"within"}, {"map", "bend"}),
    "in the first descent": ((at_epoch, "map", 1, ask), {"within"}, {"map", "bend"}),
    "at the end of it": ((at_epoch, "map", 3, ask), {"stages"}, {"bend"}),
    "in the second form": ((at_pass, 2, ask), {"stages"}, {"bend"}),
    "killed in the second form": ((at_pass, 2, kill), {"stages"}, {"bend"}),
    "in the second descent": (
        (at_epoch, "bend", 2, ask),
        {"stages", "within", "derived"},
        {"bend"},
    ),
    "killed in the second descent": (
        (at_epoch, "bend", 2, kill),
        {"stages", "derived"},
        {"bend"},
    ),
}


@pytest.mark.parametrize("where", STOPS)
def test_stopped_in_any_stage_it_goes_on_to_the_same_bits(
    where, store, whole, tmp_path, monkeypatch
):
    (place, *options), kept, left = STOPS[where]
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        place(patched, *options)
        with pytest.raises(Stopped if options[-1] is ask else Killed):
            train(EXPERIMENT, store, out)
    assert {p.name for p in (out / "checkpoints/progress").iterdir()} == kept
    with pytest.raises(ConfigError, match="training has not finished"):
        load(out)
    files = {p: p.stat().st_mtime_ns for p in out.glob("checkpoints/progress/derived/*")}
    assert len(files) == (4 if "derived" in kept else 0)  # recordings, each cut in two

    told, seen_later = RunJournal.epoch, {}

    def later(self, name, numbers, *rest, **others):
        found = {p: p.stat().st_mtime_ns for p in out.glob("checkpoints/progress/derived/*")}
        seen_later[name] = found
        told(self, name, numbers, *rest, **others)

    monkeypatch.setattr(RunJournal, "epoch", later)
    train(EXPERIMENT, store, out)
    assert set(seen_later) == left
    assert len(seen_later["bend"]) == 4 and (not files or seen_later["bend"] == files)
    found, expected = load(out)[1], load(whole)[1]
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)
    assert metrics(out) == metrics(whole)
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["params"]


def test_the_stages_learn(whole):
    """Else all would be the same whatever was resumed."""
    last = {line["stage"]: line for line in metrics(whole)}
    first = {line["stage"]: line for line in reversed(metrics(whole))}
    assert list(last) == ["map", "bend"]
    for stage, epochs in EPOCHS.items():
        assert last[stage]["epoch"] == epochs
        assert last[stage]["best_validate"] < 0.99 * first[stage]["validate"]
    params = load(whole)[1]
    assert 0 < params["rest"] < 1 and 0 < params["scale"] < 1e-3


def test_a_closed_form_keeps_nothing(store, tmp_path, monkeypatch):
    """It makes no folder before it is complete."""

    def read(self):
        kill()
        yield

    monkeypatch.setattr(StoreWindows, "__call__", read)
    with pytest.raises(Killed):
        train(EXPERIMENT, store, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_two_stages_of_one_name_are_refused():
    positions = {n: xyz for n, xyz in montage("standard_1005").items() if n in NAMES}
    where = make_geometry(OBSERVED, NAMES, positions)
    twice = four_stages()._replace(stages=(*STAGES, STAGES[1]))
    batch = {"eeg": np.ones((4, 12, 8), np.float32), "part": np.zeros(4, np.int32)}
    windows = MemoryWindows(lambda: [batch])
    for run in (
        lambda: fit(twice, where, windows),
        lambda: fit_many(twice, [Task(where, windows, jax.random.key(0))]),
    ):
        with pytest.raises(MethodError, match="four_stages: 2 stages are called 'map'; give each"):
            run()
