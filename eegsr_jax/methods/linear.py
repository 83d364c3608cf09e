"""Linear maps learned in closed form: `ridge`, `lagged_ridge`, `reduced_rank`.

Each solves (A + p tr(A)/n I) W = B, where A is the covariance of the observed channels at the lags
-k … +k and B their covariance with every channel (Tikhonov's ridge; with lags, the multichannel
FIR Wiener filter). The penalty p is chosen on the validation windows, then W is refitted on all
training windows. The error bar is the residual of the training fit on the validation windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import moments as mo
from eegsr_jax.methods.base import Method, MomentStage, linear_apply, linear_plan
from eegsr_jax.numerics import argmin, in_float64

PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-8, 0))
RANKS = (2, 4, 6, 8, 12)
_USUAL = 1e-3  # the penalty where there are no validation windows to choose it


def ridge(penalties: tuple[float, ...] = PENALTIES) -> Method:
    """Instantaneous ridge regression from the observed channels to all others."""
    return _fitted("ridge", 0, penalties, None)


def lagged_ridge(lags: int = 6, penalties: tuple[float, ...] = PENALTIES) -> Method:
    """Ridge regression from the observed channels at -lags … +lags samples."""
    return _fitted("lagged_ridge", lags, penalties, None)


def reduced_rank(
    ranks: tuple[int, ...] = RANKS, penalties: tuple[float, ...] = PENALTIES
) -> Method:
    """Ridge projected on the leading eigenvectors of its fitted values; rank by validation."""
    return _fitted("reduced_rank", 0, penalties, ranks)


def _fitted(
    name: str, lags: int, penalties: tuple[float, ...], ranks: tuple[int, ...] | None
) -> Method:
    def init(key, geometry: Geometry, window) -> dict[str, Any]:
        del key, window
        taps, targets, inputs = 2 * lags + 1, geometry.target.shape[0], geometry.observed.shape[0]
        return {
            "filters": jnp.zeros((taps, targets, inputs)),
            "mean": jnp.zeros((targets,)),
            "std": jnp.full((targets,), jnp.inf),
            "penalty": jnp.full((), jnp.nan),
            "rank": jnp.zeros((), jnp.int32),
        }

    def solve(params, sums, geometry: Geometry):
        del params
        return fit(sums, geometry.observed_index, lags, jnp.asarray(penalties), ranks)

    def plan(params, geometry: Geometry):
        return linear_plan(geometry, params["filters"], params["std"], params["mean"])

    stage = MomentStage(mo.moment_start(2 * lags), mo.moment_update, solve)
    return Method(name, init, (stage,), plan, linear_apply, None, lags)


def fit(
    moments: mo.Moments,
    index: jax.Array,
    lags: int,
    penalties: jax.Array,
    ranks: tuple[int, ...] | None = None,
    present: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Filters, mean and error bars from moments. `vmap` it over subjects and layouts.

    Args:
      moments: sums of training and validation windows (see `moments.add`), at least 2 lags.
      index: `[L]` observed channels.
      lags: k, inputs at -k … +k samples.
      penalties: `[P]` candidates, relative to the mean variance of the inputs.
      ranks: candidates for the rank of the map, or None for full rank.
      present: `[L]` bool; False entries of `index` are padding (to `vmap` over layouts of different
        sizes) and get no weight.

    Returns:
      `{"filters": [2k+1, C, L], "mean": [C], "std": [C], "penalty": [], "rank": []}`.
    """
    return _fit(moments, index, lags, penalties, ranks, present)


def fit_layouts(
    moments: mo.Moments,
    indices: Sequence[Sequence[int] | np.ndarray],
    lags: int,
    penalties: jax.Array,
) -> dict[str, jax.Array]:
    """`fit` for several layouts in one compiled call; padded to the largest, L.

    Args:
      moments: of one subject; or of S subjects, stacked along a new first axis.
      indices: the observed channels of each of the Y layouts.
      lags: k.
      penalties: `[P]`.

    Returns:
      As `fit`, with axes `[Y, …]`, or `[S, Y, …]`; weights of the padding are zero.
    """
    size = max(map(len, indices))
    index = np.zeros((len(indices), size), np.int32)
    present = np.zeros((len(indices), size), bool)
    for row, chosen in enumerate(indices):
        index[row, : len(chosen)] = chosen
        present[row, : len(chosen)] = True

    def one(moments, index, present):
        return fit(moments, index, lags, penalties, present=present)

    many = jax.vmap(one, (None, 0, 0))
    if moments["count"].ndim == 2:
        many = jax.vmap(many, (0, None, None))
    return many(moments, jnp.asarray(index), jnp.asarray(present))


