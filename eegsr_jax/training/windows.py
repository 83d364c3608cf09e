"""From a store and a layout to what a method trains on: channels, geometry, labelled windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eegsr_jax import layouts as ly
from eegsr_jax.data.pipeline import Order, pipeline, window_index
from eegsr_jax.data.segments import Segment
from eegsr_jax.data.store import Store
from eegsr_jax.errors import DatasetError, MethodError
from eegsr_jax.geometry import Geometry, make_geometry
from eegsr_jax.methods.moments import TRAIN, VALIDATE

Batch = dict[str, np.ndarray]


def shared_channels(store: Store, segments: Iterable[Segment]) -> tuple[str, ...]:
    """Channels that all recordings of the segments have, bad in none, in the first one's order.

    Raises:
      DatasetError: there are fewer than four.
    """
    used = [store.recording(key) for key in dict.fromkeys(s.key for s in segments)]
    bad = {name for recording in used for name in recording.bads}
    shared = set.intersection(*(set(recording.names) for recording in used)) - bad
    if len(shared) < 4:
        raise DatasetError(
            f"{store.path}: {len(used)} recordings share {len(shared)} good channels (bad in at "
            f"least one: {', '.join(sorted(bad)) or 'none'}); leave recordings out"
        )
    return tuple(name for name in used[0].names if name in shared)


def layout_geometry(
    store: Store, segments: Sequence[Segment], channels: Sequence[str], spec: str
) -> Geometry:
    """The geometry of the layout `spec` (see `layouts.layout`), positions of the first recording.

    "best:k" chooses by the covariance of `segments`, which must be training data.
    """
    first = store.recording(segments[0].key)
    positions = dict(zip(first.names, first.positions, strict=True))
    covariance = None
    if spec.startswith("best"):
        covariance = np.zeros((len(channels), len(channels)))
        for segment in segments:
            x = store.read(segment.key, segment.start, segment.stop)
            x = x[store.recording(segment.key).channel_index(tuple(channels))].astype(np.float64)
            covariance += x @ x.T
    observed = ly.layout(
        spec, channels, positions=np.stack([positions[n] for n in channels]), covariance=covariance
    )
    return make_geometry(observed, channels, {n: positions[n] for n in channels})


class Windows(Protocol):
    """What stages read. A call is one pass: `{"eeg": [batch, M, time], "part": [batch]}`."""

    def __call__(self) -> Iterator[Batch]:
        """Training windows, then validation windows, in order."""
        ...

    def steps(self, batch_size: int) -> int:
        """Steps of an epoch: batches of adjacent training windows, the last one filled up."""
        ...

    def shuffled(self, batch_size: int, overlap: int, seed: int) -> Any:
        """Full batches of training windows without end; `get_state` and `set_state` as grain's."""
        ...

    def load(self, part: int, overlap: int = 1) -> np.ndarray:
        """All training (0) or all validation (1) windows, `[windows, M, time]`."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoreWindows:
    """`Windows` of a store's segments, read as they are needed.

    Attributes:
      store, train, validate: from where.
      window: samples.
      batch_size: of a pass.
      channels: the targets.
      shown: what is made of `[batch, M, time]` before a method sees it.
    """

    store: Store
    train: tuple[Segment, ...]
    validate: tuple[Segment, ...]
    window: int
    batch_size: int
    channels: tuple[str, ...]
    shown: Callable[[np.ndarray], np.ndarray] = lambda eeg: eeg

    def __call__(self) -> Iterator[Batch]:
        """See `Windows`."""
        for part, segments in ((TRAIN, self.train), (VALIDATE, self.validate)):
            if not segments:
                continue
            for batch in self._read(segments, batch_size=self.batch_size):
                eeg = self.shown(batch["eeg"])
                yield {"eeg": eeg, "part": np.full(len(eeg), part, np.int32)}

    def steps(self, batch_size: int) -> int:
        """See `Windows`."""
        return -(-len(window_index(self.store, self.train, window=self.window)) // batch_size)

    def shuffled(self, batch_size: int, overlap: int, seed: int) -> Any:
        """See `Windows`."""
        batches = self._read(
            self.train,
            batch_size=batch_size,
            stride=max(self.window // overlap, 1),
            shuffle=True,
            seed=seed,
            epochs=None,
        )
        return iter(batches.map(lambda batch: {"eeg": self.shown(batch["eeg"])}))

    def load(self, part: int, overlap: int = 1) -> np.ndarray:
        """See `Windows`."""
        segments = (self.train, self.validate)[part]
        found = [np.zeros((0, len(self.channels), self.window), np.float32)]
        if segments:
            stride = max(self.window // overlap, 1)
            read = self._read(segments, batch_size=256, stride=stride)
            found += [self.shown(batch["eeg"]) for batch in read]
        return np.concatenate(found)

    def _read(self, segments: Sequence[Segment], **options: Any) -> Any:
        return pipeline(self.store, segments, window=self.window, channels=self.channels, **options)


class MemoryWindows:
    """`Windows` of one pass of a callable, kept in memory; they overlap as the callable's do."""

    def __init__(self, batches: Callable[[], Iterable[Batch]]):
        found = [(np.asarray(b["eeg"], np.float32), np.asarray(b["part"])) for b in batches()]
        if not found:
            raise MethodError("training: there are no windows")
        self._eeg, self._part = (np.concatenate(x) for x in zip(*found, strict=True))
        self._batch_size = max(len(part) for _, part in found)

    def __call__(self) -> Iterator[Batch]:
        """See `Windows`."""
        for start in range(0, len(self._part), self._batch_size):
            rows = slice(start, start + self._batch_size)
            yield {"eeg": self._eeg[rows], "part": self._part[rows]}

    def steps(self, batch_size: int) -> int:
        """See `Windows`."""
        return -(-int((self._part == TRAIN).sum()) // batch_size)

    def shuffled(self, batch_size: int, overlap: int, seed: int) -> Any:
        """See `Windows`."""
        train = self.load(TRAIN, overlap)
        return _Endless(train, Order(len(train), batch_size, None, seed))

    def load(self, part: int, overlap: int = 1) -> np.ndarray:
        """See `Windows`."""
        del overlap
        return self._eeg[self._part == part]


class _Endless:
    def __init__(self, eeg: np.ndarray, order: Order):
        self._eeg, self._order, self._step = eeg, order, 0

    def __iter__(self) -> _Endless:
        return self

    def __next__(self) -> Batch:
        rows = self._order(self._step)
        self._step += 1
        return {"eeg": self._eeg[rows]}

    def get_state(self) -> dict[str, Any]:
        return {"step": self._step}

    def set_state(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
