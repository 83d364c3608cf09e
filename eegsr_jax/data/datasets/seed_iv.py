"""SEED-IV: 15 subjects x 3 sessions x 24 film clips, 62 channels at 200 Hz, by registration.

Same arrays, channel order and positions as SEED, other labels in every session.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from eegsr_jax.data.datasets import seed, seed_channels
from eegsr_jax.data.datasets.base import Dataset, montage_option
from eegsr_jax.data.datasets.selection import Selection, existing_folder
from eegsr_jax.errors import DatasetError

NAME = "seed_iv"
TRIALS = 24
_EMOTIONS = ("neutral", "sad", "fear", "happy")
# The data set's own ReadMe: 0 neutral, 1 sad, 2 fear, 3 happy.
LABELS = {
    session: tuple(_EMOTIONS[int(n)] for n in numbers)
    for session, numbers in {
        "1": "123020010121112322330303",
        "2": "213002023323201121030131",
        "3": "122133311210233023002010",
    }.items()
}

CITATION = (
    "Zheng W-L, Liu W, Lu Y, Lu B-L, Cichocki A (2019) EmotionMeter: a multimodal framework for "
    "recognizing human emotions. IEEE Trans Cybern 49:1110-1122."
)
_BY_SESSION = ("eeg_raw_data", "SEED_IV/eeg_raw_data", ".")
_LAYOUT = (
    "eeg_raw_data/{1,2,3}/1_20160518.mat … (also below SEED_IV/); register at the SEED page of "
    "BCMI, Shanghai Jiao Tong University, and ask for SEED-IV's eeg_raw_data"
)


def open_dataset(
    root: str | Path | None = None,
    *,
    subjects: Selection = None,
    sessions: Selection = None,
    runs: Selection = None,
    montage: Any = None,
) -> Dataset:
    """The trials of SEED-IV in a folder.

    Args:
      root: folder of the data set.
      subjects: 1..15; None takes all that are present.
      sessions: 1..3; None takes all that are present.
      runs: trials 1..24; None takes all.
      montage: electrode positions (see `geometry.montage`); None takes `channel_62_pos.locs` from
        the folder, and the standard 10-05 template where there is no such file.

    Returns:
      One entry a trial, with subject, session and trial number as `run`, the emotion as `label`.

    Raises:
      DatasetError: no such folder or files, an unknown subject, session or trial, a file that
        cannot be read or does not hold 24 trials of 62 channels.
    """
    folder = existing_folder(root, NAME, _LAYOUT)
    files = seed.session_files(folder, _BY_SESSION, NAME)
    if not files:
        raise DatasetError(f"{NAME}: no such .mat files in {folder}; expected {_LAYOUT}")
    entries = seed.trial_entries(
        NAME,
        files,
        LABELS,
        functools.partial(seed_channels.positions, (folder, folder / "SEED_IV"), montage),
        subjects=subjects,
        sessions=sessions,
        runs=runs,
    )
    return Dataset(
        name=NAME,
        entries=entries,
        citation=CITATION,
        licence=seed.LICENCE,
        options={"montage": montage_option(montage)},
    )
