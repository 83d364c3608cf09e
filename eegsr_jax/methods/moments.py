"""Second moments of multichannel EEG over time lags: all that any linear method needs.

The sums are kept in float64 for the training and the validation windows apart, so that a
penalty can be chosen and an error bar set on validation data, and the map refitted on both, with
one pass over the recordings.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from eegsr_jax.geometry import Geometry
from eegsr_jax.numerics import widen

Moments = dict[str, Any]
TRAIN, VALIDATE = 0, 1


def zeros(channels: int, lags: int) -> Moments:
    """Empty sums, float64; the leading axis of each is training and validation.

    Returns:
      `count` `[2]` samples, `sum` `[2, C]`, `products` `[2, lags + 1, C, C]` and `pairs`
      `[2, lags + 1]`, how many there are at each lag; `heads` and `tails` `[2, lags + 1, C]`, sums
      over the first and last k samples of the windows, which those products lack.
    """
    shapes = {
        "count": (2,),
        "pairs": (2, lags + 1),
        "sum": (2, channels),
        "products": (2, lags + 1, channels, channels),
        "heads": (2, lags + 1, channels),
        "tails": (2, lags + 1, channels),
    }
    with jax.enable_x64(True):
        return {name: jnp.zeros(shape, jnp.float64) for name, shape in shapes.items()}


def add(moments: Moments, eeg: jax.Array, part: jax.Array) -> Moments:
    """Sums with a batch added.

    Args:
      moments: from `zeros` or `add`.
      eeg: `[batch, C, time]`.
      part: `[batch]` int, 0 for training windows, 1 for validation windows, anything else for
        windows to leave out (padding).
    """
    lags = moments["products"].shape[1] - 1
    batch, channels, time = eeg.shape
    with jax.enable_x64(True):
        x = widen(eeg)

        def one_part(which):
            kept = jnp.where((part == which)[:, None, None], x, 0.0)
            # Zeros after each window keep the lagged products inside it: one long row a channel.
            row = jnp.pad(kept, ((0, 0), (0, 0), (0, lags))).transpose(1, 0, 2)
            row = jnp.pad(row.reshape(channels, -1), ((0, 0), (0, lags)))
            length = batch * (time + lags)
            still = row[:, :length]

            def product(lag):
                later = jax.lax.dynamic_slice_in_dim(row, lag, length, axis=1)
                return jnp.matmul(later, still.T, precision="highest")

            windows = jnp.sum(part == which, dtype=jnp.float64)
            over_windows = kept.sum(0).T  # [time, C]
            return {
                "count": time * windows,
                "pairs": windows
                * jnp.maximum(time - jnp.arange(lags + 1), 0).astype(windows.dtype),
                "sum": over_windows.sum(0),
                "products": jax.lax.map(product, jnp.arange(lags + 1)),
                "heads": _first_sums(over_windows, lags),
                "tails": _first_sums(over_windows[::-1], lags),
            }

        new = jax.tree.map(lambda *parts: jnp.stack(parts), one_part(TRAIN), one_part(VALIDATE))
        return jax.tree.map(jnp.add, moments, new)


def _first_sums(samples: jax.Array, lags: int) -> jax.Array:
    """Sums of the first 0, 1, …, lags rows of `[time, C]`."""
    longer = jnp.pad(samples, ((1, max(lags - len(samples), 0)), (0, 0)))
    return jnp.cumsum(longer[: lags + 1], 0)


def pooled(moments: Moments) -> Moments:
    """Training and validation sums together, without the leading axis."""
    return jax.tree.map(lambda a: a.sum(0), moments)


def only(moments: Moments, which: int) -> Moments:
    """The sums with those of the other part taken out."""
    with jax.enable_x64(True):
        return jax.tree.map(lambda a: jnp.zeros_like(a).at[which].set(a[which]), moments)


def part_of(moments: Moments, which: int) -> Moments:
    """The sums of one part, without the leading axis."""
    return jax.tree.map(lambda a: a[which], moments)


def covariances(moments: Moments, mean: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Mean `[C]` and lagged covariances `[lags + 1, C, C]`: C_k[i, j] = E x_i(t + k) x_j(t).

    These are the products of the centred windows with zeros around them, divided by the number of
    samples at every lag, so that the block-Toeplitz matrix of all lags is positive semi-definite.
    `mean` overrides the mean that is taken out. Call it under `jax.enable_x64(True)`.
    """
    count = jnp.maximum(moments["count"], 1.0)
    centre = moments["sum"] / count if mean is None else mean
    later = (moments["sum"][None] - moments["heads"])[:, :, None] * centre[None, None]
    still = centre[None, :, None] * (moments["sum"][None] - moments["tails"])[:, None]
    constant = moments["pairs"][:, None, None] * (centre[:, None] * centre[None])[None]
    return centre, (moments["products"] - later - still + constant) / count


def normal_equations(
    covariance: jax.Array, index: jax.Array, lags: int
) -> tuple[jax.Array, jax.Array]:
    """Matrices of the regression of all channels on the lagged channels `index`.

    Args:
      covariance: `[≥ 2 lags + 1, C, C]` from `covariances`.
      index: `[L]` observed channels.
      lags: k; inputs are taken at -k … +k samples.

    Returns:
      A `[K L, K L]`, covariance of the stacked inputs, and B `[K L, C]`, their covariance with
      every channel, where K = 2k + 1 and the tap is the slow axis.
    """
    taps = 2 * lags + 1
    inputs = index.shape[0]
    backward = covariance[1:].transpose(0, 2, 1)[::-1]
    both = jnp.concatenate([backward, covariance])  # entry zero + s is lag s
    zero = covariance.shape[0] - 1
    offsets = jnp.arange(taps)
    difference = zero + offsets[:, None] - offsets[None]  # lag of tap a against tap b
    blocks = both[difference][:, :, index][:, :, :, index]  # [a, b, L, L]
    stacked = blocks.transpose(0, 2, 1, 3).reshape(taps * inputs, taps * inputs)
    cross = both[zero + offsets - lags][:, index].reshape(taps * inputs, -1)
    return stacked, cross


def error_covariance_diagonal(
    stacked: jax.Array, cross: jax.Array, power: jax.Array, weights: jax.Array
) -> jax.Array:
    """Mean squared error `[M]` of predicting each channel with `weights` `[K L, M]`."""
    explained = 2 * jnp.sum(weights * cross, 0)
    return power - explained + jnp.sum(weights * jnp.matmul(stacked, weights), 0)


@functools.cache  # one function for each number of lags, so that equal stages can share a pass
def moment_start(lags: int):
    """`start` of a `MomentStage` over all target channels."""

    def start(params: Any, geometry: Geometry) -> Moments:
        del params
        return zeros(geometry.target.shape[0], lags)

    return start


def moment_update(
    params: Any, sums: Moments, batch: dict[str, jax.Array], geometry: Geometry
) -> Moments:
    """`update` of a `MomentStage` over all target channels."""
    del params, geometry
    return add(sums, batch["eeg"], batch["part"])
