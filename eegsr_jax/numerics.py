"""Double precision where single is not enough, on any backend and under any caller's settings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` computed in float64, with floating results handed back in float32.

    Floating arrays among the arguments are widened. Works eagerly and inside the caller's `jit`,
    `vmap`, `grad` and `scan`, and does not touch the caller's configuration. On TPU float64 is
    emulated: meant for small solves at plan time, not for the hot path.
    """

    @functools.wraps(function)
    def widened(*args, **kwargs):
        with jax.enable_x64(True):
            args, kwargs = jax.tree.map(widen, (args, kwargs))
            return jax.tree.map(_narrow, function(*args, **kwargs))

    return widened


def widen(x: Any) -> Any:
    """A floating array as float64; anything else as it is. Call under `jax.enable_x64(True)`."""
    return jnp.asarray(x, jnp.float64) if _floating(x) else x


def _narrow(x: Any) -> Any:
    return x.astype(jnp.float32) if _floating(x) else x


def _floating(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
