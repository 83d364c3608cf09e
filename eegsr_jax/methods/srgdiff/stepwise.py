"""A denoising step as the paper describes it: directed by a residual, modulated by the step.

The latent at a step is normalised and the residual module's answer, which way to the clean latent,
added; then the step-aware modulation scales and shifts each channel; the affine denoiser says what
of it is noise. What of the paper is known second-hand leaves much open; where it does, this is the
plainest that fits, and ours: see `docs/methods/srgdiff_paper.md`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eegsr_jax.diffusion.sample import sample
from eegsr_jax.diffusion.schedule import Level
from eegsr_jax.methods.srgdiff.affine import AffineDenoiser
from eegsr_jax.methods.srgdiff.channelwise import EPSILON
from eegsr_jax.methods.srgdiff.condition import ConditionEncoder, blend, share
from eegsr_jax.methods.srgdiff.residual import ResidualPredictor
from eegsr_jax.methods.srgdiff.sampling import as_plan
from eegsr_jax.methods.srgdiff.shape import Shape, call
from eegsr_jax.typing import PyTree


class Stepwise(nn.Module):
    """The noise in a latent at a step, given the latent of the observed channels.

    What the params alone decide is in `prepare`, what a step alone in `steps`, what a window alone
    in `windows`; what is left for each step of each window is in `denoise`.

    Attributes:
      shape: of the networks.
      residual: whether there is a residual module.
      modulation: whether there is a step-aware modulation.
    """

    shape: Shape
    residual: bool = True
    modulation: bool = True

    def setup(self):
        """Declares the networks."""
        shape = self.shape
        sizes = {name: getattr(shape, name) for name in ("latent", "units", "blocks", "taps")}
        shared = min(SHARED, shape.units)
        self.denoiser = AffineDenoiser(
            **sizes, scales=shape.scales, shared=shared, dtype=shape.dtype
        )
        self.condition = ConditionEncoder(shape.latent)
        if self.residual:
            self.direction = ResidualPredictor(shape.latent, shape.length, signed=True)
        if self.modulation:
            zeros = nn.initializers.zeros
            self.head = nn.Dense(2 * shape.latent, kernel_init=zeros, precision="highest")

    def prepare(self) -> PyTree:
        """Once."""
        return self.denoiser.prepare(self.shape.length)

    def steps(self, t: jax.Array) -> PyTree:
        """`[n, ...]` of steps `[n]`, once a step."""
        found = {"step": self.denoiser.steps(t)}
        if self.residual:
            found["direction"] = self.direction.step(t)
        if self.modulation:
            found["embedding"] = self.condition.embed(t)[:, None]
            found["share"] = share(t)[:, None, None]
        return found

    def windows(self, prepared: PyTree, z50: jax.Array) -> PyTree:
        """Of normalised latents of observed channels `[batch, length, latent]`, once a window."""
        guess = self.condition.guess(z50)
        found = {"guess": guess, "condition": self.denoiser.condition_terms(prepared, guess)}
        if self.residual:
            found["direction"] = self.direction.window(z50)
        return found

    def denoise(
        self, prepared: PyTree, x: jax.Array, step: PyTree, window: PyTree
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """What of `[batch, length, latent]` is noise, and what the modules answered.

        Args:
          prepared: by `prepare`.
          x: latents at a step.
          step: by `steps`, of one step or of as many as there are windows.
          window: by `windows`.
        """
        said, residual = {}, None
        if self.residual:
            residual = self.direction.join(window["direction"], step["direction"])
            said["residual"] = residual
            x = _normalised(x) + residual
        if self.modulation:
            blended = blend(window["guess"], step["embedding"], step["share"])
            both = self.head(blended.mean(1, keepdims=True))
            change, said["shift"] = jnp.split(both, 2, -1)  # a channel's, the same over time
            said["scale"] = 1 + change
            x = said["scale"] * x + said["shift"]
        terms = self.denoiser.residual_terms(prepared, residual)
        found = self.denoiser.denoise(prepared, x, step["step"], window["condition"], terms)
        return found, said

    def __call__(self, x: jax.Array, t: jax.Array, z50: jax.Array) -> tuple[jax.Array, PyTree]:
        """`denoise` at the steps `[batch]`."""
        prepared = self.prepare()
        return self.denoise(prepared, x, self.steps(t), self.windows(prepared, z50))


SHARED = 8  # of a channel's units, those that the other channels see


def plan_steps(network: Stepwise, params: PyTree, grid: Level) -> PyTree:
    """All of the steps on a time grid that does not depend on the window."""
    steps = call(network, params, jnp.asarray(grid.t), method="steps")
    prepared = call(network, params, method="prepare")
    return {"params": params, "prepared": prepared, "grid": as_plan(grid, steps)}


def sample_latents(
    network: Stepwise, plan: PyTree, z50: jax.Array, start: jax.Array, **options: Any
) -> Any:
    """`[batch, length, latent]` from noise, given the latent of the observed channels.

    Args:
      network: that the plan is of.
      plan: by `plan_steps`.
      z50: normalised.
      start: noise at the first level of the grid.
      **options: of `diffusion.sample.sample`.
    """

    def denoise(plan, x, step, window):
        step = jax.tree.map(lambda one: one[None], step)
        inputs = plan["prepared"], x, step, window
        return call(network, plan["params"], *inputs, method="denoise")[0]

    window = call(network, plan["params"], plan["prepared"], z50, method="windows")
    given = {name: plan[name] for name in ("params", "prepared")}
    return sample(denoise, given, start, window, Level(**plan["grid"]), **options)


def _normalised(x: jax.Array) -> jax.Array:
    """Mean 0 and variance 1 over a whole window, as in the denoisers."""
    x = x - x.mean((1, 2), keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, (1, 2), keepdims=True) + EPSILON)
