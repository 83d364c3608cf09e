"""Several devices and processes: how they start, the axes of a mesh, arrays onto it and back.

Over "windows" a batch is spread; over "gaussians" the points of a field, each device rendering its
own; over "models" independent models. Several processes run one program, `start_processes` first,
over a mesh of all their devices.
"""

from __future__ import annotations

import atexit
import functools
import glob
import importlib.util
import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eegsr_jax.errors import ConfigError
from eegsr_jax.typing import PyTree

WINDOWS, GAUSSIANS, MODELS = AXES = "windows", "gaussians", "models"


def make_mesh(spec: str) -> Mesh:
    """The mesh of "windows:4,gaussians:2", over the first devices.

    Raises:
      ConfigError: an axis that there is not, twice or without a size; more devices than are; or, of
        several processes, fewer.
    """
    sizes = {}
    for item in spec.split(","):
        axis, _, size = item.strip().partition(":")
        if axis not in AXES or axis in sizes or not size.isdecimal() or int(size) < 1:
            raise ConfigError(
                f"mesh {spec!r}: {item!r}; expected AXIS:SIZE, axes once each of {', '.join(AXES)}"
            )
        sizes[axis] = int(size)
    wanted, devices = math.prod(sizes.values()), jax.devices()
    if jax.process_count() > 1 and wanted != len(devices):
        raise ConfigError(
            f"mesh {spec!r} takes {wanted} devices, the {jax.process_count()} processes have "
            f"{len(devices)}; take all of them, as windows:{len(devices)}"
        )
    if wanted > len(devices):
        raise ConfigError(
            f"mesh {spec!r} takes {wanted} devices, there are {len(devices)}; make it smaller (on "
            f"a CPU, JAX_NUM_CPU_DEVICES={wanted} makes as many)"
        )
    kinds = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), kinds, devices=devices[:wanted])


def own_devices() -> Mesh | None:
    """This process's devices over "windows"; None where there is one."""
    devices = jax.local_devices()
    kinds = (AxisType.Auto,)
    return Mesh(np.array(devices), (WINDOWS,), kinds) if len(devices) > 1 else None


def along(mesh: Mesh, axis: str, at: int = 0) -> PartitionSpec:
    """Dimension `at` over an axis of the mesh; whole where the mesh has no such axis."""
    return PartitionSpec(*[None] * at, axis) if axis in mesh.axis_names else PartitionSpec()


def shard_map(
    function: Callable[..., Any], mesh: Mesh, in_specs: PyTree, out_specs: PyTree
) -> Callable[..., Any]:
    """`jax.shard_map` over "windows" and "gaussians", also inside one over "models"."""
    own = {axis for axis in mesh.axis_names if axis != MODELS}
    around = jax.sharding.get_abstract_mesh()
    inside = bool(around.manual_axes)
    specs: Any = {"in_specs": in_specs, "out_specs": out_specs}
    run = jax.shard_map(function, mesh=None if inside else mesh, axis_names=own, **specs)
    if not (inside and around.explicit_axes):
        return run

    def spread_first(*arguments):  # what lies whole there is not cut by itself under explicit axes
        whole = jax.tree.broadcast(in_specs, arguments)
        return run(*jax.tree.map(jax.sharding.reshard, arguments, whole))

    return spread_first


def varies_over(x: jax.Array) -> frozenset[str]:
    """Axes of the `shard_map` around, along which devices have numbers of their own."""
    return jax.typeof(x).manual_axis_type.varying


def varying_over(axes: frozenset[str], x: jax.Array) -> jax.Array:
    """The same numbers, taken to vary over further axes too, as a `scan` beside such ones asks."""
    return jax.lax.pcast(x, tuple(sorted(axes - varies_over(x))), to="varying")


def place(tree: PyTree, mesh: Mesh, specs: PyTree) -> PyTree:
    """Arrays that every process has, onto the mesh; `specs`, one for all or a tree of them."""

    def one(x, spec):
        sharding = NamedSharding(mesh, spec)
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.device_put(x, sharding)
        # JAX puts keys on the devices of one process only, but bare numbers on those of all.
        bare = jax.device_put(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(bare, impl=jax.random.key_impl(x))

    return jax.tree.map(one, tree, jax.tree.broadcast(specs, tree))


def spread(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A batch that every process has whole, over "windows"; each takes its own rows."""
    rows = NamedSharding(mesh, along(mesh, WINDOWS))
    return {
        name: jax.make_array_from_callback(x.shape, rows, x.__getitem__)
        for name, x in batch.items()
    }


def gathered(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The whole of every array on each process's first device; all processes must call it."""
    if mesh is None:
        return tree
    return jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x.addressable_data(0))), _whole(mesh)(tree)
    )


@functools.lru_cache(maxsize=8)
def _whole(mesh: Mesh):
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))


# --------------------------------------------------------------------------------------- processes


