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

import argparse
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

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
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return source.nbytes / float(np.median(seconds))


def measure(makers: dict[str, Callable[[], Iterator]], batches: int) -> dict[str, list[float]]:
    """Seconds per `batches` batches, `REPEATS` times; readers take turns."""
    running = {name: make() for name, make in makers.items()}
    for iterator in running.values():
        for _ in itertools.islice(iterator, batches):
            pass  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(REPEATS):
        for name, iterator in running.items():
            next(iterator)  # what was read ahead during the others' turns
            next(iterator)
            next(iterator)
            start = time.perf_counter()
            for batch in itertools.islice(iterator, batches):
                last = batch
            getattr(last, "block_until_ready", lambda: None)()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Measures, prints a table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description="Windows per second of the data pipeline.")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="few and short recordings")
    arguments = parser.parse_args()
    recordings, seconds, batches = (4, 60.0, 5) if arguments.quick else (16, 1000.0, 40)
    with tempfile.TemporaryDirectory() as temporary:
        store = noise_store(Path(temporary), recordings, seconds)
        bandwidth = memory_copy(64 if arguments.quick else 512)
        times = measure(readers(store, Path(temporary)), batches)
    times = {name: np.array(own) / batches for name, own in times.items()}
    limits = {name: float(np.median(times[name])) for name in ("memmap_copy", "transposed")}
    rows = []
    for name, own in times.items():
        channels = CHANNELS // 4 if "channels" in name else CHANNELS
        rate = BATCH / np.percentile(own, [50, 90, 10])
        rows.append(
            {
                "reader": name,
                "windows_per_second": rate[0],
                "windows_per_second_p10": rate[1],
                "windows_per_second_p90": rate[2],
                "gigabytes_per_second": rate[0] * channels * WINDOW * 4 / 1e9,
                **{f"share_of_{n}": limit / np.median(own) for n, limit in limits.items()},
            }
        )
    print(f"memory_copy: {bandwidth / 1e9:.1f} GB/s")
    for row in rows:
        print(
            f"{row['reader']:45s} {row['windows_per_second']:8.0f} windows/s "
            f"{row['gigabytes_per_second']:6.2f} GB/s  "
            f"{row['share_of_memmap_copy']:.2f} of memmap_copy, "
            f"{row['share_of_transposed']:.2f} of transposed"
        )
    if arguments.json:
        import jax

        report = {
            "benchmark": "data",
            "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
            "versions": {p: version(p) for p in ("numpy", "grain", "jax")},
            "backend": jax.default_backend(),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "shapes": {"batch": BATCH, "channels": CHANNELS, "window": WINDOW},
            "dtype": "float32",
            "recordings": recordings,
            "recording_seconds": seconds,
            "repeats": REPEATS,
            "batches_per_repeat": batches,
            "memory_copy_bytes_per_second": bandwidth,
            "readers": rows,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
