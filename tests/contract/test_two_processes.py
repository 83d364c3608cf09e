"""Every method over two processes of four devices each, which speak through gloo."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Each is told a folder; it applies the method in it to its half of the windows.
CHILD = """
import faulthandler, pickle, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from eegsr_jax.distributed import make_mesh, place, start_processes
from eegsr_jax.methods import make

number, port = sys.argv[1:]
assert start_processes(f"127.0.0.1:{port}", int(number), 2, timeout=60)
assert jax.device_count() == 8 and jax.local_device_count() == 4
mesh = make_mesh("windows:8")
print("ready", flush=True)
for line in sys.stdin:
    faulthandler.dump_traceback_later(300, exit=True)  # one that waits in vain ends
    folder = line.strip()
    with open(f"{folder}/case.pickle", "rb") as file:
        name, options, plan, x = pickle.load(file)
    method = make(name, **options)

    def power(x, plan):
        found = method.apply(plan, x, None)
        return jnp.mean(found.mean**2), found

    own, whole = (NamedSharding(mesh, PartitionSpec(*axis)) for axis in (["windows"], []))
    plan, x = place(plan, mesh, PartitionSpec()), place(x, mesh, PartitionSpec("windows"))
    run = jax.jit(jax.value_and_grad(power, has_aux=True), out_shardings=((whole, own), own))
    (total, found), slope = run(x, plan)
    own = {"total": np.asarray(total)}
    for key, value in {"mean": found.mean, "std": found.std, "slope": slope}.items():
        shards = sorted(value.addressable_shards, key=lambda s: s.index[0].start)
        own[key] = np.concatenate([np.asarray(s.data) for s in shards])
    np.savez(f"{folder}/{number}.npz", **own)
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def pair():
    """`run(folder)` gives a folder to both processes, and waits for both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    known = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(n), port], env=known, **pipes)
        for n in range(2)
    ]

    def wait(process, word):
        for line in process.stdout:  # gloo speaks too
            if line == f"{word}\n":
                return
        raise AssertionError(f"ended before it was {word}")

    def run(folder):
        for process in both:
            process.stdin.write(f"{folder}\n")
            process.stdin.flush()
        for process in both:
            wait(process, "done")

    try:
        for process in both:
            wait(process, "ready")
        yield run
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_over_two_processes(case, pair, same, tmp_path):
    plan, x = jax.tree.map(np.asarray, (case.plan, case.x))
    with open(tmp_path / "case.pickle", "wb") as file:
        pickle.dump((case.method.name, case.options, plan, x), file)
    pair(tmp_path)
    halves = [np.load(tmp_path / f"{number}.npz") for number in range(2)]
    mean, std, slope = (
        np.concatenate([half[key] for half in halves]) for key in ("mean", "std", "slope")
    )
    same((mean, std), tuple(case.expected), 1e-5)
    np.testing.assert_allclose(  # summed over all windows, those of the other process too
        [half["total"] for half in halves], np.mean(np.square(case.expected.mean)), rtol=1e-5
    )
    alone = jax.grad(lambda x: jnp.mean(case.method.apply(case.plan, x, None).mean ** 2))(case.x)
    same(slope, alone, 1e-4)
