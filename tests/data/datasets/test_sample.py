"""The embedded sample: what is inside, its terms, and that it is MNE's recording."""

import importlib.resources

import numpy as np
import pytest

from eegsr_jax.data.datasets import load
from eegsr_jax.data.datasets.sample.make_sample import quantise
from eegsr_jax.errors import DatasetError
from eegsr_jax.geometry import fit_sphere

FOLDER = "eegsr_jax.data.datasets.sample"


@pytest.fixture(scope="module")
def recording():
    (entry,) = load("sample").entries
    return entry.read()


def test_shape_rate_and_names(recording):
    assert recording.data.shape == (60, 3600) and recording.data.dtype == np.float32
    assert recording.sfreq == pytest.approx(600.614990234375 / 4)
    assert recording.names == tuple(f"EEG {i:03d}" for i in range(1, 61))
    assert recording.bads == ("EEG 053",)
    assert recording.subject == "sample" and recording.reference == "native"
    assert any("resampled from 600.6" in note for note in recording.notes)


def test_it_looks_like_eeg_in_volts(recording):
    spread = recording.data.std(1)
    assert 3e-6 < spread.min() and spread.max() < 40e-6
    assert np.isfinite(recording.data).all() and recording.usable.all()


def test_positions_lie_on_a_head(recording):
    centre, radius = fit_sphere(recording.positions)
    off = np.abs(np.linalg.norm(recording.positions - centre, axis=1) - radius)
    assert 0.08 < radius < 0.11 and off.max() < 0.015
    # EEG 001 is frontal left, EEG 060 occipital right, in the head frame
    assert recording.positions[0, 1] > 0.05 and recording.positions[59, 1] < -0.05


def test_reading_twice_gives_own_copies(recording):
    (entry,) = load("sample").entries
    again = entry.read()
    np.testing.assert_array_equal(again.data, recording.data)
    again.data[:] = 0
    assert entry.read().data.any()


def test_terms_stand_beside_the_data_and_it_is_small():
    folder = importlib.resources.files(FOLDER)
    assert "Gramfort" in (folder / "CITATION").read_text(encoding="utf-8")
    licence = (folder / "LICENSE").read_text(encoding="utf-8")
    assert "Redistribution and use" in licence and "Jack Zhang" in licence and "MNE" in licence
    assert len((folder / "mne_sample_eeg.npz").read_bytes()) < 1_000_000
    dataset = load("sample")
    assert "Gramfort" in dataset.citation and dataset.licence == "BSD-3-Clause"


def test_unknown_subject_names_the_one_there_is():
    with pytest.raises(DatasetError, match="subject '2' does not exist; present: sample"):
        load("sample", subjects=2)


def test_quantisation_error_is_half_a_step(rng):
    data = rng.standard_normal((3, 5000)) * 20e-6 + 1e-4
    integers, step, offset = quantise(data)
    error = np.abs(integers * step[:, None] + offset[:, None] - data)
    assert integers.dtype == np.int16 and error.max() <= step.max() / 2 * 1.0001
    assert error.max() < 0.05e-6


def test_equals_the_full_recording_resampled(recording, real_eeg):
    import mne

    raw = mne.io.read_raw_fif(
        real_eeg / "mne_sample" / "sample_audvis_24s_eeg_raw.fif", preload=True, verbose="error"
    ).pick("eeg", exclude=[])
    places = np.stack([c["loc"][:3] for c in raw.info["chs"]])
    raw.resample(raw.info["sfreq"] / 4, verbose="error")
    assert np.abs(raw.get_data() - recording.data).max() < 0.05e-6  # volts
    np.testing.assert_allclose(recording.positions, places, atol=1e-6)
