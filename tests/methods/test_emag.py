"""`emag`: the ridge first, a continuous stationary field on top, and how far to trust it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.errors import ConfigError
from eegsr_jax.gaussians import precision
from eegsr_jax.gaussians.render import render
from eegsr_jax.geometry import make_geometry, montage
from eegsr_jax.methods import emag, lagged_ridge, reconstruct
from eegsr_jax.methods.base import observed_source
from eegsr_jax.methods.skip import left_by_skip
from eegsr_jax.methods.spatial import spline_matrix
from eegsr_jax.training.loop import fit

NAMES = (
    "Fp1 Fp2 F7 F3 Fz F4 F8 FC5 FC1 FC2 FC6 T7 C3 Cz C4 T8 CP5 CP1 CP2 CP6 P7 P3 Pz P4 P8 O1 O2"
).split()
OBSERVED = "Fp1 F8 C3 C4 P7 Pz O2 Fz".split()
SMALL = {"lags": 2, "resolution": 5, "components": 6, "widths": (4,), "features": 16}


@pytest.fixture(scope="module")
def geometry():
    table = montage("standard_1005")
    return make_geometry(OBSERVED, NAMES, {n: table[n] for n in NAMES})


@pytest.fixture(scope="module")
def windows(geometry):
    """Sources seen through smooth maps; missing channels also see squares of some of them."""
    generator = np.random.default_rng(0)
    places = generator.standard_normal((12, 3))
    places = 0.06 * places / np.linalg.norm(places, axis=1, keepdims=True)
    cap = np.asarray(geometry.target - geometry.centre[None])

    def maps(places):
        return 1 / (0.03 + np.linalg.norm(cap[:, None] - places[None], axis=-1))

    smooth = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    noise = generator.standard_normal((200, 12, 92))
    waves = np.apply_along_axis(lambda x: np.convolve(x, smooth, "valid"), 2, noise)
    bent = waves[:, :6] ** 2 - (waves[:, :6] ** 2).mean()
    eeg = np.einsum("ms,wst->wmt", maps(places), waves)
    unseen = (np.asarray(observed_source(geometry)) < 0)[:, None]
    eeg = eeg + 0.2 * np.einsum("ms,wst->wmt", unseen * maps(places[:6]), bent)
    eeg = 1e-6 * (eeg + generator.standard_normal(eeg.shape))
    part = (np.arange(200) >= 160).astype(np.int32)
    part[180:] = 2  # kept for the test
    return eeg.astype(np.float32), part


@pytest.fixture(scope="module")
def method():
    return emag(**SMALL, epochs=20, batch_size=8, weight_decay=0.1, dropout=(0.0, 0.1, 0.0))


@pytest.fixture(scope="module")
def params(method, geometry, windows):
    eeg, part = windows
    with jax.numpy_dtype_promotion("strict"):
        return fit(method, geometry, lambda: [{"eeg": eeg[part < 2], "part": part[part < 2]}])


def nmse(mean, truth, geometry):
    missing = np.setdiff1d(np.arange(len(NAMES)), geometry.observed_index)
    wrong = (np.asarray(mean) - truth)[:, missing]
    return (wrong**2).sum() / (truth[:, missing] ** 2).sum()


def test_it_learns_what_the_ridge_leaves(method, params, geometry, windows):
    eeg, part = windows
    truth = eeg[part == 2]
    observed = truth[:, np.asarray(geometry.observed_index)]
    base = lagged_ridge(lags=2)
    ridge = fit(base, geometry, lambda: [{"eeg": eeg[part < 2], "part": part[part < 2]}])
    linear = reconstruct(base, ridge, geometry, observed)
    deep = reconstruct(method, params, geometry, observed)
    assert nmse(deep.mean, truth, geometry) < 0.95 * nmse(linear.mean, truth, geometry)
    assert 0.3 < float(params["gain"]) <= 1
    # Without the field it is that ridge.
    alone = reconstruct(method, params | {"gain": jnp.zeros(())}, geometry, observed)
    np.testing.assert_allclose(alone.mean, linear.mean, atol=1e-5 * np.abs(truth).max())
    missing = np.setdiff1d(np.arange(len(NAMES)), geometry.observed_index)
    inside = np.abs(np.asarray(deep.mean) - truth)[:, missing] < 1.645 * deep.std[:, missing]
    assert 0.8 < inside.mean() < 0.97


def test_before_training_it_is_nothing_and_without_validation_the_ridge(method, geometry, windows):
    eeg, part = windows
    start = method.init(jax.random.key(0), geometry, None)
    observed = eeg[:2, np.asarray(geometry.observed_index)]
    missing = np.setdiff1d(np.arange(len(NAMES)), geometry.observed_index)
    mean, std = reconstruct(method, start, geometry, observed)
    assert not np.asarray(mean)[:, missing].any() and np.isinf(std[:, missing]).all()
    short = emag(**SMALL, epochs=1, batch_size=8)
    one = {"eeg": eeg[:16], "part": np.zeros(16, np.int32)}
    unproved = fit(short, geometry, lambda: [one])
    assert float(unproved["gain"]) == 0 and np.isinf(unproved["std"]).all()


def test_the_mixture_rendered_at_the_electrodes_is_the_estimate(method, params, geometry, windows):
    observed = windows[0][180:182, np.asarray(geometry.observed_index)]
    found = method.mixture(params, geometry, jnp.asarray(observed))
    seen = precision.field(
        geometry.target,
        found.centres,
        found.diagonal,
        found.off_diagonal,
        found.time,
        found.amplitude,
    )
    points = found.centres.shape[0]
    weights = {"kernel": jnp.eye(points), "bias": jnp.zeros((points,))}
    field = render(seen, found.times, found.beta, weights).swapaxes(1, 2)
    missing = np.setdiff1d(np.arange(len(NAMES)), geometry.observed_index)
    estimate = reconstruct(method, params, geometry, observed).mean[:, missing]
    both = (field + found.skip)[:, missing]
    np.testing.assert_allclose(both, estimate, atol=2e-5 * np.abs(estimate).max())
    assert np.abs(field).max() > 1e-7  # volts: the field says something
    # Gaussians stand in a ball about the cap.
    radius = np.linalg.norm(np.asarray(geometry.target - geometry.centre[None]), axis=1).mean()
    away = np.linalg.norm(np.asarray(found.centres - geometry.centre[None]), axis=1)
    assert away.max() < 1.1 * radius


def test_electrodes_that_were_never_trained_on(method, params, geometry, windows):
    """At trained places the estimate is the trained one; between them, the field and a spline."""
    observed = windows[0][180:182, np.asarray(geometry.observed_index)]
    trained = reconstruct(method, params, geometry, observed)
    table = montage("standard_1005")
    names = (*NAMES, "AFz", "CPz", "POz", "C1")
    wider = make_geometry(OBSERVED, names, {n: table[n] for n in names}, centre=geometry.centre)
    wide = reconstruct(method, params, wider, observed)
    size = np.abs(trained.mean).max()
    np.testing.assert_allclose(wide.mean[:, :27], trained.mean, atol=1e-5 * size)
    np.testing.assert_allclose(wide.std[:, :27], trained.std, rtol=1e-4)
    assert (np.asarray(wide.std[:, 27:]) > 0.5 * float(params["skip"]["between"])).all()
    # The linear part there is the spline of the linear part at the trained electrodes.
    alone = params | {"gain": jnp.zeros(())}
    at_cap = np.asarray(reconstruct(method, alone, geometry, observed).mean, np.float64)
    own = [params["skip"][name] for name in ("order", "smoothing")]
    spline = spline_matrix(geometry.target, wider.target[27:], geometry.centre, *own)
    carried = np.einsum("nm,bmt->bnt", spline, at_cap)
    found = reconstruct(method, alone, wider, observed).mean[:, 27:]
    np.testing.assert_allclose(found, carried, atol=2e-3 * size)


def test_another_head_is_moved_and_scaled_to_the_trained_one(method, params, geometry, windows):
    observed = windows[0][180:182, np.asarray(geometry.observed_index)]
    here = reconstruct(method, params, geometry, observed)
    shift, growth = np.array([0.004, -0.013, 0.02]), 1.08
    centre = np.asarray(geometry.centre)
    table = montage("standard_1005")
    moved = {n: (table[n] - centre) * growth + centre + shift for n in NAMES}
    other = make_geometry(OBSERVED, NAMES, moved, centre=centre + shift)
    there = reconstruct(method, params, other, observed)
    size = np.abs(here.mean).max()
    np.testing.assert_allclose(there.mean, here.mean, atol=1e-4 * size)
    np.testing.assert_allclose(there.std, here.std, rtol=1e-2)
    found = method.mixture(params, other, jnp.asarray(observed))
    expected = method.mixture(params, geometry, jnp.asarray(observed))
    np.testing.assert_allclose(
        found.centres, (np.asarray(expected.centres) - centre) * growth + centre + shift, atol=1e-5
    )


def test_inputs_that_are_elsewhere_are_brought_to_their_places(method, params, geometry, windows):
    """A smooth potential, given at other electrodes, is estimated as from the trained ones."""
    table = montage("standard_1005")
    names = ("AF3", "F6", "C1", "C6", "P5", "POz", "O1", "F1", "Cz", "T7")
    cap = {n: table[n] for n in (*NAMES, *names)}
    other = make_geometry(names, NAMES, cap, centre=geometry.centre)

    def smooth(places):
        return np.asarray(places - geometry.centre[None]) @ np.array([1.0, 2.0, -1.0]) * 1e-4

    waves = np.sin(np.arange(80) / 5)[None, None]
    given = (smooth(other.observed)[None, :, None] * waves).astype(np.float32)
    trained = (smooth(geometry.observed)[None, :, None] * waves).astype(np.float32)
    alone = params | {"gain": jnp.zeros(())}
    found = np.asarray(reconstruct(method, alone, other, given).mean)
    expected = np.asarray(reconstruct(method, alone, geometry, trained).mean)
    both = np.isin(
        np.arange(27), [NAMES.index(n) for n in NAMES if n not in OBSERVED + list(names)]
    )
    assert np.corrcoef(found[:, both].ravel(), expected[:, both].ravel())[0, 1] > 0.95
    assert reconstruct(method, params, other, given).mean.shape == (1, 27, 80)


def test_trained_on_random_layouts_it_is_better_elsewhere(method, params, geometry, windows):
    eeg, part = windows
    options = {"epochs": 20, "batch_size": 8, "weight_decay": 0.1, "dropout": (0.0, 0.1, 0.0)}
    any_layout = emag(**SMALL, **options, random_layouts=0.7)
    both = {"eeg": eeg[part < 2], "part": part[part < 2]}
    wide = fit(any_layout, geometry, lambda: [both])
    names = "Fp2 F7 C4 T7 P3 P8 O1 Cz".split()
    table = montage("standard_1005")
    other = make_geometry(names, NAMES, {n: table[n] for n in NAMES}, centre=geometry.centre)
    truth = eeg[part == 2]
    observed = truth[:, np.asarray(other.observed_index)]
    fixed, varied = (
        nmse(reconstruct(m, p | {"gain": jnp.ones(())}, other, observed).mean, truth, other)
        for m, p in ((method, params), (any_layout, wide))
    )
    assert varied < 0.98 * fixed


def test_an_input_that_says_nothing_is_not_blown_up(method, geometry, windows):
    """After an average reference one component is rounding noise."""
    eeg, part = windows
    index = np.asarray(geometry.observed_index)
    eeg = eeg - eeg[:, index].mean(1, keepdims=True)
    short = emag(**(SMALL | {"components": len(OBSERVED)}), epochs=1, batch_size=8)
    params = fit(short, geometry, lambda: [{"eeg": eeg[part < 2], "part": part[part < 2]}])
    assert np.asarray(params["standard"]["bands"]).max() < 100
    x = eeg[180:181, index]
    size = np.abs(x).max()

    def field(x):
        on, off = (
            np.asarray(reconstruct(short, params | {"gain": gain}, geometry, x).mean)
            for gain in (jnp.ones(()), jnp.zeros(()))
        )
        return on - off

    assert np.abs(field(x)).max() > 0
    assert np.abs(field(x + 0.1 * size) - field(x)).max() < 1e-3 * size


def test_the_field_is_continuous_and_differentiable_in_the_positions(
    method, params, geometry, windows
):
    observed = jnp.asarray(windows[0][180:181, np.asarray(geometry.observed_index)])

    def total(shift):
        moved = dataclasses.replace(geometry, target=geometry.target + shift[None])
        return jnp.sum(reconstruct(method, params, moved, observed).mean[:, 1] * 1e6)

    slope = jax.grad(total)(jnp.asarray([0.004, 0.0, 0.0]))
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_what_is_left_is_the_same_for_some_samples(method, params, geometry, windows):
    eeg = jnp.asarray(windows[0][:3])
    whole, missing = left_by_skip(params["skip"], eeg, geometry)
    when = jnp.asarray([[0, 5, 79], [1, 2, 3], [40, 41, 78]])
    some, _ = left_by_skip(params["skip"], eeg, geometry, when)
    expected = np.take_along_axis(np.asarray(whole), np.asarray(when)[:, None], 2)
    np.testing.assert_allclose(some, expected, atol=2e-5)
    assert missing.sum() == len(NAMES) - len(OBSERVED)
    # Its unit is its own size.
    eeg, part = windows
    left, _ = left_by_skip(params["skip"], jnp.asarray(eeg[part == 0]), geometry)
    assert np.sqrt(np.mean(np.asarray(left)[:, np.asarray(missing)] ** 2)) == pytest.approx(1, 0.02)


def test_components_are_white_and_the_largest_first(params, geometry, windows):
    eeg, part = windows
    given = eeg[part == 0][:, np.asarray(geometry.observed_index)]
    white = np.einsum("blt,lk->kbt", given, params["skip"]["whiten"]).reshape(len(OBSERVED), -1)
    covariance = white @ white.T / white.shape[1]
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=5e-3)
    assert np.diag(covariance).max() < 1.001 and (np.diff(np.diag(covariance)) < 1e-4).all()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"groups": 4}, "groups=4; expected 1 to 3"),
        ({"covariance": "full"}, "covariance='full'; expected one of full_4d"),
        ({"widths": (3,)}, r"widths=\(3,\); expected some of 2, 4"),
        ({"dropout": (0.1, 0.5)}, r"dropout=\(0.1, 0.5\); expected three shares below 1"),
        ({"average": 1.0}, "average=1.0; expected below 1"),
        ({"resolution": 2}, "resolution 2.*use a resolution of 3 or more"),
    ],
)
def test_options_that_cannot_be_are_named(geometry, option, words):
    with pytest.raises(ConfigError, match=words):
        emag(**option).init(jax.random.key(0), geometry, None)
