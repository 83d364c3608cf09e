"""The learned linear maps against scikit-learn and explicit NumPy on the same windows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from eegsr_jax.methods import lagged_ridge, linear, reduced_rank, ridge
from eegsr_jax.methods import moments as mo
from eegsr_jax.training.loop import fit, jitted

pytestmark = pytest.mark.filterwarnings("error")  # JAX warns where it truncates to float32

LAGS, TIME = 2, 80
PART = np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int32)
PENALTIES = (1e-6, 1e-4, 1e-2, 1.0)
RANKS = (1, 2, 3, 5, 7)
# One of each, so that each is compiled once.
RIDGE, LAGGED = ridge(PENALTIES), lagged_ridge(LAGS, PENALTIES)
REDUCED = reduced_rank(RANKS, PENALTIES)
ALL = pytest.mark.parametrize("method", [RIDGE, LAGGED, REDUCED], ids=lambda m: m.name)


@pytest.fixture(scope="module")
def eeg(simulate):
    """Eight windows without offsets, in units of about one."""
    x = 1e5 * simulate(8, TIME)
    return x - x.mean(-1, keepdims=True)


def batches(eeg, part=PART, size=4):
    def one_pass():
        for i in range(0, len(eeg), size):
            yield {"eeg": eeg[i : i + size], "part": part[i : i + size]}

    return one_pass


def missing(geometry):
    return np.isin(np.arange(len(geometry.target)), geometry.observed_index, invert=True)


def stacked(eeg, index, lags, mean):
    """Inputs `[rows, K L]` and outputs `[rows, C]`; the tap is the slow axis.

    The fit uses all products of a window with itself (the autocorrelation method): that is the
    regression on centred windows with zeros around them, as long as no input is cut off. So each
    window has rows for `lags` samples on either side of it, where the outputs are zero.
    """
    wide = np.pad(eeg.astype(float) - mean[:, None], ((0, 0), (0, 0), (2 * lags, 2 * lags)))
    rows = np.arange(lags, wide.shape[-1] - lags)
    taps = [wide[:, index][..., rows + shift] for shift in range(-lags, lags + 1)]
    inputs = np.concatenate(taps, axis=1)
    return tuple(a.transpose(0, 2, 1).reshape(-1, a.shape[1]) for a in (inputs, wide[..., rows]))


def plain_ridge(inputs, outputs, penalty):
    """scikit-learn's Ridge with our scaling of the penalty; weights `[K L, C]`.

    Ours adds p tr(A) / n to A = X'X / N; Ridge adds alpha to X'X, so alpha = p tr(X'X) / n.
    """
    alpha = penalty * (inputs**2).sum() / inputs.shape[1]
    return Ridge(alpha=alpha, fit_intercept=False, solver="cholesky").fit(inputs, outputs).coef_.T


def plain_fit(eeg, part, geometry, lags, penalties):
    """Choice on validation windows, refit on all, residual on validation windows."""
    index, rows = np.asarray(geometry.observed_index), missing(geometry)
    train, validate = eeg[part == 0], eeg[part == 1]
    mean = train.astype(float).mean((0, 2))
    inputs, outputs = stacked(validate, index, lags, mean)
    scores = []
    for penalty in penalties:
        weights = plain_ridge(*stacked(train, index, lags, mean), penalty)
        # Summed over the extended windows, divided by the samples inside them.
        errors = ((inputs @ weights - outputs) ** 2).sum(0) / (len(validate) * eeg.shape[-1])
        scores.append((errors[rows].sum(), penalty, np.sqrt(errors)))
    _, penalty, std = min(scores, key=lambda s: s[0])
    mean = eeg[part >= 0].astype(float).mean((0, 2))
    weights = plain_ridge(*stacked(eeg[part >= 0], index, lags, mean), penalty)
    filters = weights.reshape(2 * lags + 1, len(index), -1).transpose(0, 2, 1)
    return {"filters": filters, "mean": mean, "std": std, "penalty": penalty}


def close(found, expected, tolerance):
    expected = np.asarray(expected)
    assert np.abs(np.asarray(found) - expected).max() < tolerance * np.abs(expected).max()


def test_ridge_is_scikit_learn_with_an_intercept(eeg, geometry):
    x = eeg + np.linspace(-5, 5, 20, dtype=np.float32)[:, None]
    params = fit(RIDGE, geometry, batches(x))
    index, rows = np.asarray(geometry.observed_index), missing(geometry)
    samples = x.transpose(0, 2, 1).reshape(-1, 20).astype(float)
    inputs = samples[:, index]
    alpha = float(params["penalty"]) * inputs.var(0).sum() / len(index) * len(inputs)
    reference = Ridge(alpha=alpha, fit_intercept=True).fit(inputs, samples)
    close(params["filters"][0, rows], reference.coef_[rows], 1e-5)
    plan = jitted(RIDGE.plan)(params, geometry)
    found = jitted(RIDGE.apply)(plan, jnp.asarray(x[:, index]), None)
    expected = reference.predict(inputs).reshape(8, TIME, 20).transpose(0, 2, 1)
    close(found.mean[:, rows], expected[:, rows], 1e-5)


@pytest.mark.parametrize("method", [RIDGE, LAGGED], ids=lambda m: m.name)
def test_the_fit_is_the_plain_loop_over_penalties(eeg, geometry, method):
    lags = method.context
    part = PART if lags else np.array([0, 1, 1, 1, 1, 1, 1, 1], np.int32)
    params = fit(method, geometry, batches(eeg, part))
    expected = plain_fit(eeg, part, geometry, lags, PENALTIES)
    assert float(params["penalty"]) == pytest.approx(expected["penalty"])
    assert expected["penalty"] not in (PENALTIES[0], PENALTIES[-1])  # it had something to choose
    rows = missing(geometry)
    close(params["filters"][:, rows], expected["filters"][:, rows], 1e-6)
    np.testing.assert_allclose(params["std"][rows], expected["std"][rows], rtol=1e-5)
    assert params["filters"].shape == (2 * lags + 1, 20, 8)


def test_the_error_bar_is_that_of_applying_the_training_map(eeg, geometry):
    """Through `apply` itself, on validation windows with zeros for the lags on either side."""
    both = fit(LAGGED, geometry, batches(eeg))
    index, rows = np.asarray(geometry.observed_index), missing(geometry)
    only_training = np.where(PART == 1, -1, PART)
    sums = jax.jit(mo.add)(mo.zeros(20, 2 * LAGS), jnp.asarray(eeg), jnp.asarray(only_training))
    penalty = jnp.asarray([both["penalty"]])
    train = jax.jit(lambda s: linear.fit(s, geometry.observed_index, LAGS, penalty))(sums)
    plan = jitted(LAGGED.plan)(train, geometry)
    wide = np.pad(eeg[PART == 1], ((0, 0), (0, 0), (LAGS, LAGS)))
    guess = jitted(LAGGED.apply)(plan, jnp.asarray(wide[:, index]), None).mean
    residual = np.asarray(guess, float) - wide
    rms = np.sqrt((residual**2).sum((0, 2)) / (2 * TIME))
    np.testing.assert_allclose(both["std"][rows], rms[rows], rtol=1e-4)
    # Without the edges it differs by little: the error bar is honest for long recordings.
    inside = residual[..., 2 * LAGS : -2 * LAGS]
    np.testing.assert_allclose(np.sqrt((inside**2).mean((0, 2)))[rows], rms[rows], rtol=0.1)


@pytest.mark.parametrize("offset", [1.0, 100.0])
def test_an_offset_of_the_electrodes_changes_nothing(eeg, geometry, offset):
    """Raw recordings carry offsets far above the EEG; only the mean may know."""
    shift = offset * np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
    still, moved = (fit(LAGGED, geometry, batches(x)) for x in (eeg, eeg + shift))
    close(moved["filters"], still["filters"], 1e-3)
    np.testing.assert_allclose(moved["std"], still["std"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(moved["mean"], still["mean"] + shift[:, 0], atol=1e-4 * offset)


def test_the_unit_changes_nothing_but_the_error_bar(eeg, geometry):
    volts, units = (fit(LAGGED, geometry, batches(x)) for x in (1e-5 * eeg, eeg))
    rows = missing(geometry)
    close(volts["filters"][:, rows], units["filters"][:, rows], 1e-5)
    np.testing.assert_allclose(volts["std"][rows], 1e-5 * units["std"][rows], rtol=1e-4)


def test_reduced_rank_is_the_textbook_formula(eeg, geometry):
    """W V_r V_r', with V the right singular vectors of the missing channels' fitted values."""
    params = fit(REDUCED, geometry, batches(eeg))
    index, rows = np.asarray(geometry.observed_index), missing(geometry)
    penalty = float(params["penalty"])

    def map_of(windows, rank):
        inputs, outputs = stacked(windows, index, 0, windows.astype(float).mean((0, 2)))
        weights = plain_ridge(inputs, outputs[:, rows], penalty)
        v = np.linalg.svd(inputs @ weights, full_matrices=False)[2][:rank].T
        return weights @ v @ v.T

    train, validate = eeg[PART == 0], eeg[PART == 1]
    inputs, outputs = stacked(validate, index, 0, train.astype(float).mean((0, 2)))
    errors = {r: ((inputs @ map_of(train, r) - outputs[:, rows]) ** 2).mean(0) for r in RANKS}
    rank = min(RANKS, key=lambda r: errors[r].sum())
    assert int(params["rank"]) == rank
    close(params["filters"][0, rows], map_of(eeg, rank).T, 1e-5)
    np.testing.assert_allclose(params["std"][rows], np.sqrt(errors[rank]), rtol=1e-4)


def test_a_rank_must_be_below_the_number_of_inputs(eeg, geometry):
    params = fit(reduced_rank((8, 12, 3), (1e-3,)), geometry, batches(eeg))
    assert int(params["rank"]) == 3


@ALL
def test_inputs_of_deficient_rank_are_no_trouble(eeg, geometry, method):
    """Average reference over the observed channels, a copy of a channel, and a flat one."""
    index, rows = np.asarray(geometry.observed_index), missing(geometry)
    x = eeg - eeg[:, index].mean(1, keepdims=True)
    x[:, index[1]] = x[:, index[0]]
    x[:, index[2]] = 0.0
    params = fit(method, geometry, batches(x))
    assert all(np.isfinite(v).all() for v in params.values())
    assert (params["std"][rows] < 1.05 * x[PART == 1].std((0, 2))[rows]).all()


# ------------------------------------------------------------------------------ many fits in one


def sums_of(eeg, part=PART):
    return jax.jit(mo.add)(mo.zeros(20, 2 * LAGS), jnp.asarray(eeg), jnp.asarray(part))


LAYOUTS = [[0, 3, 5, 11], [1, 2, 4, 8, 10, 12, 15]]


def test_subjects_and_layouts_in_one_call_are_one_fit_each(simulate):
    subjects = [1e5 * simulate(8, TIME, seed) for seed in range(2)]
    sums = [sums_of(x - x.mean(-1, keepdims=True)) for x in subjects]
    together = jax.tree.map(lambda *a: np.stack(a), *sums)
    penalties = jnp.asarray(PENALTIES)
    many = jax.jit(lambda m: linear.fit_layouts(m, LAYOUTS, LAGS, penalties))(together)
    single = jax.jit(lambda m, index: linear.fit(m, index, LAGS, penalties))
    channels = LAYOUTS[0]  # the padded one
    missed = np.isin(np.arange(20), channels, invert=True)
    for subject, moments in enumerate(sums):
        found = {name: value[subject, 0] for name, value in many.items()}
        alone = single(moments, jnp.asarray(channels, jnp.int32))
        assert alone["penalty"] == found["penalty"]
        close(found["filters"][..., : len(channels)], alone["filters"], 1e-5)
        np.testing.assert_array_equal(found["filters"][..., len(channels) :], 0.0)
        close(found["mean"], alone["mean"], 1e-5)
        np.testing.assert_allclose(found["std"][missed], alone["std"][missed], rtol=1e-5)


def test_a_padded_layout_is_the_layout_without_padding(eeg):
    """Of a map of reduced rank too."""
    moments, penalties, ranks = sums_of(eeg), jnp.asarray(PENALTIES), (2, 3, 5)
    channels = LAYOUTS[0]
    index, present = np.array([*channels, 0, 0, 0], np.int32), np.arange(7) < 4  # 0 pads

    def padded(index, present):
        return linear.fit(moments, index, LAGS, penalties, ranks, present)

    found = jax.jit(jax.vmap(padded))(index[None], present[None])
    alone = jax.jit(lambda i: linear.fit(moments, i, LAGS, penalties, ranks))(index[:4])
    assert alone["rank"] == found["rank"][0] and alone["penalty"] == found["penalty"][0]
    close(found["filters"][0][..., :4], alone["filters"], 1e-5)
    np.testing.assert_array_equal(found["filters"][0][..., 4:], 0.0)
    rows = np.isin(np.arange(20), channels, invert=True)
    np.testing.assert_allclose(found["std"][0][rows], alone["std"][rows], rtol=1e-5)


# ------------------------------------------------------------------------------ what cannot be told


@ALL
def test_without_validation_windows_the_error_bar_is_unknown(method, eeg, geometry):
    """An error bar of zero would claim a perfect reconstruction."""
    params = fit(method, geometry, batches(eeg, np.zeros(8, np.int32)))
    assert np.isfinite(params["filters"]).all()
    assert np.isinf(params["std"][missing(geometry)]).all()


@ALL
def test_untrained_params_have_the_shapes_of_trained_ones(method, eeg, geometry):
    params = method.init(None, geometry, None)
    trained = fit(method, geometry, batches(eeg))
    assert np.isinf(params["std"]).all() and not params["filters"].any()
    for name, value in params.items():
        assert value.shape == trained[name].shape and value.dtype == trained[name].dtype
