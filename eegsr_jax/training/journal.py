"""What a training run leaves on disk while it runs: metrics, and all that resuming needs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from eegsr_jax.distributed import Votes, is_first
from eegsr_jax.errors import ConfigError
from eegsr_jax.training.checkpoint import (
    load_finished,
    load_leaves,
    newest,
    save_finished,
    save_leaves,
)
from eegsr_jax.typing import PyTree

Number = int | float | str


class Stopped(SystemExit):
    """Asked to stop, saved, and stopped; the exit status is 0, as clusters expect of requeuing."""

    def __init__(self) -> None:
        super().__init__(0)


class Journal:
    """Keeps nothing: for training without a run directory.

    Of several processes the first is told of epochs; all call everything else together.
    """

    def epoch(
        self, stage: str, numbers: dict[str, Number], remaining: float = 0.0, of: int = 0
    ) -> None:
        """Told after every epoch; `remaining` seconds to go, at most, of `of` epochs."""

    def due(self) -> bool:
        """Whether to `keep` after this step."""
        return False

    def keep(self, stage: str, state: PyTree, position: dict[str, Any]) -> None:
        """Saves what resuming at this step needs. May raise `Stopped`."""

    def resume(self, stage: str, like: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """What `keep` saved last, in the structure of `like`; None where there is nothing."""

    def finish(self, count: int, params: PyTree) -> None:
        """Saves the params after the first `count` stages. May raise `Stopped`."""

    def finished(self) -> tuple[int, PyTree] | None:
        """What `finish` was told last; None where there is nothing."""

    def scratch(self) -> Path | None:
        """A folder for what the current stage can make again; None where there is none."""

    def halt(self) -> None:
        """Where nothing is left to save: may raise `Stopped`."""


class TellOnly(Journal):
    """Hands on what epochs tell, and keeps nothing."""

    def __init__(self, journal: Journal):
        self.epoch = journal.epoch


class StopSignals:
    """Within it, SIGTERM and SIGUSR1 ask for an end instead of making one.

    Python hands signals to the main thread only; in another one nothing changes.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {
                s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGUSR1)
            }
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True


