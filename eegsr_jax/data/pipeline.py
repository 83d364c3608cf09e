"""Windows of a store in batches: a grain pipeline over window indices, checkpointable.

Grain counts steps, reads ahead in threads and keeps the position; what a step reads follows from
its number alone, and a whole batch is copied out of the mapped files at once. That leaves worker
processes nothing to gain, so there are none; whoever adds heavy host-side transformations can call
`.mp_prefetch` on the result.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eegsr_jax.data.segments import Segment
from eegsr_jax.data.store import Store
from eegsr_jax.errors import ChannelError, ConfigError, DatasetError, SplitError

if TYPE_CHECKING:
    import grain
    import jax

Batch = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RandomLayouts:
    """Observed channels drawn at random for every batch, for methods that take any layout.

    `sizes` are the numbers of observed channels, drawn with equal probability. Batch `n` of a
    pipeline depends on `seed` and `n` only: the same on every process and after a restart.
    """

    sizes: tuple[int, ...] = (8, 16, 32)
    seed: int = 0

    def draw(self, step: int, channels: int) -> np.ndarray:
        """The observed channels of batch `step`: `[L]` int32, ascending, without repetition."""
        rng = np.random.default_rng((self.seed, step))
        size = self.sizes[rng.integers(len(self.sizes))]
        return np.sort(rng.choice(channels, size, replace=False)).astype(np.int32)


def window_index(
    store: Store, segments: Iterable[Segment], *, window: int, stride: int | None = None
) -> np.ndarray:
    """Every window that lies in a segment and touches usable samples only.

    Windows begin at the start of each usable stretch of each segment and follow one another every
    `stride` samples; what is left at the end of a stretch is not used.

    Args:
      store: the recordings.
      segments: as in a split.
      window: samples in a window.
      stride: samples from one window to the next; None for adjacent windows.

    Returns:
      `[N, 2]` int64: number of the recording in `store.recordings`, first sample.

    Raises:
      SplitError: unknown recording, samples that it does not have, or no window fits.
      ConfigError: `window` or `stride` below 1.
    """
    stride = window if stride is None else stride
    if window < 1 or stride < 1:
        raise ConfigError(f"window={window}, stride={stride}: give 1 sample or more")
    number = {recording.key: i for i, recording in enumerate(store.recordings)}
    rows = [np.empty((0, 2), np.int64)]
    for segment in segments:
        if segment.key not in number:
            raise SplitError(f"{store.path}: no recording {segment.key}, which a segment names")
        recording = store.recordings[number[segment.key]]
        if not 0 <= segment.start < segment.stop <= recording.samples:
            raise SplitError(f"{segment}: the recording has {recording.samples} samples")
        for start, stop in recording.usable:
            start, stop = max(start, segment.start), min(stop, segment.stop)
            first = np.arange(start, stop - window + 1, stride, dtype=np.int64)
            rows.append(np.stack([np.full_like(first, number[segment.key]), first], axis=1))
    index = np.concatenate(rows)
    if not len(index):
        raise SplitError(
            f"{store.path}: no window of {window} usable samples fits in the {len(rows) - 1} "
            "usable stretches of these segments; give a shorter window or longer segments"
        )
    return index


def pipeline(
    store: Store,
    segments: Iterable[Segment],
    *,
    window: int,
    batch_size: int,
    channels: Sequence[str] | None = None,
    stride: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    epochs: int | None = 1,
    process_index: int = 0,
    process_count: int = 1,
    rows: np.ndarray | None = None,
    drop_remainder: bool = False,
    layouts: RandomLayouts | None = None,
    skip_bad: bool = False,
    threads: int = 1,
) -> grain.IterDataset:
    """Batches of windows; its iterators have `get_state` and `set_state`.

    With several processes each reads every `process_count`-th window, and all of them get the same
    number of batches of the same sizes: up to `process_count - 1` windows at the end are left out.

    Args:
      store: the recordings.
      segments: as in a split.
      window: samples in a window.
      batch_size: windows in a batch, on this process.
      channels: names in the order wanted; None for those of the first recording.
      stride: see `window_index`.
      shuffle: in another order every epoch.
      seed: of the shuffle.
      epochs: passes over the data; None for no end.
      process_index: of this process.
      process_count: number of processes that share the data.
      rows: of every batch, to read no others; None for all. Batches are then the same however many
        processes share them.
      drop_remainder: leave out the last batch when it is not full.
      layouts: adds random observed channels to each batch.
      skip_bad: leave out recordings in which one of `channels` is bad, instead of refusing them.
      threads: that read ahead; 0 reads when asked.

    Returns:
      Batches with `eeg` `[B, channel, time]` float32 volts, `recording` `[B]` int32 (number in
      `store.recordings`), `start` `[B]` int32 (first sample), and with `layouts` `observed_index`
      `[L]` int32.

    Raises:
      ChannelError: a channel is absent from a recording, or bad in it.
      ConfigError: a value that makes no sense.
      DatasetError: recordings with different sampling rates.
      SplitError: see `window_index`; also, nothing is left for a batch.
    """
    import grain as grain_

    counts = {
        "batch_size": batch_size,
        "process_count": process_count,
        "epochs": 1 if epochs is None else epochs,
    }
    offsets = {"process_index": process_index, "seed": seed, "threads": threads}
    if min(counts.values()) < 1 or min(offsets.values()) < 0 or process_index >= process_count:
        raise ConfigError(
            f"{counts | offsets}: sizes and counts begin at 1, the others at 0, and process_index "
            "is below process_count"
        )
    index = window_index(store, segments, window=window, stride=stride)
    channels, bad = _channels(store, np.unique(index[:, 0]), channels)
    if bad and not skip_bad:
        number, names = next(iter(bad.items()))
        raise ChannelError(
            f"{store.recordings[number].key}: {', '.join(names)} marked bad ({len(bad)} recordings "
            "have bad channels among those asked for); leave these channels out, or the recordings "
            "(skip_bad)"
        )
    index = index[~np.isin(index[:, 0], list(bad))]
    _check_rates(store, np.unique(index[:, 0]))
    if layouts and not (layouts.sizes and all(0 < n <= len(channels) for n in layouts.sizes)):
        raise ConfigError(f"layouts: sizes {layouts.sizes} do not fit {len(channels)} channels")
    share = len(index) // process_count
    if share * (epochs or 1) < (batch_size if drop_remainder and epochs else 1):
        raise SplitError(
            f"{share} windows for each of {process_count} processes do not fill one batch; give a "
            "smaller batch_size or more data"
        )
    shard = index[process_index : share * process_count : process_count]
    read = _Read(
        store=store,
        index=shard,
        channels=channels,
        window=window,
        order=Order(len(shard), batch_size, epochs, seed if shuffle else None),
        layouts=layouts,
        rows=slice(None) if rows is None else rows,
    )
    batches = read.order.batches(drop_remainder)
    options = grain_.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return grain_.MapDataset.range(batches).map(read).to_iter_dataset(options)


@dataclass(frozen=True)
class Order:
    """Which windows a step reads. Batches run on across epochs; `seed` None leaves them in order.

    Grain could shuffle and batch the numbers too, at 7 us each: half the time that reading takes.
    """

    windows: int
    batch_size: int
    epochs: int | None
    seed: int | None

    def batches(self, drop_remainder: bool) -> int:
        """How many there are."""
        if self.epochs is None:
            return sys.maxsize // self.batch_size
        total = self.windows * self.epochs
        return total // self.batch_size if drop_remainder else -(-total // self.batch_size)

    def __call__(self, step: int) -> np.ndarray:
        """The windows of batch `step`."""
        stop = (step + 1) * self.batch_size
        if self.epochs is not None:
            stop = min(stop, self.windows * self.epochs)
        epochs, places = np.divmod(np.arange(step * self.batch_size, stop), self.windows)
        if self.seed is None:
            return places
        orders = [
            _permutation(self.seed, epoch, self.windows)[places[epochs == epoch]]
            for epoch in range(epochs[0], epochs[-1] + 1)
        ]
        return np.concatenate(orders)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, windows: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(windows)


@dataclass(frozen=True, kw_only=True)
class _Read:
    """Turns the number of a step into its batch; picklable, for worker processes."""

    store: Store
    index: np.ndarray
    channels: tuple[str, ...]
    window: int
    order: Order
    layouts: RandomLayouts | None
    rows: np.ndarray | slice

    def __call__(self, step: int) -> Batch:
        index = self.index[self.order(step)[self.rows]]
        mapped, rows = {}, {}
        for number in np.unique(index[:, 0]).tolist():
            recording = self.store.recordings[number]
            mapped[number] = self.store.mapped(recording.key)
            same = recording.names == self.channels
            rows[number] = None if same else recording.channel_index(self.channels)
        eeg = np.empty((len(index), len(self.channels), self.window), np.float32)
        for out, (number, start) in zip(eeg, index.tolist(), strict=True):
            samples = mapped[number][start : start + self.window].T
            out[...] = samples if rows[number] is None else samples[rows[number]]
        batch = {
            "eeg": eeg,
            "recording": index[:, 0].astype(np.int32),
            "start": index[:, 1].astype(np.int32),
        }
        if self.layouts is not None:
            batch["observed_index"] = self.layouts.draw(step, len(self.channels))
        return batch


def _channels(
    store: Store, numbers: np.ndarray, channels: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[int, list[str]]]:
    """The channels to read, and which of them are bad in which recordings, by number."""
    recordings = {i: store.recordings[i] for i in numbers.tolist()}
    names = tuple(store.recordings[numbers[0]].names if channels is None else channels)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        raise ChannelError(f"channels: {', '.join(twice) or 'none'} given more than once or empty")
    for recording in recordings.values():
        recording.channel_index(names)
    bad = {i: [name for name in names if name in r.bads] for i, r in recordings.items()}
    return names, {i: found for i, found in bad.items() if found}


def _check_rates(store: Store, numbers: np.ndarray) -> None:
    rates = {store.recordings[i].sfreq: store.recordings[i].key for i in numbers}
    if len(rates) > 1:
        listed = ", ".join(f"{key} at {rate:g} Hz" for rate, key in sorted(rates.items()))
        raise DatasetError(
            f"{store.path}: sampling rates differ ({listed}); prepare with `resample`, or leave "
            "some out"
        )


def device_prefetch(
    iterator: grain.IterDataset | grain.DatasetIterator,
    size: int = 2,
    sharding: jax.sharding.Sharding | Mapping[str, jax.sharding.Sharding] | None = None,
) -> DevicePrefetch:
    """Keeps `size` batches on the device ahead of their use.

    Args:
      iterator: a pipeline, or an iterator of one.
      size: batches ahead.
      sharding: None for the default device; of the arrays with a batch axis (`observed_index` is
        then replicated over its mesh); or by name. Several processes each give their own part of
        the batch.

    Returns:
      An iterator of batches of `jax.Array`.
    """
    return DevicePrefetch(iterator, size, sharding)


class DevicePrefetch(Iterator[Batch]):
    """What `device_prefetch` returns. Its state is that of the last batch handed out.

    Batches that were only read ahead do not count, so saving `get_state()` (a JSON-able dict) with
    a checkpoint and giving it to `set_state` continues with the next batch.
    """

    def __init__(self, iterator, size, sharding):
        self._iterator, self._size, self._sharding = iter(iterator), size, sharding
        self._ahead: deque[tuple[Batch, Any]] = deque()
        self._state = self._iterator.get_state()

    def __next__(self) -> Batch:
        while len(self._ahead) <= self._size:
            try:
                batch = next(self._iterator)
            except StopIteration:
                break
            self._ahead.append((self._put(batch), self._iterator.get_state()))
        if not self._ahead:
            raise StopIteration
        batch, self._state = self._ahead.popleft()
        return batch

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch handed out."""
        return self._state

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position that `get_state` returned."""
        self._iterator.set_state(state)
        self._ahead.clear()
        self._state = state

    def _put(self, batch: Batch) -> Batch:
        import jax

        return {
            name: jax.device_put(value)
            if (sharding := self._sharding_of(name)) is None
            else jax.make_array_from_process_local_data(sharding, value)
            for name, value in batch.items()
        }

    def _sharding_of(self, name: str) -> Any:
        import jax

        if isinstance(self._sharding, Mapping):
            return self._sharding.get(name)
        if name == "observed_index" and isinstance(self._sharding, jax.sharding.NamedSharding):
            return jax.sharding.NamedSharding(self._sharding.mesh, jax.sharding.PartitionSpec())
        return self._sharding
