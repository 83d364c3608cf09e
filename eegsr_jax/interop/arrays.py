"""State dicts of the originals: arrays by name, of any library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.errors import ConfigError

Array = np.ndarray | jax.Array
State = Mapping[str, Array]


def entry(state: State, name: str) -> jax.Array:
    """An array of a state dict.

    Raises:
      ConfigError: it is not there.
    """
    if name not in state:
        raise ConfigError(f"state dict: no entry {name!r}; it has {', '.join(sorted(state))}")
    return jnp.asarray(state[name])


def as_dtype(dtype: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Floating arrays as `dtype`, all else as it is.

    Raises:
      ConfigError: float64 without `jax.enable_x64`.
    """
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ConfigError(f"dtype {dtype!r}: JAX computes in float32; call under jax.enable_x64()")
    return {
        name: jnp.asarray(x, dtype)
        if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
        else x
        for name, x in values.items()
    }
