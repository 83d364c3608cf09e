"""Many models at once: subjects, layouts and seeds side by side in one compiled call.

The windows of all subjects lie on the device; an epoch is one call, which scans over steps that are
mapped over the models. Orders and keys are those of `fit` on each model alone. On a mesh each
device of its axis "models" has models of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from eegsr_jax.errors import EEGSRError, error_of
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import GradientStage, Method, MomentStage
from eegsr_jax.training.journal import Journal, TellOnly
from eegsr_jax.training.loop import (
    accumulate,
    initial,
    nameless,
    refuse_nan,
    refuse_twins,
    solve,
    stage_keys,
)
from eegsr_jax.training.memory import TooLargeError
from eegsr_jax.training.stacked import train_stacked
from eegsr_jax.training.windows import Windows
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

    Args:
      method: what to train.
      tasks: the models.
      mesh: with an axis "models", over which each group is spread, the last model filling it up;
        "windows" and "gaussians" may divide each model further, as in `fit`.
      journal: metrics, means over the models of a group.

    Raises:
      MethodError: see `fit`.
    """
    told = Journal() if journal is None else TellOnly(journal)
    found: dict[int, PyTree] = {}
    for members, params in fit_groups(method, tasks, mesh=mesh, journal_of=lambda _: told):
        for number, each in zip(members, params, strict=True):
            if isinstance(each, EEGSRError):
                raise each
            found[number] = each
    return [found[number] for number in range(len(tasks))]


def fit_groups(
    method: Method,
    tasks: Sequence[Task],
    *,
    mesh: Mesh | None = None,
    journal_of: Callable[[list[int]], Journal],
) -> Iterator[tuple[list[int], list[PyTree | EEGSRError]]]:
    """Group after group: which tasks, and of each its params, or why it has none.

    Models whose arrays have the same shapes and that take the same number of steps are trained in
    one compiled call; a layout of another size makes another group. A group that would not fit
    into the device's memory is cut: what its program needs is asked of XLA, before it runs.

    Args:
      method: what to train.
      tasks: the models.
      mesh: see `fit_many`.
      journal_of: numbers of tasks -> what is told of their group, and keeps what resuming it needs.

    Raises:
      MethodError: two stages have one name, or a mesh that does not fit.
    """
    refuse_twins(method)
    keys = [stage_keys(method, task.key) for task in tasks]
    params = [initial(method, t.geometry, k[0]) for t, k in zip(tasks, keys, strict=True)]
    first = 0
    if method.stages and isinstance(method.stages[0], MomentStage):
        # The sums of a first stage depend on the windows alone: one pass for all layouts.
        params, first = _moments(method.stages[0], params, tasks, shared=True), 1
    waiting = _groups(method, params, tasks)
    while waiting:
        members = waiting.pop(0)
        own: list[Any] = [[x[i] for i in members] for x in (params, tasks)]
        own.append([[jax.random.clone(k) for k in keys[i]] for i in members])  # it may be cut
        try:
            trained = _Group(method, *own, mesh=mesh, journal=journal_of(members)).trained(first)
        except TooLargeError as error:  # of several, see `train_stacked`
            size = max(1, int(len(members) * error.share))
            waiting[:0] = [members[i : i + size] for i in range(0, len(members), size)]
            continue
        yield members, trained


def _groups(method: Method, params, tasks: Sequence[Task]) -> list[list[int]]:
    """Tasks that share a program; closed forms are one group."""
    sizes = [s.batch_size for s in method.stages if isinstance(s, GradientStage)]
    groups: dict[Any, list[int]] = {}
    for number, (each, task) in enumerate(zip(params, tasks, strict=True)):
        same: Any = ()
        if sizes:
            shapes = tuple(np.shape(x) for x in jax.tree.leaves((each, nameless(task.geometry))))
            same = shapes, tuple(task.windows.steps(size) for size in sizes)
        groups.setdefault(same, []).append(number)
    return list(groups.values())


class _Group:
    """Models that share a program, through the stages of their method."""

    def __init__(self, method: Method, params, tasks, keys, *, mesh, journal: Journal):
        self.method, self.params, self.tasks, self.keys = method, params, tasks, keys
        self.mesh, self.journal = mesh, journal
        self.errors: list[EEGSRError | None] = [None] * len(tasks)

    def trained(self, first: int) -> list[PyTree | EEGSRError]:
        """After all stages from number `first` on, but for those that the journal has."""
        stages = self.method.stages
        done, kept = self.journal.finished() or (first, None)
        if kept is not None:
            self.params = [kept[f"{i:05}"] for i in range(len(self.tasks))]
        begun = False
        for number, stage in enumerate(stages):
            begun = begun or isinstance(stage, GradientStage)
            if number < done:
                continue
            own = [k[number + 1] for k in self.keys]
            if isinstance(stage, MomentStage):
                self.params = _moments(stage, self.params, self.tasks, shared=number == 0)
            else:
                given = self.params, self.tasks, own, self.mesh, self.journal
                self.params, errors = train_stacked(stage, *given)
                self._note(errors)
            self._note([error_of(refuse_nan, self.method, each) for each in self.params])
            if begun and number + 1 < len(stages):
                self.journal.finish(number + 1, {f"{i:05}": x for i, x in enumerate(self.params)})
        return [error or each for error, each in zip(self.errors, self.params, strict=True)]

    def _note(self, errors: Sequence[EEGSRError | None]) -> None:
        """The first error of a model stays; its params go on as NaN, so that it is met again."""
        for i, error in enumerate(errors):
            if error is not None and self.errors[i] is None:
                self.errors[i] = error
                self.params[i] = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), self.params[i])


def _moments(stage: MomentStage, params, tasks: Sequence[Task], shared: bool) -> list[PyTree]:
    """The sums of a first stage depend on the windows alone: one pass for all layouts."""
    passes, solved = {}, []
    for number, (each, task) in enumerate(zip(params, tasks, strict=True)):
        name = id(task.windows) if shared else number
        if name not in passes:
            passes[name] = accumulate(stage, each, task.geometry, task.windows())
        solved.append(solve(stage, each, passes[name], task.geometry))
    return solved
