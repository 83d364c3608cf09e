"""Gaussians in time alone, brought to the electrodes by a matrix instead of by distance."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eegsr_jax.gaussians.render import FEWEST, Modulate, affine
from eegsr_jax.typing import PyTree


def project(
    matrix: jax.Array,
    rate: jax.Array,
    origin: jax.Array,
    amplitude: jax.Array,
    times: jax.Array,
    features: jax.Array | None = None,
    weights: PyTree = None,
    *,
    modulate: Modulate = affine,
) -> jax.Array:
    """Σ_gp matrix[m, g, p] exp(-½ τ² rate[g, p]) (α[g, p] + β[b, t, p]): `[batch, time, M]`.

    EMAG's ablations `learned_linear` and `leadfield_matrix`. The weights change sign and depend on
    M only by the matrix, so nothing can be shared as in `render`; the backward pass recomputes.

    Args:
      matrix: `[M, G, P]`.
      rate: `[G, P]` precision in time.
      origin: `[G, P]` where in time the Gaussians stand.
      amplitude: `[G, P]`.
      times: `[time]`.
      features: `[batch, time, F]`, or None for the amplitudes alone, batch 1.
      weights: as in `render`.
      modulate: as in `render`.
    """

    @jax.checkpoint
    def sample(given):
        time, features = given
        taken = amplitude[None]
        if features is not None:
            taken = taken + modulate(features[None], weights)[0][:, None]
        envelope = jnp.exp(-0.5 * (time - origin) ** 2 * rate)
        return jnp.einsum("bgp,mgp->bm", envelope[None] * taken, matrix, precision="highest")

    by_time = None if features is None else features.swapaxes(0, 1)
    return jax.lax.map(sample, (times, by_time), batch_size=FEWEST).swapaxes(0, 1)
