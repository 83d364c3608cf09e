"""What a sweep asks of a machine or a cluster: jobs, each of tasks that take the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Of one task.

    Attributes:
      hosts: which together train one trial; more than one takes a mesh.
      processes: on each host.
      cores: of each process.
      gpus: of each host.
      memory_gb: of each host; None is the cluster's default.
      tpu: a slice, as "tpu-v5-lite-podslice:2x4" (accelerator and topology as GKE names them).
    """

    hosts: int = 1
    processes: int = 1
    cores: int = 1
    gpus: int = 0
    memory_gb: float | None = None
    tpu: str | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """Trials that one command trains, one after another or packed.

    Attributes:
      name: of its file, its log, and what a cluster shows: "3-0007", the launch and a number.
      file: the trials' experiments, as `eegsr train --sweep --config=FILE.json` takes them.
      trials: their names.
    """

    name: str
    file: Path
    trials: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Tasks that take the same resources; a job array of Slurm, a replicated job of a JobSet.

    Attributes:
      name: what a cluster shows.
      out: folder of the sweep, which all tasks see.
      store: of prepared recordings, which all tasks see.
      tasks: what is to be run.
      resources: of each task.
      workers: tasks at a time.
      retries: how often a task that crashed is begun again.
      hours: after which a task is stopped, to go on later; None is the cluster's default.
      environment: further variables, as ("XLA_FLAGS", "…").
    """

    name: str
    out: Path
    store: Path
    tasks: tuple[Task, ...]
    resources: Resources
    workers: int
    retries: int = 1
    hours: float | None = None
    environment: tuple[tuple[str, str], ...] = ()

    def command(self, file: Path, python: Sequence[str]) -> list[str]:
        """What trains the trials of a task's file; `python` starts it, as ["python3"]."""
        flags = {"config": file, "workdir": self.out, "store": self.store}
        words = [f"--{name}={value}" for name, value in flags.items()]
        return [*python, "-m", "eegsr_jax.commands.main", "train", "--sweep", *words]

    def log(self, task: Task) -> Path:
        """Where the output of a task is appended."""
        return self.out / "logs" / f"{task.name}.log"
