"""`gaussian` and `population` against the textbook's conditional Gaussian, and their promises."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from eegsr_jax.geometry import make_geometry
from eegsr_jax.methods import gaussian, population
from eegsr_jax.methods.gaussian import transport
from eegsr_jax.training.loop import fit, jitted

pytestmark = pytest.mark.filterwarnings("error")  # JAX warns where it truncates to float32

LAGS, TIME, PENALTY = 1, 60, 1e-3
# One of each, so that each is compiled once.
INSTANT = gaussian(lags=0, penalty=PENALTY, prior_samples=1e-6)
LAGGED = gaussian(lags=LAGS, penalty=PENALTY, prior_samples=500.0)


def batches(eeg, part=None, size=8):
    part = np.zeros(len(eeg), np.int32) if part is None else part

    def one_pass():
        for i in range(0, len(eeg), size):
            yield {"eeg": eeg[i : i + size], "part": part[i : i + size]}

    return one_pass


def run(method, params, geometry, x):
    plan = jitted(method.plan)(params, geometry)
    return jitted(method.apply)(plan, jnp.asarray(x, jnp.float32), None)


def missing(geometry):
    return np.isin(np.arange(len(geometry.target)), geometry.observed_index, invert=True)


def unit_power(eeg):
    x = eeg.astype(float)
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean((1, 2), keepdims=True))


def lagged_covariance(eeg, lags):
    """C_k[i, j] = E x_i(t + k) x_j(t) of windows with zeros around them."""
    time = eeg.shape[-1]
    sums = [np.einsum("wit,wjt->ij", eeg[..., k:], eeg[..., : time - k]) for k in range(lags + 1)]
    return np.stack(sums) / (len(eeg) * time)


def conditional(covariance, index, lags, penalty):
    """Textbook formula on the full covariance over channels and times: filters and variance."""
    channels = covariance.shape[1]
    times = 2 * lags + 1  # of the inputs; the output is at the middle one

    def between(s, t):  # E x(s) x(t)'
        return covariance[s - t] if s >= t else covariance[t - s].T

    full = np.block([[between(s, t) for t in range(times)] for s in range(times)])
    known = np.concatenate([t * channels + index for t in range(times)])
    middle = lags * channels + np.arange(channels)
    load = penalty * np.diag(covariance[0])[index].mean()
    inner = full[np.ix_(known, known)] + load * np.eye(len(known))
    across = full[np.ix_(middle, known)]
    weights = scipy.linalg.solve(inner, across.T, assume_a="pos").T
    variance = np.diag(full)[middle] - (weights * across).sum(1)
    return weights.reshape(channels, times, len(index)).transpose(1, 0, 2), variance


def close(found, expected, tolerance):
    expected = np.asarray(expected)
    assert np.abs(np.asarray(found) - expected).max() < tolerance * np.abs(expected).max()


# ------------------------------------------------------------------------------- conditional mean


def test_with_ample_data_and_no_prior_it_is_the_wiener_filter(simulate, geometry):
    eeg = simulate(16, TIME)
    params = fit(INSTANT, geometry, batches(eeg))
    index, rows = np.asarray(geometry.observed_index), missing(geometry)
    covariance = lagged_covariance(unit_power(eeg), 0)
    close(params["covariance"], covariance, 1e-6)
    filters, variance = conditional(covariance, index, 0, PENALTY)
    plan = jitted(INSTANT.plan)(params, geometry)
    close(plan["filters"][:, rows], filters[:, rows], 1e-3)  # carried by the kernel, to 1e-3
    np.testing.assert_allclose(plan["std"][rows], np.sqrt(variance[rows]), rtol=5e-3)


def test_the_lagged_conditional_mean_and_variance(simulate, geometry):
    """On a known covariance over channels and lags, handed in as params."""
    index, rows = np.asarray(geometry.observed_index), missing(geometry)
    covariance = lagged_covariance(unit_power(simulate(32, TIME)), 2 * LAGS)
    params = {
        "positions": geometry.target,
        "centre": geometry.centre,
        "covariance": jnp.asarray(covariance, jnp.float32),
        "inflation": jnp.ones(()),
    }
    plan = jitted(LAGGED.plan)(params, geometry)
    filters, variance = conditional(covariance, index, LAGS, PENALTY)
    close(plan["filters"][:, rows], filters[:, rows], 5e-3)
    np.testing.assert_allclose(plan["std"][rows], np.sqrt(variance[rows]), rtol=1e-2)
    np.testing.assert_array_equal(np.asarray(plan["std"])[index], 0.0)
    # And to the last digit from the covariance as it was carried to the electrodes.
    everywhere = jnp.concatenate([geometry.observed, geometry.target])
    carried = carry(params["covariance"], geometry.target, everywhere, geometry.centre)
    filters, variance = conditional(carried, np.arange(8), LAGS, PENALTY)
    close(plan["filters"][:, rows], filters[:, 8:][:, rows], 1e-5)
    np.testing.assert_allclose(plan["std"][rows], np.sqrt(variance[8:][rows]), rtol=1e-5)


def test_the_error_bar_takes_its_unit_from_the_window(simulate, geometry):
    """x' K^-1 x / L of the observed channels is the square of the scale."""
    eeg = simulate(16, TIME)
    params = fit(INSTANT, geometry, batches(eeg))
    index, rows = np.asarray(geometry.observed_index), missing(geometry)
    x = eeg[:3, index] * np.array([1.0, 3.0, 10.0], np.float32)[:, None, None]
    found = run(INSTANT, params, geometry, x)
    covariance = lagged_covariance(unit_power(eeg), 0)
    _, variance = conditional(covariance, index, 0, PENALTY)
    known = covariance[0][np.ix_(index, index)]
    known = known + PENALTY * np.diag(known).mean() * np.eye(8)
    scale = np.sqrt(np.einsum("blt,lm,bmt->b", x, np.linalg.inv(known), x) / (8 * TIME))
    expected = np.sqrt(variance[rows])[None] * scale[:, None]
    np.testing.assert_allclose(found.std[:, rows, 0], expected, rtol=1e-2)


