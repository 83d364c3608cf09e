"""Sweeps on this machine: what they leave, what they say, and what no accident takes away."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eegsr_jax.commands.evaluate import with_lagged_ridge
from eegsr_jax.data.store import open_store
from eegsr_jax.evaluation.compare import compare
from eegsr_jax.evaluation.folds import Options
from eegsr_jax.evaluation.protocols import protocol
from eegsr_jax.methods import parse
from launch import board, plan, sweep

HERE = Path(sweep.__file__).parents[1]
SMALL = "emag(lags=2,resolution=3,components=4,widths=(2,),features=8,epochs={},batch_size=4)"
CONFIG = """
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.training.experiment import Experiment
from eegsr_jax.trials import chain, product, vary

def get_config():
    return Experiment(
        dataset="simulated",
        preprocessing=PREPROCESSING["none"],
        layout="spread:8",
        window_seconds=1.0,
        validate=0.25,
        checkpoint_seconds=1.0,
    )

def sweep():
    return {trials}
"""


def config(folder, trials, name="cfg.py"):
    file = folder / name
    file.write_text(CONFIG.replace("{trials}", trials))
    return f"--config={file}"


def launch(*words, **options):
    """The program, as a process."""
    command = [sys.executable, "-m", "launch.sweep", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(HERE)} | options.pop("environment", {})
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, **options
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Programs compiled once for all processes of these tests."""
    return {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}


