"""One task through its end: the command that trains it, begun again where it crashes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eegsr_jax import config
from eegsr_jax.training.experiment import Experiment, trial_name
from eegsr_jax.training.sweep import note_failure
from launch.board import tail, unfinished
from launch.job import Job, Task

_PATIENCE = 120.0  # seconds for a program to save when it is asked to stop; then it is killed
# How a command ends that was asked to: having saved, or, as a closed form, with nothing to save.
_ASKED = 0, -signal.SIGTERM, -signal.SIGUSR1
_BAD_INPUT = 2  # the command's status for what another attempt would not mend
# What becomes the command: with cores of its own, and told to save and end when its parent dies.
_LEASH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit(1)  # it has died already
for number in (signal.SIGINT, signal.SIGHUP):  # of the terminal: the launcher tells by SIGTERM
    signal.signal(number, signal.SIG_IGN)
cores = set(map(int, filter(None, sys.argv[1].split(","))))
if cores & os.sched_getaffinity(0):
    os.sched_setaffinity(0, cores & os.sched_getaffinity(0))
os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass
class Worker:
    """The attempts at a task.

    A packed task that crashes is tried again trial by trial, so that the one at fault fails alone.

    Attributes:
      job, task: what to run.
      python: what starts the interpreter.
      environment: variables of this worker, such as its device.
      cores: which the command may use; () is all.
    """

    job: Job
    task: Task
    python: Sequence[str] = (sys.executable,)
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] = ()
    _child: subprocess.Popen[bytes] | None = None
    _stopping: float | None = None  # since when

    def __call__(self) -> None:
        """Until the task is over, or has been stopped."""
        for _ in self.steps():
            time.sleep(0.2)

    def stop(self) -> None:
        """Asks the command to save and to end; `steps` goes on until it has."""
        self._stopping = self._stopping or time.monotonic()
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)

    @property
    def stopped(self) -> bool:
        """Whether somebody asked for it."""
        return self._stopping is not None

    def steps(self) -> Iterator[None]:
        """Begins, looks after and ends the commands; yields while there is nothing to do.

        Trials that are left without a result are noted with the last lines of the log, unless the
        worker was stopped.
        """
        files, alone = [self.task.file], len(self.task.trials) == 1
        attempts = {self.task.file: 0}
        while files and not self.stopped:
            file = files.pop(0)
            if not self._left(file):
                continue
            attempts[file] += 1
            status = yield from self._once(file, attempts[file])
            left = self._left(file)
            if not left or self.stopped:
                continue
            if status in _ASKED:  # by somebody else, and not of this worker alone
                return
            # Of several hosts, one that loses the others ends as with bad input.
            asked = self.job.resources
            several = asked.hosts * asked.processes > 1
            again = (several or status != _BAD_INPUT) and attempts[file] <= self.job.retries
            if not alone:
                files, alone = [self._file_of(name) for name in left], True
                attempts = dict.fromkeys(files, 0)
            elif again:
                files.insert(0, file)
            else:
                for name in left:
                    note_failure(self.job.out, name, f"{_ended(status)}\n{tail(self._log)}")

    @property
    def _log(self) -> Path:
        return self.job.log(self.task)

    def left(self) -> list[str]:
        """Trials of the task that have neither a result nor a reason why not."""
        return unfinished(self.job.out, self.task.trials)

    def _left(self, file: Path) -> list[str]:
        names = self.task.trials if file == self.task.file else (file.stem.rpartition("-")[2],)
        return unfinished(self.job.out, names)

    def _file_of(self, name: str) -> Path:
        """A task file with one of the trials."""
        file = self.task.file.with_name(f"{self.task.name}-{name}.json")
        trials = config.load_list(Experiment, self.task.file)
        own = [trial for trial in trials if trial_name(trial) == name]
        half = file.with_name(f".{file.name}.{socket.gethostname()}-{os.getpid()}")
        half.write_text(config.list_to_json(own), encoding="utf-8")
        half.replace(file)
        return file

    def _once(self, file: Path, attempt: int) -> Iterator[None]:
        """One run of the command; its exit status."""
        words = self.job.command(file, self.python)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            head = f"--- {time.strftime('%F %T')} {socket.gethostname()}, attempt {attempt}\n"
            log.write(head.encode())
            log.flush()
            leash = sys.executable, "-c", _LEASH, str(os.getpid())
            self._child = subprocess.Popen(
                [*leash, ",".join(map(str, self.cores)), *words],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | dict(self.job.environment) | dict(self.environment),
            )
        if self.stopped:  # while it was begun
            self.stop()
        begun = time.monotonic()
        while (status := self._child.poll()) is None:
            now = time.monotonic()
            if self.job.hours is not None and now - begun > 3600 * self.job.hours:
                self.stop()
            if self._stopping is not None and now - self._stopping > _PATIENCE:
                self._child.kill()
            yield
        return status


def _ended(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"
