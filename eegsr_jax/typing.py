"""Array types of the boundary of methods; the tests check them at every call (jaxtyping, beartype).

EEG is `[batch, channel, time]`, float32, in volts at the boundary with MNE; channels are `observed`
(L) or `target` (M). Positions are `[channel, 3]` in metres in the MNE head frame (x right, y front,
z up).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, Float

Observed = Float[Array | np.ndarray, "batch observed time"]
Target = Float[Array, "batch target time"]
Filters = Float[Array, "taps target observed"]
OneCap = Float[Array, "one 3"]
OtherCap = Float[Array, "other 3"]
Point = Float[Array, "3"]
Kernel = Float[Array, "one other"]
PyTree = Any
