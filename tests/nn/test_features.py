"""Log powers behind learned filters, against SciPy's convolution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import convolve1d

from eegsr_jax.nn.features import PowerFeatures

NETWORK = PowerFeatures(filters=3, maps=2, width=8, classes=(4, 2))


def test_a_feature_is_the_log_power_of_what_its_filters_let_through(rng):
    x = rng.standard_normal((5, 6, 64)).astype(np.float32)
    params = NETWORK.init(jax.random.key(0), x[:1])
    features, scores = NETWORK.apply(params, x)
    time, space = (np.asarray(params["params"][k], np.float64) for k in ("time", "space"))
    assert time.shape == (8, 3) and space.shape == (6, 6)
    taper = np.hanning(64)
    for feature in range(6):
        mapped = np.einsum("bct,c->bt", x, space[:, feature]) * taper
        # SciPy centres a kernel of 8 at its fifth sample; the power does not depend on the shift.
        passed = convolve1d(mapped, time[:, feature // 2], mode="wrap")
        expected = np.log((passed**2).sum(-1) / np.sum(taper**2) + 1e-6)
        np.testing.assert_allclose(features[:, feature], expected, rtol=1e-4, atol=1e-4)
    assert [s.shape for s in scores] == [(5, 4), (5, 2)]
    head = params["params"]["classes_0"]
    expected = np.asarray(features) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(scores[0], expected, rtol=1e-4, atol=1e-4)


def test_silence_has_features_and_gradients():
    x = jnp.zeros((2, 6, 64))
    params = NETWORK.init(jax.random.key(0), x)
    gradients = jax.grad(lambda p: NETWORK.apply(p, x)[0].sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    np.testing.assert_allclose(NETWORK.apply(params, x)[0], np.log(1e-6), rtol=1e-5)
