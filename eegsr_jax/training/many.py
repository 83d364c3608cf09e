"""Many models at once: subjects, layouts and seeds side by side in one compiled call.

The windows of all subjects lie on the device; an epoch is one call, which scans over steps that are
mapped over the models. Orders and keys are those of `fit` on each model alone. On a mesh each
device of its axis "models" has models of its own.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from eegsr_jax.data.pipeline import Order
from eegsr_jax.distributed import AXES, MODELS, WINDOWS, along, gathered, place
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import GradientStage, Method, MomentStage
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
from eegsr_jax.training.loop import (
    accumulate,
    initial,
    nameless,
    refuse_nan,
    refuse_twins,
    solve,
    stage_keys,
)
from eegsr_jax.training.sharding import check_mesh, specs
from eegsr_jax.training.windows import Batch, Windows, filled, padded
from eegsr_jax.typing import PyTree


class Task(NamedTuple):
    """One model to train; tasks that share `windows` share their pass and their memory."""

    geometry: Geometry
    windows: Windows
    key: jax.Array


def fit_many(
    method: Method,
    tasks: Sequence[Task],
    *,
    mesh: Mesh | None = None,
    journal: Journal | None = None,
) -> list[PyTree]:
    """Params of each task, as `training.loop.fit` would give them one by one.

    Models whose arrays have the same shapes and that take the same number of steps are trained in
    one compiled call; a layout of another size makes another group.

    Args:
      method: what to train.
      tasks: the models.
      mesh: with an axis "models", over which each group is spread, the last model filling it up;
        "windows" and "gaussians" may divide each model further, as in `fit`.
      journal: metrics, means over the models of a group.

    Raises:
      MethodError: see `fit`.
    """
    refuse_twins(method)
    journal = Journal() if journal is None or jax.process_index() else journal
    keys = [stage_keys(method, task.key) for task in tasks]
    params = [initial(method, t.geometry, k[0]) for t, k in zip(tasks, keys, strict=True)]
    for number, stage in enumerate(method.stages):
        own = [k[number + 1] for k in keys]
        if isinstance(stage, MomentStage):
            params = _moments(stage, params, tasks, shared=number == 0)
        else:
            params = _gradients(stage, params, tasks, own, mesh, journal)
        for each in params:
            refuse_nan(method, each)
    return params


def _moments(stage: MomentStage, params, tasks: Sequence[Task], shared: bool) -> list[PyTree]:
    """The sums of a first stage depend on the windows alone: one pass for all layouts."""
    passes, solved = {}, []
    for number, (each, task) in enumerate(zip(params, tasks, strict=True)):
        name = id(task.windows) if shared else number
        if name not in passes:
            passes[name] = accumulate(stage, each, task.geometry, task.windows())
        solved.append(solve(stage, each, passes[name], task.geometry))
    return solved


def _gradients(stage: GradientStage, params, tasks, keys, mesh, journal) -> list[PyTree]:
    groups: dict[Any, list[int]] = {}
    for number, (each, task) in enumerate(zip(params, tasks, strict=True)):
        shapes = tuple(np.shape(x) for x in jax.tree.leaves((each, nameless(task.geometry))))
        groups.setdefault((shapes, task.windows.steps(stage.batch_size)), []).append(number)
    out = list(params)
    for (_, per_epoch), members in groups.items():
        short = 0 if mesh is None else -len(members) % mesh.shape.get(MODELS, 1)
        models = members + members[-1:] * short
        trained = _train_group(
            stage,
            *([x[i] for i in models] for x in (params, tasks, keys)),
            count=len(members),
            per_epoch=per_epoch,
            mesh=mesh,
            journal=journal,
        )
        for number, each in zip(members, trained, strict=True):
            out[number] = each
    return out


def _train_group(
    stage, params, tasks, keys, *, count: int, per_epoch: int, mesh: Mesh | None, journal: Journal
) -> list[PyTree]:
    """Params of the first `count` models; those after them fill a mesh."""
    if mesh is not None:
        check_mesh(stage, params[0], mesh, AXES)
    sets = list({id(task.windows): task.windows for task in tasks}.values())
    which = np.array([[w is task.windows for w in sets].index(True) for task in tasks])
    loaded = [w.load(TRAIN, stage.overlap) for w in sets]
    orders = [
        Order(len(loaded[w]), stage.batch_size, None, order_seed(key))
        for w, key in zip(which, keys, strict=True)
    ]
    data, steps = _stacked(loaded), per_epoch * stage.epochs
    own = [
        derive(stage, each, nameless(task.geometry), task.windows, key, Journal())
        for each, task, key in zip(params[:count], tasks, keys, strict=False)
    ]
    own += own[-1:] * (len(tasks) - count)
    derived = _by_model(
        [x.train(np.arange(len(loaded[w]))) for x, w in zip(own, which, strict=True)]
    )
    given, where, key = _stack(params), _stack([nameless(t.geometry) for t in tasks]), _stack(keys)
    states = _stack([start(stage, each, steps) for each in params])
    sets_of = which
    if mesh is not None:
        given, states = (place(x, mesh, _specs(stage, x, mesh)) for x in (given, states))
        where, key, sets_of = place((where, key, which), mesh, along(mesh, MODELS))
        derived = place(derived, mesh, along(mesh, MODELS))
        data = place(data, mesh, PartitionSpec())
    score_all = _validation(stage, sets, which, [x.validate for x in own], where, mesh)
    scores = score_all(given)
    progress = [Progress(best_score=float(s)) for s in scores]
    best, done = states.average, np.zeros(len(tasks), bool)
    run, begun = _compiled_epoch(stage, steps, mesh), time.perf_counter()
    start_score = float(np.mean(scores[:count]))
    journal.epoch(stage.name, {"epoch": 0, "step": 0, "validate": start_score})
    for epoch in range(1, stage.epochs + 1):
        numbers = range((epoch - 1) * per_epoch, epoch * per_epoch)
        rows = np.stack([[order(n) for order in orders] for n in numbers])
        if mesh is not None:
            rows = place(rows, mesh, along(mesh, MODELS, 1))
        states, metrics = run(states, given, data, derived, sets_of, rows, key, where)
        metrics = gathered(metrics, mesh)
        scores = score_all(given | states.average)
        better = np.zeros(len(tasks), bool)
        for i, value in enumerate(scores):
            if not done[i]:  # alone, it would have ended
                proved = not math.isnan(progress[i].best_score)
                refuse_not_finite(stage, epoch, float(metrics["loss"][i]), float(value), proved)
                progress[i], better[i] = progress[i].after(float(value), stage.min_delta)
                done[i] = bool(stage.patience) and progress[i].worse >= stage.patience
        best = jax.tree.map(functools.partial(_where, better), states.average, best)
        pace = (time.perf_counter() - begun) / epoch
        journal.epoch(
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
        if done.all():
            break
    best = gathered(best, mesh)
    return [each | jax.tree.map(lambda x, i=i: x[i], best) for i, each in enumerate(params[:count])]


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
