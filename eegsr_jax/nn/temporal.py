"""An encoder of sequences: sums over bands of time, near ones fine and far ones coarse, and an MLP.

What is near in time says most about a sample, what is far says a little, and only its slow part:
bands that double their width reach far with few features, and need additions only.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

Keys = jax.Array | None


def band_sums(x: jax.Array, near: int, widths: tuple[int, ...]) -> jax.Array:
    """`[batch, time, channel] -> [batch, time, bands, channel]`, zeros beyond the ends.

    Sums, divided by the root of their width, over: the sample itself; pairs of samples up to `near`
    (even) on either side; and, beyond, bands of `widths` (powers of two, rising) on either side.
    """
    time, reach = x.shape[1], band_reach(near, widths)
    longest = max(widths, default=2)
    padded = jnp.pad(x, ((0, 0), (reach, reach + longest), (0, 0)))
    sums, width = {1: padded}, 1
    while width < longest:
        both = sums[width]
        sums[2 * width] = both + _later(both, width)
        width *= 2
    bands = [(0, 1)]
    for first in range(1, near, 2):
        bands += [(first, 2), (-first - 1, 2)]
    edge = near
    for width in widths:
        bands += [(edge + 1, width), (-edge - width, width)]
        edge += width
    pieces = [
        jax.lax.slice_in_dim(sums[width], reach + first, reach + first + time, axis=1)
        / jnp.sqrt(jnp.asarray(width, x.dtype))
        for first, width in bands
    ]
    return jnp.stack(pieces, 2)


def band_reach(near: int, widths: tuple[int, ...]) -> int:
    """Samples on either side that `band_sums` depends on."""
    return near + sum(widths)


def band_count(near: int, widths: tuple[int, ...]) -> int:
    """How many bands `band_sums` has."""
    return 1 + near + 2 * len(widths)


def local_mean(x: jax.Array, reach: int) -> jax.Array:
    """Mean of `[batch, time, channel]` over the samples from -reach to reach that there are."""
    time = x.shape[1]
    # A plain number to start from: XLA then knows the sum, and its gradient.
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2 * reach + 1, 1), (1, 1, 1), "SAME")
    at = jnp.arange(time, dtype=jnp.int32)
    count = jnp.minimum(at + reach, time - 1) - jnp.maximum(at - reach, 0) + 1
    return total / count.astype(x.dtype)[None, :, None]


class GatedMLP(nn.Module):
    """Features of `[batch, time, inputs]`, gated by a state `[batch, time, states]`.

    Attributes:
      width: of the output.
      blocks: residual blocks.
      dropout: shares of the inputs, of the hidden units and of the outputs that are left out in
        training, all of a window at once.
    """

    width: int
    blocks: int
    dropout: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @nn.compact
    def __call__(self, x: jax.Array, state: jax.Array, keys: Keys = None) -> jax.Array:
        """`[batch, time, width]`; with `keys` `[batch]`, one a window, some units are dropped."""

        def dense(size: int, name: str, **options):
            return nn.Dense(size, precision="highest", name=name, **options)

        x = drop_units(x, keys, 0, self.dropout[0])
        x = dense(self.width, "inputs", use_bias=False)(x)
        gate = nn.gelu(dense(16, "gate_hidden")(state))
        x = x * (1 + jnp.tanh(dense(self.width, "gate", kernel_init=nn.initializers.zeros)(gate)))
        for block in range(self.blocks):
            size = jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-4)
            y = dense(self.width, f"hidden_{block}")(x / size)
            y = nn.gelu(y + dense(self.width, f"state_{block}", use_bias=False)(state))
            y = drop_units(y, keys, block + 2, self.dropout[1])
            small = nn.initializers.variance_scaling(0.09, "fan_in", "truncated_normal")
            x = x + dense(self.width, f"out_{block}", use_bias=False, kernel_init=small)(y)
        return drop_units(x, keys, 1, self.dropout[2])


def drop_units(x: jax.Array, keys: Keys, number: int, share: float) -> jax.Array:
    """Leaves out a share of the units of `[batch, time, unit]`, all of a window at once.

    `keys` `[batch]`, one a window, or None for none; `number` tells the calls of a network apart.
    """
    if keys is None or share == 0:
        return x

    def one(key):
        kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - share, x.shape[-1:])
        return kept.astype(x.dtype) / (1 - share)

    return x * jax.vmap(one)(keys)[:, None]


def _later(x: jax.Array, by: int) -> jax.Array:
    return jnp.pad(x[:, by:], ((0, 0), (0, by), (0, 0)))
