"""What training will take, counted from shapes: nothing is trained, no window is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eegsr_jax.data import datasets
from eegsr_jax.data.recording import Recording
from eegsr_jax.distributed import GAUSSIANS, WINDOWS, along, make_mesh
from eegsr_jax.flop import flop
from eegsr_jax.geometry import Geometry, make_geometry
from eegsr_jax.layouts import layout
from eegsr_jax.methods.base import GradientStage, Method, MomentStage
from eegsr_jax.throughput import Limits, compiled, limits
from eegsr_jax.training.gradient import compiled_step, start
from eegsr_jax.training.loop import check_binding, nameless
from eegsr_jax.training.run import Experiment, one_method
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


class StageForecast(NamedTuple):
    """One stage, on each device.

    Attributes:
      name: of a gradient stage; "closed form".
      trained: numbers that it changes; of a closed form those of the sums that it takes.
      steps: at most; of a closed form the batches of a pass.
      batch: windows a step, of all devices.
      step_flop, step_byte: operations of a step, and what its operands are in memory, most of which
        caches spare.
      once_flop: of what is not of a step: validation, what is derived, solving.
      state_byte: params, their average, the optimiser's memory and the step's inputs.
      temporary_byte: beyond these, as XLA plans it.
      lies: axis of the mesh -> what is spread over it, for people.
    """

    name: str
    trained: int
    steps: int
    batch: int
    step_flop: float
    step_byte: float
    once_flop: float
    state_byte: int
    temporary_byte: int
    lies: dict[str, str]

    def seconds(self, limit: Limits) -> tuple[float, float]:
        """Of a step: by arithmetic alone, and with every operand fetched from memory."""
        return _seconds(self.step_flop, self.step_byte, limit)

    def in_all(self, limit: Limits) -> tuple[float, float]:
        """Seconds of the whole stage, as of a step; what is done once counts as steps do."""
        steps = self.steps + (self.once_flop / self.step_flop if self.step_flop else 0.0)
        least, most = self.seconds(limit)
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
    params = shapes(method, geometry)
    where = jax.eval_shape(lambda: nameless(geometry))
    return [
        _closed(stage, params, where, task)
        if isinstance(stage, MomentStage)
        else _gradient(stage, params, where, task, mesh)
        for stage in method.stages
    ]


def shapes(method: Method, geometry: Geometry) -> PyTree:
    """Of the params."""
    return jax.eval_shape(lambda: method.init(jax.random.key(0), geometry, method.window))


def numbers(tree: PyTree) -> int:
    """How many there are."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _batch(count: int, channels: int, samples: int) -> dict[str, Any]:
    return {
        "eeg": jax.ShapeDtypeStruct((count, channels, samples), jnp.float32),
        "part": jax.ShapeDtypeStruct((count,), jnp.int32),
    }


def _program(function: Any, *arguments: Any) -> dict[str, Any]:
    """What a function takes, of `StageForecast`."""
    _, cost = compiled(function, *arguments)
    return {
        "step_flop": cost.flop,
        "step_byte": cost.byte,
        "state_byte": cost.argument_byte,
        "temporary_byte": cost.temporary_byte,
    }


def _seconds(operations: float, byte: float, limit: Limits) -> tuple[float, float]:
    least = operations / limit.flop
    return least, least + byte / limit.byte


def _closed(stage: MomentStage, params: PyTree, where: Geometry, task: Task) -> StageForecast:
    windows = task.train + task.validate
    count = min(task.batch_size, windows)
    batch = _batch(count, where.target.shape[0], task.samples)
    shape = jax.eval_shape(stage.start, params, where)
    with jax.enable_x64(True):  # true zeros: as a mere shape JAX would take float64 for float32
        sums = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)
    step = _program(stage.update, params, sums, batch, where)
    return StageForecast(
        name="closed form",
        trained=numbers(sums),
        steps=math.ceil(windows / count),
        batch=count,
        **step,
        once_flop=flop(stage.solve, params, sums, where),
        lies={},
    )


def _gradient(
    stage: GradientStage, params: PyTree, where: Geometry, task: Task, mesh: Mesh | None
) -> StageForecast:
    if mesh is not None:
        check_mesh(stage, params, mesh, (WINDOWS, GAUSSIANS))
    count, once = stage.batch_size, 0.0
    batch = _batch(count, where.target.shape[0], task.samples)
    part, keys = (
        batch.pop("part"),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count)),
    )
    if stage.derive is not None:
        given = params, batch | {"key": keys}, where
        windows = stage.overlap * task.train + task.validate
        once += windows / count * flop(stage.derive, *given)
        batch |= jax.eval_shape(stage.derive, *given)
    per_epoch = math.ceil(task.train / count)
    steps = per_epoch * stage.epochs
    scored = params, batch | {"part": part}, where
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
        **_program(run, *given),
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


