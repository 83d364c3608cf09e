"""The contract of every method: pure functions, planned once and applied many times.

A `Method` is a tuple of functions and no state. `plan` does all that does not depend on the data
(a spline's matrix, a ridge's filter bank); `apply` is the hot path that is jitted, vmapped,
differentiated, exported and streamed. Arrays and plain dicts cross this boundary, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from eegsr_jax.gaussians.mixture import Mixture
from eegsr_jax.geometry import Geometry
from eegsr_jax.typing import Filters, Observed, PyTree, Target


class Reconstruction(NamedTuple):
    """What a method returns, in the unit of its input.

    Attributes:
      mean: `[batch, M, time]`; observed channels are the input, bit for bit.
      std: `[batch, M, time]` calibrated standard error: mean ± 1.645 std covers 90 %. Zero at
        observed channels; inf where a method cannot tell.
    """

    mean: jax.Array
    std: jax.Array


class MomentStage(NamedTuple):
    """A stage in closed form, from sums that add up over batches, devices and hosts.

    A batch is `{"eeg": [batch, M, time], "part": [batch]}` over all target channels, with `part` 0
    for training windows, 1 for validation windows and -1 for padding; only training data ever
    reach a stage. Running a stage again from trained params, on a little data of one subject,
    calibrates them to it: `gaussian` updates its prior, the ridges start afresh.

    Attributes:
      start: `(params, geometry) -> sums`, all zero.
      update: `(params, sums, batch, geometry) -> sums`; the sums of two batches add up. They may
        depend on the targets but not on which of them are observed, so that one pass over the data
        serves every layout.
      solve: `(params, sums, geometry) -> params`.
    """

    start: Callable[[PyTree, Geometry], PyTree]
    update: Callable[[PyTree, PyTree, dict[str, jax.Array], Geometry], PyTree]
    solve: Callable[[PyTree, PyTree, Geometry], PyTree]


Derive = Callable[[PyTree, dict[str, jax.Array], Geometry], dict[str, jax.Array]]


class GradientStage(NamedTuple):
    """A stage by stochastic gradients, with early stopping on the validation windows.

    Attributes:
      name: in metrics, checkpoints and messages.
      loss: `(params, batch, geometry) -> (loss [], metrics {name: []})`, the mean over a batch of
        training windows, `{"eeg": [batch, M, time], "key": [batch]}`: one key a window, so that
        what is drawn does not depend on how a batch is spread over devices. Metrics are means too.
      score: `(params, batch, geometry) -> [2]`: squared error and power, summed over the windows
        that are not padding (`part` as in `MomentStage`). The validation score is their ratio.
      trainable: which entries of params, by their top-level names; all others stay as they are.
      optimizer: number of steps in all -> transformation of the gradients.
      epochs: passes over the training windows, at most.
      batch_size: windows a step.
      overlap: windows begin every 1/overlap of a window; an epoch is as many steps as without.
      patience: epochs without a better score after which it ends; 0 for never. The params of the
        best epoch are kept, the start counting as one.
      min_delta: how much lower a score must be to count as better.
      average: decay of the running average of the params, which is what is scored and kept; 0
        keeps the params themselves.
      points: (name of an entry, "/" between levels; its axis of Gaussian points), for a mesh that
        spreads them; all under the name have that axis. Of what it has, a device sees its own
        share: it may render or fold it (`gaussians.render`), which gives the whole field, and the
        loss and metrics may hold means over points.
      derive: `(params, {"eeg", "key": [batch]}, geometry) -> {name: [batch, ...]}`: what of a
        window stays the same while the stage trains, such as latents of a frozen autoencoder. Made
        once a window and kept; `loss` and `score` find it in their batches, beside the rest.
    """

    name: str
    loss: Callable[
        [PyTree, dict[str, jax.Array], Geometry],
        tuple[jax.Array, dict[str, jax.Array]],
    ]
    score: Callable[[PyTree, dict[str, jax.Array], Geometry], jax.Array]
    trainable: tuple[str, ...]
    optimizer: Callable[[int], optax.GradientTransformation]
    epochs: int
    batch_size: int
    overlap: int = 1
    patience: int = 0
    min_delta: float = 0.0
    average: float = 0.0
    points: tuple[tuple[str, int], ...] = ()
    derive: Derive | None = None


Stage = MomentStage | GradientStage


class Method(NamedTuple):
    """A reconstruction method.

    Attributes:
      name: as in tables and on the command line.
      init: `(key, geometry, window) -> params`, a plain nested dict.
      stages: what training does, in order; empty for a method that learns nothing.
      plan: `(params, geometry) -> plan`: everything that does not depend on the data.
      apply: `(plan, observed [batch, L, time], key) -> Reconstruction`; `key` is one key, or
        `[batch]` keys, one a window; None for a method that draws nothing.
      window: samples per call, or None for any length.
      context: samples on either side that an output sample depends on.
      sfreq: Hz that the method is bound to, or None where it counts in samples.
      mixture: `(params, geometry, observed [batch, L, time]) -> Mixture`: the Gaussians behind an
        estimate, for pictures and source analyses; None where there are none.
      draw: `(plan, observed [batch, L, time], key) -> [batch, M, time]`: what the missing channels
        may have been, drawn from what the method holds likely, with the spectrum and the covariance
        that a mean is too smooth for; keys as of `apply`. None for a method that gives means only.
    """

    name: str
    init: Callable[[jax.Array | None, Geometry, int | None], PyTree]
    stages: tuple[Stage, ...]
    plan: Callable[[PyTree, Geometry], PyTree]
    apply: Callable[[PyTree, jax.Array, jax.Array | None], Reconstruction]
    window: int | None = None
    context: int = 0
    sfreq: float | None = None
    mixture: Callable[[PyTree, Geometry, jax.Array], Mixture] | None = None
    draw: Callable[[PyTree, jax.Array, jax.Array | None], jax.Array] | None = None


def reconstruct(
    method: Method,
    params: PyTree,
    geometry: Geometry,
    observed: Observed,
    key: jax.Array | None = None,
) -> Reconstruction:
    """Plan and apply in one call: `[batch, L, time]` in, `[batch, M, time]` out."""
    return method.apply(method.plan(params, geometry), jnp.asarray(observed), key)


def observed_source(geometry: Geometry) -> jax.Array:
    """For each target, which observed channel it is: `[M]` int32, -1 where it is missing."""
    inputs, targets = geometry.observed.shape[0], geometry.target.shape[0]
    place = jnp.where(geometry.observed_index < 0, targets, geometry.observed_index)
    source = jnp.full((targets,), -1, jnp.int32)
    return source.at[place].set(jnp.arange(inputs, dtype=jnp.int32), mode="drop")


def linear_plan(
    geometry: Geometry,
    filters: jax.Array,
    std: jax.Array,
    mean: jax.Array | None = None,
) -> dict[str, Any]:
    """The plan of any linear method.

    Args:
      geometry: L observed and M target electrodes.
      filters: `[2k + 1, M, L]`; tap i multiplies the input i - k samples later.
      std: `[M]` standard error of the missing targets.
      mean: `[M]` mean of each target; None means 0.
    """
    source = observed_source(geometry)
    targets = filters.shape[1]
    mean = jnp.zeros((targets,), filters.dtype) if mean is None else mean
    input_mean = jnp.where(geometry.observed_index < 0, 0.0, mean[geometry.observed_index])
    return {
        "filters": filters,
        "source": source,
        "input_mean": input_mean.astype(filters.dtype),
        "mean": mean,
        "std": jnp.where(source < 0, std, 0.0),
    }


def linear_apply(
    plan: dict[str, Any], observed: Observed, key: jax.Array | None = None
) -> Reconstruction:
    """Filter `[batch, L, time]` to `[batch, M, time]`; zero beyond the ends of the window."""
    del key  # a linear method draws nothing
    filters = plan["filters"].astype(observed.dtype)
    centred = observed - plan["input_mean"].astype(observed.dtype)[None, :, None]
    estimate = fir(filters, centred) + plan["mean"].astype(observed.dtype)[None, :, None]
    source = plan["source"]
    known = jnp.take(observed, jnp.maximum(source, 0), axis=1)
    mean = jnp.where((source >= 0)[None, :, None], known, estimate)
    std = jnp.broadcast_to(plan["std"].astype(observed.dtype)[None, :, None], mean.shape)
    return Reconstruction(mean, std)


def fir(filters: Filters, x: Observed) -> Target:
    """Centred multichannel filter: `[2k+1, M, L]`, `[batch, L, time]` -> `[batch, M, time]`."""
    taps, x = filters.shape[0], jnp.asarray(x)
    if taps == 1:
        # One matrix a window: ten times faster on a CPU than a product that XLA must transpose.
        # Added to zeros of the batch, and not broadcast, to be sharded as the batch is.
        each = filters + jnp.zeros_like(x[:, :1, :1])
        return jnp.matmul(each, x, precision="highest")
    return jax.lax.conv_general_dilated(
        x,
        filters.transpose(1, 2, 0),
        window_strides=(1,),
        padding=[(taps // 2, taps // 2)],
        dimension_numbers=("NCH", "OIH", "NCH"),
        precision="highest",
    )
