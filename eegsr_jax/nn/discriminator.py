"""A discriminator of patches of time: strided convolutions with batch norms.

The layers and their constants are those of `PatchDiscriminator` in MONAI GenerativeModels 0.2.3
(Apache-2.0) in one dimension.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eegsr_jax.nn.layers import conv, normal

EPSILON = 1e-5
MOMENTUM = 0.1  # the share of the new batch in the running statistics
SLOPE = 0.2


class BatchNorm(nn.Module):
    """Over batch and time, with running statistics as PyTorch keeps them.

    The collection "batch_stats" has `mean` and `var`; the running variance is the unbiased one, the
    variance that a batch is divided by is not.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, time, channel]`; in training by its own statistics, which move the running."""
        size = x.shape[-1:]
        scale = self.param("scale", _near_one, size)
        bias = self.param("bias", nn.initializers.zeros, size)
        mean = self.variable("batch_stats", "mean", jnp.zeros, size)
        var = self.variable("batch_stats", "var", jnp.ones, size)
        if train:
            now, spread = x.mean((0, 1)), x.var((0, 1))
            count = x.shape[0] * x.shape[1]
            if not self.is_initializing():
                mean.value = (1 - MOMENTUM) * mean.value + MOMENTUM * now
                unbiased = spread * (count / (count - 1))
                var.value = (1 - MOMENTUM) * var.value + MOMENTUM * unbiased
        else:
            now, spread = mean.value, var.value
        gain = scale * jax.lax.rsqrt(spread + EPSILON)
        return (x - now[None, None]) * gain[None, None] + bias[None, None]


class PatchDiscriminator(nn.Module):
    """What each layer makes of `[batch, time, channel]`; the last output are the logits.

    Attributes:
      features: of the first layer; each further one has twice as many.
      layers: between the first and the last; all but the last of them halve the rate.
      outputs: channels of the logits.
    """

    features: int
    layers: int
    outputs: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """Apply it with `mutable=["batch_stats"]` in training."""

        def layer(x, features, stride, name, bias=False):
            near = normal(0.02)
            options = {"stride": stride, "padding": ((1, 1),), "bias": bias, "dtype": self.dtype}
            return conv(x, features, 3, name=name, kernel_init=near, **options)

        found = [nn.leaky_relu(layer(x, self.features, 2, "first", bias=True), SLOPE)]
        for number in range(self.layers):
            stride = 1 if number == self.layers - 1 else 2
            x = layer(found[-1], self.features * 2 ** (number + 1), stride, f"conv_{number}")
            x = BatchNorm(name=f"norm_{number}")(x, train)
            found.append(nn.leaky_relu(x, SLOPE))
        return [*found, layer(found[-1], self.outputs, 1, "last", bias=True)]


def _near_one(key, shape, dtype=jnp.float32):
    return 1 + normal(0.02)(key, shape, dtype)
