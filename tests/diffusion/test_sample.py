"""Sampling under every transformation and on every mesh; guidance and known entries."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eegsr_jax.diffusion.grid import leading_grid
from eegsr_jax.diffusion.noise import noise_like, window_keys
from eegsr_jax.diffusion.prediction import Prediction
from eegsr_jax.diffusion.sample import Guidance, Known, guided, sample, start_like
from eegsr_jax.diffusion.schedule import NoiseSchedule
from eegsr_jax.diffusion.steppers import DDIM, DPMSolver2M, Heun, ddpm
from eegsr_jax.errors import ConfigError

STEPPERS = [DDIM(), ddpm(), DPMSolver2M(), Heun()]
IDS = ["ddim", "ddpm", "dpm", "heun"]
COSINE = NoiseSchedule.cosine()
WINDOWS = 8


@pytest.fixture(scope="module")
def grid(oracle_grid):
    return oracle_grid(COSINE, 6)


@pytest.fixture(scope="module", params=STEPPERS, ids=IDS)
def draw(request, gaussian, grid):
    """(params, window numbers) -> samples `[windows, 5, 3]`, with the stepper at hand."""
    denoise = gaussian.denoiser()

    def draw(params, index):
        start_key, key = jax.random.split(jax.random.key(0))
        start = start_like(window_keys(start_key, index), jnp.zeros((*index.shape, 5, 3)), grid)
        keys = window_keys(key, index) if request.param.stochastic else None
        return sample(denoise, params, start, None, grid, stepper=request.param, key=keys)

    return jax.jit(draw)


@pytest.fixture(scope="module")
def expected(draw, gaussian):
    with jax.numpy_dtype_promotion("strict"):
        return np.asarray(draw(gaussian.params(), jnp.arange(WINDOWS)))


# --------------------------------------------------------------------------------- transformations


def test_jit_vmap_scan_and_checkpoint_change_nothing(draw, expected, gaussian):
    params, index = gaussian.params(), jnp.arange(WINDOWS)
    assert np.isfinite(expected).all() and expected.std() > 0.3
    one = functools.partial(draw, params)

    @jax.jit
    def ways(index):
        scanned = jax.lax.scan(lambda _, i: (None, one(i)), None, index)[1]
        return one(index), jax.vmap(one)(index), scanned, jax.checkpoint(one)(index)

    for found in ways(index):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_window_does_not_depend_on_its_batch(draw, expected, gaussian):
    params = gaussian.params()
    for part in (slice(0, 3), slice(3, 8)):
        found = draw(params, jnp.arange(WINDOWS)[part])
        np.testing.assert_allclose(found, expected[part], rtol=1e-5, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 0.1


def test_gradients_are_those_of_the_flow(draw, grid, gaussian):
    """Of the sum of all samples by the mean of the data."""
    index = jnp.arange(2)

    def total(params):
        return jnp.sum(draw(params, index))

    @jax.jit
    def gradients(params):
        return jax.grad(total)(params), jax.grad(jax.checkpoint(total))(params)

    found, remade = gradients(gaussian.params())
    assert all(np.isfinite(leaf).all() for leaf in found)
    for a, b in zip(remade, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    # The start is all but noise: what is added to the mean is added to each of the ten samples.
    np.testing.assert_allclose(found.mean, 10, rtol=0.02)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda a: a.name)
def test_eight_devices_are_one(draw, expected, gaussian, axis_type):
    mesh = jax.make_mesh((8,), ("windows",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        params = jax.device_put(gaussian.params(), NamedSharding(mesh, PartitionSpec()))
        index = jax.device_put(jnp.arange(WINDOWS), NamedSharding(mesh, PartitionSpec("windows")))
        found = draw(params, index)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_nothing_is_compiled_twice(gaussian, grid, counted):
    @counted
    def run(params, start, grid, stepper, prediction=Prediction.EPSILON):
        return sample(denoise, params, start, None, grid, stepper=stepper, prediction=prediction)

    traced, run = run, jax.jit(run, static_argnames=("stepper", "prediction"))
    denoise, start = gaussian.denoiser(), jnp.ones((2, 3))
    for scale in (1.0, 0.9):
        other = grid._replace(sigma=grid.sigma * scale)
        run(gaussian.params(), start * scale, other, DPMSolver2M())
    assert traced.calls == 1
    run(gaussian.params(), start, grid, DDIM())
    assert traced.calls == 2


# ------------------------------------------------------------------------------- what is in a trace


@pytest.mark.parametrize("stepper", STEPPERS, ids=IDS)
def test_a_trace_holds_no_params_no_double_and_no_needless_noise(gaussian, grid, stepper):
    def run(params, start, key):
        key = key if stepper.stochastic else None
        denoise = gaussian.denoiser()
        return sample(denoise, params, start, None, grid, stepper=stepper, key=key)

    with jax.enable_x64(True):
        traced = jax.make_jaxpr(run)(gaussian.params(), jnp.ones((2, 3), "f4"), jax.random.key(0))
    assert sum(np.size(constant) for constant in traced.consts) <= 5 * len(grid.sigma)
    text = str(traced)
    assert "f64" not in text
    assert ("random_bits" in text) == stepper.stochastic
    assert text.count(" scan[") == 1


def test_a_stochastic_stepper_wants_a_key_and_the_others_do_not_touch_it(gaussian, grid):
    args = gaussian.denoiser(), gaussian.params(), jnp.ones((2, 3)), None, grid
    with pytest.raises(ConfigError, match=r"DDIM\(eta=1.0\) draws noise and has no key; give key="):
        sample(*args, stepper=ddpm())
    one, other = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(sample(*args, key=one), sample(*args))
    drawn = [sample(*args, stepper=ddpm(), key=key) for key in (one, other)]
    assert np.abs(drawn[0] - drawn[1]).min() > 0


@pytest.mark.parametrize("stepper", STEPPERS, ids=IDS)
def test_how_often_the_denoiser_is_asked(grid, stepper):
    asked = []

    def denoise(params, x, t, cond):
        jax.debug.callback(lambda alpha: asked.append(float(alpha)), t[0])
        return x

    key = jax.random.key(0) if stepper.stochastic else None
    jax.block_until_ready(sample(denoise, {}, jnp.ones(3), None, grid, stepper=stepper, key=key))
    jax.effects_barrier()
    assert len(asked) == (11 if stepper == Heun() else 6)
    assert 1.0 not in asked  # never at the clean level


# ------------------------------------------------------------------------------------------- inputs


def test_a_trajectory_is_the_samples_of_shorter_grids(gaussian, grid):
    args = gaussian.denoiser(), gaussian.params(), jnp.ones((2, 3)), None
    end, states = sample(*args, grid, stepper=DPMSolver2M(), trajectory=True)
    assert states.shape == (6, 2, 3)
    np.testing.assert_array_equal(states[-1], end)
    for steps in (1, 4):
        short = jax.tree.map(lambda a, n=steps: a[: n + 1], grid)
        found = sample(*args, short, stepper=DPMSolver2M())
        np.testing.assert_allclose(states[steps - 1], found, rtol=1e-5)


def test_the_denoiser_is_told_the_times_or_what_stands_for_them(gaussian):
    """An embedding of the times, computed once, gives what the times give."""
    grid, table = leading_grid(COSINE, 5), np.float32(COSINE.sigma)

    def by_time(params, x, t, cond):
        assert t.shape == () and t.dtype == jnp.int32
        return params * x * jnp.asarray(table)[t] + cond

    def by_embedding(params, x, t, cond):
        return params * x * t["sigma"] + cond

    args = jnp.float32(0.3), jnp.ones((2, 3)), jnp.full((2, 3), 0.1)
    embedded = grid._replace(t={"sigma": table[grid.t]})
    np.testing.assert_allclose(
        sample(by_embedding, *args, embedded), sample(by_time, *args, grid), rtol=1e-6
    )


def test_a_denoiser_in_half_precision_leaves_the_samples_in_single(gaussian, grid):
    start = start_like(jax.random.key(3), jnp.zeros((4, 3)), grid)

    def half(params, x, t, cond):
        return gaussian.denoiser(Prediction.X0)(params, x, t, cond).astype(jnp.bfloat16)

    args = gaussian.params(), start, None, grid
    full = sample(gaussian.denoiser(Prediction.X0), *args, prediction=Prediction.X0)
    found = sample(half, *args, prediction=Prediction.X0)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, full, atol=0.03)


# ---------------------------------------------------------------------- guidance, known entries


def about(gaussian):
    """A denoiser of data about a mean that is its condition."""
    denoise = gaussian.denoiser()
    return lambda params, x, t, cond: denoise(params._replace(mean=cond["mean"]), x, t, None)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_guidance_moves_the_mean_as_far_as_its_weight_says(gaussian, grid, weight):
    """For a Gaussian whose mean is the condition, guidance is known: so is its mean."""
    start = start_like(jax.random.key(4), jnp.zeros((4, 3)), grid)
    null, cond = jnp.zeros((4, 3)), jnp.arange(12, dtype=jnp.float32).reshape(4, 3)
    run = functools.partial(sample, grid=grid)
    found = run(
        guided(about(gaussian)), gaussian.params(), start,
        Guidance({"mean": cond}, {"mean": null}, weight),
    )  # fmt: skip
    expected = run(about(gaussian), gaussian.params(), start, {"mean": weight * cond})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stepper", STEPPERS, ids=IDS)
def test_known_entries_are_held_and_help_the_others(gaussian, oracle_grid, stepper):
    """Of correlated channels, some known: the others come nearer to the truth than without."""
    generator, grid = np.random.default_rng(5), oracle_grid(COSINE, 50)
    common = generator.standard_normal((2000, 1))
    data = gaussian._replace(
        mean=np.zeros(3), basis=np.linalg.qr(np.c_[np.ones(3), np.eye(3)[:, :2]])[0],
        variance=np.array([3.0, 0.01, 0.01]),
    )  # fmt: skip
    truth = (common + 0.1 * generator.standard_normal((2000, 3))).astype(np.float32)
    start = start_like(jax.random.key(6), jnp.zeros(truth.shape), grid)
    known = Known(jnp.broadcast_to(jnp.array([True, False, True]), truth.shape), jnp.array(truth))
    key = jax.random.key(7) if stepper.stochastic else None
    args = data.denoiser(), data.params(), start, None, grid
    found = np.asarray(sample(*args, stepper=stepper, known=known, key=key))
    np.testing.assert_array_equal(found[:, [0, 2]], truth[:, [0, 2]])
    assert np.mean((found[:, 1] - truth[:, 1]) ** 2) < 0.25  # 2 without, 0.02 the exact draw


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda a: a.name)
def test_guidance_and_known_entries_on_eight_devices(gaussian, grid, axis_type):
    """With keys made inside, which lie on every device."""

    def run(params, cond, mask):
        guidance = Guidance({"mean": cond}, {"mean": jnp.zeros_like(cond)}, 2.0)
        known = Known(mask, cond)
        keys = [window_keys(key, jnp.arange(8)) for key in jax.random.split(jax.random.key(8))]
        start = start_like(keys[0], cond, grid)
        options = {"stepper": ddpm(), "known": known, "key": keys[1]}
        return sample(guided(about(gaussian)), params, start, guidance, grid, **options)

    cond = jnp.arange(24, dtype=jnp.float32).reshape(8, 3)
    expected = run(gaussian.params(), cond, cond > 11)
    mesh = jax.make_mesh((4, 2), ("windows", "models"), axis_types=(axis_type,) * 2)
    with jax.set_mesh(mesh):
        params = jax.device_put(gaussian.params(), NamedSharding(mesh, PartitionSpec()))
        cond = jax.device_put(cond, NamedSharding(mesh, PartitionSpec("windows")))
        found = jax.jit(run)(params, cond, cond > 11)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# -------------------------------------------------------------------------------------------- noise


def test_noise_is_like_what_it_is_like():
    ref = jnp.zeros((2, 3, 4), jnp.bfloat16)
    index = jnp.arange(6).reshape(2, 3)
    for keys in (jax.random.key(0), window_keys(jax.random.key(0), index)):
        noise = noise_like(keys, ref)
        assert noise.shape == ref.shape and noise.dtype == ref.dtype
    keys = window_keys(jax.random.key(0), index)
    alone = noise_like(window_keys(jax.random.key(0), index[1, 2]), ref[1, 2])
    np.testing.assert_array_equal(noise_like(keys, ref)[1, 2], alone)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda a: a.name)
def test_noise_lies_where_the_data_lie(axis_type):
    def noise(ref):
        return noise_like(window_keys(jax.random.key(0), jnp.arange(8)), ref)

    ref = jnp.zeros((8, 2, 6))
    expected = noise(ref)
    mesh = jax.make_mesh((4, 2), ("windows", "time"), axis_types=(axis_type,) * 2)
    spec = PartitionSpec("windows", None, "time")
    with jax.set_mesh(mesh):
        sharded = jax.device_put(ref, NamedSharding(mesh, spec))
        found = jax.jit(noise)(sharded)
        by_hand = jax.shard_map(
            lambda keys, ref: noise_like(keys, ref),
            in_specs=PartitionSpec("windows"), out_specs=PartitionSpec("windows"),
        )  # fmt: skip
        rows = NamedSharding(mesh, PartitionSpec("windows"))
        keys = jax.device_put(window_keys(jax.random.key(0), jnp.arange(8)), rows)
        inside = jax.jit(by_hand)(keys, jax.device_put(ref, rows))
    if axis_type == AxisType.Explicit:
        assert found.sharding.spec == spec
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(inside, expected, rtol=1e-6, atol=1e-6)
