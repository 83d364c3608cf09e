"""How much of an array is noise at each time: x = alpha x0 + sigma noise.

A schedule is a value, two tables over integer times, from clean to noise. The constructors form
them in NumPy's float64; they are rounded once, to the type of the data, where they are used:
nothing needs float64 at run time.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.typing import PyTree

Array = jax.Array | np.ndarray


class Level(NamedTuple):
    """Noise levels: x = alpha x0 + sigma noise.

    Attributes:
      t: what a denoiser is told of the level: its time, or any pytree in place of it, such as an
        embedding computed beforehand.
      alpha: `[...]`, leading axes of the data, or a scalar.
      sigma: as `alpha`.
    """

    t: PyTree
    alpha: Array
    sigma: Array


class NoiseSchedule(NamedTuple):
    """Noise levels at times 0, 1, … from clean to noise; `sigma / alpha` rises.

    Attributes:
      alpha: `[times]`.
      sigma: `[times]`.
    """

    alpha: Array
    sigma: Array

    @classmethod
    def cosine(cls, times: int = 1000, s: float = 0.02) -> NoiseSchedule:
        """The squared cosine of Nichol and Dhariwal, not clipped: time 0 has no noise at all.

        Source: arXiv 2102.09672, eq. 17.
        """
        curve = np.cos((np.arange(times) / times + s) / (1 + s) * np.pi / 2) ** 2
        return cls._variance_preserving(curve / np.cos(s / (1 + s) * np.pi / 2) ** 2)

    @classmethod
    def linear(cls, times: int = 1000, first: float = 1e-4, last: float = 2e-2) -> NoiseSchedule:
        """Variances of the steps evenly spaced from `first` to `last`.

        Source: Ho et al., arXiv 2006.11239, section 4.
        """
        return cls._variance_preserving(np.cumprod(1 - np.linspace(first, last, times)))

    @classmethod
    def edm(
        cls,
        times: int = 1000,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
    ) -> NoiseSchedule:
        """Noise added to data that are not scaled down; sigma^(1/rho) evenly spaced over time.

        Source: Karras et al., arXiv 2206.00364, eq. 5.
        """
        sigma = np.linspace(sigma_min ** (1 / rho), sigma_max ** (1 / rho), times) ** rho
        return cls(np.ones(times), sigma)

    @classmethod
    def _variance_preserving(cls, kept: np.ndarray) -> NoiseSchedule:
        return cls(np.sqrt(kept), np.sqrt(1 - kept))

    def at(self, t: jax.Array) -> Level:
        """The levels at integer times of any shape, in JAX's default float type.

        Times outside the table are taken to its ends.
        """
        alpha, sigma = (_look_up(table, t) for table in self)
        return Level(t, alpha, sigma)


def _look_up(table: Array, t: jax.Array) -> jax.Array:
    t = jnp.clip(t, 0, len(table) - 1)
    # The default float type, also of a NumPy table in float64; the result lies where t lies.
    return jnp.asarray(table, float).at[t].get(out_sharding=jax.typeof(t).sharding)


def add_noise(x0: jax.Array, noise: jax.Array, level: Level) -> jax.Array:
    """x0 `[..., any]` at noise levels `[...]`, which may differ from window to window."""
    return scale(level.alpha, x0) + scale(level.sigma, noise)


def scale(factor: Array, x: jax.Array) -> jax.Array:
    """Factor `[...]` times x `[..., any]`, in the type of x."""
    factor = jnp.asarray(factor, x.dtype)
    return jnp.expand_dims(factor, range(factor.ndim, x.ndim)) * x
