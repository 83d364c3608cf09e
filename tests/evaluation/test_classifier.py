"""Common spatial patterns against MNE's, the discriminant against scikit-learn's."""

from __future__ import annotations

import mne
import numpy as np
import pytest
from mne.decoding import CSP
from scipy.signal import welch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score

from eegsr_jax.evaluation import classifier as cl


def trials(rng, count=40, classes=2, channels=8, samples=160):
    """Noise through one mixing matrix; each class has a source of its own that is stronger."""
    mixing = rng.standard_normal((channels, channels))
    answers = np.arange(count) % classes
    sources = rng.standard_normal((count, channels, samples))
    for k in range(classes):
        sources[answers == k, k] *= 2.5
    return mixing @ sources, answers


def test_filters_span_what_mne_s_csp_spans(rng, monkeypatch):
    monkeypatch.setattr(cl, "SHRINK_SPACE", 0.0)
    eeg, answers = trials(rng)
    covariances = eeg @ eeg.transpose(0, 2, 1)
    covariances /= np.trace(covariances, axis1=1, axis2=2)[:, None, None]
    with mne.use_log_level("ERROR"):
        theirs = CSP(n_components=6, norm_trace=False, cov_est="epoch", log=True)
        expected = theirs.fit(eeg / np.sqrt((eeg**2).sum((1, 2), keepdims=True)), answers)
    found = cl.common_patterns(covariances, answers)
    assert found.shape == (8, 6)
    # Up to scale and order: every filter of theirs is one of ours.
    ours, mne_s = (f / np.linalg.norm(f, axis=0) for f in (found, expected.filters_[:6].T))
    np.testing.assert_allclose(np.sort(np.abs(ours.T @ mne_s).max(0)), 1.0, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_discriminant_equals_scikit_learn_s(rng, classes):
    features = rng.standard_normal((60, 5)) @ rng.standard_normal((5, 5))
    answers = rng.integers(0, classes, 60)
    features += 0.7 * answers[:, None]
    weights, offsets = cl.discriminant(features, answers)
    theirs = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=cl.SHRINK_FEATURES, priors=[1 / classes] * classes
    ).fit(features, answers)
    np.testing.assert_array_equal(
        (features @ weights + offsets).argmax(1), theirs.predict(features)
    )
    scores = features @ weights + offsets
    odds = theirs.predict_log_proba(features)
    np.testing.assert_allclose(scores - scores[:, :1], odds - odds[:, :1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("classes", "filters"), [(2, 6), (3, 18)])
def test_classes_are_told_apart_and_chance_is_chance(rng, classes, filters):
    eeg, answers = trials(rng, count=120, classes=classes)
    covariances = cl.band_covariances(eeg, 80.0, ((4.0, 12.0), (12.0, 30.0)))
    made = cl.train(covariances[:60], answers[:60])
    assert made.filters.shape == (2, 8, filters)
    found = cl.predict(made, covariances[60:])
    assert cl.balanced_accuracy(answers[60:], found) > 0.95
    mixed = rng.permutation(answers[:60])
    guessed = cl.predict(cl.train(covariances[:60], mixed), covariances[60:])
    assert cl.balanced_accuracy(answers[60:], guessed) < 1 / classes + 0.2


def test_a_band_holds_the_power_that_lies_in_it(rng):
    eeg = rng.standard_normal((3, 2, 4000))
    eeg[:, 1] += 3 * np.sin(2 * np.pi * 10 * np.arange(4000) / 100)
    (narrow, broad) = cl.band_covariances(eeg, 100.0, ((8.0, 12.0), (0.0, 51.0))).mean(0)
    np.testing.assert_allclose(np.diag(broad), (eeg**2).mean((0, 2)), rtol=0.1)
    frequency, density = welch(eeg, 100.0, nperseg=500)
    inside = (frequency >= 8) & (frequency < 12)
    expected = density[..., inside].sum(-1).mean(0) * frequency[1]
    np.testing.assert_allclose(np.diag(narrow), expected, rtol=0.1)
    np.testing.assert_allclose(narrow, narrow.T)


def test_a_common_class_does_not_flatter(rng):
    truth, found = rng.integers(0, 3, (2, 90))
    truth[:60] = 0
    expected = balanced_accuracy_score(truth, found)
    assert cl.balanced_accuracy(truth, found) == pytest.approx(expected)
    assert cl.balanced_accuracy(truth, np.zeros(90)) == pytest.approx(1 / 3)
