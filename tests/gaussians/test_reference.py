"""The slow renderer against numbers computed elsewhere from the formulas (float64)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.gaussians import grid, precision, reference, render

ELECTRODES = np.array([[0, 0, 85.0], [60, 0, 60], [0, 70, 50]])
SECONDS = np.arange(5) / 10


def parameters():
    """As the specification's check of the renderer: 7 points, 2 Gaussians each."""
    n = np.arange(14)
    log_diagonal = np.log([1 / 60, 1 / 60, 1 / 60, 10]) + 0.05 * np.sin(n[:, None] + np.arange(4))
    size = np.array([0.004] * 3 + [0.3] * 3)
    off_diagonal = size * np.cos(2 * n[:, None] + np.arange(6))
    time, amplitude = 0.5 * np.modf(0.37 * n)[0], 0.1 * np.sin(n)
    b, t, p = np.ogrid[:2, :5, :7]
    return log_diagonal, off_diagonal, time, amplitude, 0.1 * np.cos(b + 0.5 * t + p)


def slow(mask):
    log_diagonal, off_diagonal, time, amplitude, modulation = parameters()
    centres = np.c_[np.repeat(grid.sphere(3), 2, 0), time]
    matrix = reference.precision_matrix(
        jnp.asarray(np.exp(log_diagonal)), jnp.asarray(off_diagonal * mask)
    )
    arrays = (jnp.asarray(a) for a in (ELECTRODES, SECONDS, centres))
    weights = reference.gaussian_weights(*arrays, matrix)
    return weights, reference.render(weights, jnp.asarray(amplitude), jnp.asarray(modulation))


def fast(mask):
    by_group = [jnp.asarray(a.reshape(7, 2, *a.shape[1:]).swapaxes(0, 1)) for a in parameters()[:4]]
    modulation = jnp.asarray(parameters()[4])
    diagonal, off_diagonal = jnp.exp(by_group[0]), by_group[1] * jnp.asarray(mask)[None, None]
    points = jnp.asarray(grid.sphere(3))
    field = precision.field(jnp.asarray(ELECTRODES), points, diagonal, off_diagonal, *by_group[2:])
    weights = {"kernel": jnp.eye(7, dtype=jnp.float64), "bias": jnp.zeros(7, jnp.float64)}
    return render.render(field, jnp.asarray(SECONDS), modulation, weights)


@pytest.mark.parametrize("renderer", [lambda mask: slow(mask)[1], fast], ids=["slow", "fast"])
@pytest.mark.parametrize(
    ("mask", "total", "squares"),
    [
        ([1.0] * 6, 1.686793984890667, 0.18766871523750264),
        ([1.0] * 3 + [0.0] * 3, 1.6742081997900493, 0.18734659302746245),
        ([0.0] * 6, 1.5073724128925043, 0.17643834039817075),
    ],
    ids=["full", "separate", "diagonal"],
)
def test_sums_of_the_output(renderer, mask, total, squares):
    with jax.enable_x64(True):
        out = np.asarray(renderer(np.array(mask)))
    assert out.shape == (2, 5, 3)
    np.testing.assert_allclose([out.sum(), (out**2).sum()], [total, squares], rtol=1e-13)


def test_single_outputs_and_the_sum_of_the_weights():
    with jax.enable_x64(True):
        weights, out = slow(np.ones(6))
    np.testing.assert_allclose(np.asarray(weights).sum(), 21.38388442700311, rtol=1e-13)
    np.testing.assert_allclose(out[0, 0], [-0.01483523, -0.02122322, -0.05205355], atol=5e-9)
    np.testing.assert_allclose(out[1, 4], [0.15586773, 0.06409572, 0.04903875], atol=5e-9)
