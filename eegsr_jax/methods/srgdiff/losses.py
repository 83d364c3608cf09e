"""The losses of SRGDiff's stages, and how much each of their terms weighs.

Means are over all entries. `ADVERSARIAL`, `KL` and `LATENT` are the release's weights; the paper's
are not known, so `STFT`, `RESIDUAL` and `MODULATION` are ours.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

KL = 1e-9
ADVERSARIAL = 0.01
LATENT = 100.0  # of the error in the latent, beside that in the EEG
STFT = 0.1
RESIDUAL = 1.0
MODULATION = 0.01

SLOPE = 0.05  # of the rectifier on the discriminator's logits
STFT_WINDOWS = (16, 64, 256)  # samples; a quarter of each from one to the next


def absolute(found: jax.Array, wanted: jax.Array) -> jax.Array:
    """Mean absolute error; an error of zero has no slope, as in PyTorch."""
    error = found - wanted
    return jnp.mean(error * jax.lax.stop_gradient(jnp.sign(error)))


def squared(found: jax.Array, wanted: jax.Array) -> jax.Array:
    """Mean squared error."""
    return jnp.mean((found - wanted) ** 2)


def smooth_absolute(found: jax.Array, wanted: jax.Array) -> jax.Array:
    """Half the square of errors below one, the absolute value less a half above; mean."""
    size = jnp.abs(found - wanted)
    return jnp.mean(jnp.where(size < 1, size**2 / 2, size - 0.5))


def divergence(mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Of normals from the standard normal, summed over all but the windows; mean over them."""
    each = (mean**2 + jnp.exp(2 * log_std) - 2 * log_std - 1) / 2
    return jnp.sum(each) / len(mean)


def fools(fake: jax.Array) -> jax.Array:
    """How far a discriminator's logits of reconstructions are from those of recordings."""
    return squared(nn.leaky_relu(fake, SLOPE), jnp.ones_like(fake))


def discerns(fake: jax.Array, real: jax.Array) -> jax.Array:
    """What a discriminator gets wrong: zero for reconstructions, one for recordings."""
    return (squared(nn.leaky_relu(fake, SLOPE), jnp.zeros_like(fake)) + fools(real)) / 2


def spectral(found: jax.Array, wanted: jax.Array) -> jax.Array:
    """Mean absolute difference of amplitudes over time and frequency, at several resolutions.

    `[batch, time, channel]`; windows of `STFT_WINDOWS` samples, those that fit.
    """
    sizes = [size for size in STFT_WINDOWS if size <= found.shape[1]]
    each = [absolute(_amplitudes(found, size), _amplitudes(wanted, size)) for size in sizes]
    return sum(each[1:], each[0]) / len(each)


def _amplitudes(x: jax.Array, size: int) -> jax.Array:
    """`[batch, piece, frequency, channel]` in the unit of x."""
    begin = np.arange(0, x.shape[1] - size + 1, size // 4)
    pieces = x[:, begin[:, None] + np.arange(size)[None]]
    taper = np.hanning(size + 2)[1:-1].astype(x.dtype)
    taper = taper / np.sqrt(np.sum(taper**2))
    spectrum = jnp.fft.rfft(pieces * taper[None, None, :, None], axis=2)
    # Amplitudes have no slope at zero: a little is added.
    return jnp.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-8)
