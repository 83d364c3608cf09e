"""What windows look like, apart from sample by sample: spectra, scalp maps, covariances, features.

A conditional mean is the best guess of each sample and still unlike any EEG: too weak and too
smooth. These distances tell; they compare sets of windows, as float64 NumPy on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from eegsr_jax.evaluation import frechet
from eegsr_jax.evaluation.metrics import BANDS
from eegsr_jax.geometry import fit_sphere

Network = Callable[[np.ndarray], np.ndarray]  # [N, M, time] -> [N, F]

SHRINKAGE = 1e-3  # of the truth's mean variance: added to each channel's before logarithms
_AT_ONCE = 64  # windows


class Description(NamedTuple):
    """What is looked at of N windows.

    Attributes:
      power: `[N, M, band]` squared unit, of `BANDS`; nan where the windows hold no such frequency.
      degrees: `[N, degree]` squared unit, of scalp maps by spherical harmonics (see `Harmonics`).
      covariance: `[N, M, M]` squared unit, between channels, about zero.
      network: `[N, F]`, or None.
    """

    power: np.ndarray
    degrees: np.ndarray
    covariance: np.ndarray
    network: np.ndarray | None

    def part(self, windows: slice) -> Description:
        """That of some of the windows."""
        network = None if self.network is None else self.network[windows]
        return Description(
            self.power[windows], self.degrees[windows], self.covariance[windows], network
        )


class Harmonics(NamedTuple):
    """Scalp maps in spherical harmonics, by least squares.

    Attributes:
      fit: `[coefficient, M]`, from a map to its coefficients.
      basis: `[M, coefficient]`, back.
      degree: `[coefficient]`.
    """

    fit: np.ndarray
    basis: np.ndarray
    degree: np.ndarray


def describe(
    eeg: np.ndarray, sfreq: float, harmonics: Harmonics, network: Network | None = None
) -> Description:
    """Describe windows `[N, M, time]`."""
    parts = []
    for start in range(0, len(eeg), _AT_ONCE):
        x = np.asarray(eeg[start : start + _AT_ONCE], np.float64)
        covariance = x @ x.transpose(0, 2, 1) / x.shape[-1]
        parts.append((band_power(x, sfreq), degree_power(covariance, harmonics), covariance))
    power, degrees, covariance = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Description(power, degrees, covariance, network(eeg) if network else None)


def distances(truth: Description, estimate: Description, missing: np.ndarray) -> dict[str, float]:
    """Distances of an estimate from the truth, by name; see docs/levels.md.

    Args:
      truth: of true windows.
      estimate: of as many windows.
      missing: `[M]` bool; band powers are compared at these channels, all else at all.

    Returns:
      Figures in dB, and `fid` (nan without a network). Nan too where the estimate is silent.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        level = [10 * np.log10(d.power[:, missing]) for d in (truth, estimate)]
        ratio = 10 * np.log10(estimate.power.mean(0) / truth.power.mean(0))[missing]
        degree = 10 * np.log10(estimate.degrees.sum(0) / truth.degrees.sum(0))
    known = np.isfinite(truth.power.sum((0, 1)))  # bands that there are
    flat = [x[..., known].reshape(len(x), -1) for x in level]
    bands = [name for place, name in enumerate(BANDS) if known[place]]
    ratio = ratio[:, known]
    windows = truth.covariance, estimate.covariance
    pooled = [c.mean(0, keepdims=True) for c in windows]
    fid = float("nan")
    if truth.network is not None and estimate.network is not None:
        fid = frechet.between(truth.network, estimate.network)
    return (
        {
            "fid": fid,
            "band_frechet_db": float(np.sqrt(frechet.between(*flat) / flat[0].shape[1])),
            "band_error_db": _mean(np.abs(ratio)),
            "band_bias_db": _mean(ratio),
            "degree_error_db": _mean(np.abs(degree)),
            "covariance_db": float(covariance_db(*pooled)[0]),
            "covariance_window_db": float(covariance_db(*windows).mean()),
        }
        | {f"band_error_{b}_db": _mean(np.abs(r)) for b, r in zip(bands, ratio.T, strict=True)}
        | {f"band_bias_{b}_db": _mean(r) for b, r in zip(bands, ratio.T, strict=True)}
        | {f"degree_bias_{n}_db": _mean(d) for n, d in zip(_names(degree), degree, strict=True)}
    )


