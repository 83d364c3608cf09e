"""Tasks as a job array of Slurm, through submitit.

Slurm asks a job to stop in ways that a process cannot tell apart (measured on Slurm 22.05, which
`docs/clusters.md` tells in full), and goes on differently: a job that `scontrol requeue` or a
preemption without grace has stopped runs again by itself, so does one whose node died; one that
`scancel` stopped does not; but one that ends well within a preemption's grace, or when it is warned
of its time limit, counts as completed. So who was stopped asks Slurm how its job stands: if Slurm
still calls it running, nobody else will have it run again.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eegsr_jax.errors import ConfigError
from launch.job import Job
from launch.worker import Worker

# What `submit` decides: arrays, logs that are added to, the warning, and that jobs run again.
_OWN = "array error input no_requeue open_mode output parsable requeue signal wait wrap".split()
# Seconds before its time limit at which a job is told to save; Slurm may be a minute early.
_WARNING = 90


@dataclass(frozen=True)
class OnSlurm:
    """A worker that saves when Slurm asks, and has its job run again if Slurm would not."""

    worker: Worker

    def __call__(self) -> None:
        """Trains the task's trials, or goes on with them; in each process of the job."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: self.worker.stop())
        self.worker()
        first = os.environ.get("SLURM_PROCID", "0") == "0"
        if first and self.worker.stopped and self.worker.left():
            _run_again()


def submit(job: Job, options: Mapping[str, str]) -> list[str]:
    """Hands a job to Slurm: an array with one element a task, `job.workers` of them at a time.

    Jobs run where the submitting process stands, find the same packages, append to their output in
    OUT/slurm, are told to save before their time is over, and run again after they were stopped.

    Args:
      job: what to run.
      options: further ones of sbatch, as {"partition": "gpu", "container-image": "…"}; they go
        before what follows from the job's resources.

    Returns:
      The ids of the tasks' jobs, in order: "12_0", "12_1", …, or "12" where there is one.

    Raises:
      ConfigError: submitit or Slurm is not there, an option is one that is decided here, or Slurm
        refuses the job.
    """
    if importlib.util.find_spec("submitit") is None:
        raise ConfigError(
            "no submitit here, which hands jobs to Slurm: pip install eegsr_jax[slurm]"
        )
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ConfigError("no sbatch and srun here; submit from a host of a Slurm cluster")
    executor = SlurmExecutor(job.out / "slurm")
    executor.update_parameters(**_parameters(job, options))
    try:
        jobs = executor.submit_array([OnSlurm(Worker(job, task)) for task in job.tasks])
    except FailedJobError as error:
        raise ConfigError(f"{job.name}: Slurm refuses it: {_last_line(str(error))}") from None
    return [job.job_id for job in jobs]


def _parameters(job: Job, options: Mapping[str, str]) -> dict[str, Any]:
    """Of submitit's executor; what is None, it leaves out."""
    asked = job.resources
    if job.hours is not None and job.hours * 3600 < 4 * _WARNING:
        raise ConfigError(
            f"hours={job.hours:g}: a task is told to save {_WARNING} s before its time is over, "
            "and would do little else; give it 0.1 or more"
        )
    # submitit spells with "_", but for its open-mode; an option of the same spelling goes before.
    further = {name.strip("-").replace("-", "_"): value for name, value in options.items()}
    for name in further:
        if name in _OWN:
            raise ConfigError(
                f"{name}={further[name]}: this option of sbatch is the launcher's; leave it out"
            )
    further = {name: True if value == "" else value for name, value in further.items()}
    return {
        "job_name": job.name,
        "array_parallelism": job.workers,
        "nodes": asked.hosts,
        "ntasks_per_node": asked.processes,
        "cpus_per_task": asked.cores,
        "gpus_per_node": asked.gpus or None,
        "mem": f"{math.ceil(asked.memory_gb * 1024)}M" if asked.memory_gb else None,
        "time": math.ceil(job.hours * 60) if job.hours else None,
        "wckey": None,  # submitit would add one of its own, which a cluster may refuse
        "stderr_to_stdout": True,
        "setup": _setup(job),
        "additional_parameters": {"requeue": True, "signal": f"USR1@{_WARNING}"} | further,
    }


def _setup(job: Job) -> list[str]:
    """Lines of the batch script that give each process what the submitting one has."""
    path = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, path)), **dict(job.environment)}
    return [
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
        # srun has not taken this from sbatch since Slurm 22.05.
        'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"',
    ]


# ----------------------------------------------------------------------------------- how they stand


def alive(ids: Iterable[str]) -> set[str]:
    """Those that wait, run, or are about to end or to run again.

    Raises:
      ConfigError: Slurm does not answer.
    """
    return set(_queue(ids))


def states(ids: Iterable[str]) -> dict[str, str]:
    """How each stands, in Slurm's words: "pending", "running", "completed", "node_fail", ….

    Those that the queue has forgotten are as the accounting has them; where there is none, they are
    left out.

    Raises:
      ConfigError: Slurm does not answer.
    """
    ids = list(ids)
    now = _queue(ids)
    gone = [id for id in ids if id not in now]
    return (_accounts(gone) if gone else {}) | now


def cancel(ids: Iterable[str]) -> None:
    """Stops them, and has none of them run again; those that have ended stay as they are.

    Raises:
      ConfigError: Slurm does not answer.
    """
    if ids := sorted(_queue(ids)):
        _ask("scancel", *ids)


def _queue(ids: Iterable[str]) -> dict[str, str]:
    """State of those that the queue has."""
    ids = set(ids)
    jobs = sorted({id.partition("_")[0] for id in ids})
    if not jobs:
        return {}
    words = ("--noheader", "--array", "--format=%i|%T", f"--jobs={','.join(jobs)}")
    try:
        said = _ask("squeue", *words)
    except ConfigError as error:
        if "Invalid job id" in str(error):  # it has forgotten all of them
            return {}
        raise
    lines = (line.strip().split("|") for line in said.splitlines())
    return {id: state.lower() for id, state in lines if id in ids}


def _accounts(ids: Iterable[str]) -> dict[str, str]:
    """Last state of each in the accounting; none without accounting."""
    ids = set(ids)
    jobs = ",".join(sorted({id.partition("_")[0] for id in ids}))
    words = ("--noheader", "--allocations", "--parsable2", "--format=JobID,State")
    try:
        said = _ask("sacct", *words, f"--jobs={jobs}")
    except ConfigError:
        return {}
    lines = (line.strip().split("|") for line in said.splitlines())
    return {id: state.split()[0].lower() for id, state in lines if id in ids}  # "CANCELLED by 0"


def _run_again() -> None:
    """Requeues this job, if Slurm thinks that it runs."""
    own = os.environ
    id = own["SLURM_JOB_ID"]  # that of an array's last element is the whole array's
    if "SLURM_ARRAY_JOB_ID" in own:
        id = f"{own['SLURM_ARRAY_JOB_ID']}_{own['SLURM_ARRAY_TASK_ID']}"
    if _queue([id]).get(id) == "running":
        _ask("scontrol", "requeue", id)


def _ask(*words: str) -> str:
    """What a command of Slurm prints.

    Raises:
      ConfigError: with its last line, where it fails or is not there.
    """
    try:
        found = subprocess.run(words, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{words[0]}: {error}; expected a Slurm that answers") from None
    if found.returncode:
        said = _last_line(found.stderr or found.stdout)
        raise ConfigError(f"{words[0]}: {said}; expected a Slurm that answers")
    return found.stdout


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
