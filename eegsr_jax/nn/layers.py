"""Convolutions and dense layers over `[batch, time, channel]`, starting as PyTorch's do."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def uniform(fan_in: int) -> nn.initializers.Initializer:
    """Initial values between ±1/√fan_in, of weights and biases alike."""
    limit = 1 / math.sqrt(fan_in)
    return _in_a_row(lambda key, size, dtype: jax.random.uniform(key, size, dtype, -limit, limit))


def normal(spread: float) -> nn.initializers.Initializer:
    """Normal initial values."""
    return _in_a_row(lambda key, size, dtype: spread * jax.random.normal(key, size, dtype))


def _in_a_row(draw) -> nn.initializers.Initializer:
    """Draws as many as the next power of two, and keeps what is needed.

    Each shape that is drawn is a program that takes up to a second to compile: networks have
    dozens of shapes, and few powers of two.
    """

    def init(key, shape, dtype=jnp.float32):
        size = math.prod(shape)
        return draw(key, (1 << (size - 1).bit_length(),), dtype)[:size].reshape(shape)

    return init


def conv(
    x: jax.Array,
    features: int,
    width: int,
    *,
    name: str,
    stride: int = 1,
    padding: str | tuple[tuple[int, int]] = "SAME",
    bias: bool = True,
    kernel_init: nn.initializers.Initializer | None = None,
    dtype: Any = None,
) -> jax.Array:
    """`[batch, time, inputs] -> [batch, time / stride, features]`; call it in a compact module."""
    start = uniform(x.shape[-1] * width)
    return nn.Conv(
        features,
        (width,),
        strides=(stride,),
        padding=padding,
        use_bias=bias,
        kernel_init=kernel_init or start,
        bias_init=start,
        precision="highest",
        dtype=dtype,
        name=name,
    )(x)


def dense(x: jax.Array, features: int, *, name: str, dtype: Any = None) -> jax.Array:
    """`[..., inputs] -> [..., features]`; call it in a compact module."""
    start = uniform(x.shape[-1])
    return nn.Dense(
        features, kernel_init=start, bias_init=start, precision="highest", dtype=dtype, name=name
    )(x)


def product(subscripts: str, a: jax.Array, b: jax.Array, dtype: Any = None) -> jax.Array:
    """An einsum of two arrays of one type, formed in `dtype` and summed in theirs."""
    own = dtype or a.dtype
    found = jnp.einsum(
        subscripts,
        a.astype(own),
        b.astype(own),
        precision="highest",
        preferred_element_type=a.dtype,
    )
    return found.astype(a.dtype)


class GroupNorm(nn.Module):
    """Over time and the channels of a group; `[batch, time, channel]`.

    Computed in float32 or better, as flax's own, which admits neither float64 nor bfloat16 under
    strict promotion of types.

    Attributes:
      groups: of channels.
      epsilon: added to the variance.
      dtype: of the result; None: that of the input.
    """

    groups: int
    epsilon: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, time, channel]`."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        y = x.astype(scale.dtype).reshape(*x.shape[:-1], self.groups, -1)
        y = y - y.mean((1, 3), keepdims=True)
        y = y / jnp.sqrt(jnp.mean(y**2, (1, 3), keepdims=True) + self.epsilon)
        y = y.reshape(x.shape) * scale[None, None] + bias[None, None]
        return y.astype(self.dtype or x.dtype)
