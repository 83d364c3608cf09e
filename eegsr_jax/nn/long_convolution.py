"""Structured long convolution: kernels of many taps from few parameters, one for each channel.

A few short kernels, of which each is stretched to twice the length of the one before and has half
its height, one behind the other: Y. Li, T. Cai, Y. Zhang, D. Chen, D. Dey, *What Makes
Convolutional Models Great on Long Sequence Modeling?*, arXiv 2210.09298.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from eegsr_jax.errors import ConfigError
from eegsr_jax.nn.fourier import kernel_spectrum
from eegsr_jax.nn.layers import normal


def long_kernel(pieces: jax.Array) -> jax.Array:
    """`[scales, channel, taps] -> [channel, taps · 2^(scales - 1)]`.

    The second piece is as long as the first; from then on lengths double. Heights halve from the
    first on.
    """
    scales = len(pieces)
    stretched = [
        jnp.repeat(piece, 2 ** max(0, i - 1), -1) * 2.0 ** (scales - 1 - i)
        for i, piece in enumerate(pieces)
    ]
    return jnp.concatenate(stretched, -1)


class LongConvolution(nn.Module):
    """Circular, each channel by itself, and a gain for the sample itself.

    `norm`, by which the kernel is divided, is that of the kernel at the start and stays as it was:
    training changes the size of the kernel too.

    Attributes:
      channels: of the signal.
      taps: of each piece.
      scales: pieces.
    """

    channels: int
    taps: int
    scales: int

    def setup(self):
        """Declares the parameters."""
        start = normal(1.0)
        self.pieces = self.param("pieces", start, (self.scales, self.channels, self.taps))
        self.norm = self.param("norm", lambda key: kernel_norm(self.pieces))
        self.gain = self.param("gain", start, (self.channels,))

    def spectrum(self, length: int) -> jax.Array:
        """`[channel, frequency]`, what spectra are multiplied with; the gain is in it.

        Raises:
          ConfigError: as many taps as samples, or more.
        """
        kernel = long_kernel(self.pieces)
        if kernel.shape[-1] >= length:
            raise ConfigError(
                f"a long convolution of {kernel.shape[-1]} taps ({self.taps} in {self.scales} "
                f"scales) needs more samples than taps; found {length}: take longer windows, "
                "fewer taps or fewer scales"
            )
        fixed = jax.lax.stop_gradient(self.norm)[:, None]
        found = kernel_spectrum(kernel / fixed, length)
        return found + self.gain[:, None].astype(found.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, channel, time]`."""
        length = x.shape[-1]
        product = jnp.fft.rfft(x) * self.spectrum(length)[None]
        return jnp.fft.irfft(product, length)


def kernel_norm(pieces: jax.Array) -> jax.Array:
    """`[channel]` length of the whole kernel."""
    return jnp.linalg.norm(long_kernel(pieces), axis=-1)
