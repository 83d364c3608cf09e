"""Common spatial patterns and linear discriminants: the plain classifier of motor imagery.

Filters that make the band power of one class large and that of the others small (Ramoser et al.
2000; one against the rest where there are more than two; Ang et al. 2008 for several bands), then
Fisher's discriminant on the logarithms. It works on covariances, so that only these are kept of a
trial. Nothing is tuned: the constants below were set on training runs of EEGMMIDB.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FILTERS = 3  # at each end of the spectrum of a class and band
SHRINK_SPACE = 0.05  # of the covariances behind the filters, towards white
SHRINK_FEATURES = 0.1  # of the covariance of the features, towards white


class Classifier(NamedTuple):
    """What `train` made.

    Attributes:
      filters: `[band, M, filter]`.
      weights: `[feature, class]`.
      offsets: `[class]`.
    """

    filters: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray


def band_covariances(
    eeg: np.ndarray, sfreq: float, bands: tuple[tuple[float, float], ...]
) -> np.ndarray:
    """`[N, M, time] -> [N, band, M, M]`: covariances of what lies in each band, Hann windows."""
    taper = np.hanning(eeg.shape[-1])
    frequency = np.fft.rfftfreq(eeg.shape[-1], 1 / sfreq)
    inside = [(frequency >= low) & (frequency < high) for low, high in bands]
    made = []
    for x in eeg:  # one at a time: the spectra of all trials together may not fit
        spectrum = np.fft.rfft(np.asarray(x, np.float64) * taper)
        parts = [np.c_[spectrum[:, i].real, spectrum[:, i].imag] for i in inside]
        made.append([p @ p.T for p in parts])
    return np.array(made) * 2 / (eeg.shape[-1] * np.sum(taper**2))


def train(covariances: np.ndarray, classes: np.ndarray) -> Classifier:
    """Filters and discriminants from trials.

    Args:
      covariances: `[N, band, M, M]`.
      classes: `[N]`, 0 to K - 1, each with two trials or more.
    """
    bands = range(covariances.shape[1])
    filters = np.stack([common_patterns(covariances[:, band], classes) for band in bands])
    weights, offsets = discriminant(_features(filters, covariances), classes)
    return Classifier(filters, weights, offsets)


def predict(classifier: Classifier, covariances: np.ndarray) -> np.ndarray:
    """The class of each trial, `[N]`."""
    features = _features(classifier.filters, covariances)
    return (features @ classifier.weights + classifier.offsets).argmax(1)


def balanced_accuracy(truth: np.ndarray, found: np.ndarray) -> float:
    """Mean over the classes of the share found: guessing gets 1 / K, however common each is."""
    return float(np.mean([(found[truth == k] == k).mean() for k in np.unique(truth)]))


def common_patterns(covariances: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """`[M, filter]`: `FILTERS` from both ends for each class against the rest; two share theirs.

    A trial counts by its shape: covariances are divided by their trace.
    """
    from scipy.linalg import eigh

    channels = covariances.shape[-1]
    shape = covariances / np.trace(covariances, axis1=-2, axis2=-1)[:, None, None]
    own = np.stack([shape[classes == k].mean(0) for k in np.unique(classes)])
    own = (1 - SHRINK_SPACE) * own + SHRINK_SPACE * np.eye(channels) / channels
    each = min(FILTERS, channels // 2)
    found = []
    for k in range(len(own) if len(own) > 2 else 1):
        rest = np.delete(own, k, 0).mean(0)
        vectors = eigh(own[k], own[k] + rest)[1]
        found += [vectors[:, :each], vectors[:, -each:]]
    return np.concatenate(found, 1)


def discriminant(features: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[F, K]` and `[K]` of Fisher's linear discriminant, classes equally likely."""
    count = features.shape[1]
    names, sizes = np.unique(classes, return_counts=True)
    mean = np.stack([features[classes == k].mean(0) for k in names])
    # As scikit-learn: the mean of the classes' own covariances, each shrunk to its mean variance.
    own = np.stack([np.cov(features[classes == k], rowvar=False, ddof=0) for k in names])
    own = own.reshape(len(names), count, count)
    within = own.mean(0)
    white = np.trace(within) / count * np.eye(count)
    weights = np.linalg.solve((1 - SHRINK_FEATURES) * within + SHRINK_FEATURES * white, mean.T)
    return weights, -0.5 * np.sum(mean.T * weights, 0)


def _features(filters: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """`[N, band * filter]`: log shares of the power behind the filters of a band."""
    power = np.einsum("bmf,nbml,blf->nbf", filters, covariances, filters, optimize=True)
    total = np.maximum(power.sum(-1, keepdims=True), np.finfo(float).tiny)  # an estimate may be 0
    share = np.maximum(power / total, 1e-12)
    return np.log(share).reshape(len(power), -1)
