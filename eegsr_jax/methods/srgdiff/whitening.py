"""White noise from stationary EEG, and back: components in space, of each octave its own.

What is white needs no network: a sampler that starts from white noise and changes nothing gives
draws with the covariance and the spectra of the training data, in closed form.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eegsr_jax.nn.fourier import samples, spectrum
from eegsr_jax.nn.octaves import OCTAVES, octave_of
from eegsr_jax.numerics import in_float64
from eegsr_jax.typing import PyTree

BINS = 128  # of the spectra, from no frequency to half the sampling rate
DEAD = 3e-3  # of the mean power density: filtered out, and not brought back
SHRINKAGE = 0.1  # of an octave's covariance towards that of all: little is known of slow octaves

NOTHING = 1e-7  # of it: rounding noise


def spectral_sums(x: jax.Array) -> jax.Array:
    """`[batch, channel, time] -> [BINS, channel, channel]`: covariance by frequency, summed.

    The mean over bins, divided by the number of windows, is the covariance of the channels.
    Windows are tapered; the parts that are out of phase are left out.
    """
    time = x.shape[-1]
    taper = jnp.hanning(time).astype(x.dtype)
    found = jnp.fft.rfft(x * (taper / jnp.sqrt(jnp.mean(taper**2)))[None, None], norm="ortho")
    at = jnp.arange(found.shape[-1], dtype=x.dtype) / time
    bins = jnp.linspace(0.0, 0.5, BINS, dtype=x.dtype)
    width = jnp.maximum(bins[1], at[1])
    near = jnp.maximum(1 - jnp.abs(bins[:, None] - at[None]) / width, 0.0)
    near = near / jnp.sum(near, 1, keepdims=True)

    def product(part):
        return jnp.einsum("bmf,bnf->fmn", part, part, precision="highest")

    both = product(found.real) + product(found.imag)
    return jnp.einsum("kf,fmn->kmn", near, both, precision="highest")


@in_float64
def components(matrices: jax.Array, missing: jax.Array, like: jax.Array) -> dict[str, jax.Array]:
    """The largest components of mean `spectral_sums`, of each octave its own, and their spectra.

    Args:
      matrices: `[BINS, M, M]`.
      missing: `[M]` bool, the channels that there is anything of.
      like: `[OCTAVES, M, K]`, of whose shape "basis" is to be.

    Returns:
      "basis" `[OCTAVES, M, K]`, orthonormal; "density" `[OCTAVES, BINS, K]`, power by frequency
      in each basis, zero where there is next to none.
    """
    matrices = jnp.where((missing[:, None] & missing[None])[None], matrices, 0.0)
    everything, power = matrices.mean(0), jnp.trace(matrices, axis1=1, axis2=2)
    usual = power[:, None, None] * (everything / jnp.maximum(power.mean(), 1e-30))[None]
    matrices = (1 - SHRINKAGE) * matrices + SHRINKAGE * usual
    # The bins are the frequencies of 2 BINS - 2 samples.
    mine = octave_of(2 * BINS - 2)[None] == jnp.arange(OCTAVES, dtype=jnp.int32)[:, None]
    own = jnp.einsum("of,fmn->omn", mine.astype(matrices.dtype), matrices, precision="highest")
    basis = jnp.linalg.eigh(own)[1][:, :, ::-1][:, :, : like.shape[2]]
    # Rounding leaves a trace of the given channels.
    basis = jnp.where(missing[None, :, None], basis, 0.0)
    density = jnp.einsum("omk,fmn,onk->ofk", basis, matrices, basis, precision="highest")
    alive = (power > DEAD * power.mean())[None, :, None] & (density > NOTHING * density.mean())
    return {"basis": basis, "density": jnp.where(alive, density, 0.0)}


def whitened(white: PyTree, x: jax.Array) -> jax.Array:
    """`[batch, M, time] -> [batch, K, time]`, of variance one in all live frequencies."""
    amplitude = _amplitude(white, x.shape[-1])
    inverse = jnp.where(amplitude > 0, 1 / jnp.where(amplitude > 0, amplitude, 1.0), 0.0)
    return _mixed(x, white["basis"].swapaxes(1, 2), inverse[:, :, None])


def coloured(white: PyTree, z: jax.Array, seen: jax.Array) -> jax.Array:
    """`[batch, K, time]`, white, as M channels see it, `[batch, M, time]`.

    `seen` `[OCTAVES, M, K]`: the basis, or what becomes of it elsewhere.
    """
    return _mixed(z, seen, _amplitude(white, z.shape[-1])[:, None])


def only_alive(white: PyTree, z: jax.Array) -> jax.Array:
    """`[batch, K, time]` without the frequencies that are dead."""
    alive = (_amplitude(white, z.shape[-1]) > 0).T
    both = spectrum(z)
    return samples(both * alive[None].astype(both.dtype), z.shape[-1])


def alive_share(white: PyTree, time: int) -> jax.Array:
    """How much of white noise `only_alive` leaves."""
    return jnp.mean((_amplitude(white, time) > 0).astype(jnp.float32))


def _mixed(x: jax.Array, mixing: jax.Array, gain: jax.Array) -> jax.Array:
    """`[batch, N, time]` by mixing `[OCTAVES, M, N]` and gains `[frequency, M or 1, N or 1]`."""
    time, both = x.shape[-1], spectrum(x)
    own = mixing[octave_of(time)] * gain  # [frequency, M, N]

    def product(part):
        return jnp.einsum("bnf,fmn->bmf", part, own, precision="highest")

    return samples(jax.lax.complex(product(both.real), product(both.imag)), time)


def _amplitude(white: PyTree, time: int) -> jax.Array:
    """`[frequency, K]` for windows of any length; zero beside a dead bin."""
    density, octave = white["density"], octave_of(time)
    place = jnp.arange(time // 2 + 1, dtype=jnp.float32) / time * (2 * (BINS - 1))
    below = jnp.clip(place.astype(jnp.int32), 0, BINS - 2)
    share = (place - below.astype(place.dtype))[:, None].astype(density.dtype)
    low, high = density[octave, below], density[octave, below + 1]
    between = jnp.where((low > 0) & (high > 0), (1 - share) * low + share * high, 0.0)
    positive = between > 0  # the root has no gradient at zero
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, between, 1.0)), 0.0)
