"""Sweeps: launch the trials of a config, look at them, stop them, collect their scores.

python -m launch.sweep [run] --config=configs/NAME.py --out=DIR [--backend=local|slurm|k8s]
python -m launch.sweep status|cancel|collect --out=DIR

The same command goes on where a sweep was stopped: finished trials are left alone, others resumed,
failed ones tried again. DIR is seen by all that work on the sweep. --dry_run says what would run
and what it will take.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from absl import flags

from eegsr_jax.commands.main import explain, flag_lines
from eegsr_jax.commands.prepare import required
from eegsr_jax.commands.train import prepared_store
from eegsr_jax.data.store import open_store
from eegsr_jax.errors import ConfigError, EEGSRError
from eegsr_jax.evaluation import tables
from eegsr_jax.evaluation.provenance import called
from eegsr_jax.training.experiment import (
    Experiment,
    check_store,
    is_tested,
    split_of,
    trial_name,
)
from eegsr_jax.training.sweep import note_failure
from launch import board, k8s, local, plan, slurm
from launch.collect import collect
from launch.job import Resources

BACKENDS = "local", "slurm", "k8s"
ACTIONS = "run", "status", "cancel", "collect"
_WORKERS = 16  # tasks at a time, on clusters
_LAUNCHER = ".launcher"
_PROGRAM = "python -m launch.sweep"


def define_flags() -> flags.FlagValues:
    """What to run, where, and with what."""
    values = flags.FlagValues()

    def text(name: str, default: str | None, told: str) -> None:
        flags.DEFINE_string(name, default, told, flag_values=values)

    def number(name: str, default: int | None, told: str) -> None:
        least = 0 if name in ("gpus", "retries") else 1
        flags.DEFINE_integer(name, default, told, lower_bound=least, flag_values=values)

    def several(name: str, told: str) -> None:
        flags.DEFINE_multi_string(name, [], told, flag_values=values)

    text("config", None, "A file of configs/ with get_config() and sweep().")
    several("set", "FIELD=VALUE, of every trial.")
    text("out", None, "The sweep's folder.")
    text("store", None, "Folder for prepared recordings; default: OUT/store.")
    flags.DEFINE_enum("backend", "local", BACKENDS, "Who runs it.", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Say what would run, and its cost.", flag_values=values)
    number("workers", None, "Tasks at a time; default: one a GPU or two cores, 16 on clusters.")
    number("pack", None, "Trials of a task at most; default: those of a method over all workers.")
    number("retries", 1, "How often a task that crashed is begun again.")
    flags.DEFINE_float("hours", None, "Of a task; it then goes on later.", flag_values=values)
    number("hosts", 1, "Of a task of a deep method: they train one trial together.")
    number("processes", 1, "On each host.")
    number("cores", 2, "Of each process, on clusters.")
    number("gpus", 0, "Of each host, for deep methods.")
    flags.DEFINE_float("memory_gb", None, "Of each host, on clusters.", flag_values=values)
    text("tpu", None, "A slice for deep methods: ACCELERATOR:TOPOLOGY, tpu-v5-lite-podslice:2x4.")
    several("env", "NAME=VALUE for the tasks.")
    several("slurm", "OPTION=VALUE of sbatch: partition=gpu, account=eeg, constraint=a100.")
    several("k8s", f"OPTION=VALUE, of {', '.join(k8s.OPTIONS)}.")
    return values


def main(words: Sequence[str]) -> int:
    """The program; its exit status. Errors of the input are one line."""
    values = define_flags()
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.", flag_values=values)
    if any(word in ("-h", "-help", "--help") for word in words):
        print("\n".join([str(__doc__), *flag_lines(values)]))
        return 0
    try:
        arguments = values(["launch.sweep", *words])[1:] or ["run"]
        if len(arguments) != 1 or arguments[0] not in ACTIONS:
            raise ConfigError(f"expected one of {', '.join(ACTIONS)}, found {' '.join(arguments)}")
        out = Path(required(values, "out"))
        {"run": run, "status": status, "cancel": cancel, "collect": collected}[arguments[0]](
            values, out
        )
    except (EEGSRError, flags.Error, OSError, KeyboardInterrupt) as error:
        if values.is_parsed() and values.debug:
            raise
        print(f"launch.sweep: {' '.join(explain('launch.sweep', error).split())}", file=sys.stderr)
        return 2
    return 0


def run(values: flags.FlagValues, out: Path) -> None:
    """Launches what has no result yet."""
    experiments = plan.asked_for(required(values, "config"), values["set"].value or ())
    names = {trial_name(e): e for e in experiments}
    left = [e for n, e in names.items() if board.state(out, n, is_tested(e)) != "finished"]
    done = len(names) - len(left)
    print(f"{out}: {len(names)} trials, {done} finished, {len(left)} to run", flush=True)
    if values.dry_run and left:
        print(plan.costs(left))
    if values.dry_run or not left:
        return
    jax.config.update("jax_platforms", "cpu")  # the devices are the workers'
    with _only_launcher(out):
        if said := plan.keep(out, experiments):
            print(said)
        busy = _in_hand(out)
        left = [e for e in left if trial_name(e) not in busy]
        if busy:
            print(f"{len(busy)} are in hand already")
        if left:
            _launch(values, out, experiments, left)


def _launch(
    values: flags.FlagValues, out: Path, experiments: list[Experiment], left: list[Experiment]
) -> None:
    """Hands jobs to a back end; the local one returns when they are over."""
    backend = values.backend
    store = Path(values.store or out / "store")
    if backend == "local" and values.hosts * values.processes > 1:
        raise ConfigError("--backend=local: one process trains a trial; leave --hosts out")
    if backend != "k8s" and not _is_ready(store, experiments):  # pods alone may see OUT
        prepared_store(experiments, store)
    for experiment in left:
        note_failure(out, trial_name(experiment), "")  # it is tried again
    jobs = plan.divide(
        left,
        out.resolve(),
        store.resolve(),
        resources=Resources(
            hosts=values.hosts,
            processes=values.processes,
            cores=values.cores,
            gpus=values.gpus,
            memory_gb=values.memory_gb,
            tpu=values.tpu,
        ),
        workers=values.workers or (local.default_workers() if backend == "local" else _WORKERS),
        pack=values.pack,
        retries=values.retries,
        hours=values.hours,
        environment=tuple(_pairs(values, "env").items()),
    )
    tasks = sum(len(job.tasks) for job in jobs)
    record: dict[str, Any] = {
        "backend": backend,
        "time": plan.now(),
        "command": called(_PROGRAM),
    }
    if backend == "k8s":
        file = out / "jobset.yaml"
        k8s.write(file, jobs, _pairs(values, "k8s"))
        plan.note(out, jobs, record)
        print(f"{tasks} tasks: kubectl apply -f {file}")
    elif backend == "slurm":
        for job in jobs:
            given = slurm.submit(job, _pairs(values, "slurm"))
            ids = dict(zip([task.name for task in job.tasks], given, strict=True))
            plan.note(out, [job], record | {"ids": ids})  # at once: the next may be refused
        print(f"{tasks} tasks handed to Slurm; `status` tells how they stand")
    else:
        plan.note(out, jobs, record)
        local.run(jobs, say=lambda line: print(line, flush=True))
        print(board.page(out))


def _is_ready(store: Path, experiments: list[Experiment]) -> bool:
    """Whether a store has all recordings: tasks of an earlier launch may be reading it."""
    if not store.exists():
        return False
    try:
        opened = open_store(store)
        for experiment in experiments:
            split_of(experiment, opened)
    except EEGSRError:
        return False
    for experiment in experiments:
        check_store(experiment, opened)
    return True


def status(values: flags.FlagValues, out: Path) -> None:
    """Prints how the trials stand."""
    try:
        print(board.page(out, _in_hand(out)))
    except ConfigError as error:
        print(f"{board.page(out)}\n{error}")


def cancel(values: flags.FlagValues, out: Path) -> None:
    """Has what runs save and end; what is finished stays."""
    board.trials(out)
    told = []
    for launch in board.launches(out):
        if launch["backend"] == "slurm":
            slurm.cancel(launch["ids"].values())
        elif launch["backend"] == "k8s":
            told = [f"on Kubernetes: kubectl delete -f {out / 'jobset.yaml'}"]
    if (found := _launcher(out)) is not None:
        host, pid = found
        if host == socket.gethostname():
            os.kill(pid, signal.SIGTERM)
            told.append(f"process {pid} was asked to end; its workers save first")
        else:
            told.append(f"a launcher runs on {host}: cancel there, or kill its process {pid}")
    print("\n".join([f"{out}: cancelled", *told]))


def collected(values: flags.FlagValues, out: Path) -> None:
    """Writes the results, and prints what they say."""
    jax.config.update("jax_platforms", "cpu")
    launches = board.launches(out)
    command = launches[0]["command"] if launches else called(_PROGRAM)
    files = collect(out, Path(values.store or out / "store"), command)
    for file in files:
        if file.name == "results.json":
            head, rows = tables.read_json(file)
            print(f"{head['protocol']}: {tables.reading(rows)}")
    print(f"written: {', '.join(map(str, files))}")


def _in_hand(out: Path) -> dict[str, str]:
    """Trials that Slurm has, and how it says that they stand."""
    found: dict[str, str] = {}
    left = set(board.unfinished(out, board.trials(out)))
    for launch in board.launches(out):
        own = {name for trials in launch["tasks"].values() for name in trials}
        if launch["backend"] == "slurm" and own & left:
            alive = slurm.alive(launch["ids"].values())
            states = slurm.states(alive)
            for task, number in launch["ids"].items():
                if number in alive:
                    state = states.get(number, "pending")
                    found |= dict.fromkeys(launch["tasks"][task], state)
    return found


@contextmanager
def _only_launcher(out: Path) -> Iterator[None]:
    """Refuses a second launcher in the folder; the file says who the first is.

    Raises:
      ConfigError: there is one.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LAUNCHER).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{out}: another launcher is at work there; wait for it, or `cancel`"
            ) from None
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
        file.flush()
        yield


def _launcher(out: Path) -> tuple[str, int] | None:
    """Host and process number of a launcher at work there."""
    try:
        with (out / _LAUNCHER).open("r+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                host, _, pid = file.read().strip().partition(" ")
                return (host, int(pid)) if pid else None  # it has just begun
    except FileNotFoundError:
        pass
    return None


def _pairs(values: flags.FlagValues, name: str) -> dict[str, str]:
    """NAME=VALUE of a flag that may be given several times."""
    found = {}
    for word in values[name].value or ():
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"--{name}={word}: expected --{name}=NAME=VALUE")
        found[key] = value
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
