"""Covariance of the scalp potential between two directions, before any data: Legendre series.

Both kernels are closed forms of the angle between electrodes, so they are defined at any position
and differentiable in it.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from eegsr_jax.geometry import cosines, legendre_sum
from eegsr_jax.typing import Kernel, OneCap, OtherCap, Point


def spline_kernel(
    a: OneCap, b: OtherCap, centre: Point, *, order: Any = 4, terms: int = 50
) -> Kernel:
    """Perrin's g: sum over n of (2n + 1) / (n (n + 1))^order P_n(cos) / 4 pi.

    Source: Perrin et al. 1989, eq. 3. `a` `[A, 3]`, `b` `[B, 3]` metres -> `[A, B]`.
    """
    n = jnp.arange(1, terms + 1, dtype=a.dtype)
    coefficients = (2 * n + 1) / (4 * jnp.pi * (n * (n + 1)) ** order)
    return legendre_sum(cosines(a, b, centre), coefficients)


def lead_field_kernel(
    a: OneCap,
    b: OtherCap,
    centre: Point,
    *,
    source_radius: float = 0.042,
    terms: int = 99,
) -> Kernel:
    """Covariance of the potential of random dipoles on a sphere of `source_radius` metres.

    Homogeneous conductor, uncorrelated dipoles of random direction: sum over n of
    (2n + 1)^2 / n r^n P_n(cos) with r = source_radius^2 / (|a| |b|), over |a| |b|. Source: the
    lead-field products of minimum-norm field interpolation (Hämäläinen & Ilmoniemi 1994), with
    the radius that MNE-Python uses for EEG.
    """
    size = jnp.linalg.norm(a - centre[None], axis=-1)[:, None]
    product = size * jnp.linalg.norm(b - centre[None], axis=-1)[None]
    n = jnp.arange(1, terms + 1, dtype=a.dtype)
    series = legendre_sum(cosines(a, b, centre), (2 * n + 1) ** 2 / n, source_radius**2 / product)
    return series / product
