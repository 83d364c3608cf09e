"""Scores of a reconstruction, added up over batches of windows.

Definitions: missing channels only unless said otherwise; "pooled" is one sum over windows, channels
and samples. Everything is float64 NumPy on the host: the sums are small and want all digits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# 50, 80, 90, 95 and 99 % of a normal lie within these many standard errors.
NOMINAL = {50: 0.674490, 80: 1.281552, 90: 1.644854, 95: 1.959964, 99: 2.575829}
BANDS = {
    "delta": (1.0, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
    "gamma": (30.0, 40.0),
}
PARTS = 8  # of a window, for `nmse_part_1` … `nmse_part_8`


@dataclass
class Scores:
    """Running sums over windows of one recording condition; `add` batches, then `summary`.

    Attributes:
      missing: `[M]` bool, channels that were not given.
      sfreq: Hz.
      legacy_batch: windows per batch of `nmse_all_batch` (32 in DiBiMa, 64 in MASER).
    """

    missing: np.ndarray
    sfreq: float
    legacy_batch: int = 32
    windows: int = 0
    error: np.ndarray = field(init=False)  # [M] sum of squared errors
    power: np.ndarray = field(init=False)  # [M] sum of squares of the truth
    moments: dict[str, np.ndarray] = field(init=False)  # sums for Pearson's r, missing and all
    inside: dict[int, float] = field(init=False)
    bounded: bool = True
    window_nmse: list[np.ndarray] = field(default_factory=list)  # [W, missing]
    window_pcc: list[np.ndarray] = field(default_factory=list)
    spectra: dict[str, np.ndarray] = field(init=False)
    parts: np.ndarray = field(init=False)  # [PARTS, 2] error and power along the window
    _waiting: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    _legacy: list[float] = field(default_factory=list)

    def __post_init__(self):
        channels = len(self.missing)
        self.error, self.power = np.zeros(channels), np.zeros(channels)
        self.moments = {"missing": np.zeros(6), "all": np.zeros(6)}
        self.inside = dict.fromkeys(NOMINAL, 0.0)
        self.spectra = {name: np.zeros(2) for name in BANDS}
        self.parts = np.zeros((PARTS, 2))

    def add(self, truth: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
        """Count a batch: truth, mean and std `[batch, M, time]` in one unit."""
        truth, mean = np.asarray(truth, np.float64), np.asarray(mean, np.float64)
        wrong = mean - truth
        self.windows += len(truth)
        self.error += (wrong**2).sum((0, 2))
        self.power += (truth**2).sum((0, 2))
        for scope, select in (("missing", self.missing), ("all", slice(None))):
            y, z = truth[:, select].ravel(), mean[:, select].ravel()
            self.moments[scope] += [y.size, y.sum(), z.sum(), y @ y, z @ z, y @ z]
        self._add_coverage(wrong[:, self.missing], np.asarray(std)[:, self.missing])
        self._add_windows(truth[:, self.missing], mean[:, self.missing])
        self._add_bands(truth[:, self.missing], wrong[:, self.missing])
        pieces = (np.array_split(a[:, self.missing] ** 2, PARTS, -1) for a in (wrong, truth))
        self.parts += np.array([[p.sum() for p in piece] for piece in pieces]).T
        self._add_legacy(truth, wrong)

    def _add_coverage(self, wrong: np.ndarray, std: np.ndarray) -> None:
        self.bounded &= bool(np.isfinite(std).all())
        for level, reach in NOMINAL.items():
            self.inside[level] += float((np.abs(wrong) <= reach * std).sum())

    def _add_windows(self, truth: np.ndarray, mean: np.ndarray) -> None:
        y = truth - truth.mean(-1, keepdims=True)
        z = mean - mean.mean(-1, keepdims=True)
        power, product = (y**2).sum(-1), (y * z).sum(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            self.window_nmse.append(((mean - truth) ** 2).sum(-1) / power)
            self.window_pcc.append(product / np.sqrt(power * (z**2).sum(-1)))

    def _add_bands(self, truth: np.ndarray, wrong: np.ndarray) -> None:
        taper = np.hanning(truth.shape[-1])
        frequency = np.fft.rfftfreq(truth.shape[-1], 1 / self.sfreq)
        both = [np.abs(np.fft.rfft(a * taper)) ** 2 for a in (wrong, truth)]
        for name, (low, high) in BANDS.items():
            inside = (frequency >= low) & (frequency < high)
            self.spectra[name] += [power[..., inside].sum() for power in both]

    def _add_legacy(self, truth: np.ndarray, wrong: np.ndarray, last: bool = False) -> None:
        # DiBiMa's and MASER's unit of account is a batch of consecutive windows.
        self._waiting += [(t, w) for t, w in zip(truth, wrong, strict=True)]
        while len(self._waiting) >= self.legacy_batch or (last and self._waiting):
            batch, self._waiting = (
                self._waiting[: self.legacy_batch],
                self._waiting[self.legacy_batch :],
            )
            y, e = (np.stack(a) for a in zip(*batch, strict=True))
            # Their clamp of 1e-8 is meant for millivolts; in volts it is 1e-14.
            self._legacy.append(float(np.mean(e**2) / max(np.var(y, ddof=1), 1e-14)))

    def channel_nmse(self) -> np.ndarray:
        """Pooled NMSE of each channel, `[M]`; 0 for given channels."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.error / self.power

    def summary(self, common: np.ndarray | None = None) -> dict[str, float]:
        """All scores by name; nan where nothing was counted or a method gives no error bars.

        Args:
          common: `[M]` bool, missing channels of a score of their own; None or none: left out.
        """
        if self.windows == 0:
            return {}
        self._add_legacy(np.empty((0,)), np.empty((0,)), last=True)
        samples = self.moments["missing"][0]
        nmse_windows = _finite(self.window_nmse)
        with np.errstate(divide="ignore", invalid="ignore"):
            nmse = self.error[self.missing].sum() / self.power[self.missing].sum()
            nmse_all = self.error.sum() / self.power.sum()
            snr = float(-10 * np.log10(nmse))
            bands = {f"nmse_{name}": float(e / p) for name, (e, p) in self.spectra.items()}
            chosen = np.zeros(len(self.missing), bool) if common is None else common
            own = -10 * np.log10(self.error[chosen].sum() / self.power[chosen].sum())
            along = {f"nmse_part_{i}": float(e / p) for i, (e, p) in enumerate(self.parts, 1)}
        return (
            {
                "nmse_missing": float(nmse),
                "nmse_all": float(nmse_all),
                "nmse_all_batch": float(np.mean(self._legacy)),
                "pcc_missing": _pearson(self.moments["missing"]),
                "pcc_all": _pearson(self.moments["all"]),
                "snr_missing_db": snr,
                "nmse_window_median": float(np.median(nmse_windows)),
                "nmse_window_mean": float(np.mean(nmse_windows)),
                "pcc_window": float(np.mean(_finite(self.window_pcc))),
            }
            | {
                f"coverage_{level}": inside / samples if self.bounded else float("nan")
                for level, inside in self.inside.items()
            }
            | bands
            | along
            | ({"snr_common_db": float(own)} if chosen.any() else {})
        )


def _finite(values: list[np.ndarray]) -> np.ndarray:
    """The values of all windows and channels that are not constant; nan where there is none."""
    flat = np.concatenate(values).ravel()
    flat = flat[np.isfinite(flat)]
    return flat if flat.size else np.array([np.nan])


def _pearson(sums: np.ndarray) -> float:
    n, y, z, yy, zz, yz = sums
    spread = (yy - y * y / n) * (zz - z * z / n)
    return float((yz - y * z / n) / np.sqrt(spread)) if spread > 0 else float("nan")


def floors(missing: np.ndarray, channel_power: np.ndarray) -> dict[str, float]:
    """Scores of predicting zero: missing channels only, and all channels with the known copied."""
    return {
        "nmse_missing": 1.0,
        "nmse_all": float(channel_power[missing].sum() / channel_power.sum()),
    }
