"""The store: filtered recordings as continuous memory-mapped arrays, for random access to windows.

`prepare` writes one, `open_store` opens it. Every file appears by rename and the manifest is
renewed after each recording, so an interrupted `prepare` leaves a valid part, which the next call
completes.
"""

from __future__ import annotations

import difflib
import functools
import glob
import hashlib
import json
import reprlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eegsr_jax.data.datasets.base import Dataset, Entry
from eegsr_jax.data.datasets.selection import Selection, choose
from eegsr_jax.data.manifest import (
    Manifest,
    StoredRecording,
    check_key,
    data_path,
    data_size,
    read_manifest,
    write_data,
    write_manifest,
)
from eegsr_jax.data.preprocessing import Preprocessing, apply
from eegsr_jax.data.recording import Recording
from eegsr_jax.errors import DatasetError, EEGSRError, RecordingError


@dataclass(frozen=True, kw_only=True)
class Store(Manifest):
    """An open store: the manifest, and access to samples.

    Immutable and cheap to pickle: files are mapped on first use, in each process anew.
    """

    path: Path

    @functools.cached_property
    def _by_key(self) -> dict[str, StoredRecording]:
        return {recording.key: recording for recording in self.recordings}

    def recording(self, key: str) -> StoredRecording:
        """The recording of that key.

        Raises:
          RecordingError: there is none.
        """
        if key not in self._by_key:
            close = difflib.get_close_matches(key, self._by_key, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise RecordingError(f"{self.path}: no recording {key!r} in this store{hint}")
        return self._by_key[key]

    def mapped(self, key: str) -> np.ndarray:
        """The whole recording as it lies on disk: `[time, channel]` float32 volts, read-only."""
        recording = self.recording(key)
        return _mapped(data_path(self.path, key), recording.sha256, recording.shape)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Samples `start` to `stop` (not included) of a recording.

        Returns:
          `[channel, time]` float32 volts, a copy.

        Raises:
          RecordingError: unknown key, or samples that the recording does not have.
        """
        total = self.recording(key).samples
        stop = total if stop is None else stop
        if not 0 <= start <= stop <= total:
            raise RecordingError(
                f"{self.path}: {key} has {total} samples; {start} to {stop} cannot be read"
            )
        return np.ascontiguousarray(self.mapped(key)[start:stop].T)

    def select(
        self, *, subjects: Selection = None, sessions: Selection = None, runs: Selection = None
    ) -> Store:
        """The same store with the recordings of these subjects, sessions and runs only.

        Numbers match however they are written: 1, "1", "01" and "S001" are the same subject.

        Raises:
          DatasetError: a name does not exist.
        """
        left = self.recordings
        for what, wanted in (("subject", subjects), ("session", sessions), ("run", runs)):
            kept = choose([getattr(r, what) for r in left], wanted, what, str(self.path))
            left = tuple(r for r in left if getattr(r, what) in kept)
        return replace(self, recordings=left)


@functools.lru_cache(maxsize=128)  # bounded, because each map holds a file descriptor
def _mapped(path: Path, sha256: str, shape: tuple[int, int]) -> np.ndarray:
    """`sha256` is here so that a file that was replaced is mapped again."""
    try:
        data = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot read: {error}; run `eegsr prepare` again") from None
    if data.shape != shape or data.dtype != np.float32:
        raise DatasetError(
            f"{path}: holds {data.dtype} {data.shape}, the manifest says float32 {shape}; delete "
            "it and run `eegsr prepare` again"
        )
    return data.view(np.ndarray)  # the subclass `np.memmap` makes each slice slower


def open_store(path: str | Path, *, verify: bool = False, partial: bool = False) -> Store:
    """Opens a store that `prepare` wrote.

    Args:
      path: its folder.
      verify: read every data file and compare its SHA-256 with the manifest.
      partial: accept a store whose preparation was interrupted.

    Raises:
      DatasetError: not a store, written by another version, incomplete, or a data file is absent,
        of the wrong size or (with `verify`) changed.
    """
    path = Path(path)
    manifest = read_manifest(path)
    if not (manifest.complete or partial):
        raise DatasetError(
            f"{path}: preparation stopped after {len(manifest.recordings)} recordings; run the "
            "same `eegsr prepare` again to finish it"
        )
    for recording in manifest.recordings:
        file, size = data_path(path, recording.key), data_size(recording.shape)
        if not file.is_file():
            raise DatasetError(f"{file} is absent; run `eegsr prepare` again to renew it")
        if file.stat().st_size != size:
            raise DatasetError(
                f"{file} has {file.stat().st_size} bytes instead of {size}; run `eegsr prepare` "
                "again to renew it"
            )
        if verify and _sha256([file]) != recording.sha256:
            raise DatasetError(
                f"{file} has changed since it was written (its SHA-256 is not the manifest's); "
                "delete it and run `eegsr prepare` again"
            )
    return Store(path=path, **vars(manifest))


def prepare(
    dataset: Dataset, out: str | Path, preprocessing: Preprocessing, *, progress: bool = True
) -> Store:
    """Reads, filters and stores every recording of a data set.

    Calling it again completes an interrupted store: recordings whose source file is unchanged are
    skipped, the others (those without a source file, and those of before events were kept) are made
    again. The data set may have grown in between.

    Args:
      dataset: what to read.
      out: folder of the store.
      preprocessing: steps applied to every recording.
      progress: show a progress bar when standard error is a terminal.

    Raises:
      DatasetError: `out` holds something else, or a store with other options or preprocessing; two
        recordings have the same key; or writing failed (disk full).
      EEGSRError: a recording cannot be read or filtered.
    """
    from tqdm import tqdm

    out, entries = Path(out), dataset.entries
    _check_entries(dataset)
    options = _as_json(dataset)
    done = _already_done(dataset, options, out, preprocessing)
    source_sha256 = functools.cache(_source_sha256)  # many recordings may share one file

    def write_done() -> None:
        recordings = tuple(done[e.key] for e in entries if e.key in done)
        manifest = Manifest(
            dataset=dataset.name,
            options=options,
            licence=dataset.licence,
            citation=dataset.citation,
            preprocessing=preprocessing,
            recordings=recordings,
            complete=len(recordings) == len(entries),
        )
        write_manifest(out, manifest)

    with _explaining_write_errors(out, done, len(entries)):
        out.mkdir(parents=True, exist_ok=True)
        write_done()
        (out / "recordings").mkdir(exist_ok=True)
        for leftover in (out / "recordings").glob(".*.tmp"):  # of a process that was killed
            leftover.unlink()
    hidden = not (progress and sys.stderr.isatty())
    for entry in tqdm(entries, desc=f"prepare {dataset.name}", unit="recording", disable=hidden):
        source, old = source_sha256(entry.path), done.get(entry.key)
        same = old and source and old.source_sha256 == source and old.events is not None
        if old and same and _is_whole(out, old):
            continue
        fresh, data = _process(entry, preprocessing, source)
        with _explaining_write_errors(out, done, len(entries)):
            if done.pop(entry.key, None):
                write_done()  # the manifest must not describe a file that is about to change
            sha256 = write_data(data_path(out, entry.key), data)
            done[entry.key] = replace(fresh, sha256=sha256)
            write_done()
    return open_store(out)


def _check_entries(dataset: Dataset) -> None:
    if not dataset.entries:
        raise DatasetError(f"{dataset.name}: there is no recording to prepare")
    seen: dict[str, Entry] = {}
    for entry in dataset.entries:
        check_key(entry.key)
        if entry.key in seen:
            raise DatasetError(
                f"{dataset.name}: {seen[entry.key].path or 'one recording'} and "
                f"{entry.path or 'another'} are both {entry.key}; give one of them another run name"
            )
        seen[entry.key] = entry


def _as_json(dataset: Dataset) -> dict[str, Any]:
    """The options as they come back from a manifest."""
    try:
        return json.loads(json.dumps(dataset.options, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{dataset.name}: options cannot be kept as JSON ({error}); give plain values"
        ) from None


def _already_done(
    dataset: Dataset, options: dict[str, Any], out: Path, preprocessing: Preprocessing
) -> dict[str, StoredRecording]:
    """What an earlier call has finished, by key; refuses a folder that is not this store."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {}
    old = read_manifest(out)
    if old.dataset != dataset.name:
        raise DatasetError(
            f"{out} holds the data set {old.dataset!r}, not {dataset.name!r}; choose another folder"
        )
    for name in sorted(old.options.keys() | options.keys()):
        was, now = old.options.get(name), options.get(name)
        if was != now:
            raise DatasetError(
                f"{out} was prepared with the option {name}={reprlib.repr(was)}, not "
                f"{reprlib.repr(now)}; choose another folder, or delete this one"
            )
    if old.preprocessing != preprocessing:
        raise DatasetError(
            f"{out} was prepared with {old.preprocessing}, not {preprocessing}; choose another "
            "folder, or delete this one"
        )
    extra = {r.key for r in old.recordings} - {e.key for e in dataset.entries}
    if extra:
        raise DatasetError(
            f"{out} also holds {min(extra)} ({len(extra)} such recordings), not asked for now; ask "
            "for all of them in one call, or choose another folder"
        )
    return {r.key: r for r in old.recordings}


def _process(
    entry: Entry, preprocessing: Preprocessing, source_sha256: str | None
) -> tuple[StoredRecording, np.ndarray]:
    """Reads and filters one entry: description (data hash still empty), `[time, channel]` data."""
    try:
        recording = apply(entry.read(), preprocessing)
    except EEGSRError as error:
        raise type(error)(f"{entry.key}: {error}") from None
    finite = np.isfinite(recording.data).all(axis=1)
    if not finite.all():
        raise RecordingError(
            f"{entry.key}: channel {recording.names[np.argmin(finite)]} has samples that are not "
            "finite; the reader must set them to zero and mark them not usable"
        )
    description = StoredRecording(
        key=entry.key,
        subject=entry.subject,
        session=entry.session,
        run=entry.run,
        label=entry.label,
        sfreq=float(recording.sfreq),
        samples=recording.data.shape[1],
        names=tuple(recording.names),
        positions=np.asarray(recording.positions, np.float64),
        bads=tuple(recording.bads),
        usable=_usable_stretches(recording),
        reference=recording.reference,
        source=Path(recording.source).name,
        source_sha256=source_sha256,
        sha256="",
        notes=tuple(recording.notes),
        events=tuple(recording.events),
    )
    return description, recording.data.T


def _usable_stretches(recording: Recording) -> tuple[tuple[int, int], ...]:
    """Where usable samples follow one another without a break, `[start, stop)`."""
    found = []
    for start, stop in recording.stretches:
        usable = np.concatenate([[False], recording.usable[start:stop], [False]])
        edges = start + np.flatnonzero(np.diff(usable.astype(np.int8)))
        found += [(first, last) for first, last in edges.reshape(-1, 2).tolist()]
    return tuple(found)


def _is_whole(store: Path, recording: StoredRecording) -> bool:
    file = data_path(store, recording.key)
    return file.is_file() and file.stat().st_size == data_size(recording.shape)


def _source_sha256(path: str | None) -> str | None:
    """Hash of a file and its companions (`.set` and `.fdt`, `.vhdr` and `.eeg`), or of a folder."""
    if path is None or not Path(path).exists():
        return None
    source = Path(path)
    if source.is_dir():
        return _sha256(sorted(p for p in source.rglob("*") if p.is_file()))
    companions = source.parent.glob(f"{glob.escape(source.stem)}.*")
    return _sha256(sorted({source, *(p for p in companions if p.is_file())}))


def _sha256(files: Sequence[Path]) -> str:
    """Of a file's content; of several, that of the list of theirs."""
    digests = []
    for path in files:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


@contextmanager
def _explaining_write_errors(out: Path, done: dict, total: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"{out}: cannot write: {error.strerror or error}; {len(done)} of {total} recordings "
            "are stored and stay valid; free some space or choose another folder, then run it again"
        ) from None
