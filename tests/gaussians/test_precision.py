"""The exponent against the plain matrix, and each switch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.errors import ConfigError
from eegsr_jax.gaussians import precision


def lower(diagonal, off):
    matrix = np.diag(diagonal)
    matrix[np.tril_indices(4, -1)] = off  # by row: L10, L20, L21, L30, L31, L32
    return matrix


@pytest.mark.parametrize("covariance", precision.COVARIANCE)
@pytest.mark.parametrize("off", precision.OFF_DIAGONAL)
def test_the_exponent_is_the_quadratic_form(rng, covariance, off):
    log_diagonal, entries = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 6))
    positions, centres = rng.standard_normal((5, 3)), rng.standard_normal((3, 3))
    time, tau = rng.standard_normal((2, 3)), 0.7
    with jax.enable_x64(True):
        diagonal, kept = precision.cholesky(
            jnp.asarray(log_diagonal), jnp.asarray(entries), covariance, off
        )
        field = precision.field(
            *(jnp.asarray(a) for a in (positions, centres)), diagonal, kept, time, time
        )
        found = field.distance + 2 * tau * field.coupling + tau**2 * field.rate[None]
    space = covariance != "diagonal_4d" and off in ("all", "spatial_only")
    coupled = covariance == "full_4d" and off in ("all", "spacetime_only")
    mask = np.repeat([space, coupled], 3)
    for m, g, p in np.ndindex(5, 2, 3):
        factor = lower(np.exp(log_diagonal[g, p]), entries[g, p] * mask)
        way = np.append(positions[m] - centres[p], tau)
        np.testing.assert_allclose(found[m, g, p], way @ factor @ factor.T @ way, rtol=1e-12)


def test_round_gaussians(rng):
    log_space, log_time = rng.standard_normal((2, 2, 3)).astype(np.float32)
    diagonal, off = precision.isotropic(jnp.asarray(log_space), jnp.asarray(log_time))
    np.testing.assert_allclose(diagonal[..., 1], np.exp(-log_space), rtol=1e-6)
    np.testing.assert_allclose(diagonal[..., 3], np.exp(-log_time), rtol=1e-6)
    assert not off.any()
    smallest, _ = precision.isotropic(jnp.full((1, 1), -50.0), jnp.full((1, 1), -50.0))
    np.testing.assert_allclose(smallest, 1e6, rtol=1e-6)


def test_each_gaussian_may_have_its_own_centre(rng):
    arrays = {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in _shapes.items()}
    shared = precision.field(**arrays)
    own = precision.field(**arrays | {"centres": jnp.stack([arrays["centres"]] * 2)})
    for a, b in zip(shared, own, strict=True):
        np.testing.assert_array_equal(a, b)


_shapes = {
    "positions": (5, 3),
    "centres": (3, 3),
    "diagonal": (2, 3, 4),
    "off_diagonal": (2, 3, 6),
    "time": (2, 3),
    "amplitude": (2, 3),
}


@pytest.mark.parametrize(("name", "words"), [("covariance", "full_4d"), ("off", "spatial_only")])
def test_an_unknown_switch_is_named(name, words):
    with pytest.raises(ConfigError, match=f"{name} 'fulll' is unknown; expected .*{words}"):
        precision.cholesky(jnp.zeros((1, 1, 4)), jnp.zeros((1, 1, 6)), **{name: "fulll"})
