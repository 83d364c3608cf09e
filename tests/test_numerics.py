"""`in_float64`: double precision inside, the caller's settings and types outside."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hilbert

from eegsr_jax.numerics import argmin, in_float64, widen

pytestmark = pytest.mark.filterwarnings("error")  # JAX warns where it truncates to float32

SIZE = 7  # the Hilbert matrix of this size has a condition number of 5e8
MATRIX = np.asarray(hilbert(SIZE), np.float32)
RIGHT = np.arange(1, SIZE + 1, dtype=np.float32)
EXACT = np.linalg.solve(MATRIX.astype(float), RIGHT.astype(float))


def single(a, b):
    return jnp.linalg.solve(a, b[:, None])[:, 0]


double = in_float64(single)


def error(x):
    return np.abs(np.asarray(x, float) - EXACT).max() / np.abs(EXACT).max()


WAYS = {
    "eager": lambda f: f(MATRIX, RIGHT),
    "jit": lambda f: jax.jit(f)(MATRIX, RIGHT),
    "vmap": lambda f: jax.vmap(f, (None, 0))(jnp.asarray(MATRIX), np.stack([RIGHT] * 3))[2],
    "jit of vmap": lambda f: jax.jit(jax.vmap(f))(np.stack([MATRIX] * 2), np.stack([RIGHT] * 2))[0],
    "scan": lambda f: jax.lax.scan(
        lambda c, b: (c, f(jnp.asarray(MATRIX), b)), 0, jnp.stack([jnp.asarray(RIGHT)] * 2)
    )[1][1],
    "checkpoint": lambda f: jax.jit(jax.checkpoint(f))(MATRIX, RIGHT),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_solve_is_as_exact_as_numpy_where_float32_fails(way):
    assert error(single(jnp.asarray(MATRIX), jnp.asarray(RIGHT))) > 1e-3  # worth the trouble
    found = WAYS[way](double)
    assert found.dtype == jnp.float32
    assert error(found) < 1e-6


def loss(function):
    return lambda a, b: jnp.sum(function(a, b) ** 2)


def exact_gradients():
    back = np.linalg.solve(MATRIX.astype(float).T, 2 * EXACT)
    return -np.outer(back, EXACT), back


GRADIENTS = {
    "grad": lambda f: jax.grad(f, (0, 1))(jnp.asarray(MATRIX), jnp.asarray(RIGHT)),
    "jit of grad": lambda f: jax.jit(jax.grad(f, (0, 1)))(MATRIX, RIGHT),
    "grad of jit": lambda f: jax.grad(jax.jit(f), (0, 1))(jnp.asarray(MATRIX), jnp.asarray(RIGHT)),
    "vmap of grad": lambda f: [
        x[1]
        for x in jax.jit(jax.vmap(jax.grad(f, (0, 1))))(
            np.stack([MATRIX] * 2), np.stack([RIGHT] * 2)
        )
    ],
    "grad of scan": lambda f: jax.jit(
        jax.grad(
            lambda a, b: jax.lax.scan(lambda c, _: (c + f(a, b) / 2, None), 0.0, length=2)[0],
            (0, 1),
        )
    )(MATRIX, RIGHT),
    "grad of checkpoint": lambda f: jax.jit(jax.grad(jax.checkpoint(f), (0, 1)))(MATRIX, RIGHT),
}


@pytest.mark.parametrize("way", GRADIENTS)
def test_gradients_are_computed_in_float64_too(way):
    found = GRADIENTS[way](loss(double))
    for ours, exact in zip(found, exact_gradients(), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())


def test_trees_python_values_integers_and_half_precision():
    @in_float64
    def function(tree, name, power):
        assert name == "sum" and power == 2  # Python values arrive as they are
        assert tree["x"].dtype == tree["half"].dtype == jnp.float64
        assert tree["index"].dtype == jnp.int32 and tree["nothing"] is None
        total = (tree["x"][tree["index"]] + tree["half"].sum()) ** power
        return {"total": total, "index": tree["index"], "flag": tree["x"] > 0}

    tree = {
        "x": jnp.arange(3.0),
        "half": jnp.ones(2, jnp.bfloat16),
        "index": jnp.array([2, 0], jnp.int32),
        "nothing": None,
    }
    found = function(tree, "sum", 2)
    np.testing.assert_array_equal(found["total"], [16.0, 4.0])
    kinds = {k: v.dtype for k, v in found.items()}
    assert kinds == {"total": jnp.float32, "index": jnp.int32, "flag": jnp.bool_}
    slope = jax.grad(lambda t: function(t, "sum", 2)["total"].sum(), allow_int=True)(tree)
    np.testing.assert_array_equal(slope["x"], [4.0, 0.0, 8.0])
    assert slope["index"].dtype == jax.dtypes.float0


def test_the_gradient_of_a_half_precision_input_adds_to_others():
    double_square = in_float64(lambda x: jnp.sum(x**2))

    def both(x):
        return double_square(x) + jnp.sum(x.astype(jnp.float32))

    slope = jax.grad(both)(jnp.arange(3, dtype=jnp.bfloat16))
    np.testing.assert_array_equal(slope.astype(jnp.float32), [1.0, 3.0, 5.0])


def test_the_settings_of_the_caller_are_left_alone():
    assert not jax.config.jax_enable_x64
    double(MATRIX, RIGHT)
    assert not jax.config.jax_enable_x64
    with pytest.raises(TypeError, match="incompatible shapes|reshape"):
        in_float64(lambda x: jnp.reshape(x, (2, 2)))(MATRIX)
    assert not jax.config.jax_enable_x64
    with jax.enable_x64(True):
        assert double(MATRIX, RIGHT).dtype == jnp.float32  # the same types under either setting
        assert jax.config.jax_enable_x64


def test_the_compiled_program_is_reused(counted):
    traced = counted(double)
    compiled = jax.jit(traced)
    for _ in range(3):
        compiled(MATRIX, RIGHT)
    assert traced.calls == 1


def test_widen_leaves_what_is_not_floating():
    with jax.enable_x64(True):
        assert widen(jnp.float32(1.5)).dtype == jnp.float64
        assert widen(np.arange(3)).dtype == np.int64
        assert widen("text") == "text"


@pytest.mark.parametrize("axis", [0, 1])
def test_argmin_is_numpy_with_the_first_of_equals(axis, rng):
    x = rng.integers(0, 4, (6, 5)).astype(np.float32)
    found = argmin(jnp.asarray(x), axis)
    np.testing.assert_array_equal(found, x.argmin(axis))
    assert found.dtype == jnp.int32
    inside = jax.jit(in_float64(lambda v: argmin(v, axis)))(x)
    np.testing.assert_array_equal(inside, x.argmin(axis))
    infinite = np.where(x == 0, np.inf, x)
    np.testing.assert_array_equal(argmin(jnp.asarray(infinite), axis), infinite.argmin(axis))
