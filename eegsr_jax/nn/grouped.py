"""Layers whose hidden units belong to channels: `units` of them to each, its own before the next's.

Written over the units that are there, not as masked layers over all of them.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eegsr_jax.nn.fourier import kernel_spectrum
from eegsr_jax.nn.layers import product, uniform


class ChannelConvolution(nn.Module):
    """Circular convolution between each channel and its own units.

    As a masked convolution over all channels begins, so does this: within ±1/√fan_in of the masked.

    Attributes:
      channels: of the signal.
      units: of each channel.
      width: taps, of the cross-correlation; of an even number the later half is the longer.
      merge: from the units to their channel, not from the channel to its units.
    """

    channels: int
    units: int
    width: int
    merge: bool = False

    def setup(self):
        """Declares the parameters."""
        inputs = self.channels * (self.units if self.merge else 1)
        start = uniform(inputs * self.width)
        self.kernel = self.param("kernel", start, (self.channels, self.units, self.width))
        outputs = (self.channels,) if self.merge else (self.channels, self.units)
        self.bias = self.param("bias", start, outputs)

    def prepare(self, length: int) -> dict[str, jax.Array]:
        """Its spectrum `[channel, unit, frequency]` at a number of samples, and its bias."""
        return {"spectrum": kernel_spectrum(self.kernel[..., ::-1], length), "bias": self.bias}


class ChannelMixing(nn.Module):
    """A dense layer at each sample among the units of a channel, and between a few of all channels.

    Attributes:
      channels: of the signal.
      units: of each channel.
      shared: units of each channel, the first ones, that those of the other channels see.
      dtype: in which matrices are multiplied; None: that of inputs and parameters.
    """

    channels: int
    units: int
    shared: int
    dtype: Any = None

    def setup(self):
        """Declares the parameters."""
        channels, units, shared = self.channels, self.units, self.shared
        start = uniform(channels * units)
        self.within = self.param("within", start, (channels, units, units))
        self.between = self.param("between", start, (channels, shared, channels, shared))
        self.bias = self.param("bias", start, (channels, units))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, channel, unit, time]`, into the same."""
        # A channel's own units are in `within`.
        others = 1 - jnp.eye(self.channels, dtype=self.between.dtype)[:, None, :, None]
        seen = x[:, :, : self.shared]
        between = product("ciej,bejt->bcit", self.between * others, seen, self.dtype)
        within = product("cij,bcjt->bcit", self.within, x, self.dtype)
        missing = self.units - self.shared
        spread = jnp.pad(between, ((0, 0), (0, 0), (0, missing), (0, 0)))
        return within + spread + self.bias[None, ..., None]


def expand(prepared: dict[str, jax.Array], spectrum: jax.Array) -> jax.Array:
    """`[batch, channel, frequency] -> [batch, channel · unit, frequency]`, without the bias."""
    batch, _, frequencies = spectrum.shape
    both = prepared["spectrum"][None] * spectrum[:, :, None]
    return both.reshape(batch, -1, frequencies)


def merge(prepared: dict[str, jax.Array], spectrum: jax.Array) -> jax.Array:
    """`[batch, channel · unit, frequency] -> [batch, channel, frequency]`, without the bias."""
    kernel = prepared["spectrum"]
    apart = spectrum.reshape(-1, *kernel.shape)
    return jnp.sum(kernel[None] * apart, 2)
