"""Encoders of sequences: a few dilated, depth-wise separable convolutions."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class TemporalEncoder(nn.Module):
    """`[batch, time, inputs] -> [batch, time, width]`, each output within `reach` of its inputs.

    Residual blocks of normalisation over channels, a depth-wise convolution in time, GELU and a
    product over channels. The ends see zeros.

    Attributes:
      width: channels.
      taps: of each convolution, odd.
      dilations: one a block, in samples.
      dropout: share of channels left out of a block in training, all of a window at once.
    """

    width: int
    taps: int
    dilations: tuple[int, ...]
    dropout: float = 0.0

    @property
    def reach(self) -> int:
        """Samples on either side that an output depends on."""
        return self.taps // 2 * sum(self.dilations)

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Encode; with `keys` `[batch]`, one a window, some channels are dropped."""
        x = nn.Dense(self.width, precision="highest", name="inputs")(x)
        for number, dilation in enumerate(self.dilations):
            y = nn.RMSNorm(name=f"norm_{number}")(x)
            y = nn.gelu(DepthwiseConv(self.taps, dilation, name=f"time_{number}")(y))
            if keys is not None and self.dropout > 0:
                kept = _kept(keys, number, self.width, self.dropout)
                y = y * kept[:, None].astype(y.dtype)
            x = x + nn.Dense(self.width, precision="highest", use_bias=False, name=f"mix_{number}")(
                y
            )
        return nn.RMSNorm(name="norm")(x)


def _kept(keys: jax.Array, number: int, width: int, dropout: float) -> jax.Array:
    """`[batch, width]`: 0 for channels left out, else what keeps the mean."""

    def one(key):
        drawn = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - dropout, (width,))
        return drawn.astype(jnp.float32) / (1 - dropout)

    return jax.vmap(one)(keys)


class DepthwiseConv(nn.Module):
    """Each channel of `[batch, time, channel]` filtered by itself, centred, zeros at the ends.

    A sum of shifted products: on a CPU, XLA's grouped convolutions are many times slower.
    """

    taps: int
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, time, channel]` of the same shape."""
        channels, time = x.shape[-1], x.shape[1]
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=0, out_axis=())
        kernel = self.param("kernel", init, (self.taps, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        half = self.taps // 2 * self.dilation
        padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
        out = jnp.zeros_like(x) + bias[None, None]
        for tap in range(self.taps):
            piece = jax.lax.dynamic_slice_in_dim(padded, tap * self.dilation, time, axis=1)
            out = out + piece * kernel[tap][None, None]
        return out