def start_processes(
    coordinator: str | None = None,
    process: int | None = None,
    processes: int | None = None,
    *,
    timeout: int = 300,
) -> bool:
    """Join the processes of one program, before anything else uses JAX.

    By hand each names the address of the first, its own number and how many there are. Without,
    they are those of an `srun` of Slurm, an `mpirun` of Open MPI, an Indexed Job of Kubernetes
    (where the package `kubernetes` is installed) or a TPU pod, as JAX finds them; elsewhere, this
    process is alone.

    Args:
      coordinator: "HOST:PORT", a free port of the first process's host.
      process: its number, from 0.
      processes: how many.
      timeout: seconds to wait for the others; then the process ends, with one line.

    Returns:
      Whether there are several.

    Raises:
      ConfigError: a part of the three is missing or makes no sense, or the port is taken.
    """
    given = {"coordinator": coordinator, "process": process, "processes": processes}
    absent = [name for name, value in given.items() if value is None]
    if absent and len(absent) < len(given):
        raise ConfigError(
            f"{', '.join(f'--{name}' for name in absent)} missing: several processes started by "
            "hand take --coordinator=HOST:PORT, --process=I and --processes=N together"
        )
    if not absent:
        host, _, port = str(coordinator).rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f"--coordinator={coordinator}: expected HOST:PORT, as node1:1234")
        if not 0 <= int(process or 0) < int(processes or 0):
            raise ConfigError(
                f"--process={process} --processes={processes}: processes are numbered from 0 to "
                "one below their count"
            )
    launcher = "--coordinator" if not absent else _launcher()
    if launcher is None or processes == 1:
        return False
    if process == 0:
        _refuse_taken(str(coordinator))
    # SIGTERM is this program's to handle: it saves, whatever process was asked to stop.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    who = f"process {process} of {processes}" if not absent else f"a process of {launcher}"
    where = coordinator or "the first one"

    def give_up() -> None:  # JAX would abort, with a stack trace
        _leave(
            2,
            f"eegsr: {who}: no connection with {where} and all others after {timeout} s; expected "
            "every process to be started, and the host and port of the first to be reached from "
            "each",
        )

    clock = threading.Timer(timeout, give_up)
    clock.daemon = True
    clock.start()
    try:
        jax.distributed.initialize(
            coordinator, processes, process, initialization_timeout=timeout + 60
        )
    except Exception as error:  # JAX raises many kinds
        raise ConfigError(
            f"{who} cannot start at {where}: {_first_line(error)}; choose another host or a free "
            "port, or start by hand with --coordinator=HOST:PORT --process=I --processes=N"
        ) from error
    finally:
        clock.cancel()
    return jax.process_count() > 1


def _refuse_taken(coordinator: str) -> None:
    """JAX may crash on a port that somebody listens at."""
    with socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            own.bind(("", int(coordinator.rpartition(":")[2])))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--coordinator={coordinator}: this host's port cannot be used ({error}); choose "
                "a free one"
            ) from None


def _launcher() -> str | None:
    """What started this process as one of several that JAX can find by itself.

    Raises:
      ConfigError: of an Open MPI that JAX cannot read; each process would train on its own.
    """
    own = os.environ
    if int(own.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # of an srun; a batch script has none
        return "Slurm"
    if int(own.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        if "OMPI_MCA_orte_hnp_uri" in own:
            return "Open MPI"
        raise ConfigError(
            f"one of {own['OMPI_COMM_WORLD_SIZE']} processes of an Open MPI that does not tell JAX "
            "where the first is; give --coordinator=HOST:PORT --process=$OMPI_COMM_WORLD_RANK "
            "--processes=$OMPI_COMM_WORLD_SIZE"
        )
    if "KUBERNETES_SERVICE_HOST" in own and "JOB_COMPLETION_INDEX" in own:
        return "Kubernetes" if importlib.util.find_spec("kubernetes") else None
    tpu = importlib.util.find_spec("libtpu") and glob.glob("/dev/accel*") + glob.glob("/dev/vfio/*")
    return "a TPU pod" if tpu else None


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return jax.process_index() == 0


@contextmanager
def ending_together() -> Iterator[None]:
    """A process that fails within ends at once: the others, which wait for it, then end too.

    JAX would have it wait, at its end, for the others.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if jax.distributed.is_initialized() and jax.process_count() > 1:
            atexit.register(_leave, 2)  # runs before what JAX has registered
            if isinstance(error, jax.errors.JaxRuntimeError):
                raise ConfigError(
                    f"process {jax.process_index()} of {jax.process_count()}: "
                    f"{_first_line(error)}; where another process ended, its output says why"
                ) from error
        raise


def _leave(status: int, line: str = "") -> None:
    if line:
        print(line, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def from_first(value: Any) -> Any:
    """The first process's value, of what JSON can hold, on every process; all must call it.

    So all wait for the first.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(text), np.int32)))
    sent = multihost_utils.broadcast_one_to_all(np.resize(text, size))
    return json.loads(np.asarray(sent).tobytes())


def arrays_from_first(tree: PyTree) -> PyTree:
    """The first process's arrays on every one: elsewhere the same sums may round otherwise."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(jnp.asarray, multihost_utils.broadcast_one_to_all(tree))


class Votes:
    """What any process says yes to, known to all of them.

    Asking costs as much as a small step, so that it is done about once in `every` seconds; until
    then the answer is no. All processes must call it equally often.
    """

    def __init__(self, every: float = 1.0):
        self._every, self._wait, self._calls, self._last = every, 1, 0, time.monotonic()

    def __call__(self, *own: bool, now: bool = False) -> list[bool]:
        """Whether any process says yes, for each question."""
        if jax.process_count() == 1:
            return list(own)
        self._calls += 1
        if self._calls < self._wait and not now:
            return [False] * len(own)
        pace = (time.monotonic() - self._last) / self._calls
        found = multihost_utils.process_allgather(np.array([*own, pace], np.float32))
        # The slowest pace, which all know, sets when all ask again; the first step compiles.
        pace = max(float(found[:, -1].max()), 1e-6)
        self._wait = max(1, min(int(self._every / pace), 2 * self._wait))
        self._calls, self._last = 0, time.monotonic()
        return [bool(x) for x in found[:, :-1].any(0)]
