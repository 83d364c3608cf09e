"""The exponent of every Gaussian at every electrode, from a Cholesky-parametrised precision.

A Gaussian in (x, y, z, t) has the precision L Lᵀ, L lower triangular with a positive diagonal. With
d the offset of an electrode from its centre and τ the time since its own,

    log w = -½ ‖Lᵀ (d, τ)‖² = -½ A - τ C - ½ τ² D,

A and C of electrode and Gaussian, D of the Gaussian alone. L is in the inverse units of d and τ.
Source: EMAG (arXiv 2605.29731), `full_4d` and its ablations.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eegsr_jax.errors import ConfigError

# Which of L10, L20, L21 (space) and L30, L31, L32 (space to time) are kept.
OFF_DIAGONAL = {
    "all": (1, 1, 1, 1, 1, 1),
    "none": (0, 0, 0, 0, 0, 0),
    "spatial_only": (1, 1, 1, 0, 0, 0),
    "spacetime_only": (0, 0, 0, 1, 1, 1),
}
COVARIANCE = {
    "full_4d": OFF_DIAGONAL["all"],
    "spatial_3d_only": OFF_DIAGONAL["spatial_only"],
    "diagonal_4d": OFF_DIAGONAL["none"],
}
SMALLEST_SCALE = 1e-6  # of `isotropic`, in its units


class Field(NamedTuple):
    """G Gaussians at each of P points, as M electrodes see them.

    Attributes:
      distance: A `[M, G, P]`, squared Mahalanobis distance in space.
      coupling: C `[M, G, P]`, per unit of time; how far distance moves the peak in time.
      rate: D `[G, P]`, precision in time.
      time: `[G, P]` where in time each Gaussian stands.
      amplitude: `[G, P]`.
    """

    distance: jax.Array
    coupling: jax.Array
    rate: jax.Array
    time: jax.Array
    amplitude: jax.Array


def cholesky(
    log_diagonal: jax.Array,
    off_diagonal: jax.Array,
    covariance: str = "full_4d",
    off: str = "all",
) -> tuple[jax.Array, jax.Array]:
    """The diagonal `[..., 4]` and the entries below it `[..., 6]` of L, after the switches.

    Args:
      log_diagonal: `[..., 4]` logarithms of L00 … L33, order x, y, z, t.
      off_diagonal: `[..., 6]` L10, L20, L21, L30, L31, L32.
      covariance: a key of `COVARIANCE`.
      off: a key of `OFF_DIAGONAL`, which entries below the diagonal are kept.

    Raises:
      ConfigError: an unknown key.
    """
    for name, value, table in (("covariance", covariance, COVARIANCE), ("off", off, OFF_DIAGONAL)):
        if value not in table:
            raise ConfigError(f"{name} {value!r} is unknown; expected one of {', '.join(table)}")
    kept = [a * b for a, b in zip(COVARIANCE[covariance], OFF_DIAGONAL[off], strict=True)]
    mask = jnp.asarray(kept, off_diagonal.dtype).reshape((1,) * (off_diagonal.ndim - 1) + (6,))
    return jnp.exp(log_diagonal), off_diagonal * mask


def isotropic(log_space: jax.Array, log_time: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `cholesky`, for round Gaussians: logarithms of the two standard deviations `[...]`."""
    space, time = (jnp.maximum(jnp.exp(a), SMALLEST_SCALE) for a in (log_space, log_time))
    diagonal = jnp.stack([1 / space, 1 / space, 1 / space, 1 / time], -1)
    return diagonal, jnp.zeros((*log_space.shape, 6), log_space.dtype)


def field(
    positions: jax.Array,
    centres: jax.Array,
    diagonal: jax.Array,
    off_diagonal: jax.Array,
    time: jax.Array,
    amplitude: jax.Array,
) -> Field:
    """What electrodes see of Gaussians.

    Args:
      positions: `[M, 3]` electrodes.
      centres: `[P, 3]` points, or `[G, P, 3]` when each Gaussian has its own.
      diagonal: `[G, P, 4]` from `cholesky` or `isotropic`.
      off_diagonal: `[G, P, 6]`.
      time: `[G, P]`.
      amplitude: `[G, P]`.
    """
    own = centres if centres.ndim == 3 else centres[None]
    x, y, z = jnp.moveaxis(positions[:, None, None] - own[None], -1, 0)
    l00, l11, l22, l33 = jnp.moveaxis(diagonal[None], -1, 0)
    l10, l20, l21, l30, l31, l32 = jnp.moveaxis(off_diagonal[None], -1, 0)
    z0 = l00 * x + l10 * y + l20 * z
    z1 = l11 * y + l21 * z
    z2 = l22 * z
    return Field(
        distance=z0**2 + z1**2 + z2**2,
        coupling=z0 * l30 + z1 * l31 + z2 * l32,
        rate=rate(diagonal, off_diagonal),
        time=time,
        amplitude=amplitude,
    )


def rate(diagonal: jax.Array, off_diagonal: jax.Array) -> jax.Array:
    """D: the precision in time, to which the coupling of space and time adds."""
    return jnp.sum(off_diagonal[..., 3:] ** 2, -1) + diagonal[..., 3] ** 2
