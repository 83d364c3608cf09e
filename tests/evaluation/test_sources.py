"""Inverses against MNE called directly, fields against hand-made ones, scores by hand."""

from __future__ import annotations

import mne
import numpy as np
import pytest
from mne import minimum_norm

from eegsr_jax.data.datasets import simulated
from eegsr_jax.evaluation import sources as so
from eegsr_jax.evaluation.sources_simulation import CAP
from eegsr_jax.gaussians import reference
from eegsr_jax.gaussians.mixture import Mixture

SPACING = 0.02
NAMES = CAP[::2]


@pytest.fixture(scope="module")
def cap():
    entry = simulated.open_dataset(montage=list(NAMES), seconds=2.0, num_sources=2).entries[0]
    sources = entry.truth()
    return entry.read().positions, so.Head(sources.centre, sources.radius)


@pytest.fixture(scope="module")
def inverses(cap):
    return so.inverses(NAMES, *cap, SPACING)


def test_the_forward_model_is_the_simulation_s(cap):
    electrodes, head = cap
    points = so.grid(head, SPACING)
    solution = so.forward(NAMES, electrodes, points, head)
    np.testing.assert_allclose(solution["source_rr"], points, atol=1e-7)
    turned = np.tile([0.6, 0.0, 0.8], (len(points), 1))
    expected = simulated.leadfield(electrodes, points, turned, head.centre, head.radius)
    found = solution["sol"]["data"].reshape(len(NAMES), -1, 3) @ turned[0]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_the_grid_fills_the_brain_and_not_the_neck(cap):
    _, head = cap
    points = so.grid(head, SPACING)
    offset = points - head.centre
    assert np.linalg.norm(offset, axis=1).max() <= 0.86 * head.radius
    assert np.linalg.norm(offset, axis=1).min() > 0.3 * SPACING  # none in the centre
    assert offset[:, 2].min() >= -0.3 * 0.86 * head.radius
    nearest = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert np.isclose((nearest + np.eye(len(points))).min(1), SPACING).all()
    assert so.in_brain(points, head).all()
    away = head.centre + head.radius * np.array([[0, 0, 0.95], [0, 0, -0.5], [0.7, 0, -0.2]])
    np.testing.assert_array_equal(so.in_brain(away, head), [False, False, True])


@pytest.mark.parametrize("method", so.MINIMUM_NORM)
def test_a_kernel_is_mne_s_own_inverse(cap, inverses, method):
    electrodes, head = cap
    maps = 1e-5 * np.random.default_rng(0).standard_normal((3, len(NAMES)))
    with mne.utils.use_log_level("error"):
        evoked = mne.EvokedArray(maps.T, so.information(NAMES, electrodes))
        evoked.set_eeg_reference(projection=True)
        operator = minimum_norm.make_inverse_operator(
            evoked.info,
            so.forward(NAMES, electrodes, so.grid(head, SPACING), head),
            mne.make_ad_hoc_cov(evoked.info, std={"eeg": 1e-6}),
        )
        expected = minimum_norm.apply_inverse(evoked, operator, 1 / 9, method)
    found = so.activity(inverses[method], maps)
    np.testing.assert_allclose(found, expected.data.T, rtol=2e-5, atol=1e-6 * found.max())


@pytest.mark.parametrize("method", ["eLORETA"])
def test_a_dipole_without_noise_is_found_at_its_grid_point(cap, inverses, method):
    electrodes, head = cap
    points = inverses[method].points
    rng = np.random.default_rng(1)
    chosen = rng.choice(len(points), 20, replace=False)
    turned = rng.standard_normal((20, 3))
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    gains = simulated.leadfield(electrodes, points[chosen], turned, head.centre, head.radius)
    activity = so.activity(inverses[method], 1e-8 * gains.T)
    np.testing.assert_array_equal(activity.argmax(1), chosen)
    scores = so.scores(activity, points, np.stack([points[chosen]] * 2, 1))
    assert scores["error_mm"].max() == 0 and scores["floor_mm"].max() == 0
    assert (scores["dispersion_mm"] > 10).all()  # found, and yet blurred


