"""`emag`: a field of Gaussians in the head adds to the lagged ridge what a linear map cannot see.

EMAG (arXiv 2605.29731) renders a grid of space-time Gaussians at the electrodes, their amplitudes
set by a network of the given channels. Ours keeps the field, continuous in space, and mends what
its released code leaves open (`emag_paper` is that code's behaviour):

- The field is stationary. Windows of continuous EEG begin anywhere, so that Gaussians at fixed
  times of a window carry nothing; what changes in time comes through the encoder.
- The encoder sees a stretch of time, not one sample.
- A lagged ridge, in closed form, comes first; the field, zero at the start, learns what it leaves.
- The grid is centred on the cap and scaled to it; signals are scaled by the observed channels.
- Validation windows, apart from the test, shrink the field, set error bars and may stop training.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eegsr_jax.errors import ConfigError
from eegsr_jax.gaussians.mixture import Mixture
from eegsr_jax.gaussians.precision import COVARIANCE
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import moments as mo
from eegsr_jax.methods import stationary_field as sf
from eegsr_jax.methods.base import (
    GradientStage,
    Method,
    MomentStage,
    Reconstruction,
    linear_apply,
    linear_plan,
    observed_source,
)
from eegsr_jax.methods.carry import Carried, carried, input_map
from eegsr_jax.methods.skip import initial_skip, left_by_skip, skip_stage
from eegsr_jax.nn.temporal import GatedMLP
from eegsr_jax.typing import PyTree

_WIDTHS = {2, 4, 8, 16, 32, 64, 128}
STRIDE = 4  # samples between those that a training step looks at


def emag(
    lags: int = 6,
    resolution: int = 12,
    groups: int = 3,
    covariance: str = "full_4d",
    components: int = 16,
    widths: tuple[int, ...] = (4, 8, 16, 32),
    features: int = 64,
    blocks: int = 1,
    dropout: tuple[float, ...] = (0.1, 0.5, 0.2),
    epochs: int = 24,
    batch_size: int = 24,
    learning_rate: float = 6e-3,
    weight_decay: float = 1.0,
    average: float = 0.98,
    patience: int = 0,
    random_layouts: float = 0.0,
) -> Method:
    """EMAG's field of Gaussians on top of a lagged ridge.

    Args:
      lags: of the ridge, samples on either side.
      resolution: points of the grid across the head.
      groups: Gaussians at each point, 1 to 3, of different sizes at the start.
      covariance: "full_4d" or "diagonal_4d", of space: Gaussians along any axes, or along x, y, z.
      components: of the observed channels, the largest, whose past and future the encoder sees.
      widths: of the bands of time beyond `lags`, samples, rising; see `nn.temporal.band_sums`.
      features: that the field reads out.
      blocks: of the encoder.
      dropout: shares of its inputs, hidden units and features.
      epochs: passes over the training windows, at most.
      batch_size: windows a step.
      learning_rate: at its highest, after 5 % of the steps; then a half cosine to 1 % of it.
      weight_decay: of AdamW, for encoder and read-out.
      average: decay of the running average of the weights.
      patience: epochs without a better validation score after which training ends, and the best
        is kept; 0 trains to the end, and keeps that.
      random_layouts: share of the training windows whose inputs are as many electrodes drawn at
        random, brought to the places of the observed ones as in use: for inputs elsewhere.

    Raises:
      ConfigError: an option that cannot be.
    """
    _refuse(
        groups=(groups, 1 <= groups <= len(sf.SIZES), f"1 to {len(sf.SIZES)}"),
        covariance=(covariance, covariance in COVARIANCE, f"one of {', '.join(COVARIANCE)}"),
        components=(components, components > 0, "1 or more"),
        widths=(widths, set(widths) <= _WIDTHS, f"some of {', '.join(map(str, sorted(_WIDTHS)))}"),
        features=(features, features > 0, "1 or more"),
        dropout=(dropout, len(dropout) == 3 and max(dropout) < 1, "three shares below 1"),
        batch_size=(batch_size, batch_size > 0, "1 or more"),
        average=(average, average < 1, "below 1"),
        random_layouts=(random_layouts, random_layouts <= 1, "a share, 0 to 1"),
    )
    network = GatedMLP(features, blocks, (dropout[0], dropout[1], dropout[2]))
    near = lags + lags % 2
    shape = sf.Shape(near, tuple(widths), components, network, resolution, groups, covariance)

    def optimizer(steps: int) -> optax.GradientTransformation:
        rate = optax.warmup_cosine_decay_schedule(
            0.0, learning_rate, max(steps // 20, 1), max(steps, 2), 0.01 * learning_rate
        )
        adam = optax.adamw(rate, b2=0.99, weight_decay=weight_decay, mask=_decayed)
        return optax.chain(optax.clip_by_global_norm(1.0), adam)

    def loss(params, batch, geometry):
        # Neighbours in time say nearly the same: a step looks at every fourth sample.
        eeg, count = batch["eeg"], batch["eeg"].shape[2] // STRIDE
        when = _phases(batch["key"])[:, None] + STRIDE * jnp.arange(count)[None]
        given, missing = eeg[:, geometry.observed_index], _missing(geometry)[None]
        if random_layouts:
            keys = batch["key"]
            given, missing = _elsewhere(params["skip"], eeg, geometry, keys, random_layouts)
        left, _ = left_by_skip(params["skip"], eeg, geometry, when, given)
        inputs = sf.inputs(shape, params, given)
        inputs = [jnp.take_along_axis(x, when[:, :, None], 1) for x in inputs]
        found = sf.field(shape, params, inputs, geometry.target, batch["key"])
        each = count * jnp.maximum(jnp.sum(missing, 1, dtype=jnp.float32), 1.0)
        error = jnp.where(missing[:, :, None], left - found, 0.0)
        power = jnp.sum(jnp.where(missing[:, :, None], left, 0.0) ** 2, (1, 2)) / each
        # Squares for small errors, absolute values for large ones, and loud windows weigh less:
        # artefacts do not rule.
        size = jnp.sum(2 * jnp.sqrt(1 + error**2) - 2, (1, 2)) / each
        return jnp.mean(size / jnp.sqrt(power + 0.05)), {}

    def score(params, batch, geometry):
        eeg = batch["eeg"]
        left, found, missing = _both(shape, params, eeg, geometry)
        counted = (batch["part"] >= 0)[:, None, None] & missing[None, :, None]
        wrong = jnp.where(counted, left - found, 0.0) * params["skip"]["scale"]
        return jnp.stack([jnp.sum(wrong**2), jnp.sum(jnp.where(counted, eeg, 0.0) ** 2)])

    stages = (
        skip_stage(lags),
        sf.standard_stage(shape),
        GradientStage(
            name="field",
            loss=loss,
            score=score,
            trainable=("encoder", "gaussians", "readout"),
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            overlap=2,
            patience=patience,
            # Without patience the last epoch is kept: the gain takes back what was learned too
            # well, and better than an earlier epoch would.
            min_delta=0.0 if patience else -math.inf,
            average=average,
            points=(("centres", 0), ("gaussians", 1), ("readout", 0)),
        ),
        _calibration(shape),
    )

    def init(key, geometry: Geometry, window) -> dict[str, Any]:
        del window
        key = jax.random.key(0) if key is None else key
        std = jnp.full((geometry.target.shape[0],), jnp.inf)
        skip = initial_skip(lags, geometry)
        own = {"skip": skip, "gain": jnp.ones(()), "std": std}
        return own | sf.initial_field(shape, key, geometry, skip)

    def plan(params, geometry: Geometry) -> dict[str, Any]:
        return _plan(shape, params, geometry, carried(params["skip"], params["std"], geometry))

    def apply(plan, observed, key=None) -> Reconstruction:
        observed = jnp.asarray(observed)
        mean, std = linear_apply(plan, observed, key)
        features = sf.features(shape, plan, sf.inputs(shape, plan, observed))
        added = jnp.einsum("btk,km->bmt", features, plan["table"], precision="highest")
        missing = (plan["source"] < 0)[None, :, None]
        return Reconstruction(jnp.where(missing, mean + added, mean), std)

    def mixture(params, geometry: Geometry, observed) -> Mixture:
        own = carried(params["skip"], params["std"], geometry)
        plan = _plan(shape, params, geometry, own)
        skip = linear_apply(plan, observed).mean
        given = sf.inputs(shape, plan, observed)
        return sf.mixture(shape, params, given, own, params["gain"] * params["skip"]["scale"], skip)

    context = max(lags, shape.context)
    return Method("emag", init, stages, plan, apply, None, context, mixture=mixture)


def _plan(shape: sf.Shape, params: PyTree, geometry: Geometry, own: Carried) -> dict[str, Any]:
    linear = linear_plan(geometry, own.filters, own.std, own.mean)
    return linear | {
        "input_mean": own.input_mean,
        "skip": {"whiten": own.inputs.T @ params["skip"]["whiten"]},
        "standard": params["standard"],
        "encoder": params["encoder"],
        "table": params["gain"] * params["skip"]["scale"] * sf.table(shape, params, own.target),
    }


def _refuse(**options: tuple[Any, bool, str]) -> None:
    for name, (value, good, expected) in options.items():
        if not good:
            raise ConfigError(f"emag: {name}={value!r}; expected {expected}")


def _both(shape, params, eeg, geometry):
    """What the ridge leaves, what the field gives, `[batch, M, time]` each, and `[M]` missing."""
    left, missing = left_by_skip(params["skip"], eeg, geometry)
    inputs = sf.inputs(shape, params, eeg[:, geometry.observed_index])
    return left, sf.field(shape, params, inputs, geometry.target), missing


def _decayed(params: PyTree) -> PyTree:
    """Weights decay; the shapes of Gaussians do not."""
    decays = {name: name != "gaussians" for name in params}
    return {name: jax.tree.map(lambda _, d=d: d, params[name]) for name, d in decays.items()}


def _phases(keys: jax.Array) -> jax.Array:
    """`[batch]` where each window begins to be looked at."""
    draw = jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, 999), (), 0, STRIDE))
    return draw(keys)


def _missing(geometry: Geometry) -> jax.Array:
    return observed_source(geometry) < 0


def _elsewhere(
    skip: PyTree, eeg: jax.Array, geometry: Geometry, keys: jax.Array, share: float
) -> tuple[jax.Array, jax.Array]:
    """Inputs `[batch, L, time]`, of a share of the windows others; and `[batch, M]` missing."""
    index, targets = geometry.observed_index, eeg.shape[1]

    def one(eeg, key):
        key, choice = jax.random.split(jax.random.fold_in(key, 998))
        other = jax.random.choice(choice, targets, index.shape, replace=False)
        drawn = jnp.where(jax.random.bernoulli(key, share), other.astype(index.dtype), index)
        centred = eeg - skip["mean"][:, None]
        carry = input_map(skip, geometry.target[drawn])
        given = jnp.matmul(carry, centred[drawn], precision="highest")
        missing = jnp.ones((targets,), bool).at[drawn].set(False)
        return given + skip["mean"][index][:, None], missing

    return jax.vmap(one)(eeg, keys)


def _calibration(shape: sf.Shape) -> MomentStage:
    """How much of the field to add, and the error bars, from the validation windows."""

    def start(params, geometry):
        count = geometry.target.shape[0]
        return {"count": jnp.zeros(()), "sums": jnp.zeros((3, count))}

    def update(params, sums, batch, geometry):
        left, found, missing = _both(shape, params, batch["eeg"], geometry)
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
        # Without validation windows nothing speaks for the field: what is left is the ridge.
        known = sums["count"] > 0
        wrong = (power - 2 * gain * both + gain**2 * own) / jnp.maximum(sums["count"], 1.0)
        std = params["skip"]["scale"] * jnp.sqrt(jnp.maximum(wrong, 0.0))
        return params | {"gain": gain, "std": jnp.where(known, std, jnp.inf)}

    return MomentStage(start, update, solve)
