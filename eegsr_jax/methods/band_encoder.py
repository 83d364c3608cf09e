"""An encoder of the observed channels: what lies near in time, finely; what lies far, coarsely.

It sees the largest components of the observed channels in bands of time (`nn.temporal.band_sums`),
and how strong they are just now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eegsr_jax.methods import moments as mo
from eegsr_jax.methods.base import MomentStage
from eegsr_jax.nn.temporal import GatedMLP, band_count, band_reach, band_sums, local_mean
from eegsr_jax.typing import PyTree

POWER_REACH = 40  # samples on either side over which the encoder sees the power of its inputs
WIDTHS = (2, 4, 8, 16, 32, 64, 128)
_NOTHING = 1e-3  # of the mean power of all bands: less counts as this much
_STATES = 5


class Encoder(NamedTuple):
    """What is fixed before any params: static.

    Attributes:
      near: samples on either side that it sees in pairs, even.
      widths: of the bands of samples beyond, see `nn.temporal.band_sums`.
      components: of the observed channels that it sees.
      network: of what it sees.
    """

    near: int
    widths: tuple[int, ...]
    components: int
    network: GatedMLP

    @property
    def context(self) -> int:
        """Samples on either side that a feature depends on."""
        return max(band_reach(self.near, self.widths), POWER_REACH)


def initial_encoder(encoder: Encoder, key: jax.Array, inputs: int) -> dict[str, Any]:
    """Params before training, for a number of observed channels."""
    components = min(inputs, encoder.components)
    bands = band_count(encoder.near, encoder.widths) * components
    nothing = jnp.zeros((1, 1, bands)), jnp.zeros((1, 1, _STATES))
    return {
        "standard": {
            "bands": jnp.ones((bands,)),
            "mean": jnp.zeros((_STATES,)),
            "state": jnp.ones((_STATES,)),
        },
        "encoder": encoder.network.init(key, *nothing)["params"],
    }


def inputs(encoder: Encoder, params: PyTree, observed: jax.Array) -> list[jax.Array]:
    """What it sees of `[batch, L, time]`: bands and state, `[batch, time, …]` each.

    `params` has "standard" and the "whiten" of a skip (`skip.skip_stage`).
    """
    bands, state = _raw_inputs(encoder, params, observed)
    own = params["standard"]
    state = (state - own["mean"][None, None]) * own["state"][None, None]
    return [bands * own["bands"][None, None], jnp.clip(state, -3.0, 3.0)]


def features(
    encoder: Encoder, params: PyTree, seen: Sequence[jax.Array], keys: jax.Array | None = None
) -> jax.Array:
    """`[batch, time, K]` of what `inputs` gives; some units are dropped with keys, one a window."""
    encoded = encoder.network.apply({"params": params["encoder"]}, *seen, keys)
    assert isinstance(encoded, jax.Array)
    return encoded


def standard_stage(encoder: Encoder) -> MomentStage:
    """Scales of the encoder's inputs, from the training windows."""

    def start(params, geometry):
        del geometry
        own = params["standard"]
        sums = {"bands": own["bands"], "mean": own["mean"], "squares": own["mean"]}
        return {"count": jnp.zeros(())} | {k: jnp.zeros_like(x) for k, x in sums.items()}

    def update(params, sums, batch, geometry):
        training = batch["part"] == mo.TRAIN
        given = batch["eeg"][:, geometry.observed_index]
        bands, state = (
            jnp.where(training[:, None, None], x, 0.0) for x in _raw_inputs(encoder, params, given)
        )
        new = {
            "count": jnp.sum(training, dtype=jnp.float32) * bands.shape[1],
            "bands": jnp.sum(bands**2, (0, 1)),
            "mean": jnp.sum(state, (0, 1)),
            "squares": jnp.sum(state**2, (0, 1)),
        }
        return jax.tree.map(jnp.add, sums, new)

    def solve(params, sums, geometry):
        del geometry
        count = jnp.maximum(sums["count"], 1.0)
        bands, mean = sums["bands"] / count, sums["mean"] / count
        variance = sums["squares"] / count - mean**2
        return params | {
            "standard": {
                # A component without signal (an average reference leaves one) stays without.
                "bands": 1 / jnp.sqrt(bands + _NOTHING * jnp.mean(bands)),
                "mean": mean,
                "state": 1 / jnp.sqrt(jnp.maximum(variance, 1e-2)),
            }
        }

    return MomentStage(start, update, solve)


def _raw_inputs(
    encoder: Encoder, params: PyTree, observed: jax.Array
) -> tuple[jax.Array, jax.Array]:
    white = jnp.einsum("blt,lk->btk", observed, params["skip"]["whiten"], precision="highest")
    bands = band_sums(white[..., : encoder.components], encoder.near, encoder.widths)
    # How strong the components are just now: the largest, the smallest, and all together.
    squares = white**2
    chosen = [squares[..., :2], squares[..., -2:], squares.mean(-1, keepdims=True)]
    power = local_mean(jnp.concatenate(chosen, -1), POWER_REACH)
    return bands.reshape(*bands.shape[:2], -1), jnp.log(power + 1e-2)
