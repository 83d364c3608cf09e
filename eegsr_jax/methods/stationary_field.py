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
from eegsr_jax.methods.band_encoder import Encoder, features, initial_encoder
from eegsr_jax.methods.carry import Carried
from eegsr_jax.typing import PyTree

CAP = 85.0  # mm, where electrodes stand about a grid of radius 90, as in EMAG
SIZES = (10.0, 15.0, 25.0)  # mm, standard deviations of the Gaussians of a point at the start


class Shape(NamedTuple):
    """What is fixed before any params: static.

    Attributes:
      encoder: of the observed channels.
      resolution: points of the grid across the head.
      groups: Gaussians at each point.
      covariance: their structure in space, a key of `precision.COVARIANCE`.
    """

    encoder: Encoder
    resolution: int
    groups: int
    covariance: str


def initial_field(shape: Shape, key: jax.Array, geometry: Geometry, skip: PyTree) -> dict[str, Any]:
    """Params before training: the read-out is zero, and so is the field.

    `unit` is the mean over the cap of the sum of all Gaussians at the start. Divided by it, a step
    of the read-out is as large a step of the estimate whatever the grid.
    """
    centres = jnp.asarray(grid.sphere(shape.resolution), jnp.float32)
    points = len(centres)
    sizes = jnp.log(1 / jnp.asarray(SIZES[: shape.groups], jnp.float32))[:, None, None]
    own = initial_encoder(shape.encoder, key, geometry.observed.shape[0]) | {
        "centres": centres,
        "gaussians": {
            "log_diagonal": jnp.broadcast_to(sizes, (shape.groups, points, 3)),
            "off_diagonal": jnp.zeros((shape.groups, points, 3)),
        },
        "readout": jnp.zeros((points, shape.encoder.network.width)),
    }
    seen = _seen(shape, own | {"skip": skip}, geometry.target)
    return own | {"unit": jnp.mean(jnp.sum(jnp.exp(-0.5 * seen.distance), (1, 2)))}


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
    encoded = features(shape.encoder, params, seen)
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
