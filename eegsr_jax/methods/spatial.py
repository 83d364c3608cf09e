"""Fixed spatial maps: `nearest`, `inverse_distance`, `spherical_spline`, `minimum_norm`.

They need positions and no data. Given training data, a stage sets their error bars from the
residual on it; `spherical_spline(tune=True)` also chooses its order and penalty there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import moments as mo
from eegsr_jax.methods.base import Method, MomentStage, linear_apply, linear_plan, observed_source
from eegsr_jax.methods.kernels import lead_field_kernel, spline_kernel
from eegsr_jax.numerics import argmin, in_float64

Matrix = Callable[[dict[str, jax.Array], Geometry], jax.Array]  # -> [M, L]

TUNING_ORDERS = (2.0, 3.0, 4.0)
TUNING_PENALTIES = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


def nearest() -> Method:
    """Each missing channel copies the observed electrode nearest to it."""

    def matrix(params, geometry):
        del params
        closest = argmin(_distances(geometry), 1)
        return jax.nn.one_hot(closest, geometry.observed.shape[0], dtype=geometry.target.dtype)

    return _spatial("nearest", matrix)


def inverse_distance(power: float = 3.0) -> Method:
    """Average of all observed electrodes, weighted by distance to the minus `power`."""

    def matrix(params, geometry):
        del params
        weights = _distances(geometry) ** -power
        return weights / weights.sum(1, keepdims=True)

    return _spatial("inverse_distance", matrix)


def spherical_spline(
    order: float = 4.0, penalty: float = 1e-5, terms: int = 50, tune: bool = False
) -> Method:
    """Spherical splines (Perrin et al. 1989); the defaults are those of MNE-Python.

    Args:
      order: m, the exponent in g; 4 is smooth, 2 is stiff enough for sparse layouts.
      penalty: lambda, added to the diagonal of g between observed electrodes.
      terms: Legendre terms.
      tune: choose `order` and `penalty` on the training data.
    """

    def matrix(params, geometry):
        between = geometry.observed, geometry.target, geometry.centre
        return spline_matrix(*between, params["order"], params["penalty"], terms)

    grid = [{"order": m, "penalty": p} for m in TUNING_ORDERS for p in TUNING_PENALTIES]
    start = {"order": order, "penalty": penalty}
    return _spatial("spherical_spline", matrix, start, grid if tune else [])


def spline_matrix(
    observed: jax.Array,
    target: jax.Array,
    centre: jax.Array,
    order: Any = 4.0,
    penalty: Any = 1e-5,
    terms: int = 50,
) -> jax.Array:
    """`[M, L]` from electrodes `[L, 3]` to `[M, 3]`; `penalty` may be `[L]`, one each."""

    def g(a, b):
        return spline_kernel(a, b, centre, order=order, terms=terms)

    inputs = observed.shape[0]
    load = jnp.broadcast_to(jnp.asarray(penalty, observed.dtype), (inputs,))
    system = g(observed, observed) + jnp.diag(load)
    ones = jnp.ones((inputs, 1), system.dtype)
    system = jnp.block([[system, ones], [ones.T, jnp.zeros((1, 1), system.dtype)]])
    across = g(target, observed)
    across = jnp.concatenate([across, jnp.ones((across.shape[0], 1), across.dtype)], 1)
    return jnp.linalg.solve(system, across.T).T[:, :-1]  # the system is symmetric


def minimum_norm(penalty: float = 0.1) -> Method:
    """Minimum-norm field interpolation, MNE-Python's `interpolate_bads(method="MNE")`.

    The conditional mean of random dipoles on a small sphere inside the head; `penalty` is the noise
    as a share of the mean eigenvalue of their covariance.
    """

    def matrix(params, geometry):
        del params
        covariance = lead_field_kernel(geometry.observed, geometry.observed, geometry.centre)
        inputs = covariance.shape[0]
        covariance = covariance + penalty * jnp.trace(covariance) / inputs * jnp.eye(inputs)
        across = lead_field_kernel(geometry.target, geometry.observed, geometry.centre)
        return jax.scipy.linalg.solve(covariance, across.T, assume_a="pos").T

    return _spatial("minimum_norm", matrix)


def _distances(geometry: Geometry) -> jax.Array:
    offset = geometry.target[:, None] - geometry.observed[None]
    # At least a micrometre, so that a target at an observed electrode has a finite weight.
    return jnp.sqrt(jnp.maximum(jnp.sum(offset**2, -1), 1e-12))


def _spatial(
    name: str,
    matrix: Matrix,
    start: dict[str, float] | None = None,
    grid: list[dict[str, float]] | None = None,
) -> Method:
    start = start or {}

    def init(key, geometry: Geometry, window) -> dict[str, Any]:
        del key, window
        std = jnp.full((geometry.target.shape[0],), jnp.inf)
        return {k: jnp.asarray(v, jnp.float32) for k, v in start.items()} | {"std": std}

    @in_float64
    def solve(params, sums, geometry: Geometry):
        # Nothing is fitted but at most two numbers: all training windows serve as one.
        mean, covariance = mo.covariances(mo.pooled(sums))
        stacked, cross = mo.normal_equations(covariance, geometry.observed_index, 0)
        missing = observed_source(geometry) < 0

        def errors_of(candidate):
            weights = matrix(candidate, geometry).T
            # The map is applied to the signal itself, so its error has the mean's share as well.
            offset = mean - mean[geometry.observed_index] @ weights
            power = jnp.diagonal(covariance[0])
            return mo.error_covariance_diagonal(stacked, cross, power, weights) + offset**2

        chosen = {k: params[k] for k in start}
        if grid:
            candidates = {k: jnp.asarray([c[k] for c in grid], jnp.float64) for k in start}
            errors = jax.lax.map(errors_of, candidates)
            totals = jnp.sum(jnp.where(missing[None], errors, 0.0), 1)
            best = argmin(jnp.where(jnp.isfinite(totals), totals, jnp.inf))
            chosen = {k: v[best] for k, v in candidates.items()}
        return params | chosen | {"std": jnp.sqrt(jnp.maximum(errors_of(chosen), 0.0))}

    @in_float64
    def plan(params, geometry: Geometry):
        return linear_plan(geometry, matrix(params, geometry)[None], params["std"])

    stage = MomentStage(mo.moment_start(0), mo.moment_update, solve)
    return Method(name, init, (stage,), plan, linear_apply)
