"""Every score against a formula of its own, over the concatenated arrays."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import signal, stats
from sklearn.metrics import r2_score

from eegsr_jax.evaluation.metrics import BANDS, NOMINAL, Scores, floors

SFREQ = 160.0
MISSING = np.array([False, True, True, False, True, True])


@pytest.fixture(scope="module")
def batch():
    """Truth, estimate and error bar of 70 windows of 2 s, 6 channels, in volts."""
    rng = np.random.default_rng(3)
    shape = (70, 6, 320)
    truth = 1e-5 * (signal.lfilter([1], [1, -0.9], rng.standard_normal(shape)) + 0.3)
    truth *= np.array([1, 2, 0.5, 1, 3, 1])[None, :, None]
    std = np.full(shape, 4e-6) * rng.uniform(0.5, 1.5, shape)
    return truth, 0.9 * truth + 4e-6 * rng.standard_normal(shape), std


def summary(truth, mean, std, missing=MISSING, legacy_batch=32, parts=None):
    scores = Scores(missing, SFREQ, legacy_batch)
    for piece in np.split(np.arange(len(truth)), np.cumsum(parts or [])):
        scores.add(truth[piece], mean[piece], std[piece])
    return scores.summary()


@pytest.fixture(scope="module")
def found(batch):
    return summary(*batch)


def test_pooled_scores(batch, found):
    truth, mean, _ = batch
    y, z = truth[:, MISSING], mean[:, MISSING]
    np.testing.assert_allclose(found["nmse_missing"], ((z - y) ** 2).sum() / (y**2).sum())
    np.testing.assert_allclose(found["nmse_all"], ((mean - truth) ** 2).sum() / (truth**2).sum())
    snr = 10 * np.log10(np.mean(y**2) / np.mean((z - y) ** 2))
    np.testing.assert_allclose(found["snr_missing_db"], snr)
    np.testing.assert_allclose(found["pcc_missing"], stats.pearsonr(z.ravel(), y.ravel())[0])
    np.testing.assert_allclose(found["pcc_all"], stats.pearsonr(mean.ravel(), truth.ravel())[0])


def test_scores_of_single_windows_and_channels(batch, found):
    truth, mean, _ = batch
    pairs = [(truth[w, c], mean[w, c]) for w in range(70) for c in np.flatnonzero(MISSING)]
    nmse = [1 - r2_score(y, z) for y, z in pairs]  # over the deviation from the window's mean
    np.testing.assert_allclose(found["nmse_window_mean"], np.mean(nmse))
    np.testing.assert_allclose(found["nmse_window_median"], np.median(nmse))
    pcc = np.mean([stats.pearsonr(y, z)[0] for y, z in pairs])
    np.testing.assert_allclose(found["pcc_window"], pcc)


def test_coverage_counts_missing_samples_within_the_bars(batch, found):
    truth, mean, std = (a[:, MISSING] for a in batch)
    for level, reach in NOMINAL.items():
        assert reach == pytest.approx(stats.norm.ppf(0.5 + level / 200), abs=1e-6)
        inside = np.mean(np.abs(mean - truth) <= stats.norm.ppf(0.5 + level / 200) * std)
        np.testing.assert_allclose(found[f"coverage_{level}"], inside, atol=5e-5)


def test_bands_are_shares_of_the_periodogram(batch, found):
    truth, mean, _ = batch
    y, e = truth[:, MISSING], (mean - truth)[:, MISSING]
    options = {"fs": SFREQ, "window": np.hanning(320), "detrend": False}
    frequency, of_error = signal.periodogram(e, **options)
    _, of_truth = signal.periodogram(y, **options)
    for name, (low, high) in BANDS.items():
        band = (frequency >= low) & (frequency < high)
        expected = of_error[..., band].sum() / of_truth[..., band].sum()
        np.testing.assert_allclose(found[f"nmse_{name}"], expected)


@pytest.mark.parametrize("size", [32, 64])
def test_the_peers_score_is_the_mean_over_batches_of_mse_over_variance(batch, size):
    truth, mean, std = batch
    expected = []
    for start in range(0, len(truth), size):  # the last batch is short, and counts as much
        y, z = truth[start : start + size].ravel(), mean[start : start + size].ravel()
        expected.append(np.mean((z - y) ** 2) / np.var(y, ddof=1))
    found = summary(truth, mean, std, legacy_batch=size, parts=[5, 40])
    np.testing.assert_allclose(found["nmse_all_batch"], np.mean(expected))


def test_adding_in_batches_is_adding_at_once(batch, found):
    pieces = summary(*batch, parts=[1, 31, 32])
    assert pieces.keys() == found.keys()
    for name in found:
        np.testing.assert_allclose(pieces[name], found[name], rtol=1e-12, err_msg=name)


def test_summary_can_be_asked_for_twice(batch):
    scores = Scores(MISSING, SFREQ)
    scores.add(*batch)
    assert scores.summary() == scores.summary()


def test_missing_only_scores_do_not_see_the_given_channels(batch, found):
    truth, mean, std = (a.copy() for a in batch)
    mean[:, ~MISSING] += 1.0
    std[:, ~MISSING] = np.nan
    other = summary(truth, mean, std)
    for name in found:
        if name in ("nmse_all", "nmse_all_batch", "pcc_all"):
            assert abs(other[name] / found[name] - 1) > 0.1
        else:
            assert other[name] == found[name], name


def test_channel_nmse_is_pooled_over_windows(batch):
    truth, mean, std = batch
    scores = Scores(MISSING, SFREQ)
    scores.add(truth, mean, std)
    expected = ((mean - truth) ** 2).sum((0, 2)) / (truth**2).sum((0, 2))
    np.testing.assert_allclose(scores.channel_nmse(), expected)


def test_the_ratio_of_chosen_channels_sees_these_alone(batch):
    truth, mean, std = batch
    scores = Scores(MISSING, SFREQ)
    scores.add(truth, mean, std)
    chosen = np.array([False, True, False, False, False, True])
    error = np.sum((mean - truth)[:, chosen] ** 2) / np.sum(truth[:, chosen] ** 2)
    expected = -10 * np.log10(error)
    assert scores.summary(chosen)["snr_common_db"] == pytest.approx(expected)
    assert "snr_common_db" not in scores.summary() | scores.summary(np.zeros(6, bool))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_without_error_bars_there_is_no_coverage(batch, wrong):
    truth, mean, std = batch
    std = std.copy()
    std[3, 1] = wrong  # one method, one window, one missing channel
    other = summary(truth, mean, std, parts=[2, 20])
    assert all(np.isnan(other[f"coverage_{level}"]) for level in NOMINAL)
    assert np.isfinite(other["nmse_missing"])


def test_exact_gaussian_errors_are_covered_as_the_name_says():
    rng = np.random.default_rng(11)
    truth, std = rng.standard_normal((40, 6, 1000)), rng.uniform(0.2, 3.0, (40, 6, 1))
    found = summary(truth, truth + std * rng.standard_normal(truth.shape), std + 0 * truth)
    samples = 40 * MISSING.sum() * 1000
    for level in NOMINAL:
        share = level / 100
        spread = np.sqrt(share * (1 - share) / samples)
        assert abs(found[f"coverage_{level}"] - share) < 4 * spread


@pytest.mark.parametrize(
    ("hertz", "band"),
    [(2.5, "delta"), (6.0, "theta"), (10.0, "alpha"), (20.0, "beta"), (35.0, "gamma")],
)
def test_an_error_of_one_rhythm_shows_in_its_band_only(batch, hertz, band):
    truth, _, std = batch
    error = 3e-6 * np.sin(2 * np.pi * hertz * np.arange(320) / SFREQ)
    found = summary(truth, truth + error, std)
    here = found[f"nmse_{band}"]
    assert here > 1e-3
    assert all(found[f"nmse_{other}"] < 1e-4 * here for other in BANDS if other != band)


def test_an_error_at_the_end_of_the_window_shows_there_only():
    truth = np.ones((2, 3, 20))
    mean = truth.copy()
    mean[:, 1:, 15:] = 0
    scores = Scores(np.array([False, True, True]), 10.0)
    scores.add(truth, mean, np.ones_like(truth))
    found = [scores.summary()[f"nmse_part_{i}"] for i in range(1, 9)]
    # 20 samples in eight parts: four of three, then four of two.
    assert found == [0, 0, 0, 0, 0, 0.5, 1, 1]


def test_a_perfect_estimate(batch):
    truth, _, std = batch
    found = summary(truth, truth, std)
    assert found["nmse_missing"] == 0 and found["nmse_all_batch"] == 0
    assert found["pcc_missing"] == pytest.approx(1.0) and found["snr_missing_db"] == np.inf
    assert found["coverage_50"] == 1


def test_a_silent_truth_has_no_scores_and_no_warning(batch):
    truth, mean, std = batch
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = summary(0 * truth, 0 * mean, std)
    assert np.isnan(found["nmse_missing"]) and np.isnan(found["pcc_missing"])


def test_a_flat_window_does_not_spoil_the_mean_over_windows(batch, found):
    truth, mean, std = (np.concatenate([a, a[:1]]) for a in batch)
    truth[-1], mean[-1] = 0, 1e-6
    other = summary(truth, mean, std)
    for name in ("nmse_window_mean", "nmse_window_median", "pcc_window"):
        assert other[name] == pytest.approx(found[name])


def test_nothing_counted_is_nothing_said():
    assert Scores(MISSING, SFREQ).summary() == {}


# The floors of the published layouts, as the tables of the field would have them.
@pytest.mark.parametrize(
    ("observed", "channels", "floor"),
    [
        (38, 64, 0.406),
        (26, 64, 0.594),
        (16, 64, 0.750),
        (8, 64, 0.875),
        (32, 62, 0.484),
        (15, 62, 0.758),
        (8, 62, 0.871),
        (34, 62, 0.452),
        (16, 62, 0.742),
    ],
)
def test_floors_of_predicting_zero(observed, channels, floor):
    missing = np.arange(channels) >= observed
    power = floors(missing, np.ones(channels))
    assert power["nmse_missing"] == 1
    assert power["nmse_all"] == pytest.approx(floor, abs=5e-4)
    # The same by scoring: known channels copied, zero elsewhere, every channel of equal power.
    rng = np.random.default_rng(0)
    truth = np.stack([rng.permutation(rng.standard_normal(320)) for _ in range(channels)])[None]
    truth *= 1e-5 / np.sqrt((truth**2).mean(-1, keepdims=True))
    mean = np.where(missing[None, :, None], 0, truth)
    found = summary(truth, mean, np.ones_like(truth), missing)
    assert found["nmse_missing"] == pytest.approx(1)
    assert found["nmse_all"] == pytest.approx(1 - observed / channels)


def test_floors_follow_the_power_of_the_channels():
    found = floors(np.array([True, False, True]), np.array([1.0, 6.0, 3.0]))
    assert found == {"nmse_missing": 1.0, "nmse_all": pytest.approx(0.4)}
