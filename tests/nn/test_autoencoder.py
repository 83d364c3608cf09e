"""Norms against flax's, and lengths through encoder and decoder."""

from __future__ import annotations

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.nn.autoencoder import Decoder, Encoder
from eegsr_jax.nn.discriminator import PatchDiscriminator
from eegsr_jax.nn.layers import GroupNorm

SHAPE = {"widths": (6, 4), "blocks": (1, 2)}


@pytest.mark.parametrize("groups", [1, 3])
def test_norm_is_that_of_flax(rng, groups):
    x = jnp.asarray(3 + rng.normal(size=(2, 7, 6)).astype(np.float32))
    params = {"scale": jnp.arange(1.0, 7.0), "bias": jnp.arange(6.0)}
    found = GroupNorm(groups, 1e-5).apply({"params": params}, x)
    expected = linen.GroupNorm(groups, epsilon=1e-5).apply({"params": params}, x)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("length", "latent", "back"), [(16, 8, 16), (23, 11, 22)])
def test_lengths(length, latent, back):
    x, key = jnp.ones((2, length, 5)), jax.random.key(0)
    z, params = jax.eval_shape(Encoder(3, **SHAPE).init_with_output, key, x)
    assert z.shape == (2, latent, 3)
    assert sorted(params["params"]) == [f"block_{i}" for i in range(7)]
    y, _ = jax.eval_shape(Decoder(5, **SHAPE).init_with_output, key, z)
    assert y.shape == (2, back, 5)


def test_half_precision_is_near(rng):
    x = jnp.asarray(rng.normal(size=(2, 16, 5)).astype(np.float32))
    small = {"widths": (6,), "blocks": (1,)}
    params = jax.jit(Encoder(3, **small).init)(jax.random.key(0), x)
    full = jax.jit(Encoder(3, **small).apply)(params, x)
    half = jax.jit(Encoder(3, **small, dtype=jnp.bfloat16).apply)(params, x)
    assert half.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    error = np.linalg.norm(half.astype(jnp.float32) - full) / np.linalg.norm(full)
    assert 0 < error < 0.03


def test_running_statistics_move_in_training_only(rng):
    x = jnp.asarray(5 + rng.normal(size=(3, 16, 2)).astype(np.float32))
    network = PatchDiscriminator(features=4, layers=2, outputs=1)
    own = jax.jit(network.init, static_argnums=2)(jax.random.key(0), x, True)
    start = own["batch_stats"]["norm_0"]
    np.testing.assert_array_equal(start["mean"], np.zeros(8))
    np.testing.assert_array_equal(start["var"], np.ones(8))
    features = network.apply(own, x, False)  # would fail if it tried to move them
    assert [f.shape for f in features] == [(3, 8, 4), (3, 4, 8), (3, 4, 16), (3, 4, 1)]
    _, after = network.apply(own, x, True, mutable=["batch_stats"])
    assert np.asarray(after["batch_stats"]["norm_0"]["mean"]).all()
