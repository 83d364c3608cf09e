"""The parts that linear methods are made of. The contract of all methods: tests/contract."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from eegsr_jax.geometry import make_geometry
from eegsr_jax.methods.base import fir, linear_apply, linear_plan, observed_source
from eegsr_jax.training.loop import jitted


@pytest.fixture(scope="module")
def mixed(template):
    """Six inputs, of which two are no targets, and five targets elsewhere."""
    inputs = "Fz Cz FFC3h Pz CPP4h Oz".split()
    return make_geometry(inputs, "Oz C3 Cz P4 Fp1".split(), template)


@pytest.mark.parametrize("taps", [1, 3, 7])
def test_fir_is_numpy_and_scipy(taps, rng):
    filters = rng.standard_normal((taps, 4, 3)).astype(np.float32)
    x = rng.standard_normal((2, 3, 30)).astype(np.float32)
    found = jitted(fir)(jnp.asarray(filters), jnp.asarray(x))
    by_convolution = np.zeros((2, 4, 30))
    by_scipy = np.zeros((2, 4, 30))
    for b in range(2):
        for m in range(4):
            for channel in range(3):
                h, signal = filters[:, m, channel].astype(float), x[b, channel].astype(float)
                # Tap i multiplies the input i - k samples later: a correlation.
                by_convolution[b, m] += np.convolve(signal, h[::-1], "same")
                by_scipy[b, m] += correlate(signal, h, "same")
    np.testing.assert_allclose(found, by_convolution, atol=1e-5)
    np.testing.assert_allclose(found, by_scipy, atol=1e-5)


def test_fir_on_a_recording_shorter_than_the_filter(rng):
    filters = rng.standard_normal((9, 2, 3)).astype(np.float32)
    x = rng.standard_normal((1, 3, 4)).astype(np.float32)
    wide = np.pad(x, ((0, 0), (0, 0), (10, 10)))
    short, long = jitted(fir)(filters, x), jitted(fir)(filters, wide)
    np.testing.assert_allclose(short, long[..., 10:14], atol=1e-5)


def test_observed_source_says_where_each_target_comes_from(geometry, mixed):
    np.testing.assert_array_equal(observed_source(mixed), [5, -1, 1, -1, -1])
    source = np.asarray(observed_source(geometry))
    index = np.asarray(geometry.observed_index)
    assert (source >= 0).sum() == 8
    np.testing.assert_array_equal(source[index], np.arange(8))
    assert source.dtype == np.int32


def test_linear_plan_and_apply_take_the_mean_out_and_put_it_back(mixed, rng):
    filters = rng.standard_normal((3, 5, 6)).astype(np.float32)
    mean = np.arange(1, 6, dtype=np.float32)
    std = np.arange(11, 16, dtype=np.float32)
    plan = linear_plan(mixed, jnp.asarray(filters), jnp.asarray(std), jnp.asarray(mean))
    x = rng.standard_normal((2, 6, 20)).astype(np.float32)
    found = jitted(linear_apply)(plan, jnp.asarray(x), None)
    # Fz, FFC3h, Pz and CPP4h are no targets: their mean is not known.
    centred = x - np.array([0, 3, 0, 0, 0, 1], np.float32)[:, None]
    wide = np.pad(centred, ((0, 0), (0, 0), (1, 1)))
    expected = sum(np.einsum("ml,blt->bmt", filters[i], wide[..., i : i + 20]) for i in range(3))
    expected += mean[:, None]
    rows = [1, 3, 4]
    np.testing.assert_allclose(found.mean[:, rows], expected[:, rows], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.mean[:, [0, 2]], x[:, [5, 1]])
    np.testing.assert_array_equal(found.std[1, :, 7], [0, 12, 0, 14, 15])
    assert found.std.shape == found.mean.shape == (2, 5, 20)


def test_without_a_mean_nothing_is_taken_out(mixed, rng):
    filters = rng.standard_normal((1, 5, 6)).astype(np.float32)
    plan = linear_plan(mixed, jnp.asarray(filters), jnp.ones(5))
    x = rng.standard_normal((1, 6, 4)).astype(np.float32)
    found = jitted(linear_apply)(plan, jnp.asarray(x), None)
    np.testing.assert_allclose(found.mean[0, 1], filters[0, 1] @ x[0], rtol=1e-5, atol=1e-6)
