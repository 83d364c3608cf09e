"""From a store and a layout to what a method trains on: channels, geometry, labelled windows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

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
    return channel_geometry(positions, channels, spec, covariance)


def channel_geometry(
    positions: Mapping[str, np.ndarray],
    channels: Sequence[str],
    spec: str,
    covariance: np.ndarray | None = None,
) -> Geometry:
    """The geometry of the layout `spec` over channels whose positions are among these."""
    own = {name: positions[name] for name in channels}
    places = np.stack(list(own.values()))
    observed = ly.layout(spec, channels, positions=places, covariance=covariance)
    return make_geometry(observed, channels, own)


def filled(x: np.ndarray, size: int, value: float = 0) -> np.ndarray:
    """At least `size` rows: what is short is filled up with a value."""
    short = max(size - len(x), 0)
    return np.concatenate([x, np.full((short, *x.shape[1:]), value, x.dtype)]) if short else x


def padded(batch: Batch, size: int) -> Batch:
    """A batch of at least `size` windows, so that a short one needs no program of its own."""
    return {name: filled(x, size, -1 if name == "part" else 0) for name, x in batch.items()}


class Recorded(NamedTuple):
    """The windows of one recording, or all windows that lie in memory.

    Attributes:
      places: `[windows]`, where they stand among those of `Windows.load`.
      identity: what tells them from all others; None where nothing does.
      read: size of a batch -> `[batch, M, time]`, one after another, in the order of `places`.
    """

    places: np.ndarray
    identity: str | None
    read: Callable[[int], Iterator[np.ndarray]]


class Windows(Protocol):
    """What stages read. A call is one pass: `{"eeg": [batch, M, time], "part": [batch]}`."""

    def __call__(self) -> Iterator[Batch]:
        """Training windows, then validation windows, in order."""
        ...

    def steps(self, batch_size: int) -> int:
        """Steps of an epoch: batches of adjacent training windows, the last one filled up."""
        ...

    def shuffled(
        self, batch_size: int, overlap: int, seed: int, rows: np.ndarray | None = None
    ) -> Any:
        """Full batches of training windows without end; `get_state` and `set_state` as grain's.

        They are `{"eeg": [batch, M, time], "index": [batch]}`, where the windows stand in `load`;
        of every batch the rows asked for, None for all.
        """
        ...

    def load(self, part: int, overlap: int = 1) -> np.ndarray:
        """All training (0) or all validation (1) windows, `[windows, M, time]`."""
        ...

    def recorded(self, part: int, overlap: int = 1) -> list[Recorded]:
        """The windows of `load`, recording by recording."""
        ...


def unchanged(eeg: np.ndarray) -> np.ndarray:
    """The windows as they are."""
    return eeg


def _number(recording: np.ndarray, start: np.ndarray) -> np.ndarray:
    """One number for each window of a store."""
    return (recording.astype(np.int64) << 40) + start


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
    shown: Callable[[np.ndarray], np.ndarray] = unchanged

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

    def shuffled(
        self, batch_size: int, overlap: int, seed: int, rows: np.ndarray | None = None
    ) -> Any:
        """See `Windows`."""
        stride = self._stride(overlap)
        batches = self._read(
            self.train,
            batch_size=batch_size,
            stride=stride,
            shuffle=True,
            seed=seed,
            epochs=None,
            rows=rows,
        )
        numbers = _number(
            *window_index(self.store, self.train, window=self.window, stride=stride).T
        )
        order = np.argsort(numbers, kind="stable")
        ordered = numbers[order]

        def made(batch: Batch) -> Batch:
            places = np.searchsorted(ordered, _number(batch["recording"], batch["start"]))
            return {"eeg": self.shown(batch["eeg"]), "index": order[places]}

        return iter(batches.map(made))

    def load(self, part: int, overlap: int = 1) -> np.ndarray:
        """See `Windows`."""
        segments = (self.train, self.validate)[part]
        found = [np.zeros((0, len(self.channels), self.window), np.float32)]
        if segments:
            read = self._read(segments, batch_size=256, stride=self._stride(overlap))
            found += [self.shown(batch["eeg"]) for batch in read]
        return np.concatenate(found)

    def recorded(self, part: int, overlap: int = 1) -> list[Recorded]:
        """See `Windows`."""
        segments, stride = (self.train, self.validate)[part], self._stride(overlap)
        if not segments:
            return []
        index = window_index(self.store, segments, window=self.window, stride=stride)
        found = []
        for number in dict.fromkeys(index[:, 0].tolist()):
            recording = self.store.recordings[number]
            places = np.flatnonzero(index[:, 0] == number)
            starts = hashlib.sha256(index[places, 1].tobytes()).hexdigest()
            identity = f"{recording.sha256} {self.channels} {self.window} {starts}"
            own = tuple(s for s in segments if s.key == recording.key)
            known = identity if self.shown is unchanged else None
            found.append(Recorded(places, known, partial(self._in_order, own, stride)))
        return found

    def _in_order(
        self, segments: Sequence[Segment], stride: int, size: int
    ) -> Iterator[np.ndarray]:
        for batch in self._read(segments, batch_size=size, stride=stride):
            yield self.shown(batch["eeg"])

    def _stride(self, overlap: int) -> int:
        return max(self.window // overlap, 1)

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

    def shuffled(
        self, batch_size: int, overlap: int, seed: int, rows: np.ndarray | None = None
    ) -> Any:
        """See `Windows`."""
        train = self.load(TRAIN, overlap)
        return _Endless(train, Order(len(train), batch_size, None, seed), rows)

    def load(self, part: int, overlap: int = 1) -> np.ndarray:
        """See `Windows`."""
        del overlap
        return self._eeg[self._part == part]

    def recorded(self, part: int, overlap: int = 1) -> list[Recorded]:
        """See `Windows`."""
        eeg = self.load(part, overlap)

        def read(size: int) -> Iterator[np.ndarray]:
            return (eeg[begin : begin + size] for begin in range(0, len(eeg), size))

        return [Recorded(np.arange(len(eeg)), None, read)] if len(eeg) else []


class _Endless:
    def __init__(self, eeg: np.ndarray, order: Order, rows: np.ndarray | None):
        self._eeg, self._order, self._step = eeg, order, 0
        self._rows = slice(None) if rows is None else rows

    def __iter__(self) -> _Endless:
        return self

    def __next__(self) -> Batch:
        rows = self._order(self._step)[self._rows]
        self._step += 1
        return {"eeg": self._eeg[rows], "index": rows}

    def get_state(self) -> dict[str, Any]:
        return {"step": self._step}

    def set_state(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
