"""What Slurm is asked for; how it answers is in tests/cluster."""

from __future__ import annotations

import pickle
import shlex
from pathlib import Path

import pytest

from eegsr_jax.errors import ConfigError
from launch import slurm
from launch.job import Job, Resources, Task
from launch.worker import Worker


def job_of(tmp_path: Path, **options) -> Job:
    tasks = tuple(
        Task(name=f"1-000{n}", file=tmp_path / f"{n}.json", trials=(f"{n}" * 16,)) for n in range(3)
    )
    given = {"resources": Resources(), "workers": 2} | options
    return Job(name="sweep", out=tmp_path, store=tmp_path / "store", tasks=tasks, **given)


@pytest.fixture
def script(tmp_path):
    """The batch script that submitit writes."""
    pytest.importorskip("submitit")
    from submitit.slurm.slurm import _make_sbatch_string

    def make(job: Job, options: dict[str, str]) -> list[str]:
        asked = slurm._parameters(job, options)
        text = _make_sbatch_string("TRAIN", tmp_path, map_count=len(job.tasks), **asked)
        return text.splitlines()

    return make


def test_the_batch_script_asks_for_what_the_job_takes(script, tmp_path):
    resources = Resources(hosts=2, processes=4, cores=6, gpus=4, memory_gb=1.5)
    lines = script(
        job_of(tmp_path, resources=resources, hours=1.5, environment=(("XLA_FLAGS", "--a --b"),)),
        {"partition": "gpu", "container-image": "a b", "--exclusive": "", "cpus-per-task": "8"},
    )
    asked = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in lines
        if line.startswith("#SBATCH")
    )
    assert (
        asked
        | {
            "job-name": "sweep",
            "array": "0-2%2",
            "nodes": "2",
            "ntasks-per-node": "4",
            "cpus-per-task": "8",
            "gpus-per-node": "4",
            "mem": "1536M",
            "time": "90",
            "partition": "gpu",
            "container-image": shlex.quote("a b"),
            "exclusive": "",
            "requeue": "",
            "open-mode": "append",
            "signal": "USR1@90",
        }
        == asked
    )
    assert "wckey" not in asked
    assert "export XLA_FLAGS='--a --b'" in lines
    (path,) = (line for line in lines if line.startswith("export PYTHONPATH="))
    assert str(Path(slurm.__file__).parents[1]) in path


def test_what_is_not_given_is_the_clusters_default(script, tmp_path):
    lines = script(job_of(tmp_path), {})
    named = ("time", "mem", "gpus", "partition", "account")
    assert not [line for line in lines if line.startswith(tuple(f"#SBATCH --{n}" for n in named))]


@pytest.mark.parametrize("name", ["array", "--signal", "open-mode", "no_requeue"])
def test_the_launchers_own_options_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="=1: this option of sbatch is the launcher's; leave"):
        slurm._parameters(job_of(tmp_path), {name: "1"})


def test_too_little_time_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"hours=0.05: .*give it 0.1 or more"):
        slurm._parameters(job_of(tmp_path, hours=0.05), {})


def test_a_job_passes_through_pickle(tmp_path):
    job = job_of(tmp_path)
    whole = slurm.OnSlurm(Worker(job, job.tasks[0]))
    assert pickle.loads(pickle.dumps(whole)) == whole


def test_without_slurm_each_call_says_so(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no sbatch and srun here; submit from a host of a Slurm"):
        slurm.submit(job_of(tmp_path), {})
    for ask in (slurm.alive, slurm.states, slurm.cancel):
        with pytest.raises(ConfigError, match="squeue: .*expected a Slurm that answers"):
            ask(["1_0"])
        assert not ask([])


def test_without_submitit_the_mend_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install eegsr_jax\[slurm\]"):
        slurm.submit(job_of(tmp_path), {})
