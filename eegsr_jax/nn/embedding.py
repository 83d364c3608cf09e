"""Sinusoidal embeddings of steps and of places."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.numerics import in_float64

SLOWEST = 1e4  # ratio of the fastest to (nearly) the slowest frequency


def sinusoidal(t: Any, size: int, *, cosine_first: bool, dtype: Any = jnp.float32) -> jax.Array:
    """`[...] -> [..., size]`, its angles formed in float64.

    Steps go to a thousand: an angle rounded to float32 is off by 1e-5.

    Args:
      t: steps, or places.
      size: of the embedding, even.
      cosine_first: cosines, then sines, at the frequencies exp(-k ln 10⁴ / (size / 2)); or sines,
        then cosines, at exp(-k ln 10⁴ / (size / 2 - 1)).
      dtype: of the result.
    """
    half = size // 2
    last = half if cosine_first else half - 1

    def waves(t):
        frequencies = jnp.exp(jnp.arange(half, dtype=jnp.float64) * (-np.log(SLOWEST) / last))
        angles = t.astype(jnp.float64)[..., None] * frequencies.reshape((1,) * t.ndim + (-1,))
        both = (jnp.sin(angles), jnp.cos(angles))
        return jnp.concatenate(both[::-1] if cosine_first else both, -1)

    # Where float64 is asked for it is there, and `in_float64` would round it.
    formed = waves if jnp.dtype(dtype) == jnp.float64 else in_float64(waves)
    return formed(jnp.asarray(t)).astype(dtype)
