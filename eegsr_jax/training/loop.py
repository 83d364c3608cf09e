"""Running a method's stages over data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from eegsr_jax.distributed import arrays_from_first
from eegsr_jax.errors import ConfigError, MethodError
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import GradientStage, Method, MomentStage, Stage
from eegsr_jax.training.gradient import train_stage
from eegsr_jax.training.journal import Journal
from eegsr_jax.training.windows import MemoryWindows, padded
from eegsr_jax.typing import PyTree

Batches = Callable[[], Iterable[dict[str, np.ndarray]]]  # each call is one pass over the data


def fit(
    method: Method,
    geometry: Geometry,
    batches: Batches,
    *,
    key: jax.Array | None = None,
    params: PyTree | None = None,
    mesh: Mesh | None = None,
    journal: Journal | None = None,
) -> PyTree:
    """Run every stage of `method` in order.

    Args:
      method: what to train.
      geometry: L observed and M target electrodes; the targets are the channels of the data.
      batches: called once for each pass; yields `{"eeg": [batch, M, time], "part": [batch]}`.
        `training.windows.StoreWindows` reads shuffled windows as they are needed; any other
        callable is read once, and kept in memory, where a stage shuffles.
      key: for the initial params, the order of the windows and what a loss draws; None is key 0.
      params: start from these instead (to calibrate a trained method to a subject).
      mesh: over which gradient stages spread, see `gradient.train_stage`; the rest runs on the
        default device, of every process.
      journal: metrics and checkpoints; None keeps none. Stages that it has finished are left out.

    Returns:
      Trained params, a plain nested dict.

    Raises:
      MethodError: an observed channel is not among the targets, so that it has no training data;
        two stages have one name; or the fit is not finite.
    """
    refuse_twins(method)
    key = jax.random.key(0) if key is None else key
    start, *keys = stage_keys(method, key)
    if params is None:
        params = initial(method, geometry, start)
    else:
        _refuse_absent(method, geometry)
    keeper = Journal() if journal is None else journal
    done, params = keeper.finished() or (0, params)
    begun = False
    for count, (stage, own) in enumerate(zip(method.stages, keys, strict=True), 1):
        begun = begun or isinstance(stage, GradientStage)
        if count <= done:
            continue
        params = run_stage(stage, params, geometry, batches, own, mesh=mesh, journal=journal)
        refuse_nan(method, params)
        # Nothing is kept of closed forms before the first gradient stage: they take seconds.
        if begun and count < len(method.stages):
            keeper.finish(count, params)
    return params


def refuse_twins(method: Method) -> None:
    """Refuse two gradient stages of one name: metrics and checkpoints go by it.

    Raises:
      MethodError: there are.
    """
    names = [stage.name for stage in method.stages if isinstance(stage, GradientStage)]
    for name in names:
        if names.count(name) > 1:
            raise MethodError(
                f"{method.name}: {names.count(name)} stages are called {name!r}; give each a name "
                "of its own, by which metrics and checkpoints tell them apart"
            )


def stage_keys(method: Method, key: jax.Array) -> list[jax.Array]:
    """One key for the initial params and one for every stage."""
    return list(jax.random.split(key, len(method.stages) + 1))


def run_stage(
    stage: Stage,
    params: PyTree,
    geometry: Geometry,
    batches: Batches,
    key: jax.Array,
    *,
    mesh: Mesh | None = None,
    journal: Journal | None = None,
) -> PyTree:
    """Params after one stage."""
    if isinstance(stage, MomentStage):
        solved = solve(stage, params, accumulate(stage, params, geometry, batches()), geometry)
        return arrays_from_first(solved)
    windows: Any = batches if hasattr(batches, "shuffled") else MemoryWindows(batches)
    where = nameless(geometry)
    return train_stage(stage, params, where, windows, key, mesh=mesh, journal=journal)


def check_binding(method: Method, sfreq: float, window: int) -> None:
    """Refuse data of another rate or another length of windows than the method is bound to.

    Raises:
      ConfigError: they differ.
    """
    if method.sfreq not in (None, sfreq) or method.window not in (None, window):
        raise ConfigError(
            f"{method.name} is bound to windows of {method.window} samples at {method.sfreq:g} Hz; "
            f"these have {window} at {sfreq:g} Hz: write {method.name}(samples={window}, "
            f"sfreq={sfreq:g})"
        )


def refuse_nan(method: Method, params: PyTree) -> None:
    """Refuse trained params that hold NaN, which would be met at reconstruction only.

    Raises:
      MethodError: they do.
    """
    if any(np.isnan(leaf).any() for leaf in jax.tree.leaves(params)):
        raise MethodError(
            f"{method.name}: the fit is not finite; the training windows are none, or hold NaN, or "
            "channels without any signal"
        )


def initial(method: Method, geometry: Geometry, key: jax.Array | None = None) -> PyTree:
    """Params before training; refuses a geometry whose inputs are not in the data."""
    _refuse_absent(method, geometry)
    return method.init(key, geometry, method.window)


def shapes(method: Method, geometry: Geometry) -> PyTree:
    """Of the params."""
    return jax.eval_shape(lambda: method.init(jax.random.key(0), geometry, method.window))


def _refuse_absent(method: Method, geometry: Geometry) -> None:
    absent = [
        name
        for name, place in zip(
            geometry.observed_names, np.asarray(geometry.observed_index), strict=False
        )
        if place < 0
    ]
    if absent and method.stages:
        raise MethodError(
            f"observed channel {absent[0]} is not among the {len(geometry.target_names)} channels "
            f"of the training data: {method.name} cannot learn from it; leave it out"
        )


def accumulate(
    stage: MomentStage,
    params: PyTree,
    geometry: Geometry,
    batches: Iterable[dict[str, np.ndarray]],
) -> PyTree:
    """The sums of a stage over one pass. A short last batch is padded, so nothing recompiles."""
    geometry = nameless(geometry)
    sums, size = stage.start(params, geometry), 0
    for batch in batches:
        own = {
            "eeg": np.asarray(batch["eeg"], np.float32),
            "part": np.asarray(batch["part"], np.int32),
        }
        size = max(size, len(own["part"]))
        sums = jitted(stage.update)(params, sums, padded(own, size), geometry)
    return sums


def solve(stage: MomentStage, params: PyTree, sums: PyTree, geometry: Geometry) -> PyTree:
    """Params from the sums of a stage."""
    return jitted(stage.solve)(params, sums, nameless(geometry))


@functools.lru_cache(maxsize=256)
def jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit(function)`, the same object at every call, so that its cache is used."""
    return jax.jit(function)


def nameless(geometry: Geometry) -> Geometry:
    """The geometry without names, which are static: layouts of one size then share a program."""
    values = {k: getattr(geometry, k) for k in ("observed", "target", "observed_index", "centre")}
    return Geometry(**values)
