"""Several processes train what one device trains; stopped or killed, training goes on elsewhere."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from eegsr_jax import geometry
from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import open_store, prepare
from eegsr_jax.distributed import ending_together, make_mesh, start_processes
from eegsr_jax.evaluation.results import read_json
from eegsr_jax.training.checkpoint import load_params, newest
from eegsr_jax.training.experiment import Experiment, trial_name
from eegsr_jax.training.journal import RunJournal, Stopped
from eegsr_jax.training.run import load, load_card, train
from eegsr_jax.training.sweep import train_sweep

NAMES = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()
EXPERIMENT = Experiment(
    dataset="simulated",
    preprocessing=PREPROCESSING["none"],
    layout="Fp1,F7,Fz,F8,C3,C4,O1,O2",
    # 32 training windows: four steps in each of five epochs
    method="emag_paper(samples=80,sfreq=80,resolution=4,groups=2,init='window',"
    "epochs=5,batch_size=8)",
    window_seconds=1.0,
    seed=5,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """2 subjects, 20 s of 20 channels at 80 Hz."""
    dataset = datasets.load(
        "simulated", montage=NAMES, num_subjects=2, seconds=20.0, sfreq=80.0, num_sources=40
    )
    out = tmp_path_factory.mktemp("processes") / "store"
    return prepare(dataset, out, PREPROCESSING["none"], progress=False)


@pytest.fixture(scope="module")
def alone(store, tmp_path_factory):
    """What one device trains."""
    out = tmp_path_factory.mktemp("alone") / "run"
    with jax.numpy_dtype_promotion("strict"):
        train(EXPERIMENT, store, out)
    return out


def same(run, expected, tolerance=1e-5):
    """The params, and what was told of every epoch."""
    found, wanted = load(run)[1], load(expected)[1]
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True
    ):
        a, b = (np.nan_to_num(np.asarray(x, np.float64), posinf=0) for x in (a, b))
        error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error}"
    assert len(metrics(run)) == len(metrics(expected))
    for a, b in zip(metrics(run), metrics(expected), strict=True):
        assert a.keys() == b.keys() and a["epoch"] == b["epoch"]
        for name in a.keys() - {"seconds_per_step", "stage"}:
            assert a[name] == pytest.approx(b[name], rel=tolerance), (name, a, b)


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------- several processes

CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); import test_processes as t; "
    "t.child(*sys.argv[2:])"
)


def child(number, port, store, out, spec, stop):
    """One of two processes; at its `stop`-th step, unless 0, the second is asked to stop."""
    assert start_processes(f"127.0.0.1:{port}", int(number), 2, timeout=60)
    keep = RunJournal.keep

    def kept(self, stage, state, position):
        print(f"kept at {int(state[0].step)}", flush=True)
        return keep(self, stage, state, position)

    RunJournal.keep = kept
    if number == "1" and int(stop):
        RunJournal.due = asked_at(int(stop))
    with ending_together():
        train(EXPERIMENT, open_store(store), Path(out), mesh=make_mesh(spec))


def swept(number, port, store, out):
    """One of two processes with a device each, which train two seeds side by side."""
    assert start_processes(f"127.0.0.1:{port}", int(number), 2, timeout=60)
    with ending_together():
        train_sweep(SEEDS, open_store(store), Path(out), mesh=make_mesh("models:2"))


SEEDS = [replace(EXPERIMENT, seed=seed) for seed in (EXPERIMENT.seed, 6)]


def asked_at(stop, due=RunJournal.due):
    """`due` that sends a SIGTERM to its own process the `stop`-th time."""
    taken = []

    def asked(self):
        taken.append(1)
        if len(taken) == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return due(self)

    return asked


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def processes(words, devices=4, environment=None):
    """Runs a command for each process; status, stdout and stderr of each."""
    environment = os.environ | (environment or {}) | {"JAX_NUM_CPU_DEVICES": str(devices)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(each, env=environment, **pipes) for each in words]
    try:
        said = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *lines) for process, lines in zip(started, said, strict=True)]


def cached(folder):
    """What spares a process the compiling that another has done."""
    if folder is None:
        return {}
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def two(store, out, stop=0, cache=None):
    """Two processes with four devices each train; the steps at which each saved."""
    port, given = free_port(), [str(store.path), str(out), "windows:8", str(stop)]
    base = [sys.executable, "-c", CHILD, str(Path(__file__).parent)]
    ended = processes([[*base, str(n), port, *given] for n in range(2)], environment=cached(cache))
    for status, _, said in ended:
        assert status == 0, said[-2000:]
    return [re.findall("kept at ([0-9]+)", out) for _, out, _ in ended]


def test_two_processes_train_what_one_device_trains(store, alone, tmp_path):
    """Twenty steps: the same losses, and the same checkpoint."""
    assert metrics(alone)[-1]["step"] == 20
    two(store, tmp_path / "run")
    same(tmp_path / "run", alone)
    names = sorted(p.name for p in (tmp_path / "run").rglob("*") if p.parent.name != "params")
    assert "progress" not in names and "metrics.jsonl" in names


@pytest.mark.slow
def test_two_processes_sweep(store, alone, tmp_path):
    port, given = free_port(), [str(store.path), str(tmp_path / "all")]
    base = [sys.executable, "-c", CHILD.replace("t.child", "t.swept"), str(Path(__file__).parent)]
    for status, _, said in processes([[*base, str(n), port, *given] for n in range(2)], devices=1):
        assert status == 0, said[-2000:]
    folders = [tmp_path / "all" / trial_name(trial) for trial in SEEDS]
    assert all((folder / "checkpoints/params").exists() for folder in folders)
    for found, wanted in zip(
        *(jax.tree.leaves(load(f)[1]) for f in (folders[0], alone)), strict=True
    ):
        found, wanted = np.nan_to_num(found, posinf=0), np.nan_to_num(wanted, posinf=0)
        assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)


@pytest.mark.slow
def test_a_run_moves_between_devices_and_processes(store, alone, tmp_path, monkeypatch):
    """Stopped on two processes, and again on one device, it ends on two processes."""
    out, cache = tmp_path / "run", tmp_path / "cache"
    first, second = two(store, out, stop=6, cache=cache)  # only the second is asked
    assert first == second and len(first) == 1 and 6 <= int(first[0]) < 12
    monkeypatch.setattr(RunJournal, "due", asked_at(4))
    with pytest.raises(Stopped):
        train(EXPERIMENT, store, out)
    monkeypatch.undo()
    found = newest(out / "checkpoints" / "progress" / "within")
    assert found is not None
    position = (found[0] / "position.json").read_text()
    assert json.loads(position)["progress"]["epoch"] in (2, 3)
    assert two(store, out, cache=cache) == [[], []]
    same(out, alone)


# ------------------------------------------------------------------------------------------- kills

EVERY = 0.2  # seconds between checkpoints
KILLED = (
    "import sys; sys.path.insert(0, sys.argv[1]); import test_processes as t; "
    "t.logged(*sys.argv[2:])"
)


def logged(store, out, epochs, log):
    """Trains, 20 ms a step at least, and notes when each step was taken."""
    due, resume, count = RunJournal.due, RunJournal.resume, [0]

    def note(line):
        with open(log, "a") as file:
            file.write(f"{line} {time.monotonic()}\n")

    def noted(self):
        count[0] += 1
        time.sleep(0.02)
        note(count[0])
        return due(self)

    def resumed(self, stage, like):
        found = resume(self, stage, like)
        count[0] = 0 if found is None else int(found[0][0].step)
        note(f"from {count[0]}")
        return found

    RunJournal.due, RunJournal.resume = noted, resumed
    train(longer(int(epochs)), open_store(store), Path(out))


def longer(epochs):
    method = EXPERIMENT.method.replace("epochs=5", f"epochs={epochs}")
    return replace(EXPERIMENT, method=method, checkpoint_seconds=EVERY)


@pytest.mark.parametrize(
    ("kills", "epochs"), [(3, 25), pytest.param(20, 100, marks=pytest.mark.slow)]
)
def test_killed_at_any_moment_it_goes_on(kills, epochs, store, tmp_path):
    chance, out, log = random.Random(kills), tmp_path / "run", tmp_path / "log"
    base = [sys.executable, "-c", KILLED, str(Path(__file__).parent)]
    words = [*base, str(store.path), str(out), str(epochs), str(log)]
    environment = os.environ | cached(tmp_path / "cache")
    for _ in range(kills):
        log.write_text("") if not log.exists() else None
        before = len(log.read_text().splitlines())
        running = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
        while running.poll() is None and len(log.read_text().splitlines()) < before + 2:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.8))
        running.kill()
        said = running.communicate()[1]
        assert running.returncode == -signal.SIGKILL, said[-2000:]
        whole(out)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

    attempts = []  # of each, when it had taken which step
    for line in log.read_text().splitlines():
        *begun, step, when = line.split()
        attempts += [{}] * bool(begun)
        attempts[-1] = attempts[-1] | {int(step): float(when)}
    assert len(attempts) == kills + 1
    for attempt, following in zip(attempts, attempts[1:], strict=False):
        steps, kept = sorted(attempt), min(following)
        assert kept in attempt  # nothing is lost of what an earlier one had kept
        longest = max(np.diff([attempt[step] for step in steps[1:]]), default=0)
        lost = attempt[steps[-1]] - attempt[kept if kept > steps[0] else steps[1]]
        assert lost <= EVERY + 2 * longest, (lost, longest)
    assert max(min(attempt) for attempt in attempts) > 0

    train(longer(epochs), store, tmp_path / "unbroken")
    same(out, tmp_path / "unbroken", 1e-7)
    assert sorted(p.name for p in out.iterdir()) == sorted(
        p.name for p in (tmp_path / "unbroken").iterdir()
    )
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["params"]


def whole(run):
    """Whatever has its final name can be read."""
    if not run.exists():
        return
    load_card(run)
    geometry.from_json(json.loads((run / "geometry.json").read_text()))
    if (run / "metrics.jsonl").exists():
        metrics(run)
    for folder in (run / "checkpoints").rglob("[0-9]*"):
        if folder.name.isdigit() and folder.parent.name == "within":
            assert json.loads((folder / "position.json").read_text())["stage"]
            assert load_params(folder / "state")
        elif folder.name.isdigit() and folder.parent.name == "stages":
            assert load_params(folder)


@pytest.mark.slow
def test_two_processes_are_scored_as_one(tmp_path):
    """Both score, as loading a run takes all of them; the first writes."""
    data = "dataset=simulated", "preprocessing.l_freq=none", "preprocessing.h_freq=none"
    emag = "emag(lags=2,resolution=3,components=4,widths=(2,),features=8,epochs=2,batch_size=4)"
    small = f"method={emag}", "window_seconds=1", "subjects=1,2,3", "test_subjects=3"
    flags = [f"--set={text}" for text in (*data, *small)]
    words = [sys.executable, "-m", "eegsr_jax.commands.main", "train", *flags]
    port, given = free_port(), [f"--workdir={tmp_path / 'run'}", f"--store={tmp_path / 'store'}"]
    each = [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
    two = [[*words, *given, *each, f"--process={n}"] for n in range(2)]
    for status, _, said in processes(two, devices=1):
        assert status == 0, said[-2000:]
    (row,) = read_json(tmp_path / "run/scores.json")[1]
    alone = [*words, f"--workdir={tmp_path / 'alone'}", f"--store={tmp_path / 'store'}"]
    ((status, _, said),) = processes([alone], devices=1)
    assert status == 0, said[-2000:]
    (expected,) = read_json(tmp_path / "alone/scores.json")[1]
    assert row["nmse_missing"] == pytest.approx(expected["nmse_missing"], rel=1e-4)
