"""One `GradientStage`: steps, validation, early stopping, averaged params; resumed to the bit."""

from __future__ import annotations

import functools
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eegsr_jax.data.pipeline import device_prefetch
from eegsr_jax.distributed import (
    GAUSSIANS,
    WINDOWS,
    along,
    gathered,
    is_first,
    place,
    shard_map,
    spread,
)
from eegsr_jax.errors import MethodError
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import GradientStage
from eegsr_jax.methods.moments import VALIDATE
from eegsr_jax.training.derived import Lookup, blank, derive
from eegsr_jax.training.journal import Journal
from eegsr_jax.training.sharding import check_mesh, specs
from eegsr_jax.training.windows import Batch, Windows, padded
from eegsr_jax.typing import PyTree


class State(NamedTuple):
    """What a step changes.

    Attributes:
      params: the trainable entries.
      average: their running average, or `params` again where none is kept.
      optimizer: its memory.
      step: int32, steps taken.
    """

    params: PyTree
    average: PyTree
    optimizer: PyTree
    step: jax.Array


class Progress(NamedTuple):
    """What an epoch changes, on the host.

    Attributes:
      epoch: how many are complete.
      best_score, best_epoch: of the params to keep.
      worse: epochs since then.
    """

    epoch: int = 0
    best_score: float = math.inf
    best_epoch: int = 0
    worse: int = 0

    def after(self, score: float, min_delta: float) -> tuple[Progress, bool]:
        """The progress one epoch on, and whether its params are the ones to keep.

        Without validation windows the score is NaN, and the last epoch is kept.
        """
        epoch = self.epoch + 1
        if score < self.best_score - min_delta or math.isnan(score):
            return Progress(epoch, score, epoch, 0), True
        return self._replace(epoch=epoch, worse=self.worse + 1), False


def start(stage: GradientStage, params: PyTree, steps: int) -> State:
    """The state before the first of `steps` steps."""
    own = {name: params[name] for name in stage.trainable}
    optimizer = stage.optimizer(steps).init(own)
    return State(own, own, optimizer, jnp.zeros((), jnp.int32))


def step(
    stage: GradientStage,
    steps: int,
    state: State,
    params: PyTree,
    batch: dict[str, jax.Array],
    key: jax.Array,
    geometry: Geometry,
    mesh: Mesh | None = None,
) -> tuple[State, dict[str, jax.Array]]:
    """One step and its metrics. `batch` is the loss's but for the keys; `key` is the stage's.

    Pure; to be jitted. On a mesh the batch is spread over its axis "windows", and what has points
    over "gaussians".
    """
    frozen = {name: x for name, x in params.items() if name not in stage.trainable}

    axes = _axes(mesh)

    def loss(own, frozen, batch, key, geometry):
        share = jax.lax.axis_index(WINDOWS) if WINDOWS in axes else 0
        keys = _keys(key, batch["eeg"].shape[0], share)
        value, metrics = stage.loss(frozen | own, batch | {"key": keys}, geometry)
        found = {"loss": value} | metrics
        for axis in axes:  # means over windows and over points: of equal shares, see `check_mesh`
            found = {name: jax.lax.pmean(x, axis) for name, x in found.items()}
        return found["loss"], found

    slope: Any = jax.grad(loss, has_aux=True)
    if mesh is not None and axes:
        same, own = PartitionSpec(), specs(stage, state.params, mesh)
        given = own, specs(stage, frozen, mesh), along(mesh, WINDOWS), same, same
        slope = shard_map(slope, mesh, given, (own, same))
    own_key = jax.random.fold_in(key, state.step)
    gradients, metrics = slope(state.params, frozen, batch, own_key, geometry)
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies int32 counts and float32
        updates, optimizer = stage.optimizer(steps).update(gradients, state.optimizer, state.params)
        own = optax.apply_updates(state.params, updates)
    average = own
    if stage.average:
        # From the first step on an average, not one with the start: early steps weigh less.
        count = state.step.astype(jnp.float32) + 1
        decay = jnp.minimum(stage.average, count / (count + 9))
        average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), state.average, own)
    metrics = metrics | {"gradient_norm": optax.tree.norm(gradients)}
    return State(own, average, optimizer, state.step + 1), metrics


