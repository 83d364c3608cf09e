"""From a config's trials to jobs: what is trained together, in how many tasks, at what cost."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eegsr_jax import config
from eegsr_jax.errors import ConfigError
from eegsr_jax.training.experiment import (
    Experiment,
    is_closed_form,
    one_method,
    trial_name,
)
from eegsr_jax.training.sweep import PACKS
from launch.board import LAUNCHES, SWEEP, clock, launches, trials
from launch.job import Job, Resources, Task

BASELINE = "lagged_ridge"  # no result without it


def asked_for(path: str, changes: Iterable[str]) -> list[Experiment]:
    """The trials of a config, each once, and the lagged ridge wherever another method is tried.

    A closed form gives the same for every seed, and is tried with the first one.

    Raises:
      ConfigError: the file, or what it gives, is no sweep of experiments.
    """
    found = config.load_sweep(path, changes)
    for experiment in found:
        if not isinstance(experiment, Experiment):
            kind = type(experiment).__name__
            raise ConfigError(f"{path}: get_config() returned {kind}; expected an Experiment")
    seed = found[0].seed
    closed = {text: is_closed_form(one_method(text)[1]) for text in {e.method for e in found}}
    alone: dict[str, Any] = {"seed": seed, "mesh": None}  # a closed form takes one device
    own = [dataclasses.replace(e, **alone) if closed[e.method] else e for e in found]
    base = [dataclasses.replace(e, method=BASELINE, **alone) for e in found]
    own_base = {
        trial_name(dataclasses.replace(e, method=BASELINE))
        for e in own
        if e.method.partition("(")[0] == BASELINE
    }
    base = [e for e in base if trial_name(e) not in own_base]
    return list({trial_name(e): e for e in [*base, *own]}.values())


def keep(out: Path, experiments: Sequence[Experiment]) -> str:
    """Write the sweep's experiments; what is said of an earlier sweep in the folder."""
    names, said = {trial_name(e) for e in experiments}, ""
    if (out / SWEEP).exists():
        gone = len(trials(out).keys() - names)
        said = f"{gone} trials of an earlier sweep are there and are left out" if gone else ""
    elif any(file.name[0] != "." and file.name != "store" for file in out.glob("*")):
        raise ConfigError(f"{out} exists and holds no sweep; choose another --out")
    write(out / SWEEP, config.list_to_json(experiments))
    return said


def write(file: Path, text: str) -> None:
    """A text file, which appears by rename."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.tmp")
    half.write_text(text, encoding="utf-8")
    half.replace(file)


def note(out: Path, jobs: Sequence[Job], told: dict[str, Any]) -> None:
    """Write down what a launch gave to whom; `told` has its time, command and a cluster's ids."""
    tasks = {task.name: task.trials for job in jobs for task in job.tasks}
    record = {"tasks": tasks, **told}
    write(out / LAUNCHES / f"{len(launches(out)) + 1}.json", json.dumps(record, indent=1) + "\n")


def divide(
    experiments: Sequence[Experiment],
    out: Path,
    store: Path,
    *,
    resources: Resources,
    workers: int,
    pack: int | None,
    **options: Any,
) -> list[Job]:
    """Jobs of tasks: closed forms first, which need no GPU, then deep methods; writes task files.

    A task has trials of one method, of neighbouring layouts: what shares a program shares a task.
    `pack` trials at most; None divides those of a method among all workers, or leaves each by
    itself where several hosts train one.
    """
    number = len(launches(out)) + 1
    groups: dict[bool, dict[str, list[Experiment]]] = {True: {}, False: {}}
    for experiment in sorted(experiments, key=lambda e: (e.method, e.layout)):
        closed = is_closed_form(one_method(experiment.method)[1])
        groups[closed].setdefault(experiment.method, []).append(experiment)
    several = resources.hosts * resources.processes > 1 or resources.tpu is not None
    light = Resources(cores=resources.cores, memory_gb=resources.memory_gb)
    jobs, count = [], 0
    for closed, own in groups.items():
        tasks = []
        for members in own.values():
            size = pack or (1 if several and not closed else math.ceil(len(members) / workers))
            for some in [*_begun(out, members), *_cut(members, size)]:
                count += 1
                name = f"{number}-{count:04}"
                file = out / "tasks" / f"{name}.json"
                write(file, config.list_to_json(some))
                tasks.append(Task(name=name, file=file, trials=tuple(map(trial_name, some))))
        if tasks:
            jobs.append(
                Job(
                    name=f"{out.name}-{'closed' if closed else 'deep'}",
                    out=out,
                    store=store,
                    tasks=tuple(tasks),
                    resources=light if closed else resources,
                    workers=workers,
                    **options,
                )
            )
    return jobs


def _begun(out: Path, members: list[Experiment]) -> list[list[Experiment]]:
    """Packs that have been saved half-way, as they were; they leave the list."""
    found = []
    for listed in sorted(out.glob(f"{PACKS}/*/trials.txt")):
        own = {trial_name(e): e for e in members}
        names = listed.read_text().split()
        if (listed.parent / "checkpoints").exists() and own.keys() >= set(names):
            found.append([own[name] for name in names])
            members[:] = [e for name, e in own.items() if name not in names]
    return found


def _cut(members: list[Experiment], size: int) -> list[list[Experiment]]:
    return [members[begin : begin + size] for begin in range(0, len(members), size)]


def costs(experiments: Sequence[Experiment]) -> str:
    """A table of what each method will take: trials, operations, and from when to when.

    Each method is looked at with its first trial, on the device of this machine.
    """
    from eegsr_jax.training.forecast_page import foresee

    groups: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        groups.setdefault(experiment.method, []).append(experiment)
    lines, whole = [], [0.0, 0.0]
    width = max(map(len, groups))
    for method, own in groups.items():
        seen = foresee(own[0])
        least, most = (len(own) * sum(each[i] for each in seen.seconds) for i in (0, 1))
        whole = [whole[0] + least, whole[1] + most]
        flop = len(own) * sum(s.steps * s.step.flop + s.once_flop for s in seen.stages)
        span = f"{clock(least)} to {clock(most)}"
        work = f"{len(own):>5} trials  {flop / 1e12:>9.3g} TFLOP"
        lines.append(f"  {method:<{width}}  {work}  {span}")
    total = f"{clock(whole[0])} to {clock(whole[1])}"
    lines.append(f"  in all {total} of one {seen.device}, and reading, compiling, scoring")
    return "\n".join(lines)


def now() -> float:
    """Seconds since 1970, to be compared with times of files."""
    return math.floor(time.time())
