"""Schedules, grids and predictions against the authors' numbers and against plain formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eegsr_jax.diffusion.grid import even_grid, grid_at, karras_grid, leading_grid
from eegsr_jax.diffusion.prediction import Prediction, split, target
from eegsr_jax.diffusion.sample import sample
from eegsr_jax.diffusion.schedule import Level, NoiseSchedule, add_noise
from eegsr_jax.errors import ConfigError

COSINE = NoiseSchedule.cosine()


@pytest.fixture(scope="module")
def scheduler(golden):
    with np.load(golden / "srgdiff" / "scheduler.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def error(found, expected):
    return np.linalg.norm(np.asarray(found, float) - expected) / np.linalg.norm(expected)


# ---------------------------------------------------------------------------------- golden numbers


def test_the_cosine_is_the_authors(scheduler):
    kept = scheduler["alphas_cumprod"]
    assert np.max(np.abs(COSINE.alpha**2 / kept - 1)) < 1e-12
    assert np.max(np.abs(COSINE.alpha**2 - kept)) < 1e-15
    assert np.max(np.abs(COSINE.sigma**2 - (1 - kept))) < 1e-15
    assert COSINE.sigma[0] == 0  # the first time has no noise at all


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_the_leading_grid_is_the_authors(scheduler, steps):
    grid = leading_grid(COSINE, steps)
    np.testing.assert_array_equal(grid.t[:-1], scheduler[f"timesteps/{steps}"])
    assert (grid.alpha[-1], grid.sigma[-1]) == (1, 0)


@pytest.mark.parametrize(("double", "bound"), [(False, 1e-6), (True, 1e-12)])
def test_noising_and_steps_are_the_authors(scheduler, double, bound):
    dtype = np.float64 if double else np.float32
    with jax.enable_x64(double):
        noisy = scheduler["add_noise/z"], scheduler["add_noise/noise"]
        z, noise = (jnp.asarray(a, dtype) for a in noisy)
        level = COSINE.at(jnp.asarray(scheduler["add_noise/t"]))
        assert error(add_noise(z, noise, level), scheduler["add_noise/out"]) < bound
        x, epsilon = (jnp.asarray(scheduler[f"step/{k}"], dtype) for k in ("x", "epsilon"))
        cases = [key.split("/")[1] for key in scheduler if key.endswith("/prev")]
        assert len(cases) == 6
        for case in cases:
            steps, time = (int(part[1:]) for part in case.split("_"))
            grid = leading_grid(COSINE, steps)
            i = list(grid.t).index(time)
            one_step = jax.tree.map(lambda a, i=i: a[i : i + 2], grid)
            found = sample(lambda params, x, t, cond: params, epsilon, x, None, one_step)
            assert error(found, scheduler[f"step/{case}/prev"]) < bound
            level = COSINE.at(jnp.asarray(time))
            x0, _ = split(Prediction.EPSILON, epsilon, x, level)
            assert error(x0, scheduler[f"step/{case}/x0"]) < bound


# --------------------------------------------------------------------------------------- schedules


def test_linear_is_the_product_of_its_steps():
    schedule, kept = NoiseSchedule.linear(50, 1e-3, 0.3), 1.0
    for i in range(50):
        kept *= 1 - (1e-3 + i * (0.3 - 1e-3) / 49)
        np.testing.assert_allclose(
            [schedule.alpha[i] ** 2, schedule.sigma[i] ** 2], [kept, 1 - kept]
        )


def test_edm_is_karras_and_even_times_are_karras_levels():
    schedule = NoiseSchedule.edm()
    i = np.arange(10)  # eq. 5 of the paper, from noise to clean
    expected = (80 ** (1 / 7) + i / 9 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(even_grid(schedule, 10).sigma[:-1], expected, rtol=1e-12)
    assert (schedule.alpha == 1).all()


@pytest.mark.parametrize("name", ["cosine", "linear", "edm"])
def test_there_is_ever_more_noise(name):
    schedule = getattr(NoiseSchedule, name)()
    assert len(schedule.alpha) == len(schedule.sigma) == 1000
    assert (np.diff(schedule.sigma / schedule.alpha) > 0).all() and (schedule.alpha > 0).all()


def test_levels_of_any_shape_of_times():
    times = jnp.asarray([[0, 1, 21], [500, 981, 999]])
    level = jax.jit(COSINE.at)(times)
    assert level.alpha.dtype == level.sigma.dtype == jnp.float32
    np.testing.assert_array_equal(level.alpha, np.float32(COSINE.alpha)[times])
    np.testing.assert_array_equal(jax.vmap(jax.vmap(COSINE.at))(times).sigma, level.sigma)
    assert COSINE.at(jnp.asarray(7)).alpha.shape == ()
    beyond = COSINE.at(jnp.asarray([-5, 2000]))
    np.testing.assert_array_equal(beyond.sigma, np.float32(COSINE.sigma[[0, -1]]))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda a: a.name)
def test_levels_of_times_on_eight_devices(axis_type):
    mesh = jax.make_mesh((8,), ("windows",), axis_types=(axis_type,))
    rows = NamedSharding(mesh, PartitionSpec("windows"))
    times, x = jnp.arange(0, 1000, 125), jnp.ones((8, 2, 3))
    expected = add_noise(x, 2 * x, COSINE.at(times))
    with jax.set_mesh(mesh):
        times, x = jax.device_put((times, x), rows)
        found = jax.jit(lambda t, x: add_noise(x, 2 * x, COSINE.at(t)))(times, x)
    assert found.sharding.spec[0] == "windows"
    np.testing.assert_array_equal(found, expected)


# ------------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize("spacing", [even_grid, karras_grid])
@pytest.mark.parametrize("name", ["cosine", "linear", "edm"])
def test_grids_fall_from_the_last_time_to_clean(name, spacing):
    schedule = getattr(NoiseSchedule, name)()
    first = 1 if name == "cosine" else 0
    for steps in (1, 2, 7, 50, 400, 999):
        grid = spacing(schedule, steps)
        assert grid.t.dtype == np.int32 and grid.t.shape == grid.sigma.shape == (steps + 1,)
        assert grid.t[0] == 999 and (steps == 1 or grid.t[-2] == first)
        assert (np.diff(grid.sigma / grid.alpha) < 0).all()
        np.testing.assert_array_equal(grid.sigma[:-1], schedule.sigma[grid.t[:-1]])
        assert (grid.alpha[-1], grid.sigma[-1]) == (1, 0)


def test_karras_spacing_is_even_in_its_power():
    grid = karras_grid(NoiseSchedule.linear(200_000, 5e-7, 1e-4), 20, rho=3.0)
    power = (grid.sigma[:-1] / grid.alpha[:-1]) ** (1 / 3)
    np.testing.assert_allclose(np.diff(power), np.diff(power).mean(), rtol=1e-2)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: leading_grid(COSINE, 1000), "from 1000 to 1: the schedule has times 0 to 999"),
        (lambda: grid_at(COSINE, np.array([5, 7, 1])), "after 5 comes no earlier time"),
        (lambda: even_grid(COSINE, 1001), "1001 steps: after .* no earlier time; take fewer steps"),
        (lambda: grid_at(COSINE, np.array([5, 0])), "time 0 of a time grid has no noise"),
        (lambda: even_grid(COSINE, 0), "no steps"),
        (lambda: leading_grid(COSINE, 0), "no steps"),
        (lambda: karras_grid(COSINE, 0), "no steps"),
        (lambda: karras_grid(COSINE, 1001), "the schedule has times 0 to 999"),
    ],
)
def test_what_is_no_grid_is_refused(make, complaint):
    with pytest.raises(ConfigError, match=complaint):
        make()


# ------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("kind", Prediction)
@pytest.mark.parametrize("alpha_sigma", [(0.6, 0.8), (1.0, 7.0), (0.01, 0.99995)])
def test_what_a_perfect_denoiser_says_is_read_back(rng, kind, alpha_sigma):
    level = Level(None, *alpha_sigma)
    x0, noise = (jnp.asarray(rng.standard_normal((2, 3)), jnp.float32) for _ in range(2))
    x = add_noise(x0, noise, level)
    found = split(kind, target(kind, x0, noise, level), x, level)
    np.testing.assert_allclose(found[0], x0, atol=2e-5)
    np.testing.assert_allclose(found[1], noise, atol=2e-5)


def test_v_is_the_rotation_of_its_paper(rng):
    x0, noise = (jnp.asarray(rng.standard_normal(4), jnp.float32) for _ in range(2))
    found = target(Prediction.V, x0, noise, Level(None, np.cos(0.3), np.sin(0.3)))
    np.testing.assert_allclose(found, np.cos(0.3) * noise - np.sin(0.3) * x0, rtol=1e-6)
