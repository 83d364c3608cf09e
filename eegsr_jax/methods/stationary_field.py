"""A field of Gaussians in the head, set by a network of the given channels, stationary in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eegsr_jax.gaussians import grid, precision
from eegsr_jax.gaussians.mixture import Mixture
from eegsr_jax.gaussians.render import fold
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import moments as mo
from eegsr_jax.methods.base import MomentStage
from eegsr_jax.methods.carry import Carried
from eegsr_jax.nn.temporal import GatedMLP, band_count, band_reach, band_sums, local_mean
from eegsr_jax.typing import PyTree

CAP = 85.0  # mm, where electrodes stand about a grid of radius 90, as in EMAG
SIZES = (10.0, 15.0, 25.0)  # mm, standard deviations of the Gaussians of a point at the start
POWER_REACH = 40  # samples on either side over which the encoder sees the power of its inputs
NOTHING = 1e-3  # of the mean power of all bands: less counts as this much
_STATES = 5


class Shape(NamedTuple):
    """What is fixed before any params: static.

    Attributes:
      near: samples on either side that the encoder sees in pairs, even.
      widths: of the bands of samples beyond, see `nn.temporal.band_sums`.
      components: of the observed channels that it sees.
      network: the encoder.
      resolution: points of the grid across the head.
      groups: Gaussians at each point.
      covariance: their structure in space, a key of `precision.COVARIANCE`.
    """

    near: int
    widths: tuple[int, ...]
    components: int
    network: GatedMLP
    resolution: int
    groups: int
    covariance: str

    @property
    def context(self) -> int:
        """Samples on either side that a sample of the field depends on."""
        return max(band_reach(self.near, self.widths), POWER_REACH)


def initial_field(shape: Shape, key: jax.Array, geometry: Geometry, skip: PyTree) -> dict[str, Any]:
    """Params before training: the read-out is zero, and so is the field.

    `unit` is the mean over the cap of the sum of all Gaussians at the start. Divided by it, a step
    of the read-out is as large a step of the estimate whatever the grid.
    """
    centres = jnp.asarray(grid.sphere(shape.resolution), jnp.float32)
    points = len(centres)
    components = min(geometry.observed.shape[0], shape.components)
    bands = band_count(shape.near, shape.widths) * components
    sizes = jnp.log(1 / jnp.asarray(SIZES[: shape.groups], jnp.float32))[:, None, None]
    nothing = jnp.zeros((1, 1, bands)), jnp.zeros((1, 1, _STATES))
    own = {
        "centres": centres,
        "standard": {
            "bands": jnp.ones((bands,)),
            "mean": jnp.zeros((_STATES,)),
            "state": jnp.ones((_STATES,)),
        },
        "encoder": shape.network.init(key, *nothing)["params"],
        "gaussians": {
            "log_diagonal": jnp.broadcast_to(sizes, (shape.groups, points, 3)),
            "off_diagonal": jnp.zeros((shape.groups, points, 3)),
        },
        "readout": jnp.zeros((points, shape.network.width)),
    }
    seen = _seen(shape, own | {"skip": skip}, geometry.target)
    return own | {"unit": jnp.mean(jnp.sum(jnp.exp(-0.5 * seen.distance), (1, 2)))}


def inputs(shape: Shape, params: PyTree, observed: jax.Array) -> list[jax.Array]:
    """What the encoder sees of `[batch, L, time]`: bands and state, `[batch, time, …]` each."""
    bands, state = _raw_inputs(shape, params, observed)
    own = params["standard"]
    state = (state - own["mean"][None, None]) * own["state"][None, None]
    return [bands * own["bands"][None, None], jnp.clip(state, -3.0, 3.0)]


def _raw_inputs(shape: Shape, params: PyTree, observed: jax.Array) -> tuple[jax.Array, jax.Array]:
    white = jnp.einsum("blt,lk->btk", observed, params["skip"]["whiten"], precision="highest")
    bands = band_sums(white[..., : shape.components], shape.near, shape.widths)
    # How strong the components are just now: the largest, the smallest, and all together.
    squares = white**2
    chosen = [squares[..., :2], squares[..., -2:], squares.mean(-1, keepdims=True)]
    power = local_mean(jnp.concatenate(chosen, -1), POWER_REACH)
    return bands.reshape(*bands.shape[:2], -1), jnp.log(power + 1e-2)


def features(shape: Shape, params: PyTree, seen: Sequence[jax.Array], keys=None) -> jax.Array:
    """`[batch, time, K]` of what `inputs` gives."""
    encoded = shape.network.apply({"params": params["encoder"]}, *seen, keys)
    assert isinstance(encoded, jax.Array)
    return encoded


def standard_stage(shape: Shape) -> MomentStage:
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
            jnp.where(training[:, None, None], x, 0.0) for x in _raw_inputs(shape, params, given)
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
                "bands": 1 / jnp.sqrt(bands + NOTHING * jnp.mean(bands)),
                "mean": mean,
                "state": 1 / jnp.sqrt(jnp.maximum(variance, 1e-2)),
            }
        }

    return MomentStage(start, update, solve)


def gaussians(shape: Shape, params: PyTree) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Centres `[P, 3]`, diagonals `[G, P, 4]` and off-diagonals `[G, P, 6]` on the grid's scale."""
    field = params["gaussians"]
    diagonal, off = precision.cholesky(
        jnp.pad(field["log_diagonal"], ((0, 0), (0, 0), (0, 1))),
        jnp.pad(field["off_diagonal"], ((0, 0), (0, 0), (0, 3))),
        shape.covariance,
    )
    return params["centres"], diagonal.at[..., 3].set(0.0), off  # no precision in time: stationary


