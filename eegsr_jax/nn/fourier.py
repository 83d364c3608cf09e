"""Circular convolutions as products of spectra, and real signals by their Fourier coefficients.

A convolution multiplies the spectrum; so a network that convolves again and again, and does nothing
else that is not linear at each sample, need not come back to samples in between. Here time, or
frequency, is the **last** axis, along which transforms run without a transposition.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.errors import ConfigError


def kernel_spectrum(kernel: jax.Array, length: int) -> jax.Array:
    """What a circular convolution of `length` samples multiplies spectra with, `[..., frequency]`.

    Args:
      kernel: `[..., taps]`; tap taps // 2 is the one at lag 0, later ones act later.
      length: samples.

    Raises:
      ConfigError: more taps than samples.
    """
    taps = kernel.shape[-1]
    if taps > length:
        raise ConfigError(
            f"a convolution of {taps} taps around {length} samples: expected no more taps than "
            "samples; take longer windows or a shorter kernel"
        )
    padded = jnp.pad(kernel, [(0, 0)] * (kernel.ndim - 1) + [(0, length - taps)])
    return jnp.fft.rfft(jnp.roll(padded, -(taps // 2), -1))


def spectrum(x: jax.Array) -> jax.Array:
    """`[..., time]`, real, `-> [..., time // 2 + 1]`; squares add up to those of the samples."""
    found = jnp.fft.rfft(x)
    return found * _weights(found, x.shape[-1])


def samples(spectrum: jax.Array, length: int) -> jax.Array:
    """The inverse of `spectrum`."""
    return jnp.fft.irfft(spectrum / _weights(spectrum, length), length)


def _weights(like: jax.Array, length: int) -> np.ndarray:
    """Of the frequencies of `like`: all but the first, and the last of an even length, are two."""
    power = np.full(like.shape[-1], 2.0)
    power[0] = 1.0
    if length % 2 == 0:
        power[-1] = 1.0
    weights = np.sqrt(power / length).astype(like.dtype)
    return weights.reshape((1,) * (like.ndim - 1) + (-1,))


def coefficients(x: jax.Array) -> jax.Array:
    """`[..., time]` in the orthonormal basis of the mean, then cosines, then sines: as many.

    An orthogonal map: white noise stays white noise, norms and inner products stay. A sampler whose
    steps are linear may run on coefficients all the way.
    """
    return from_spectrum(spectrum(x), x.shape[-1])


def from_coefficients(c: jax.Array) -> jax.Array:
    """The inverse of `coefficients`."""
    return samples(to_spectrum(c), c.shape[-1])


def from_spectrum(spectrum: jax.Array, length: int) -> jax.Array:
    """`[..., frequency] -> [..., length]`: the coefficients that a spectrum holds."""
    return jnp.concatenate([spectrum.real, spectrum.imag[..., 1 : (length + 1) // 2]], -1)


def to_spectrum(c: jax.Array) -> jax.Array:
    """The inverse of `from_spectrum`."""
    length = c.shape[-1]
    frequencies, middle = length // 2 + 1, (length + 1) // 2
    ends = jnp.zeros_like(c[..., :1])
    sines = [ends, c[..., frequencies:], ends[..., : frequencies - middle]]
    return jax.lax.complex(c[..., :frequencies], jnp.concatenate(sines, -1))
