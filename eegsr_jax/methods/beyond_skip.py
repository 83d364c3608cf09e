"""Learning what a lagged ridge leaves: inputs, loss, score, and how much of it to add."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import band_encoder as be
from eegsr_jax.methods import moments as mo
from eegsr_jax.methods.base import GradientStage, MomentStage, observed_source
from eegsr_jax.methods.carry import input_map
from eegsr_jax.methods.skip import left_by_skip
from eegsr_jax.typing import PyTree

STRIDE = 4  # samples between those that a training step looks at


class Learner(NamedTuple):
    """What is added to the ridge: static.

    Attributes:
      encoder: of the observed channels.
      table: `(params, geometry) -> [K, M]`: features to targets, in units of the skip's `scale`.
      random_layouts: share of the training windows whose inputs are other electrodes.
    """

    encoder: be.Encoder
    table: Callable[[PyTree, Geometry], jax.Array]
    random_layouts: float


def beyond_stage(
    learner: Learner,
    *,
    name: str,
    trainable: tuple[str, ...],
    learning_rate: float,
    weight_decay: float,
    decays: Callable[[str], bool] = lambda name: True,
    **options: Any,
) -> GradientStage:
    """Trains what is added to the ridge, on what the map of the training part leaves.

    Args:
      learner: what is added.
      name: of the stage.
      trainable: as of `GradientStage`.
      learning_rate: at its highest, after 5 % of the steps; then a half cosine to 1 % of it.
      weight_decay: of AdamW.
      decays: which of `trainable` do.
      **options: others of `GradientStage`.
    """

    def optimizer(steps: int) -> optax.GradientTransformation:
        adam = optax.adamw(
            warm_cosine(learning_rate, steps), b2=0.99, weight_decay=weight_decay, mask=_decayed
        )
        return optax.chain(optax.clip_by_global_norm(1.0), adam)

    def _decayed(params: PyTree) -> PyTree:
        return {name: jax.tree.map(lambda _, n=name: decays(n), params[name]) for name in params}

    def loss(params, batch, geometry):
        # Neighbours in time say nearly the same: a step looks at every fourth sample.
        eeg, count = batch["eeg"], batch["eeg"].shape[2] // STRIDE
        when = _phases(batch["key"])[:, None] + STRIDE * jnp.arange(count)[None]
        given, missing = eeg[:, geometry.observed_index], _missing(geometry)[None]
        if learner.random_layouts:
            share = learner.random_layouts
            given, missing = inputs_elsewhere(params["skip"], eeg, geometry, batch["key"], share)
        left, _ = left_by_skip(params["skip"], eeg, geometry, when, given)
        seen = be.inputs(learner.encoder, params, given)
        seen = [jnp.take_along_axis(x, when[:, :, None], 1) for x in seen]
        found = _added(learner, params, seen, geometry, batch["key"])
        each = count * jnp.maximum(jnp.sum(missing, 1, dtype=jnp.float32), 1.0)
        error = jnp.where(missing[:, :, None], left - found, 0.0)
        power = jnp.sum(jnp.where(missing[:, :, None], left, 0.0) ** 2, (1, 2)) / each
        # Squares for small errors, absolute values for large ones, and loud windows weigh less:
        # artefacts do not rule.
        size = jnp.sum(2 * jnp.sqrt(1 + error**2) - 2, (1, 2)) / each
        return jnp.mean(size / jnp.sqrt(power + 0.05)), {}

    def score(params, batch, geometry):
        left, found, missing = both(learner, params, batch["eeg"], geometry)
        counted = (batch["part"] >= 0)[:, None, None] & missing[None, :, None]
        wrong = jnp.where(counted, left - found, 0.0) * params["skip"]["scale"]
        power = jnp.sum(jnp.where(counted, batch["eeg"], 0.0) ** 2)
        return jnp.stack([jnp.sum(wrong**2), power])

    # Without patience the last epoch is kept: the gain (`gain_stage`) takes back what was learned
    # too well, and better than an earlier epoch would.
    options["min_delta"] = 0.0 if options.get("patience") else -math.inf
    return GradientStage(name, loss, score, trainable, optimizer, overlap=2, **options)


def gain_stage(learner: Learner) -> MomentStage:
    """How much of it to add, and the error bars, from the validation windows."""

    def start(params, geometry):
        count = geometry.target.shape[0]
        return {"count": jnp.zeros(()), "sums": jnp.zeros((3, count))}

    def update(params, sums, batch, geometry):
        left, found, missing = both(learner, params, batch["eeg"], geometry)
        kept = (batch["part"] == mo.VALIDATE)[:, None, None] & missing[None, :, None]
        left, found = (jnp.where(kept, x, 0.0) for x in (left, found))
        new = [jnp.sum(x, (0, 2)) for x in (left * left, left * found, found * found)]
        windows = jnp.sum(batch["part"] == mo.VALIDATE, dtype=jnp.float32)
        return {
            "count": sums["count"] + windows * left.shape[2],
            "sums": sums["sums"] + jnp.stack(new),
        }

    def solve(params, sums, geometry):
        power, product, own = sums["sums"]
        gain = jnp.clip(jnp.sum(product) / jnp.maximum(jnp.sum(own), 1e-20), 0.0, 1.0)
        # Without validation windows nothing speaks for it: what is left is the ridge.
        known = sums["count"] > 0
        wrong = (power - 2 * gain * product + gain**2 * own) / jnp.maximum(sums["count"], 1.0)
        std = params["skip"]["scale"] * jnp.sqrt(jnp.maximum(wrong, 0.0))
        return params | {"gain": gain, "std": jnp.where(known, std, jnp.inf)}

    return MomentStage(start, update, solve)


def both(
    learner: Learner,
    params: PyTree,
    eeg: jax.Array,
    geometry: Geometry,
    given: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What the ridge leaves, and what is added, `[batch, M, time]` each; `[M]` which are missing.

    `given` `[batch, L, time]`: inputs in the place of the observed channels of `eeg`.
    """
    given = eeg[:, geometry.observed_index] if given is None else given
    left, missing = left_by_skip(params["skip"], eeg, geometry, given=given)
    seen = be.inputs(learner.encoder, params, given)
    return left, _added(learner, params, seen, geometry), missing


def inputs_elsewhere(
    skip: PyTree, eeg: jax.Array, geometry: Geometry, keys: jax.Array, share: float
) -> tuple[jax.Array, jax.Array]:
    """Of a share of the windows other electrodes, as many, brought to the places of the observed.

    Returns:
      Inputs `[batch, L, time]`, and which targets are missing, `[batch, M]`.
    """
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


def warm_cosine(learning_rate: float, steps: int) -> optax.Schedule:
    """Up in the first 5 % of the steps, then down a half cosine to 1 %."""
    warm, last = max(steps // 20, 1), 0.01 * learning_rate
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warm, max(steps, 2), last)


def _added(learner, params, seen, geometry, keys=None) -> jax.Array:
    encoded = be.features(learner.encoder, params, seen, keys)
    table = learner.table(params, geometry)
    return jnp.einsum("btk,km->bmt", encoded, table, precision="highest")


def _phases(keys: jax.Array) -> jax.Array:
    """`[batch]` where each window begins to be looked at."""
    draw = jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, 999), (), 0, STRIDE))
    return draw(keys)


def _missing(geometry: Geometry) -> jax.Array:
    return observed_source(geometry) < 0
