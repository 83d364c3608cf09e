"""`gaussian`: the conditional mean and variance of the missing channels, under stacked priors.

The scalp field is a zero-mean Gaussian with a covariance over electrodes and time lags. It starts
as a smooth kernel of the angle between electrodes; training replaces it by the covariance of a
population; calibration moves it towards one subject. Each step is the same update,

    covariance <- (n S + n0 covariance) / (n + n0),

with S the covariance of n new samples and n0 = `prior_samples` (the mean of an inverse-Wishart
posterior). S is taken per window after division by the window's power, so that neither a loud
subject nor a blink outweighs the rest, and the result has no unit. Between the electrodes of the
data the covariance is carried by the kernel, so that any montage can be observed and any
reconstructed. The unit of the error bars comes back at `apply`: a window is taken to be the prior
times a scale, which its observed channels tell (x' K^-1 x / L; a blink, being expected, hardly
counts).
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.errors import ConfigError
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import moments as mo
from eegsr_jax.methods.base import (
    Method,
    MomentStage,
    Reconstruction,
    fir,
    linear_apply,
    linear_plan,
    observed_source,
)
from eegsr_jax.methods.kernels import lead_field_kernel, spline_kernel
from eegsr_jax.numerics import in_float64

POPULATION_DATASET = "eegbci"
POPULATION_PENALTY = 1e-2
_KERNELS = {
    "spline": functools.partial(spline_kernel, order=2),
    "lead_field": lead_field_kernel,
}
_ARRAYS = ("positions", "centre", "covariance", "inflation")
_COMMON = 10.0  # variance of the reference against that of the field, in the kernel prior
_NUGGET = 1e-6  # of the kernel's variance, where it carries the covariance between electrodes


def gaussian(
    lags: int = 3,
    penalty: float = 1e-3,
    prior_samples: float = 640.0,
    any_reference: bool = False,
    kernel: str = "spline",
) -> Method:
    """Gaussian conditional mean at -lags … +lags samples.

    Args:
      lags: k; needs the training data's sampling rate at reconstruction. 0 is free of it.
      penalty: sensor noise, relative to the mean variance of the observed channels.
      prior_samples: n0, how many samples of new data weigh as much as the prior.
      any_reference: treat the part common to all channels as unknown, for recordings whose
        reference is not that of the training data.
      kernel: what stands before any data, "spline" (order 2) or "lead_field" (random dipoles).
    """
    if kernel not in _KERNELS:
        raise ConfigError(f"gaussian: kernel {kernel!r}; expected one of {', '.join(_KERNELS)}")

    def init(key, geometry: Geometry, window) -> dict[str, Any]:
        del key, window
        prior = _kernel_prior(geometry.target, geometry.centre, kernel)
        return {
            "positions": geometry.target,
            "centre": geometry.centre,
            "covariance": jnp.zeros((2 * lags + 1, *prior.shape)).at[0].set(prior),
            "inflation": jnp.ones(()),
            "timeless": jnp.ones(()),  # 1: nothing has been seen yet of how the field goes on
        }

    def update(params, sums, batch, geometry: Geometry):
        del params, geometry
        return mo.add(sums, _unit_power(batch["eeg"]), batch["part"])

    def solve(params, sums, geometry: Geometry):
        return _posterior(params, sums, geometry, lags, penalty, prior_samples, any_reference)

    def plan(params, geometry: Geometry):
        return _plan(params, geometry, lags, penalty, any_reference)

    stage = MomentStage(mo.moment_start(2 * lags), update, solve)
    return Method("gaussian", init, (stage,), plan, _apply, None, lags)


def population() -> Method:
    """`gaussian` with the prior that ships with the package: needs no data, works on any montage.

    The prior is half the kernel and half the covariance of 13 subjects of EEGMMIDB at 64
    electrodes (see `methods/priors/README.md`); the reference counts as unknown. It must not be
    scored on EEGMMIDB itself, whose subjects it has seen (`POPULATION_DATASET`).
    """

    def init(key, geometry: Geometry, window) -> dict[str, Any]:
        del key, geometry, window
        with (resources.files("eegsr_jax.methods") / "priors/eegmmidb13.npz").open("rb") as file:
            with np.load(file, allow_pickle=False) as arrays:
                return {name: jnp.asarray(arrays[name], jnp.float32) for name in _ARRAYS}

    def plan(params, geometry: Geometry):
        return _plan(params, geometry, 0, POPULATION_PENALTY, True)

    return Method("population", init, (), plan, _apply)


def _unit_power(eeg: jax.Array) -> jax.Array:
    centred = eeg - eeg.mean(-1, keepdims=True)
    power = jnp.mean(centred**2, axis=(1, 2), keepdims=True)
    return centred / jnp.sqrt(jnp.where(power > 0, power, 1.0))


@in_float64
def _kernel_prior(positions, centre, kernel):
    field = _KERNELS[kernel](positions, positions, centre)
    covariance = field / jnp.mean(jnp.diagonal(field)) + _COMMON
    return covariance / jnp.mean(jnp.diagonal(covariance))


@in_float64
def _posterior(params, sums, geometry, lags, penalty, prior_samples, any_reference):
    channels = geometry.target.shape[0]
    zero = jnp.zeros((channels,))
    prior = _prior_here(params, geometry)

    def updated(moments):
        _, new = mo.covariances(moments, zero)
        # A prior that knows no time goes on as the data do: space and time apart.
        power = jnp.trace(new, axis1=1, axis2=2)
        fade = power / jnp.where(power[0] > 0, power[0], 1.0)
        apart = fade[:, None, None] * prior[:1]
        before = jnp.where((params["timeless"] > 0) & (power[0] > 0), apart, prior)
        n = moments["count"]
        return (n * new + prior_samples * before) / (n + prior_samples)

    trained = updated(mo.part_of(sums, mo.TRAIN))
    _, held_out = mo.covariances(mo.part_of(sums, mo.VALIDATE), zero)
    # How much larger the errors on validation windows are than the trained model believes.
    index = jnp.maximum(geometry.observed_index, 0)
    weights, variance = _condition(trained, index, lags, penalty, any_reference)
    missing = observed_source(geometry) < 0
    actual = mo.error_covariance_diagonal(
        *mo.normal_equations(held_out, index, lags), jnp.diagonal(held_out[0]), weights
    )
    whitener = _whitener(trained[0], index, penalty, any_reference)
    observed = held_out[0][index][:, index]
    believed = jnp.mean(jnp.diagonal(whitener @ observed @ whitener.T)) * variance
    # The mean over channels, so that all of them count and not only the loud ones.
    relative = jnp.where(missing, actual / jnp.where(missing, believed, 1.0), 0.0)
    ratio = jnp.sum(relative) / jnp.maximum(jnp.sum(missing, dtype=relative.dtype), 1.0)
    enough = (sums["count"][mo.VALIDATE] > 0) & jnp.any(missing)
    return params | {
        "positions": geometry.target,
        "centre": geometry.centre,
        "covariance": updated(mo.pooled(sums)),
        "timeless": jnp.zeros(()),
        "inflation": jnp.where(enough, jnp.sqrt(ratio), params["inflation"]),
    }


def _prior_here(params, geometry):
    """The prior at the electrodes of the data."""
    moved = transport(
        params["covariance"],
        params["positions"],
        geometry.target,
        params["centre"],
        geometry.centre,
    )
    if params["positions"].shape != geometry.target.shape:
        return moved
    old = params["positions"] - params["centre"][None]
    apart = old - (geometry.target - geometry.centre[None])
    return jnp.where(jnp.max(jnp.abs(apart)) < 1e-5, params["covariance"], moved)


def _field(covariance, any_reference):
    """The covariance, with the part common to all channels made unknown when asked."""
    common = 1e3 * jnp.mean(jnp.diagonal(covariance[0])) if any_reference else 0.0
    return covariance.at[0].add(common)


def _load(covariance, index, penalty):
    return penalty * jnp.mean(jnp.diagonal(covariance[0])[index])


def _condition(covariance, index, lags, penalty, any_reference):
    """Weights `[K L, C]` and posterior variance `[C]` of every channel given the lagged `index`."""
    field = _field(covariance, any_reference)
    stacked, cross = mo.normal_equations(field, index, lags)
    stacked = stacked + _load(covariance, index, penalty) * jnp.eye(stacked.shape[0])
    weights = jax.scipy.linalg.solve(stacked, cross, assume_a="pos")
    variance = jnp.diagonal(field[0]) - jnp.sum(weights * cross, 0)
    return weights, jnp.maximum(variance, 0.0)


def _whitener(covariance, index, penalty, any_reference):
    """`[L, L]`: makes the observed channels independent, of unit variance under the model."""
    known = _field(covariance[None], any_reference)[0][index][:, index]
    known = known + _load(covariance[None], index, penalty) * jnp.eye(known.shape[0])
    factor = jnp.linalg.cholesky(known)
    return jax.scipy.linalg.solve_triangular(factor, jnp.eye(known.shape[0]), lower=True)


@in_float64
def _plan(params, geometry, lags, penalty, any_reference):
    inputs = geometry.observed.shape[0]
    everywhere = jnp.concatenate([geometry.observed, geometry.target])
    covariance = transport(
        params["covariance"], params["positions"], everywhere, params["centre"], geometry.centre
    )
    index = jnp.arange(inputs)
    weights, variance = _condition(covariance, index, lags, penalty, any_reference)
    filters = weights.reshape(2 * lags + 1, inputs, -1).transpose(0, 2, 1)[:, inputs:]
    std = params["inflation"] * jnp.sqrt(variance[inputs:])
    whitener = _whitener(covariance[0], index, penalty, any_reference)
    return linear_plan(geometry, filters, std) | {"whitener": whitener}


def transport(
    covariance: jax.Array,
    positions: jax.Array,
    wanted: jax.Array,
    centre: jax.Array,
    wanted_centre: jax.Array,
) -> jax.Array:
    """The covariance `[lags, C, C]` of electrodes at `positions`, carried to `wanted` `[N, 3]`.

    Between the electrodes the field is the kernel's conditional mean of the field at them, plus the
    kernel's conditional covariance, scaled to the data. At an electrode of the data this is the
    data's own covariance.
    """
    # Each cap is seen from its own centre: what is matched is directions.
    positions, wanted = positions - centre[None], wanted - wanted_centre[None]
    origin = jnp.zeros_like(centre)

    def kernel(a, b):
        return spline_kernel(a, b, origin, order=2)

    def unexplained(a, b):  # kernel, with a constant of unknown size taken out
        return kernel(a, b) + _COMMON * scale

    scale = jnp.mean(jnp.diagonal(kernel(positions, positions)))
    known = unexplained(positions, positions)
    known = known + _NUGGET * scale * jnp.eye(known.shape[0])
    across = unexplained(wanted, positions)
    spread = jax.scipy.linalg.solve(known, across.T, assume_a="pos").T
    rest = unexplained(wanted, wanted) - spread @ across.T
    carried = jnp.einsum("ac,kcd,bd->kab", spread, covariance, spread, precision="highest")
    # The scale of the kernel in the data's unit: average of x' K^-1 x per channel.
    size = jnp.trace(jax.scipy.linalg.solve(known, covariance[0], assume_a="pos"))
    size = size / known.shape[0]
    fade = jnp.trace(covariance, axis1=1, axis2=2) / jnp.trace(covariance[0])
    return carried + (size * fade)[:, None, None] * rest[None]


def _apply(
    plan: dict[str, Any], observed: jax.Array, key: jax.Array | None = None
) -> Reconstruction:
    mean, std = linear_apply(plan, observed, key)
    whitener = plan["whitener"].astype(observed.dtype)
    white = fir(whitener[None], observed)
    scale = jnp.sqrt(jnp.mean(white**2, axis=(1, 2), keepdims=True))
    return Reconstruction(mean, std * scale)
