"""Several devices: the axes that a mesh may have, and how arrays get onto it and back.

Over "windows" a batch is spread; over "gaussians" the points of a field, each device rendering its
own; over "models" independent models. A mesh of several processes is one over `jax.devices()`,
after `jax.distributed.initialize`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eegsr_jax.errors import ConfigError
from eegsr_jax.typing import PyTree

WINDOWS, GAUSSIANS, MODELS = AXES = "windows", "gaussians", "models"


def make_mesh(spec: str) -> Mesh:
    """The mesh of "windows:4,gaussians:2", over the first devices.

    Raises:
      ConfigError: an axis that there is not, twice or without a size, or more devices than are.
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
    if wanted > len(devices):
        raise ConfigError(
            f"mesh {spec!r} takes {wanted} devices, there are {len(devices)}; make it smaller (on "
            f"a CPU, JAX_NUM_CPU_DEVICES={wanted} makes as many)"
        )
    kinds = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), kinds, devices=devices[:wanted])


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
