"""Recordings of a few seconds, good and bad, as a user would have them on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import mne
import numpy as np
import pytest

from eegsr_jax import geometry as geo
from eegsr_jax.commands.main import main

NAMES = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()
OBSERVED = "Fp1 F7 Fz F8 T7 Cz T8 P7 Pz P8 O1 O2".split()


@pytest.fixture(scope="session")
def save_raw() -> Callable[..., Path]:
    """`save_raw(path, names, sfreq, seconds, change)` writes a FIF file of smooth random fields."""
    template = geo.montage("standard_1005")

    def save(path, names=NAMES, sfreq=100.0, seconds=20.0, change=None) -> Path:
        rng = np.random.default_rng(2)
        samples = round(sfreq * seconds)
        place = np.stack([template[n] for n in names])
        waves = rng.standard_normal((8, samples + 40))
        waves = np.stack([np.convolve(w, np.hanning(8), mode="valid")[:samples] for w in waves])
        centres = 0.09 * rng.standard_normal((8, 3))
        data = 1e-5 * np.exp(-((place[:, None] - centres) ** 2).sum(-1) / 0.01) @ waves
        data += 5e-7 * rng.standard_normal(data.shape)
        if change:
            change(data)
        raw = mne.io.RawArray(data, mne.create_info(list(names), sfreq, "eeg"), verbose="error")
        dig = mne.channels.make_dig_montage({n: template[n] for n in names}, coord_frame="head")
        raw.set_montage(dig).save(path, fmt="double", verbose="error")
        return Path(path)

    return save


@pytest.fixture(scope="session")
def good(tmp_path_factory, save_raw) -> Path:
    """20 s of 20 channels at 100 Hz."""
    return save_raw(tmp_path_factory.mktemp("good") / "good_raw.fif")


@pytest.fixture(scope="session")
def run(tmp_path_factory, good) -> Path:
    """A run directory made by `eegsr train`: 12 of the 20 channels in, 100 Hz."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    settings = [
        f"root={good}",
        "dataset=files",
        f"layout={','.join(OBSERVED)}",
        "method=lagged_ridge(lags=2)",
        "preprocessing.l_freq=none",
        "preprocessing.h_freq=none",
    ]
    with jax.numpy_dtype_promotion("strict"):
        words = [w for s in settings for w in ("--set", s)]
        assert main(["train", f"--workdir={folder}", *words]) == 0
    return folder
