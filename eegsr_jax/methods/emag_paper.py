"""`emag_paper`: EMAG as its authors released it, 4-D Gaussians on a grid in the head.

A sum of Gaussians over space and time (`gaussians.render`); at every sample a small network of the
observed channels adds to the amplitudes of each grid point. All is in the released code's units:
millimetres in the head frame, not centred, and seconds from the start of the window; signals have
mean 0 and standard deviation 1 in each channel of each window. Source: A. Lazarovich, O. I. Shahar,
G. Elkin, O. Ben-Shahar, *EMAG: Differentiable 4D Gaussian Mixture Splatting for EEG Spatial
Super-Resolution*, arXiv 2605.29731, and the code of commit 4f58c16b, both CC BY 4.0; written from a
description, no code is taken from it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from eegsr_jax.errors import ConfigError, MethodError
from eegsr_jax.gaussians import grid as grids
from eegsr_jax.gaussians.mixture import Mixture
from eegsr_jax.gaussians.precision import COVARIANCE, Field, cholesky, field
from eegsr_jax.gaussians.render import Folded, affine, fold, read_out, render
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.bars import bars_stage
from eegsr_jax.methods.base import GradientStage, Method, MomentStage, Reconstruction
from eegsr_jax.methods.clipping import clip
from eegsr_jax.methods.moments import TRAIN
from eegsr_jax.typing import PyTree

GRIDS = {"sphere": grids.sphere, "cube": grids.cube}
MM = 1000.0  # in a metre
FLOOR = 1e-6  # of a channel's usual standard deviation: no window is divided by less
WIDTHS = (64, 32, 64)  # of the layers between the observed channels and the grid points
WIDTH = 15.0  # mm, a Gaussian's standard deviation before training
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-2
LONGEST_GRADIENT = 1.0
SHAPE_PENALTY = 2e-4
MIN_DELTA = 1e-4
TRAINABLE = ("field", "encoder", "modulator")


def emag_paper(
    sfreq: float = 200.0,
    samples: int = 800,
    resolution: int = 12,
    grid: str = "sphere",
    groups: int = 3,
    covariance: str = "full_4d",
    init: str = "reference",
    epochs: int = 20,
    batch_size: int = 8,
    patience: int = 0,
    chunk: int = 10,
) -> Method:
    """EMAG as released, bound to windows of `samples` at `sfreq`.

    All targets are rendered: observed channels are **not** passed through, as in the original. The
    network sees each sample by itself. Inputs are brought to mean 0 and standard deviation 1 in
    each channel and window, where a standard deviation counts as at least 1e-6 of the channel's
    usual one (released: 1e-6 of whatever the stored unit is). The original scores in those units;
    here an estimate gets the unit of the training data, times how much louder than usual the
    observed channels are on average. A window's own mean is not restored: high-pass the data.

    Args:
      sfreq: Hz.
      samples: T, samples a window; `apply` refuses any other.
      resolution: grid points an axis, 16 mm apart at 12.
      grid: "sphere" (as published) or "cube" (the released program's default, at 20).
      groups: Gaussians at each point.
      covariance: a key of `gaussians.precision.COVARIANCE`.
      init: where in time Gaussians start: "reference", in the first half second and 0.1 s wide,
        whatever the window, as released; or "window", all over it and a fifth of it wide.
      epochs: passes over the training windows.
      batch_size: windows a step.
      patience: epochs without a better validation score after which training ends; 0 for never.
      chunk: samples over which the loss is averaged first; the chunks, of which the last may be
        short, weigh the same.

    Raises:
      ConfigError: an option that cannot be.
    """
    positive = {"sfreq": sfreq, "samples": samples, "groups": groups, "chunk": chunk}
    for name, value in (positive | {"batch_size": batch_size}).items():
        if value <= 0:
            raise ConfigError(f"emag_paper: {name}={value}; expected more than 0")
    for name, value, known in (
        ("grid", grid, GRIDS),
        ("covariance", covariance, COVARIANCE),
        ("init", init, ("reference", "window")),
    ):
        if value not in known:
            raise ConfigError(f"emag_paper: {name} {value!r}; expected one of {', '.join(known)}")
    centres = GRIDS[grid](resolution)
    span = 0.5 if init == "reference" else samples / sfreq  # s

    def start(key, geometry: Geometry, window) -> PyTree:
        del window
        key = jax.random.key(0) if key is None else key
        inputs, targets = geometry.observed.shape[0], geometry.target.shape[0]
        return {
            "centres": jnp.asarray(centres, jnp.float32),
            **_networks(key, inputs, len(centres)),
            "field": _gaussians(jax.random.fold_in(key, 4), (groups, len(centres)), span),
            "scale": jnp.ones(targets),
            "std": jnp.full(targets, jnp.inf),
        }

    def split(params, eeg, geometry: Geometry):
        z, _ = zscore(eeg, params["scale"])
        return z[:, geometry.observed_index], z

    def training_loss(params, batch, geometry: Geometry):
        observed, target = split(params, batch["eeg"], geometry)
        return loss(params, observed, target, geometry, sfreq, chunk, covariance)

    def score(params, batch, geometry: Geometry):
        observed, target = split(params, batch["eeg"], geometry)
        out = forward(params, observed, geometry, sfreq, covariance)
        kept = batch["part"] >= 0
        error = jnp.where(kept, mean_of_chunks((out - target) ** 2, chunk), 0.0)
        # As released, the mean squared error: a window's power is 1 a sample, but for flat ones.
        return jnp.stack([error.sum(), kept.sum(dtype=error.dtype)])

    def plan(params, geometry: Geometry) -> PyTree:
        times = sample_times(samples, sfreq, params["scale"].dtype)
        last = params["modulator"]["second"]
        folded = fold(gaussians(params, geometry, covariance), times, last)
        index, scale = geometry.observed_index, params["scale"]
        return {
            "encoder": params["encoder"],
            "modulator": params["modulator"]["first"],
            "table": folded.table,
            "base": folded.base,
            "scale": scale,
            "std": params["std"],
            # A channel that there was no training data for is taken to be like the others.
            "observed_scale": jnp.where(index < 0, scale.mean(), scale[index]),
        }

    def wrong(params, eeg, geometry: Geometry):
        # Only the shape of the error is learned here: `apply` with bars that say 1.
        own = plan(params | {"std": jnp.ones_like(params["std"])}, geometry)
        mean, unit = _apply(own, eeg[:, geometry.observed_index])
        return (eeg - mean) / unit

    gradient = GradientStage(
        name="emag_paper",
        loss=training_loss,
        score=score,
        trainable=TRAINABLE,
        optimizer=optimizer,
        epochs=epochs,
        batch_size=batch_size,
        patience=patience,
        min_delta=MIN_DELTA,
        points=(("centres", 0), ("field", 1), ("modulator/second", 0)),
    )
    stages = (
        MomentStage(_no_windows, _add_variances, _solve_scale),
        gradient,
        bars_stage(wrong),
    )

    def mixture(params, geometry: Geometry, observed: jax.Array) -> Mixture:
        """Of the standardised signals."""
        own = plan(params, geometry)
        z, unit = _standardised(own, observed)
        features = _features(own["encoder"], own["modulator"], z)
        return _mixture(params, features, unit, sfreq, covariance)

    return Method("emag_paper", start, stages, plan, _apply, samples, 0, sfreq, mixture)


# ------------------------------------------------------------------------------------ the model


def zscore(x: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Windows `[batch, channel, time]` with mean 0 and population std 1, and that std.

    The std `[batch, channel]` is at least 1e-6 of `scale` `[channel]`: a flat channel becomes 0.
    """
    centred = x - x.mean(-1, keepdims=True)
    centred = centred - centred.mean(-1, keepdims=True)  # what rounding left of a large offset
    least = (FLOOR * scale[None]) ** 2 + jnp.finfo(x.dtype).tiny
    std = jnp.sqrt(jnp.maximum(jnp.mean(centred**2, -1), least))
    return centred / std[..., None], std


def sample_times(samples: int, sfreq: float, dtype: Any) -> jax.Array:
    """Seconds from the start of a window."""
    return jnp.arange(samples, dtype=dtype) / sfreq


def gaussians(params: PyTree, geometry: Geometry, covariance: str) -> Field:
    """What the targets see of the field, in mm and s."""
    own = params["field"]
    shape = cholesky(own["log_diagonal"], own["off_diagonal"], covariance)
    positions = MM * geometry.target
    return field(positions, params["centres"], *shape, own["time"], own["amplitude"])


def encode(encoder: PyTree, x: jax.Array) -> jax.Array:
    """What the encoder makes of each sample of `[batch, L, time]`: `[batch, time, 32]`."""
    return hidden(encoder["second"], hidden(encoder["first"], x.swapaxes(1, 2)))


def hidden(layer: PyTree, x: jax.Array) -> jax.Array:
    """A layer {"kernel": `[out, in]`, "bias": `[out]`} and its rectifier."""
    return jax.nn.relu(affine(x, layer))


def forward(
    params: PyTree, observed: jax.Array, geometry: Geometry, sfreq: float, covariance: str
) -> jax.Array:
    """Estimates `[batch, M, time]` of standardised inputs `[batch, L, time]`."""
    seen = gaussians(params, geometry, covariance)
    times = sample_times(observed.shape[-1], sfreq, observed.dtype)
    modulator = params["modulator"]
    features = _features(params["encoder"], modulator["first"], observed)
    return render(seen, times, features, modulator["second"]).swapaxes(1, 2)


def _features(encoder: PyTree, modulator: PyTree, observed: jax.Array) -> jax.Array:
    return hidden(modulator, encode(encoder, observed))


def _standardised(plan: PyTree, observed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The input standardised, and what one standard deviation is at each target, `[batch, M]`.

    That is the channel's usual one, times how much louder than usual the window's inputs are.
    """
    samples = plan["base"].shape[0]
    if observed.shape[-1] != samples:
        raise MethodError(
            f"emag_paper: windows of {observed.shape[-1]} samples; it is bound to {samples}: cut "
            "the data into such windows, or train with another samples="
        )
    z, std = zscore(observed, plan["observed_scale"])
    gain = jnp.mean(std / plan["observed_scale"][None], 1)
    return z, gain[:, None] * plan["scale"][None]


def _apply(plan: PyTree, observed: jax.Array, key: jax.Array | None = None) -> Reconstruction:
    del key  # nothing is drawn
    z, unit = _standardised(plan, jnp.asarray(observed))
    features = _features(plan["encoder"], plan["modulator"], z)
    estimate = read_out(Folded(plan["table"], plan["base"]), features).swapaxes(1, 2)
    std = unit * plan["std"][None]
    return Reconstruction(
        unit[..., None] * estimate, jnp.broadcast_to(std[..., None], estimate.shape)
    )


def _mixture(params, features, unit, sfreq, covariance) -> Mixture:
    own = params["field"]
    diagonal, off_diagonal = cholesky(own["log_diagonal"], own["off_diagonal"], covariance)
    space = jnp.asarray([MM, MM, MM, 1.0, 1.0, 1.0], diagonal.dtype)[None, None]
    time = features.shape[1]
    return Mixture(
        centres=params["centres"] / MM,
        diagonal=diagonal * space[..., :4],
        off_diagonal=off_diagonal * space,
        time=own["time"],
        amplitude=own["amplitude"],
        beta=affine(features, params["modulator"]["second"]),
        times=sample_times(time, sfreq, features.dtype),
        unit=unit,
        skip=jnp.zeros((*unit.shape, time), features.dtype),
    )


# ------------------------------------------------------------------------------------- training


def loss(
    params: PyTree,
    observed: jax.Array,
    target: jax.Array,
    geometry: Geometry,
    sfreq: float,
    chunk: int,
    covariance: str,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Of standardised `[batch, L, time]` and `[batch, M, time]`, with its two terms."""
    out = forward(params, observed, geometry, sfreq, covariance)
    data = mean_of_chunks((out - target) ** 2, chunk).mean()
    own = params["field"]
    shapes = (own[name] for name in ("log_diagonal", "off_diagonal"))
    extra = SHAPE_PENALTY * sum((jnp.mean(x**2) for x in shapes), jnp.zeros_like(data))
    return data + extra, {"data": data, "regulariser": extra}


def mean_of_chunks(error: jax.Array, chunk: int) -> jax.Array:
    """`[batch]`: the mean over chunks of time of each chunk's mean of `[batch, M, time]`."""
    time = error.shape[-1]
    begin = jnp.arange(time) // chunk * chunk
    length = jnp.minimum(chunk, time - begin).astype(error.dtype)
    chunks = -(-time // chunk)
    return jnp.sum(error.mean(1) / (chunks * length)[None], -1)


def optimizer(steps: int) -> optax.GradientTransformation:
    """AdamW at a constant rate, decay on everything, after a clip of the global norm."""
    del steps
    adam = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    return optax.chain(clip(LONGEST_GRADIENT), adam)


def _no_windows(params: PyTree, geometry: Geometry) -> PyTree:
    del params
    return {"windows": jnp.zeros(()), "square": jnp.zeros(geometry.target.shape[0])}


def _add_variances(params, sums, batch, geometry: Geometry):
    del params, geometry
    kept = (batch["part"] == TRAIN)[:, None]
    square = jnp.where(kept, jnp.var(batch["eeg"], -1), 0.0)
    return {
        "windows": sums["windows"] + kept.sum(dtype=square.dtype),
        "square": sums["square"] + square.sum(0),
    }


def _solve_scale(params, sums, geometry: Geometry):
    """NaN, which is refused, for a channel without any signal."""
    del geometry
    variance = sums["square"] / sums["windows"]
    return params | {"scale": jnp.sqrt(jnp.where(variance > 0, variance, jnp.nan))}


# ------------------------------------------------------------------------------ before training


def _networks(key: jax.Array, inputs: int, points: int) -> PyTree:
    widths = (inputs, *WIDTHS, points)
    sizes = zip(widths[:-1], widths[1:], strict=True)
    layers = [_layer(jax.random.fold_in(key, i), *size) for i, size in enumerate(sizes)]
    return {
        "encoder": {"first": layers[0], "second": layers[1]},
        "modulator": {"first": layers[2], "second": layers[3]},
    }


def _layer(key: jax.Array, inputs: int, outputs: int) -> PyTree:
    """PyTorch's: weights and biases uniform within ±1/√inputs."""
    kernel, bias = jax.random.split(key)
    most = inputs**-0.5
    return {
        "kernel": jax.random.uniform(kernel, (outputs, inputs), minval=-most, maxval=most),
        "bias": jax.random.uniform(bias, (outputs,), minval=-most, maxval=most),
    }


def _gaussians(key: jax.Array, shape: tuple[int, int], span: float) -> PyTree:
    """Only where they stand in time tells the Gaussians of a point apart."""
    widths = jnp.asarray([WIDTH, WIDTH, WIDTH, span / 5])
    return {
        "amplitude": jnp.zeros(shape),
        "time": jax.random.uniform(key, shape, maxval=span),
        "log_diagonal": jnp.broadcast_to(-jnp.log(widths)[None, None], (*shape, 4)),
        "off_diagonal": jnp.zeros((*shape, 6)),
    }
