"""Sampling: a denoiser, a stepper and a time grid in one `lax.scan`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eegsr_jax.diffusion.noise import noise_like, step_key
from eegsr_jax.diffusion.prediction import Prediction, noise_beside, split
from eegsr_jax.diffusion.schedule import Level, scale
from eegsr_jax.diffusion.steppers import DDIM, Stepper
from eegsr_jax.errors import ConfigError
from eegsr_jax.typing import PyTree

Denoise = Callable[[PyTree, jax.Array, PyTree, PyTree], jax.Array]


class Known(NamedTuple):
    """Entries of the clean data that are known, such as observed channels.

    Attributes:
      mask: bool, of the shape of the samples; True where known.
      value: of the shape of the samples; what it is outside the mask does not matter.
    """

    mask: jax.Array
    value: jax.Array


class Guidance(NamedTuple):
    """The condition of a denoiser under classifier-free guidance (`guided`).

    Attributes:
      cond: the condition.
      null: what stands for no condition; a pytree of the same shapes.
      weight: 0 without the condition, 1 with it, more to overdo it.
    """

    cond: PyTree
    null: PyTree
    weight: jax.Array | float


def start_like(key: jax.Array, ref: jax.Array, grid: Level) -> jax.Array:
    """`noise_like` as strong as data of variance one are at the first level of a grid."""
    first = jnp.sqrt(grid.alpha[0] ** 2 + grid.sigma[0] ** 2)
    return scale(first, noise_like(key, ref))


def sample(
    denoise: Denoise,
    params: PyTree,
    start: jax.Array,
    cond: PyTree,
    grid: Level,
    *,
    stepper: Stepper = DDIM(),
    prediction: Prediction = Prediction.EPSILON,
    key: jax.Array | None = None,
    known: Known | None = None,
    trajectory: bool = False,
) -> Any:
    """Takes `start` down a time grid.

    Nothing here knows which axes are windows: keys have the shape of leading axes, and `vmap` over
    windows is the same as a batch.

    Args:
      denoise: `(params, x, t, cond) -> output` of the shape of x; `t` is one entry of `grid.t`.
      params: handed to `denoise`.
      start: the samples at the first level, from `start_like` or the caller's; levels and samples
        have its type, so keep it float32 where the denoiser computes in less.
      cond: handed to `denoise`.
      grid: levels with a leading axis of steps + 1 entries (`grid.py`).
      stepper: DDIM, DPMSolver2M, Heun, ddpm() or any `Stepper`.
      prediction: what `denoise` says.
      key: for a stochastic stepper, not the one of `start`: one key, or keys shaped as leading axes
        of `start`. The other steppers draw nothing.
      known: entries that every prediction of the clean data is made to hold. On a grid that ends
        clean the samples hold them exactly. The rest is drawn towards them by the denoiser; it is
        not an exact draw given them.
      trajectory: also return the samples after each step.

    Returns:
      The samples at the last level; with `trajectory` (samples, `[steps, ...]` after each step),
      the memory of which is then paid.

    Raises:
      ConfigError: a stochastic stepper has no key.
    """
    if not stepper.stochastic:
        key = None
    elif key is None:
        raise ConfigError(f"{stepper} draws noise and has no key; give key=, one a window")
    dtype = start.dtype
    levels = Level(
        jax.tree.map(jnp.asarray, grid.t),
        jnp.asarray(grid.alpha, dtype),
        jnp.asarray(grid.sigma, dtype),
    )

    def predict(x, level):
        output = denoise(params, x, level.t, cond).astype(dtype)
        x0, noise = split(prediction, output, x, level)
        if known is not None:
            x0 = jnp.where(known.mask, known.value, x0)
            noise = noise_beside(x0, x, level)
        return x0, noise

    def step(state, at):
        (x, carry), (here, there, index) = state, at
        noise = None if key is None else noise_like(step_key(key, index), x)
        x, carry = stepper.step(predict, x, here, there, noise, carry)
        return (x, carry), x if trajectory else None

    here, there = (jax.tree.map(lambda a, s=s: a[s], levels) for s in (slice(-1), slice(1, None)))
    along = (here, there, jnp.arange(len(levels.sigma) - 1))
    (x, _), states = jax.lax.scan(step, (start, stepper.init(start)), along)
    return (x, states) if trajectory else x


def guided(denoise: Denoise) -> Denoise:
    """`denoise` under classifier-free guidance; its condition is then a `Guidance`.

    The network is compiled once and runs on both conditions at the same time. What it says is mixed
    whatever it predicts, because x0, noise and v are linear in one another.

    Source: Ho and Salimans, arXiv 2207.12598.
    """

    def mixed(params, x, t, guidance):
        both = jax.tree.map(lambda a, b: jnp.stack([a, b]), guidance.cond, guidance.null)
        outputs = jax.vmap(denoise, (None, None, None, 0))(params, x, t, both)
        weight = jnp.asarray(guidance.weight, outputs.dtype)
        return outputs[1] + weight * (outputs[0] - outputs[1])

    return mixed
