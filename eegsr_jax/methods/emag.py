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

from typing import Any

import jax
import jax.numpy as jnp

from eegsr_jax.errors import ConfigError
from eegsr_jax.gaussians.mixture import Mixture
from eegsr_jax.gaussians.precision import COVARIANCE
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import band_encoder as be
from eegsr_jax.methods import stationary_field as sf
from eegsr_jax.methods.base import Method, Reconstruction, linear_apply, linear_plan
from eegsr_jax.methods.beyond_skip import Learner, beyond_stage, gain_stage
from eegsr_jax.methods.carry import Carried, carried
from eegsr_jax.methods.skip import initial_skip, skip_stage
from eegsr_jax.nn.temporal import GatedMLP
from eegsr_jax.typing import PyTree


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
        widths=(widths, set(widths) <= set(be.WIDTHS), f"some of {str(be.WIDTHS)[1:-1]}"),
        features=(features, features > 0, "1 or more"),
        dropout=(dropout, len(dropout) == 3 and max(dropout) < 1, "three shares below 1"),
        batch_size=(batch_size, batch_size > 0, "1 or more"),
        average=(average, average < 1, "below 1"),
        random_layouts=(random_layouts, random_layouts <= 1, "a share, 0 to 1"),
    )
    network = GatedMLP(features, blocks, (dropout[0], dropout[1], dropout[2]))
    near = lags + lags % 2
    encoder = be.Encoder(near, tuple(widths), components, network)
    shape = sf.Shape(encoder, resolution, groups, covariance)

    learner = Learner(
        encoder,
        lambda params, geometry: sf.table(shape, params, geometry.target),
        random_layouts,
    )
    stages = (
        skip_stage(lags),
        be.standard_stage(encoder),
        beyond_stage(
            learner,
            name="field",
            trainable=("encoder", "gaussians", "readout"),
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            decays=lambda name: name != "gaussians",  # weights decay, shapes of Gaussians do not
            epochs=epochs,
            batch_size=batch_size,
            patience=patience,
            average=average,
            points=(("centres", 0), ("gaussians", 1), ("readout", 0)),
        ),
        gain_stage(learner),
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
        features = be.features(encoder, plan, be.inputs(encoder, plan, observed))
        added = jnp.einsum("btk,km->bmt", features, plan["table"], precision="highest")
        missing = (plan["source"] < 0)[None, :, None]
        return Reconstruction(jnp.where(missing, mean + added, mean), std)

    def mixture(params, geometry: Geometry, observed) -> Mixture:
        own = carried(params["skip"], params["std"], geometry)
        plan = _plan(shape, params, geometry, own)
        skip = linear_apply(plan, observed).mean
        given = be.inputs(encoder, plan, observed)
        return sf.mixture(shape, params, given, own, params["gain"] * params["skip"]["scale"], skip)

    context = max(lags, encoder.context)
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
