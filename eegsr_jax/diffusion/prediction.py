"""What a denoiser predicts, and how that is read as clean data and noise."""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp

from eegsr_jax.diffusion.schedule import Level, scale


class Prediction(enum.Enum):
    """The noise, the clean data, or v = alpha noise - sigma x0 (arXiv 2202.00512)."""

    EPSILON = "epsilon"
    X0 = "x0"
    V = "v"


def target(kind: Prediction, x0: jax.Array, noise: jax.Array, level: Level) -> jax.Array:
    """What a denoiser of this kind should say of `add_noise(x0, noise, level)`."""
    match kind:
        case Prediction.EPSILON:
            return noise
        case Prediction.X0:
            return x0
        case Prediction.V:
            return scale(level.alpha, noise) - scale(level.sigma, x0)


def split(
    kind: Prediction, output: jax.Array, x: jax.Array, level: Level
) -> tuple[jax.Array, jax.Array]:
    """Reads x as alpha x0 + sigma noise, by what the denoiser said of it: (x0, noise).

    EPSILON needs alpha > 0; v is read for any alpha and sigma, not only where their squares add to
    one.
    """
    match kind:
        case Prediction.EPSILON:
            return scale(1 / level.alpha, x - scale(level.sigma, output)), output
        case Prediction.X0:
            return output, noise_beside(output, x, level)
        case Prediction.V:
            power = level.alpha**2 + level.sigma**2
            x0 = scale(level.alpha / power, x) - scale(level.sigma / power, output)
            return x0, scale(level.sigma / power, x) + scale(level.alpha / power, output)


def noise_beside(x0: jax.Array, x: jax.Array, level: Level) -> jax.Array:
    """The noise that makes x of x0; finite where the level has none."""
    sigma = jnp.where(level.sigma > 0, level.sigma, 1)
    return scale(1 / sigma, x - scale(level.alpha, x0))
