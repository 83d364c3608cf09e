"""How processes start, agree and end; meshes are tested where they train (tests/training)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from eegsr_jax import distributed
from eegsr_jax.distributed import Votes, from_first, is_first, start_processes
from eegsr_jax.errors import ConfigError

LAUNCHERS = ("SLURM_", "OMPI_", "KUBERNETES_", "JOB_COMPLETION_INDEX")


@pytest.fixture
def unlaunched(monkeypatch):
    """As if no cluster had started this process."""
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: None)
    return monkeypatch


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def ended(commands, environments=None):
    """Runs commands side by side; status, stdout, stderr and seconds of each."""
    environments = environments or [{} for _ in commands]
    base = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    base |= {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    begun = time.monotonic()
    running = [
        subprocess.Popen([sys.executable, *words], env=base | own, **pipes)
        for words, own in zip(commands, environments, strict=True)
    ]
    try:
        said = [process.communicate(timeout=90) for process in running]
    finally:
        for process in running:
            process.kill()
    seconds = time.monotonic() - begun
    return [(p.returncode, *each, seconds) for p, each in zip(running, said, strict=True)]


def test_alone_nothing_starts(unlaunched):
    assert start_processes() is False
    unlaunched.setenv("SLURM_STEP_NUM_TASKS", "1")
    unlaunched.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")  # of every pod
    assert start_processes() is False
    assert start_processes("node1:1234", 0, 1) is False
    assert is_first() and from_first({"a": 1}) == {"a": 1}
    assert Votes()(True, False) == [True, False]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (("node1:1234", None, 2), "--process missing: .*take --coordinator=HOST:PORT, --process=I"),
        ((None, 0, None), "--coordinator, --processes missing"),
        (("node1", 0, 2), "--coordinator=node1: expected HOST:PORT"),
        (("node1:http", 0, 2), "--coordinator=node1:http: expected HOST:PORT"),
        (("node1:1234", 2, 2), "--process=2 --processes=2: processes are numbered from 0"),
        (("node1:1234", -1, 2), "--process=-1 --processes=2"),
    ],
)
def test_nonsense_by_hand_is_refused(given, complaint, unlaunched):
    with pytest.raises(ConfigError, match=complaint):
        start_processes(*given)


def test_an_open_mpi_that_jax_cannot_read_is_refused(unlaunched):
    unlaunched.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="one of 4 processes of an Open MPI that does not tell"):
        start_processes()


WAIT = "from eegsr_jax.distributed import start_processes as s; s(f'127.0.0.1:{PORT}', N, 2{T})"


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_waits_in_vain_says_so_in_a_line(number):
    port = free_port()
    words = WAIT.replace("PORT", port).replace("N", str(number)).replace("{T}", ", timeout=1")
    ((status, _, said, _),) = ended([["-c", words]])
    assert status == 2
    assert said.splitlines()[-1].startswith(
        f"eegsr: process {number} of 2: no connection with 127.0.0.1:{port} and all others after 1"
    )


def test_a_port_that_is_taken_is_named(unlaunched):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f":{port}: this host's port cannot be used .*in use"):
            start_processes(f"127.0.0.1:{port}", 0, 2)


AGREE = """
from eegsr_jax.distributed import *
from eegsr_jax import distributed as d
from eegsr_jax.errors import ConfigError
import jax, os
assert d.start_processes(timeout=60)
own = jax.process_index()
with d.ending_together():
    assert jax.device_count() == 4 and jax.process_count() == 2
    assert d.from_first({"of": [own, "both"], "none": None}) == {"of": [0, "both"], "none": None}
    import numpy as np
    given = {"a": np.full((2, 3), 1.5 + own, np.float32), "b": np.asarray(own, np.int32)}
    found = d.arrays_from_first(given)
    assert (found["a"] == 1.5).all() and found["a"].dtype == np.float32 and found["b"] == 0
    votes = d.Votes(every=1e6)
    assert votes(own == 1, False) == [True, False]
    assert votes(True, True) == [False, False]  # the others are asked the next time
    assert votes(False, own == 0) == [False, True]
    assert votes(own == 0, now=True) == [True]
    try:
        d.make_mesh("windows:2")
    except ConfigError as error:
        assert "takes 2 devices, the 2 processes have 4; take all of them" in str(error), error
    else:
        raise AssertionError("half of the devices")
    print(d.is_first(), flush=True)
    if own == 1:
        raise ConfigError("the second has had enough")
    d.from_first(None)  # waits in vain
"""


def test_slurm_starts_them_and_one_that_fails_ends_the_other():
    """What `srun` sets, on one host."""
    slurm = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "JAX_COORDINATOR_PORT": free_port(),
    }
    own = [slurm | {"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)} for n in range(2)]
    first, second = ended([["-c", AGREE]] * 2, own)
    assert "True" in first[1] and "False" in second[1], (first, second)
    assert second[0] == 2 and "ConfigError: the second has had enough" in second[2]
    assert first[0] == 2 and "process 0 of 2: " in first[2]
    assert "its output says why" in first[2]
    assert first[3] < 60  # JAX alone would wait for five minutes


def test_a_closed_form_takes_no_processes(tmp_path):
    """The command, by hand: the first says so, and nothing is left."""
    hand = [
        f"--coordinator=127.0.0.1:{free_port()}",
        "--processes=2",
        f"--workdir={tmp_path / 'r'}",
    ]
    words = ["-m", "eegsr_jax.commands.main", "train", *hand, "--set", "method=ridge"]
    first, second = ended([[*words, f"--process={n}"] for n in range(2)])
    assert first[0] == 2 and second[0] != 0  # refused too, or ended by the end of the first
    line = first[2].splitlines()[-1]
    assert line.startswith("eegsr train: ridge: trained in closed form, on one device"), first
    assert not list(tmp_path.iterdir())