# ------------------------------------------------------------------------------- stacked priors


def test_every_stage_is_the_update_formula_and_stages_stack(simulate, geometry):
    first, second = simulate(16, TIME, 1), simulate(8, TIME, 2)
    prior = LAGGED.init(None, geometry, None)
    before = np.asarray(prior["covariance"], float)
    assert np.diagonal(before[0]).mean() == pytest.approx(1.0) and not before[1:].any()
    # The kernel knows no time: it goes on in time as the data do.
    new = lagged_covariance(unit_power(first), 2 * LAGS)
    fade = np.trace(new, axis1=1, axis2=2) / np.trace(new[0])
    expected = fade[:, None, None] * before[0]
    for eeg in (first, second):
        new, n = lagged_covariance(unit_power(eeg), 2 * LAGS), len(eeg) * TIME
        expected = (n * new + 500.0 * expected) / (n + 500.0)
    params = fit(LAGGED, geometry, batches(first))
    params = fit(LAGGED, geometry, batches(second), params=params)
    close(params["covariance"], expected, 1e-3)


def test_no_data_leaves_the_prior(simulate, geometry):
    prior = fit(LAGGED, geometry, batches(simulate(8, TIME)))
    padding = np.full(8, -1, np.int32)
    again = fit(LAGGED, geometry, batches(simulate(8, TIME, 1), padding), params=prior)
    close(again["covariance"], prior["covariance"], 1e-3)
    start = LAGGED.init(None, geometry, None)
    untouched = fit(LAGGED, geometry, batches(simulate(8, TIME, 1), padding))
    close(untouched["covariance"], start["covariance"], 1e-3)
    # One window, kept for validation: still a number.
    part = np.r_[1, np.full(7, -1)].astype(np.int32)
    little = fit(LAGGED, geometry, batches(simulate(8, TIME, 1), part))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(little))


def test_no_window_outweighs_another(simulate, geometry):
    eeg = simulate(16, TIME)
    loud = eeg * np.geomspace(1, 1e3, 16, dtype=np.float32)[:, None, None]
    quiet, other = (fit(LAGGED, geometry, batches(x))["covariance"] for x in (eeg, loud))
    close(other, quiet, 1e-5)
    # Nor does an electrode's offset, or a flat window, count.
    moved = np.concatenate([eeg + 1e-3, np.zeros_like(eeg[:1])])
    part = np.r_[np.zeros(16), -1].astype(np.int32)
    close(fit(LAGGED, geometry, batches(moved, part))["covariance"], quiet, 1e-3)


