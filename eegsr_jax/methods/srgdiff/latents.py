"""From volts to latents and back, and the mean and standard deviation of latents.

The networks see microvolts, time before channels; what a method is given are volts, channels before
time. Channels that are missing are zeros, and nothing else says so.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import MomentStage, observed_source
from eegsr_jax.methods.moments import TRAIN
from eegsr_jax.methods.srgdiff.autoencoder import Autoencoder
from eegsr_jax.methods.srgdiff.shape import call
from eegsr_jax.numerics import in_float64, widen
from eegsr_jax.typing import PyTree

MICROVOLTS = 1e6  # in a volt
LEAST = 1e-8  # standard deviation of a latent channel

Latent = Callable[[PyTree, jax.Array, Geometry], jax.Array]


def microvolts(eeg: jax.Array) -> jax.Array:
    """`[batch, channel, time]` in volts `-> [batch, time, channel]` in microvolts."""
    return MICROVOLTS * eeg.swapaxes(1, 2)


def missing(geometry: Geometry) -> jax.Array:
    """`[M]` bool."""
    return observed_source(geometry) < 0


def masked(eeg: jax.Array, geometry: Geometry) -> jax.Array:
    """`[batch, M, time]` with zeros where channels are missing."""
    return jnp.where(missing(geometry)[None, :, None], 0.0, eeg)


def placed(observed: jax.Array, source: jax.Array) -> jax.Array:
    """`[batch, L, time]` among `[batch, M, time]`, zeros elsewhere, by `observed_source`."""
    rows = jnp.take(observed, jnp.maximum(source, 0), axis=1)
    return jnp.where((source >= 0)[None, :, None], rows, 0.0)


def encode(autoencoder: Autoencoder, params: PyTree, eeg: jax.Array) -> jax.Array:
    """The mean latent `[batch, length, latent]` of volts `[batch, M, time]`."""
    return call(autoencoder, params, microvolts(eeg), method="encode")[0]


def decode(autoencoder: Autoencoder, params: PyTree, z: jax.Array) -> jax.Array:
    """The volts `[batch, M, time]` of a latent."""
    return call(autoencoder, params, z, method="decode").swapaxes(1, 2) / MICROVOLTS


def normalised(z: jax.Array, statistics: PyTree) -> jax.Array:
    """`[batch, length, latent]` with mean 0 and standard deviation 1 in each channel."""
    return (z - statistics["mean"][None, None]) / statistics["std"][None, None]


def restored(z: jax.Array, statistics: PyTree) -> jax.Array:
    """The inverse of `normalised`."""
    return z * statistics["std"][None, None] + statistics["mean"][None, None]


def no_statistics(latent: int) -> dict[str, jax.Array]:
    """Before training."""
    return {"mean": jnp.zeros(latent), "std": jnp.ones(latent)}


def statistics(count: jax.Array, total: jax.Array, squares: jax.Array) -> dict[str, jax.Array]:
    """Mean and unbiased standard deviation of each channel, from sums over windows and samples.

    NaN, which is refused, where nothing was counted.
    """
    mean = total / count
    variance = (squares - count * mean**2) / (count - 1)
    return {"mean": mean, "std": jnp.maximum(jnp.sqrt(jnp.maximum(variance, 0.0)), LEAST)}


def statistics_stage(latent: Latent) -> MomentStage:
    """Fits `params["latents"]` to the training windows' latents, of `(params, eeg, geometry)`."""

    def start(params, geometry):
        del geometry
        size = params["latents"]["mean"].shape
        with jax.enable_x64(True):
            sums = {"total": jnp.zeros(size, jnp.float64), "squares": jnp.zeros(size, jnp.float64)}
            return {"count": jnp.zeros((), jnp.float64)} | sums

    def update(params, sums, batch, geometry):
        z = latent(params, batch["eeg"], geometry)
        with jax.enable_x64(True):
            kept = jnp.where((batch["part"] == TRAIN)[:, None, None], widen(z), 0.0)
            windows = jnp.sum(batch["part"] == TRAIN, dtype=jnp.float64)
            new = {
                "count": windows * z.shape[1],
                "total": kept.sum((0, 1)),
                "squares": (kept**2).sum((0, 1)),
            }
            return jax.tree.map(jnp.add, sums, new)

    def solve(params, sums, geometry):
        del geometry
        found = in_float64(statistics)(sums["count"], sums["total"], sums["squares"])
        return params | {"latents": found}

    return MomentStage(start, update, solve)
