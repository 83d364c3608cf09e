"""Latents by the released denoiser, as fast as it allows and exactly.

What the parameters alone decide is in a plan; what the window decides is formed before the first
step; a step blends the two, opens the gates and runs the denoiser on Fourier coefficients, which
the sampler's own steps, being linear, leave as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
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
from eegsr_jax.methods.srgdiff.shape import call
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
    prepared = call(denoiser, params["denoiser"], length, method="prepare")
    embedded = call(condition, params["condition"], jnp.asarray(grid.t), method="embed")
    terms = constant_terms(prepared, embedded)
    kept = share(grid.t, prepared["enter"]["bias"].dtype)
    return {"prepared": prepared, "grid": as_plan(grid, {"terms": terms, "share": kept})}


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

    def sampled(guess, start):
        terms = condition_terms(plan["prepared"], guess)
        coefficients = fourier.coefficients(start.swapaxes(1, 2))
        grid = Level(**plan["grid"])
        found = sample(_predict, plan["prepared"], coefficients, terms, grid, **options)
        return jax.tree.map(lambda c: fourier.from_coefficients(c).swapaxes(-1, -2), found)

    return sampled(guess, start) if options else few_at_a_time(sampled, guess, start)


def few_at_a_time(function: Callable[..., jax.Array], *windows: jax.Array) -> jax.Array:
    """`function` of arrays `[batch, ...]`; a CPU does as many windows at a time as it has cores.

    What one operation writes for a whole batch the next one has to read from memory; that of a few
    windows it finds in caches, and memory does not grow with the batch. Batches that are spread
    over devices, or whose size is not known yet, are left whole.
    """
    batch, spread = windows[0].shape[0], not jax.typeof(windows[0]).sharding.mesh.empty
    if spread or not isinstance(batch, int):
        return function(*windows)
    few = max(n for n in range(1, (os.cpu_count() or 1) + 1) if batch % n == 0)
    if few == batch:
        return function(*windows)

    def in_turn(*windows):
        pieces = tuple(w.reshape(-1, few, *w.shape[1:]) for w in windows)
        found = jax.lax.map(lambda piece: function(*piece), pieces)
        return found.reshape(batch, *found.shape[2:])

    return jax.lax.platform_dependent(*windows, cpu=in_turn, default=function)


def as_plan(grid: Level, steps: PyTree) -> dict[str, Any]:
    """A grid as plans hold it, with what is known of its steps in the place of their times."""
    levels = {name: jnp.asarray(getattr(grid, name), float) for name in ("alpha", "sigma")}
    return {"t": steps} | levels


def _predict(prepared: PyTree, x: jax.Array, step: PyTree, terms: PyTree) -> jax.Array:
    kept = step["share"].astype(terms["value"].dtype)
    now = jax.tree.map(lambda one: one[None], step["terms"])
    return denoise(prepared, x, gated(prepared, blend(terms, now, kept)))
