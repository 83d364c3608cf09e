"""`srgdiff`: draws of what the missing channels may have been, about the best estimate of them.

SRGDiff (arXiv 2510.19166) draws a latent of all channels by diffusion, from noise. Ours draws only
what cannot be known:

- a lagged ridge, in closed form, comes first, then a small network of the given channels (the
  conditional mean; its gain is shrunk on validation windows);
- what they leave is whitened in space and frequency, in closed form: without any network a draw
  has the right covariance and the right spectra (`epochs=0` is that);
- the diffusion learns the rest: when and in which band there is more or less of it.

Given channels stay as they are. Draws lie evenly about the mean (`BandDenoiser`): their average is
the mean, and needs none of them; the error bars are made from their spread.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from eegsr_jax.diffusion.noise import keys_of
from eegsr_jax.errors import ConfigError
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import band_encoder as be
from eegsr_jax.methods.base import Method, Reconstruction, linear_apply, linear_plan
from eegsr_jax.methods.beyond_skip import Learner, beyond_stage, gain_stage
from eegsr_jax.methods.carry import carried
from eegsr_jax.methods.skip import initial_skip, skip_stage
from eegsr_jax.methods.srgdiff.deviation_stages import deviation_stages
from eegsr_jax.methods.srgdiff.deviations import (
    Drawing,
    components_of,
    deviations,
    initial_deviations,
    plan_sampler,
    spread,
)
from eegsr_jax.nn.temporal import GatedMLP


def srgdiff(
    lags: int = 6,
    components: int = 16,
    widths: tuple[int, ...] = (4, 8, 16, 32),
    features: int = 64,
    blocks: int = 1,
    dropout: tuple[float, ...] = (0.1, 0.5, 0.2),
    mean_epochs: int = 24,
    hidden: int = 48,
    rank: int = 4,
    epochs: int = 30,
    batch_size: int = 24,
    learning_rate: float = 3e-3,
    average: float = 0.98,
    steps: int = 4,
    draws: int = 4,
    random_layouts: float = 0.0,
) -> Method:
    """The conditional mean, and diffusion of what it leaves.

    Args:
      lags: of the ridge, samples on either side.
      components: of the observed channels, the largest, whose past and future the mean sees.
      widths: of the bands of time beyond `lags`, samples, rising; see `nn.temporal.band_sums`.
      features: of the network of the mean.
      blocks: of that network.
      dropout: shares of its inputs, hidden units and features.
      mean_epochs: passes over the training windows for the mean.
      hidden: units of the denoiser.
      rank: of its gains over components.
      epochs: passes for the denoiser; 0 for draws in closed form.
      batch_size: windows a step.
      learning_rate: of the denoiser at its highest.
      average: decay of the running averages of the weights.
      steps: of the sampler.
      draws: that set the error bars of `apply`.
      random_layouts: share of the training windows whose inputs are as many electrodes drawn at
        random, brought to the places of the observed ones as in use: for inputs elsewhere.

    Raises:
      ConfigError: an option that cannot be.
    """
    for name, value, good, expected in (
        ("components", components, components > 0, "1 or more"),
        ("widths", widths, set(widths) <= set(be.WIDTHS), f"some of {str(be.WIDTHS)[1:-1]}"),
        ("dropout", dropout, len(dropout) == 3 and max(dropout) < 1, "three shares below 1"),
        ("batch_size", batch_size, batch_size > 0, "1 or more"),
        ("average", average, average < 1, "below 1"),
        ("steps", steps, steps > 0, "1 or more"),
        ("draws", draws, draws > 0, "1 or more"),
        ("rank", rank, rank > 0, "1 or more"),
        ("random_layouts", random_layouts, random_layouts <= 1, "a share, 0 to 1"),
    ):
        if not good:
            raise ConfigError(f"srgdiff: {name}={value!r}; expected {expected}")
    network = GatedMLP(features, blocks, (dropout[0], dropout[1], dropout[2]))
    encoder = be.Encoder(lags + lags % 2, tuple(widths), components, network)
    learner = Learner(encoder, lambda params, geometry: params["readout"], random_layouts)
    drawing = Drawing(learner, hidden, rank, steps, draws)
    stages = (
        skip_stage(lags),
        be.standard_stage(encoder),
        beyond_stage(
            learner,
            name="mean",
            trainable=("encoder", "readout"),
            learning_rate=6e-3,
            weight_decay=1.0,
            epochs=mean_epochs,
            batch_size=batch_size,
            average=average,
        ),
        gain_stage(learner),
        *deviation_stages(
            drawing,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            average=average,
        ),
    )

    def init(key, geometry: Geometry, window) -> dict[str, Any]:
        del window
        key = jax.random.key(0) if key is None else key
        inputs, targets = geometry.observed.shape[0], geometry.target.shape[0]
        own = {
            "skip": initial_skip(lags, geometry),
            "readout": jnp.zeros((features, targets)),
            "gain": jnp.ones(()),
            "std": jnp.full((targets,), jnp.inf),
        }
        deviations = initial_deviations(drawing, jax.random.fold_in(key, 1), geometry)
        return own | be.initial_encoder(encoder, key, inputs) | deviations

    def plan(params, geometry: Geometry) -> dict[str, Any]:
        # An electrode that was trained on has no error beyond that of the draws.
        own = carried(params["skip"], jnp.zeros_like(params["std"]), geometry)
        linear = linear_plan(geometry, own.filters, own.std, own.mean)
        missing, scale = linear["source"] < 0, params["skip"]["scale"]
        seen = params["white"]["basis"] * (scale * params["spread"])[None, :, None]
        seen = jnp.einsum("nm,omk->onk", own.outputs, seen, precision="highest")
        return linear | {
            "input_mean": own.input_mean,
            "skip": {"whiten": own.inputs.T @ params["skip"]["whiten"]},
            "standard": params["standard"],
            "encoder": params["encoder"],
            "readout": params["gain"] * scale * params["readout"] @ own.outputs.T,
            "sampler": plan_sampler(drawing, params),
            "seen": jnp.where(missing[None, :, None], seen, 0.0),
            "bars": jnp.where(missing, _bars(own.outputs, params["bars"]), 0.0),
        }

    def mean(plan, observed) -> Reconstruction:
        linear, unknown = linear_apply(plan, observed)
        features = be.features(encoder, plan, be.inputs(encoder, plan, observed))
        added = jnp.einsum("btk,km->bmt", features, plan["readout"], precision="highest")
        missing = (plan["source"] < 0)[None, :, None]
        return Reconstruction(jnp.where(missing, linear + added, linear), unknown)

    def apply(plan, observed, key=None) -> Reconstruction:
        observed = jnp.asarray(observed)
        keys = keys_of(key, observed)
        found, unknown = mean(plan, observed)
        inputs = components_of(plan["skip"]["whiten"], observed)
        variance = spread(drawing, plan["sampler"], inputs, plan["seen"], keys)
        # Before training the bars are inf, also times nothing.
        bars = plan["bars"][None, :, None]
        variance = jnp.where(jnp.isinf(bars), jnp.inf, bars**2 * variance) + unknown**2
        positive = variance > 0  # a given channel has none, and the root no gradient there
        return Reconstruction(
            found, jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)
        )

    def draw(plan, observed, key=None) -> jax.Array:
        observed = jnp.asarray(observed)
        keys = keys_of(key, observed)
        inputs = components_of(plan["skip"]["whiten"], observed)
        drawn = deviations(drawing, plan["sampler"], inputs, plan["seen"], keys)
        return mean(plan, observed).mean + drawn

    context = max(lags, encoder.context)
    return Method("srgdiff", init, stages, plan, apply, None, context, draw=draw)


def _bars(outputs: jax.Array, bars: jax.Array) -> jax.Array:
    """`[M']`: of the electrodes that an estimate is made of, by how much."""
    unknown = jnp.any(jnp.isinf(bars))
    power = outputs**2
    known = jnp.matmul(power, jnp.where(jnp.isinf(bars), 0.0, bars), precision="highest")
    return jnp.where(unknown, jnp.inf, known / jnp.maximum(jnp.sum(power, 1), 1e-12))
