"""`srgdiff`: a mean no worse than the ridge, draws that are like the data, bars that hold."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.diffusion.noise import window_keys
from eegsr_jax.errors import ConfigError
from eegsr_jax.geometry import make_geometry, montage
from eegsr_jax.methods import lagged_ridge, reconstruct
from eegsr_jax.methods.srgdiff.posterior import srgdiff
from eegsr_jax.training.loop import fit

NAMES = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2".split()
OBSERVED = "Fp1 F8 C3 C4 P7 Pz O2".split()
MISSING = [i for i, n in enumerate(NAMES) if n not in OBSERVED]
SMALL = {"lags": 2, "components": 6, "widths": (4,), "features": 16, "hidden": 16, "batch_size": 8}
TIME = 96


@pytest.fixture(scope="module")
def geometry():
    table = montage("standard_1005")
    return make_geometry(OBSERVED, NAMES, {n: table[n] for n in NAMES})


@pytest.fixture(scope="module")
def windows(geometry):
    """Smooth sources, and a noise of the missing channels that is loud where a source is."""
    generator = np.random.default_rng(0)
    places = generator.standard_normal((9, 3))
    places = 0.06 * places / np.linalg.norm(places, axis=1, keepdims=True)
    cap = np.asarray(geometry.target - geometry.centre[None])
    maps = 1 / (0.03 + np.linalg.norm(cap[:, None] - places[None], axis=-1))
    smooth = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    noise = generator.standard_normal((400, 9, TIME + 12))
    waves = np.apply_along_axis(lambda x: np.convolve(x, smooth, "valid"), 2, noise)
    loud = np.exp(generator.standard_normal((400, 1, 1)))  # of the whole window
    own = generator.standard_normal((400, len(NAMES), TIME + 12))
    own = np.apply_along_axis(lambda x: np.convolve(x, [1, 2, 1], "valid"), 2, own)[..., :TIME]
    mixing = np.eye(len(NAMES)) + 0.3 * generator.standard_normal((len(NAMES),) * 2)
    own = np.einsum("mn,wnt->wmt", mixing, own)
    eeg = loud * (np.einsum("ms,wst->wmt", maps, waves) + 6 * own)
    part = (np.arange(400) >= 240).astype(np.int32)
    part[320:] = 2  # kept for the test
    return (1e-6 * eeg).astype(np.float32), part


def trained(method, geometry, windows):
    eeg, part = windows
    with jax.numpy_dtype_promotion("strict"):
        return fit(method, geometry, lambda: [{"eeg": eeg[part < 2], "part": part[part < 2]}])


@pytest.fixture(scope="module")
def method():
    return srgdiff(**SMALL, mean_epochs=6, epochs=12)


@pytest.fixture(scope="module")
def params(method, geometry, windows):
    return trained(method, geometry, windows)


@pytest.fixture(scope="module")
def plan(method, params, geometry):
    return jax.jit(method.plan)(params, geometry)


def observed_of(eeg, geometry):
    return jnp.asarray(eeg[:, np.asarray(geometry.observed_index)])


def nmse(mean, truth):
    wrong = (np.asarray(mean) - truth)[:, MISSING]
    return (wrong**2).sum() / (truth[:, MISSING] ** 2).sum()


def test_its_mean_is_no_worse_than_the_ridge_and_given_channels_stay(
    method, plan, geometry, windows
):
    eeg, part = windows
    truth = eeg[part == 2]
    observed = observed_of(truth, geometry)
    found = jax.jit(method.apply)(plan, observed, jax.random.key(0))
    ridge = lagged_ridge(lags=2)
    line = reconstruct(ridge, trained(ridge, geometry, windows), geometry, observed)
    assert nmse(found.mean, truth) < 1.01 * nmse(line.mean, truth)
    index = np.asarray(geometry.observed_index)
    np.testing.assert_array_equal(found.mean[:, index], observed)
    assert not np.asarray(found.std)[:, index].any()


def test_bars_hold_and_are_wide_where_it_is_loud(method, plan, geometry, windows):
    eeg, part = windows
    truth = eeg[part == 2]
    found = method.apply(plan, observed_of(truth, geometry), jax.random.key(0))
    wrong = np.abs(np.asarray(found.mean) - truth)[:, MISSING]
    std = np.asarray(found.std)[:, MISSING]
    assert 0.86 < np.mean(wrong < 1.6449 * std) < 0.94
    size, bar = np.log((wrong**2).mean((1, 2))), np.log((std**2).mean((1, 2)))
    assert np.corrcoef(size, bar)[0, 1] > 0.8
    constant = std.mean((0, 2), keepdims=True)  # bars that are the same in all windows
    likelihood = [np.mean(np.log(s) + 0.5 * (wrong / s) ** 2) for s in (std, constant)]
    assert likelihood[0] < likelihood[1] - 0.1


def test_draws_have_the_covariance_and_the_spectra_of_the_data(method, plan, geometry, windows):
    eeg, part = windows
    truth = eeg[part == 2]
    observed = observed_of(truth, geometry)
    drawn = np.asarray(method.draw(plan, observed, jax.random.key(1)))
    mean = np.asarray(method.apply(plan, observed, jax.random.key(1)).mean)
    index = np.asarray(geometry.observed_index)
    np.testing.assert_allclose(drawn[:, index], observed, rtol=1e-6)

    def left(x):
        """Off from the whole by so much, in covariance and in the spectrum, of log ratios."""
        own, other = ((a[:, MISSING] * 1e6) for a in (x, truth))
        spectra = [
            (np.abs(np.fft.rfft(a * np.hanning(TIME))) ** 2).mean((0, 1)) for a in (own, other)
        ]
        values = [np.linalg.eigvalsh(np.einsum("nmt,nlt->ml", a, a)) for a in (own, other)]
        spectra = [x[1 : TIME // 5] for x in spectra]  # next to nothing is faster
        return [np.abs(np.log(a / b)).mean() for a, b in (spectra, values)]

    of_draw, of_mean = left(drawn), left(mean)
    assert of_draw[0] < 0.6 * of_mean[0] and of_draw[1] < 0.5 * of_mean[1], (of_draw, of_mean)


def test_the_diffusion_tells_loud_windows_from_quiet_ones(method, params, geometry, windows):
    """Without it draws are as loud everywhere, in closed form."""
    eeg, part = windows
    truth = eeg[part == 2]
    observed = observed_of(truth, geometry)
    closed = srgdiff(**SMALL, mean_epochs=6, epochs=0)
    assert len(closed.stages) == len(method.stages) - 2

    def size(method, params):
        plan = method.plan(params, geometry)
        found = method.apply(plan, observed, jax.random.key(3))
        off = np.asarray(method.draw(plan, observed, jax.random.key(3)) - found.mean)
        wrong = np.asarray(found.mean) - truth
        return np.corrcoef(*(np.log((x[:, MISSING] ** 2).mean((1, 2))) for x in (off, wrong)))[0, 1]

    assert size(method, params) > 0.8
    assert abs(size(closed, trained(closed, geometry, windows))) < 0.4


def test_draws_lie_evenly_about_the_mean(method, plan, geometry, windows):
    observed = observed_of(windows[0][:3], geometry)
    draw = jax.jit(method.draw)
    many = np.stack([np.asarray(draw(plan, observed, jax.random.key(n))) for n in range(60)])
    off = many - np.asarray(method.apply(plan, observed, jax.random.key(0)).mean)
    # A mean of n draws is off by the n-th part of their variance.
    ratio = (off.mean(0) ** 2).sum() / (off**2).mean(0).sum() * len(off)
    assert 0.7 < ratio < 1.4


def test_a_window_is_the_same_in_any_batch(method, plan, geometry, windows):
    observed = observed_of(windows[0][:5], geometry)

    def keys(rows):
        return window_keys(jax.random.key(7), jnp.arange(5)[rows])

    whole, alone = (method.apply(plan, observed[s], keys(s)) for s in (slice(0, 5), slice(3, 4)))
    for found, own in zip(whole, alone, strict=True):
        np.testing.assert_allclose(found[3:4], own, rtol=2e-4, atol=1e-10)
    one_key = method.apply(plan, observed, jax.random.key(7))
    np.testing.assert_allclose(one_key.std, whole.std, rtol=1e-5, atol=1e-12)
    drawn = method.draw(plan, observed, keys(slice(0, 5)))
    np.testing.assert_allclose(
        drawn[3:4], method.draw(plan, observed[3:4], keys(slice(3, 4))), rtol=1e-3, atol=1e-8
    )
    assert np.abs(np.asarray(method.draw(plan, observed, jax.random.key(8)) - drawn)).max() > 1e-6


@pytest.mark.parametrize("time", [40, TIME, 131])
def test_windows_of_any_length_and_gradients(method, plan, geometry, time):
    x = 1e-5 * jax.random.normal(jax.random.key(0), (2, len(OBSERVED), time))

    def size(plan, x):
        found = method.apply(plan, x, jax.random.key(0))
        return jnp.sum((found.mean / 1e-6) ** 2) + jnp.sum((found.std / 1e-6) ** 2)

    found = jax.jit(method.apply)(plan, x, jax.random.key(0))
    assert found.mean.shape == found.std.shape == (2, len(NAMES), time)
    assert np.isfinite(found.std).all()
    floats = {k: v for k, v in plan.items() if k != "source"}
    grads = jax.grad(lambda f, x: size(f | {"source": plan["source"]}, x), (0, 1))(floats, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_before_training_it_cannot_tell(method, geometry):
    own = method.init(None, geometry, None)
    found = reconstruct(method, own, geometry, jnp.ones((1, len(OBSERVED), 32)))
    assert np.isinf(np.asarray(found.std)[:, MISSING]).all()


def test_at_electrodes_that_it_was_not_trained_on_bars_are_wider(method, params, geometry):
    table = montage("standard_1005")
    wanted = ["FC3", "CP4", *NAMES]
    other = make_geometry(OBSERVED, wanted, {n: table[n] for n in wanted})
    x = 1e-5 * jax.random.normal(jax.random.key(0), (2, len(OBSERVED), 64))
    there, here = (reconstruct(method, params, g, x, jax.random.key(0)) for g in (other, geometry))
    np.testing.assert_allclose(there.mean[:, 2:], here.mean, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(there.std[:, 2:], here.std, rtol=1e-3, atol=1e-10)
    between = float(params["skip"]["between"])
    assert (np.asarray(there.std)[:, :2] > 0.99 * between).all()
    plan = method.plan(params, other)
    assert np.isfinite(method.draw(plan, x, jax.random.key(0))).all()


@pytest.mark.slow
def test_trained_on_random_layouts_it_is_better_elsewhere(method, params, geometry, windows):
    eeg, part = windows
    several = srgdiff(**SMALL, mean_epochs=6, epochs=4, random_layouts=1.0)
    own = trained(several, geometry, windows)
    other = [NAMES[i] for i in (1, 2, 9, 12, 15, 18, 5)]
    table = montage("standard_1005")
    where = make_geometry(other, NAMES, {n: table[n] for n in NAMES})
    truth = eeg[part == 2]
    observed = jnp.asarray(truth[:, np.asarray(where.observed_index)])
    score = [
        nmse(reconstruct(m, p, where, observed, jax.random.key(0)).mean, truth)
        for m, p in ((several, own), (method, params))
    ]
    assert score[0] < 1.02 * score[1]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"widths": (3,)}, r"srgdiff: widths=\(3,\); expected some of 2, 4"),
        ({"steps": 0}, "srgdiff: steps=0; expected 1 or more"),
        ({"draws": 0}, "srgdiff: draws=0; expected 1 or more"),
        ({"average": 1.0}, "srgdiff: average=1.0; expected below 1"),
        ({"dropout": (0.1,)}, "srgdiff: dropout=.* three shares"),
        ({"random_layouts": 2.0}, "srgdiff: random_layouts=2.0; expected a share"),
    ],
)
def test_options_that_cannot_be_are_named(option, message):
    with pytest.raises(ConfigError, match=message):
        srgdiff(**option)


def test_it_is_compiled_once(method, plan):
    x = jnp.zeros((2, len(OBSERVED), 64))
    traced = []

    @jax.jit
    def run(plan, x, key):
        traced.append(x)  # runs when a program is made, not when it is run
        return method.apply(plan, x, key)

    for number in range(2):
        run(plan, x + number, jax.random.key(number))
    assert len(traced) == 1
