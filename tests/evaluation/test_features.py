"""Descriptions of windows: each against another implementation, and against an exact sampler."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import eigh, logm, sqrtm
from scipy.signal import welch

from eegsr_jax.evaluation import features as ft
from eegsr_jax.evaluation.frechet import between
from eegsr_jax.geometry import montage

NAMES = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()
PLACES = np.stack([montage("standard_1005")[name] for name in NAMES])
OBSERVED = np.array([0, 4, 6, 9, 12, 14, 16, 19])
MISSING = ~np.isin(np.arange(20), OBSERVED)
SFREQ = 80.0
# Of a smooth field on the head, volts squared.
COVARIANCE = 1e-10 * (
    np.exp(-((PLACES[:, None] - PLACES[None]) ** 2).sum(-1) / 0.05**2) + 0.05 * np.eye(20)
)


def field(rng, count, samples=160):
    """Gaussian fields with a falling spectrum: `[count, 20, samples]`."""
    return np.einsum("ij,njt->nit", np.linalg.cholesky(COVARIANCE), waves(rng, count, 20, samples))


def waves(rng, count, channels, samples=160):
    """Unit power, coloured: `[count, channels, samples]`."""
    frequency = np.fft.rfftfreq(samples, 1 / SFREQ)
    amplitude = np.where(frequency > 0, 1 / np.maximum(frequency, 2.0), 0.0)
    noise = rng.standard_normal((count, channels, samples))
    noise = np.fft.irfft(np.fft.rfft(noise) * amplitude, samples)
    return noise / noise.std()


# ------------------------------------------------------------------------------------ descriptions


def test_band_powers_add_up_and_equal_welch_s(rng):
    x = field(rng, 3)
    power = ft.band_power(x, SFREQ)
    assert power.shape == (3, 20, 5)
    for place, (low, high) in enumerate(ft.BANDS.values()):
        frequency, density = welch(
            x,
            SFREQ,
            np.hanning(160),
            nperseg=160,
            detrend=False,  # one segment
        )
        inside = (frequency >= low) & (frequency < high)
        expected = density[..., inside].sum(-1) * (SFREQ / 160)
        np.testing.assert_allclose(power[..., place], expected, rtol=1e-6)
    slow = ft.band_power(x[..., ::4], SFREQ / 4)  # nothing above 10 Hz
    assert np.isnan(slow[..., 3:]).all() and np.isfinite(slow[..., :3]).all()


def test_harmonics_are_orthonormal_and_of_their_degree():
    z, weight = np.polynomial.legendre.leggauss(12)
    turn = 2 * np.pi * np.arange(24) / 24
    level = np.sqrt(1 - z**2)
    points = np.stack(
        [np.outer(level, np.cos(turn)), np.outer(level, np.sin(turn)), np.outer(z, np.ones(24))], -1
    ).reshape(-1, 3)
    basis = np.concatenate([ft.real_harmonics(points, n) for n in range(5)], 1)
    area = np.repeat(weight, 24) * 2 * np.pi / 24
    np.testing.assert_allclose(basis.T @ (area[:, None] * basis), np.eye(25), atol=1e-12)
    # Addition theorem: summed over orders, a polynomial of the angle alone.
    x, y = points[5], points[100]
    for degree in range(5):
        product = ft.real_harmonics(x[None], degree) @ ft.real_harmonics(y[None], degree).T
        legendre = np.polynomial.legendre.Legendre.basis(degree)(x @ y)
        assert product.item() == pytest.approx((2 * degree + 1) / (4 * np.pi) * legendre)


def test_a_map_of_one_degree_has_power_there_alone(rng):
    harmonics = ft.harmonics(PLACES)
    assert harmonics.degree.max() == 2 and harmonics.basis.shape == (20, 9)
    for degree in (1, 2):
        own = harmonics.degree == degree
        coefficients = rng.standard_normal(own.sum())
        one = harmonics.basis[:, own] @ coefficients
        power = ft.degree_power(np.outer(one, one)[None], harmonics)[0]
        expected = np.zeros(3)
        expected[degree - 1] = np.sum(coefficients**2)
        np.testing.assert_allclose(power, expected, atol=1e-10)
    flat = ft.degree_power(np.ones((1, 20, 20)), harmonics)[0]
    np.testing.assert_allclose(flat, 0, atol=1e-10)  # the mean over the head does not count


def test_the_power_of_degrees_is_that_of_least_squares(rng):
    x = field(rng, 4)
    harmonics = ft.harmonics(PLACES)
    found = ft.describe(x, SFREQ, harmonics).degrees
    for window, power in zip(x, found, strict=True):
        coefficients, *_ = np.linalg.lstsq(harmonics.basis, window)
        finer = window - harmonics.basis @ coefficients
        expected = [np.mean((coefficients[harmonics.degree == n] ** 2).sum(0)) for n in (1, 2)]
        np.testing.assert_allclose(power, [*expected, np.mean((finer**2).sum(0))], rtol=1e-8)


def test_the_covariance_distance_is_affine_invariant(rng, monkeypatch):
    a, b = (x @ x.transpose(0, 2, 1) for x in rng.standard_normal((2, 3, 6, 40)))
    monkeypatch.setattr(ft, "SHRINKAGE", 0.0)
    found = ft.covariance_db(a, b)
    for i in range(3):
        root = np.linalg.inv(sqrtm(a[i]))
        logarithm = 10 / np.log(10) * logm(root @ b[i] @ root)
        assert found[i] == pytest.approx(np.linalg.norm(logarithm) / np.sqrt(6), rel=1e-8)
    mixing = rng.standard_normal((6, 6))
    np.testing.assert_allclose(
        ft.covariance_db(mixing @ a @ mixing.T, mixing @ b @ mixing.T), found
    )
    np.testing.assert_allclose(ft.covariance_db(b, a), found)
    np.testing.assert_allclose(ft.covariance_db(a, 10 * a), 10.0)


def test_a_covariance_without_dimensions_stays_finite(rng):
    a = np.eye(6)[None]
    b = np.diag([1.0, 1, 1, 0, 0, 0])[None]
    values = eigh(b[0] + ft.SHRINKAGE * np.eye(6), a[0] + ft.SHRINKAGE * np.eye(6))[0]
    expected = np.sqrt(np.mean((10 * np.log10(values)) ** 2))
    assert ft.covariance_db(a, b)[0] == pytest.approx(expected)


# --------------------------------------------------------------------------------------- distances


def test_no_distance_from_itself_and_a_gain_in_decibels(rng):
    x = field(rng, 30)
    harmonics = ft.harmonics(PLACES)
    truth = ft.describe(x, SFREQ, harmonics, network=lambda e: np.log(np.square(e).mean(-1)))
    same = ft.distances(truth, truth, MISSING)
    assert max(abs(v) for v in same.values()) < 1e-3
    louder = ft.distances(truth, ft.describe(2 * x, SFREQ, harmonics), MISSING)
    gain = 20 * np.log10(2)
    for key, value in louder.items():
        if key != "fid":
            assert value == pytest.approx(gain, rel=1e-2), key
    assert np.isnan(louder["fid"])
    fid = ft.distances(truth, truth._replace(network=truth.network + 0.5), MISSING)["fid"]
    assert fid == pytest.approx(20 * 0.25)


def test_silence_has_no_logarithm(rng):
    x = field(rng, 8)
    harmonics = ft.harmonics(PLACES)
    truth, silent = (ft.describe(e, SFREQ, harmonics) for e in (x, x * ~MISSING[:, None]))
    found = ft.distances(truth, silent, MISSING)
    assert np.isnan(found["band_error_db"]) and np.isnan(found["band_frechet_db"])
    assert found["covariance_db"] > 8 and found["degree_error_db"] > 1


def test_an_exact_sampler_is_nearer_than_the_exact_mean(rng):
    """Truth, conditional mean and a draw of one Gaussian field: what the distances are for."""
    x = field(rng, 300)
    o, m = OBSERVED, np.flatnonzero(MISSING)
    gain = COVARIANCE[np.ix_(m, o)] @ np.linalg.inv(COVARIANCE[np.ix_(o, o)])
    rest = COVARIANCE[np.ix_(m, m)] - gain @ COVARIANCE[np.ix_(o, m)]
    mean = x.copy()
    mean[:, m] = np.einsum("ij,njt->nit", gain, x[:, o])
    draw = mean.copy()
    draw[:, m] += np.einsum("ij,njt->nit", np.linalg.cholesky(rest), waves(rng, 300, len(m)))

    def network(eeg):
        """Log powers of some mixtures."""
        mixed = np.random.default_rng(3).standard_normal((6, 20)) @ eeg
        return np.log(np.square(mixed).mean(-1))

    harmonics = ft.harmonics(PLACES)
    truth, of_mean, of_draw = (ft.describe(e, SFREQ, harmonics, network) for e in (x, mean, draw))
    too_smooth, drawn = (ft.distances(truth, d, MISSING) for d in (of_mean, of_draw))
    for key in ("fid", "band_frechet_db", "band_error_db", "degree_error_db", "covariance_db"):
        assert drawn[key] < 0.5 * too_smooth[key], key
    assert drawn["covariance_window_db"] < too_smooth["covariance_window_db"]
    for band in ft.BANDS:
        assert too_smooth[f"band_bias_{band}_db"] < -1.0
        assert abs(drawn[f"band_bias_{band}_db"]) < 0.3
    assert too_smooth["degree_bias_finer_db"] < too_smooth["degree_bias_1_db"] < 0
    errors = [np.sum((e - x)[:, m] ** 2) for e in (mean, draw)]
    assert errors[1] / errors[0] == pytest.approx(2, rel=0.1)  # the price of a draw
    assert between(truth.network, of_draw.network) == pytest.approx(drawn["fid"])
