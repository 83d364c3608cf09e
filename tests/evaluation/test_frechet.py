"""The Fréchet distance against SciPy's matrix square root and against what is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import random_correlation

from eegsr_jax.evaluation.frechet import between, frechet, psd_root


def covariances(rng, size):
    made = []
    for _ in range(2):
        values = rng.uniform(0.1, 2, size)
        values *= size / values.sum()
        std = np.exp(rng.normal(size=size))
        made.append(random_correlation.rvs(values, random_state=1) * np.outer(std, std))
    return made


def test_equals_the_formula_with_scipy_s_square_root(rng):
    a, b = covariances(rng, 12)
    m, n = rng.standard_normal((2, 12))
    expected = np.sum((m - n) ** 2) + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet(m, a, n, b) == pytest.approx(expected, rel=1e-10)
    assert frechet(n, b, m, a) == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(psd_root(a), sqrtm(a), atol=1e-10)


def test_axes_are_distances_of_one_dimensional_normals(rng):
    """Where both covariances are diagonal it is Σ (m - n)² + (s - t)²."""
    m, n = rng.standard_normal((2, 5))
    s, t = rng.uniform(0, 3, (2, 5))
    s[2] = 0.0
    expected = np.sum((m - n) ** 2 + (s - t) ** 2)
    assert frechet(m, np.diag(s**2), n, np.diag(t**2)) == pytest.approx(expected, rel=1e-12)


def test_fewer_windows_than_features(rng):
    """The trace of the root is then the nuclear norm of the product of the centred data."""
    a, b = rng.standard_normal((2, 9, 30))
    b = 1.5 * b + 0.3
    x, y = ((z - z.mean(0)) / np.sqrt(8) for z in (a, b))
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.sum(x**2) + np.sum(y**2)
    expected -= 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum()
    assert between(a, b) == pytest.approx(expected, rel=1e-6)  # roots of zeros up to rounding
    assert between(a, a) == pytest.approx(0, abs=1e-4)


def test_one_feature_and_what_cannot_be_told(rng):
    a, b = rng.standard_normal((2, 50, 1))
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert between(a, b) == pytest.approx(expected, rel=1e-10)
    assert np.isnan(between(a[:1], b)) and np.isnan(between(a, np.full_like(b, -np.inf)))
