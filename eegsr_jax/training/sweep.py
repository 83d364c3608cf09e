"""All trials of a sweep: run directories side by side, models of one method trained together.

A trial's folder is named by a hash of its experiment, and is all that is known of it: what is
complete is left alone, what has begun goes on. Several programs may work in one folder; a trial is
held by one of them at a time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import jax
from jax.sharding import Mesh

from eegsr_jax.data.store import Store
from eegsr_jax.distributed import from_first, is_first
from eegsr_jax.errors import ConfigError, EEGSRError
from eegsr_jax.training.experiment import (
    Experiment,
    is_closed_form,
    one_method,
    prepared,
    trial_name,
)
from eegsr_jax.training.journal import RunJournal, StopSignals
from eegsr_jax.training.loop import check_binding
from eegsr_jax.training.many import Task, fit_groups
from eegsr_jax.training.run import card_of, is_complete, refuse_other, train, write_run
from eegsr_jax.training.windows import StoreWindows

FAILED = "failed"  # of a sweep's folder: why a trial has no result
PACKS = "packs"  # what many models that are trained together have in common
_LOCK = ".lock"
Trials = list[tuple[Experiment, Path]]


def train_sweep(
    experiments: Sequence[Experiment],
    store: Store,
    out: Path,
    *,
    mesh: Mesh | None = None,
    then: Callable[[Experiment, Path], None] = lambda experiment, folder: None,
) -> dict[Path, str]:
    """Train every experiment into a run directory of `out`; complete ones are left as they are.

    Experiments of one method are trained together (`training.many`): their subjects, layouts and
    seeds may differ. A mesh with an axis "models" spreads them. SIGTERM and SIGUSR1 make deep
    methods save after the epoch at hand, a single one after its step, and end with status 0; the
    same call goes on.

    Args:
      experiments: the trials.
      store: with the recordings of all of them.
      out: the folder.
      mesh: see `fit_many` and `train`.
      then: what else is done with a complete trial, by all processes; done again at each call.

    Returns:
      Of the trials that failed, why; also in `out/failed/NAME.txt`. All others are complete.

    Raises:
      ConfigError: two experiments are the same.
    """
    folders = {out / trial_name(experiment): experiment for experiment in experiments}
    if len(folders) < len(experiments):
        names = [trial_name(experiment) for experiment in experiments]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"sweep: trial {twice} is there twice; leave one out")
    failed: dict[Path, str] = {}

    def end(experiment: Experiment, folder: Path, error: EEGSRError | None = None) -> None:
        """The trial has its result, or none."""
        if error is None:
            try:
                then(experiment, folder)
            except EEGSRError as found:
                error = found
        if error is not None:
            failed[folder] = str(error)
        if is_first():
            note_failure(out, folder.name, "" if error is None else str(error))

    methods: dict[str, Trials] = {}
    for folder, experiment in folders.items():
        methods.setdefault(experiment.method, []).append((experiment, folder))
    for text, trials in methods.items():
        with _held(out, [folder.name for _, folder in trials]):
            waiting = _waiting(trials, store, end)
            if len(waiting) == 1:
                _alone(*waiting[0], store, mesh, end)
            elif waiting:
                _together(text, waiting, store, out, mesh, end)
    return failed


def note_failure(out: Path, name: str, why: str) -> None:
    """Write why a trial has no result, or nothing, and then delete what was written before."""
    file = out / FAILED / f"{name}.txt"
    if not why:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(f".{socket.gethostname()}-{os.getpid()}.tmp")
    half.write_text(f"{why}\n", encoding="utf-8")
    os.replace(half, file)


def _waiting(trials: Trials, store: Store, end: Callable[..., None]) -> Trials:
    """Those that are to be trained; the others are ended."""

    def state(experiment: Experiment, folder: Path) -> str:
        try:
            card = card_of(experiment, store)
            if is_complete(folder, card):
                return "complete"
            refuse_other(folder, card)
        except EEGSRError as error:
            return f"no: {error}"
        return "waiting"

    if is_first():  # what killed processes left of folders that were to appear
        for _, folder in trials:
            for half in folder.parent.glob(f".{folder.name}.*.tmp"):
                shutil.rmtree(half, ignore_errors=True)
    states = from_first([state(*trial) for trial in trials])
    for trial, found in zip(trials, states, strict=True):
        if found == "complete":
            end(*trial)
        elif found != "waiting":
            end(*trial, ConfigError(found.removeprefix("no: ")))
    return [trial for trial, found in zip(trials, states, strict=True) if found == "waiting"]


def _alone(
    experiment: Experiment, folder: Path, store: Store, mesh: Mesh | None, end: Callable[..., None]
) -> None:
    try:
        train(experiment, store, folder, mesh=mesh)
    except EEGSRError as error:
        end(experiment, folder, error)
    else:
        end(experiment, folder)


def _together(
    text: str, trials: Trials, store: Store, out: Path, mesh: Mesh | None, end: Callable[..., None]
) -> None:
    """Trials of one method, in groups; each group's are written when it is trained."""
    _, method = one_method(text)
    shared: dict[StoreWindows, StoreWindows] = {}
    tasks, trained = [], []
    for experiment, folder in trials:
        try:
            windows, where = prepared(experiment, store)
            check_binding(method, windows.store.recordings[0].sfreq, windows.window)
        except EEGSRError as error:
            end(experiment, folder, error)
            continue
        # Equal windows are one, so that their pass and their place on the device are shared.
        windows = shared.setdefault(windows, windows)
        tasks.append(Task(where, windows, jax.random.key(experiment.seed)))
        trained.append((experiment, folder))
    signals = StopSignals()

    def journal_of(members: list[int]) -> RunJournal:
        names = [trained[i][1].name for i in members]  # in the order in which their states lie
        folder = out / PACKS / hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]

        def begin() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "trials.txt").write_text("\n".join(names) + "\n")

        first = trained[members[0]][0]
        every, writers = first.checkpoint_seconds, first.writers
        return RunJournal(folder, open_folder=begin, every=every, writers=writers, signals=signals)

    # A closed form is over in seconds, and has nothing to save half-way.
    with nullcontext() if is_closed_form(method) else signals:
        for members, found in fit_groups(method, tasks, mesh=mesh, journal_of=journal_of):
            for number, params in zip(members, found, strict=True):
                experiment, folder = trained[number]
                if not isinstance(params, EEGSRError):
                    card = card_of(experiment, store)
                    write_run(folder, card, tasks[number].geometry, params)
            journal_of(members).forget()
            for number, params in zip(members, found, strict=True):  # what else is done takes time
                end(*trained[number], params if isinstance(params, EEGSRError) else None)


@contextmanager
def _held(out: Path, names: Sequence[str]) -> Iterator[None]:
    """No other process trains these trials meanwhile; one that does is waited for.

    A byte of one file is locked for each: such locks end with their process, also over NFS.
    """
    if not is_first():
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("ab") as file:
        for name in sorted(names):  # in one order, so that no two wait for each other
            place = 1, int(name[:15], 16)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *place)
            except BlockingIOError:
                print(f"{name}: another process trains it; waiting", file=sys.stderr, flush=True)
                fcntl.lockf(file, fcntl.LOCK_EX, *place)
        yield