def test_gaussians_fitted_to_a_topography(cap, inverses):
    """Against a penalised least-squares fit; standardised, a Gaussian is found where it is."""
    electrodes, head = cap
    points = so.grid(head, SPACING)
    distance = np.linalg.norm(electrodes[:, None] - points[None], axis=-1)
    gains = np.exp(-0.5 * (distance / so.SIZE) ** 2)
    maps = np.random.default_rng(2).standard_normal((3, len(NAMES)))
    maps -= maps.mean(1, keepdims=True)
    centred = gains - gains.mean(0)
    load = (centred**2).sum() / (len(NAMES) - 1) / 9
    stacked = np.concatenate([centred, np.sqrt(load) * np.eye(len(points))])
    wanted = np.concatenate([maps.T, np.zeros((len(points), 3))])
    expected = np.abs(np.linalg.lstsq(stacked, wanted, rcond=None)[0]).T
    found = so.activity(inverses["Gaussians"], maps)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())
    alone = so.activity(inverses["Gaussians, standardised"], gains.T)
    np.testing.assert_array_equal(alone.argmax(1), np.arange(len(points)))
    assert (so.activity(inverses["Gaussians"], gains.T).argmax(1) != np.arange(len(points))).any()


def test_another_head_is_another(cap, inverses):
    electrodes, head = cap
    wrong = so.other(head)
    assert np.isclose(np.linalg.norm(wrong.centre - head.centre), 0.005)
    assert wrong.radius == head.radius
    assert np.isclose(wrong.conductivities[2] / head.conductivities[2], 1.7)
    known = so.forward(NAMES, electrodes, so.grid(head, SPACING), head)["sol"]["data"]
    points = so.grid(head, SPACING)
    other = so.forward(NAMES, electrodes, points, wrong)["sol"]["data"]
    assert 0.05 < np.linalg.norm(other - known) / np.linalg.norm(known) < 0.8


def test_scores_by_hand():
    points = np.array([[0.0, 0, 0], [0.01, 0, 0], [0.03, 0, 0]])
    sources = np.array([[[0.0, 0, 0]] * 2, [[0.0, 0, 0], [0.032, 0, 0]], [[0.0, 0, 0]] * 2])
    activity = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    found = so.scores(activity, points, sources)
    np.testing.assert_allclose(found["error_mm"], [10.0, 2.0, np.nan])
    np.testing.assert_allclose(
        found["dispersion_mm"], [np.sqrt(4 / 5) * 10, np.sqrt((100 + 4 * 4) / 5), np.nan]
    )
    np.testing.assert_allclose(found["floor_mm"], [0, 0, 0], atol=1e-12)


# ------------------------------------------------------------------------------------------ fields


def mixture(beta: np.ndarray, seed: int = 0, times: int = 12) -> Mixture:
    """Two Gaussians at each of 30 points, 20 ms wide at least, constant amplitudes."""
    rng = np.random.default_rng(seed)
    points = 0.05 * rng.standard_normal((30, 3))
    return Mixture(
        centres=points.astype(np.float32),
        diagonal=np.tile(np.float32([60, 70, 80, 9]), (2, 30, 1)),
        off_diagonal=rng.uniform(-5, 5, (2, 30, 6)).astype(np.float32),
        time=rng.uniform(0, 0.2, (2, 30)).astype(np.float32),
        amplitude=rng.standard_normal((2, 30)).astype(np.float32),
        beta=beta.astype(np.float32),
        times=np.arange(times, dtype=np.float32) / 60,
        unit=np.ones((len(beta), 8), np.float32),
        skip=np.zeros((len(beta), 8, times), np.float32),
    )


TURNS = np.arange(8.0)
TARGET = 0.09 * np.stack([np.cos(TURNS), np.sin(TURNS), np.linspace(-0.5, 1, 8)], 1)
PEAK, BASELINE = 10, slice(0, 6)


