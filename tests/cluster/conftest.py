"""One real Slurm for all tests of this folder; where it cannot run, they skip and say why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import prepare
from eegsr_jax.training.experiment import Experiment

from .rig import Cluster, available, started

METHOD = "emag(lags=2,resolution=3,components=4,widths=(2,),features=8,epochs={},batch_size=4)"
EXPERIMENT = Experiment(
    dataset="simulated",
    subjects=("1",),
    preprocessing=PREPROCESSING["none"],
    layout="spread:8",
    window_seconds=1.0,
)


@pytest.fixture(scope="session")
def experiment() -> Callable[..., Experiment]:
    """Of a seed; 200 epochs take about ten seconds on one node, and more over two."""

    def make(seed: int, epochs: int = 200) -> Experiment:
        return replace(EXPERIMENT, method=METHOD.format(epochs), seed=seed)

    return make


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    if why := available():
        pytest.skip(f"no Slurm: {why}")
    with started() as cluster:
        yield cluster


@pytest.fixture
def cluster(slurm: Cluster, monkeypatch: pytest.MonkeyPatch, compiled: Path) -> Iterator[Cluster]:
    """It runs, no job does, and this process's commands of Slurm speak with it."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.environment[name])
    # Four processes may share two cores: one device and one thread each.
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(compiled))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    yield slurm
    slurm.ask("scancel", "--user=root")
    slurm.wait_for(lambda: not slurm.ask("squeue", "--noheader"), "jobs to end")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JAX's cache of programs, which all trainings share."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `EXPERIMENT` trains on, prepared."""
    out = tmp_path_factory.mktemp("cluster") / "store"
    prepare(datasets.load("simulated", subjects=("1",)), out, PREPROCESSING["none"], progress=False)
    return out
