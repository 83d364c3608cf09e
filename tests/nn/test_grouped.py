"""Layers of units that belong to channels are masked layers over all of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.nn import fourier
from eegsr_jax.nn.grouped import ChannelConvolution, ChannelMixing, expand, merge

CHANNELS, UNITS, LENGTH = 3, 4, 12


@pytest.mark.parametrize("width", [7, 4])
def test_convolution_and_back(rng, width):
    """Cross-correlation with the samples around, wrapped; (width - 1) // 2 of them before."""
    x = rng.normal(size=(2, CHANNELS, LENGTH)).astype(np.float32)
    places = (np.arange(LENGTH)[:, None] + np.arange(width) - (width - 1) // 2) % LENGTH
    for back in (False, True):
        network = ChannelConvolution(CHANNELS, UNITS, width, back)
        params = network.init(jax.random.key(0), LENGTH, method="prepare")
        prepared = network.apply(params, LENGTH, method="prepare")
        kernel = np.asarray(params["params"]["kernel"])
        if back:
            wide = rng.normal(size=(2, CHANNELS * UNITS, LENGTH)).astype(np.float32)
            found = merge(prepared, fourier.spectrum(jnp.asarray(wide)))
            apart = wide.reshape(2, CHANNELS, UNITS, LENGTH)
            expected = np.einsum("cuk,bcutk->bct", kernel, apart[..., places])
        else:
            found = expand(prepared, fourier.spectrum(jnp.asarray(x)))
            expected = np.einsum("cuk,bctk->bcut", kernel, x[..., places])
            expected = expected.reshape(2, -1, LENGTH)
        np.testing.assert_allclose(fourier.samples(found, LENGTH), expected, atol=1e-5)
        inputs = CHANNELS * (UNITS if back else 1)
        assert np.abs(kernel).max() <= (inputs * width) ** -0.5
        assert params["params"]["bias"].shape == ((CHANNELS,) if back else (CHANNELS, UNITS))


@pytest.mark.parametrize("shared", [0, 2, UNITS])
def test_mixing_is_a_masked_dense_layer(rng, shared):
    network = ChannelMixing(CHANNELS, UNITS, shared)
    x = jnp.asarray(rng.normal(size=(2, CHANNELS, UNITS, 5)).astype(np.float32))
    params = network.init(jax.random.key(0), x)["params"]
    weight = np.zeros((CHANNELS, UNITS, CHANNELS, UNITS))
    weight[:, :shared, :, :shared] = params["between"]
    for c in range(CHANNELS):
        weight[c, :, c] = params["within"][c]
    expected = np.einsum("cidj,bdjt->bcit", weight, x) + params["bias"][None, ..., None]
    np.testing.assert_allclose(network.apply({"params": params}, x), expected, atol=1e-5)