def _mean(x: np.ndarray) -> float:
    return float(np.mean(x)) if np.isfinite(x).all() else float("nan")


# ----------------------------------------------------------------------------------------- spectra


def band_power(eeg: np.ndarray, sfreq: float) -> np.ndarray:
    """`[N, M, time] -> [N, M, band]`: power in each of `BANDS`, Hann windows; nan where none."""
    taper = np.hanning(eeg.shape[-1])
    frequency = np.fft.rfftfreq(eeg.shape[-1], 1 / sfreq)
    density = np.abs(np.fft.rfft(eeg * taper)) ** 2 * 2 / (eeg.shape[-1] * np.sum(taper**2))
    inside = [(frequency >= low) & (frequency < high) for low, high in BANDS.values()]
    empty = np.full(eeg.shape[:2], np.nan)
    return np.stack([density[..., i].sum(-1) if i.any() else empty for i in inside], -1)


# --------------------------------------------------------------------------------------- harmonics


def harmonics(positions: np.ndarray) -> Harmonics:
    """Real spherical harmonics at electrodes `[M, 3]`, metres, on the sphere fitted to them.

    They go up to the degree at which two electrodes stand against each coefficient: 4 for 64.
    """
    offset = np.asarray(positions, np.float64) - fit_sphere(positions)[0]
    unit = offset / np.linalg.norm(offset, axis=1, keepdims=True)
    most = max(int(np.sqrt(len(unit) / 2)) - 1, 1)
    basis = np.concatenate([real_harmonics(unit, n) for n in range(most + 1)], 1)
    degree = np.repeat(np.arange(most + 1), 2 * np.arange(most + 1) + 1)
    return Harmonics(np.linalg.pinv(basis), basis, degree)


def real_harmonics(unit: np.ndarray, degree: int) -> np.ndarray:
    """`[M, 2 n + 1]` orthonormal real spherical harmonics of one degree, at unit vectors."""
    from scipy.special import factorial, lpmv

    x, y, z = unit.T
    turn = np.arctan2(y, x)
    columns = []
    for order in range(-degree, degree + 1):
        size = abs(order)
        scale = (2 * degree + 1) / (4 * np.pi) * factorial(degree - size) / factorial(degree + size)
        wave = np.cos(size * turn) if order >= 0 else np.sin(size * turn)
        columns.append(np.sqrt(scale * (1 + (order != 0))) * lpmv(size, degree, z) * wave)
    return np.stack(columns, 1)


def degree_power(covariance: np.ndarray, of: Harmonics) -> np.ndarray:
    """`[N, M, M] -> [N, degree]`: power of the maps by degree from 1 up, last of what is finer.

    Degree 0, the mean over the head, depends on the reference and is left out.
    """
    coefficients = np.einsum("cm,nml,cl->nc", of.fit, covariance, of.fit, optimize=True)
    degrees = range(1, of.degree.max() + 1)
    own = [coefficients[:, of.degree == degree].sum(-1) for degree in degrees]
    rest = np.eye(len(of.basis)) - of.basis @ of.fit
    finer = np.einsum("cm,nml,cl->n", rest, covariance, rest, optimize=True)
    return np.stack([*own, finer], -1)


def _names(degree: np.ndarray) -> list[str]:
    return [*map(str, range(1, len(degree))), "finer"]


# -------------------------------------------------------------------------------------- covariance


def covariance_db(truth: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """`[N]`: affine-invariant distances of covariances `[N, M, M]`, root mean square dB.

    The distance of Pennec et al. (2006), √(Σ log² λ), λ the generalised eigenvalues: how far the
    power of the M mixtures of channels in which the two differ most is off. In 10 log10, and over
    √M. `SHRINKAGE` of the true mean variance is added to every channel's of both, since a linear
    estimate has no more dimensions than inputs, and a logarithm of nothing is infinite.
    """
    channels = truth.shape[-1]
    small = SHRINKAGE * np.trace(truth, axis1=1, axis2=2) / channels
    ridge = small[:, None, None] * np.eye(channels)
    inverse = np.linalg.inv(np.linalg.cholesky(truth + ridge))
    values = np.linalg.eigvalsh(inverse @ (estimate + ridge) @ inverse.transpose(0, 2, 1))
    decibels = 10 * np.log10(np.maximum(values, np.finfo(float).tiny))
    return np.sqrt(np.mean(decibels**2, -1))
