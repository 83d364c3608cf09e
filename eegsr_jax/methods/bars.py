"""Error bars from what a method gets wrong in the validation windows."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import MomentStage
from eegsr_jax.methods.moments import VALIDATE
from eegsr_jax.typing import PyTree

Wrong = Callable[[PyTree, jax.Array, Geometry], jax.Array]


def bars_stage(wrong: Wrong) -> MomentStage:
    """Fits `params["std"]` `[M]`, the root mean square of what is wrong in each target.

    Infinite without validation windows: it cannot tell.

    Args:
      wrong: `(params, eeg [batch, M, time], geometry) -> [batch, M, time]`, errors in the unit of
        the bars; asked of batches in which there are validation windows, not of others.
    """

    def start(params, geometry):
        del params
        return {"windows": jnp.zeros(()), "square": jnp.zeros(geometry.target.shape[0])}

    def update(params, sums, batch, geometry):
        kept = batch["part"] == VALIDATE

        def squares(eeg):
            each = jnp.mean(wrong(params, eeg, geometry) ** 2, -1)
            return jnp.sum(jnp.where(kept[:, None], each, 0.0), 0)

        def nothing(eeg):
            return jnp.zeros(eeg.shape[1], sums["square"].dtype)

        added = jax.lax.cond(jnp.any(kept), squares, nothing, batch["eeg"])
        windows = kept.sum(dtype=sums["windows"].dtype)
        return {"windows": sums["windows"] + windows, "square": sums["square"] + added}

    def solve(params, sums, geometry):
        del geometry
        known = sums["windows"] > 0
        square = sums["square"] / jnp.where(known, sums["windows"], 1.0)
        return params | {"std": jnp.where(known, jnp.sqrt(square), jnp.inf)}

    return MomentStage(start, update, solve)