class RunJournal(Journal):
    """A run directory's `metrics.jsonl` and `checkpoints/progress`.

    Of several processes, which see one folder, the first writes; all keep and stop at one step,
    whichever was asked to.

    Args:
      folder: of the run.
      open_folder: makes it; called when there is something to keep.
      every: seconds between two checkpoints.
      writers: further takers of metrics: tensorboard, wandb.
      signals: which end the run when it has been saved.
      say: prints a line.
    """

    def __init__(
        self,
        folder: Path,
        *,
        open_folder: Callable[[], None],
        every: float = 60.0,
        writers: tuple[str, ...] = (),
        signals: StopSignals | None = None,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ):
        self.folder, self.every = folder, every
        self._open_folder, self._say = open_folder, say
        # What this process was asked, and what all know that one of them was asked.
        self._signals, self._stop, self._votes = signals or StopSignals(), False, Votes()
        progress = folder / "checkpoints" / "progress"
        # The params after the stages that are finished, the state within one, and what it derives.
        self._stages, self._within, self._scratch = (
            progress / name for name in ("stages", "within", "derived")
        )
        self._kept = time.monotonic()
        for name in writers:
            check_writer(name)
        self._names, self._writers = writers, []

    def epoch(
        self, stage: str, numbers: dict[str, Number], remaining: float = 0.0, of: int = 0
    ) -> None:
        """Appends to `metrics.jsonl`, tells the writers, and prints the progress."""
        self._open_folder()
        if self._names and not self._writers:  # they would make the folder themselves
            self._writers = [writer(name, self.folder) for name in self._names]
        record = {"stage": stage, **numbers}
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(_plain(record)) + "\n")
        for write in self._writers:
            write(int(numbers["step"]), {f"{stage}/{k}": v for k, v in numbers.items()})
        shown = " ".join(
            f"{name} {numbers[name]:.4g}" for name in ("loss", "validate") if name in numbers
        )
        line = f"{stage}: epoch {numbers['epoch']}/{of or '-'} {shown}"
        if "best_epoch" in numbers:
            line += f" best {numbers['best_validate']:.4g} at {numbers['best_epoch']}"
            line += f" ETA {_clock(remaining)}"
        self._say(line)

    def due(self) -> bool:
        """Every so many seconds, and when a signal has asked to stop."""
        waited = is_first() and time.monotonic() - self._kept >= self.every
        self._stop, waited = self._votes(self._signals.asked, waited)
        return self._stop or waited

    def keep(self, stage: str, state: PyTree, position: dict[str, Any]) -> None:
        """Saves; then ends the run when a signal has asked to stop."""
        save_leaves(self._within, stage, state, position)
        self._kept = time.monotonic()
        self._leave()

    def resume(self, stage: str, like: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """The newest checkpoint of this stage."""
        found = newest(self._within)
        if found is None or found[1] != stage:
            self._forget_after(stage, -1)
            return None
        state, position = load_leaves(found[0], like)
        self._forget_after(stage, position["progress"]["epoch"])
        self._tell(f"{stage}: resumed in epoch {position['progress']['epoch'] + 1}")
        return state, position

    def finish(self, count: int, params: PyTree) -> None:
        """Saves, in the place of all that was kept; then ends the run as `keep` does."""
        save_finished(self._stages, count, params)
        if is_first():
            for path in (self._within, self._scratch):
                shutil.rmtree(path, ignore_errors=True)
        (self._stop,) = self._votes(self._signals.asked, now=True)
        self._leave()

    def finished(self) -> tuple[int, PyTree] | None:
        """The stages that need not run again."""
        return load_finished(self._stages)

    def scratch(self) -> Path | None:
        """A folder of the run directory that is deleted with its progress.

        Several processes have none: each would have to wait for the files of the others.
        """
        if jax.process_count() > 1:
            return None
        self._open_folder()
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch

    def halt(self) -> None:
        """Ends the run when a signal has asked to stop."""
        (self._stop,) = self._votes(self._signals.asked)
        self._leave()

    def _leave(self) -> None:
        if self._stop:
            self._tell("stopped, and saved; the same command goes on")
            raise Stopped()

    def _tell(self, line: str) -> None:
        if is_first():
            self._say(line)

    def _forget_after(self, stage: str, epoch: int) -> None:
        """Drops metrics of epochs that will be run again, so that none is listed twice."""
        path = self.folder / "metrics.jsonl"
        if not is_first() or not path.exists():
            return
        lines = path.read_text().splitlines()
        records = [json.loads(line) for line in lines if line.endswith("}")]
        kept = [r for r in records if r["stage"] != stage or r["epoch"] <= epoch]
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(r) + "\n" for r in kept))
        part.replace(path)

    def forget(self) -> None:
        """Deletes what resuming would need."""
        progress = self._within.parent
        if is_first() and progress.exists():
            shutil.rmtree(progress, ignore_errors=True)
            with suppress(OSError):  # it may hold more
                progress.parent.rmdir()


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a score that there is not is null."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in record.items()}


_WRITERS = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def check_writer(name: str) -> None:
    """Refuse a taker of metrics that there is not, or whose package is not installed.

    Raises:
      ConfigError: so it is.
    """
    if name not in _WRITERS:
        raise ConfigError(f"writers={name}: expected tensorboard or wandb")
    if importlib.util.find_spec(_WRITERS[name]) is None:
        raise ConfigError(
            f"writers={name}: {_WRITERS[name]} is not installed; pip install eegsr_jax[{name}]"
        )


def writer(name: str, folder: Path) -> Callable[[int, dict[str, Number]], None]:
    """A taker of metrics: "tensorboard" or "wandb"."""
    if name == "tensorboard":
        from tensorboardX import SummaryWriter

        board = SummaryWriter(str(folder))

        def to_board(step: int, numbers: dict[str, Number]) -> None:
            for key, value in numbers.items():
                board.add_scalar(key, value, step)
            board.flush()

        return to_board
    import wandb

    made = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    run = wandb.init(dir=str(folder), name=folder.name, id=made, resume="allow")
    return lambda step, numbers: run.log(numbers, step=step)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
