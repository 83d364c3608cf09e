"""One `GradientStage` of many models: an epoch is one call, a scan over steps of all of them."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from eegsr_jax.data.pipeline import Order
from eegsr_jax.distributed import AXES, MODELS, WINDOWS, along, gathered, is_first, place
from eegsr_jax.errors import MethodError, error_of
from eegsr_jax.methods.base import GradientStage
from eegsr_jax.methods.moments import TRAIN, VALIDATE
from eegsr_jax.training.derived import derive
from eegsr_jax.training.gradient import (
    Progress,
    State,
    order_seed,
    refuse_not_finite,
    score,
    start,
    step,
)
from eegsr_jax.training.journal import Journal
from eegsr_jax.training.loop import nameless
from eegsr_jax.training.memory import fitting_program
from eegsr_jax.training.sharding import check_mesh, specs
from eegsr_jax.training.windows import Batch, Windows, filled, padded
from eegsr_jax.typing import PyTree


def train_stacked(
    stage: GradientStage, params, tasks, keys, mesh: Mesh | None, journal: Journal
) -> tuple[list[PyTree], list[MethodError | None]]:
    """Params of models that share a program, and what is wrong with some of them.

    Raises:
      MethodError: a mesh that does not fit.
      TooLargeError: the device has not enough memory for so many (of one model nothing is asked).
    """
    count = len(tasks)
    short = 0 if mesh is None else -count % mesh.shape.get(MODELS, 1)
    params, tasks, keys = ([*x, *x[-1:] * short] for x in (params, tasks, keys))  # fill the mesh
    if mesh is not None:
        check_mesh(stage, params[0], mesh, AXES)
    sets = list({id(task.windows): task.windows for task in tasks}.values())
    which = np.array([[w is task.windows for w in sets].index(True) for task in tasks])
    loaded = [w.load(TRAIN, stage.overlap) for w in sets]
    orders = [
        Order(len(loaded[w]), stage.batch_size, None, order_seed(key))
        for w, key in zip(which, keys, strict=True)
    ]
    per_epoch = tasks[0].windows.steps(stage.batch_size)
    data, steps = _stacked(loaded), per_epoch * stage.epochs
    own = [
        derive(stage, each, nameless(task.geometry), task.windows, key, Journal())
        for each, task, key in zip(params[:count], tasks, keys, strict=False)
    ]
    own += own[-1:] * short
    derived = _by_model(
        [x.train(np.arange(len(loaded[w]))) for x, w in zip(own, which, strict=True)]
    )
    given, where, key = _stack(params), _stack([nameless(t.geometry) for t in tasks]), _stack(keys)
    states = _stack([start(stage, each, steps) for each in params])
    sets_of: Any = jnp.asarray(which)

    def placed(*trees: PyTree) -> tuple[PyTree, ...]:
        if mesh is None:
            return trees
        return tuple(place(x, mesh, _specs(stage, x, mesh)) for x in trees)

    given, states = placed(given, states)
    if mesh is not None:
        where, key, sets_of = place((where, key, which), mesh, along(mesh, MODELS))
        derived = place(derived, mesh, along(mesh, MODELS))
        data = place(data, mesh, PartitionSpec())

    def rows_of(epoch: int) -> jax.Array:
        numbers = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        rows = np.stack([[order(n) for order in orders] for n in numbers])
        return jnp.asarray(rows) if mesh is None else place(rows, mesh, along(mesh, MODELS, 1))

    score_all = _validation(stage, sets, which, [x.validate for x in own], where, mesh)
    fixed = given, data, derived, sets_of
    arguments = states, *fixed, rows_of(0), key, where
    run = _compiled_epoch(stage, steps, mesh)
    if count > 1:
        run = fitting_program(run, *arguments)
    best, told = states.average, journal if is_first() else Journal()
    progress, done, wrong = [Progress()] * len(tasks), np.zeros(len(tasks), bool), [""] * len(tasks)
    first = 0  # epochs that are complete
    if (found := journal.resume(stage.name, (states, best))) is not None:
        (states, best), position = found
        states, best = placed(states, best)
        progress = [Progress(**each) for each in position["models"]]
        done, wrong = np.array(position["done"]), position["wrong"]
        first = position["progress"]["epoch"]
    else:
        scores = score_all(given)
        progress = [Progress(best_score=float(s)) for s in scores]
        before = float(np.mean(scores[:count]))
        told.epoch(stage.name, {"epoch": 0, "step": 0, "validate": before})
    begun = time.perf_counter()
    for epoch in range(first + 1, stage.epochs + 1):
        if done.all():
            break
        states, metrics = run(states, *fixed, rows_of(epoch - 1), key, where)
        metrics = gathered(metrics, mesh)
        scores = score_all(given | states.average)
        better = np.zeros(len(tasks), bool)
        for i, value in enumerate(scores):
            if not done[i]:  # alone, it would have ended
                proved = not math.isnan(progress[i].best_score)
                loss = float(metrics["loss"][i])
                error = error_of(refuse_not_finite, stage, epoch, loss, float(value), proved)
                progress[i], better[i] = progress[i].after(float(value), stage.min_delta)
                wrong[i] = str(error or "")
                done[i] = bool(error or stage.patience and progress[i].worse >= stage.patience)
        best = jax.tree.map(functools.partial(_where, better), states.average, best)
        pace = (time.perf_counter() - begun) / (epoch - first)
        told.epoch(
            stage.name,
            {"epoch": epoch, "step": epoch * per_epoch, "models": count}
            | {name: float(np.mean(x[:count])) for name, x in metrics.items()}
            | {
                "validate": float(np.mean(scores[:count])),
                "best_validate": float(np.mean([p.best_score for p in progress[:count]])),
                "best_epoch": int(np.median([p.best_epoch for p in progress[:count]])),
                "seconds_per_step": pace / per_epoch,
            },
            remaining=pace * (stage.epochs - epoch),
            of=stage.epochs,
        )
        if journal.due():
            models = [each._asdict() for each in progress]
            position = {"progress": {"epoch": epoch}, "models": models, "done": done.tolist()}
            journal.keep(stage.name, gathered((states, best), mesh), position | {"wrong": wrong})
    best = gathered(best, mesh)
    trained = [each | jax.tree.map(lambda x, i=i: x[i], best) for i, each in enumerate(params)]
    return trained[:count], [MethodError(text) if text else None for text in wrong[:count]]


def _specs(stage: GradientStage, tree: PyTree, mesh: Mesh) -> PyTree:
    """As `sharding.specs`, of stacked models."""
    return jax.tree.map(
        lambda own: PartitionSpec(*along(mesh, MODELS) or (None,), *own), specs(stage, tree, mesh)
    )


def _over_models(function, mesh: Mesh | None, in_specs, out_specs):
    """Each device of the axis "models" runs the function on its own models."""
    if mesh is None or MODELS not in mesh.axis_names:
        return jax.jit(function)
    spread = {"in_specs": in_specs, "out_specs": out_specs, "axis_names": {MODELS}}
    return jax.jit(jax.shard_map(function, mesh=mesh, **spread))


@functools.lru_cache(maxsize=64)
def _compiled_epoch(stage: GradientStage, steps: int, mesh: Mesh | None):
    def run(state, params, batch, key, geometry):
        return step(stage, steps, state, params, batch, key, geometry, mesh)

    def epoch(states: State, params, data, derived, which, rows, keys, where):
        def one(states, rows):
            batch = {"eeg": data[which[:, None], rows]}  # [model, batch, M, time]
            batch |= jax.vmap(lambda own, rows: jax.tree.map(lambda x: x[rows], own))(derived, rows)
            return jax.vmap(run)(states, params, batch, keys, where)

        states, metrics = jax.lax.scan(one, states, rows)
        return states, jax.tree.map(lambda x: x.mean(0), metrics)

    own, whole, second = PartitionSpec(MODELS), PartitionSpec(), PartitionSpec(None, MODELS)
    return _over_models(epoch, mesh, (own, own, whole, own, own, second, own, own), own)


def _validation(stage, sets: Sequence[Windows], which: np.ndarray, derived, where, mesh):
    """Stacked params -> the score of every model."""
    own = [w.load(VALIDATE) for w in sets]
    size, most = stage.batch_size, max(len(eeg) for eeg in own)
    every = [
        {"eeg": own[w], "part": np.full(len(own[w]), VALIDATE, np.int32)}
        | lookup(np.arange(len(own[w])))
        for w, lookup in zip(which, derived, strict=True)
    ]
    batches = []
    for begin in range(0, most, size):
        cut = [{name: x[begin : begin + size] for name, x in each.items()} for each in every]
        batches.append(_stack([padded(batch, size) for batch in cut]))
    if mesh is not None:
        rows = PartitionSpec(*along(mesh, MODELS) or (None,), *along(mesh, WINDOWS))
        batches = place(batches, mesh, rows)
    run = _compiled_scores(stage, mesh)

    def scores(params: PyTree) -> np.ndarray:
        if not batches:
            return np.full(len(which), np.nan)
        found = gathered([run(params, batch, where) for batch in batches], mesh)
        sums = np.sum([np.asarray(x, np.float64) for x in found], 0)
        with np.errstate(invalid="ignore"):
            return sums[:, 0] / sums[:, 1]

    return scores


@functools.lru_cache(maxsize=64)
def _compiled_scores(stage: GradientStage, mesh: Mesh | None):
    def run(params, batch, geometry):
        return score(stage, params, batch, geometry, mesh)

    own = PartitionSpec(MODELS)
    return _over_models(jax.vmap(run), mesh, own, own)


def _stacked(arrays: Iterable[np.ndarray]) -> jax.Array:
    """Arrays of several lengths along a new first axis; what fills them up is never drawn."""
    arrays = list(arrays)
    most = max(len(x) for x in arrays)
    return jnp.stack([filled(x, most) for x in arrays])


def _by_model(batches: Sequence[Batch]) -> dict[str, jax.Array]:
    """What is derived of each model's windows, `_stacked`."""
    return {name: _stacked(batch[name] for batch in batches) for name in batches[0]}


def _stack(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _where(chosen: np.ndarray, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(chosen.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)
