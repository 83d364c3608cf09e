"""Latents by the released denoiser, as fast as it allows and exactly.

What the parameters alone decide is in a plan; what the window decides is formed before the first
step; a step blends the two, opens the gates and runs the denoiser on Fourier coefficients, which
the sampler's own steps, being linear, leave as they are.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from eegsr_jax.diffusion.sample import sample
from eegsr_jax.diffusion.schedule import Level
from eegsr_jax.methods.srgdiff.condition import ConditionEncoder, blend, share
from eegsr_jax.methods.srgdiff.denoiser import (
    Denoiser,
    condition_terms,
    constant_terms,
    denoise,
    gated,
)
from eegsr_jax.nn import fourier
from eegsr_jax.typing import PyTree


def plan_steps(
    condition: ConditionEncoder, denoiser: Denoiser, params: PyTree, grid: Level, length: int
) -> PyTree:
    """All of the steps on a time grid that does not depend on the window.

    Args:
      condition: the network of the guess and of the steps.
      denoiser: the network of the noise.
      params: of both, under "condition" and "denoiser".
      grid: of integer times.
      length: samples of a latent.
    """

    def call(network: Any, part: str, method: str, *inputs: Any) -> Any:
        return network.apply({"params": params[part]}, *inputs, method=method)

    prepared = call(denoiser, "denoiser", "prepare", length)
    embedded = call(condition, "condition", "embed", jnp.asarray(grid.t))
    terms = constant_terms(prepared, embedded)
    kept = share(grid.t, prepared["enter"]["bias"].dtype)
    return {"prepared": prepared, "grid": grid._replace(t={"terms": terms, "share": kept})}


def sample_latents(plan: PyTree, guess: jax.Array, start: jax.Array, **options: Any) -> Any:
    """`[batch, time, latent]` from noise, conditioned on a guess of that shape.

    Args:
      plan: by `plan_steps`.
      guess: of `ConditionEncoder.guess`.
      start: noise at the first level of the grid.
      **options: of `diffusion.sample.sample`.

    Returns:
      The latents; with `trajectory` (latents, those after each step).
    """
    terms = condition_terms(plan["prepared"], guess)
    coefficients = fourier.coefficients(start.swapaxes(1, 2))
    found = sample(_predict, plan["prepared"], coefficients, terms, plan["grid"], **options)
    return jax.tree.map(lambda c: fourier.from_coefficients(c).swapaxes(-1, -2), found)


def _predict(prepared: PyTree, x: jax.Array, step: PyTree, terms: PyTree) -> jax.Array:
    kept = step["share"].astype(terms["value"].dtype)
    now = jax.tree.map(lambda one: one[None], step["terms"])
    return denoise(prepared, x, gated(prepared, blend(terms, now, kept)))