@in_float64
def _fit(moments, index, lags, penalties, ranks, present):
    taps, inputs = 2 * lags + 1, index.shape[0]
    present = jnp.ones((inputs,), bool) if present is None else present
    mask = jnp.tile(present, taps)
    mean, train = mo.covariances(mo.part_of(moments, mo.TRAIN))
    _, validate = mo.covariances(mo.part_of(moments, mo.VALIDATE), mean)
    observed = jnp.zeros(mean.shape, bool).at[index].max(present)
    train_normal, validate_normal = (mo.normal_equations(c, index, lags) for c in (train, validate))
    power = jnp.diagonal(validate[0])

    def weights_of(normal, penalty):
        stacked, cross = (jnp.where(mask[:, None], m, 0.0) for m in normal)
        stacked = jnp.where(mask[None], stacked, 0.0)
        load = penalty * jnp.trace(stacked) / jnp.sum(mask, dtype=stacked.dtype)
        # A padded input gets a unit diagonal and no cross-covariance: its weight is exactly zero.
        stacked = stacked + jnp.diag(jnp.where(mask, load, 1.0))
        return jax.scipy.linalg.solve(stacked, cross, assume_a="pos")

    def errors_of(weights):
        return mo.error_covariance_diagonal(*validate_normal, power, weights)

    def missing_error(weights):
        return jnp.sum(jnp.where(observed, 0.0, errors_of(weights)))

    candidates = jax.lax.map(lambda p: weights_of(train_normal, p), penalties)
    known = moments["count"][mo.VALIDATE] > 0
    best = argmin(jax.vmap(missing_error)(candidates))
    # Without validation windows nothing can be chosen, and no error bar be set.
    best = jnp.where(known, best, argmin(jnp.abs(jnp.log(penalties) - jnp.log(_USUAL))))
    weights, penalty = candidates[best], penalties[best]
    mean, both = mo.covariances(mo.pooled(moments))
    both_normal = mo.normal_equations(both, index, lags)
    refitted, rank = weights_of(both_normal, penalty), jnp.asarray(inputs)
    if ranks is not None:
        basis = _fitted_basis(train_normal[0], weights, observed)
        usable = jnp.asarray(ranks)
        missing = jnp.where(observed[None], 0.0, weights)
        projected = [(missing @ basis[:, :r]) @ basis[:, :r].T for r in ranks]
        scores = jnp.stack([missing_error(w) for w in projected])
        scores = jnp.where(known, scores, -usable.astype(scores.dtype))
        scores = jnp.where(usable < jnp.sum(present, dtype=usable.dtype), scores, jnp.inf)
        chosen = argmin(scores)
        rank, weights = usable[chosen], jnp.stack(projected)[chosen]
        basis = _fitted_basis(both_normal[0], refitted, observed)
        basis = jnp.where(jnp.arange(basis.shape[1])[None] < rank, basis, 0.0)
        refitted = (jnp.where(observed[None], 0.0, refitted) @ basis) @ basis.T
    channels = mean.shape[0]
    return {
        "filters": refitted.reshape(taps, inputs, channels).transpose(0, 2, 1),
        "mean": mean,
        "std": jnp.where(known, jnp.sqrt(jnp.maximum(errors_of(weights), 0.0)), jnp.inf),
        "penalty": penalty,
        "rank": rank.astype(jnp.int32),
    }


def _fitted_basis(stacked, weights, observed):
    """Eigenvectors `[C, C]` of the covariance of the fitted missing channels, largest first."""
    missing = jnp.where(observed[None], 0.0, weights)
    return jnp.linalg.eigh(missing.T @ stacked @ missing)[1][:, ::-1]
