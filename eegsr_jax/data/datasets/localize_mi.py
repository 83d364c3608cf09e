"""Localize-MI: 256-channel EEG of single-pulse intracranial stimulation, 7 subjects, 8 kHz, open.

Layout and units from the code that made the data set (`iTCf/mikulan_et_al_2020`): epochs of 260 ms
with the pulse 250 ms after the start, volts, bad channels interpolated and kept. One entry is one
run: a stimulation site at one current.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import re
from pathlib import Path

import numpy as np

from eegsr_jax import geometry
from eegsr_jax.data import recording
from eegsr_jax.data.datasets.base import Dataset, Entry
from eegsr_jax.data.datasets.selection import Selection, existing_folder, select
from eegsr_jax.errors import DatasetError

NAME = "localize_mi"

CITATION = (
    "Mikulan E et al. (2020) Simultaneous human intracerebral stimulation and HD-EEG, ground-truth "
    "for source localization methods. Scientific Data 7:127."
)
_PLACES = ("derivatives/epochs", "Localize-MI/derivatives/epochs", ".")
_LAYOUT = (
    "derivatives/epochs/sub-01/eeg/sub-01_task-seegstim_run-01_{epochs.npy,channels.tsv,epochs.tsv}"
    " and sub-01_task-seegstim_electrodes.tsv; get Localize-MI from G-Node GIN "
    "(ezemikulan/Localize-MI)"
)
_FILE = re.compile(r"(sub-([A-Za-z0-9]+)_.*?)(?:_?run-([A-Za-z0-9]+))?_epochs\.npy")


def open_dataset(
    root: str | Path | None = None,
    *,
    subjects: Selection = None,
    sessions: Selection = None,
    runs: Selection = None,
) -> Dataset:
    """The runs of Localize-MI that a folder holds; epochs are joined end to end, with breaks.

    Args:
      root: folder of the data set, or its `derivatives/epochs`.
      subjects: 1..7; None takes all that are present.
      sessions: there is one, "1".
      runs: numbers; None takes all that are present.

    Returns:
      Entries with subjects "01".."07", runs as on disk, and the stimulation as `label`. Channels
      marked bad, which the authors interpolated, are among `Recording.bads`.

    Raises:
      DatasetError: no such folder or files, an unknown subject or run, a run without its tables;
        and, on reading, an array that is damaged or does not fit its tables.
    """
    folder = existing_folder(root, NAME, _LAYOUT)
    arrays = next(
        (a for p in _PLACES if (a := sorted((folder / p).glob("sub-*/eeg/*_epochs.npy")))), []
    )
    if not arrays:
        raise DatasetError(f"{NAME}: no *_epochs.npy in {folder}; expected {_LAYOUT}")
    entries = [_entry(path) for path in arrays]
    return Dataset(
        name=NAME,
        entries=select(entries, NAME, subjects=subjects, sessions=sessions, runs=runs),
        citation=CITATION,
        licence="as stated with the data set on G-Node GIN",
    )


def _entry(path: Path) -> Entry:
    match = _FILE.fullmatch(path.name)
    if match is None:
        raise DatasetError(f"{path}: expected a name like sub-01_task-seegstim_run-01_epochs.npy")
    stem, subject, run = match.groups()
    run = run or "1"
    return Entry(
        subject=subject,
        run=run,
        path=str(path),
        read=functools.partial(_read, path, path.parent / f"{stem}_electrodes.tsv", subject, run),
        label=_stimulation(_table(path, "epochs")),
    )


def _read(path: Path, electrodes: Path, subject: str, run: str) -> recording.Recording:
    channels = _table(path, "channels")
    order = [row["name"] for row in channels]
    epochs, length = _epochs(path, len(_table(path, "epochs")), len(order))
    table = geometry.montage(_existing(electrodes))
    absent = [name for name in order if name not in table]
    if absent:
        raise DatasetError(f"{electrodes}: no position for {', '.join(absent)}")
    joined = recording.from_array(
        epochs,
        _sfreq(path, channels),
        order,
        np.stack([table[name] for name in order]),
        breaks=range(length, epochs.shape[1], length),
        bads=[row["name"] for row in channels if row["status"] == "bad"],
        source=str(path),
        subject=subject,
        run=run,
    )
    note = f"{epochs.shape[1] // length} epochs of {length} samples joined end to end"
    return dataclasses.replace(joined, notes=(*joined.notes, note))


def _epochs(path: Path, epochs: int, channels: int) -> tuple[np.ndarray, int]:
    """Epochs joined, `[channel, epoch * time]` float32 volts, and the length of one."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header or a short file raises one of several kinds
        raise DatasetError(f"{path} cannot be read as a .npy array ({error})") from error
    if stored.ndim != 3 or stored.shape[:2] != (epochs, channels) or not stored.size:
        raise DatasetError(
            f"{path} has shape {stored.shape}; expected ({epochs}, {channels}, samples) after its "
            "epochs.tsv and channels.tsv"
        )
    joined = np.empty((channels, epochs, stored.shape[2]), np.float32)
    for i in range(epochs):  # one epoch of float64 in memory at a time
        joined[:, i] = stored[i]
    return joined.reshape(channels, -1), stored.shape[2]


def _sfreq(path: Path, channels: list[dict[str, str]]) -> float:
    rates = {row["sampling_frequency"] for row in channels}
    units = {row["units"] for row in channels} - {"V"}
    try:
        (sfreq,) = map(float, rates)
    except ValueError:
        raise DatasetError(
            f"{_beside(path, 'channels')}: sampling_frequency is {', '.join(sorted(rates))}; "
            "expected one number for all channels"
        ) from None
    if units:
        raise DatasetError(f"{_beside(path, 'channels')}: units are {units}; expected V")
    return sfreq


def _stimulation(rows: list[dict[str, str]]) -> str:
    """Contacts and current, such as "Q16-17 0.3mA"; the same for all epochs of a run."""
    return ", ".join(dict.fromkeys(row["trial_type"] for row in rows))


_COLUMNS = {
    "channels": ("name", "units", "sampling_frequency", "status"),
    "epochs": ("trial_type",),
}


def _table(path: Path, kind: str) -> list[dict[str, str]]:
    """Rows of the table beside the epochs of `path`."""
    file = _existing(_beside(path, kind))
    with open(file, newline="", encoding="utf-8") as text:
        rows = list(csv.DictReader(text, delimiter="\t"))
    lacking = [c for c in _COLUMNS[kind] if not rows or rows[0].get(c) is None]
    if lacking:
        found = ", ".join(rows[0]) if rows else "nothing"
        raise DatasetError(f"{file} holds {found}; expected rows with {', '.join(lacking)}")
    return rows


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(path.name.removesuffix("_epochs.npy") + f"_{kind}.tsv")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; expected {_LAYOUT}")
    return path
