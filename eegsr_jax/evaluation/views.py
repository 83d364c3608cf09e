"""What a method sees: the windows of a fold, as one layout and reference show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from eegsr_jax import layouts as ly
from eegsr_jax.data.pipeline import pipeline
from eegsr_jax.data.segments import Segment
from eegsr_jax.data.store import Store
from eegsr_jax.errors import ChannelError, SplitError
from eegsr_jax.evaluation.folds import Fold, Protocol
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import moments as mo
from eegsr_jax.training.windows import StoreWindows, layout_geometry, shared_channels

REFERENCES = ("native", "observed_average")
BATCH = 32  # windows that are reconstructed at once
MIN_CALIBRATION_WINDOWS = 5  # four train, one validates


class Data:
    """The windows of one fold."""

    def __init__(self, fold: Fold, protocol: Protocol, batch_size: int = BATCH):
        self.fold, self.protocol, self.batch_size = fold, protocol, batch_size
        self.store: Store = fold.store
        split = fold.split
        segments = (*split.train, *split.validate, *split.calibration, *split.test)
        self.channels = shared_channels(self.store, segments)
        self.sfreq = self.store.recording(segments[0].key).sfreq
        self.window = protocol.window(self.sfreq)

    def geometry(self, spec: str) -> Geometry:
        """The geometry of a layout; SUBJECT stands for the fold's own (as in EMAG's draws)."""
        train = self.fold.split.train
        spec = spec.replace("SUBJECT", self.fold.subject)
        geometry = layout_geometry(self.store, train, self.channels, spec)
        if len(geometry.observed_names) == len(self.channels):
            raise ChannelError(f"layout {spec!r} observes every channel: nothing is missing")
        return geometry

    def batches(self, segments: Sequence[Segment]) -> Iterator[dict[str, np.ndarray]]:
        """Windows of some segments, unshuffled."""
        yield from pipeline(
            self.store,
            segments,
            window=self.window,
            batch_size=self.batch_size,
            channels=self.channels,
        )


class View:
    """The data of a fold as one layout and reference shows them.

    Attributes:
      data: all windows and channels.
      spec, geometry: the layout, as written and as it is.
      reference: one of `REFERENCES`.
      index: places of the observed channels.
      missing: `[M]` bool.
      common: `[M]` bool, channels that none of several layouts observes; of one layout, none.
    """

    def __init__(
        self, data: Data, spec: str, geometry: Geometry, reference: str, common: np.ndarray
    ):
        self.data, self.spec, self.geometry = data, spec, geometry
        self.reference, self.common = reference, common
        self.index = np.asarray(geometry.observed_index)
        self.plain = reference == "native" and not data.protocol.zscore
        self.missing = np.ones(len(data.channels), bool)
        self.missing[self.index] = False

    def shown(self, eeg: np.ndarray) -> np.ndarray:
        """`[..., M, time]` referenced and scaled as this view and protocol say."""
        if self.reference == "observed_average":
            eeg = eeg - eeg[..., self.index, :].mean(-2, keepdims=True)
        if self.data.protocol.zscore:
            centred = eeg - eeg.mean(-1, keepdims=True)
            # The floor of EMAG's loader is 1e-6 of the stored unit, microvolts in SEED.
            eeg = centred / np.maximum(centred.std(-1, keepdims=True), 1e-12)
        return eeg.astype(np.float32)

    def training(self) -> StoreWindows:
        """Training windows and validation windows."""
        data, split = self.data, self.data.fold.split
        return StoreWindows(
            store=data.store,
            train=split.train,
            validate=split.validate,
            window=data.window,
            batch_size=data.batch_size,
            channels=data.channels,
            shown=self.shown,
        )

    def calibration(self) -> Iterator[dict[str, np.ndarray]]:
        """The test subject's own seconds; the last fifth validates."""
        segments = self.data.fold.split.calibration
        eeg = np.concatenate([self.shown(b["eeg"]) for b in self.data.batches(segments)])
        if len(eeg) < MIN_CALIBRATION_WINDOWS:
            raise SplitError(
                f"{len(eeg)} calibration windows of {self.data.window / self.data.sfreq:g} s; at "
                f"least {MIN_CALIBRATION_WINDOWS} needed: calibrate on more seconds"
            )
        part = np.zeros(len(eeg), np.int32)
        part[-max(1, len(eeg) // 5) :] = mo.VALIDATE
        yield {"eeg": eeg, "part": part}

    def row(self, label: str) -> dict[str, Any]:
        """What a row says besides its scores: which method, which condition."""
        fold, protocol = self.data.fold, self.data.protocol
        observed, targets = len(self.index), len(self.data.channels)
        return {
            "method": label,
            "layout": self.spec,
            "factor": round(targets / observed, 2),
            "reference": self.reference,
            "protocol": protocol.name,
            "split": fold.split.kind,
            "seed": fold.split.seed,
            "subject": fold.subject,
            "calibration_seconds": fold.calibration_seconds,
            "observed": observed,
            "targets": targets,
            "layout_hash": ly.list_hash(self.geometry.observed_names),
            "leaky": fold.split.leaky,
        }


def views(
    fold: Fold,
    protocol: Protocol,
    layouts: Sequence[str],
    references: Sequence[str] = ("native",),
    batch_size: int = BATCH,
) -> list[View]:
    """A fold as every reference and layout shows it.

    Raises:
      EEGSRError: a layout that does not fit, told before hours of work.
    """
    data = Data(fold, protocol, batch_size)
    geometries = {spec: data.geometry(spec) for spec in layouts}
    common = np.full(len(data.channels), len(layouts) > 1)
    for geometry in geometries.values():
        common[np.asarray(geometry.observed_index)] = False
    return [
        View(data, spec, geometry, reference, common)
        for reference in references
        for spec, geometry in geometries.items()
    ]
