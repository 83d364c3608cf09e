"""The lagged sums against plain float64 loops, and the matrices made of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.methods import moments as mo

pytestmark = pytest.mark.filterwarnings("error")  # JAX warns where it truncates to float32

CHANNELS, LAGS, TIME = 5, 4, 23


def windows(count, seed=0, offset=0.0):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((count, CHANNELS, TIME)).cumsum(-1)
    return (x + offset * np.arange(1, CHANNELS + 1)[:, None]).astype(np.float32)


def loops(eeg, part, which):
    """The sums, one window, lag and pair of channels at a time."""
    x = eeg.astype(float)[np.asarray(part) == which]
    products = np.zeros((LAGS + 1, CHANNELS, CHANNELS))
    for window in x:
        for lag in range(LAGS + 1):
            for i in range(CHANNELS):
                for j in range(CHANNELS):
                    products[lag, i, j] += window[i, lag:] @ window[j, : TIME - lag]
    return len(x) * TIME, x.sum((0, 2)), products


def summed(eeg, part):
    """NumPy sums of a batch, filled up to eight windows so that one program serves all tests."""
    eeg = np.concatenate([eeg, np.full((8 - len(eeg), *eeg.shape[1:]), 1e3, np.float32)])
    part = np.concatenate([part, np.full(8 - len(part), -1)]).astype(np.int32)
    return jax.tree.map(np.asarray, add(mo.zeros(CHANNELS, LAGS), eeg, part))


add = jax.jit(mo.add)
PART = [0, 1, -1, 0, 0, 1, -1]


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-9), a, b)


def test_sums_are_the_plain_loops_for_both_parts():
    eeg = windows(len(PART))
    found = summed(eeg, PART)
    for which in (mo.TRAIN, mo.VALIDATE):
        count, total, products = loops(eeg, PART, which)
        one = mo.part_of(found, which)
        assert one["count"] == count
        np.testing.assert_allclose(one["sum"], total, rtol=1e-13)
        np.testing.assert_allclose(one["products"], products, rtol=1e-12, atol=1e-9)
    both = mo.pooled(found)
    assert both["count"] == 5 * TIME
    np.testing.assert_array_equal(both["sum"], np.asarray(found["sum"]).sum(0))


def test_the_sums_are_float64_though_x64_is_off():
    assert not jax.config.jax_enable_x64
    start, part = mo.zeros(CHANNELS, LAGS), np.zeros(8, np.int32)
    for sums in (start, add(start, windows(8), part), mo.add(start, windows(8), part)):
        assert {x.dtype for x in jax.tree.leaves(sums)} == {np.dtype("float64")}


def test_batches_add_up_in_any_order_on_one_host_or_two():
    eeg, part = windows(8), np.array([*PART, 0], np.int32)
    whole = summed(eeg, part)
    for order in (np.arange(8), np.array([6, 3, 1, 5, 0, 2, 4, 7])):
        sums = mo.zeros(CHANNELS, LAGS)
        for half in (order[:4], order[4:]):
            sums = add(sums, eeg[half], part[half])
        same(sums, whole)
    same(jax.tree.map(np.add, summed(eeg[:3], part[:3]), summed(eeg[3:], part[3:])), whole)


def test_a_window_shorter_than_the_lags():
    eeg = windows(3)[:, :, :3]
    found = jax.tree.map(np.asarray, add(mo.zeros(CHANNELS, LAGS), eeg, np.zeros(3, np.int32)))
    np.testing.assert_array_equal(found["products"][0, 3:], 0.0)
    expected = np.einsum("wi,wj->ij", eeg[:, :, 2].astype(float), eeg[:, :, 0].astype(float))
    np.testing.assert_allclose(found["products"][0, 2], expected, rtol=1e-12)


def centred_covariances(eeg, mean):
    """Of windows whose mean is taken out before zeros are put around them."""
    x = eeg.astype(float) - mean[:, None]
    found = [
        np.einsum("wit,wjt->ij", x[..., lag:], x[..., : TIME - lag]) for lag in range(LAGS + 1)
    ]
    return np.stack(found) / (len(x) * TIME)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3])
def test_covariances_are_those_of_the_centred_windows(offset):
    """An electrode's offset (hundreds of times the EEG in a raw recording) must not matter."""
    eeg = windows(6, offset=offset)
    moments = mo.part_of(summed(eeg, [0] * 6), mo.TRAIN)
    with jax.enable_x64(True):
        mean, covariance = mo.covariances(moments)
        other = jnp.arange(1.0, CHANNELS + 1) * offset
        _, about = mo.covariances(moments, other)
    np.testing.assert_allclose(mean, eeg.astype(float).mean((0, 2)), rtol=1e-12)
    expected = centred_covariances(eeg, np.asarray(mean))
    np.testing.assert_allclose(covariance, expected, atol=1e-8 * np.abs(expected).max())
    expected = centred_covariances(eeg, np.asarray(other))
    np.testing.assert_allclose(about, expected, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3])
