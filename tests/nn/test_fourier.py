"""Real coefficients are an orthogonal map; kernels are what direct sums say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.errors import ConfigError
from eegsr_jax.nn import fourier


@pytest.mark.parametrize("length", [1, 2, 7, 40, 41])
def test_coefficients_are_an_orthogonal_map(length):
    matrix = np.asarray(fourier.coefficients(jnp.eye(length)))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(length), atol=1e-6)
    np.testing.assert_allclose(
        fourier.from_coefficients(jnp.asarray(matrix)), np.eye(length), atol=1e-6
    )


@pytest.mark.parametrize("length", [6, 7])
def test_squares_of_a_spectrum_add_up_to_those_of_the_samples(rng, length):
    x = rng.normal(size=(3, length)).astype(np.float32)
    spectrum = fourier.spectrum(jnp.asarray(x))
    power = (np.abs(np.asarray(spectrum)) ** 2).sum(-1)
    np.testing.assert_allclose(power, (x**2).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(fourier.samples(spectrum, length), x, atol=1e-6)


@pytest.mark.parametrize(("taps", "length"), [(7, 20), (4, 9), (5, 5), (1, 3)])
def test_kernels_are_circular_convolutions(rng, taps, length):
    kernel, x = (rng.normal(size=n).astype(np.float32) for n in (taps, length))
    product = jnp.fft.rfft(x) * fourier.kernel_spectrum(jnp.asarray(kernel), length)
    expected = [
        sum(kernel[m] * x[(n - m + taps // 2) % length] for m in range(taps)) for n in range(length)
    ]
    np.testing.assert_allclose(jnp.fft.irfft(product, length), expected, rtol=1e-4, atol=1e-5)


def test_a_kernel_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="7 taps around 6 samples"):
        fourier.kernel_spectrum(jnp.ones(7), 6)


def test_white_noise_stays_white():
    noise = jax.random.normal(jax.random.key(0), (2000, 8))
    covariance = np.cov(np.asarray(fourier.coefficients(noise)).T)
    np.testing.assert_allclose(covariance, np.eye(8), atol=0.12)
