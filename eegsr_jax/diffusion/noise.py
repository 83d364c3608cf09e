"""Noise that does not depend on the batch size, and lies where the data lie."""

from __future__ import annotations

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def window_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """One key a window, shaped as `index`: the numbers of the windows, whatever their batches."""
    draw = jax.random.fold_in
    for _ in range(index.ndim):
        draw = jax.vmap(draw, (None, 0))
    return draw(key, index)


def step_key(key: jax.Array, step: jax.Array | int) -> jax.Array:
    """Keys of any shape, one of each for a step."""
    draw = jax.random.fold_in
    for _ in range(key.ndim):
        draw = jax.vmap(draw, (0, None))
    return draw(key, step)


def noise_like(key: jax.Array, ref: jax.Array) -> jax.Array:
    """Normal noise of the shape, type and sharding of `ref`.

    Noise made inside a function has no sharding of its own; under a mesh of Explicit axes, or in a
    `shard_map`, a `lax.scan` that adds it to sharded data would fail. The keys are spread as the
    data are, so each device draws its own; in a `shard_map` each draws with the keys it is given.

    Args:
      key: one key, or keys shaped as leading axes of `ref`, each for its own part: with one a
        window, its noise does not depend on which others are in its batch.
      ref: what the noise is like.
    """
    sharding = jax.typeof(ref).sharding
    explicit = AxisType.Explicit in sharding.mesh.axis_types
    if explicit:
        spec = PartitionSpec(*sharding.spec[: key.ndim])
        key = jax.sharding.reshard(key, NamedSharding(sharding.mesh, spec))

    def draw(key):
        return jax.random.normal(key, ref.shape[ndim:], ref.dtype)

    ndim = key.ndim
    for _ in range(ndim):
        draw = jax.vmap(draw)
    noise = draw(key)
    if explicit:
        noise = jax.sharding.reshard(noise, sharding)
    # Within a `shard_map`: one key for all devices makes noise that counts as the same on all.
    varying = (jax.typeof(x).manual_axis_type.varying for x in (ref, noise))
    lacking = tuple(sorted(frozenset.difference(*varying)))
    return jax.lax.pcast(noise, lacking, to="varying") if lacking else noise
