"""Sines and cosines of large angles, to the last digit of float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.nn.embedding import sinusoidal


@pytest.mark.parametrize("cosine_first", [False, True])
def test_large_steps(cosine_first):
    t, half = np.array([0, 1, 21, 300, 999]), 32
    frequencies = np.exp(-np.log(1e4) * np.arange(half) / (half if cosine_first else half - 1))
    angles = t[:, None] * frequencies
    both = [np.sin(angles), np.cos(angles)]
    expected = np.concatenate(both[::-1] if cosine_first else both, -1)
    for form in (sinusoidal, jax.jit(sinusoidal, static_argnums=1, static_argnames="cosine_first")):
        found = form(jnp.asarray(t), 64, cosine_first=cosine_first)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, atol=6e-8)
    with jax.enable_x64(True):
        found = sinusoidal(t, 64, cosine_first=cosine_first, dtype=jnp.float64)
        np.testing.assert_allclose(found, expected, atol=1e-13)


def test_any_shape_and_any_step():
    t = jnp.asarray([[0.5, 250.0], [3.25, 1e3]])
    found = jax.vmap(lambda t: sinusoidal(t, 8, cosine_first=False))(t)
    np.testing.assert_array_equal(found, sinusoidal(t, 8, cosine_first=False))
    np.testing.assert_allclose(found[0, 0, 0], np.sin(0.5), atol=1e-7)
    assert sinusoidal(t, 8, cosine_first=True, dtype=jnp.bfloat16).dtype == jnp.bfloat16
