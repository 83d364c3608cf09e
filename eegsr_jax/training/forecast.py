"""What training will take, counted from shapes: nothing is trained, no window is read."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eegsr_jax.distributed import GAUSSIANS, WINDOWS, along
from eegsr_jax.flop import flop
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import GradientStage, Method, MomentStage
from eegsr_jax.throughput import Limits, compiled
from eegsr_jax.training.gradient import compiled_step, start
from eegsr_jax.training.loop import nameless, shapes
from eegsr_jax.training.sharding import check_mesh, specs
from eegsr_jax.typing import PyTree

_KEY = jax.eval_shape(lambda: jax.random.key(0))


class Task(NamedTuple):
    """What there is to train on.

    Attributes:
      samples: of a window.
      train, validate: numbers of windows.
      batch_size: of a pass of the stages in closed form.
    """

    samples: int
    train: int
    validate: int
    batch_size: int


class Work(NamedTuple):
    """A call of a function, on each device.

    Attributes:
      flop: operations.
      byte: of all operands in memory, most of which caches spare.
      argument_byte: of what it is given.
      temporary_byte: beyond that, as XLA plans it.
    """

    flop: float
    byte: float
    argument_byte: int
    temporary_byte: int

    def seconds(self, limit: Limits) -> tuple[float, float]:
        """By arithmetic alone, and with every operand fetched from memory."""
        least = self.flop / limit.flop
        return least, least + self.byte / limit.byte


class StageForecast(NamedTuple):
    """One stage.

    Attributes:
      name: of a gradient stage; "closed form".
      trained: numbers that it changes; of a closed form those of the sums that it takes.
      steps: at most; of a closed form the batches of a pass.
      batch: windows a step, of all devices.
      step: what it takes; its arguments are params, their average, the optimiser's memory, windows.
      once_flop: of what is not of a step: validation, what is derived, solving.
      lies: axis of the mesh -> what a device has of what is spread over it, for people.
    """

    name: str
    trained: int
    steps: int
    batch: int
    step: Work
    once_flop: float
    lies: dict[str, str]

    def seconds(self, limit: Limits) -> tuple[float, float]:
        """Of the whole stage, as `Work.seconds`; operations of once take what those of steps do."""
        steps = self.steps + (self.once_flop / self.step.flop if self.step.flop else 0.0)
        least, most = self.step.seconds(limit)
        return steps * least, steps * most


def forecast(
    method: Method, geometry: Geometry, task: Task, mesh: Mesh | None = None
) -> list[StageForecast]:
    """Each stage of a method. The program of a step is compiled, for what it keeps in memory.

    Args:
      method: whose stages.
      geometry: L observed and M target electrodes.
      task: how many windows of which length.
      mesh: over which gradient stages spread, as in `training.loop.fit`.

    Raises:
      MethodError: a mesh that does not fit a stage.
    """
    params, where = shapes(method, geometry), _nameless(geometry)
    return [
        _closed(stage, params, where, task)
        if isinstance(stage, MomentStage)
        else _gradient(stage, params, where, task, mesh)
        for stage in method.stages
    ]


def numbers(tree: PyTree) -> int:
    """How many there are."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _eeg(count: int, channels: int, samples: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, channels, samples), jnp.float32)


def _part(count: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count,), jnp.int32)


def reconstructing(method: Method, geometry: Geometry, count: int, samples: int) -> Work:
    """What `apply` takes for so many windows."""
    plan = jax.eval_shape(method.plan, shapes(method, geometry), _nameless(geometry))
    observed = _eeg(count, geometry.observed.shape[0], samples)
    return _work(method.apply, plan, observed, _KEY)


def _nameless(geometry: Geometry) -> Geometry:
    return jax.eval_shape(lambda: nameless(geometry))


def _work(function: Any, *arguments: Any) -> Work:
    _, cost = compiled(function, *arguments)
    return Work(cost.flop, cost.byte, cost.argument_byte, cost.temporary_byte)


def _closed(stage: MomentStage, params: PyTree, where: Geometry, task: Task) -> StageForecast:
    windows = task.train + task.validate
    count = min(task.batch_size, windows)
    eeg = _eeg(count, where.target.shape[0], task.samples)
    batch = {"eeg": eeg, "part": _part(count)}
    shape = jax.eval_shape(stage.start, params, where)
    with jax.enable_x64(True):  # true zeros: as a mere shape JAX would take float64 for float32
        sums = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)
    return StageForecast(
        name="closed form",
        trained=numbers(sums),
        steps=math.ceil(windows / count),
        batch=count,
        step=_work(stage.update, params, sums, batch, where),
        once_flop=flop(stage.solve, params, sums, where),
        lies={},
    )


def _gradient(
    stage: GradientStage, params: PyTree, where: Geometry, task: Task, mesh: Mesh | None
) -> StageForecast:
    if mesh is not None:
        check_mesh(stage, params, mesh, (WINDOWS, GAUSSIANS))
    count, once = stage.batch_size, 0.0
    batch: dict[str, Any] = {"eeg": _eeg(count, where.target.shape[0], task.samples)}
    if stage.derive is not None:
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
        given = params, batch | {"key": keys}, where
        windows = stage.overlap * task.train + task.validate
        once += windows / count * flop(stage.derive, *given)
        batch |= jax.eval_shape(stage.derive, *given)
    per_epoch = math.ceil(task.train / count)
    steps = per_epoch * stage.epochs
    scored = params, batch | {"part": _part(count)}, where
    passes = (stage.epochs + 1) * math.ceil(task.validate / count)
    once += passes * flop(stage.score, *scored)
    state = jax.eval_shape(lambda p: start(stage, p, steps), params)
    run = compiled_step(stage, steps, mesh)
    given = [state, params, batch, _KEY, where]
    lies = {}
    if mesh is not None:
        whole = PartitionSpec()
        every = specs(stage, state, mesh), specs(stage, params, mesh), along(mesh, WINDOWS), whole
        given = [_lain(x, spec, mesh) for x, spec in zip(given, (*every, whole), strict=True)]
        if WINDOWS in mesh.shape:
            lies[WINDOWS] = f"{count // mesh.shape[WINDOWS]} of {count} windows"
        if GAUSSIANS in mesh.shape:
            lain = jax.tree.leaves(given[1])
            own = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in lain)
            lies[GAUSSIANS] = f"{own:,} of {numbers(params):,} params"
    return StageForecast(
        name=stage.name,
        trained=numbers(state.params),
        steps=steps,
        batch=count,
        step=_work(run, *given),
        once_flop=once,
        lies=lies,
    )


def _lain(tree: PyTree, spec: PyTree, mesh: Mesh) -> PyTree:
    """Shapes, and how they lie on a mesh; `spec` is one for all, or a tree of them."""

    def one(leaf, spec):
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    if isinstance(spec, PartitionSpec):
        return jax.tree.map(lambda leaf: one(leaf, spec), tree)
    return jax.tree.map(one, tree, spec)
