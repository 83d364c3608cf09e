"""Maps of a trained cap at other electrodes: heads aligned, splines where nothing was trained."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.kernels import spline_kernel
from eegsr_jax.methods.spatial import TUNING_PENALTIES, spline_matrix
from eegsr_jax.numerics import argmin, in_float64
from eegsr_jax.typing import PyTree

ORDERS = (1.5, 2.0, 3.0, 4.0)  # of the spline; between neighbours 4 is often too smooth
_SAME = 1e-3  # metres; nearer than this, two electrodes are one
_TERMS = 50


class Carried(NamedTuple):
    """A trained map at a geometry, for `linear_plan` and a field.

    Attributes:
      filters: `[taps, M, L']`, from the channels that are given.
      inputs: `[L, L']`: those channels to the ones that were trained on.
      outputs: `[M', M]`: the targets that were trained on to those of the geometry.
      mean: `[M]`.
      input_mean: `[L']`.
      std: `[M]`.
      target: `[M, 3]` metres, in the frame of the trained cap.
      origin: `[3]` where that cap's centre is in the frame of the geometry.
      growth: how much larger that head is.
    """

    filters: jax.Array
    inputs: jax.Array
    outputs: jax.Array
    mean: jax.Array
    input_mean: jax.Array
    std: jax.Array
    target: jax.Array
    origin: jax.Array
    growth: jax.Array


def carried(skip: PyTree, std: jax.Array, geometry: Geometry) -> Carried:
    """The maps of `params["skip"]` at the electrodes of any geometry.

    A target nearer than a millimetre to a trained electrode has its map; elsewhere it is a spline
    of all trained ones, and its error bar has the spline's own error too. Given channels that are
    not where the trained inputs were (or not as many) are brought there by a spline as well. A
    geometry none of whose given electrodes is a trained one is taken to be of another head: it is
    moved and scaled until centre and mean radius are those of the trained cap.
    """
    return Carried(*_carried(skip, std, geometry))


@in_float64
def _carried(skip: PyTree, std: jax.Array, geometry: Geometry):
    given, target, origin, growth = _aligned(skip, geometry)
    spline = {"order": skip["order"], "penalty": skip["smoothing"]}
    out = _onto(target, skip["positions"], skip["centre"], spline)
    into = _onto(skip["inputs"], given, skip["centre"], spline)
    filters = jnp.einsum("nm,kml,li->kni", out, skip["filters"], into, precision="highest")
    known = jnp.any(_same(target, skip["positions"]), 1)
    unknown = jnp.any(jnp.isinf(std))
    variance = (out**2) @ jnp.where(jnp.isinf(std), 0.0, std) ** 2
    variance = variance + jnp.where(known, 0.0, skip["between"] ** 2)
    # An observed channel has none: no gradient then, instead of the root's infinite one.
    positive = variance > 0
    bars = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)
    # The mean of a channel is an offset of its amplifier: nothing that a spline could carry.
    own = _same(given, skip["positions"]).astype(out.dtype)
    bars = jnp.where(unknown, jnp.inf, bars)
    means = out @ skip["mean"], own @ skip["mean"]
    return filters, into, out, *means, bars, target, origin, growth


@in_float64
def input_map(skip: PyTree, given: jax.Array) -> jax.Array:
    """`[L, L']` from electrodes at `[L', 3]`, in the trained cap's frame, to its L inputs."""
    spline = {"order": skip["order"], "penalty": skip["smoothing"]}
    return _onto(skip["inputs"], given, skip["centre"], spline)


def spline_between(covariance: jax.Array, geometry: Geometry) -> dict[str, Any]:
    """The spline that best predicts each electrode from all others, and what it leaves.

    Args:
      covariance: `[M, M]` of the training data.
      geometry: of the M targets.

    Returns:
      `order`, `smoothing` (its penalty) and `between`, the root mean square error, in volts.
    """
    count = covariance.shape[0]
    ones = jnp.ones((count, 1), covariance.dtype)

    def error(order, penalty):
        cap = geometry.target
        system = spline_kernel(cap, cap, geometry.centre, order=order, terms=_TERMS)
        system = system + (penalty + 1e-9) * jnp.eye(count)
        system = jnp.block([[system, ones], [ones.T, jnp.zeros((1, 1), system.dtype)]])
        # Left out, an electrode is missed by what row i of the inverse says, over its diagonal.
        inverse = jnp.linalg.inv(system)[:count, :count]
        rows = inverse / jnp.diagonal(inverse)[:, None]
        return jnp.mean(jnp.sum(jnp.matmul(rows, covariance) * rows, 1))

    grid = [(order, penalty) for order in ORDERS for penalty in TUNING_PENALTIES]
    orders, penalties = (jnp.asarray(x, covariance.dtype) for x in zip(*grid, strict=True))
    errors = jax.lax.map(lambda pair: error(*pair), (orders, penalties))
    best = argmin(jnp.where(errors >= 0, errors, jnp.inf))
    return {
        "order": orders[best],
        "smoothing": penalties[best],
        "between": jnp.sqrt(errors[best]),
    }


def _aligned(skip: PyTree, geometry: Geometry):
    """Given and wanted electrodes in the trained cap's frame; its origin and growth in theirs."""
    cap, centre = skip["positions"], skip["centre"]
    here = jnp.any(_same(geometry.observed, cap))
    origin = jnp.where(here, centre, geometry.centre)
    growth = _radius(geometry.target, origin) / _radius(cap, centre)
    growth = jnp.where(here, 1.0, growth)

    def moved(places):
        return jnp.where(here, places, (places - origin[None]) / growth + centre[None])

    return moved(geometry.observed), moved(geometry.target), origin, growth


def _radius(places: jax.Array, centre: jax.Array) -> jax.Array:
    return jnp.mean(jnp.linalg.norm(places - centre[None], axis=-1))


def _onto(wanted: jax.Array, given: jax.Array, centre: jax.Array, spline: dict) -> jax.Array:
    """`[wanted, given]`: itself where an electrode is given, else a spline of all that are."""
    same = _same(wanted, given)
    weights = spline_matrix(given, wanted, centre, **spline, terms=_TERMS)
    return jnp.where(jnp.any(same, 1)[:, None], same.astype(weights.dtype), weights)


def _same(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum((a[:, None] - b[None]) ** 2, -1) < _SAME**2
