"""On any mesh, in one process or several, training gives the numbers of one device."""

from __future__ import annotations

import functools
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from eegsr_jax.distributed import AXES, make_mesh
from eegsr_jax.errors import ConfigError, MethodError
from eegsr_jax.geometry import make_geometry, montage
from eegsr_jax.methods import GradientStage, make
from eegsr_jax.training.journal import Journal
from eegsr_jax.training.loop import fit
from eegsr_jax.training.many import Task, fit_many
from eegsr_jax.training.sharding import check_mesh
from eegsr_jax.training.windows import MemoryWindows

NAMES = "Fp1 Fp2 F3 Fz F4 C3 Cz C4 P3 Pz P4 Oz".split()
OBSERVED = "Fp1 C4 C3 Pz Oz".split()
OPTIONS = {
    "emag": {
        "lags": 2,
        "resolution": 4,  # 8 points
        "components": 4,
        "widths": (2,),
        "features": 8,
        "epochs": 2,
        "batch_size": 8,
    },
    "emag_paper": {
        "samples": 24,
        "resolution": 4,
        "groups": 2,
        "init": "window",
        "epochs": 2,
        "batch_size": 8,
    },
}


def same(found, expected, tolerance=1e-5):
    """Relative error of every leaf."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape and a.dtype == b.dtype
        error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error}"


def cap():
    positions = {n: xyz for n, xyz in montage("standard_1005").items() if n in NAMES}
    return make_geometry(OBSERVED, NAMES, positions)


def batches():
    """14 training windows and 5 validation windows of 24 samples."""
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((12, 6))
    eeg = np.einsum("cs,wst->wct", mixing, generator.standard_normal((19, 6, 24)))
    part = (np.arange(19) >= 14).astype(np.int32)
    return [{"eeg": eeg.astype(np.float32), "part": part}]


def seeds(count):
    windows = MemoryWindows(batches)
    return [Task(cap(), windows, jax.random.key(seed)) for seed in range(count)]


@functools.cache
def alone(name):
    """The method, and what one device trains."""
    method = make(name, **OPTIONS[name])
    with jax.numpy_dtype_promotion("strict"):
        return method, fit(method, cap(), batches)


def mesh_of(spec, axis_type):
    mesh = make_mesh(spec)
    return jax.sharding.Mesh(mesh.devices, mesh.axis_names, (axis_type,) * len(mesh.axis_names))


AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit
SLOW = pytest.mark.slow  # each mesh has programs of its own to compile


@pytest.mark.parametrize(
    ("name", "spec", "axis_type"),
    [
        ("emag", "windows:2,gaussians:4", AUTO),
        ("emag", "windows:2,gaussians:4", EXPLICIT),
        ("emag_paper", "windows:2,gaussians:4", AUTO),
        ("emag_paper", "windows:2,gaussians:4", EXPLICIT),
        ("emag_paper", "gaussians:8", AUTO),
        pytest.param("emag", "windows:8", AUTO, marks=SLOW),
        pytest.param("emag", "windows:8", EXPLICIT, marks=SLOW),
        pytest.param("emag", "gaussians:8", EXPLICIT, marks=SLOW),
        pytest.param("emag_paper", "windows:8", AUTO, marks=SLOW),
        pytest.param("emag_paper", "windows:8", EXPLICIT, marks=SLOW),
    ],
)
def test_eight_devices_are_one(name, spec, axis_type):
    method, expected = alone(name)
    same(fit(method, cap(), batches, mesh=mesh_of(spec, axis_type)), expected)


@pytest.mark.parametrize(
    ("spec", "axis_type"),
    [
        ("models:8", AUTO),
        ("models:2,windows:2,gaussians:2", EXPLICIT),
        pytest.param("models:2,windows:2,gaussians:2", AUTO, marks=SLOW),
        pytest.param("models:8", EXPLICIT, marks=SLOW),
        pytest.param("windows:8", AUTO, marks=SLOW),
    ],
)
def test_models_over_a_mesh(spec, axis_type):
    """Three models, which do not divide among two or eight devices."""
    told, method = Told(), make("emag_paper", **OPTIONS["emag_paper"])
    many = fit_many(method, seeds(3), mesh=mesh_of(spec, axis_type), journal=told)
    assert len(many) == 3 and told.last["models"] == 3
    same(many[0], alone("emag_paper")[1])
    for name in ("loss", "validate"):  # of the three alone, not of those that fill up
        assert told.last[name] == pytest.approx(three()[name], rel=1e-5)


class Told(Journal):
    def epoch(self, stage, numbers, remaining=0.0, of=0):
        self.last = numbers


@functools.cache
def three():
    told = Told()
    with jax.numpy_dtype_promotion("strict"):
        fit_many(make("emag_paper", **OPTIONS["emag_paper"]), seeds(3), journal=told)
    return told.last


@pytest.mark.parametrize(
    ("changes", "spec", "complaint"),
    [
        ({"batch_size": 6}, "windows:4", "batch of 6 windows does not divide among 4 devices"),
        ({"resolution": 3}, "gaussians:2", "7 points do not divide among 2.* resolution"),
        ({}, "models:2,windows:2", "has an axis 'models'; expected some of windows, gaussians"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(changes, spec, complaint):
    method = make("emag_paper", **OPTIONS["emag_paper"] | changes)
    with pytest.raises(MethodError, match=f"emag_paper: .*{complaint}"):
        fit(method, cap(), batches, mesh=make_mesh(spec))


def test_a_stage_without_points_has_no_gaussians():
    stage = alone("emag_paper")[0].stages[1]
    assert isinstance(stage, GradientStage)
    with pytest.raises(MethodError, match="has no Gaussians to spread over the axis 'gaussians'"):
        check_mesh(stage._replace(points=()), {}, make_mesh("gaussians:2"), AXES)


def test_a_mesh_from_the_command_line():
    mesh = make_mesh("windows:2, gaussians:3")
    assert dict(mesh.shape) == {"windows": 2, "gaussians": 3} and mesh.devices.size == 6
    for spec in ("", "windows", "windows:0", "windows:-1", "time:2", "windows:2,windows:2"):
        with pytest.raises(ConfigError, match=f"mesh '{spec}': .*expected AXIS:SIZE"):
            make_mesh(spec)
    with pytest.raises(ConfigError, match="takes 16 devices, there are 8.*JAX_NUM_CPU_DEVICES=16"):
        make_mesh("windows:16")


# ------------------------------------------------------------------------------- several processes

CHILD = "import sys; sys.path.insert(0, sys.argv[1]); import test_mesh as t; t.child(*sys.argv[2:])"


def child(number, port, name, spec, out):
    """One of two processes with four devices each; leaves its params in `out`."""
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(number))
    method, mesh, told = make(name, **OPTIONS[name]), make_mesh(spec), Told()
    if "models" in spec:
        params = fit_many(method, seeds(3), mesh=mesh, journal=told)[0]
    else:
        params = fit(method, cap(), batches, mesh=mesh, journal=told)
    assert hasattr(told, "last") == (number == "0")
    np.savez(f"{out}/{number}.npz", *map(np.asarray, jax.tree.leaves(params)))


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("emag_paper", "windows:2,gaussians:4"),
        pytest.param("emag", "windows:2,gaussians:4", marks=SLOW),
        pytest.param("emag", "gaussians:8", marks=SLOW),  # every process has the whole batch
        pytest.param("emag_paper", "models:2,windows:2,gaussians:2", marks=SLOW),
    ],
)
def test_two_processes_are_one(name, spec, tmp_path):
    expected = alone(name)[1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [sys.executable, "-c", CHILD, str(Path(__file__).parent)]
    children = [
        subprocess.Popen([*words, str(n), port, name, spec, tmp_path], stderr=subprocess.PIPE)
        for n in range(2)
    ]
    try:
        said = [process.communicate(timeout=240)[1] for process in children]
    finally:
        for process in children:
            process.kill()
    for number, process in enumerate(children):
        assert process.returncode == 0, said[number].decode()[-2000:]
        with np.load(tmp_path / f"{number}.npz", allow_pickle=False) as found:
            leaves = [found[key] for key in found.files]
        same(jax.tree.unflatten(jax.tree.structure(expected), leaves), expected)
