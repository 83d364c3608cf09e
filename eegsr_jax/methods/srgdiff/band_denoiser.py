"""The denoiser of white residuals: a gain for each band of frequency, over time.

What a linear map leaves of EEG, whitened, is nearly Gaussian noise: what is left to know of it is
how strong it is just now, in which band, which the step, the given channels and the noisy residual
itself tell. So the network sets gains, and v = sum of gain · band is odd in x: draws lie evenly
about the mean, whatever was learned. All gains begin at zero, which is exact for white noise.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from eegsr_jax.nn.octaves import OCTAVES, octave_shares, octaves
from eegsr_jax.nn.temporal import drop_units, local_mean
from eegsr_jax.typing import PyTree

REACHES = (16, 48)  # samples on either side over which power is averaged
STRIDE = 8  # samples from one gain to the next
GROUP = 4  # the largest and the smallest components, by themselves
CONDITIONS = 3 * OCTAVES * len(REACHES)
_WAVES = 4


class BandDenoiser(nn.Module):
    """v of `[batch, K, time]` at an angle, given the powers of the observed channels.

    Attributes:
      hidden: units.
      rank: of the gains over components.
      components: K.
      dropout: share of the conditions and of the units that is left out in training.
    """

    components: int
    hidden: int = 48
    rank: int = 4
    dropout: float = 0.2

    def setup(self):
        """Declares the parameters."""
        gains = OCTAVES * self.rank

        def dense(size, **options):
            return nn.Dense(size, precision="highest", **options)

        self.inputs, self.power = dense(self.hidden), dense(self.hidden, use_bias=False)
        self.second = dense(self.hidden)
        self.step_first, self.step_second = (dense(self.hidden, use_bias=False) for _ in range(2))
        zeros = nn.initializers.zeros
        self.gains = dense(gains, kernel_init=zeros)
        self.step_gains = dense(gains, use_bias=False, kernel_init=zeros)
        # The first of the spread is common to all components.
        self.spread = self.param("spread", _spread, (self.rank, self.components))

    def steps(self, angle: jax.Array) -> dict[str, jax.Array]:
        """What the angles `[n]` alone decide, once a step."""
        multiples = angle[:, None] * jnp.arange(1, _WAVES + 1, dtype=angle.dtype)[None]
        waves = jnp.concatenate([jnp.sin(multiples), jnp.cos(multiples)], -1)
        return {
            "first": self.step_first(waves),
            "second": self.step_second(waves),
            "gains": self.step_gains(waves),
            "size": jnp.sin(2 * angle),  # of v, at most, where the variance is not one
        }

    def condition(self, condition: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """`[batch, n, hidden]` of `conditions`, once a window."""
        return self.inputs(drop_units(condition, keys, 0, self.dropout))

    def denoise(
        self, x: jax.Array, step: PyTree, condition: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        """The v `[batch, K, time]` of `[batch, K, time]`; `step` has an axis of 1 or batch."""
        bands = octaves(x)
        share = octave_shares(x.shape[-1])
        power = jnp.mean(bands**2, 2).transpose(1, 2, 0) / share[None, None]
        seen = jnp.log(strided(power) + 1e-2)
        hidden = nn.gelu(condition + self.power(seen) + step["first"][:, None])
        hidden = hidden + nn.gelu(self.second(hidden) + step["second"][:, None])
        hidden = drop_units(hidden, keys, 1, self.dropout)
        gains = (self.gains(hidden) + step["gains"][:, None]) * step["size"][:, None, None]
        gains = gains.reshape(*gains.shape[:2], OCTAVES, self.rank)
        gains = jnp.einsum("bnor,rk->obkn", gains, self.spread, precision="highest")
        gains = jnp.repeat(gains, STRIDE, -1)[..., : x.shape[-1]]
        return jnp.sum(gains * bands, 0)

    def __call__(self, x: jax.Array, angle: jax.Array, condition: jax.Array) -> jax.Array:
        """The v at the angles `[batch]`."""
        return self.denoise(x, self.steps(angle), self.condition(condition))


def conditions(components: jax.Array) -> jax.Array:
    """`[batch, C, time]`, largest first, `-> [batch, n, CONDITIONS]`: log powers in octaves."""
    squares = octaves(components) ** 2
    groups = [squares[:, :, :GROUP], squares[:, :, -GROUP:], squares]
    power = jnp.concatenate([group.mean(2) for group in groups])
    share = jnp.tile(octave_shares(components.shape[-1]), len(groups))
    return jnp.log(strided(power.transpose(1, 2, 0) / share[None, None]) + 1e-3)


def strided(power: jax.Array) -> jax.Array:
    """`[batch, time, C] -> [batch, n, C · REACHES]`: means around every STRIDE-th sample."""
    time = power.shape[1]
    at = jnp.minimum(jnp.arange(-(-time // STRIDE)) * STRIDE + STRIDE // 2, time - 1)
    means = [local_mean(power, reach)[:, at] for reach in REACHES]
    return jnp.concatenate(means, -1)


def _spread(key, shape, dtype=jnp.float32):
    return jax.random.normal(key, shape, dtype).at[0].set(1.0)
