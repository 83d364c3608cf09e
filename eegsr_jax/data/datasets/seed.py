"""SEED: 15 subjects x 3 sessions x 15 film clips, 62 channels at 200 Hz, by registration.

Source of the layouts, keys and channel order: the loaders published with EMAG and SRGDiff, and the
data set's own notes. One entry is one trial. `seed_iv` shares the reader below.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eegsr_jax.data import recording
from eegsr_jax.data.datasets import seed_channels
from eegsr_jax.data.datasets.base import Dataset, Entry, montage_option
from eegsr_jax.data.datasets.selection import Selection, choose, existing_folder, select
from eegsr_jax.errors import DatasetError

NAME = "seed"
SFREQ = 200.0
TRIALS = 15
# The data set's own label.mat: 1 positive, 0 neutral, -1 negative; the same in every session.
LABELS = tuple(
    {1: "positive", 0: "neutral", -1: "negative"}[n]
    for n in (1, 0, -1, -1, 0, 1, -1, 0, 1, 1, 0, -1, 0, 1, -1)
)

CITATION = (
    "Zheng W-L, Lu B-L (2015) Investigating critical frequency bands and channels for EEG-based "
    "emotion recognition with deep neural networks. IEEE Trans Auton Ment Dev 7:162-175. Duan R-N, "
    "Zhu J-Y, Lu B-L (2013) Differential entropy feature for EEG-based emotion classification. "
    "IEEE/EMBS NER 81-84."
)
LICENCE = "academic research only, under the data set's licence agreement; no redistribution"
_FLAT = ("preprocessed_flat", "Preprocessed_EEG", "SEED_EEG/Preprocessed_EEG", ".")
_BY_SESSION = (
    "eeg_raw_data",
    "SEED/eeg_raw_data",
    "Preprocessed_EEG/eeg_raw_data",
    "SEED",
    "Preprocessed_EEG",
    ".",
)
_LAYOUT = (
    "Preprocessed_EEG/1_20131027.mat … (or preprocessed_flat/, SEED_EEG/Preprocessed_EEG/) or "
    "eeg_raw_data/{1,2,3}/1_20131027.mat …; register at the SEED page of BCMI, Shanghai Jiao Tong "
    "University, and ask for the Preprocessed_EEG folder"
)
_FILE = re.compile(r"(\d+)_(\d+)\.mat")


def open_dataset(
    root: str | Path | None = None,
    *,
    subjects: Selection = None,
    sessions: Selection = None,
    runs: Selection = None,
    montage: Any = None,
) -> Dataset:
    """The trials of SEED in a folder of either published layout; the flat one wins.

    Files whose subject is not a number (`dujingcheng_20131027.mat`) are passed over, as everybody
    does: they are older copies. In the flat layout a subject's sessions are its files by date.

    Args:
      root: folder of the data set.
      subjects: 1..15; None takes all that are present.
      sessions: 1..3; None takes all that are present.
      runs: trials 1..15; None takes all.
      montage: electrode positions (see `geometry.montage`); None takes `channel_62_pos.locs` from
        the folder, and the standard 10-05 template where there is no such file.

    Returns:
      One entry a trial, with subject, session and trial number as `run`, the emotion as `label`.

    Raises:
      DatasetError: no such folder or files, an unknown subject, session or trial, a file that
        cannot be read or does not hold 15 trials of 62 channels.
    """
    folder = existing_folder(root, NAME, _LAYOUT)
    files = _flat_files(folder) or session_files(folder, _BY_SESSION, NAME)
    if not files:
        raise DatasetError(f"{NAME}: no such .mat files in {folder}; expected {_LAYOUT}")
    entries = trial_entries(
        NAME,
        files,
        dict.fromkeys(("1", "2", "3"), LABELS),
        functools.partial(seed_channels.positions, (folder, folder / "SEED"), montage),
        subjects=subjects,
        sessions=sessions,
        runs=runs,
    )
    return Dataset(
        name=NAME,
        entries=entries,
        citation=CITATION,
        licence=LICENCE,
        options={"montage": montage_option(montage)},
    )


# ------------------------------------------------------------------------------------------ files


def _flat_files(folder: Path) -> dict[tuple[str, str], Path]:
    """Paths by (subject, session) of the flat layout."""
    for place in _FLAT:
        dated: dict[str, list[tuple[str, Path]]] = {}
        for path in (folder / place).glob("*.mat"):
            match = _FILE.fullmatch(path.name)
            if match:
                dated.setdefault(str(int(match.group(1))), []).append((match.group(2), path))
        for subject, found in dated.items():
            if len(found) > 3:
                raise DatasetError(
                    f"{NAME}: {len(found)} files of subject {subject} in {folder / place}; "
                    "expected three, one a session"
                )
        if dated:
            return {
                (subject, str(i)): path
                for subject in sorted(dated, key=int)
                for i, (_, path) in enumerate(sorted(dated[subject]), 1)
            }
    return {}


def session_files(folder: Path, places: Sequence[str], dataset: str) -> dict[tuple[str, str], Path]:
    """Paths by (subject, session) of the layout with one folder a session.

    Args:
      folder: folder of the data set.
      places: sub-folders that may hold the folders 1, 2 and 3; the first that does wins.
      dataset: name of the data set, for the message.

    Raises:
      DatasetError: two files of one subject in one session.
    """
    for place in places:
        files: dict[tuple[str, str], Path] = {}
        for session in ("1", "2", "3"):
            for path in sorted((folder / place / session).glob("*.mat")):
                match = _FILE.fullmatch(path.name)
                if not match:
                    continue
                key = (str(int(match.group(1))), session)
                if key in files:
                    raise DatasetError(
                        f"{dataset}: {files[key]} and {path} are both subject {key[0]}, session "
                        f"{session}; expected one file"
                    )
                files[key] = path
        if files:
            return dict(sorted(files.items(), key=lambda item: (int(item[0][0]), item[0][1])))
    return {}


def trial_entries(
    dataset: str,
    files: Mapping[tuple[str, str], Path],
    labels: Mapping[str, Sequence[str]],
    read_positions: Callable[[], tuple[np.ndarray, str]],
    *,
    subjects: Selection,
    sessions: Selection,
    runs: Selection,
) -> tuple[Entry, ...]:
    """One entry for each trial of the chosen `.mat` files; only their headers are read here.

    Args:
      dataset: name of the data set, for messages.
      files: paths by (subject, session).
      labels: by session, the class of each trial in order; their number is the number of trials.
      read_positions: () -> ([62, 3] metres head frame, one sentence on where they are from).
      subjects: see `selection.choose`.
      sessions: see `selection.choose`.
      runs: see `selection.choose`.

    Raises:
      DatasetError: an unknown subject, session or trial, or a file that is not as expected.
    """
    chosen = choose((s for s, _ in files), subjects, "subject", dataset)
    files = {key: path for key, path in files.items() if key[0] in chosen}
    chosen = choose(sorted({s for _, s in files}), sessions, "session", dataset)
    entries = []
    for (subject, session), path in files.items():
        if session not in chosen:
            continue
        keys = _trial_keys(path, len(labels[session]))
        for number, (key, label) in enumerate(zip(keys, labels[session], strict=True), 1):
            run = str(number)
            read = functools.partial(_read, path, key, read_positions, subject, session, run)
            entries.append(
                Entry(
                    subject=subject,
                    session=session,
                    run=run,
                    path=str(path),
                    label=label,
                    read=read,
                )
            )
    return select(entries, dataset, runs=runs)


def _trial_keys(path: Path, trials: int) -> list[str]:
    """Names of the trials' arrays, `{initials}_eeg1` and so on."""
    import scipy.io

    try:
        shapes = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
    except NotImplementedError as error:
        raise DatasetError(
            f"{path} is a MATLAB v7.3 (HDF5) file; expected v7 or older: load it in MATLAB and "
            "save it with -v7"
        ) from error
    except Exception as error:  # scipy raises many kinds on a damaged file
        raise DatasetError(f"{path} cannot be read as a MATLAB file ({error})") from error
    first = next((name for name in shapes if "eeg" in name.lower()), None)
    if first is None:
        raise DatasetError(
            f"{path} holds {', '.join(shapes) or 'nothing'}; expected arrays named …_eeg1 to "
            f"…_eeg{trials}"
        )
    prefix = first.rstrip("0123456789")
    keys = [f"{prefix}{number}" for number in range(1, trials + 1)]
    absent = [key for key in keys if key not in shapes]
    if absent or f"{prefix}{trials + 1}" in shapes:
        count = sum(name.rstrip("0123456789") == prefix for name in shapes)
        raise DatasetError(f"{path} holds {count} trials; expected {keys[0]} to {keys[-1]}")
    rows = len(seed_channels.NAMES)
    for key in keys:
        if len(shapes[key]) != 2 or shapes[key][0] != rows:
            raise DatasetError(f"{path}: {key} has shape {shapes[key]}; expected ({rows}, samples)")
    return keys


def _read(
    path: Path,
    key: str,
    read_positions: Callable[[], tuple[np.ndarray, str]],
    subject: str,
    session: str,
    run: str,
) -> recording.Recording:
    import scipy.io

    try:
        data = scipy.io.loadmat(path, variable_names=[key])[key]
    except Exception as error:  # scipy and zlib raise many kinds on a damaged file
        raise DatasetError(f"{path}: {key} cannot be read ({error})") from error
    xyz, note = read_positions()
    found = recording.from_array(
        data,
        SFREQ,
        seed_channels.NAMES,
        xyz,
        unit="uV",
        source=f"{path}:{key}",
        subject=subject,
        session=session,
        run=run,
    )
    return dataclasses.replace(found, notes=(*found.notes, note))
