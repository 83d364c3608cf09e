"""Whitening: what comes out is white, and white noise comes back with the covariance it was of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from eegsr_jax.methods.srgdiff import whitening as wh
from eegsr_jax.nn.octaves import OCTAVES, octaves

CHANNELS, TIME = 6, 256


@pytest.fixture(scope="module")
def coloured():
    """Filtered noise, mixed: `[windows, channel, time]`; nothing above 0.3 of the rate."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((CHANNELS, 400 * TIME))
    low = scipy.signal.butter(4, 0.06, output="sos", fs=1)
    band = scipy.signal.butter(4, (0.1, 0.2), "bandpass", output="sos", fs=1)
    sources = [
        scipy.signal.sosfilt(low if i % 2 else band, x) + 0.2 * x for i, x in enumerate(noise)
    ]
    none = scipy.signal.firwin(301, 0.3, fs=1)
    eeg = generator.standard_normal((CHANNELS, CHANNELS)) @ np.stack(sources)
    eeg = scipy.signal.fftconvolve(eeg, none[None], "same", axes=1)
    return eeg.reshape(CHANNELS, 400, TIME).swapaxes(0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def white(coloured):
    sums = wh.spectral_sums(jnp.asarray(coloured)) / len(coloured)
    like = jnp.zeros((OCTAVES, CHANNELS, CHANNELS))
    return wh.components(sums, jnp.ones(CHANNELS, bool), like)


def test_the_sums_hold_the_covariance_and_welchs_spectra(coloured):
    sums = np.asarray(wh.spectral_sums(jnp.asarray(coloured))) / len(coloured)
    rows = coloured.swapaxes(0, 1).reshape(CHANNELS, -1)
    np.testing.assert_allclose(sums.mean(0), np.cov(rows), atol=0.03 * np.cov(rows).max())
    at, density = scipy.signal.welch(
        coloured, nperseg=TIME, window="hann", detrend=False, scaling="density", axis=-1
    )
    # One-sided densities are twice ours; our bins are between theirs.
    expected = np.stack([np.interp(np.linspace(0, 0.5, wh.BINS), at, d) for d in density.mean(0)])
    found = 2 * np.diagonal(sums, axis1=1, axis2=2).T
    np.testing.assert_allclose(found[:, 3:-3], expected[:, 3:-3], rtol=0.1, atol=0.02 * found.max())


def test_two_batches_add_up_whatever_their_windows(coloured):
    x = jnp.asarray(coloured[:8])
    both = wh.spectral_sums(x[:3]) + wh.spectral_sums(x[3:])
    np.testing.assert_allclose(both, wh.spectral_sums(x), rtol=1e-4, atol=1e-3)


def test_whitened_it_is_white(white, coloured):
    """In each octave, though sources of one octave are seen elsewhere than those of another."""
    z = np.asarray(wh.whitened(white, jnp.asarray(coloured)))
    share = float(wh.alive_share(white, TIME))
    assert 0.5 < share < 0.75  # what was filtered out is dead
    assert np.mean(z**2) == pytest.approx(share, rel=0.12)
    for part in np.asarray(octaves(jnp.asarray(z)))[2:5]:
        covariance = np.einsum("nkt,nlt->kl", part, part) / len(z) / TIME
        size = np.mean(np.diagonal(covariance))
        np.testing.assert_allclose(covariance / size, np.eye(CHANNELS), atol=0.35)
    spectrum = (np.abs(np.fft.rfft(z)) ** 2).mean((0, 1)) / TIME
    inside = spectrum[4 : int(0.5 * TIME * share) - 4]
    assert inside.min() > 0.6 and inside.max() < 1.4


def test_one_basis_for_all_octaves_would_not_do(coloured):
    """What the octaves are for: the same spectra, with all octaves made alike."""
    sums = wh.spectral_sums(jnp.asarray(coloured)) / len(coloured)
    power = jnp.trace(sums, axis1=1, axis2=2)
    alike = power[:, None, None] * (sums.mean(0) / power.mean())[None]

    def uneven(sums):
        like = jnp.zeros((OCTAVES, CHANNELS, CHANNELS))
        white = wh.components(sums, jnp.ones(CHANNELS, bool), like)
        parts = np.asarray(octaves(wh.whitened(white, jnp.asarray(coloured))))[1:5]
        values = [np.linalg.eigvalsh(np.einsum("nkt,nlt->kl", p, p)) for p in parts]
        return max(v[-1] / v[0] for v in values)

    assert uneven(alike) > 2 * uneven(sums)


def test_given_channels_have_no_part(coloured):
    missing = jnp.asarray([True, False, True, True, False, True])
    sums = wh.spectral_sums(jnp.where(missing[None, :, None], coloured[:50], 0.0)) / 50
    white = wh.components(sums, missing, jnp.zeros((OCTAVES, CHANNELS, 4)))
    assert not np.asarray(white["basis"])[:, ~np.asarray(missing)].any()
    found = wh.coloured(white, jax.random.normal(jax.random.key(0), (2, 4, 64)), white["basis"])
    assert not np.asarray(found)[:, ~np.asarray(missing)].any() and np.asarray(found).any()


def test_there_and_back(white, coloured):
    z = wh.whitened(white, jnp.asarray(coloured[:4]))
    wrong = np.asarray(wh.coloured(white, z, white["basis"])) - coloured[:4]
    assert (wrong**2).sum() < 2e-3 * (coloured[:4] ** 2).sum()


@pytest.mark.parametrize("time", [TIME, 200, 333])
def test_noise_comes_back_with_the_covariance_and_the_spectra(white, coloured, time):
    """At other lengths too: the spectra are kept by frequency."""
    noise = jax.random.normal(jax.random.key(0), (500, CHANNELS, time))
    found = np.asarray(wh.coloured(white, noise, white["basis"]))
    covariance = np.einsum("nmt,nlt->ml", found, found) / len(found) / time
    expected = np.cov(coloured.swapaxes(0, 1).reshape(CHANNELS, -1))
    np.testing.assert_allclose(covariance, expected, atol=0.06 * expected.max())
    spectra = [
        scipy.signal.welch(x, nperseg=100, axis=-1)[1].mean(0).sum(0) for x in (found, coloured)
    ]
    assert np.abs(np.log(spectra[0] / spectra[1]))[2:30].max() < 0.4


def test_gradients_are_finite(white):
    def power(x):
        return jnp.sum(wh.whitened(white, x) ** 2)

    assert np.isfinite(jax.grad(power)(jnp.ones((1, CHANNELS, 64)))).all()

    def through(density):
        own = white | {"density": density}
        return jnp.sum(wh.coloured(own, jnp.ones((1, CHANNELS, 64)), white["basis"]))

    assert np.isfinite(jax.grad(through)(white["density"])).all()
