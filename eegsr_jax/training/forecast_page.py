"""What an experiment will take, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from eegsr_jax.data import datasets
from eegsr_jax.data.recording import Recording
from eegsr_jax.distributed import make_mesh
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import Method
from eegsr_jax.throughput import Limits, limits
from eegsr_jax.training.experiment import Experiment, one_method
from eegsr_jax.training.forecast import (
    StageForecast,
    Task,
    Work,
    forecast,
    numbers,
    reconstructing,
)
from eegsr_jax.training.loop import check_binding, shapes
from eegsr_jax.training.windows import channel_geometry

_UNITS = ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)
_END = """
  training: {}, and compiling; steps are at most
  from: arithmetic at the device's speed; to: every operand fetched from memory as well"""


class Foreseen(NamedTuple):
    """What there is to say of an experiment before it is trained.

    Attributes:
      method: whose stages.
      where: its electrodes.
      task: its windows.
      sfreq: Hz.
      data: where the numbers of windows come from, for people.
      stages: what each takes.
      limit: what the device does in a second, measured.
      device: its kind.
    """

    method: Method
    where: Geometry
    task: Task
    sfreq: float
    data: str
    stages: list[StageForecast]
    limit: Limits
    device: str

    @property
    def seconds(self) -> list[tuple[float, float]]:
        """Of each stage, from and to."""
        return [stage.seconds(self.limit) for stage in self.stages]


def foresee(experiment: Experiment) -> Foreseen:
    """Of an experiment; of its recordings the first is read, for the length.

    Raises:
      EEGSRError: the recording, the layout, the method or the mesh cannot be.
    """
    _, method = one_method(experiment.method)
    mesh = make_mesh(experiment.mesh) if experiment.mesh else None
    parts = {k: getattr(experiment, k) or None for k in ("subjects", "sessions", "runs")}
    entries = datasets.load(experiment.dataset, experiment.root, **parts).entries
    recording = entries[0].read()
    where = _geometry(recording, experiment.layout)
    seconds = recording.data.shape[1] / recording.sfreq
    sfreq = experiment.preprocessing.resample or recording.sfreq
    task = _task(experiment, len(entries), seconds, sfreq)
    check_binding(method, sfreq, task.samples)
    device = jax.devices()[0]
    return Foreseen(
        method=method,
        where=where,
        task=task,
        sfreq=sfreq,
        data=f"{experiment.dataset}; recordings: {len(entries)}, taken to be as long as the "
        f"first, {seconds:.0f} s at {sfreq:g} Hz",
        stages=forecast(method, where, task, mesh),
        limit=limits(),
        device=f"{device.device_kind} ({device.platform})",
    )


def page(name: str, experiment: Experiment) -> str:
    """Of an experiment in the file `name`.

    Raises:
      EEGSRError: see `foresee`.
    """
    seen = foresee(experiment)
    method, where, task, stages, limit = seen.method, seen.where, seen.task, seen.stages, seen.limit
    params = shapes(method, where)
    given, target = len(where.observed_names), len(where.target_names)
    rows = {
        "method": one_method(experiment.method)[0],
        "data": seen.data,
        "windows": f"{task.train:,} to train on, {task.validate:,} to validate on, "
        f"{task.samples} samples each",
        "layout": f"{experiment.layout}: {given} electrodes given, {target - given} missing",
        "parameters": f"{numbers(params):,} in {len(jax.tree.leaves(params))} arrays",
        "device": f"{seen.device}, measured now: "
        f"{limit.flop / 1e9:,.0f} GFLOP/s, {limit.byte / 1e9:,.1f} GB/s",
    }
    if experiment.mesh:
        lies = {axis: text for stage in stages for axis, text in stage.lies.items()}
        rows["mesh"] = f"{experiment.mesh}; each device has {', '.join(lies.values())}"
    table = [["stage", "trains", "steps", "GFLOP a step", "MB", "a step", "in all"]]
    for stage in stages:
        count, whole = f"{stage.steps:,} x {stage.batch}", _span(stage.seconds(limit))
        table.append([stage.name, f"{stage.trained:,}", count, *_cells(stage.step, limit), whole])
    work = reconstructing(method, where, task.batch_size, task.samples)
    table.append(["apply", "", f"{task.batch_size} windows", *_cells(work, limit), ""])
    total = np.sum(seen.seconds, 0)
    head = [f"  {key:<12}{row}" for key, row in rows.items()]
    return "\n".join([name, *head, "", *_aligned(table), _END.format(_span(total))])


def _task(experiment: Experiment, recordings: int, seconds: float, sfreq: float) -> Task:
    shares = 1 - experiment.validate, experiment.validate
    each = [int(share * seconds / experiment.window_seconds) for share in shares]
    train, validate = (recordings * windows for windows in each)
    samples = round(experiment.window_seconds * sfreq)
    return Task(samples, train, validate, experiment.batch_size)


def _geometry(recording: Recording, spec: str) -> Geometry:
    """Of the good channels; "best:K" is chosen by data, any K cost as much."""
    names = tuple(n for n in recording.names if n not in recording.bads)
    positions = dict(zip(recording.names, recording.positions, strict=True))
    return channel_geometry(positions, names, spec.replace("best:", "spread:"))


def _cells(work: Work, limit: Limits) -> list[str]:
    held = (work.argument_byte + work.temporary_byte) / 1e6
    return [f"{work.flop / 1e9:.3g}", f"{held:,.0f}", _span(work.seconds(limit))]


def _aligned(table: list[list[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rows = []
    for first, *rest in table:
        cells = [c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)]
        rows.append("  ".join(["", first.ljust(widths[0]), *cells]).rstrip())
    return rows


def _span(seconds: Sequence[float]) -> str:
    """Two numbers of seconds in one unit."""
    unit, size = next((u for u in _UNITS if seconds[1] >= u[1]), _UNITS[-1])
    least, most = (f"{x / size:.2g}" if x < 9.5 * size else f"{x / size:.0f}" for x in seconds)
    return f"{least} to {most} {unit}"
