"""Noise that does not depend on the batch size, and lies where the data lie."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eegsr_jax.distributed import varies_over, varying_over


def window_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """One key a window, shaped as `index`: the numbers of the windows, whatever their batches."""
    draw = jax.random.fold_in
    for _ in range(index.ndim):
        draw = jax.vmap(draw, (None, 0))
    return draw(key, index)


def keys_of(key: jax.Array | None, windows: jax.Array) -> jax.Array:
    """`[batch]` keys of windows `[batch, ...]`, of what a caller may give.

    Of one key each window's place in the batch makes its own; None stands for the same draws in
    every window.
    """
    if key is None:
        return jnp.broadcast_to(jax.random.key(0), windows.shape[:1])
    return key if key.ndim else window_keys(key, jnp.arange(windows.shape[0]))


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
    return varying_over(varies_over(ref), noise)