def test_the_matrix_of_all_lags_is_positive_semi_definite(offset):
    eeg = windows(3, offset=offset)
    with jax.enable_x64(True):
        _, covariance = mo.covariances(mo.pooled(summed(eeg, [0, 0, 0])))
        stacked, _ = mo.normal_equations(covariance, jnp.arange(CHANNELS), LAGS // 2)
    stacked = np.asarray(stacked)
    np.testing.assert_allclose(stacked, stacked.T, rtol=1e-12, atol=1e-9)
    eigenvalues = np.linalg.eigvalsh(stacked)
    assert eigenvalues[0] > -1e-9 * eigenvalues[-1]


def test_normal_equations_are_those_of_explicitly_stacked_inputs():
    lags, index = 2, np.array([3, 0])
    eeg = windows(4)
    eeg = eeg - eeg.mean((0, 2), keepdims=True)
    with jax.enable_x64(True):
        _, covariance = mo.covariances(mo.pooled(summed(eeg, [0] * 4)), jnp.zeros(CHANNELS))
        stacked, cross = mo.normal_equations(covariance, jnp.asarray(index), lags)
    # Zeros for 2 lags around every window: no input at any tap is then cut off.
    wide = np.pad(eeg.astype(float), ((0, 0), (0, 0), (2 * lags, 2 * lags)))
    inner = slice(lags, wide.shape[-1] - lags)
    taps = [np.roll(wide, -shift, axis=-1)[..., inner] for shift in range(-lags, lags + 1)]
    inputs = np.concatenate([t[:, index] for t in taps], axis=1)  # the tap is the slow axis
    inputs, outputs = (
        a.transpose(1, 0, 2).reshape(a.shape[1], -1) for a in (inputs, wide[..., inner])
    )
    count = len(eeg) * TIME
    np.testing.assert_allclose(stacked, inputs @ inputs.T / count, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(cross, inputs @ outputs.T / count, rtol=1e-9, atol=1e-9)


def test_error_covariance_diagonal_is_the_mean_squared_residual(rng):
    x, y = rng.standard_normal((3, 200)), rng.standard_normal((4, 200))
    weights = rng.standard_normal((3, 4))
    with jax.enable_x64(True):
        found = mo.error_covariance_diagonal(
            *(jnp.asarray(a) for a in (x @ x.T / 200, x @ y.T / 200, (y**2).mean(1), weights))
        )
    np.testing.assert_allclose(found, ((y - weights.T @ x) ** 2).mean(1), rtol=1e-10)


def test_update_on_a_mesh_of_devices_is_the_update_on_one():
    eeg, part = windows(8), np.array([0, 1, 0, 0, -1, 1, 0, 0], np.int32)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    placed = jax.device_put({"eeg": eeg, "part": part}, sharding)
    sums = jax.jit(mo.moment_update)(None, mo.zeros(CHANNELS, LAGS), placed, None)
    same(sums, summed(eeg, part))


def test_moment_start_is_one_function_for_each_number_of_lags(geometry):
    assert mo.moment_start(3) is mo.moment_start(3)
    start = mo.moment_start(3)(None, geometry)
    assert start["products"].shape == (2, 4, 20, 20)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(start))
