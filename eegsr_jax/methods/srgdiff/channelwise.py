"""What both denoisers are made of: hidden units of each latent channel, convolved along time."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from eegsr_jax.nn.grouped import ChannelConvolution
from eegsr_jax.nn.long_convolution import LongConvolution
from eegsr_jax.typing import PyTree

EPSILON = 1e-5  # added to variances of the norms


class ChannelwiseDenoiser(nn.Module):
    """Ways in for the input, a condition and a residual, long convolutions, and a way out.

    Attributes:
      latent: channels.
      units: hidden units of each.
      blocks: long convolutions, one behind the other.
      taps, scales: of each of them.
      width, width_out: taps of the first and of the last convolution.
      dtype: see the denoiser.
    """

    latent: int = 32
    units: int = 12
    blocks: int = 4
    taps: int = 17
    scales: int = 4
    width: int = 7
    width_out: int = 7
    dtype: Any = None

    def setup(self):
        """Declares the parameters that both have."""
        self.enter, self.condition, self.residual = (
            ChannelConvolution(self.latent, self.units, self.width) for _ in range(3)
        )
        self.leave = ChannelConvolution(self.latent, self.units, self.width_out, merge=True)
        self.long = [
            LongConvolution(self.hidden, self.taps, self.scales) for _ in range(self.blocks)
        ]

    @property
    def hidden(self) -> int:
        """Units of all channels."""
        return self.latent * self.units

    def spectra(self, length: int) -> PyTree:
        """What its convolutions multiply spectra with, for latents of `length` samples.

        Raises:
          ConfigError: too few samples for the long convolution.
        """
        ends = {name: getattr(self, name).prepare(length) for name in ENDS}
        return ends | {"long": jnp.stack([block.spectrum(length) for block in self.long])}


ENDS = ("enter", "condition", "residual", "leave")
