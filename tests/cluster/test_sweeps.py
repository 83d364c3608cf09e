"""Tasks of a sweep as jobs of a real Slurm, and what becomes of them when it stops them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from eegsr_jax.errors import ConfigError
from eegsr_jax.training.experiment import Experiment, trial_name
from launch import board, plan, slurm
from launch.job import Job, Resources

pytestmark = [pytest.mark.cluster]


@pytest.fixture
def job_of(store, tmp_path):
    """A sweep's job: one task for each experiment."""

    def make(experiments: Sequence[Experiment], resources=None, **options) -> Job:
        plan.keep(tmp_path / "out", experiments)
        (job,) = plan.divide(
            experiments,
            tmp_path / "out",
            store,
            resources=resources or Resources(),
            workers=2,
            pack=1,
            **options,
        )
        return job

    return make


def epochs(job: Job, trial: str) -> list[int]:
    """Those that are done."""
    record = job.out / trial / "metrics.jsonl"
    lines = record.read_text().splitlines() if record.exists() else []
    return [json.loads(line)["epoch"] for line in lines]


def states(job: Job) -> dict[str, str]:
    return board.states(job.out, board.trials(job.out))


def wait_for_epochs(cluster, job: Job) -> None:
    """Until every trial is in the midst of its training."""
    trials = [trial for task in job.tasks for trial in task.trials]
    cluster.wait_for(lambda: all(len(epochs(job, t)) > 3 for t in trials), "some epochs", 180)


def said(job: Job) -> str:
    """The logs, for a test that fails."""
    files = [*(job.out / "logs").glob("*.log"), *(job.out / "slurm").glob("*.out")]
    return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')}" for file in files)


def processes(words: str) -> list[int]:
    """Of this machine, whose command line has the words."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has ended
        if words in line:
            found.append(int(folder.name))
    return found


def test_an_array_of_tasks_one_of_which_crashes(cluster, experiment, job_of):
    trials = [experiment(seed) for seed in range(3)]
    job = job_of(trials, hours=0.5, retries=0)
    assert slurm.states(["999_0"]) == {} and slurm.alive([]) == set()
    with pytest.raises(ConfigError, match="Slurm refuses it: .*[Ii]nvalid partition"):
        slurm.submit(job, {"partition": "nowhere"})
    ids = slurm.submit(job, {"partition": "main", "comment": "by hand"})
    array = ids[0].partition("_")[0]
    assert ids == [f"{array}_{n}" for n in range(3)]
    assert slurm.alive(ids) == set(ids)
    # Two at a time.
    cluster.wait_for(lambda: sorted(slurm.states(ids).values())[-2:] == ["running"] * 2, "two")
    assert sorted(slurm.states(ids).values()) == ["pending", "running", "running"]
    assert "Comment=by hand" in cluster.ask("scontrol", "show", "job", array)

    (bad,) = job.tasks[0].trials
    cluster.wait_for(lambda: len(epochs(job, bad)) > 3, "some epochs", 180)
    (child,) = processes(f"commands.main train --sweep --config={job.tasks[0].file}")
    os.kill(child, signal.SIGKILL)
    cluster.end_of(array)
    good = [task.trials[0] for task in job.tasks[1:]]
    assert states(job) == {bad: "failed", **dict.fromkeys(good, "finished")}, said(job)
    assert slurm.alive(ids) == set()
    page = board.page(job.out)
    assert f"failed: {bad} seed=0" in page and "was ended by SIGKILL (out of memory?)" in page
    assert "    field: epoch " in page, page  # its log's last lines


def test_what_scancel_stops_does_not_run_again(cluster, experiment, job_of):
    job = job_of([experiment(0)])
    (id,) = slurm.submit(job, {})
    assert "_" not in id
    wait_for_epochs(cluster, job)
    slurm.cancel([id])
    assert cluster.end_of(id) == {id: "CANCELLED"}
    assert slurm.states([id]) == {id: "cancelled"}
    slurm.cancel([id])  # has nothing to do
    assert list(states(job).values()) == ["begun"], said(job)
    assert "stopped, and saved" in said(job)


def test_a_preemption_with_grace_saves_and_runs_again(cluster, experiment, job_of):
    """Slurm would leave it at that: a job that ends within its grace is completed."""
    job = job_of([experiment(0)])
    (id,) = slurm.submit(job, {})
    wait_for_epochs(cluster, job)
    words = ("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null")
    cluster.ask("sbatch", *words, "--wrap", "sleep 1")
    assert cluster.end_of(id) == {id: "COMPLETED"}
    assert list(states(job).values()) == ["finished"], said(job)
    (task,) = job.tasks
    log = job.log(task).read_text()
    assert log.count("stopped, and saved") == 1 and log.count(", attempt 1\n") == 2, log
    assert epochs(job, task.trials[0]) == [*range(201)]


def test_a_node_goes_down(cluster, experiment, job_of):
    job = job_of([replace(experiment(0), checkpoint_seconds=1.0)])
    (id,) = slurm.submit(job, {})
    wait_for_epochs(cluster, job)
    node = cluster.ask("squeue", "--noheader", f"--jobs={id}", "--format=%N").strip()
    cluster.lose_power(node)
    try:
        assert cluster.end_of(id) == {id: "COMPLETED"}
    finally:
        cluster.start_node(node)
    assert list(states(job).values()) == ["finished"], said(job)
    (task,) = job.tasks
    hosts = [line.split()[3] for line in job.log(task).read_text().splitlines() if ", att" in line]
    assert hosts == [f"{node},", f"{({'n1', 'n2'} - {node}).pop()},"]
    assert epochs(job, task.trials[0]) == [*range(201)]


def test_two_nodes_train_one_trial_and_stop_together_before_their_time_is_over(
    cluster, experiment, job_of
):
    trial = replace(experiment(0, epochs=60), mesh="windows:2")
    job = job_of([trial], Resources(hosts=2), hours=1)
    (id,) = slurm.submit(job, {})
    wait_for_epochs(cluster, job)
    cluster.ask("scancel", "--signal=USR1", id)  # as `--signal=USR1@90` has Slurm do it
    assert cluster.end_of(id) == {id: "COMPLETED"}
    assert list(states(job).values()) == ["finished"], said(job)
    (task,) = job.tasks
    log = job.log(task).read_text()
    assert "Rank 1 is connected to 1 peer ranks" in log, log
    assert log.count("stopped, and saved") == 1, log
    assert epochs(job, trial_name(trial)) == [*range(61)]