def test_a_prior_is_calibrated_on_another_order_of_the_electrodes(simulate, geometry, positions):
    """The subject's cap need not list its channels as the population's did."""
    eeg, few = simulate(16, TIME, 1), simulate(2, TIME, 2)
    names = list(positions)[::-1]
    turned = make_geometry(list(geometry.observed_names), names, positions)
    prior = fit(LAGGED, geometry, batches(eeg))
    expected = fit(LAGGED, geometry, batches(few), params=prior)
    found = fit(LAGGED, turned, batches(few[:, ::-1]), params=prior)
    x = few[:, np.asarray(geometry.observed_index)]
    one, other = run(LAGGED, expected, geometry, x), run(LAGGED, found, turned, x)
    close(other.mean[:, ::-1], one.mean, 1e-2)


def test_a_prior_is_calibrated_on_another_cap(simulate, geometry, positions):
    """Fewer electrodes than the prior has: two of its own are gone."""
    names = [n for n in positions if n not in ("Fz", "O2")]
    smaller = make_geometry(list(geometry.observed_names), names, positions)
    keep = [list(positions).index(n) for n in names]
    eeg, few = simulate(16, TIME, 1), simulate(4, TIME, 2)
    prior = fit(LAGGED, geometry, batches(eeg))
    test = simulate(4, TIME, 3)
    x, rows = test[:, np.asarray(geometry.observed_index)], missing(smaller)

    def error(cap, channels, chosen):
        params = fit(LAGGED, cap, batches(few[:, channels]), params=prior)
        found = np.asarray(run(LAGGED, params, cap, x).mean)[:, chosen]
        return ((found - test[:, keep])[:, rows] ** 2).sum()

    whole = error(geometry, np.arange(20), keep)
    assert error(smaller, keep, np.arange(18)) < 1.02 * whole


# ------------------------------------------------------------------------------------ error bars


def test_ninety_percent_bars_cover_ninety_percent(geometry):
    """Gaussian data of a known covariance, white in time, learnt from other windows."""
    generator = np.random.default_rng(3)
    field = generator.standard_normal((20, 6)) @ np.diag([3, 2, 2, 1, 1, 1])
    factor = np.concatenate([field, np.diag(generator.uniform(0.3, 1.0, 20))], axis=1)
    draws = generator.standard_normal((96, factor.shape[1], TIME))
    eeg = np.einsum("cs,wst->wct", 1e-5 * factor, draws).astype(np.float32)
    part = (np.arange(64) >= 48).astype(np.int32)
    params = fit(INSTANT, geometry, batches(eeg[:64], part))
    test, rows = eeg[64:], missing(geometry)
    found = run(INSTANT, params, geometry, test[:, np.asarray(geometry.observed_index)])
    z = np.abs(np.asarray(found.mean) - test)[:, rows] / np.asarray(found.std)[:, rows]
    assert 0.88 < (z < 1.645).mean() < 0.92
    assert 0.47 < (z < 0.674).mean() < 0.53
    per_channel = (z < 1.645).mean((0, 2))
    assert 0.84 < per_channel.min() and per_channel.max() < 0.96
    # The true covariance itself needs no inflation.
    truth = factor @ factor.T
    params |= {
        "covariance": jnp.asarray(truth / np.diag(truth).mean(), jnp.float32)[None],
        "inflation": jnp.ones(()),
    }
    found = run(INSTANT, params, geometry, test[:, np.asarray(geometry.observed_index)])
    z = np.abs(np.asarray(found.mean) - test)[:, rows] / np.asarray(found.std)[:, rows]
    assert 0.88 < (z < 1.645).mean() < 0.92


def test_without_validation_windows_the_inflation_is_kept(simulate, geometry):
    params = fit(INSTANT, geometry, batches(simulate(16, TIME)))
    assert params["inflation"] == 1.0


# -------------------------------------------------------------------------------------- transport


def carry(covariance, positions, wanted, centre):
    """`transport` in float64, always to 64 electrodes so that one program serves all tests."""
    count = len(wanted)
    wanted = np.concatenate([wanted, np.repeat(np.asarray(wanted)[:1], 64 - count, axis=0)])
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a, float)) for a in (covariance, positions, wanted, centre)]
        return np.asarray(jitted(transport)(*wide, wide[-1]))[:, :count, :count]


