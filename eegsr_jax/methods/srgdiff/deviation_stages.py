"""What the conditional mean leaves: whitened, learned by diffusion, corrected."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eegsr_jax.diffusion.noise import noise_like, step_key
from eegsr_jax.diffusion.prediction import Prediction, target
from eegsr_jax.diffusion.schedule import Level
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import moments as mo
from eegsr_jax.methods.base import GradientStage, MomentStage, observed_source
from eegsr_jax.methods.beyond_skip import Learner, both, inputs_elsewhere, warm_cosine
from eegsr_jax.methods.srgdiff import whitening as wh
from eegsr_jax.methods.srgdiff.band_denoiser import conditions
from eegsr_jax.methods.srgdiff.deviations import (
    Drawing,
    components_of,
    plan_sampler,
    spread,
    told_of,
)
from eegsr_jax.methods.srgdiff.shape import call
from eegsr_jax.typing import PyTree

ANGLES = (0.2, 0.6, 1.0, 1.4)  # at which validation windows are scored
LEAST_ANGLE = 0.03  # in training
QUIET = 0.5  # of the mean power: quieter windows weigh no more in training
LEVELS, LEVEL = 96, 0.0625  # bins of the histogram of errors, and their width in standard errors
NINETY = 1.6448536  # 90 % of a normal lie within these many standard errors


def deviation_stages(
    drawing: Drawing, *, epochs: int, batch_size: int, learning_rate: float, average: float
) -> tuple[MomentStage | GradientStage, ...]:
    """Whitening; the denoiser and its gain, with epochs; corrections on validation windows."""
    first, last = _whitening_stage(drawing.learner), _correction_stage(drawing)
    if not epochs:
        return first, last
    options = {"epochs": epochs, "batch_size": batch_size, "average": average}
    denoiser = _denoiser_stage(drawing, learning_rate, **options)
    return first, denoiser, _gain_stage(drawing), last


def _left(learner: Learner, params: PyTree, eeg, geometry: Geometry, given=None, missing=None):
    """What the mean leaves of missing channels, `[batch, M, time]`, zero elsewhere."""
    left, found, usual = both(learner, params, eeg, geometry, given)
    missing = usual[None] if missing is None else missing
    return jnp.where(missing[:, :, None], left - params["gain"] * found, 0.0)


def _whitening_stage(learner: Learner) -> MomentStage:
    """Fits "white" and "condition" to the training windows."""

    def start(params, geometry):
        count = geometry.target.shape[0]
        own = params["condition"]["mean"]
        sums = {"matrices": jnp.zeros((wh.BINS, count, count)), "mean": own, "squares": own}
        return {"windows": jnp.zeros(())} | jax.tree.map(jnp.zeros_like, sums)

    def update(params, sums, batch, geometry):
        training = batch["part"] == mo.TRAIN
        left = _left(learner, params, batch["eeg"], geometry)
        told = conditions(
            components_of(params["skip"]["whiten"], batch["eeg"][:, geometry.observed_index])
        )
        told = jnp.where(training[:, None, None], told, 0.0)
        new = {
            "windows": jnp.sum(training, dtype=jnp.float32),
            "matrices": wh.spectral_sums(jnp.where(training[:, None, None], left, 0.0)),
            "mean": jnp.sum(jnp.mean(told, 1), 0),
            "squares": jnp.sum(jnp.mean(told**2, 1), 0),
        }
        return jax.tree.map(jnp.add, sums, new)

    def solve(params, sums, geometry):
        windows = jnp.maximum(sums["windows"], 1.0)
        mean = sums["mean"] / windows
        variance = sums["squares"] / windows - mean**2
        scale = 1 / jnp.sqrt(jnp.maximum(variance, 1e-2))
        missing, basis = observed_source(geometry) < 0, params["white"]["basis"]
        white = wh.components(sums["matrices"] / windows, missing, basis)
        return params | {
            "white": white,
            "condition": {"mean": mean, "scale": scale},
        }

    return MomentStage(start, update, solve)


def _denoiser_stage(drawing: Drawing, learning_rate: float, **options: Any) -> GradientStage:
    learner = drawing.learner

    def optimizer(steps: int) -> optax.GradientTransformation:
        adam = optax.adamw(warm_cosine(learning_rate, steps), b2=0.99, weight_decay=0.3)
        return optax.chain(optax.clip_by_global_norm(1.0), adam)

    def derive(params, batch, geometry):
        eeg, given, missing = batch["eeg"], batch["eeg"][:, geometry.observed_index], None
        if learner.random_layouts:
            share = learner.random_layouts
            given, missing = inputs_elsewhere(params["skip"], eeg, geometry, batch["key"], share)
        left = _left(learner, params, eeg, geometry, given, missing)
        told = told_of(params["condition"], components_of(params["skip"]["whiten"], given))
        return {"white": wh.whitened(params["white"], left), "told": told}

    def loss(params, batch, geometry):
        del geometry
        keys = batch["key"]
        angle = jax.vmap(
            lambda key: jax.random.uniform(key, minval=LEAST_ANGLE, maxval=math.pi / 2)
        )(step_key(keys, 2))
        wrong, _ = _wrong(drawing, params, batch, angle, keys)
        # Loud windows weigh less: artefacts do not rule.
        usual = wh.alive_share(params["white"], wrong.shape[-1])
        weight = usual * jnp.maximum(jnp.mean(batch["white"] ** 2, (1, 2)) / usual, QUIET)
        return jnp.mean(jnp.mean(wrong**2, (1, 2)) / weight), {}

    def score(params, batch, geometry):
        del geometry
        kept = (batch["part"] >= 0)[:, None, None]
        sums = jnp.zeros(2)
        for wrong, v in _validation(drawing, params, batch):
            sums += jnp.stack([jnp.sum(jnp.where(kept, x**2, 0.0)) for x in (wrong, v)])
        return sums

    # The last epoch is kept: the gain that follows takes back what was learned too well.
    return GradientStage(
        "denoiser",
        loss,
        score,
        ("denoiser",),
        optimizer,
        min_delta=-math.inf,
        derive=derive,
        **options,
    )


def _gain_stage(drawing: Drawing) -> MomentStage:
    """How much of the denoiser to believe, from the validation windows."""

    def start(params, geometry):
        del params, geometry
        return jnp.zeros(2)

    def update(params, sums, batch, geometry):
        kept = (batch["part"] == mo.VALIDATE)[:, None, None]
        eeg = batch["eeg"]
        given = eeg[:, geometry.observed_index]
        left = _left(drawing.learner, params, eeg, geometry)
        derived = {
            "white": wh.whitened(params["white"], left),
            "told": told_of(params["condition"], components_of(params["skip"]["whiten"], given)),
        }
        for wrong, v in _validation(drawing, params, derived):
            said = v - wrong
            new = [jnp.sum(jnp.where(kept, said * x, 0.0)) for x in (v, said)]
            sums = sums + jnp.stack(new)
        return sums

    def solve(params, sums, geometry):
        del geometry
        gain = jnp.clip(sums[0] / jnp.maximum(sums[1], 1e-20), 0.0, 1.0)
        return params | {"denoiser_gain": gain}

    return MomentStage(start, update, solve)


def _validation(drawing: Drawing, params: PyTree, batch: dict[str, jax.Array]):
    """What is missed of v, and v, at some angles, with noise that is the same at every call."""
    count = len(batch["white"])
    for number, angle in enumerate(ANGLES):
        keys = jax.random.split(jax.random.key(number), count)
        yield _wrong(drawing, params, batch, jnp.full((count,), angle), keys, training=False)


def _wrong(drawing: Drawing, params, batch, angle, keys, training=True):
    """What the denoiser misses of v, and v, `[batch, K, time]` each."""
    network, own = drawing.denoiser(params), params["denoiser"]
    white, drop = batch["white"], step_key(keys, 1) if training else None
    noise = wh.only_alive(params["white"], noise_like(step_key(keys, 0), white))
    level = Level(angle, jnp.cos(angle), jnp.sin(angle))
    v = target(Prediction.V, white, noise, level)
    x = level.alpha[:, None, None] * white + level.sigma[:, None, None] * noise
    told = call(network, own, batch["told"], drop, method="condition")
    steps = call(network, own, angle, method="steps")
    return v - call(network, own, x, steps, told, drop, method="denoise"), v


def _correction_stage(drawing: Drawing) -> MomentStage:
    """How much larger draws and bars must be than the training windows say.

    "spread" makes the power of the draws that of what the mean leaves of the validation windows;
    "bars" makes 90 % of it lie within the bars that are meant to hold as much (conformal
    prediction, of which this is the split kind, by channel).
    """

    def start(params, geometry):
        del params
        count = geometry.target.shape[0]
        return {
            "windows": jnp.zeros((), jnp.int32),
            "power": jnp.zeros((2, count)),
            "histogram": jnp.zeros((count, LEVELS)),
        }

    def update(params, sums, batch, geometry):
        kept = (batch["part"] == mo.VALIDATE)[:, None, None]
        left = jnp.where(kept, _left(drawing.learner, params, batch["eeg"], geometry), 0.0)
        inputs = components_of(params["skip"]["whiten"], batch["eeg"][:, geometry.observed_index])
        numbers = sums["windows"] + jnp.arange(len(left), dtype=jnp.int32)
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(0), n))(numbers)
        plan, seen = plan_sampler(drawing, params), params["white"]["basis"]
        variance = jnp.where(kept, spread(drawing, plan, inputs, seen, keys), 0.0)
        ratio = jnp.abs(left) * jax.lax.rsqrt(jnp.maximum(variance, 1e-20))
        place = jnp.clip((ratio / LEVEL).astype(jnp.int32), 0, LEVELS - 1)
        levels = jnp.arange(LEVELS)
        counts = jax.lax.map(
            lambda level: jnp.sum((place == level) & (variance > 0), (0, 2), dtype=jnp.float32),
            levels,
        )
        power = jnp.stack([jnp.sum(left**2, (0, 2)), jnp.sum(variance, (0, 2))])
        return {
            "windows": sums["windows"] + jnp.asarray(len(left), jnp.int32),
            "power": sums["power"] + power,
            "histogram": sums["histogram"] + counts.T,
        }

    def solve(params, sums, geometry):
        del geometry
        left, drawn = sums["power"]
        known = (drawn > 0) & (left > 0)
        spread = jnp.where(known, jnp.sqrt(left / jnp.where(known, drawn, 1.0)), 1.0)
        bars = _quantile(sums["histogram"]) / NINETY / spread
        # Without validation windows nothing is known of the errors.
        found = jnp.any(known)
        return params | {
            "spread": spread,
            "bars": jnp.where(found, jnp.where(known, bars, 0.0), jnp.inf),
        }

    return MomentStage(start, update, solve)


def _quantile(histogram: jax.Array) -> jax.Array:
    """`[channel, LEVELS] -> [channel]`: within these many standard errors lie 90 % of the errors.

    Interpolated within its bin.
    """
    total = jnp.maximum(jnp.sum(histogram, 1), 1.0)
    within = jnp.cumsum(histogram, 1) / total[:, None]
    place = jnp.sum(within < 0.9, 1)
    before = jnp.where(
        place > 0, jnp.take_along_axis(within, jnp.maximum(place - 1, 0)[:, None], 1)[:, 0], 0.0
    )
    here = jnp.take_along_axis(within, jnp.minimum(place, LEVELS - 1)[:, None], 1)[:, 0]
    share = (0.9 - before) / jnp.maximum(here - before, 1e-6)
    return LEVEL * (place.astype(share.dtype) + jnp.clip(share, 0.0, 1.0))
