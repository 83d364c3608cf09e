"""`emag`: a field of Gaussians in the head adds to the lagged ridge what a linear map cannot see.

EMAG (arXiv 2605.29731) renders a grid of space-time Gaussians at the electrodes, their amplitudes
set by a network of the given channels. Ours keeps the field, continuous in space, and mends what
its released code leaves open (`emag_paper` is that code's behaviour):

- The field is stationary. Windows of continuous EEG begin anywhere, so that Gaussians at fixed
  times of a window carry nothing; what changes in time comes through the encoder.
- The encoder sees a stretch of time, not one sample.
- A lagged ridge, in closed form, comes first; the field, zero at the start, learns what it leaves.
- The grid is centred on the cap and scaled to it; signals are scaled by the observed channels.
- Validation windows, apart from the test, stop the training, shrink the field and set error bars.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from eegsr_jax.gaussians import grid, precision
from eegsr_jax.gaussians.mixture import Mixture
from eegsr_jax.gaussians.render import fold
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import linear
from eegsr_jax.methods import moments as mo
from eegsr_jax.methods.base import (
    GradientStage,
    Method,
    MomentStage,
    Reconstruction,
    fir,
    linear_apply,
    linear_plan,
    observed_source,
)
from eegsr_jax.methods.spatial import spline_matrix
from eegsr_jax.nn.temporal import TemporalEncoder
from eegsr_jax.numerics import in_float64
from eegsr_jax.typing import PyTree

CAP = 85.0  # mm, where electrodes stand about a grid of radius 90, as in EMAG
SIZES = (10.0, 15.0, 25.0)  # mm, standard deviations of the Gaussians of a point at the start
WHITENING = 1e-3  # added to the variances of the principal components, as a share of their mean
_SAME = 1e-3  # metres; nearer than this, two electrodes are one


def emag(
    lags: int = 6,
    resolution: int = 12,
    groups: int = 3,
    covariance: str = "full_4d",
    width: int = 64,
    taps: int = 7,
    dilations: tuple[int, ...] = (1, 2, 4),
    dropout: float = 0.0,
    epochs: int = 40,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-3,
    average: float = 0.99,
    patience: int = 0,
) -> Method:
    """EMAG's field of Gaussians on top of a lagged ridge.

    Args:
      lags: of the ridge, samples on either side.
      resolution: points of the grid across the head.
      groups: Gaussians at each point, 1 to 3, of different sizes at the start.
      covariance: "full_4d" or "diagonal_4d", of space: Gaussians along any axes, or along x, y, z.
      width: features that the field reads out.
      taps: of the encoder's convolutions.
      dilations: of the encoder, one a block.
      dropout: of the encoder, see `nn.temporal.TemporalEncoder`.
      epochs: passes over the training windows, at most.
      batch_size: windows a step.
      learning_rate: at its highest, after 5 % of the steps; then a half cosine to 1 % of it.
      weight_decay: of AdamW.
      average: decay of the running average of the weights.
      patience: epochs without a better validation score after which training ends; 0 for never.
    """
    encoder = TemporalEncoder(width, taps, tuple(dilations), dropout)
    shape = _Shape(lags, resolution, groups, covariance, encoder)

    def optimizer(steps: int) -> optax.GradientTransformation:
        rate = optax.warmup_cosine_decay_schedule(
            0.0, learning_rate, max(steps // 20, 1), max(steps, 2), 0.01 * learning_rate
        )
        adam = optax.adamw(rate, b2=0.99, weight_decay=weight_decay)
        return optax.chain(optax.clip_by_global_norm(1.0), adam)

    def loss(params, batch, geometry):
        target, missing = _left(params, batch["eeg"], geometry)
        given = batch["eeg"][:, geometry.observed_index]
        found = _field(shape, params, given, geometry.target, batch["key"])
        error = jnp.where(missing[None, :, None], target - found, 0.0)
        count = error.shape[0] * error.shape[2] * jnp.sum(missing, dtype=jnp.float32)
        return jnp.sum(error**2) / count, {}

    def score(params, batch, geometry):
        eeg, kept = batch["eeg"], (batch["part"] >= 0)[:, None, None]
        target, missing = _left(params, eeg, geometry)
        found = _field(shape, params, eeg[:, geometry.observed_index], geometry.target)
        counted = kept & missing[None, :, None]
        wrong = jnp.where(counted, target - found, 0.0) * params["scale"]
        return jnp.stack([jnp.sum(wrong**2), jnp.sum(jnp.where(counted, eeg, 0.0) ** 2)])

    stages = (
        MomentStage(mo.moment_start(2 * lags), mo.moment_update, _solve_linear(lags)),
        GradientStage(
            name="field",
            loss=loss,
            score=score,
            trainable=("encoder", "field", "readout"),
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            overlap=4,
            patience=patience,
            average=average,
        ),
        _calibration(shape),
    )

    def init(key, geometry: Geometry, window) -> dict[str, Any]:
        return _init(shape, key, geometry)

    def plan(params, geometry):
        return _plan(shape, params, geometry)

    def apply(plan, observed, key=None):
        return _apply(shape, plan, observed)

    def mixture(params, geometry, observed):
        return _mixture(shape, params, geometry, observed)

    context = max(lags, encoder.reach)
    return Method("emag", init, stages, plan, apply, None, context, mixture=mixture)


class _Shape(NamedTuple):
    """What is fixed before any params: static."""

    lags: int
    resolution: int
    groups: int
    covariance: str
    encoder: TemporalEncoder


# ------------------------------------------------------------------------------------------- params


def _init(shape: _Shape, key: jax.Array, geometry: Geometry) -> dict[str, Any]:
    targets, inputs = geometry.target.shape[0], geometry.observed.shape[0]
    points, groups = len(grid.sphere(shape.resolution)), shape.groups
    taps, width = 2 * shape.lags + 1, shape.encoder.width
    sizes = jnp.log(1 / jnp.asarray(SIZES[:groups], jnp.float32))
    nothing = jnp.zeros((1, 1, inputs))
    offsets = geometry.target - geometry.centre[None]
    return {
        "linear": {
            "filters": jnp.zeros((taps, targets, inputs)),
            "trained": jnp.zeros((taps, targets, inputs)),
            "mean": jnp.zeros((targets,)),
            "input_mean": jnp.zeros((inputs,)),
            "penalty": jnp.full((), jnp.nan),
        },
        "cap": {
            "positions": jnp.asarray(geometry.target, jnp.float32),
            "centre": jnp.asarray(geometry.centre, jnp.float32),
            "radius": jnp.mean(jnp.linalg.norm(offsets, axis=-1)),
        },
        "whiten": jnp.zeros((inputs, inputs)),
        "encoder": shape.encoder.init(key, nothing)["params"],
        "field": {
            "log_diagonal": jnp.broadcast_to(sizes[:, None, None], (groups, points, 3)),
            "off_diagonal": jnp.zeros((groups, points, 3)),
        },
        "readout": jnp.zeros((points, width)),
        "scale": jnp.ones(()),
        "gain": jnp.ones(()),
        "std": jnp.full((targets,), jnp.inf),
        "between": jnp.full((), jnp.inf),
    }


def _solve_linear(lags: int):
    """The lagged ridge, with the map of the training part alone beside it, and the scales."""

    def solve(params, sums, geometry: Geometry):
        index, penalties = geometry.observed_index, jnp.asarray(linear.PENALTIES)
        fitted = linear.fit(sums, index, lags, penalties)
        # The field learns what the map of the training part leaves: validation windows are new to
        # both. In use, it adds to the map fitted on both parts.
        trained = linear.fit(mo.only(sums, mo.TRAIN), index, lags, fitted["penalty"][None])
        source = observed_source(geometry)
        itself = jnp.zeros_like(fitted["filters"]).at[lags].set(jax.nn.one_hot(source, len(index)))
        return (
            params
            | {
                "linear": {
                    # An observed channel is itself, where it helps to carry the map to new places.
                    "filters": jnp.where((source < 0)[None, :, None], fitted["filters"], itself),
                    "trained": trained["filters"],
                    "mean": fitted["mean"],
                    "input_mean": fitted["mean"][index],
                    "penalty": fitted["penalty"],
                },
            }
            | _scales(sums, geometry, trained["filters"])
        )

    return solve


@in_float64
def _scales(sums, geometry: Geometry, filters):
    lags = filters.shape[0] // 2
    _, covariance = mo.covariances(mo.part_of(sums, mo.TRAIN))
    index = geometry.observed_index
    values, vectors = jnp.linalg.eigh(covariance[0][index][:, index])
    floor = WHITENING * jnp.mean(values)
    weights = filters.transpose(0, 2, 1).reshape(-1, filters.shape[1])
    power = jnp.diagonal(covariance[0])
    normal = mo.normal_equations(covariance, index, lags)
    errors = mo.error_covariance_diagonal(*normal, power, weights)
    missing = observed_source(geometry) < 0
    mean_error = jnp.sum(jnp.where(missing, errors, 0.0)) / jnp.sum(missing, dtype=errors.dtype)
    return {
        "whiten": vectors / jnp.sqrt(jnp.maximum(values, 0.0) + floor)[None],
        "scale": jnp.sqrt(jnp.maximum(mean_error, 1e-30)),
        "between": _between(covariance[0], geometry),
    }


def _between(covariance, geometry: Geometry):
    """Root mean square error of a spline from all other electrodes to each in turn."""
    count = covariance.shape[0]

    def one(left_out):
        load = jnp.where(jnp.arange(count) == left_out, 1e6, 1e-5)
        weights = spline_matrix(
            geometry.target, geometry.target[left_out][None], geometry.centre, penalty=load
        )[0]
        weights = weights - jnp.where(jnp.arange(count) == left_out, 1.0 + weights, 0.0)
        return weights @ covariance @ weights

    return jnp.sqrt(jnp.mean(jax.lax.map(one, jnp.arange(count))))


def _left(params: PyTree, eeg: jax.Array, geometry: Geometry) -> tuple[jax.Array, jax.Array]:
    """What the ridge of the training part leaves of `[batch, M, time]`, scaled; `[M]` missing."""
    mean = params["linear"]["mean"]
    centred = eeg - mean[None, :, None]
    estimate = fir(params["linear"]["trained"], centred[:, geometry.observed_index])
    left = (centred - estimate) / params["scale"]
    return jax.lax.stop_gradient(left), observed_source(geometry) < 0


# -------------------------------------------------------------------------------------------- field


def _features(shape: _Shape, params: PyTree, observed: jax.Array, keys=None) -> jax.Array:
    """`[batch, time, K]` of observed channels `[batch, L, time]`."""
    white = jnp.einsum("blt,lk->btk", observed, params["whiten"], precision="highest")
    encoded = shape.encoder.apply({"params": params["encoder"]}, white, keys)
    assert isinstance(encoded, jax.Array)
    return encoded


def _gaussians(shape: _Shape, params: PyTree) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Centres `[P, 3]`, diagonals `[G, P, 4]` and off-diagonals `[G, P, 6]` on the grid's scale."""
    field = params["field"]
    points = jnp.asarray(grid.sphere(shape.resolution), jnp.float32)
    diagonal, off = precision.cholesky(
        jnp.pad(field["log_diagonal"], ((0, 0), (0, 0), (0, 1))),
        jnp.pad(field["off_diagonal"], ((0, 0), (0, 0), (0, 3))),
        shape.covariance,
    )
    return points, diagonal.at[..., 3].set(0.0), off  # no precision in time: stationary


