"""The embedded sample: 24 s of real 60-channel EEG with digitised positions, no download.

From MNE-Python's "sample" recording (audio-visual stimulation, one subject, Elekta Neuromag with a
60-channel cap), 150 Hz, otherwise raw. `make_sample.py` beside this file made it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import io
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np

from eegsr_jax.data import recording
from eegsr_jax.data.datasets.base import Dataset, Entry
from eegsr_jax.data.datasets.selection import Selection, refuse_root, select

NAME = "sample"
FILE = "mne_sample_eeg.npz"


def open_dataset(
    root: str | Path | None = None,
    *,
    subjects: Selection = None,
    sessions: Selection = None,
    runs: Selection = None,
) -> Dataset:
    """The one recording that comes with the package.

    Args:
      root: None; the recording is inside the package.
      subjects: there is one, "sample".
      sessions: there is one, "1".
      runs: there is one, "1".

    Raises:
      DatasetError: a root, or an unknown subject, session or run.
    """
    refuse_root(root, NAME)
    entry = Entry(subject="sample", path=str(_file()), read=_read)
    return Dataset(
        name=NAME,
        entries=select([entry], NAME, subjects=subjects, sessions=sessions, runs=runs),
        citation=(
            "Gramfort A et al. (2013) MEG and EEG data analysis with MNE-Python. Frontiers in "
            "Neuroscience 7:267."
        ),
        licence="BSD-3-Clause",
    )


def _read() -> recording.Recording:
    stored = _stored()
    found = recording.from_array(
        stored["data"] * stored["step"][:, None] + stored["offset"][:, None],
        float(stored["sfreq"]),
        tuple(str(name) for name in stored["names"]),
        stored["positions"],
        bads=[str(name) for name in stored["bads"]],
        subject="sample",
        source=FILE,
    )
    return dataclasses.replace(found, notes=(*found.notes, str(stored["note"])))


@functools.cache
def _stored() -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(_file().read_bytes()), allow_pickle=False) as archive:
        return dict(archive)


def _file() -> Traversable:
    return importlib.resources.files(__name__) / FILE