@pytest.fixture(scope="module")
def measured(simulate):
    return lagged_covariance(unit_power(simulate(32, TIME)), 2)


def test_transport_to_the_electrodes_of_the_data_changes_nothing(measured, geometry):
    found = carry(measured, geometry.target, geometry.target, geometry.centre)
    close(found, measured, 1e-3)
    order = np.arange(20)[::-3]
    found = carry(measured, geometry.target, np.asarray(geometry.target)[order], geometry.centre)
    close(found, measured[:, order][:, :, order], 1e-3)


def test_transport_sees_directions_from_each_caps_own_centre(measured, geometry):
    centre, target = np.asarray(geometry.centre, float), np.asarray(geometry.target, float)
    bigger = np.repeat(1.1 * (target - centre) + [0.01, 0.02, 0.03], 4, axis=0)[:64]
    with jax.enable_x64(True):
        arrays = measured, target, bigger, centre, np.array([0.01, 0.02, 0.03])
        found = np.asarray(jitted(transport)(*map(jnp.asarray, arrays)))
    close(found[:, ::4, ::4], carry(measured, target, target[:16], centre), 1e-6)


def test_transport_gives_a_covariance_at_new_electrodes(measured, geometry, template):
    wanted = np.stack(list(template.values()))[::7]
    carried = carry(measured, geometry.target, wanted, geometry.centre)
    both = np.concatenate([carried[:0:-1].transpose(0, 2, 1), carried])  # lags -2 … 2
    blocks = [[both[2 + s - t] for t in range(3)] for s in range(3)]
    values = np.linalg.eigvalsh(np.block(blocks))
    assert values[0] > -1e-9 * values[-1]
    level = np.diagonal(carried[0])
    assert 0.2 < level.min() and level.max() < 20  # the level of the data, everywhere


def test_transport_is_differentiable_in_the_positions(measured, geometry, template):
    wanted = np.stack([template[n] for n in ("AF3", "C5", "POz", "Cz")])  # Cz is in the data
    with jax.enable_x64(True):
        fixed = [jnp.asarray(np.asarray(a, float)) for a in (measured, geometry.target)]
        centre = jnp.asarray(np.asarray(geometry.centre, float))

        @jax.jit
        def total(places):
            return jnp.sum(transport(*fixed, places, centre, centre) ** 2)

        places = jnp.asarray(wanted)
        slope = np.asarray(jax.jit(jax.grad(total))(places))
        toward = np.random.default_rng(0).standard_normal(wanted.shape)
        step = 1e-6
        difference = (total(places + step * toward) - total(places - step * toward)) / (2 * step)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose((slope * toward).sum(), difference, rtol=1e-4)


# -------------------------------------------------------------------------------- any reference


@pytest.mark.parametrize("name", ["gaussian", "population"])
def test_any_reference_is_blind_to_what_all_channels_share(name, simulate, geometry):
    if name == "gaussian":
        method = gaussian(lags=LAGS, penalty=PENALTY, any_reference=True)
        params = fit(LAGGED, geometry, batches(simulate(16, TIME)))
    else:
        method = population()
        params = method.init(None, geometry, None)
    x = simulate(2, TIME, 5)[:, np.asarray(geometry.observed_index)]
    common = 1e-4 * np.random.default_rng(0).standard_normal((2, 1, TIME)).astype(np.float32)
    level = np.abs(x).max()
    rows = missing(geometry)

    def referenced(x):
        found = np.asarray(run(method, params, geometry, x).mean)
        return found[:, rows] - x.mean(1, keepdims=True)

    # The common part is ten times the EEG; a hundredth of the EEG may leak.
    assert np.abs(referenced(x + common) - referenced(x)).max() < 1e-2 * level


def test_population_needs_no_data_and_takes_any_montage(template, simulate, positions):
    inputs = "Fz Cz Pz Oz T7 T8 FFC3h FFC4h CPP3h CPP4h".split()
    targets = list(template)[::9]
    mixed = make_geometry(inputs, targets, template)
    method = population()
    assert method.stages == () and method.context == 0
    x = 1e-5 * np.random.default_rng(0).standard_normal((2, 10, TIME))
    found = run(method, method.init(None, mixed, None), mixed, x)
    assert np.isfinite(found.mean).all() and np.isfinite(found.std).all()
    assert (np.asarray(found.std)[:, missing(mixed)] > 0).all()
