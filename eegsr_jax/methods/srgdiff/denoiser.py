"""The denoiser as released: linear in its input but for norms, gated by the condition.

The released one convolves, normalises over the whole plane of units and samples, and adds gated
conditions; it reads no step. Between the gates everything is a product of spectra, so here it runs
on Fourier coefficients (`nn.fourier`): only the gated conditions, which do not depend on the input,
are formed over samples. `prepare` is made once from the parameters, `condition_terms` once a
window, `constant_terms` once a step; what is left for each step of each window are `gated` and
`denoise`. Arrays between them have the channels before time: transforms run along the last axis.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.methods.srgdiff.channelwise import EPSILON, ChannelwiseDenoiser
from eegsr_jax.nn import fourier
from eegsr_jax.nn.grouped import expand, merge
from eegsr_jax.nn.layers import uniform
from eegsr_jax.typing import PyTree

GATE_BIAS = -2.0


class Denoiser(ChannelwiseDenoiser):
    """The noise in `[batch, time, latent]`, given a condition and a residual of that shape.

    `dtype` is that in which gates are computed; the rest is in that of inputs and parameters.
    """

    def setup(self):
        """Declares the parameters."""
        super().setup()
        start, hidden = nn.initializers.constant(GATE_BIAS), self.hidden
        self.gate_kernel = self.param("gate_kernel", uniform(hidden), (self.blocks, hidden, hidden))
        self.gate_bias = self.param("gate_bias", start, (self.blocks, hidden))

    def prepare(self, length: int) -> PyTree:
        """All that depends on the parameters alone, for latents of `length` samples.

        Raises:
          ConfigError: too few samples for the long convolution.
        """
        bias = self.condition.bias.reshape(-1)
        constant = jnp.einsum("gij,j->gi", self.gate_kernel, bias, precision="highest")
        dtype = self.dtype or self.gate_kernel.dtype
        gate = {
            "kernel": self.gate_kernel.astype(dtype),
            "bias": (self.gate_bias + constant).astype(dtype),
        }
        return self.spectra(length) | {"gate": gate}

    def __call__(
        self, x: jax.Array, cond: jax.Array | None = None, res: jax.Array | None = None
    ) -> jax.Array:
        """The noise; without a condition, or a residual, nothing is added for it."""
        prepared = self.prepare(x.shape[1])
        added = []
        if cond is not None:
            added.append(gated(prepared, condition_terms(prepared, cond)))
        if res is not None:
            added.append([residual_terms(prepared, res)] * self.blocks)
        noise = denoise(prepared, fourier.coefficients(x.swapaxes(1, 2)), *added)
        return fourier.from_coefficients(noise).swapaxes(1, 2)


def condition_terms(prepared: PyTree, cond: jax.Array) -> dict[str, jax.Array]:
    """What gates are made of: linear in a condition `[batch, time, latent]`, without the biases.

    Returns:
      "value" `[batch, unit, time]` and "gate" `[batch, block, unit, time]`.
    """
    spectrum = expand(prepared["condition"], fourier.spectrum(cond.swapaxes(1, 2)))
    return _terms(prepared, fourier.samples(spectrum, cond.shape[1]))


def constant_terms(prepared: PyTree, cond: jax.Array) -> dict[str, jax.Array]:
    """The same of conditions `[n, latent]` that stay the same over time, of which there is one."""
    gain = prepared["condition"]["spectrum"][..., 0].real
    value = gain[None] * cond[:, :, None]
    return _terms(prepared, value.reshape(len(cond), -1, 1))


def gated(prepared: PyTree, terms: dict[str, jax.Array]) -> list[jax.Array]:
    """What each block adds, `[batch, unit, frequency]`, from the terms of its condition.

    An array a block: several transforms run at the same time, and what they give stays in caches.
    """
    bias = prepared["condition"]["bias"]
    value = terms["value"] + bias.reshape(1, -1, 1).astype(terms["value"].dtype)

    def one(block: int, gate_bias: jax.Array) -> jax.Array:
        opened = nn.sigmoid(terms["gate"][:, block] + gate_bias[None, :, None])
        return fourier.spectrum((opened * value).astype(bias.dtype))

    return [one(*each) for each in enumerate(prepared["gate"]["bias"])]


def residual_terms(prepared: PyTree, res: jax.Array) -> jax.Array:
    """What a residual `[batch, time, latent]` adds to every block: `[batch, unit, frequency]`."""
    own, length = prepared["residual"], res.shape[1]
    found = expand(own, fourier.spectrum(res.swapaxes(1, 2)))
    return _with_bias(found, own["bias"], length)


def denoise(prepared: PyTree, x: jax.Array, *added: list[jax.Array]) -> jax.Array:
    """The coefficients of the noise from those of the input, `[batch, latent, time]`.

    Args:
      prepared: by `Denoiser.prepare`.
      x: `fourier.coefficients` of the input.
      *added: lists of what is added in each block, `[batch, unit, frequency]`.
    """
    length = x.shape[-1]
    y = expand(prepared["enter"], fourier.to_spectrum(x))
    y = _with_bias(y, prepared["enter"]["bias"], length)
    for kernel, *terms in zip(prepared["long"], *added, strict=True):
        y = y + kernel[None] * _normalised(y, length)
        for term in terms:
            y = y + term
    noise = _with_bias(merge(prepared["leave"], y), prepared["leave"]["bias"], length)
    return fourier.from_spectrum(noise, length)


def _terms(prepared: PyTree, value: jax.Array) -> dict[str, jax.Array]:
    kernel = prepared["gate"]["kernel"]
    value = value.astype(kernel.dtype)
    gate = jnp.einsum("gij,bjt->bgit", kernel, value, precision="highest")
    return {"value": value, "gate": gate}


def _normalised(y: jax.Array, length: int) -> jax.Array:
    """Mean 0 and variance 1 over all units and samples of what has the spectrum y."""
    mean = y[..., 0].real.mean(1, keepdims=True)
    y = y - _at_zero(mean, y)
    power = jnp.sum((y * y.conj()).real, -1)
    variance = jnp.sum(power, 1) / (y.shape[1] * length)
    return y * jax.lax.rsqrt(variance + EPSILON).astype(y.dtype)[:, None, None]


def _with_bias(y: jax.Array, bias: jax.Array, length: int) -> jax.Array:
    return y + _at_zero(np.sqrt(length).astype(bias.dtype) * bias.reshape(1, -1), y)


def _at_zero(value: jax.Array, like: jax.Array) -> jax.Array:
    """A value at frequency 0 and none elsewhere, to be added to a spectrum."""
    first = np.zeros((1, 1, like.shape[-1]), value.dtype)
    first[..., 0] = 1
    return (value[..., None] * first).astype(like.dtype)
