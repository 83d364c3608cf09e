"""EEG Motor Movement/Imagery (EEGMMIDB): 109 subjects, 64 channels, 14 runs, PhysioNet, open.

Read from a local folder, or downloaded through MNE. Every file is compared with the SHA-256 list
that ships with MNE before it is read. Sources: Schalk et al. 2004; Goldberger et al. 2000.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from pathlib import Path

import numpy as np

from eegsr_jax.data import recording
from eegsr_jax.data.datasets.base import Dataset, Entry
from eegsr_jax.data.datasets.selection import Selection, choose, existing_folder, select
from eegsr_jax.errors import DatasetError

NAME = "eegbci"
SUBJECTS = range(1, 110)
RUNS = range(1, 15)
# In the order of the six class numbers, 0..5, that published splits are stratified by.
TASKS = (
    "eyes_open",
    "eyes_closed",
    "real_left_right_fist",
    "real_fists_feet",
    "imagined_left_right_fist",
    "imagined_fists_feet",
)
RUN_TASKS = {1: TASKS[0], 2: TASKS[1]} | {
    run: task
    for task, runs in zip(TASKS[2:], ((3, 7, 11), (5, 9, 13), (4, 8, 12), (6, 10, 14)), strict=True)
    for run in runs
}
# What the annotations T0, T1 and T2 of these runs say; whether a movement was made or imagined is
# the run's task. In runs 1 and 2 there is nothing but T0, from beginning to end.
_FISTS = {"T0": "rest", "T1": "left_fist", "T2": "right_fist"}
_BOTH = {"T0": "rest", "T1": "both_fists", "T2": "both_feet"}
CUES = {run: _FISTS if "left_right" in RUN_TASKS[run] else _BOTH for run in range(3, 15)}
NOMINAL_SFREQ = 160.0
# Reported by many users, not by PhysioNet. Nothing is excluded and nothing is resampled here: a
# recording keeps the rate that its header states, and a note says when that is not 160 Hz.
SUBJECTS_AT_128_HZ = (88, 92, 100)
# These and the three above are left out by many papers because run lengths, numbers of trials or
# annotations differ from everybody else's. They are kept here; leave them out by `subjects`.
IRREGULAR_SUBJECTS = (89, 104, 106)

CITATION = (
    "Schalk G, McFarland DJ, Hinterberger T, Birbaumer N, Wolpaw JR (2004) BCI2000: a "
    "general-purpose brain-computer interface system. IEEE Trans Biomed Eng 51:1034-1043. "
    "Goldberger AL et al. (2000) PhysioBank, PhysioToolkit, and PhysioNet. Circulation "
    "101:e215-e220."
)
_FILES = (
    "files S001R01.edf, S001/S001R01.edf or MNE-eegbci-data/files/eegmmidb/1.0.0/S001/S001R01.edf"
)
_LAYOUT = (
    f"{_FILES}; fetch them from PhysioNet (eegmmidb 1.0.0, open access) or ask for download=True"
)
_MIRROR = "files/eegmmidb/1.0.0"
_FILE = re.compile(r"S(\d{3})R(\d{2})\.edf")


def open_dataset(
    root: str | Path | None = None,
    *,
    subjects: Selection = None,
    sessions: Selection = None,
    runs: Selection = None,
    download: bool = False,
    verify: bool = True,
) -> Dataset:
    """The recordings of EEGMMIDB that a folder holds.

    Args:
      root: folder with the files, flat, by subject, or as MNE stores them; None means MNE's own
        folder (`MNE_DATASETS_EEGBCI_PATH`, else `~/mne_data`).
      subjects: numbers 1..109; None takes all that are present (with `download`, all 109).
      sessions: there is one, "1".
      runs: numbers 1..14; None takes all that are present (with `download`, all 14).
      download: fetch what is missing through MNE, with a progress bar (2.5 MB a run).
      verify: compare each file with MNE's SHA-256 list when it is read.

    Returns:
      Entries with subjects "1".."109", runs "1".."14" and the task as `label`; the cues of runs 3
      to 14 as `events` of the recordings: rest, left_fist, right_fist, both_fists, both_feet.

    Raises:
      DatasetError: no such folder, no such files in it, an unknown subject or run, a failed
        download; and, on reading, a file that differs from the official one.
    """
    if root is None:
        root = _mne_folder()
    if download:
        _download(Path(root).expanduser(), subjects, runs)
    folder = existing_folder(root, NAME, _LAYOUT)
    files = _find(folder)
    if not files:
        raise DatasetError(f"{NAME}: no S???R??.edf file in {folder}; expected {_LAYOUT}")
    entries = [
        Entry(
            subject=str(subject),
            run=str(run),
            path=str(path),
            read=functools.partial(_read, path, subject, run, verify),
            label=RUN_TASKS.get(run),
        )
        for (subject, run), path in sorted(files.items())
    ]
    return Dataset(
        name=NAME,
        entries=select(entries, NAME, subjects=subjects, sessions=sessions, runs=runs),
        citation=CITATION,
        licence="ODC-BY 1.0",
    )


def _find(folder: Path) -> dict[tuple[int, int], Path]:
    """Paths by (subject, run); the first layout that holds a recording wins."""
    places = (folder, folder / _MIRROR, folder / "MNE-eegbci-data" / _MIRROR)
    files: dict[tuple[int, int], Path] = {}
    for place in places:
        for path in (*place.glob("S???R??.edf"), *place.glob("S???/S???R??.edf")):
            match = _FILE.fullmatch(path.name)
            if match:
                files.setdefault((int(match.group(1)), int(match.group(2))), path)
    return files


def _read(path: Path, subject: int, run: int, verify: bool) -> recording.Recording:
    if verify:
        _verify(path)
    found = recording.read(path, montage="standard_1005", subject=str(subject), run=str(run))
    notes = list(found.notes)
    if found.sfreq != NOMINAL_SFREQ:
        notes.append(f"recorded at {found.sfreq:g} Hz; the data set's rate is {NOMINAL_SFREQ:g} Hz")
    # The last record of many files is filled up with zeros, in all channels at once.
    kept = int(np.flatnonzero(found.data.any(0)).max(initial=-1)) + 1
    padding = found.data.shape[1] - kept
    if padding > 1:
        notes.append(f"cut {padding} samples at the end where every channel is exactly zero")
        found = dataclasses.replace(
            found,
            data=found.data[:, :kept].copy(),
            usable=found.usable[:kept],
            breaks=tuple(b for b in found.breaks if b < kept),
        )
    events = _events(path, run, found)
    return dataclasses.replace(found, notes=tuple(notes), events=events)


def _events(path: Path, run: int, found: recording.Recording) -> tuple[recording.Event, ...]:
    """The cues, each to its end or to that of the recording."""
    import mne

    cues, last, events = CUES.get(run, {}), found.data.shape[1], []
    for mark in mne.read_annotations(path) if cues else ():
        ends = mark["onset"], mark["onset"] + mark["duration"]
        start, stop = (min(round(float(t) * found.sfreq), last) for t in ends)
        if mark["description"] in cues and start < stop:
            events.append(recording.Event(start, stop, cues[mark["description"]]))
    return tuple(events)


def _verify(path: Path) -> None:
    expected = _checksums().get(f"{path.name[:4]}/{path.name}")
    if expected is None:
        raise DatasetError(
            f"{path}: not in the data set's SHA-256 list; expected S001R01.edf to S109R14.edf "
            "(verify=False reads it anyway)"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() == expected:
        return
    # Version control that rewrites line ends is the one cause that can be told from the content.
    restored = hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest() == expected
    cause = "its line ends were changed to CRLF" if restored else "it is damaged or was edited"
    raise DatasetError(
        f"{path}: SHA-256 differs from the official sum ({cause}); delete it and fetch it again, "
        "or read it with verify=False"
    )


@functools.cache
def _checksums() -> dict[str, str]:
    import mne

    text = (Path(mne.__file__).parent / "data" / "eegbci_checksums.txt").read_text()
    return dict(line.split() for line in text.splitlines() if line.strip())


def _mne_folder() -> Path:
    import mne

    return Path(mne.get_config("MNE_DATASETS_EEGBCI_PATH") or Path.home() / "mne_data")


def _download(folder: Path, subjects: Selection, runs: Selection) -> None:
    import mne
    from tqdm import tqdm

    wanted = [
        (int(subject), int(run))
        for subject in choose(map(str, SUBJECTS), subjects, "subject", NAME)
        for run in choose(map(str, RUNS), runs, "run", NAME)
    ]
    present = _find(folder) if folder.is_dir() else {}
    missing = [pair for pair in wanted if pair not in present]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
    for subject, run in tqdm(missing, desc="EEGMMIDB", unit="run", disable=not missing):
        try:
            mne.datasets.eegbci.load_data(
                subject, [run], path=folder, update_path=False, verbose="error"
            )
        except Exception as error:  # pooch and requests raise many kinds
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
            raise DatasetError(
                f"{NAME}: download of S{subject:03d}R{run:02d}.edf to {folder} failed ({reason}…); "
                f"without network, bring {_FILES} from PhysioNet (eegmmidb 1.0.0)"
            ) from error
