"""The Fréchet distance between normal distributions fitted to two sets of features (FID).

Squared 2-Wasserstein distance of two normals (Dowson & Landau 1982), which Heusel et al. (2017)
take on the features of a network. Everything is float64.
"""

from __future__ import annotations

import numpy as np


def frechet(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """|a - b|² + tr(A + B - 2 (A½ B A½)½), of means `[F]` and covariances `[F, F]`.

    (A½ B A½)½ has the trace of the square root of AB, which is what others write; but it is the
    root of a symmetric matrix without negative eigenvalues, also where A and B have few windows.
    """
    root = psd_root(covariance_a)
    values = np.linalg.eigvalsh(root @ covariance_b @ root)
    cross = np.sqrt(np.maximum(values, 0.0)).sum()
    apart = np.square(mean_a - mean_b).sum()
    return float(max(apart + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross, 0.0))


def psd_root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric root of a positive semi-definite matrix; rounding below 0 counts as 0."""
    values, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def between(a: np.ndarray, b: np.ndarray) -> float:
    """The distance between two sets of features, `[windows, F]` each; nan where one has no spread.

    Covariances are those of the samples, ddof 1.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(len(a), len(b)) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    fits = [(x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))) for x in (a, b)]
    return frechet(*fits[0], *fits[1])
