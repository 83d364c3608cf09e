"""The fusion as released: the guess, and a little of what the diffusion says otherwise."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eegsr_jax.nn.layers import conv


class GatedFusion(nn.Module):
    """`[batch, time, latent]` from two of them.

    Attributes:
      latent: channels.
      weight: of the difference; 0.01 in the release.
      dtype: in which it computes; None: that of inputs and parameters.
    """

    latent: int = 32
    weight: float = 0.01
    dtype: Any = None

    @nn.compact
    def __call__(self, guess: jax.Array, sample: jax.Array) -> jax.Array:
        """The guess, and a gated part of the difference of the sample."""
        both = jnp.concatenate([guess, sample], -1)
        gate = nn.sigmoid(conv(both, self.latent, 1, name="gate", dtype=self.dtype))
        change = conv(sample - guess, self.latent, 3, name="change", dtype=self.dtype)
        return guess + self.weight * gate * change
