"""The feature level: do reconstructed windows look like EEG?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eegsr_jax.evaluation import features as ft
from eegsr_jax.evaluation.feature_network import Networks
from eegsr_jax.evaluation.folds import Fold, Protocol
from eegsr_jax.evaluation.levels import Reconstruct, Row
from eegsr_jax.evaluation.results import FLOOR
from eegsr_jax.evaluation.views import View

OTHER = "truth, other windows"


class FeatureLevel:
    """Makes the studies of an evaluation, which share feature networks."""

    def __init__(self, folds: Sequence[Fold], protocol: Protocol):
        self._networks = Networks(folds, protocol)

    def __call__(self, view: View) -> FeatureStudy:
        """The study of a view."""
        return FeatureStudy(view, self._networks.of(view))

    def about(self) -> list[dict[str, Any]]:
        """What the networks were trained on, and how well they learnt it."""
        return [network.about for network in self._networks.trained()]


class FeatureStudy:
    """The test windows of a view.

    Attributes:
      view: what is shown.
      maps: mean band power `[M, band]`, squared unit, by label; the first is of the truth.
    """

    def __init__(self, view: View, network: ft.Network | None):
        self.view, self._network = view, network
        data = view.data
        self._truth = np.concatenate(
            [view.shown(batch["eeg"]) for batch in data.batches(data.fold.split.test)]
        )
        self._harmonics = ft.harmonics(np.asarray(view.geometry.target))
        self._described = self._describe(self._truth)
        self.maps = {"truth": self._described.power.mean(0)}

    def floors(self) -> list[Row]:
        """Every other true window against those between; and zeros at the missing channels."""
        silent = self._truth * ~self.view.missing[:, None]
        zero = {"method": FLOOR} | self._scored(silent)[0]
        if len(self._truth) < 2:
            return [zero]
        pair = 2 * (len(self._truth) // 2)
        even, odd = slice(0, pair, 2), slice(1, pair, 2)
        other = self._errors(self._truth[even], self._truth[odd])
        other |= ft.distances(
            self._described.part(even), self._described.part(odd), self.view.missing
        )
        return [{"method": OTHER} | other, zero]

    def score(self, label: str, reconstruct: Reconstruct) -> list[Row]:
        """One row."""
        row, description = self._scored(reconstruct(self._truth))
        self.maps[label] = description.power.mean(0)
        return [row]

    def _scored(self, estimate: np.ndarray) -> tuple[Row, ft.Description]:
        described = self._describe(estimate)
        far = ft.distances(self._described, described, self.view.missing)
        return self._errors(self._truth, estimate) | far, described

    def _errors(self, truth: np.ndarray, estimate: np.ndarray) -> Row:
        missing = self.view.missing
        y = truth[:, missing].astype(np.float64)
        nmse = np.square(estimate[:, missing] - y).sum() / np.square(y).sum()
        return {"nmse_missing": float(nmse), "windows": len(truth)}

    def _describe(self, eeg: np.ndarray) -> ft.Description:
        return ft.describe(eeg, self.view.data.sfreq, self._harmonics, self._network)
