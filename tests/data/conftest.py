"""Recordings, data sets and stores made from arrays; values say where they stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from eegsr_jax.data.datasets.base import Dataset, Entry
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.recording import Recording
from eegsr_jax.data.store import Store, prepare


def make_recording(
    samples: int = 1000,
    *,
    names: Sequence[str] = ("Fz", "Cz", "Pz", "Oz"),
    sfreq: float = 100.0,
    unusable: Sequence[tuple[int, int]] = (),
    **fields,
) -> Recording:
    """Channel `c` at sample `t` holds `1000 * t + c`, exact in float32 up to 16,000 samples."""
    usable = np.ones(samples, bool)
    for start, stop in unusable:
        usable[start:stop] = False
    data = 1000.0 * np.arange(samples)[None] + np.arange(len(names))[:, None]
    return Recording(
        data=data.astype(np.float32),
        sfreq=sfreq,
        names=tuple(names),
        positions=np.eye(len(names), 3) * 0.09,
        usable=usable,
        **fields,
    )


def make_dataset(recordings: Sequence[Recording], paths: Sequence[str | None] = ()) -> Dataset:
    paths = paths or [None] * len(recordings)
    entries = tuple(
        Entry(subject=r.subject, session=r.session, run=r.run, path=path, read=lambda r=r: r)
        for r, path in zip(recordings, paths, strict=True)
    )
    return Dataset(name="made", entries=entries, citation="Nobody (2026)", licence="CC0-1.0")


@pytest.fixture(name="make_recording")
def _make_recording() -> Callable[..., Recording]:
    return make_recording


@pytest.fixture(name="make_dataset")
def _make_dataset() -> Callable[..., Dataset]:
    return make_dataset


@pytest.fixture
def make_store(tmp_path_factory) -> Callable[[Sequence[Recording]], Store]:
    """Stores recordings as they are, each call in a folder of its own."""

    def make(recordings: Sequence[Recording]) -> Store:
        out: Path = tmp_path_factory.mktemp("store") / "store"
        return prepare(make_dataset(recordings), out, PREPROCESSING["none"], progress=False)

    return make
