"""Double precision where single is not enough, on any backend and under any caller's settings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` computed in float64, with floating results handed back in float32.

    Floating arrays among the arguments (pytrees of arrays and Python values) are widened. Works
    eagerly and inside the caller's `jit`, `vmap`, `scan` and reverse-mode `grad`, and does not
    touch the caller's configuration; forward mode (`jvp`) is not supported. On TPU float64 is
    emulated: meant for small solves at plan time, not for the hot path.
    """

    @functools.wraps(function)
    def widened(*arguments):
        leaves, tree = jax.tree.flatten(arguments)
        is_array = [isinstance(x, jax.Array | np.ndarray) for x in leaves]
        fixed = [None if array else x for x, array in zip(leaves, is_array, strict=True)]

        def call(arrays):
            rest = iter(arrays)
            filled = [next(rest) if a else x for x, a in zip(fixed, is_array, strict=True)]
            return function(*jax.tree.unflatten(tree, filled))

        return _run(call, [x for x, array in zip(leaves, is_array, strict=True) if array])

    return widened


# The pull-back is written out because JAX would run it after the float64 context has ended, and
# mix the two precisions.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(call, arrays):
    with jax.enable_x64(True):
        return jax.tree.map(_narrow, call([widen(x) for x in arrays]))


def _forward(call, arrays):
    return _run(call, arrays), arrays


def _backward(call, arrays, cotangents):
    with jax.enable_x64(True):
        wide = [widen(x) for x in arrays]
        inexact = [_floating(x) for x in arrays]
        inputs = [x for x, f in zip(wide, inexact, strict=True) if f]

        def outputs(inputs):
            rest = iter(inputs)
            full = [next(rest) if f else x for x, f in zip(wide, inexact, strict=True)]
            return [y for y in jax.tree.leaves(call(full)) if _floating(y)]

        _, pull = jax.vjp(outputs, inputs)
        wanted = [c for c in jax.tree.leaves(cotangents) if _floating(c)]
        (gradients,) = pull([widen(c) for c in wanted])
        rest = iter(gradients)
        return (
            [
                next(rest).astype(x.dtype) if f else np.zeros(np.shape(x), jax.dtypes.float0)
                for x, f in zip(arrays, inexact, strict=True)
            ],
        )


_run.defvjp(_forward, _backward)


def widen(x: Any) -> Any:
    """A floating array as float64; anything else as it is. Call under `jax.enable_x64(True)`."""
    return jnp.asarray(x, jnp.float64) if _floating(x) else x


def _narrow(x: Any) -> Any:
    return x.astype(jnp.float32) if _floating(x) else x


def _floating(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def argmin(x: jax.Array, axis: int = 0) -> jax.Array:
    """The first lowest place, int32, NaN counting as the highest; lowered after `in_float64` too.

    JAX lowers its own `argmin` with the index type of the caller's settings, not of the trace, and
    fails.
    """
    x = jnp.where(jnp.isnan(x), jnp.inf, x)
    places = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    lowest = x == jnp.min(x, axis, keepdims=True)
    return jnp.min(jnp.where(lowest, places, x.shape[axis]), axis)