def _table(shape: _Shape, params: PyTree, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`[K, M]`: features to electrodes at `[M, 3]` metres, in units of `scale`; and their unit.

    The unit is the mean over the training cap of the sum of all Gaussians. Divided by it, a step of
    the read-out is as large a step of the estimate whatever the grid.
    """
    cap = params["cap"]
    points, diagonal, off = _gaussians(shape, params)
    nothing = jnp.zeros(diagonal.shape[:2])
    places = jnp.concatenate([positions, cap["positions"]])
    places = (places - cap["centre"][None]) / cap["radius"] * CAP
    seen = precision.field(places, points, diagonal, off, nothing, nothing)
    columns = jnp.concatenate([params["readout"], jnp.ones((len(points), 1))], 1)
    weights = {"kernel": columns, "bias": jnp.zeros((len(points),))}
    table = fold(seen, jnp.zeros((1,)), weights).table[0]
    count = positions.shape[0]
    unit = jax.lax.stop_gradient(jnp.mean(table[-1, count:]))
    return table[:-1, :count] / unit, unit


def _field(shape, params, observed, positions, keys=None) -> jax.Array:
    features = _features(shape, params, observed, keys)
    table, _ = _table(shape, params, positions)
    return jnp.einsum("btk,km->bmt", features, table, precision="highest")


def _calibration(shape: _Shape) -> MomentStage:
    """How much of the field to add, and the error bars, from the validation windows."""

    def start(params, geometry):
        count = geometry.target.shape[0]
        return {"count": jnp.zeros(()), "sums": jnp.zeros((3, count))}

    def update(params, sums, batch, geometry):
        left, missing = _left(params, batch["eeg"], geometry)
        found = _field(shape, params, batch["eeg"][:, geometry.observed_index], geometry.target)
        kept = (batch["part"] == mo.VALIDATE)[:, None, None] & missing[None, :, None]
        left, found = (jnp.where(kept, x, 0.0) for x in (left, found))
        new = [jnp.sum(x, (0, 2)) for x in (left * left, left * found, found * found)]
        windows = jnp.sum(batch["part"] == mo.VALIDATE, dtype=jnp.float32)
        return {
            "count": sums["count"] + windows * left.shape[2],
            "sums": sums["sums"] + jnp.stack(new),
        }

    def solve(params, sums, geometry):
        power, both, own = sums["sums"]
        gain = jnp.clip(jnp.sum(both) / jnp.maximum(jnp.sum(own), 1e-20), 0.0, 1.0)
        known = sums["count"] > 0
        gain = jnp.where(known & (jnp.sum(own) > 0), gain, 0.0)
        wrong = (power - 2 * gain * both + gain**2 * own) / jnp.maximum(sums["count"], 1.0)
        std = params["scale"] * jnp.sqrt(jnp.maximum(wrong, 0.0))
        return params | {"gain": gain, "std": jnp.where(known, std, jnp.inf)}

    return MomentStage(start, update, solve)


# ---------------------------------------------------------------------------------------------- use


def _plan(shape: _Shape, params: PyTree, geometry: Geometry) -> dict[str, Any]:
    filters, mean, std = _skip(params, geometry)
    plan = linear_plan(geometry, filters, std, mean)
    plan = plan | {"input_mean": params["linear"]["input_mean"]}
    table, _ = _table(shape, params, geometry.target)
    table = params["gain"] * params["scale"] * table
    table = jnp.where(plan["source"][None] < 0, table, 0.0)
    return plan | {"whiten": params["whiten"], "encoder": params["encoder"], "table": table}


@in_float64
def _skip(params: PyTree, geometry: Geometry):
    """Filters, means and error bars at any electrodes: through a spline where none was trained."""
    cap, own = params["cap"]["positions"], params["linear"]
    distance = jnp.sqrt(jnp.sum((geometry.target[:, None] - cap[None]) ** 2, -1))
    same = distance < _SAME
    known = jnp.any(same, 1)
    spline = spline_matrix(cap, geometry.target, params["cap"]["centre"])
    carry = jnp.where(known[:, None], same.astype(spline.dtype), spline)
    filters = jnp.einsum("nm,kml->knl", carry, own["filters"], precision="highest")
    variance = jnp.where(jnp.isfinite(params["std"]), params["std"], 0.0) ** 2
    spread = (carry**2) @ variance + jnp.where(known, 0.0, params["between"] ** 2)
    std = jnp.where(jnp.any(jnp.isinf(params["std"])), jnp.inf, jnp.sqrt(spread))
    return filters, carry @ own["mean"], std


def _apply(shape: _Shape, plan: dict[str, Any], observed: jax.Array) -> Reconstruction:
    observed = jnp.asarray(observed)
    linear_part = linear_apply(plan, observed)
    features = _features(shape, plan, observed.astype(jnp.float32))
    added = jnp.einsum("btk,km->bmt", features, plan["table"], precision="highest")
    return Reconstruction(linear_part.mean + added.astype(observed.dtype), linear_part.std)


def _mixture(shape: _Shape, params: PyTree, geometry: Geometry, observed) -> Mixture:
    plan, cap = _plan(shape, params, geometry), params["cap"]
    points, diagonal, off = _gaussians(shape, params)
    size = cap["radius"] / CAP  # metres to a unit of the grid
    features = _features(shape, params, observed)
    _, unit = _table(shape, params, cap["positions"])
    beta = jnp.einsum("btk,pk->btp", features, params["readout"], precision="highest")
    nothing = jnp.zeros(diagonal.shape[:2])
    return Mixture(
        centres=points * size + cap["centre"][None],
        diagonal=diagonal / size,
        off_diagonal=off / size,
        time=nothing,
        amplitude=nothing,
        beta=beta * (params["gain"] * params["scale"] / unit),
        times=jnp.arange(observed.shape[2], dtype=jnp.float32),
        skip=linear_apply(plan, observed).mean,
    )