def forecast_lines(name: str, experiment: Experiment) -> list[str]:
    """What an experiment takes, for people; reads its first recording, and takes all for as long.

    Raises:
      EEGSRError: the recording, the layout, the method or the mesh cannot be.
    """
    ((text, method),) = one_method(experiment.method)
    mesh = make_mesh(experiment.mesh) if experiment.mesh else None
    dataset = datasets.load(
        experiment.dataset,
        experiment.root,
        **{k: getattr(experiment, k) or None for k in ("subjects", "sessions", "runs")},
    )
    recording = dataset.entries[0].read()
    sfreq = experiment.preprocessing.resample or recording.sfreq
    samples = round(experiment.window_seconds * sfreq)
    check_binding(method, sfreq, samples)
    where = _geometry(recording, experiment.layout)
    seconds = recording.data.shape[1] / recording.sfreq
    each = [share * seconds / experiment.window_seconds for share in _shares(experiment.validate)]
    train, validate = (len(dataset.entries) * int(windows) for windows in each)
    task = Task(samples, train, validate, experiment.batch_size)
    stages, limit = forecast(method, where, task, mesh), limits()
    device, params = jax.devices()[0], shapes(method, where)
    given, target = len(where.observed_names), len(where.target_names)
    rows = {
        "method": text,
        "data": f"{experiment.dataset}, {len(dataset.entries)} recordings, all taken to be as the "
        f"first: {seconds:.0f} s at {sfreq:g} Hz",
        "windows": f"{train:,} to train on, {validate:,} to validate on, {samples} samples each",
        "layout": f"{experiment.layout}: {given} electrodes given, {target - given} missing",
        "parameters": f"{numbers(params):,} in {len(jax.tree.leaves(params))} arrays",
        "device": f"{device.device_kind} ({device.platform}), measured now: "
        f"{limit.flop / 1e9:,.0f} GFLOP/s, {limit.byte / 1e9:,.1f} GB/s",
    }
    if mesh is not None:
        lies = {axis: text for stage in stages for axis, text in stage.lies.items()}
        each = [f"{axis} {lies.get(axis, size)}" for axis, size in mesh.shape.items()]
        rows["mesh"] = f"{experiment.mesh}; each device has, of {'; of '.join(each)}"
    lines = [name, *(f"  {key:<12}{row}" for key, row in rows.items()), ""]
    table = [["stage", "trains", "steps", "GFLOP a step", "MB", "a step", "in all"]]
    totals = [0.0, 0.0]
    for stage in stages:
        whole = stage.in_all(limit)
        totals = [a + b for a, b in zip(totals, whole, strict=True)]
        table.append(
            [
                stage.name,
                f"{stage.trained:,}",
                f"{stage.steps:,} x {stage.batch}",
                f"{stage.step_flop / 1e9:.3g}",
                f"{(stage.state_byte + stage.temporary_byte) / 1e6:,.0f}",
                _span(stage.seconds(limit)),
                _span(whole),
            ]
        )
    plan = jax.eval_shape(method.plan, params, jax.eval_shape(lambda: nameless(where)))
    observed = jax.ShapeDtypeStruct((task.batch_size, given, samples), jnp.float32)
    row = _program(method.apply, plan, observed, _KEY)
    spent = _seconds(row["step_flop"], row["step_byte"], limit)
    held = f"{(row['state_byte'] + row['temporary_byte']) / 1e6:,.0f}"
    cost = f"{row['step_flop'] / 1e9:.3g}"
    table.append(["apply", "", f"{task.batch_size} windows", cost, held, _span(spent), ""])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        first, *rest = (
            f"{c:{'<' if not i else '>'}{w}}"
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append("  " + "  ".join([first, *rest]).rstrip())
    lines += [
        "",
        f"  training: {_span(totals)}, and compiling; steps are at most",
        "  from: arithmetic at the device's speed; to: every operand fetched from memory as well",
    ]
    return lines


def _shares(validate: float) -> tuple[float, float]:
    return 1 - validate, validate


def _geometry(recording: Recording, spec: str) -> Geometry:
    """Of the good channels; "best:K" is chosen by data, any K cost as much."""
    names = tuple(n for n in recording.names if n not in recording.bads)
    positions = dict(zip(recording.names, recording.positions, strict=True))
    spec = spec.replace("best:", "spread:")
    observed = layout(spec, names, positions=np.stack([positions[n] for n in names]))
    return make_geometry(observed, names, {n: positions[n] for n in names})


def _span(seconds: Sequence[float]) -> str:
    """Two numbers of seconds in one unit."""
    units = ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)
    unit, size = next((u for u in units if seconds[1] >= u[1]), units[-1])
    least, most = (f"{x / size:.2g}" if x < 9.5 * size else f"{x / size:.0f}" for x in seconds)
    return f"{least} to {most} {unit}"
