"""Claim: the pipeline reads as fast as windows can be turned into [channel, time] at all.

    python benchmarks/data.py --json data.json        # about a minute, 1.4 GB of temporary files
    python benchmarks/data.py --quick                 # seconds

Writes a store of noise and measures, taking turns, with warm files (in the page cache):
  memmap_copy      random windows copied from the mapped files as they lie there, [time, channel],
                   without index, channel order or batching by name: the limit of any reader
  transposed       those windows copied as [channel, time]: the limit of any reader of such batches
  channel_first    those windows from files that hold [channel, time], the order not chosen
  pipeline, …      `eegsr_jax.data.pipeline`, shuffled, every batch a fresh array
and, once, memory_copy: a large array copied to another. Rates count float32 bytes delivered.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import report

from eegsr_jax.data.datasets.base import Dataset, Entry
from eegsr_jax.data.pipeline import device_prefetch, pipeline, window_index
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.recording import Recording
from eegsr_jax.data.segments import whole
from eegsr_jax.data.store import Store, prepare

SFREQ, WINDOW, BATCH, CHANNELS = 160.0, 320, 64, 64
REPEATS = 30


def noise_store(folder: Path, recordings: int, seconds: float) -> Store:
    """A store of `recordings` stretches of noise."""
    samples = round(seconds * SFREQ)

    def read(seed: int) -> Recording:
        rng = np.random.default_rng(seed)
        return Recording(
            data=rng.standard_normal((CHANNELS, samples), np.float32) * np.float32(1e-5),
            sfreq=SFREQ,
            names=tuple(f"E{i}" for i in range(CHANNELS)),
            positions=np.zeros((CHANNELS, 3)),
            usable=np.ones(samples, bool),
        )

    entries = tuple(Entry(subject=str(i), read=lambda i=i: read(i)) for i in range(recordings))
    dataset = Dataset(name="noise", entries=entries, citation="none", licence="CC0-1.0")
    return prepare(dataset, folder / "store", PREPROCESSING["none"])


def by_hand(files: list[np.ndarray], index: np.ndarray, order: str) -> Iterator[np.ndarray]:
    """Random windows in batches, in plain NumPy; `order` of axes: on disk, then in the batch."""
    shape = (WINDOW, CHANNELS) if order == "tc to tc" else (CHANNELS, WINDOW)
    rng = np.random.default_rng(0)
    while True:
        batch = np.empty((BATCH, *shape), np.float32)
        for out, (number, start) in zip(batch, rng.choice(index, BATCH).tolist(), strict=True):
            span = slice(start, start + WINDOW)
            if order == "ct to ct":
                out[...] = files[number][:, span]
            else:
                out[...] = files[number][span] if order == "tc to tc" else files[number][span].T
        yield batch


def channel_first(store: Store, folder: Path) -> list[np.ndarray]:
    """Copies of the recordings as mapped files of `[channel, time]`."""
    paths = [folder / f"{recording.key}.npy" for recording in store.recordings]
    for recording, path in zip(store.recordings, paths, strict=True):
        np.save(path, store.read(recording.key))
    return [np.load(path, mmap_mode="r").view(np.ndarray) for path in paths]


def readers(store: Store, folder: Path) -> dict[str, Callable[[], Iterator]]:
    """What is measured, by name; each gives endless batches."""
    segments = [whole(r) for r in store.recordings]
    index = window_index(store, segments, window=WINDOW)
    by_channel = channel_first(store, folder)
    by_time = [store.mapped(r.key) for r in store.recordings]
    some = [f"E{i}" for i in range(0, CHANNELS, 4)]

    def ours(**options) -> Iterator:
        return iter(
            pipeline(
                store,
                segments,
                window=WINDOW,
                batch_size=BATCH,
                shuffle=True,
                epochs=None,
                **options,
            )
        )

    return {
        "memmap_copy": lambda: by_hand(by_time, index, "tc to tc"),
        "transposed": lambda: by_hand(by_time, index, "tc to ct"),
        "channel_first": lambda: by_hand(by_channel, index, "ct to ct"),
        "pipeline, threads 0": lambda: ours(threads=0),
        "pipeline, threads 1": lambda: ours(threads=1),
        "pipeline, threads 2": lambda: ours(threads=2),
        f"pipeline, threads 1, {len(some)} of {CHANNELS} channels": lambda: ours(channels=some),
        "pipeline, threads 1, device_prefetch": lambda: device_prefetch(ours()),
    }


def memory_copy(megabytes: int) -> float:
    """Bytes copied per second between two arrays far larger than the caches."""
    source, target = np.ones((2, megabytes * 2**20 // 4), np.float32)
    copy = report.clock(lambda: np.copyto(target, source))
    return source.nbytes / report.measured(copy() for _ in range(10))["median_s"]


def turn(iterator: Iterator, batches: int) -> Callable[[], float]:
    """Gives the seconds of a batch, over `batches` in a row."""

    def seconds() -> float:
        for _ in range(3):
            next(iterator)  # what was read ahead during the others' turns
        start = time.perf_counter()
        for batch in itertools.islice(iterator, batches):
            last = batch
        getattr(last, "block_until_ready", lambda: None)()
        return (time.perf_counter() - start) / batches

    return seconds


def main() -> None:
    """Measures and prints; writes JSON if asked."""
    options = report.parser(__doc__).parse_args()
    recordings, seconds, batches = (4, 60.0, 5) if options.quick else (16, 1000.0, 40)
    with tempfile.TemporaryDirectory() as temporary:
        store = noise_store(Path(temporary), recordings, seconds)
        bandwidth = memory_copy(64 if options.quick else 512)
        makers = readers(store, Path(temporary))
        turns = {name: turn(make(), batches) for name, make in makers.items()}
        report.taking_turns(turns, 1)  # warms up
        times = report.taking_turns(turns, REPEATS)
    rows = []
    for name, own in times.items():
        channels = CHANNELS // 4 if "channels" in name else CHANNELS
        row = {"reader": name, "batch": BATCH, "channels": channels, "samples": WINDOW}
        row |= {"dtype": "float32"} | report.measured(own)
        row["windows_per_s"] = BATCH / row["median_s"]
        row["gigabyte_per_s"] = row["windows_per_s"] * channels * WINDOW * 4 / 1e9
        rows.append(row)
    limits = {row["reader"]: row["median_s"] for row in rows[:2]}
    for row in rows:
        shares = {f"share_of_{name}": s / row["median_s"] for name, s in limits.items()}
        row |= shares
        print(report.line(row, ("reader",)))
    ours = {row["reader"]: row for row in rows}["pipeline, threads 1"]
    report.publish(
        options,
        __doc__,
        rows,
        names=("reader",),
        columns=("windows_per_s", "gigabyte_per_s", *shares),
        headline={f"pipeline, {name.replace('_', ' ')}": ours[name] for name in shares},
        packages=("grain",),
        recordings=recordings,
        recording_seconds=seconds,
        batches_per_repeat=batches,
        memory_copy_byte_per_s=bandwidth,
    )


if __name__ == "__main__":
    main()
