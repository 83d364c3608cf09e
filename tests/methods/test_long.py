"""Any length, block by block: the same as one call, no seams, constant memory."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eegsr_jax import methods as mt
from eegsr_jax.distributed import make_mesh
from eegsr_jax.errors import MethodError
from eegsr_jax.geometry import make_geometry
from eegsr_jax.methods.base import Method, Reconstruction, linear_apply, linear_plan
from eegsr_jax.methods.long import reconstruct_long

ANY_LENGTH = [name for name in mt.METHODS if mt.make(name).window is None]
HALF = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def joined(blocks) -> tuple[np.ndarray, np.ndarray]:
    """Mean and std of a whole recording; the blocks must follow one another."""
    means, stds, end = [], [], 0
    for start, mean, std in blocks:
        assert start == end and mean.shape == std.shape and mean.shape[1] > 0
        assert mean.dtype == std.dtype == np.float32
        means.append(mean)
        stds.append(std)
        end += mean.shape[1]
    return np.concatenate(means, 1), np.concatenate(stds, 1)


# ---------------------------------------------------------------------------- methods of any length


@pytest.fixture(scope="module")
def fir():
    """5 targets, 4 of them observed, and `fir(lags)`: a method with a random filter, and it."""
    names = ("Fz", "Cz", "Pz", "C3", "C4")
    place = {n: 0.09 * x for n, x in zip(names, np.eye(5, 3) + [0.1, 0.2, 0.3], strict=True)}
    place |= {"C3": np.array([-0.09, 0, 0]), "C4": np.array([0, -0.06, 0.06])}
    geometry = make_geometry(names[:4], names, place)

    def make(lags: int):
        filters = np.random.default_rng(lags).standard_normal((2 * lags + 1, 5, 4))
        plan = linear_plan(geometry, jnp.asarray(filters, jnp.float32), jnp.ones(5))
        method = Method("fir", None, (), None, linear_apply, None, lags)
        return method, plan, filters

    return make


@HALF
@given(time=st.integers(1, 70), block=st.integers(1, 40), lags=st.integers(0, 4))
def test_blocks_give_what_convolving_the_whole_gives(fir, time, block, lags):
    method, plan, filters = fir(lags)
    x = np.random.default_rng(time).standard_normal((4, time)).astype(np.float32)
    mean, std = joined(reconstruct_long(method, plan, x, block=block))
    padded = np.pad(x, ((0, 0), (lags, lags)))  # silence beyond the ends
    expected = sum(filters[i, 4] @ padded[:, i : i + time] for i in range(2 * lags + 1))
    np.testing.assert_allclose(mean[4], expected, atol=1e-5)
    np.testing.assert_array_equal(mean[:4], x)
    np.testing.assert_array_equal(std, np.repeat([[0], [0], [0], [0], [1]], time, 1))


@pytest.fixture(scope="module")
def plans(geometry):
    """Every method with a plan; what would be learned is drawn, since any filter will do."""
    found = {}
    with jax.numpy_dtype_promotion("strict"):
        for name in ANY_LENGTH:
            options = {"lagged_ridge": {"lags": 3}, "gaussian": {"lags": 2}}.get(name, {})
            method = mt.make(name, **options)
            params = method.init(jax.random.key(0), geometry, None)
            if "filters" in params:
                shape = params["filters"].shape
                params |= {"filters": 0.1 * jax.random.normal(jax.random.key(1), shape)}
                params |= {"std": jnp.ones(shape[1])}
            found[name] = method, jax.jit(method.plan)(params, geometry)
    return found


@pytest.mark.parametrize("name", ANY_LENGTH)
def test_every_method_is_the_same_in_blocks_and_in_one_call(plans, simulate, geometry, name):
    method, plan = plans[name]
    x = simulate(1, 500, 2)[0][np.asarray(geometry.observed_index)]
    one_mean, one_std = (np.asarray(a[0]) for a in jax.jit(method.apply)(plan, x[None], None))
    scale = np.abs(one_mean).max()
    for time, block in ((500, 128), (500, 499), (500, 500), (257, 128), (5, 128)):
        mean, std = joined(reconstruct_long(method, plan, x[:, :time], block=block))
        inner = slice(0, time if time == 500 else max(time - method.context, 0))
        np.testing.assert_allclose(mean[:, inner], one_mean[:, inner], atol=2e-6 * scale, rtol=0)
        if name not in ("gaussian", "population"):
            np.testing.assert_array_equal(std[:, inner], one_std[:, inner])


@pytest.mark.parametrize("name", ANY_LENGTH)
def test_three_devices_are_one(plans, simulate, geometry, name):
    """Four blocks, so that the last has two devices without any."""
    method, plan = plans[name]
    x = simulate(1, 500, 2)[0][np.asarray(geometry.observed_index)]
    alone, spread = (
        joined(reconstruct_long(method, plan, x, jax.random.key(0), block=128, mesh=mesh))
        for mesh in (None, make_mesh("windows:3"))
    )
    for found, expected in zip(spread, alone, strict=True):
        scale = np.abs(expected[np.isfinite(expected)]).max(initial=1e-30)
        np.testing.assert_allclose(found, expected, atol=1e-6 * scale, rtol=0)


@pytest.mark.parametrize("name", ["gaussian", "population"])
def test_bars_that_follow_the_signal_follow_it_block_by_block(plans, simulate, geometry, name):
    method, plan = plans[name]
    x = simulate(1, 500, 2)[0][np.asarray(geometry.observed_index)]
    x[:, 250:] *= 10
    _, std = joined(reconstruct_long(method, plan, x, block=50))
    missing = np.asarray(plan["source"]) < 0
    assert (std[~missing] == 0).all()
    early, late = std[missing][:, :200], std[missing][:, 300:]
    np.testing.assert_allclose(late.mean() / early.mean(), 10, rtol=0.25)
    squares = [
        np.asarray(jax.jit(method.apply)(plan, x[None, :, a : a + 250], None).std[0])[missing] ** 2
        for a in (0, 250)
    ]
    power = np.sqrt([s.mean() for s in squares])
    np.testing.assert_allclose([early.mean(), late.mean()], power, rtol=0.1)


def test_a_memory_map_is_read_as_it_is(fir, tmp_path):
    method, plan, _ = fir(2)
    x = np.random.default_rng(0).standard_normal((4, 300))
    mapped = np.memmap(tmp_path / "x", np.float64, "w+", shape=x.shape)
    mapped[:] = x
    here, there = (
        joined(reconstruct_long(method, plan, a, block=64)) for a in (mapped, x.astype(np.float32))
    )
    np.testing.assert_array_equal(here[0], there[0])


# ------------------------------------------------------------------------- methods bound to windows

WINDOW = 64


def windowed(apply) -> Method:
    return Method("toy", None, (), None, apply, WINDOW)


def identity(plan, x, key):
    return Reconstruction(x, jnp.full_like(x, 2.0))


def drawn(plan, x, key):
    """Every window is one number, drawn with its own key."""
    level = jax.vmap(jax.random.uniform)(key)
    flat = jnp.broadcast_to(level[:, None, None], x.shape)
    return Reconstruction(flat, 1 + flat)


@HALF
@given(time=st.integers(WINDOW, 400), block=st.integers(1, 300))
def test_a_window_that_changes_nothing_changes_nothing(time, block):
    """The weights of overlapping windows add up to one, for the estimate and its error bar."""
    x = np.random.default_rng(time).standard_normal((2, time)).astype(np.float32)
    mean, std = joined(reconstruct_long(windowed(identity), None, x, block=block))
    np.testing.assert_allclose(mean, x, rtol=2e-6)
    np.testing.assert_allclose(std, 2, rtol=2e-6)


@pytest.mark.parametrize("time", [64, 65, 95, 96, 97, 128, 333, 640])
def test_windows_blend_without_seams_and_draw_their_own_numbers(time):
    key, x = jax.random.key(7), np.zeros((1, time), np.float32)
    starts = list(range(0, time - WINDOW + 1, WINDOW // 2))
    if starts[-1] + WINDOW < time:
        starts.append(time - WINDOW)
    levels = [float(jax.random.uniform(jax.random.fold_in(key, i))) for i in range(len(starts))]
    weight, total = np.zeros(time), np.zeros(time)
    ramp = np.minimum(np.arange(1, WINDOW + 1), np.arange(WINDOW, 0, -1))
    for start, level in zip(starts, levels, strict=True):
        weight[start : start + WINDOW] += ramp
        total[start : start + WINDOW] += ramp * level
    for block in (1, WINDOW, 3 * WINDOW, 10_000):  # the result does not depend on it
        mean, std = joined(reconstruct_long(windowed(drawn), None, x, key, block=block))
        np.testing.assert_allclose(mean[0], total / weight, rtol=1e-5)
        np.testing.assert_allclose(std, 1 + mean, rtol=1e-5)
    three = make_mesh("windows:3")
    blocks = reconstruct_long(windowed(drawn), None, x, key, block=WINDOW, mesh=three)
    np.testing.assert_allclose(joined(blocks)[0], mean, rtol=1e-6)
    if time > WINDOW and (time - WINDOW) % (WINDOW // 2) == 0:
        steps = np.abs(np.diff(mean[0]))  # a straight line from one window to the next
        assert steps.max() <= 1.05 * np.ptp(levels) / (WINDOW / 2)


def test_windows_are_linear_in_the_signal():
    """A filter inside each window: away from the borders the middle of windows prevails."""

    def smooth(plan, x, key):
        kernel = jnp.ones(5, x.dtype) / 5
        flat = jax.vmap(lambda row: jnp.convolve(row, kernel, mode="same"))(x.reshape(-1, WINDOW))
        return Reconstruction(flat.reshape(x.shape), x)

    x = np.sin(np.arange(500) / 9)[None].astype(np.float32)
    one, two = (
        joined(reconstruct_long(windowed(smooth), None, a * x, block=200))[0] for a in (1, -3)
    )
    np.testing.assert_allclose(two, -3 * one, atol=1e-5)
    truth = np.convolve(x[0], np.ones(5) / 5, mode="same")
    assert np.abs(one[0] - truth)[2:-2].max() < 0.03  # 2 of 64 samples a window see a border


def test_a_recording_shorter_than_the_window_is_refused():
    with pytest.raises(MethodError, match="toy needs windows of 64 samples; the recording has 63"):
        list(reconstruct_long(windowed(identity), None, np.zeros((1, 63), np.float32)))


# ------------------------------------------------------------------------------------------ memory

PEAK = """
import sys, numpy as np, jax, jax.numpy as jnp
from eegsr_jax.methods.base import Method, linear_apply
from eegsr_jax.methods.long import reconstruct_long

def anonymous():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("RssAnon")) / 1024

plan = {"filters": jnp.ones((13, 64, 16)), "source": jnp.full(64, -1), "input_mean": jnp.zeros(16),
        "mean": jnp.zeros(64), "std": jnp.ones(64)}
method = Method("fir", None, (), None, linear_apply, None, 6)
for minutes in (10, 60):
    time = minutes * 60 * 160
    x = np.memmap(sys.argv[1], np.float32, "w+", shape=(16, time))
    peak = 0.0
    for start, mean, std in reconstruct_long(method, plan, x):
        peak = max(peak, anonymous())
    assert start + mean.shape[1] == time
    print(peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_recording(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "eeg"], capture_output=True, text=True, check=True
    )
    ten, sixty = map(float, done.stdout.split())  # MB; an hour of 64 channels is 147 MB
    assert sixty < ten + 50, (ten, sixty)
    assert sixty < 1000
