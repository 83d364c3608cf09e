"""From one noise level to a lower one.

A stepper is a frozen dataclass, equal to any other with the same fields, so it may be a static
argument of `jax.jit`. `predict(x, level) -> (x0, noise)` is the denoiser as `sample` wraps it; both
levels are scalars. Steppers that are not `stochastic` get no noise, and none is drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from eegsr_jax.diffusion.schedule import Level
from eegsr_jax.errors import ConfigError

Predict = Callable[[jax.Array, Level], tuple[jax.Array, jax.Array]]


class Stepper(Protocol):
    """What `sample` asks of a stepper."""

    @property
    def stochastic(self) -> bool:
        """Whether `step` wants noise."""
        ...

    def init(self, x: jax.Array) -> Any:
        """What the first step carries over from the steps before it."""
        ...

    def step(
        self,
        predict: Predict,
        x: jax.Array,
        here: Level,
        there: Level,
        noise: jax.Array | None,
        carry: Any,
    ) -> tuple[jax.Array, Any]:
        """The samples at level `there`, and what the next step carries over."""
        ...


@dataclasses.dataclass(frozen=True)
class DDIM:
    """First order; one evaluation a step. For any alpha and sigma, not only variance-preserving.

    Attributes:
      eta: share of the noise of the ancestral sampler: 0 draws none, 1 is DDPM.

    Source: Song et al., arXiv 2010.02502, eq. 12 and 16.
    """

    eta: float = 0.0

    def __post_init__(self):
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta is {self.eta} in DDIM; expected 0 (no noise) to 1 (DDPM)")

    @property
    def stochastic(self) -> bool:
        """Whether `step` wants noise."""
        return self.eta > 0

    def init(self, x: jax.Array) -> None:
        """Nothing is carried over."""
        return None

    def step(self, predict, x, here, there, noise, carry):
        """As `Stepper.step`."""
        x0, epsilon = predict(x, here)
        if noise is None:
            return there.alpha * x0 + there.sigma * epsilon, carry
        kept = (here.alpha * there.sigma / (there.alpha * here.sigma)) ** 2
        fresh = self.eta**2 * (1 - kept)
        mixed = jnp.sqrt(1 - fresh) * epsilon + jnp.sqrt(fresh) * noise
        return there.alpha * x0 + there.sigma * mixed, carry


def ddpm() -> DDIM:
    """The ancestral sampler: a draw from q(there | here, x0), which DDIM with eta 1 is.

    Source: Ho et al., arXiv 2006.11239, eq. 6 and 7.
    """
    return DDIM(eta=1.0)


@dataclasses.dataclass(frozen=True)
class DPMSolver2M:
    """DPM-Solver++ (2M): second order by the step before; one evaluation a step.

    The first step and one to a clean level are of first order.

    Source: Lu et al., arXiv 2211.01095, algorithm 2.
    """

    stochastic = False

    def init(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(x0 of the step before, its length in log(alpha / sigma)): as if infinitely far back."""
        return jnp.zeros_like(x), jnp.asarray(jnp.inf, x.dtype)

    def step(self, predict, x, here, there, noise, carry):
        """As `Stepper.step`."""
        before, length_before = carry
        x0, _ = predict(x, here)
        clean = there.sigma == 0
        sigma = jnp.where(clean, here.sigma, there.sigma)
        length = jnp.log(there.alpha * here.sigma / (here.alpha * sigma))
        ahead = jnp.where(clean, 0, length / (2 * length_before))
        middle = x0 + ahead * (x0 - before)
        # exp(-length), which is zero for a clean level
        left = here.alpha * there.sigma / (there.alpha * here.sigma)
        x = there.sigma / here.sigma * x + there.alpha * (1 - left) * middle
        return x, (x0, length)


@dataclasses.dataclass(frozen=True)
class Heun:
    """Second order by the slopes at both ends; two evaluations a step, one where it ends clean.

    The trapezoidal rule for x / alpha over sigma / alpha, which is EDM's for its schedule and holds
    for any other with alpha > 0.

    Source: Karras et al., arXiv 2206.00364, algorithm 1.
    """

    stochastic = False

    def init(self, x: jax.Array) -> None:
        """Nothing is carried over."""
        return None

    def step(self, predict, x, here, there, noise, carry):
        """As `Stepper.step`."""
        x0, epsilon = predict(x, here)
        euler = there.alpha * x0 + there.sigma * epsilon

        def corrected():
            _, at_end = predict(euler, there)
            mean = (epsilon + at_end) / 2
            return there.alpha / here.alpha * (x - here.sigma * mean) + there.sigma * mean

        return jax.lax.cond(there.sigma > 0, corrected, lambda: euler), carry


@dataclasses.dataclass(frozen=True)
class Angular:
    """Over the angle of a variance-preserving schedule: second order by the step before.

    With alpha = cos a and sigma = sin a, dx/da is v = alpha noise - sigma x0. Of white data of
    variance one v says nothing, wherever x is: this stepper leaves them as they are in any number
    of steps, where DDIM loses variance. One evaluation a step; the first step is of first order.

    Source: Adams and Bashforth's two-step rule, for the angle of arXiv 2202.00512.
    """

    stochastic = False

    def init(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(v of the step before, its length): as if infinitely far back."""
        return jnp.zeros_like(x), jnp.asarray(-jnp.inf, x.dtype)

    def step(self, predict, x, here, there, noise, carry):
        """As `Stepper.step`."""
        before, length_before = carry
        x0, epsilon = predict(x, here)
        v = here.alpha * epsilon - here.sigma * x0
        length = jnp.arctan2(there.sigma, there.alpha) - jnp.arctan2(here.sigma, here.alpha)
        return x + length * (v + length / (2 * length_before) * (v - before)), (v, length)
