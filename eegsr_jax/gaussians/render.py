"""A sum of Gaussians at electrodes and times, exact, that never holds (batch, time, M, Gaussian).

    out[b, t, m] = Σ_gp w[t, m, g, p] (α[g, p] + β[b, t, p])
    β[b, t, p]   = modulate(features[b, t], weights[p])

The weights w depend neither on the batch nor on the data (EMAG, arXiv 2605.29731, released code):
one exponential per (t, m, g, p) serves a whole batch, and the G Gaussians of a point can be added
up before they meet β. `render` goes over blocks of points and of time, forwards and backwards, and
keeps nothing but its inputs in between, so that memory does not grow with the batch beyond input
and output. `fold` does once all that does not depend on the data; `read_out` then takes K products
an output sample and no exponential, however many Gaussians there are. Inside a `shard_map` over
"gaussians" each device gives its own points, and gets the field of all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from eegsr_jax.distributed import GAUSSIANS, varies_over, varying_over
from eegsr_jax.gaussians.precision import Field
from eegsr_jax.typing import PyTree

Modulate = Callable[[jax.Array, PyTree], jax.Array]

# Weights held at a time. Several loops read a block, so it should stay in cache: 4 MB on a CPU (its
# running sums over time, a quarter of that, in the second level), 32 MB on an accelerator.
BLOCK = {"cpu": 2**20}
BLOCK_ELSEWHERE = 2**23
FEWEST, MOST = 4, 16  # samples in a block: few reads and writes of the sums; short programs
LANES = 32  # points in a row: a whole number of vector registers
_FAR = 1e9  # squared distance of the points that fill the last row: their weights are exactly 0

_einsum: Any = partial(jnp.einsum, precision="highest")


def affine(features: jax.Array, weights: PyTree) -> jax.Array:
    """β = V f + c, for `weights` {"kernel": V `[P, F]`, "bias": c `[P]`}."""
    return _einsum("tbf,pf->tbp", features, weights["kernel"]) + weights["bias"][None, None]


class Folded(NamedTuple):
    """A field with an affine modulation, all that the data do not change.

    Attributes:
      table: `[time, K, M]`.
      base: `[time, M]`.
    """

    table: jax.Array
    base: jax.Array


def fold(field: Field, times: jax.Array, weights: PyTree, *, block: int | None = None) -> Folded:
    """The field under `affine`, folded to K read-out columns and a base: for `read_out`.

    Args:
      field: of P points and M electrodes.
      times: `[time]`, any spacing.
      weights: {"kernel": `[P, K]`, "bias": `[P]`}.
      block: weights held at a time; None is what suits the default backend.
    """
    columns = jnp.concatenate([weights["bias"][:, None], weights["kernel"]], 1)
    count = columns.shape[1]
    share = (jnp.arange(count) == 0).astype(columns.dtype)  # the amplitudes go into the base
    nothing = jnp.zeros((count, times.shape[0], 0), columns.dtype)
    inputs = _together(field, share, times, nothing, columns)
    out = _whole(_render(_constant, block or _usual_block(), *inputs))
    return Folded(table=out[1:].transpose(1, 0, 2), base=out[0])


def _constant(features: jax.Array, columns: jax.Array) -> jax.Array:
    del features
    return columns.T


def read_out(folded: Folded, features: jax.Array) -> jax.Array:
    """`[batch, time, M]` from features `[batch, time, K]`; the table may be in lower precision."""
    product = jnp.einsum(
        "tkm,btk->btm",
        folded.table,
        features.astype(folded.table.dtype),
        precision="highest",
        preferred_element_type=folded.base.dtype,
    )
    return product + folded.base[None]


def render(
    field: Field,
    times: jax.Array,
    features: jax.Array | None = None,
    weights: PyTree = None,
    *,
    modulate: Modulate = affine,
    block: int | None = None,
) -> jax.Array:
    """`[batch, time, M]`; without features `[1, time, M]`, the amplitudes alone.

    Differentiable in reverse mode in the field, the times, the features and the weights.

    Args:
      field: G Gaussians at each of P points, seen by M electrodes.
      times: `[time]`, in the unit of `field.time`, any spacing.
      features: `[batch, time, F]`.
      weights: pytree of arrays `[P, ...]`; for `affine` see there.
      modulate: (features `[t, b, F]`, weights of some points) -> their β `[t, b, points]`, or
        `[b, points]` where it does not depend on time. Pure, and closing over no array.
      block: weights held at a time; None is what suits the default backend.
    """
    dtype = field.distance.dtype
    if features is None:
        features = jnp.zeros((1, times.shape[0], 0), dtype)
        weights, modulate = jnp.zeros((field.rate.shape[1], 1), dtype), _constant
    elif modulate is affine and features.shape[0] > features.shape[2] + 1:
        # More windows than columns: render the columns.
        return read_out(fold(field, times, weights, block=block), features)
    share = jnp.ones((features.shape[0],), dtype)
    inputs = _together(field, share, times, features, weights)
    return _whole(_render(modulate, block or _usual_block(), *inputs))


def _usual_block() -> int:
    return BLOCK.get(jax.default_backend(), BLOCK_ELSEWHERE)


# ------------------------------------------------------------------------------------------- passes


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _render(modulate, block, field, share, times, features, weights):
    """`share` `[batch]`: how much of the amplitudes each element of the batch takes."""
    first = [_sharding(x).spec[0] for x in (features, times, field.distance)]
    run = _auto(partial(_forwards, modulate, block), PartitionSpec(*first))
    return run(field, share, times, features, weights)


def _render_forward(modulate, block, *inputs):
    return _render(modulate, block, *inputs), inputs


def _render_backward(modulate, block, inputs, cotangent):
    run = _auto(partial(_backwards, modulate, block), jax.tree.map(_sharding, inputs))
    return run(*inputs, cotangent)


_render.defvjp(_render_forward, _render_backward)


def _forwards(modulate, block, field, share, times, features, weights):
    samples, points = _sizes(field, times.shape[0], block)
    blocks = _cut(times, samples), _cut(features, samples, 1).swapaxes(1, 2)

    def add(out, tile):
        field, weights = tile

        def one(_, given):
            time, features = given
            w = _weights(field, time)
            beta = modulate(features, weights)
            base = _einsum("tmgp,gp->tm", w, field.amplitude)
            part = _einsum(f"{_axes(beta)},tmp->tbm", beta, w.sum(2))
            return None, part + share[None, :, None] * base[:, None]

        return out + jax.lax.scan(one, None, blocks)[1], None

    start = jnp.zeros_like(share, shape=(*blocks[1].shape[:3], field.distance.shape[0]))
    out, _ = jax.lax.scan(add, start, _tiles(field, weights, points))
    return _join(out, times.shape[0]).swapaxes(0, 1)


def _backwards(modulate, block, field, share, times, features, weights, g):
    samples, points = _sizes(field, times.shape[0], block)
    blocks = (
        _cut(times, samples),
        _cut(features, samples, 1).swapaxes(1, 2),
        _cut(g, samples, 1).swapaxes(1, 2),
    )

    def add(sums, tile):
        by_tile, by_block = _tile_gradient(modulate, tile, share, blocks)
        return jax.tree.map(jnp.add, sums, by_block), by_tile

    start = jax.tree.map(jnp.zeros_like, blocks[:2])
    tiles = _tiles(field, weights, points)
    (by_times, by_features), by_tiles = jax.lax.scan(add, start, tiles)
    by_field, by_weights = _untile(by_tiles, field.rate.shape[1])
    return (
        by_field,
        jnp.zeros_like(share),
        _join(by_times, times.shape[0]),
        _join(by_features, times.shape[0]).swapaxes(0, 1),
        by_weights,
    )


def _tile_gradient(modulate, tile, share, blocks):
    """Gradients of a tile; the batch is contracted before anything is as large as the weights.

    With g the cotangent of the output and u = w Σ_b g_b (share_b α + β_b), all that the exponents
    need of u are three moments over time: Σ u, Σ τ u (of electrode and Gaussian) and Σ τ² u.
    """
    field, weights = tile

    def one(sums, given):
        time, features, g = given
        w = _weights(field, time)
        beta, pull = jax.vjp(modulate, features, weights)
        by_features, by_weights = pull(_einsum(f"tbm,tmp->{_axes(beta)}", g, w.sum(2)))
        g_base = (share[None, :, None] * g).sum(1)
        g_mixed = _einsum(f"tbm,{_axes(beta)}->tmp", g, beta)
        u = w * (g_base[:, :, None, None] * field.amplitude[None, None] + g_mixed[:, :, None])
        new = *_moments(u, time, field.time), _einsum("tm,tmgp->gp", g_base, w), by_weights
        return jax.tree.map(jnp.add, sums, new), (_by_time(u, time, field), by_features)

    start = (*[jnp.zeros_like(field.distance)] * 3, jnp.zeros_like(field.amplitude))
    start = *start, jax.tree.map(jnp.zeros_like, weights)
    sums, by_block = jax.lax.scan(one, start, blocks)
    zeroth, first, second, by_amplitude, by_weights = sums
    by_field = Field(
        distance=-0.5 * zeroth,
        coupling=-first,
        rate=-0.5 * second.sum(0),
        time=(field.coupling * zeroth).sum(0) + field.rate * first.sum(0),
        amplitude=by_amplitude,
    )
    return (by_field, by_weights), by_block


def _moments(u, time, origin):
    """Σ u, Σ τ u, Σ τ² u over a block's samples, `[M, G, P]`, with τ = time - origin `[G, P]`.

    Written out as sums of few terms, each of which XLA compiles to one pass over u: as reductions
    they are ten times slower on a CPU.
    """
    tau = [(instant - origin)[None] for instant in time]
    zeroth = sum(u[i] for i in range(len(tau)))
    first = sum(tau[i] * u[i] for i in range(len(tau)))
    return zeroth, first, sum(tau[i] * (tau[i] * u[i]) for i in range(len(tau)))


def _by_time(u, time, field):
    """The gradient of a block's times; the compiler leaves it out where nobody asks for it."""
    tau = (time[:, None, None] - field.time[None])[:, None]
    return -(u * (field.coupling[None] + tau * field.rate[None, None])).sum((1, 2, 3))