def read(*made: Mixture) -> so.Reading:
    return so.read_field(made, TARGET, PEAK, BASELINE)


def standing(made: Mixture) -> np.ndarray:
    """What stands at each point, `[N, time, P]`."""
    total = np.zeros(made.beta.shape)
    for g, p in np.ndindex(2, 30):
        rate = made.diagonal[g, p, 3] ** 2 + (made.off_diagonal[g, p, 3:] ** 2).sum()
        weight = np.exp(-0.5 * rate * (made.times - made.time[g, p]) ** 2)
        total[:, :, p] += (made.amplitude[g, p] + made.beta[:, :, p]) * weight
    return total


def kernels(made: Mixture) -> np.ndarray:
    """`[M, P]` of beta to electrodes at the peak, by the slow renderer."""

    def flat(x):  # Gaussian p · G + g
        return np.moveaxis(x, 0, 1).reshape(60, *x.shape[2:])

    centres = np.concatenate([np.repeat(made.centres, 2, 0), flat(made.time)[:, None]], 1)
    precision = reference.precision_matrix(flat(made.diagonal), flat(made.off_diagonal))
    weights = reference.gaussian_weights(
        np.float32(TARGET), made.times[PEAK : PEAK + 1], centres, precision
    )
    return np.asarray(weights)[0].reshape(8, 30, 2).sum(-1)


def test_a_field_is_read_as_one_would_by_hand():
    beta = np.random.default_rng(3).standard_normal((5, 12, 30))
    made = mixture(beta)
    first, second = (made._replace(beta=made.beta[part]) for part in (slice(0, 2), slice(2, 5)))
    found, total = read(first, second), standing(made)
    np.testing.assert_allclose(found.points, made.centres)
    np.testing.assert_allclose(found.field, np.abs(total[:, PEAK]), rtol=1e-4, atol=1e-5)
    before = total[:, BASELINE]
    expected = np.abs(total[:, PEAK] - before.mean(1)) / np.sqrt(before.var(1).mean(0))
    np.testing.assert_allclose(found.change, expected, rtol=2e-3, atol=1e-3)


def test_what_no_electrode_sees_is_taken_away():
    rng = np.random.default_rng(4)
    beta = np.zeros((5, 12, 30))
    rows = kernels(mixture(beta)).astype(float)
    seen = rng.standard_normal((5, 8)) @ rows  # in the span of what electrodes see
    hidden = rng.standard_normal((5, 30))
    hidden -= hidden @ np.linalg.pinv(rows) @ rows
    beta[:, PEAK] = seen + 3 * hidden
    made = mixture(beta)
    found = read(made)
    assert np.abs(hidden @ rows.T).max() < 1e-9
    np.testing.assert_allclose(found.seen, np.abs(seen), rtol=1e-3, atol=1e-3)
    energy = (hidden**2).sum() * 9
    assert found.silent == pytest.approx(energy / (energy + (seen**2).sum()), rel=1e-3)


def test_an_amplitude_that_stands_still_fools_the_field_and_not_its_change():
    beta = 0.1 * np.random.default_rng(5).standard_normal((4, 12, 30))
    beta[:, PEAK, 7] += 5.0
    made = mixture(beta)
    amplitude = np.zeros((2, 30), np.float32)
    amplitude[:, 20] = 100.0
    time = np.full((2, 30), made.times[PEAK])  # wide in time, so that nothing changes
    made = made._replace(
        amplitude=amplitude,
        time=time,
        diagonal=made.diagonal * np.float32([1, 1, 1, 0]),
        off_diagonal=made.off_diagonal * np.float32([1, 1, 1, 0, 0, 0]),
    )
    found = read(made)
    assert (found.field.argmax(1) == 20).all() and (found.change.argmax(1) == 7).all()


def test_a_field_of_nothing_says_nothing():
    made = mixture(np.zeros((2, 12, 30)))._replace(amplitude=np.zeros((2, 30), np.float32))
    found = read(made)
    assert found.field.max() == found.change.max() == found.seen.max() == 0
    assert np.isnan(found.silent)
