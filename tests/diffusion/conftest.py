"""Data whose denoiser is known: a Gaussian with correlated entries."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.diffusion.grid import karras_grid
from eegsr_jax.diffusion.prediction import Prediction, target
from eegsr_jax.diffusion.schedule import Level, NoiseSchedule


class Gaussian(NamedTuple):
    """N(mean, basis diag(variance) basisᵀ) over the last axis: the parameters of its denoiser."""

    mean: np.ndarray
    basis: np.ndarray
    variance: np.ndarray

    @property
    def covariance(self):
        return (self.basis * self.variance) @ self.basis.T

    def denoiser(self, kind: Prediction = Prediction.EPSILON):
        """The exact conditional mean; it is told (alpha, sigma) for the time (`told`)."""

        def denoise(params, x, t, cond):
            del cond
            alpha, sigma = t
            gain = alpha * params.variance / (alpha**2 * params.variance + sigma**2)
            mean, gain = (jnp.broadcast_to(a, x.shape) for a in (params.mean, gain))
            x0 = mean + ((x - alpha * mean) @ params.basis * gain) @ params.basis.T
            return target(kind, x0, (x - alpha * x0) / sigma, Level(t, alpha, sigma))

        return denoise

    def flow(self, start, grid: Level):
        """Where the probability flow takes `start` by the end of the grid, in float64."""
        factor = np.sqrt(
            (grid.alpha[-1] ** 2 * self.variance + grid.sigma[-1] ** 2)
            / (grid.alpha[0] ** 2 * self.variance + grid.sigma[0] ** 2)
        )
        along = (np.asarray(start, float) - grid.alpha[0] * self.mean) @ self.basis
        return grid.alpha[-1] * self.mean + (along * factor) @ self.basis.T

    def params(self):
        return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), self)


def told(grid: Level) -> Level:
    """The grid with its levels in place of its times, for the denoiser of `gaussian`."""
    return grid._replace(t=(np.float32(grid.alpha), np.float32(grid.sigma)))


@pytest.fixture(scope="session")
def gaussian() -> Gaussian:
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    return Gaussian(np.array([0.5, -1.0, 0.2]), basis, np.array([2.0, 0.7, 0.1]))


@pytest.fixture(scope="session")
def oracle_grid():
    """(schedule, steps, spacing) -> a grid that tells the denoiser of `gaussian` its levels."""
    return lambda schedule, steps, spacing=karras_grid: told(spacing(schedule, steps))


SCHEDULES = {
    "cosine": NoiseSchedule.cosine(8193),
    "linear": NoiseSchedule.linear(8193, 1e-4 / 8, 2e-2 / 8),
    "edm": NoiseSchedule.edm(8193),
}


@pytest.fixture(scope="session", params=SCHEDULES)
def schedule(request) -> NoiseSchedule:
    """With as many times as rounding to them does not hide a stepper's order."""
    return SCHEDULES[request.param]
