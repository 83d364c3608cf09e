"""A convolutional encoder and decoder over time: residual blocks between changes of the rate.

The blocks, their order and their constants are those of `AutoencoderKL` in MONAI
GenerativeModels 0.2.3 (Apache-2.0) in one dimension and without attention. `block_<i>` is the
original's `blocks.<i>`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eegsr_jax.nn.layers import GroupNorm, conv

EPSILON = 1e-6


class ResidualBlock(nn.Module):
    """Norm, SiLU and convolution, twice, beside the input; `[batch, time, features]`."""

    features: int
    groups: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Any number of input channels."""
        y = x
        for number in (1, 2):
            y = GroupNorm(self.groups, EPSILON, self.dtype, name=f"norm_{number}")(y)
            y = conv(nn.silu(y), self.features, 3, name=f"conv_{number}", dtype=self.dtype)
        if x.shape[-1] != self.features:
            x = conv(x, self.features, 1, name="shortcut", dtype=self.dtype)
        return x + y


class Encoder(nn.Module):
    """`[batch, time, channel] -> [batch, time // 2^(levels - 1), features]`.

    Attributes:
      features: of the output.
      widths: of the levels, finest first; each level but the last ends with half the rate.
      blocks: residual blocks of each level.
      groups: of the norms.
    """

    features: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    groups: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """An odd last sample is lost when the rate is halved."""
        x, count = conv(x, self.widths[0], 3, name="block_0", dtype=self.dtype), 1
        for level, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True)):
            for _ in range(blocks):
                x = ResidualBlock(width, self.groups, self.dtype, name=f"block_{count}")(x)
                count += 1
            if level < len(self.widths) - 1:
                # One zero behind the last sample, none before the first.
                half = {"stride": 2, "padding": ((0, 1),)}
                x = conv(x, width, 3, name=f"block_{count}", dtype=self.dtype, **half)
                count += 1
        return _last(x, self.features, self.groups, count, self.dtype)


class Decoder(nn.Module):
    """`[batch, time, channel] -> [batch, time · 2^(levels - 1), features]`.

    Attributes: as of `Encoder`, finest level first.
    """

    features: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    groups: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Coarsest level first; the rate is doubled by repeating samples."""
        x, count = conv(x, self.widths[-1], 3, name="block_0", dtype=self.dtype), 1
        for level in reversed(range(len(self.widths))):
            for _ in range(self.blocks[level]):
                width, name = self.widths[level], f"block_{count}"
                x = ResidualBlock(width, self.groups, self.dtype, name=name)(x)
                count += 1
            if level > 0:
                x = jnp.repeat(x, 2, axis=1)
                x = conv(x, self.widths[level], 3, name=f"block_{count}", dtype=self.dtype)
                count += 1
        return _last(x, self.features, self.groups, count, self.dtype)


def _last(x: jax.Array, features: int, groups: int, count: int, dtype: Any) -> jax.Array:
    """A norm and a convolution, with nothing between them."""
    x = GroupNorm(groups, EPSILON, dtype, name=f"block_{count}")(x)
    return conv(x, features, 3, name=f"block_{count + 1}", dtype=dtype)
