"""The Gaussians behind an estimate, in metres and seconds: for pictures and source analyses."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Mixture(NamedTuple):
    """G Gaussians at each of P points in the head frame, and what the data make of them.

    The activity of Gaussian (g, p) in window b at time t is `amplitude[g, p] + beta[b, t, p]`; at
    an electrode it is weighed by `exp(-½ ‖Lᵀ (d, τ)‖²)`, see `precision`. Their sum, times `unit`,
    plus `skip` is the estimate.

    Attributes:
      centres: `[P, 3]` metres.
      diagonal: `[G, P, 4]` of L: 1/m (x, y, z) and 1/s.
      off_diagonal: `[G, P, 6]` L10, L20, L21 in 1/m, L30, L31, L32 in 1/s.
      time: `[G, P]` seconds from the start of the window.
      amplitude: `[G, P]`, in the Gaussians' own unit, as `beta`.
      beta: `[batch, time, P]` modulation by the observed channels.
      times: `[time]` seconds, or samples where the method counts in samples.
      unit: `[batch, M]` what one of that unit is at each target: 1 where the Gaussians are in the
        unit of the estimate, a channel's standard deviation where they are of standardised signals.
      skip: `[batch, M, time]` what is added to the rendered field at the targets (a linear map
        of the observed channels; zero in the released EMAG).
    """

    centres: jax.Array
    diagonal: jax.Array
    off_diagonal: jax.Array
    time: jax.Array
    amplitude: jax.Array
    beta: jax.Array
    times: jax.Array
    unit: jax.Array
    skip: jax.Array
