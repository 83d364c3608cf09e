"""A small simulated store, and stores of ramps whose values say where they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from eegsr_jax.data import datasets
from eegsr_jax.data.datasets.base import Dataset, Entry
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.recording import Recording
from eegsr_jax.data.store import Store, prepare

TARGETS = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()
POSITIONS = 0.09 * np.array(
    [[0, 0, 1], [0, 1, 0], [0, -0.7, 0.7], [-1, 0, 0], [1, 0, 0], [0, -1, 0]]
)
RUN_STEP = 4000  # samples between the ramps of two recordings; none is longer


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Store:
    """4 subjects, 2 runs of 24 s each, 20 channels, 80 Hz: volts, correlated in space and time."""
    dataset = datasets.load(
        "simulated",
        montage=TARGETS,
        num_subjects=4,
        num_runs=2,
        seconds=24.0,
        sfreq=80.0,
        num_sources=60,
    )
    out = tmp_path_factory.mktemp("simulated") / "store"
    return prepare(dataset, out, PREPROCESSING["none"], progress=False)


@pytest.fixture
def ramps(tmp_path: Path) -> Callable[..., Store]:
    """`ramps([(subject, session, run, samples), …], sfreq)`.

    Channel 0 of recording `r` holds `r * RUN_STEP + t` at sample `t`, exact in float32.
    """

    def make(material: Iterable[tuple[str, str, str, int]], sfreq: float = 10.0) -> Store:
        entries = []
        for number, (subject, session, run, samples) in enumerate(material):
            time = np.arange(samples, dtype=np.float32) + number * RUN_STEP
            rng = np.random.default_rng(number)
            noise = rng.standard_normal((5, samples), dtype=np.float32)
            recording = Recording(
                data=np.concatenate([time[None], noise]),
                sfreq=sfreq,
                names=("Cz", "Fz", "Pz", "C3", "C4", "Oz"),
                positions=POSITIONS,
                usable=np.ones(samples, bool),
                subject=subject,
                session=session,
                run=run,
            )
            entries.append(
                Entry(subject=subject, session=session, run=run, read=lambda r=recording: r)
            )
        dataset = Dataset(name="made", entries=tuple(entries), citation="Nobody", licence="CC0-1.0")
        out = tmp_path / f"store{len(list(tmp_path.iterdir()))}"
        return prepare(dataset, out, PREPROCESSING["none"], progress=False)

    return make