def _axes(beta: jax.Array) -> str:
    return "tbp" if beta.ndim == 3 else "bp"


def _weights(field: Field, time: jax.Array) -> jax.Array:
    """`[t, M, G, P]`, in (0, 1]."""
    tau = (time[:, None, None] - field.time[None])[:, None]
    return jnp.exp(
        -0.5 * field.distance[None]
        - tau * (field.coupling[None] + 0.5 * tau * field.rate[None, None])
    )


# ------------------------------------------------------------------------------------------- blocks


def _even(length: int, most: int) -> int:
    """The size of the fewest pieces of at most `most`, as even as can be."""
    return -(-length // -(-length // most))


def _cut(x: jax.Array, size: int, axis: int = 0, fill: float = 0.0) -> jax.Array:
    """Pieces of `size` along `axis`, the last one filled up, stacked along a new first axis."""
    count = -(-x.shape[axis] // size)
    ends = [(0, 0)] * x.ndim
    ends[axis] = (0, count * size - x.shape[axis])
    x = jnp.pad(x, ends, constant_values=fill)
    x = x.reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)


def _join(pieces: jax.Array, length: int) -> jax.Array:
    """What `_cut` cut along axis 0."""
    return pieces.reshape(pieces.shape[0] * pieces.shape[1], *pieces.shape[2:])[:length]


def _sizes(field: Field, length: int, block: int) -> tuple[int, int]:
    """Samples and points of a block."""
    electrodes, groups, points = field.distance.shape
    samples = _even(length, min(max(block // field.distance.size, FEWEST), MOST))
    size = _even(points, max(1, block // (samples * electrodes * groups)))
    return samples, min(points, -(-size // LANES) * LANES)


def _tiles(field: Field, weights: PyTree, size: int) -> tuple[Field, PyTree]:
    """Field and weights in tiles of `size` points, stacked along a first axis."""
    tiles = Field(*(_cut(x, size, x.ndim - 1) for x in field))
    tiles = tiles._replace(distance=_cut(field.distance, size, 2, _FAR))
    return tiles, jax.tree.map(lambda x: _cut(x, size), weights)


def _untile(tiles: tuple[Field, PyTree], points: int) -> tuple[Field, PyTree]:
    field, weights = tiles
    last = (jnp.moveaxis(x, 0, -2) for x in field)
    field = Field(*(x.reshape(*x.shape[:-2], -1)[..., :points] for x in last))
    return field, jax.tree.map(lambda x: _join(x, points), weights)


# ----------------------------------------------------------------------------------------- sharding


def _together(*inputs: PyTree) -> tuple[PyTree, ...]:
    """Under `shard_map`: all varying over the axes that any varies over, as sums over them do."""
    leaves, tree = jax.tree.flatten(inputs)
    every = frozenset().union(*map(varies_over, leaves))
    return jax.tree.unflatten(tree, [varying_over(every, x) for x in leaves])


def _whole(out: jax.Array) -> jax.Array:
    """Under `shard_map` over "gaussians", where each device has points of its own: their sum."""
    partial_sum = GAUSSIANS in varies_over(out)
    return jax.lax.psum(out, GAUSSIANS) if partial_sum else out


def _sharding(x: jax.Array) -> NamedSharding:
    return jax.typeof(x).sharding


def _auto(function: Callable[..., Any], shardings: PyTree) -> Callable[..., Any]:
    """`function` under a mesh with explicit axes: left to the compiler within, typed without."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not mesh.explicit_axes:
        return function
    return jax.sharding.auto_axes(function, out_sharding=shardings)
