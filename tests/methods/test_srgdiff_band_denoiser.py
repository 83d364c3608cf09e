"""The denoiser of white residuals: gains that begin at zero, odd in x."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.methods.srgdiff import band_denoiser as bd
from eegsr_jax.nn.octaves import OCTAVES

K, TIME = 5, 100
NETWORK = bd.BandDenoiser(K, hidden=8, rank=2)


@pytest.fixture(scope="module")
def params():
    own = NETWORK.init(jax.random.key(0), jnp.zeros((1, K, 8)), jnp.zeros(1), told(1, 8))["params"]
    shape = own["gains"]["kernel"].shape
    kernel = 0.3 * jax.random.normal(jax.random.key(1), shape)
    return own | {"gains": own["gains"] | {"kernel": kernel}}


def told(batch, time=TIME):
    return jnp.zeros((batch, -(-time // bd.STRIDE), bd.CONDITIONS))


def test_it_says_nothing_before_training():
    own = NETWORK.init(jax.random.key(0), jnp.zeros((1, K, 8)), jnp.zeros(1), told(1, 8))
    x = jax.random.normal(jax.random.key(2), (3, K, TIME))
    assert not np.asarray(NETWORK.apply(own, x, jnp.full(3, 0.7), told(3))).any()


def test_it_is_odd_in_x_and_depends_on_the_step_and_the_condition(params):
    x = jax.random.normal(jax.random.key(2), (3, K, TIME))

    def v(x, angle=0.7, shift=0.0):
        return NETWORK.apply({"params": params}, x, jnp.full(3, angle), told(3) + shift)

    found = np.asarray(v(x))
    np.testing.assert_allclose(-found, v(-x), rtol=1e-5, atol=1e-6)
    for other in (v(x, 0.3), v(x, shift=1.0), v(2 * x) / 2):
        assert np.abs(other - found).max() > 0.01
    for end in (0.0, np.pi / 2):  # where there is no noise, or nothing else, there is no doubt
        assert np.abs(v(x, end)).max() < 1e-5


def test_step_terms_made_beforehand_are_those_made_on_the_way(params):
    x = jax.random.normal(jax.random.key(3), (3, K, TIME))
    own = {"params": params}
    steps = NETWORK.apply(own, jnp.full(1, 0.7), method="steps")
    condition = NETWORK.apply(own, told(3), method="condition")
    found = NETWORK.apply(own, x, steps, condition, method="denoise")
    whole = NETWORK.apply(own, x, jnp.full(3, 0.7), told(3))
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


def test_conditions_are_log_powers_in_octaves():
    generator = np.random.default_rng(0)
    slow = np.sin(2 * np.pi / 128 * np.arange(256)) * np.ones((1, 9, 1))  # the lowest octave
    x = slow + 0.01 * generator.standard_normal((1, 9, 256))
    found = np.asarray(bd.conditions(jnp.asarray(x, jnp.float32)))
    assert found.shape == (1, 32, bd.CONDITIONS)
    lowest = found[..., ::OCTAVES]
    others = np.delete(found, np.arange(0, bd.CONDITIONS, OCTAVES), -1)
    assert lowest.min() > others.max() + 3
    louder = np.asarray(bd.conditions(jnp.asarray(10 * x, jnp.float32)))
    np.testing.assert_allclose((louder - found)[..., ::OCTAVES], np.log(100), atol=0.01)
