"""The two kernels against their series written with SciPy's Legendre polynomials."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import eval_legendre

from eegsr_jax.methods.kernels import lead_field_kernel, spline_kernel

CENTRE = np.array([0.001, 0.01, 0.04])


@pytest.fixture(scope="module")
def electrodes(template):
    places = np.stack(list(template.values()))
    return places[::20], places[5::30]


def seen(a, b):
    a, b = a - CENTRE, b - CENTRE
    size = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    return np.clip(a @ b.T / size, -1, 1), size


def in_double(function, a, b, **options):
    with jax.enable_x64(True):
        arrays = (jnp.asarray(x, jnp.float64) for x in (a, b, CENTRE))
        return np.asarray(jax.jit(functools.partial(function, **options))(*arrays))


@pytest.mark.parametrize(("order", "terms"), [(4, 50), (2, 50), (3, 50), (4, 7)])
def test_spline_kernel_is_perrins_series(electrodes, order, terms):
    cosine, _ = seen(*electrodes)
    n = np.arange(1, terms + 1)
    series = (2 * n + 1) / (n * (n + 1.0)) ** order * eval_legendre(n, cosine[..., None])
    found = in_double(spline_kernel, *electrodes, order=order, terms=terms)
    np.testing.assert_allclose(found, series.sum(-1) / (4 * np.pi), rtol=1e-9, atol=1e-14)


def test_lead_field_kernel_is_its_series(electrodes):
    cosine, size = seen(*electrodes)
    n = np.arange(1, 100)
    series = (2 * n + 1) ** 2 / n * (0.042**2 / size)[..., None] ** n
    expected = (series * eval_legendre(n, cosine[..., None])).sum(-1) / size
    found = in_double(lead_field_kernel, *electrodes)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("kernel", [spline_kernel, lead_field_kernel])
def test_kernels_are_covariances(electrodes, kernel):
    a, _ = electrodes
    found = in_double(kernel, a, a)
    np.testing.assert_allclose(found, found.T, rtol=1e-12)
    values = np.linalg.eigvalsh(found)
    assert values[0] > -1e-12 * values[-1]


@pytest.mark.parametrize("kernel", [spline_kernel, lead_field_kernel])
def test_kernels_are_differentiable_where_electrodes_coincide(electrodes, kernel):
    a, _ = electrodes

    @jax.jit
    def total(places):
        return jnp.sum(kernel(places, places, jnp.asarray(CENTRE, places.dtype)) ** 2)

    with jax.enable_x64(True):
        places = jnp.asarray(a, jnp.float64)
        slope = np.asarray(jax.jit(jax.grad(total))(places))
        step = 1e-6
        toward = np.random.default_rng(0).standard_normal(a.shape)
        difference = (total(places + step * toward) - total(places - step * toward)) / (2 * step)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose((slope * toward).sum(), difference, rtol=1e-5)
