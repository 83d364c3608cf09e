"""Methods trained on what a view shows, all on the same windows, with the seconds that took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from eegsr_jax.data.store import Store
from eegsr_jax.errors import ConfigError
from eegsr_jax.evaluation.views import View
from eegsr_jax.methods.base import GradientStage, Method
from eegsr_jax.methods.gaussian import POPULATION_DATASET
from eegsr_jax.training.gradient import warm_up
from eegsr_jax.training.loop import (
    accumulate,
    check_binding,
    fit,
    initial,
    jitted,
    nameless,
    refuse_nan,
    run_stage,
    solve,
    stage_keys,
)
from eegsr_jax.typing import PyTree


class Fitted(NamedTuple):
    """A method, trained and planned; `about` is what its row says of that."""

    label: str
    method: Method
    plan: PyTree
    about: dict[str, Any]


class Pass(dict):
    """Sums of the last training data seen, by stage: one pass serves all layouts and methods."""

    def __init__(self):
        super().__init__()
        self.owner: Any = None
        self.compiled: set[Any] = set()  # what has run once: functions with the shapes they saw

    def of(self, owner: Any) -> Pass:
        """This, emptied when it holds the sums of something else."""
        if self.owner != owner:
            self.clear()
            self.owner = owner
        return self

    def timed(self, call: Callable[[], Any], *program: Any) -> tuple[Any, float, float]:
        """The result of a call, its seconds, and the seconds that compiling took before it."""
        first = 0.0
        if program not in self.compiled:
            self.compiled.add(program)
            first = _seconds(call)[1]
        result, seconds = _seconds(call)
        return result, seconds, max(first - seconds, 0.0)


def fitted(
    methods: Mapping[str, Method], view: View, last: Pass, seeds: Sequence[int] = (0,)
) -> Iterator[Fitted]:
    """Each method in turn; those that are trained by gradients once for each seed."""
    for label, method in methods.items():
        random = any(isinstance(stage, GradientStage) for stage in method.stages)
        for seed in seeds if random else (None,):
            params, timing = _trained(method, view, last, seed)
            plan = jax.block_until_ready(jitted(method.plan)(params, nameless(view.geometry)))
            yield Fitted(label, method, plan, timing | {"training_seed": seed})


def refuse_known_subjects(store: Store, methods: Mapping[str, Method]) -> None:
    """Refuse a method that has seen the subjects of this store.

    Raises:
      ConfigError: one has.
    """
    named = [label for label, method in methods.items() if method.name == "population"]
    if named and store.dataset == POPULATION_DATASET:
        raise ConfigError(
            f"method {named[0]} has seen subjects of {store.dataset}: its scores there would leak; "
            "use gaussian, which learns its prior from the training part"
        )


def _trained(
    method: Method, view: View, last: Pass, seed: int | None
) -> tuple[PyTree, dict[str, float]]:
    """Params, and seconds for fitting and for compiling, apart."""
    split, geometry, windows = view.data.fold.split, view.geometry, view.training()
    check_binding(method, view.data.sfreq, view.data.window)
    owner = (split.train, split.validate, view.data.channels, view.reference)
    shared = last.of(owner if view.plain else (owner, tuple(view.index)))
    shape = (len(view.index), len(view.missing), view.data.window)
    start, *keys = stage_keys(method, jax.random.key(seed or 0))
    params, fitting, compiling = initial(method, geometry, start), 0.0, 0.0
    for number, (stage, key) in enumerate(zip(method.stages, keys, strict=True)):
        # Compiled on a little first, so that training itself is timed without.
        if isinstance(stage, GradientStage):
            warm = partial(warm_up, stage, params, nameless(geometry), windows)
            steps = windows.steps(stage.batch_size)
            compiling += last.timed(warm, stage, steps, *shape)[2]
            run = partial(run_stage, stage, params, geometry, windows, key)
            params, seconds = _seconds(run)
            fitting += seconds
            continue
        # The first sums depend on the windows alone; later ones on params, layout and seed.
        own = (stage.start, stage.update, *(() if number == 0 else (method, seed, *view.index)))
        if own not in shared:
            warm = partial(accumulate, stage, params, geometry, [next(windows())])
            compiling += last.timed(warm, stage.start, stage.update, *shape[1:])[2]
            shared[own] = _seconds(partial(accumulate, stage, params, geometry, windows()))
        sums, seconds = shared[own]
        call = partial(solve, stage, params, sums, geometry)
        params, solving, compiled = last.timed(call, stage.solve, *shape[:2])
        fitting, compiling = fitting + seconds + solving, compiling + compiled
    if split.calibration:
        begin = time.perf_counter()
        key = jax.random.fold_in(jax.random.key(seed or 0), 1)
        params = fit(method, geometry, view.calibration, params=params, key=key)
        fitting += time.perf_counter() - begin
    refuse_nan(method, params)
    return params, {"fit_seconds": fitting, "compile_seconds": compiling}


def _seconds(call: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = jax.block_until_ready(call())
    return result, time.perf_counter() - begin


def reconstructed(
    fit: Fitted, view: View, eeg: np.ndarray, size: int, draw: bool = False
) -> np.ndarray:
    """`[N, M, time]`: mean, or one draw, of windows `[N, M, time]` that the view has shown.

    The key of a batch is its number, so that the same windows are always drawn alike.
    """
    made = []
    for number, start in enumerate(range(0, len(eeg), size)):
        own = eeg[start : start + size, view.index]
        observed = np.zeros((size, *own.shape[1:]), np.float32)
        observed[: len(own)] = own
        key = jax.random.fold_in(jax.random.key(0), number)
        if draw:
            assert fit.method.draw is not None
            out = jitted(fit.method.draw)(fit.plan, observed, key)
        else:
            out = jitted(fit.method.apply)(fit.plan, observed, key).mean
        made.append(np.asarray(out)[: len(own)])
    return np.concatenate(made)