def score(
    stage: GradientStage,
    params: PyTree,
    batch: dict[str, jax.Array],
    geometry: Geometry,
    mesh: Mesh | None = None,
) -> jax.Array:
    """`stage.score` of a batch, which on a mesh is spread as in `step`."""
    if mesh is None or not _axes(mesh):
        return stage.score(params, batch, geometry)

    def share(params, batch, geometry):
        sums = stage.score(params, batch, geometry)
        return jax.lax.psum(sums, WINDOWS) if WINDOWS in mesh.axis_names else sums

    given = specs(stage, params, mesh), along(mesh, WINDOWS), PartitionSpec()
    return shard_map(share, mesh, given, PartitionSpec())(params, batch, geometry)


def _axes(mesh: Mesh | None) -> tuple[str, ...]:
    """Those that one model is spread over."""
    return tuple(a for a in (WINDOWS, GAUSSIANS) if mesh is not None and a in mesh.axis_names)


def order_seed(key: jax.Array) -> int:
    """What the order of the windows is drawn from."""
    return int(jax.random.bits(jax.random.fold_in(key, 2**31), dtype=jnp.uint16))


def _keys(key: jax.Array, size: int, share: jax.Array | int) -> jax.Array:
    """`[size]`, one for each window of a share of a batch: the same however many shares."""
    numbers = jnp.arange(size, dtype=jnp.uint32) + jnp.uint32(size) * jnp.asarray(share, jnp.uint32)
    return jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)


def train_stage(
    stage: GradientStage,
    params: PyTree,
    geometry: Geometry,
    windows: Windows,
    key: jax.Array,
    *,
    mesh: Mesh | None = None,
    journal: Journal | None = None,
) -> PyTree:
    """Params after the stage.

    Args:
      stage: what to train.
      params: of the method.
      geometry: without names (see `loop.nameless`).
      windows: what to train and validate on.
      key: seeds the order of the windows and what the loss draws.
      mesh: with an axis "windows", over which each batch is spread, or "gaussians", over which
        what has points is, or both. All else is on all devices. With several processes each gives
        the same arguments; it reads its own rows of every batch.
      journal: is told of every epoch, keeps what resuming needs and what the stage derives, and
        says when to stop. What it keeps does not depend on the mesh.

    Raises:
      MethodError: no training windows, a mesh that does not fit, a loss or score that is not
        finite, or see `derived.derive`.
    """
    keeper = Journal() if journal is None else journal
    journal = keeper if is_first() else Journal()
    per_epoch = windows.steps(stage.batch_size)
    if per_epoch == 0:
        raise MethodError(f"{stage.name}: there are no training windows")
    steps = per_epoch * stage.epochs
    state, progress, given = start(stage, params, steps), Progress(), params
    if mesh is not None:
        check_mesh(stage, params, mesh, (WINDOWS, GAUSSIANS))
    derived = derive(stage, params, geometry, windows, key, keeper)
    seed = order_seed(key)
    if mesh is not None:
        params, state = (place(x, mesh, specs(stage, x, mesh)) for x in (params, state))
        geometry, key = place((geometry, key), mesh, PartitionSpec())
    best, sums = state.average, None
    validation = _validation(windows, stage, derived.validate, geometry, mesh)
    source = _source(windows, stage, derived.train, seed, mesh)
    if (found := keeper.resume(stage.name, (state, best))) is not None:
        (state, best), position = found
        if mesh is not None:
            state, best = (place(x, mesh, specs(stage, x, mesh)) for x in (state, best))
        progress = Progress(**position["progress"])
        source.set_state(position["data"])
        sums = position["sums"]
    else:
        value = validation(params)
        progress = progress._replace(best_score=value)
        journal.epoch(stage.name, {"epoch": 0, "step": 0, "validate": value})
    run = compiled_step(stage, steps, mesh)
    begun, taken = time.perf_counter(), int(state.step)
    first = taken
    while progress.epoch < stage.epochs:
        metrics, sums = sums, None
        while taken < (progress.epoch + 1) * per_epoch:
            state, new = run(state, params, next(source), key, geometry)
            metrics = new if metrics is None else jax.tree.map(jnp.add, metrics, new)
            taken += 1
            if keeper.due():
                kept = gathered((state, best), mesh)
                _keep(keeper, stage, kept, progress, source, metrics)
        assert metrics is not None
        means = {name: float(x) / per_epoch for name, x in metrics.items()}
        value = validation(params | state.average)
        proved = not math.isnan(progress.best_score)  # there are validation windows
        refuse_not_finite(stage, progress.epoch + 1, means["loss"], value, proved)
        progress, better = progress.after(value, stage.min_delta)
        best = state.average if better else best
        pace = (time.perf_counter() - begun) / max(taken - first, 1)
        journal.epoch(
            stage.name,
            {"epoch": progress.epoch, "step": taken}
            | means
            | {
                "validate": value,
                "best_validate": progress.best_score,
                "best_epoch": progress.best_epoch,
                "seconds_per_step": pace,
            },
            remaining=pace * (steps - taken),
            of=stage.epochs,
        )
        if stage.patience and progress.worse >= stage.patience:
            break
    return given | gathered(best, mesh)


