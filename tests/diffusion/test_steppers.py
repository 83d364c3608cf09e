"""Steppers on a Gaussian whose flow and law are known, and against the formulas of their papers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.diffusion.grid import angle_grid, even_grid
from eegsr_jax.diffusion.prediction import Prediction
from eegsr_jax.diffusion.sample import sample, start_like
from eegsr_jax.diffusion.schedule import Level, NoiseSchedule
from eegsr_jax.diffusion.steppers import DDIM, Angular, DPMSolver2M, Heun, ddpm
from eegsr_jax.errors import ConfigError

DETERMINISTIC = [DDIM(), DPMSolver2M(), Heun()]
STOCHASTIC = [ddpm(), DDIM(eta=0.5)]


def name(stepper):
    return repr(stepper).partition(".")[0]


def run(gaussian, grid, start, stepper, kind=Prediction.EPSILON, key=None):
    denoise = gaussian.denoiser(kind)
    return sample(
        denoise, gaussian.params(), start, None, grid, stepper=stepper, prediction=kind, key=key
    )


# ------------------------------------------------------------------------------- the known Gaussian


@pytest.mark.parametrize("stepper", DETERMINISTIC, ids=name)
def test_the_error_falls_at_the_order_of_the_stepper(gaussian, schedule, oracle_grid, stepper):
    errors = []
    for steps in (64, 128):
        grid = oracle_grid(schedule, steps)
        start = start_like(jax.random.key(0), jnp.zeros((64, 3)), grid)
        found = run(gaussian, grid, start, stepper)
        errors.append(np.sqrt(np.mean((found - gaussian.flow(start, grid)) ** 2)))
    order = np.log2(errors[0] / errors[1])
    assert order == pytest.approx(1 if stepper == DDIM() else 2, abs=0.15)
    assert errors[-1] < (0.05 if stepper == DDIM() else 0.005)


@pytest.mark.parametrize("schedule", ["cosine"], indirect=True)
@pytest.mark.parametrize("stepper", DETERMINISTIC, ids=name)
def test_what_is_predicted_does_not_matter(gaussian, schedule, oracle_grid, stepper):
    grid = oracle_grid(schedule, 16)
    start = start_like(jax.random.key(1), jnp.zeros((8, 3)), grid)
    noise, x0, v = (run(gaussian, grid, start, stepper, kind) for kind in Prediction)
    # Noise says little of the data where there is nearly nothing else: 1e-7 of sigma / alpha.
    np.testing.assert_allclose(x0, noise, atol=2e-3)
    np.testing.assert_allclose(x0, v, atol=1e-4)


@pytest.mark.parametrize("stepper", DETERMINISTIC, ids=name)
def test_samples_have_the_mean_and_covariance_of_the_data(gaussian, schedule, oracle_grid, stepper):
    """Exactly: the steps are affine in the start, and so is what becomes of its law."""
    grid = oracle_grid(schedule, 100)
    alpha, sigma = grid.alpha[0], grid.sigma[0]
    end = jax.jit(lambda start: run(gaussian, grid, start, stepper, Prediction.X0))
    linear = np.asarray(jax.jacobian(end)(jnp.zeros(3)), float)
    spread = linear @ (alpha**2 * gaussian.covariance + sigma**2 * np.eye(3)) @ linear.T
    assert np.abs(spread - gaussian.covariance).max() < (0.2 if stepper == DDIM() else 0.02)
    centre = end(jnp.asarray(alpha * gaussian.mean, jnp.float32))
    assert np.abs(centre - gaussian.mean).max() < 1e-5


@pytest.mark.parametrize("schedule", ["cosine", "edm"], indirect=True)
@pytest.mark.parametrize("stepper", STOCHASTIC, ids=name)
def test_stochastic_samples_have_the_law_of_the_data(gaussian, schedule, oracle_grid, stepper):
    grid, windows = oracle_grid(schedule, 150, even_grid), 20_000
    start_key, key = jax.random.split(jax.random.key(2))
    start = start_like(start_key, jnp.zeros((windows, 3)), grid)
    found = np.asarray(run(gaussian, grid, start, stepper, Prediction.X0, key), float)
    assert np.abs(found.mean(0) - gaussian.mean).max() < 0.03
    assert np.abs(np.cov(found.T) - gaussian.covariance).max() < 0.15
    # not by carrying the start through: that is what a flow does
    flow = np.corrcoef(found[:, 0], gaussian.flow(start, grid)[:, 0])[0, 1]
    assert flow < (0.1 if stepper.eta == 1 else 0.9)


# ------------------------------------------------------------------------------ over the angle


def test_over_the_angle_the_error_falls_at_second_order(gaussian):
    errors = []
    for steps in (32, 64):
        grid = angle_grid(steps)
        alpha, sigma = (np.float32(x) for x in (grid.alpha, grid.sigma))
        start = start_like(jax.random.key(0), jnp.zeros((64, 3)), grid)
        grid = grid._replace(t=(alpha, sigma))
        found = run(gaussian, grid, start, Angular(), Prediction.V)
        errors.append(np.sqrt(np.mean((found - gaussian.flow(start, grid)) ** 2)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)
    assert errors[-1] < 0.02


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_white_data_of_variance_one_stay_as_they_are_in_any_number_of_steps(steps):
    start = jax.random.normal(jax.random.key(0), (4, 9))
    options = {"stepper": Angular(), "prediction": Prediction.V}
    nothing = sample(lambda p, x, t, c: 0 * x, {}, start, None, angle_grid(steps), **options)
    np.testing.assert_allclose(nothing, start, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="no steps"):
        angle_grid(0)


def test_a_step_over_the_angle_is_adams_and_bashforths():
    here, there, length_before = 1.1, 0.7, -0.5
    step = Step((np.cos(here), np.sin(here)), (np.cos(there), np.sin(there)))
    v = np.cos(here) * step.epsilon - np.sin(here) * step.x0
    length = there - here
    # The line through v here and before, integrated over the step.
    expected = step.x + length * v + length**2 / (2 * length_before) * (v - step.before)
    carry = jnp.asarray(step.before), jnp.float32(length_before)
    np.testing.assert_allclose(step.take(Angular(), carry), expected, rtol=1e-5, atol=1e-6)
    first = step.take(Angular(), Angular().init(jnp.asarray(step.x)))
    np.testing.assert_allclose(first, step.x + length * v, rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------- formulas of the papers


class Step:
    """One step between two levels from a fixed x, predictions and noise."""

    def __init__(self, here, there):
        arrays = np.random.default_rng(3).standard_normal((4, 5)).astype(np.float32)
        self.x, self.x0, self.noise, self.before = arrays
        self.here, self.there = Level(None, *here), Level(None, *there)
        self.epsilon = (self.x - here[0] * self.x0) / here[1]

    def take(self, stepper, carry=None, noise=None):
        levels = (jax.tree.map(jnp.float32, level) for level in (self.here, self.there))
        arrays = (jnp.asarray(a) for a in (self.x0, self.epsilon))
        pair = tuple(arrays)
        return stepper.step(lambda x, level: pair, jnp.asarray(self.x), *levels, noise, carry)[0]


def test_ddpm_is_the_posterior_of_its_paper():
    """Ho et al., eq. 6 and 7, in their alpha, beta and cumulative alpha."""
    kept, kept_before = 0.4, 0.55
    step = Step(np.sqrt([kept, 1 - kept]), np.sqrt([kept_before, 1 - kept_before]))
    alpha = kept / kept_before
    mean = np.sqrt(kept_before) * (1 - alpha) / (1 - kept) * step.x0
    mean = mean + np.sqrt(alpha) * (1 - kept_before) / (1 - kept) * step.x
    variance = (1 - kept_before) / (1 - kept) * (1 - alpha)
    found = step.take(ddpm(), noise=jnp.asarray(step.noise))
    np.testing.assert_allclose(found, mean + np.sqrt(variance) * step.noise, rtol=1e-5, atol=1e-6)


def test_dpm_solver_is_algorithm_2_of_its_paper():
    step = Step((0.5, 0.8), (0.7, 0.6))  # any alpha and sigma, not only on a circle
    length, length_before = np.log(0.7 / 0.6) - np.log(0.5 / 0.8), 0.3
    ratio = length_before / length
    middle = (1 + 1 / (2 * ratio)) * step.x0 - 1 / (2 * ratio) * step.before
    expected = 0.6 / 0.8 * step.x - 0.7 * np.expm1(-length) * middle
    carry = jnp.asarray(step.before), jnp.float32(length_before)
    np.testing.assert_allclose(step.take(DPMSolver2M(), carry), expected, rtol=1e-5, atol=1e-6)
    first = step.take(DPMSolver2M(), DPMSolver2M().init(jnp.asarray(step.x)))
    np.testing.assert_allclose(first, step.take(DDIM()), rtol=1e-5, atol=1e-6)


def test_heun_is_algorithm_1_of_edm(gaussian, oracle_grid):
    schedule = NoiseSchedule.edm(times=6)
    grid = oracle_grid(schedule, 6)
    variance = gaussian.variance

    def clean(x, sigma):
        along = (x - gaussian.mean) @ gaussian.basis * (variance / (variance + sigma**2))
        return gaussian.mean + along @ gaussian.basis.T

    start = np.random.default_rng(4).standard_normal((2, 3)) * 80
    x = start
    for here, there in zip(grid.sigma[:-1], grid.sigma[1:], strict=True):
        slope = (x - clean(x, here)) / here
        euler = x + (there - here) * slope
        if there > 0:
            slope = (slope + (euler - clean(euler, there)) / there) / 2
        x = x + (there - here) * slope
    found = run(gaussian, grid, jnp.asarray(start, jnp.float32), Heun(), Prediction.X0)
    np.testing.assert_allclose(found, x, atol=1e-4)


@pytest.mark.parametrize("stepper", [*DETERMINISTIC, *STOCHASTIC], ids=name)
def test_the_last_step_is_the_prediction_of_the_clean_data(stepper):
    step = Step((0.8, 0.6), (1.0, 0.0))
    carry = stepper.init(jnp.asarray(step.x))
    if stepper == DPMSolver2M():
        carry = jnp.asarray(step.before), jnp.float32(0.3)
    noise = jnp.asarray(step.noise) if stepper.stochastic else None
    np.testing.assert_array_equal(step.take(stepper, carry, noise), step.x0)


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_an_eta_that_is_none_is_refused(eta):
    with pytest.raises(ConfigError, match=f"eta is {eta} in DDIM; expected 0 .* to 1"):
        DDIM(eta=eta)


def test_equal_steppers_are_equal():
    """So that a stepper made anew at each call does not compile anew."""
    assert ddpm() == DDIM(1.0) and hash(Heun()) == hash(Heun()) and DDIM() != Heun()
