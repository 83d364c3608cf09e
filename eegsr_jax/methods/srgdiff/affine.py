"""The denoiser that the paper describes, and that the release has but does not use.

Each block is modulated at each sample by the step, the place in time and the condition, and again
by the residual. As in `denoiser`, arrays between the parts have the channels before time, and what
does not depend on the input is made once: `prepare`, `steps`, `condition_terms`, `residual_terms`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eegsr_jax.methods.srgdiff.channelwise import EPSILON, ChannelwiseDenoiser
from eegsr_jax.nn import fourier
from eegsr_jax.nn.embedding import sinusoidal
from eegsr_jax.nn.grouped import ChannelMixing, expand, merge
from eegsr_jax.nn.layers import dense, product
from eegsr_jax.typing import PyTree

EMBEDDING = 256


class AffineDenoiser(ChannelwiseDenoiser):
    """The noise in `[batch, time, latent]` at a step, given a condition and a residual.

    A block has an MLP behind its long convolution. `dtype` is that in which matrices are
    multiplied; embeddings of steps and places are in float32 or better.

    Attributes:
      shared: units of each channel that the other channels see.
    """

    shared: int = 8

    def setup(self):
        """Declares the parameters."""
        super().setup()
        hidden = self.hidden
        self.step_net, self.place_net = (_Waves(hidden, self.dtype) for _ in range(2))
        self.mixing = [
            ChannelMixing(self.latent, self.units, self.shared, self.dtype)
            for _ in range(2 * self.blocks)
        ]
        shape = (2, self.blocks, 2 * hidden)
        zeros = nn.initializers.zeros
        # By step, place and condition; by the residual. A shift, then a scale.
        self.modulation_kernel = self.param("modulation_kernel", zeros, (*shape, hidden))
        self.modulation_bias = self.param("modulation_bias", zeros, shape)

    def steps(self, t: jax.Array) -> jax.Array:
        """`[n] -> [n, unit, 1]`, once a step."""
        return self.step_net(t)[..., None]

    def prepare(self, length: int) -> PyTree:
        """All that depends on the parameters alone, for latents of `length` samples.

        Raises:
          ConfigError: too few samples for the long convolution.
        """
        return self.spectra(length) | {"places": self.place_net(jnp.arange(length)).T[None]}

    def condition_terms(self, prepared: PyTree, cond: jax.Array) -> jax.Array:
        """`[batch, unit, time]`: linear in a condition `[batch, time, latent]`, without a bias."""
        return _expanded(prepared["condition"], cond)

    def residual_terms(self, prepared: PyTree, res: jax.Array | None) -> jax.Array:
        """`[batch, block, 2 · unit, time]` of a residual `[batch, time, latent]`."""
        if res is None:
            return self.modulation_bias[1][None, ..., None]
        hidden = _expanded(prepared["residual"], res) + _column(prepared["residual"]["bias"])
        return self._modulation(1, hidden)

    def denoise(
        self,
        prepared: PyTree,
        x: jax.Array,
        step: jax.Array,
        condition: jax.Array | None,
        residual: jax.Array,
    ) -> jax.Array:
        """The noise in `[batch, time, latent]`.

        Args:
          prepared: by `prepare`.
          x: the input.
          step: by `steps`, of each window.
          condition: by `condition_terms`; None for no condition.
          residual: by `residual_terms`.
        """
        length = x.shape[1]
        y = _expanded(prepared["enter"], x) + _column(prepared["enter"]["bias"])
        hidden = step + prepared["places"]
        if condition is not None:
            hidden = hidden + condition + _column(prepared["condition"]["bias"])
        modulation = self._modulation(0, hidden)
        residual = jnp.broadcast_to(residual, (x.shape[0], *residual.shape[1:]))
        for block, kernel in enumerate(prepared["long"]):
            n = _modulated(y, modulation[:, block])
            y = y + fourier.samples(kernel[None] * fourier.spectrum(n), length)
            n = _modulated(y, residual[:, block])
            n = n.reshape(x.shape[0], self.latent, self.units, length)
            n = nn.gelu(self.mixing[2 * block](n), approximate=False)
            y = y + self.mixing[2 * block + 1](n).reshape(y.shape)
        noise = fourier.samples(merge(prepared["leave"], fourier.spectrum(y)), length)
        return (noise + _column(prepared["leave"]["bias"])).swapaxes(1, 2)

    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        cond: jax.Array | None = None,
        res: jax.Array | None = None,
    ) -> jax.Array:
        """The noise at the steps `[batch]`."""
        prepared = self.prepare(x.shape[1])
        condition = None if cond is None else self.condition_terms(prepared, cond)
        residual = self.residual_terms(prepared, res)
        return self.denoise(prepared, x, self.steps(t), condition, residual)

    def _modulation(self, which: int, hidden: jax.Array) -> jax.Array:
        kernel, bias = self.modulation_kernel[which], self.modulation_bias[which]
        found = product("goi,bit->bgot", kernel, nn.silu(hidden), self.dtype)
        return found + bias[None, ..., None]


class _Waves(nn.Module):
    """An MLP of a sinusoidal embedding."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, t):
        dtype = jnp.float64 if self.dtype == jnp.float64 else jnp.float32
        x = sinusoidal(t, EMBEDDING, cosine_first=True, dtype=dtype)
        x = nn.silu(dense(x, self.features, name="first", dtype=dtype))
        return dense(x, self.features, name="second", dtype=dtype)


def _expanded(prepared: PyTree, x: jax.Array) -> jax.Array:
    """`[batch, time, latent] -> [batch, unit, time]`, without the bias."""
    found = expand(prepared, fourier.spectrum(x.swapaxes(1, 2)))
    return fourier.samples(found, x.shape[1])


def _column(bias: jax.Array) -> jax.Array:
    return bias.reshape(1, -1, 1)


def _modulated(y: jax.Array, modulation: jax.Array) -> jax.Array:
    """Mean 0 and variance 1 over all units and samples, then scaled and shifted at each."""
    y = y - y.mean((1, 2), keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y**2, (1, 2), keepdims=True) + EPSILON)
    shift, scale = jnp.split(modulation, 2, 1)
    return y * (1 + scale) + shift
