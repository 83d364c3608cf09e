"""Array aliases of the public boundary.

Axis names, used throughout: `batch` windows, `channel` (L observed, M target), `time` samples.
EEG is `[batch, channel, time]` float32, in volts at the boundary with MNE; positions are
`[channel, 3]` in metres in the MNE head frame (x right, y front, z up).
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

EEG = Float[Array, "batch channel time"]
Positions = Float[Array, "channel 3"]
Index = Int[Array, " channel"]
Key = jax.Array  # a typed `jax.random.key`, consumed once
PyTree = Any
ArrayLike = np.ndarray | jax.Array
