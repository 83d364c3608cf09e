"""Gradients clipped as the released programs clip theirs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def clip(longest: float) -> optax.GradientTransformation:
    """All gradients as one vector, at most `longest`; divided by its norm plus 1e-6, as in PyTorch.

    `optax.clip_by_global_norm` leaves the 1e-6 away.
    """

    def update(gradients, state, params=None):
        del params
        factor = jnp.minimum(1.0, longest / (optax.tree.norm(gradients) + 1e-6))
        return jax.tree.map(lambda g: g * factor, gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
