"""What the conditional mean leaves, drawn by diffusion (`deviation_stages` learns it).

Params used here: "white" (`whitening`), "condition" (scales of what the denoiser is told),
"denoiser" and "denoiser_gain", "spread" and "bars" (corrections on validation windows).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eegsr_jax.diffusion.grid import angle_grid
from eegsr_jax.diffusion.noise import noise_like, step_key
from eegsr_jax.diffusion.prediction import Prediction
from eegsr_jax.diffusion.sample import sample
from eegsr_jax.diffusion.schedule import Level
from eegsr_jax.diffusion.steppers import Angular
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.beyond_skip import Learner
from eegsr_jax.methods.srgdiff import whitening as wh
from eegsr_jax.methods.srgdiff.band_denoiser import CONDITIONS, BandDenoiser, conditions
from eegsr_jax.methods.srgdiff.sampling import as_plan
from eegsr_jax.methods.srgdiff.shape import call
from eegsr_jax.nn.octaves import OCTAVES
from eegsr_jax.nn.temporal import local_mean
from eegsr_jax.typing import PyTree

REACH = 24  # samples on either side over which the spread of draws is averaged


class Drawing(NamedTuple):
    """What is fixed before any params: static.

    Attributes:
      learner: of the mean.
      hidden, rank: of the denoiser.
      steps: of the sampler.
      draws: that set error bars.
    """

    learner: Learner
    hidden: int
    rank: int
    steps: int
    draws: int

    def denoiser(self, params: PyTree) -> BandDenoiser:
        """The network, for as many components as there are."""
        return BandDenoiser(params["white"]["basis"].shape[2], self.hidden, self.rank)


def initial_deviations(drawing: Drawing, key: jax.Array, geometry: Geometry) -> dict[str, Any]:
    """Params before training: white noise of no size, and bars that cannot tell."""
    targets = geometry.target.shape[0]
    missing = targets - geometry.observed.shape[0]
    white = {
        "basis": jnp.broadcast_to(jnp.eye(targets, missing), (OCTAVES, targets, missing)),
        "density": jnp.ones((OCTAVES, wh.BINS, missing)),
    }
    nothing = jnp.zeros((1, missing, 8)), jnp.zeros((1,)), jnp.zeros((1, 1, CONDITIONS))
    return {
        "white": white,
        "condition": {"mean": jnp.zeros(CONDITIONS), "scale": jnp.ones(CONDITIONS)},
        "denoiser": drawing.denoiser({"white": white}).init(key, *nothing)["params"],
        "denoiser_gain": jnp.ones(()),
        "spread": jnp.ones((targets,)),
        "bars": jnp.full((targets,), jnp.inf),
    }


def plan_sampler(drawing: Drawing, params: PyTree) -> PyTree:
    """All of the sampler that does not depend on the data."""
    own = dict(params["denoiser"])
    for name in ("gains", "step_gains"):  # both are linear in what they end in
        own[name] = jax.tree.map(lambda x: params["denoiser_gain"] * x, own[name])
    grid = angle_grid(drawing.steps)
    angles = jnp.asarray(grid.t, jnp.float32)
    steps = call(drawing.denoiser(params), own, angles, method="steps")
    further = {name: params[name] for name in ("white", "condition")}
    return {"denoiser": own, "grid": as_plan(grid, steps)} | further


def deviations(
    drawing: Drawing, plan: PyTree, components: jax.Array, seen: jax.Array, keys: jax.Array
) -> jax.Array:
    """One draw of what the mean leaves, `[batch, M, time]`.

    Args:
      drawing: static.
      plan: by `plan_sampler`.
      components: `[batch, C, time]` of the observed channels, white in space, largest first.
      seen: `[OCTAVES, M, K]`, see `whitening.coloured`.
      keys: `[batch]`, one a window.
    """
    network, own = drawing.denoiser(plan), plan["denoiser"]
    told = call(network, own, told_of(plan["condition"], components), method="condition")

    def denoise(own, x, step, told):
        now = jax.tree.map(lambda a: a[None], step)
        return call(network, own, x, now, told, method="denoise")

    shape = (components.shape[0], seen.shape[2], components.shape[2])
    like = jnp.zeros(shape) + told[:, :1, :1]  # spread over devices as the windows are
    start = wh.only_alive(plan["white"], noise_like(keys, like))
    options = {"stepper": Angular(), "prediction": Prediction.V}
    white = sample(denoise, own, start, told, Level(**plan["grid"]), **options)
    return wh.coloured(plan["white"], white, seen)


def spread(
    drawing: Drawing, plan: PyTree, components: jax.Array, seen: jax.Array, keys: jax.Array
) -> jax.Array:
    """Variance `[batch, M, time]` of some `deviations`."""

    def one(number):
        return deviations(drawing, plan, components, seen, step_key(keys, number)) ** 2

    power = jnp.mean(jax.lax.map(one, jnp.arange(drawing.draws)), 0)
    return local_mean(power.swapaxes(1, 2), REACH).swapaxes(1, 2)


def told_of(own: PyTree, components: jax.Array) -> jax.Array:
    """What the denoiser is told of the observed channels: `[batch, n, CONDITIONS]`."""
    raw = conditions(components)
    return jnp.clip((raw - own["mean"][None, None]) * own["scale"][None, None], -3.0, 3.0)


def components_of(whiten: jax.Array, observed: jax.Array) -> jax.Array:
    """`[batch, L, time] -> [batch, C, time]`: white in space, largest first."""
    return jnp.einsum("blt,lk->bkt", observed, whiten, precision="highest")
