"""The renderer as one would write it down: slow, obvious, for tests and doubts.

It shares no algebra with `precision` and `render`: it builds each 4×4 precision matrix, holds all
(time, electrode, Gaussian) weights at once and adds them up. In float64 under `jax.enable_x64`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def precision_matrix(diagonal: jax.Array, off_diagonal: jax.Array) -> jax.Array:
    """L Lᵀ `[N, 4, 4]`, order x, y, z, t, from L's diagonal `[N, 4]` and the rest `[N, 6]`."""
    rows, columns = jnp.tril_indices(4, -1)
    below = jnp.zeros((*diagonal.shape, 4), diagonal.dtype).at[:, rows, columns].set(off_diagonal)
    lower = below + diagonal[:, :, None] * jnp.eye(4, dtype=diagonal.dtype)[None]
    return jnp.einsum("nij,nkj->nik", lower, lower, precision="highest")


def gaussian_weights(
    positions: jax.Array, times: jax.Array, centres: jax.Array, precision: jax.Array
) -> jax.Array:
    """`[time, M, N]`: exp(-½ vᵀ Λ v), v the way from a Gaussian to an electrode at a time.

    Args:
      positions: `[M, 3]`.
      times: `[time]`.
      centres: `[N, 4]` in space and time.
      precision: Λ `[N, 4, 4]`.
    """
    shape = (times.shape[0], positions.shape[0])
    points = jnp.concatenate(
        [
            jnp.broadcast_to(positions[None], (*shape, 3)),
            jnp.broadcast_to(times[:, None, None], (*shape, 1)),
        ],
        -1,
    )
    way = points[:, :, None] - centres[None, None]
    return jnp.exp(
        -0.5 * jnp.einsum("tmni,nij,tmnj->tmn", way, precision, way, precision="highest")
    )


def render(weights: jax.Array, amplitude: jax.Array, modulation: jax.Array) -> jax.Array:
    """`[batch, time, M]` of weights `[time, M, N]`, amplitude `[N]`, modulation `[batch, time, P]`.

    The N Gaussians stand in P groups of neighbours: n = p · G + g.
    """
    groups = amplitude.shape[0] // modulation.shape[-1]
    total = amplitude[None, None] + jnp.repeat(modulation, groups, -1)
    return jnp.einsum("tmn,btn->btm", weights, total, precision="highest")
