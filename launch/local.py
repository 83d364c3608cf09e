"""Tasks on this machine: a few workers at a time, each with a device of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from eegsr_jax.commands.main import explain
from launch.job import Job, Task
from launch.worker import Worker


def gpus() -> list[str]:
    """Numbers of the GPUs that may be used."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [number for number in chosen.split(",") if number.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))]


def default_workers() -> int:
    """One a GPU; without any, one for every two cores."""
    return len(gpus()) or max(1, len(os.sched_getaffinity(0)) // 2)


def run(jobs: list[Job], say: Callable[[str], None]) -> None:
    """Runs all tasks, and returns when none is left.

    SIGTERM and SIGINT have the workers save and end; so does the end of this process, however it
    comes.
    """
    waiting = [(job, task) for job in jobs for task in job.tasks]
    slots = _slots(max(job.workers for job in jobs))
    busy: dict[int, tuple[Worker, Iterator[None]]] = {}
    stopping = False

    def stop(number: int, frame: Any) -> None:
        nonlocal stopping
        stopping = True

    before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        while busy or (waiting and not stopping):
            for slot, given in enumerate(slots):
                if slot not in busy and waiting and not stopping:
                    job, task = waiting.pop(0)
                    say(f"{task.name}: {_few(task)} begins")
                    worker = Worker(job, task, **given)
                    busy[slot] = worker, worker.steps()
                if slot in busy and (end := _advance(*busy[slot], stopping)):
                    say(f"{busy.pop(slot)[0].task.name}: {end}")
            time.sleep(0.05)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopping:
        say("stopped; the same command goes on")


def _advance(worker: Worker, steps: Iterator[None], stopping: bool) -> str:
    """How the worker ended; nothing while it goes on."""
    if stopping and not worker.stopped:
        worker.stop()
    try:
        if next(steps, worker) is None:
            return ""
        return "stopped, and saved" if worker.stopped else "over"
    except OSError as error:  # a full disk, as a rule, on which not even this can be noted
        return explain("launch", error)


def _slots(workers: int) -> list[dict[str, Any]]:
    """What each worker has for itself: a GPU, or a share of the cores."""
    found = gpus()
    if found:
        own = [found[i % len(found)] for i in range(workers)]
        return [{"environment": {"CUDA_VISIBLE_DEVICES": number}} for number in own]
    cores = sorted(os.sched_getaffinity(0))
    return [{"cores": tuple(cores[i % len(cores) :: workers])} for i in range(workers)]


def _few(task: Task) -> str:
    return f"{len(task.trials)} trial{'s' * (len(task.trials) > 1)}"
