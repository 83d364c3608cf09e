"""The residual module: which way from the latent of the few to that of the many.

As released it ends in a norm and a rectifier, so that it never points down and is as long at every
step, and nothing ever calls it. The paper's has to point any way and to vanish with the noise:
`signed`, it ends in a convolution.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eegsr_jax.nn.embedding import sinusoidal
from eegsr_jax.nn.layers import GroupNorm, conv, dense, uniform

EPSILON = 1e-5
GROUPS = 4


class ResidualPredictor(nn.Module):
    """From a latent `[batch, length, latent]` and a step.

    The first convolution runs over the latent and over the step, and is linear: `window` and
    `step` are its two halves.

    Attributes:
      latent: channels.
      length: samples of the latent: the embedding of a step has one value for each.
      size: of the sinusoidal embedding of a step.
      dtype: in which it computes; None: that of inputs and parameters.
      signed: without the last norm and rectifier.
    """

    latent: int = 32
    length: int = 400
    size: int = 128
    dtype: Any = None
    signed: bool = False

    def setup(self):
        """Declares the networks."""
        self.window_net = _Half(self.latent, True, self.dtype)
        self.step_net = _Step(self.latent, self.length, self.size, self.dtype)
        self.rest = _Rest(self.latent, self.dtype, self.signed)

    def window(self, z: jax.Array) -> jax.Array:
        """Once a window."""
        return self.window_net(z)

    def step(self, t: jax.Array) -> jax.Array:
        """`[n] -> [n, length, latent]`, once a step."""
        return self.step_net(t)

    def join(self, window: jax.Array, step: jax.Array) -> jax.Array:
        """The residual `[batch, length, latent]`; never negative unless `signed`."""
        return self.rest(window + step)

    def __call__(self, z: jax.Array, t: jax.Array) -> jax.Array:
        """The residual at the steps `[batch]`."""
        return self.join(self.window(z), self.step(t))


class _Half(nn.Module):
    """Half of a convolution over twice as many channels."""

    latent: int
    bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):
        start = uniform(2 * self.latent * 3)
        options = {"bias": self.bias, "kernel_init": start, "dtype": self.dtype}
        return conv(x, self.latent, 3, name="conv", **options)


class _Step(nn.Module):
    latent: int
    length: int
    size: int
    dtype: Any

    @nn.compact
    def __call__(self, t):
        waves = sinusoidal(t, self.size, cosine_first=False, dtype=self.dtype or jnp.float32)
        x = nn.relu(dense(waves, self.length * self.latent, name="dense", dtype=self.dtype))
        x = x.reshape(*t.shape, self.length, self.latent)
        return _Half(self.latent, False, self.dtype, name="half")(x)


class _Rest(nn.Module):
    latent: int
    dtype: Any
    signed: bool

    @nn.compact
    def __call__(self, x):
        def norm(x, name):
            return GroupNorm(GROUPS, EPSILON, self.dtype, name=name)(x)

        x = nn.relu(norm(x, "norm_1"))
        x = conv(x, self.latent, 3, name="conv", dtype=self.dtype)
        return x if self.signed else nn.relu(norm(x, "norm_2"))
