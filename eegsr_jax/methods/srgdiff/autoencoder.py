"""Windows of EEG as latents at a lower rate, and back: a variational autoencoder."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eegsr_jax.nn.autoencoder import Decoder, Encoder
from eegsr_jax.nn.layers import conv

LOG_VARIANCE = (-30.0, 20.0)  # no lower, no higher


class Autoencoder(nn.Module):
    """`[batch, time, channel] <-> [batch, time / 2^(levels - 1), latent]`.

    Attributes:
      channels: of the EEG.
      latent: channels of the latent.
      widths: of the levels, finest first.
      blocks: residual blocks of each level.
      groups: of the norms.
      dtype: in which it computes; norms in float32 or better. None: that of inputs and parameters.
    """

    channels: int
    latent: int = 32
    widths: tuple[int, ...] = (64, 32)
    blocks: tuple[int, ...] = (2, 2)
    groups: int = 1
    dtype: Any = None

    def setup(self):
        """Declares the networks."""
        shape = {
            "widths": self.widths,
            "blocks": self.blocks,
            "groups": self.groups,
            "dtype": self.dtype,
        }
        self.encoder = Encoder(self.latent, **shape)
        self.decoder = Decoder(self.channels, **shape)
        self.mean, self.log_variance, self.inlet = (
            _Pointwise(self.latent, self.dtype) for _ in range(3)
        )

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log standard deviation of the latent."""
        hidden = self.encoder(x)
        return self.mean(hidden), jnp.clip(self.log_variance(hidden), *LOG_VARIANCE) / 2

    def decode(self, z: jax.Array) -> jax.Array:
        """The EEG of a latent; an odd last sample that `encode` lost does not come back."""
        return self.decoder(self.inlet(z))

    def __call__(self, x: jax.Array) -> jax.Array:
        """What comes back of the latent's mean."""
        return self.decode(self.encode(x)[0])


class _Pointwise(nn.Module):
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        return conv(x, self.features, 1, name="conv", dtype=self.dtype)