def table(shape: Shape, params: PyTree, positions: jax.Array) -> jax.Array:
    """`[K, M]`: features to electrodes at `[M, 3]` metres, in units of the skip's `scale`."""
    seen = _seen(shape, params, positions)
    weights = {"kernel": params["readout"], "bias": jnp.zeros(params["readout"].shape[:1])}
    return fold(seen, jnp.zeros((1,)), weights).table[0] / params["unit"]


def _seen(shape: Shape, params: PyTree, positions: jax.Array) -> precision.Field:
    points, diagonal, off = gaussians(shape, params)
    nothing = jnp.zeros(diagonal.shape[:2])
    places = (positions - params["skip"]["centre"][None]) / _radius(params) * CAP
    return precision.field(places, points, diagonal, off, nothing, nothing)


def field(
    shape: Shape,
    params: PyTree,
    seen: Sequence[jax.Array],
    positions: jax.Array,
    keys: jax.Array | None = None,
) -> jax.Array:
    """`[batch, M, time]` in units of the skip's `scale`, of what `inputs` gives."""
    read_out = table(shape, params, positions)
    encoded = features(shape, params, seen, keys)
    return jnp.einsum("btk,km->bmt", encoded, read_out, precision="highest")


def mixture(
    shape: Shape,
    params: PyTree,
    seen: Sequence[jax.Array],
    own: Carried,
    scale: jax.Array,
    skip: jax.Array,
) -> Mixture:
    """The Gaussians in the frame of the geometry that `own` is of, their activity times `scale`."""
    points, diagonal, off = gaussians(shape, params)
    size = own.growth * _radius(params) / CAP  # metres to a unit of the grid
    encoded = features(shape, params, seen)
    beta = jnp.einsum("btk,pk->btp", encoded, params["readout"], precision="highest")
    nothing = jnp.zeros(diagonal.shape[:2])
    return Mixture(
        centres=points * size + own.origin[None],
        diagonal=diagonal / size,
        off_diagonal=off / size,
        time=nothing,
        amplitude=nothing,
        beta=beta * scale / params["unit"],
        times=jnp.arange(encoded.shape[1], dtype=jnp.float32),
        unit=jnp.ones(skip.shape[:2]),
        skip=skip,
    )


def _radius(params: PyTree) -> jax.Array:
    """Mean distance of the training cap's electrodes from its centre, metres."""
    offsets = params["skip"]["positions"] - params["skip"]["centre"][None]
    return jnp.mean(jnp.linalg.norm(offsets, axis=-1))
