"""The condition of the denoiser: a guess of the latent of all channels, blended with the step."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eegsr_jax.nn.embedding import sinusoidal
from eegsr_jax.nn.layers import conv, dense
from eegsr_jax.typing import PyTree

HIDDEN = 64
STEPS = 1000
FADE, LEAST = 0.2, 0.1  # how much of the guess the last step loses; what it keeps in any case


class ConditionEncoder(nn.Module):
    """From the latent of the observed channels; `guess` does not depend on the step.

    Attributes:
      latent: channels.
      size: of the sinusoidal embedding of a step.
      dtype: in which it computes; None: that of inputs and parameters.
    """

    latent: int = 32
    size: int = 64
    dtype: Any = None

    def setup(self):
        """Declares the networks."""
        self.guess_net = _Guess(self.latent, self.dtype)
        self.step_net = _Step(self.latent, self.size, self.dtype)

    def guess(self, z: jax.Array) -> jax.Array:
        """`[batch, time, latent]`, once a window."""
        return self.guess_net(z)

    def embed(self, t: jax.Array) -> jax.Array:
        """`[...] -> [..., latent]`, once a step."""
        return self.step_net(t)

    def __call__(self, z: jax.Array, t: jax.Array) -> jax.Array:
        """The condition of `[batch, time, latent]` at the steps `[batch]`."""
        return blend(self.guess(z), self.embed(t)[:, None], share(t, z.dtype)[:, None, None])


def share(t: Any, dtype: Any = jnp.float32) -> jax.Array:
    """`[...]`: how much of the condition at the steps t is the guess; all of it at 0."""
    return jnp.clip(1 - FADE / STEPS * jnp.asarray(t).astype(dtype), LEAST, 1.0)


def blend(window: PyTree, step: PyTree, share: jax.Array) -> PyTree:
    """Of a guess and the embedding of a step, or of anything that is linear in each of them."""
    return jax.tree.map(lambda w, s: share * w + (1 - share) * s, window, step)


class _Guess(nn.Module):
    latent: int
    dtype: Any

    @nn.compact
    def __call__(self, z):
        hidden = nn.relu(conv(z, HIDDEN, 3, name="first", dtype=self.dtype))
        return conv(hidden, self.latent, 3, name="second", dtype=self.dtype)


class _Step(nn.Module):
    latent: int
    size: int
    dtype: Any

    @nn.compact
    def __call__(self, t):
        waves = sinusoidal(t, self.size, cosine_first=False, dtype=self.dtype or jnp.float32)
        return dense(waves, self.latent, name="dense", dtype=self.dtype)
