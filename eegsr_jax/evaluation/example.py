"""One stretch of one recording, reconstructed by several methods: what a report shows."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from eegsr_jax.errors import MethodError
from eegsr_jax.evaluation import topomap
from eegsr_jax.evaluation.metrics import Scores
from eegsr_jax.geometry import fit_sphere, standard_name


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """A stretch of a recording and its reconstructions.

    Attributes:
      title: which recording, condition and time.
      names: M channels.
      positions: `[M, 3]` metres, head frame.
      sfreq: sampling rate, Hz.
      observed: the channels that were given; those that are not among `names` are not shown.
      truth: `[M, T]` volts, or None where the missing channels were never recorded.
      mean: `[M, T]` volts by method.
      std: `[M, T]` volts by method; inf where a method cannot tell.

    Raises:
      MethodError: an array of another shape, methods that differ between `mean` and `std`, or no
        missing channel.
    """

    title: str
    names: tuple[str, ...]
    positions: np.ndarray
    sfreq: float
    observed: tuple[str, ...]
    truth: np.ndarray | None
    mean: dict[str, np.ndarray]
    std: dict[str, np.ndarray]

    def __post_init__(self):
        if not self.mean or set(self.mean) != set(self.std):
            raise MethodError(
                f"example {self.title!r}: mean is of {sorted(self.mean)} and std of "
                f"{sorted(self.std)}; expected the same methods, at least one"
            )
        shape = np.shape(next(iter(self.mean.values())))
        expected = (len(self.names), *shape[1:])
        arrays = {f"{k} of {m}": a for k in ("mean", "std") for m, a in getattr(self, k).items()}
        arrays |= {} if self.truth is None else {"truth": self.truth}
        for label, array in arrays.items():
            if len(shape) != 2 or np.shape(array) != expected:
                raise MethodError(
                    f"example {self.title!r}: {label} has shape {np.shape(array)}; expected "
                    f"({len(self.names)} channels, time), the same everywhere"
                )
        if not self.missing.any():
            raise MethodError(
                f"example {self.title!r}: all {len(self.names)} channels were given; expected at "
                "least one that was reconstructed"
            )

    @functools.cached_property
    def missing(self) -> np.ndarray:
        """`[M]` bool: True where the channel was not given."""
        given = {standard_name(name).lower() for name in self.observed}
        return np.array([standard_name(name).lower() not in given for name in self.names])

    @functools.cached_property
    def head(self) -> np.ndarray:
        """`[M, 2]` electrodes seen from above; see `topomap.flat`."""
        return topomap.flat(self.positions)

    @functools.cached_property
    def nearest_angle(self) -> np.ndarray:
        """`[M]` degrees from each channel to the nearest given one; nan when none is shown."""
        if self.missing.all():
            return np.full(len(self.names), np.nan)
        offset = np.asarray(self.positions, float) - fit_sphere(self.positions)[0]
        direction = offset / np.linalg.norm(offset, axis=1, keepdims=True)
        cosine = direction @ direction[~self.missing].T
        return np.degrees(np.arccos(np.clip(cosine.max(1), -1, 1)))

    @functools.cached_property
    def scores(self) -> dict[str, Scores]:
        """Scores of each method on this stretch, taken as one window; empty without a truth."""
        if self.truth is None:
            return {}
        out = {}
        for method, mean in self.mean.items():
            out[method] = Scores(self.missing, self.sfreq)
            out[method].add(self.truth[None], mean[None], self.std[method][None])
        return out

    def expected_nmse(self, method: str) -> np.ndarray:
        """`[M]` NMSE that the error bars promise: std² over the power of mean and error together.

        For a conditional mean, the power of the truth is that of the mean plus that of the error.
        """
        error = np.square(self.std[method], dtype=np.float64).mean(1)
        power = np.square(self.mean[method], dtype=np.float64).mean(1) + error
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.isfinite(error), error / power, np.nan)

    def quality(self, method: str) -> np.ndarray:
        """`[M]` NMSE of each channel on this stretch, or the expected one without a truth."""
        if self.truth is None:
            return self.expected_nmse(method)
        return self.scores[method].channel_nmse()

    @functools.cached_property
    def ranking(self) -> list[str]:
        """Methods by their NMSE over the missing channels of this stretch, best first."""
        if self.truth is None:
            return list(self.mean)
        error = {m: s.error[self.missing].sum() for m, s in self.scores.items()}
        return sorted(self.mean, key=lambda method: error[method])

    def peaks(self, count: int) -> np.ndarray:
        """`[≤ count]` samples at peaks of global field power, from the highest to a median one.

        The highest alone would show nothing but blinks.
        """
        from scipy.signal import find_peaks

        power = self.field_power()
        found = find_peaks(power)[0]
        if not len(found):
            return np.array([power.argmax()])
        found = found[np.argsort(-power[found])]
        ranks = np.linspace(0, len(found) // 2, min(count, len(found))).astype(int)
        return np.sort(found[np.unique(ranks)])

    def field_power(self) -> np.ndarray:
        """`[T]` global field power, volts: standard deviation over all channels.

        Without a truth it is that of the first method's estimate.
        """
        field = next(iter(self.mean.values())) if self.truth is None else self.truth
        return np.asarray(field, float).std(0)
