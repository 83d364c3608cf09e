"""The losses that the release has not; its own are compared in `tests/interop`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.signal import ShortTimeFFT

from eegsr_jax.methods.srgdiff import losses


def test_the_distance_of_spectra(rng):
    """By SciPy's short-time Fourier transform; windows that do not fit are left out."""
    found, wanted = rng.normal(size=(2, 3, 100, 2))
    expected = []
    for size in (16, 64):
        taper = np.hanning(size + 2)[1:-1]
        transform = ShortTimeFFT(taper / np.sqrt((taper**2).sum()), size // 4, 1.0)
        first = 2 - transform.p_min  # the first that lies inside
        inside = slice(first, first + (100 - size) // (size // 4) + 1)
        parts = [np.abs(transform.stft(x, axis=1))[..., inside] for x in (found, wanted)]
        expected.append(np.abs(parts[0] - parts[1]).mean())
    loss = jax.jit(losses.spectral)
    both = [jnp.asarray(x, jnp.float32) for x in (found, wanted)]
    np.testing.assert_allclose(loss(*both), np.mean(expected), rtol=1e-4)
    np.testing.assert_array_equal(loss(both[0], both[0]), 0)


def test_silence_has_a_finite_slope():
    x = jnp.zeros((1, 32, 2))
    slope = jax.jit(jax.grad(losses.spectral))(x, x + 1)
    assert np.isfinite(slope).all()


def test_an_error_of_zero_has_no_slope():
    slope = jax.grad(losses.absolute)(jnp.asarray([0.0, 2.0]), jnp.asarray([0.0, 0.0]))
    np.testing.assert_array_equal(slope, [0.0, 0.5])