def warm_up(stage: GradientStage, params: PyTree, geometry: Geometry, windows: Windows) -> PyTree:
    """Compile what `train_stage` will run; one step and one score, thrown away."""
    steps = windows.steps(stage.batch_size) * stage.epochs
    derived = blank(stage, params, geometry, windows)
    batch = next(_source(windows, stage, derived.train, 0, None))
    state = start(stage, params, steps)
    run = compiled_step(stage, steps, None)
    validation = _validation(windows, stage, derived.validate, geometry, None)
    return run(state, params, batch, jax.random.key(0), geometry), validation(params)


def _keep(journal, stage, kept, progress, source, metrics) -> None:
    sums = None if metrics is None else {name: float(x) for name, x in metrics.items()}
    position = {"progress": progress._asdict(), "data": source.get_state(), "sums": sums}
    journal.keep(stage.name, kept, position)


@functools.lru_cache(maxsize=64)  # one program for each stage, number of steps and mesh
def compiled_step(stage: GradientStage, steps: int, mesh: Mesh | None):
    """`step` of a stage of so many steps, jitted: the same object at every call."""

    def run(state, params, batch, key, geometry):
        return step(stage, steps, state, params, batch, key, geometry, mesh)

    return jax.jit(run)


def _source(windows: Windows, stage: GradientStage, derived: Lookup, seed: int, mesh: Mesh | None):
    """Batches on the device; on a mesh each process reads and puts its own rows of every batch."""
    size, rows, sharding = stage.batch_size, None, None
    if mesh is not None:
        sharding = NamedSharding(mesh, along(mesh, WINDOWS))
        parts = sharding.addressable_devices_indices_map((size,)).values()
        own = [np.arange(size)[part] for part in parts if part is not None]
        rows = np.unique(np.concatenate(own))
    batches = windows.shuffled(size, stage.overlap, seed, rows)
    return device_prefetch(_Batches(batches, derived), sharding=sharding)


class _Batches:
    """Batches of windows, and what is derived of them."""

    def __init__(self, batches: Any, derived: Lookup):
        self._batches, self._derived = iter(batches), derived
        self.get_state, self.set_state = self._batches.get_state, self._batches.set_state

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Batch:
        batch = next(self._batches)
        return {"eeg": batch["eeg"]} | self._derived(batch["index"])


def _validation(
    windows: Windows, stage: GradientStage, derived: Lookup, geometry: Geometry, mesh: Mesh | None
):
    """Params -> their score on the validation windows; NaN where there are none."""
    eeg = windows.load(VALIDATE)
    size = min(stage.batch_size, len(eeg)) if mesh is None else stage.batch_size
    every = {"eeg": eeg, "part": np.full(len(eeg), VALIDATE, np.int32)}
    every |= derived(np.arange(len(eeg)))
    batches = [
        padded({name: x[begin : begin + size] for name, x in every.items()}, size)
        for begin in range(0, len(eeg), max(size, 1))
    ]
    run = _compiled_score(stage, mesh)

    def mean(params: PyTree) -> float:
        if not batches:
            return math.nan
        placed = batches if mesh is None else (spread(batch, mesh) for batch in batches)
        sums = [run(params, batch, geometry) for batch in placed]
        error, power = np.sum([np.asarray(s, np.float64) for s in sums], 0)
        return float(error / power)

    return mean


@functools.lru_cache(maxsize=64)
def _compiled_score(stage: GradientStage, mesh: Mesh | None):
    def run(params, batch, geometry):
        return score(stage, params, batch, geometry, mesh)

    return jax.jit(run)


def refuse_not_finite(
    stage: GradientStage, epoch: int, loss: float, score: float, proved: bool
) -> None:
    """Refuse to go on with a loss or, where there are validation windows, a score not finite.

    Raises:
      MethodError: they are not.
    """
    if not math.isfinite(loss) or (proved and not math.isfinite(score)):
        raise MethodError(
            f"{stage.name}: epoch {epoch} has loss {loss}, validation score {score}; expected "
            "finite numbers: lower the learning rate, or look for NaN or huge values in the data"
        )
