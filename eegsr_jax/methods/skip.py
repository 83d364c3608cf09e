"""A lagged ridge for deep methods to stand on: they learn what it leaves.

Two maps are kept. What is learned is learned on what the map of the training part alone leaves, so
that validation windows are new to both; in use it is added to the map fitted on both parts
(`carry` takes it to electrodes that it was not trained on).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import linear
from eegsr_jax.methods import moments as mo
from eegsr_jax.methods.base import MomentStage, fir, observed_source
from eegsr_jax.methods.carry import spline_between
from eegsr_jax.numerics import in_float64
from eegsr_jax.typing import PyTree

NOTHING = 1e-7  # of the mean variance: below it a component is rounding noise


def initial_skip(lags: int, geometry: Geometry) -> dict[str, Any]:
    """Params before training. `scale` and `between` are in volts, see `skip_stage`."""
    targets, inputs, taps = geometry.target.shape[0], geometry.observed.shape[0], 2 * lags + 1
    return {
        "filters": jnp.zeros((taps, targets, inputs)),
        "trained": jnp.zeros((taps, targets, inputs)),
        "mean": jnp.zeros((targets,)),
        "penalty": jnp.full((), jnp.nan),
        "positions": jnp.asarray(geometry.target, jnp.float32),
        "inputs": jnp.asarray(geometry.observed, jnp.float32),
        "centre": jnp.asarray(geometry.centre, jnp.float32),
        "whiten": jnp.zeros((inputs, inputs)),
        "scale": jnp.ones(()),
        "order": jnp.full((), 4.0),
        "smoothing": jnp.full((), 1e-5),
        "between": jnp.full((), jnp.inf),
    }


def skip_stage(lags: int, whitening: float = 1e-3) -> MomentStage:
    """Fits `params["skip"]`.

    Beside the maps: `whiten` `[L, L]`, observed channels to components of unit variance, largest
    first (`whitening` times their mean is added to the variances); `scale`, the root mean square of
    what the map leaves in missing channels; and the spline that carries the map, see
    `carry.spline_between`.
    """

    def solve(params, sums, geometry: Geometry):
        index, penalties = geometry.observed_index, jnp.asarray(linear.PENALTIES)
        fitted = linear.fit(sums, index, lags, penalties)
        trained = linear.fit(mo.only(sums, mo.TRAIN), index, lags, fitted["penalty"][None])
        source = observed_source(geometry)
        itself = (
            jnp.zeros_like(fitted["filters"])
            .at[lags]
            .set(jax.nn.one_hot(source, len(index), dtype=fitted["filters"].dtype))
        )
        maps = {
            # An observed channel is itself, where it helps to carry the map to new places.
            "filters": jnp.where((source < 0)[None, :, None], fitted["filters"], itself),
            "trained": trained["filters"],
            "mean": fitted["mean"],
            "penalty": fitted["penalty"],
        }
        scales = _scales(sums, geometry, trained["filters"], jnp.asarray(whitening))
        return params | {"skip": params["skip"] | maps | scales}

    return MomentStage(mo.moment_start(2 * lags), mo.moment_update, solve)


def left_by_skip(
    skip: PyTree,
    eeg: jax.Array,
    geometry: Geometry,
    when: jax.Array | None = None,
    given: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """What the map of the training part leaves, in units of `scale`, and which are missing.

    Args:
      skip: `params["skip"]`.
      eeg: `[batch, M, time]`.
      geometry: that it was trained on.
      when: `[batch, S]` samples of each window that are wanted; None for all.
      given: `[batch, L, time]` inputs in the place of the observed channels of `eeg`.

    Returns:
      `[batch, M, S]`, through which no gradient passes, and `[M]` bool.
    """
    centred = eeg - skip["mean"][None, :, None]
    filters, index = skip["trained"], geometry.observed_index
    inputs = centred[:, index]
    if given is not None:
        inputs = given - skip["mean"][index][None, :, None]
    if when is None:
        estimate = fir(filters, inputs)
    else:
        taps = filters.shape[0]
        padded = jnp.pad(inputs, ((0, 0), (0, 0), (taps // 2, taps // 2))).swapaxes(1, 2)
        near = when[:, :, None] + jnp.arange(taps)[None, None]
        pieces = jax.vmap(lambda x, places: x[places])(padded, near)  # [batch, S, taps, L]
        estimate = jnp.einsum("bskl,kml->bms", pieces, filters, precision="highest")
        centred = jnp.take_along_axis(centred, when[:, None], 2)
    left = (centred - estimate) / skip["scale"]
    return jax.lax.stop_gradient(left), observed_source(geometry) < 0


@in_float64
def _scales(sums, geometry: Geometry, filters, whitening):
    lags = filters.shape[0] // 2
    _, covariance = mo.covariances(mo.part_of(sums, mo.TRAIN))
    index = geometry.observed_index
    values, vectors = jnp.linalg.eigh(covariance[0][index][:, index])
    variances = jnp.maximum(values, 0.0) + whitening * jnp.mean(values)
    white = vectors / jnp.sqrt(variances)[None]
    weights = filters.transpose(0, 2, 1).reshape(-1, filters.shape[1])
    power = jnp.diagonal(covariance[0])
    normal = mo.normal_equations(covariance, index, lags)
    errors = mo.error_covariance_diagonal(*normal, power, weights)
    missing = observed_source(geometry) < 0
    count = jnp.maximum(jnp.sum(missing, dtype=errors.dtype), 1.0)
    mean_error = jnp.sum(jnp.where(missing, errors, 0.0)) / count
    return {
        # A direction without any signal, as an average reference has one, is left out: at another
        # cap there may be some, which nothing was learned about.
        "whiten": jnp.where((values > NOTHING * jnp.mean(values))[None], white, 0.0)[:, ::-1],
        "scale": jnp.sqrt(jnp.maximum(mean_error, 1e-30)),
    } | spline_between(covariance[0], geometry)