LOSO = f"""product(
    vary("test_subjects", [("1",), ("2",)]),
    chain(vary("method", ["nearest", "ridge"]), product(
        vary("method", [{SMALL.format(2)!r}]), vary("seed", [0, 1]))))"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """A sweep that ran to its end: 2 subjects, the lagged ridge, two closed forms, two seeds."""
    folder = tmp_path_factory.mktemp("sweep")
    words = config(folder, LOSO), f"--out={folder / 'out'}", "--workers=2"
    status, said, errors = launch(*words, environment=cache)
    assert status == 0, errors
    assert "10 trials, 0 finished, 10 to run" in said and "10 trials; 10 finished" in said
    return folder / "out", words


def test_its_scores_are_those_of_evaluate(finished):
    out, _ = finished
    assert main(["collect", f"--out={out}"]) == 0
    with (out / "results/trials.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 10 and {line["state"] for line in lines} == {"finished"}
    store = open_store(out / "store")
    chosen = protocol("leave_subjects_out")
    chosen = chosen.__class__(**{**chosen.__dict__, "window_seconds": 1.0})
    folds = chosen.folds(store, Options(subjects=("1",)))
    methods = with_lagged_ridge(parse(f"nearest,ridge,{SMALL.format(2)}"))
    rows, _ = compare(folds, chosen, methods, ["spread:8"], seeds=[0, 1])
    own = {(x["method"], x["training_seed"]): x for x in lines if x["subject"] == "1"}
    assert len(own) == len(rows) == 5
    for row in rows:
        line = own[row["method"], "" if row["training_seed"] is None else str(row["training_seed"])]
        exact = not row["method"].startswith("emag")  # side by side, sums have another order
        tolerance = 1e-9 if exact else 2e-3
        for score in ("nmse_missing", "nmse_all", "snr_missing_db", "coverage_90"):
            assert float(line[score]) == pytest.approx(row[score], rel=tolerance), row["method"]


def test_what_it_collects(finished):
    out, _ = finished
    assert main(["collect", f"--out={out}"]) == 0
    folder = out / "results/leave_subjects_out"
    assert {f.name for f in folder.iterdir()} == {
        "results.json", "results.csv", "results.md", "report.html"
    }  # fmt: skip
    page = (folder / "results.md").read_text()
    assert "Against `lagged_ridge`, subject by subject" in page
    assert "python -m launch.sweep --config=…/cfg.py" in page and str(out) not in page


def test_parquet_where_pyarrow_is(finished):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    out, _ = finished
    assert main(["collect", f"--out={out}"]) == 0
    table = parquet.read_table(out / "results/trials.parquet")
    assert table.num_rows == 10 and "nmse_missing" in table.column_names


def test_the_same_command_leaves_finished_trials_alone(finished, capsys):
    out, words = finished
    before = {file: file.stat().st_mtime_ns for file in out.glob("*/scores.json")}
    assert main(words) == 0
    assert capsys.readouterr().out == f"{out}: 10 trials, 10 finished, 0 to run\n"
    assert before == {file: file.stat().st_mtime_ns for file in out.glob("*/scores.json")}
    assert main(["status", f"--out={out}"]) == 0
    assert "ridge                " in capsys.readouterr().out


def test_a_trial_without_scores_is_scored_and_not_trained(finished):
    out, words = finished
    file = sorted(out.glob("*/scores.json"))[0]
    kept, params = rows_of(file), (file.parent / "config.json").stat().st_mtime_ns
    file.unlink()
    assert launch(*words)[0] == 0
    assert rows_of(file) == kept
    assert (file.parent / "config.json").stat().st_mtime_ns == params


def rows_of(file):
    """Scores, which are the same each time; speed is not."""
    rows = json.loads(file.read_text())["rows"]
    return [{k: v for k, v in row.items() if k != "times_real_time"} for row in rows]


def main(words):
    return sweep.main(list(map(str, words)))


FAILING = f"""chain(
    product([{{"subjects": ("1",), "method": {SMALL.format(2)!r}}}], vary("seed", [0, 1])),
    [{{"method": "ridge", "layout": "spread:99"}}])"""


def test_a_trial_that_cannot_be_is_listed(tmp_path, cache):
    out = tmp_path / "out"
    words = config(tmp_path, FAILING), f"--out={out}"
    status, said, _ = launch(*words, environment=cache)
    assert status == 0
    assert "5 trials; 3 finished, 2 failed" in said
    assert said.count("failed: ") == 2 and "spread:99" in said
    # Mended, the same folder goes on; what is no longer asked for is left out, and stays.
    words = config(tmp_path, FAILING.replace("spread:99", "spread:9")), f"--out={out}"
    status, said, _ = launch(*words, environment=cache)
    assert "2 trials of an earlier sweep are there and are left out" in said
    assert status == 0 and "5 trials; 5 finished" in said


# A trial at which the process dies: its folder's name is a file's, which ends it when it is there.
DEADLY = """
import os, signal, sys
from eegsr_jax.training import sweep
from eegsr_jax.training.experiment import trial_name
kept = sweep.prepared
def prepared(experiment, store):
    if experiment.seed == 3:
        print("about to die", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return kept(experiment, store)
sweep.prepared = prepared
from eegsr_jax.training import run
run.prepared = prepared
"""


def test_a_crash_of_one_takes_no_other_with_it(tmp_path, cache):
    out, odd = tmp_path / "out", tmp_path / "odd"
    odd.mkdir()
    (odd / "sitecustomize.py").write_text(
        f"import sys\nif 'train' in sys.orig_argv:\n    exec({DEADLY!r})\n"
    )
    trials = f'product(vary("method", [{SMALL.format(2)!r}]), vary("seed", [1, 2, 3, 4]))'
    words = config(tmp_path, trials), f"--out={out}", "--retries=1"
    path = {"PYTHONPATH": f"{odd}{os.pathsep}{HERE}"}
    status, said, errors = launch(*words, environment=cache | path)
    assert status == 0, errors
    assert "5 trials; 4 finished, 1 failed" in said
    assert "seed=3" in said and "was ended by SIGKILL" in said and "about to die" in said
    # Without what killed it, the same command mends it.
    status, said, _ = launch(*words, environment=cache)
    assert status == 0 and "5 trials; 5 finished" in said


def test_a_full_disk_ends_in_a_line_and_loses_nothing(tmp_path, cache):
    disk, out = tmp_path / "disk", tmp_path / "disk/out"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small file system can be mounted here (it takes root)")
    try:
        trials = 'product(vary("method", ["ridge", "nearest"]), vary("validate", [0.2, 0.25, 0.3]))'
        words = config(tmp_path, trials), f"--out={out}", f"--store={tmp_path / 'store'}"
        status, said, errors = launch(*words, environment=cache)
        assert "Traceback" not in said + errors, said + errors
        assert "no space left" in said + errors
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        before = {f: f.stat().st_mtime_ns for f in out.glob("*/checkpoints/params")}
        status, said, errors = launch(*words, environment=cache)
        assert status == 0 and "9 trials; 9 finished" in said, errors
        assert (
            before.items()
            <= {f: f.stat().st_mtime_ns for f in out.glob("*/checkpoints/params")}.items()
        )
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_second_launcher_is_refused_and_the_first_can_be_cancelled(tmp_path, cache, capsys):
    out = tmp_path / "out"
    words = config(tmp_path, f'vary("method", [{SMALL.format(4000)!r}])'), f"--out={out}"
    environment = os.environ | cache | {"PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "launch.sweep", *words]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    for _ in range(1200):
        if list(out.glob("*/metrics.jsonl")) or first.poll() is not None:
            break
        time.sleep(0.1)
    assert main(words) == 2
    assert "another launcher is at work there" in capsys.readouterr().err
    assert main(["cancel", f"--out={out}"]) == 0
    said, _ = first.communicate(timeout=120)
    assert "stopped; the same command goes on" in said and "1 begun" in said


def test_a_dry_run_tells_the_cost_and_writes_nothing(tmp_path, capsys):
    words = config(tmp_path, LOSO), f"--out={tmp_path / 'out'}", "--dry_run"
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "10 trials, 0 finished, 10 to run" in said
    for method, count in (("lagged_ridge", 2), ("ridge", 2), ("emag", 4)):
        assert any(x.split()[0].startswith(method) and f" {count} trials" in x
                   for x in said.splitlines()[1:])  # fmt: skip
    assert "TFLOP" in said and "in all" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "--out"),
        (["runn", "--out=x"], "expected one of run, status, cancel, collect, found runn"),
        (["status", "--out=nowhere"], "nowhere holds no sweep"),
        (["--out=x", "--config=no.py"], "no.py: no such configuration file"),
        (["--out=x", "--backend=ray"], "backend"),
        (["--out=x", "--configg=y"], "configg"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, errors = capsys.readouterr()
    assert message in errors and errors.count("\n") == 1 and "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_a_store_of_other_data_is_refused(finished, capsys):
    out, words = finished
    other = [*words, f"--store={out / 'store'}", "--set", "preprocessing.l_freq=1"]
    assert main(other) == 2
    said = capsys.readouterr().err
    assert "was prepared with preprocessing=" in said and "choose another --store" in said


def test_a_sweep_of_what_is_no_seed_has_a_page_each(tmp_path, cache):
    out = tmp_path / "out"
    trials = (
        """product(vary("test_subjects", [("1",), ("2",)]), vary("window_seconds", [1.0, 2.0]))"""
    )
    words = config(tmp_path, trials), f"--out={out}", "--set=method=ridge"
    assert launch(*words, environment=cache)[0] == 0
    assert main(["collect", f"--out={out}"]) == 0
    pages = sorted(path.name for path in (out / "results").iterdir() if path.is_dir())
    assert pages == [f"leave_subjects_out_window_seconds={n}" for n in ("1.0", "2.0")]


def test_the_terminal_s_interrupt_saves(tmp_path, cache):
    out = tmp_path / "out"
    words = config(tmp_path, f'vary("method", [{SMALL.format(4000)!r}])'), f"--out={out}"
    environment = os.environ | cache | {"PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "launch.sweep", *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    for _ in range(1200):
        if list(out.glob("*/metrics.jsonl")) or process.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # to all, as Ctrl-C does
    said, _ = process.communicate(timeout=120)
    assert "stopped; the same command goes on" in said
    (log,) = [log for log in (out / "logs").iterdir() if "field: epoch" in log.read_text()]
    assert log.read_text().endswith("stopped, and saved; the same command goes on\n")


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    file = tmp_path.parent / f"{tmp_path.name}.py"
    file.write_text(CONFIG.replace("{trials}", '[{"method": "ridge"}]'))
    assert main([f"--config={file}", f"--out={tmp_path}"]) == 2
    assert "exists and holds no sweep" in capsys.readouterr().err
    assert not (tmp_path / "sweep.json").exists()


def test_the_baseline_and_closed_forms_once(tmp_path):
    trials = 'product(vary("method", ["ridge", "emag"]), vary("seed", [0, 1, 2]))'
    found = plan.asked_for(config(tmp_path, trials).partition("=")[2], [])
    assert [(e.method, e.seed) for e in found] == [
        ("lagged_ridge", 0), ("ridge", 0), ("emag", 0), ("emag", 1), ("emag", 2)
    ]  # fmt: skip


def test_the_baseline_wherever_it_is_not(tmp_path):
    trials = """chain([{"method": "lagged_ridge(lags=6)", "layout": "spread:8"}],
        product(vary("method", ["emag"]), vary("layout", ["spread:8", "spread:6"])))"""
    found = plan.asked_for(config(tmp_path, trials).partition("=")[2], ["mesh=windows:2"])
    own = [(e.method.partition("(")[0], e.layout, e.mesh) for e in found]
    assert sorted(own, key=str) == [
        ("emag", "spread:6", "windows:2"),
        ("emag", "spread:8", "windows:2"),
        ("lagged_ridge", "spread:6", None),
        ("lagged_ridge", "spread:8", None),
    ]


def test_a_pack_that_was_saved_stays_together(tmp_path):
    found = plan.asked_for(config(tmp_path, 'vary("seed", range(6))').partition("=")[2],
                           ["method=emag"])  # fmt: skip
    deep = [e for e in found if e.method == "emag"]
    names = [plan.trial_name(e) for e in deep]
    pack = tmp_path / "out/packs/abc"
    (pack / "checkpoints").mkdir(parents=True)
    (pack / "trials.txt").write_text("\n".join([names[4], names[1], names[2]]))
    given = {"resources": plan.Resources(), "workers": 3, "pack": None}
    (job,) = plan.divide(deep, tmp_path / "out", tmp_path / "store", **given)
    assert job.tasks[0].trials == (names[4], names[1], names[2])
    assert sorted(n for task in job.tasks for n in task.trials) == sorted(names)


def test_tasks_have_each_trial_once_and_what_it_takes(tmp_path):
    trials = """product(vary("method", ["ridge", "emag"]), vary("layout", ["spread:8", "spread:6"]),
                        vary("subjects", [("1",), ("2",), ("3",)]))"""
    found = plan.asked_for(config(tmp_path, trials).partition("=")[2], [])
    resources = plan.Resources(gpus=1, cores=3)
    given = {"resources": resources, "workers": 2, "pack": None, "retries": 4, "hours": 2.0}
    closed, deep = plan.divide(found, tmp_path / "out", tmp_path / "store", **given)
    names = [name for job in (closed, deep) for task in job.tasks for name in task.trials]
    assert sorted(names) == sorted(map(plan.trial_name, found))
    assert [len(task.trials) for task in closed.tasks] == [3, 3, 3, 3]
    assert closed.resources.gpus == 0 and deep.resources == resources and deep.retries == 4
    for task in deep.tasks:  # what shares a program shares a task
        layouts = {e["layout"] for e in json.loads(task.file.read_text())}
        assert len(layouts) == 1
    (alone,) = plan.divide(
        [e for e in found if e.method == "emag"],
        tmp_path / "out",
        tmp_path / "store",
        **(given | {"resources": plan.Resources(hosts=2)}),
    )
    assert [len(task.trials) for task in alone.tasks] == [1] * 6


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path, cache):
    """SIGKILL to the launcher or to a worker at random moments; then all is as without."""
    trials = f"""product(vary("test_subjects", [("1",), ("2",)]), vary("method",
        ["ridge", {SMALL.format(60)!r}]), vary("seed", [0, 1]), vary("layout",
        ["spread:8", "spread:6"]))"""
    words = config(tmp_path, trials), f"--store={tmp_path / 'store'}", "--workers=2", "--pack=2"
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert launch(*words, f"--out={whole}", environment=cache)[0] == 0
    environment = os.environ | cache | {"PYTHONPATH": str(HERE)}
    generator, kills, seen = random.Random(0), {"launcher": 0, "worker": 0}, {}

    def look():
        """What is finished stays as it was."""
        for file in out.glob("*/scores.json"):
            assert seen.setdefault(file, file.stat().st_mtime_ns) == file.stat().st_mtime_ns
        assert all(file.exists() for file in seen)

    def children(process):
        listed = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
        )
        return [int(number) for number in listed.stdout.split()]

    command = [sys.executable, "-m", "launch.sweep", *words, f"--out={out}", "--retries=9"]
    process = None
    while sum(kills.values()) < 20:
        if process is None or process.poll() is not None:
            if out.exists() and board.trials(out).keys() <= {f.parent.name for f in seen}:
                # All is done before enough was killed: some trials once more.
                for file in list(seen)[::2]:
                    subprocess.run(["rm", "-r", str(file.parent)], check=True)
                    del seen[file]
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        time.sleep(generator.uniform(0.5, 9))
        own = children(process)
        if process.poll() is None and own and generator.random() < 0.6:
            kills["worker"] += 1
            os.kill(generator.choice(own), signal.SIGKILL)
        elif process.poll() is None:
            kills["launcher"] += 1
            process.kill()
            process.wait()
        look()
    if process is not None and process.poll() is None:
        process.wait()
    status, said, errors = launch(*words, f"--out={out}", environment=cache)
    assert status == 0 and "0 failed" not in said, errors
    look()
    names = board.trials(out)
    assert names.keys() == board.trials(whole).keys()
    for name, experiment in names.items():
        ours, theirs = (json.loads((x / name / "scores.json").read_text()) for x in (out, whole))
        a, b = ours["rows"][0]["nmse_missing"], theirs["rows"][0]["nmse_missing"]
        # A trial that was left over from a pack was trained by itself: sums in another order.
        assert a == pytest.approx(b, rel=1e-9 if experiment.method == "ridge" else 2e-3)
    assert not list(out.glob("**/*.tmp"))
