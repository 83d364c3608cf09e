"""What can be read: files, BIDS, MNE objects; which of their samples are usable."""

import sys

import mne
import numpy as np
import pytest

from eegsr_jax.data.recording import read
from eegsr_jax.errors import RecordingError
from eegsr_jax.geometry import montage

NAMES = ("Fp1", "Fp2", "F3", "F4", "C3", "Cz", "C4", "P3", "P4", "O1", "O2")
HZ = 100.0


def raw_of(rng, samples=400, first_samp=0, date=None):
    info = mne.create_info(list(NAMES), HZ, "eeg")
    data = 1e-5 * rng.standard_normal((len(NAMES), samples))
    raw = mne.io.RawArray(data, info, first_samp=first_samp, verbose="ERROR")
    raw.set_meas_date(date)
    return raw


def epochs_of(rng, count=5, samples=50, tmin=-0.1):
    info = mne.create_info(list(NAMES), HZ, "eeg")
    data = 1e-5 * rng.standard_normal((count, len(NAMES), samples))
    events = np.c_[np.arange(count) * samples, np.zeros(count, int), np.ones(count, int)]
    return mne.EpochsArray(data, info, events, tmin=tmin, verbose="ERROR")


def runs_of(usable):
    """First and last+1 sample of every unusable stretch."""
    edges = np.flatnonzero(np.diff(np.r_[True, usable, True].astype(int)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


# ----------------------------------------------------------------------------------- annotations


@pytest.mark.parametrize("first_samp", [0, 37])
@pytest.mark.parametrize("date", [None, 1_000_000_000])
def test_bad_annotations_as_mne_rejects_them(rng, first_samp, date):
    raw = raw_of(rng, first_samp=first_samp, date=date)
    onset, duration = [0.0, 0.503, 1.0, 3.9], [0.1, 0.204, 0.5, 5.0]
    words = ["bad start", "BAD_blink", "left hand", "Bad end"]
    raw.set_annotations(mne.Annotations(onset, duration, words), verbose="ERROR")
    expected = np.isnan(raw.get_data(reject_by_annotation="NaN", verbose="ERROR")[0])
    assert 0 < expected.sum() < 60
    np.testing.assert_array_equal(~read(raw).usable, expected)


def test_annotation_of_one_channel_counts_for_all(rng):
    raw = raw_of(rng)
    mark = mne.Annotations([1.0], [0.2], ["BAD_pop"], ch_names=[["Cz"]])
    raw.set_annotations(mark, verbose="ERROR")
    assert runs_of(read(raw).usable) == [(100, 120)]


@pytest.mark.parametrize("first_samp", [0, 37])
def test_concatenated_recordings_break_where_they_join_and_lose_nothing(rng, first_samp):
    parts = [raw_of(rng, 150, first_samp), raw_of(rng, 250), raw_of(rng, 3)]
    recording = read(mne.concatenate_raws(parts, verbose="ERROR"))
    assert recording.breaks == (150, 400) and recording.usable.all()
    assert recording.stretches == ((0, 150), (150, 400), (400, 403))
    assert any(note.startswith("3 continuous stretches") for note in recording.notes)


def test_a_bad_mark_without_length_is_one_sample_and_a_boundary_none(rng):
    raw = raw_of(rng)
    words = ["New Segment/", "BAD", "boundary", "Comment/New Segment/", "edge boundary"]
    onset, duration = [0.0, 1.0, 2.0, 3.0, 3.99], [0.0, 0.0, 0.5, 0.0, 0.0]
    raw.set_annotations(mne.Annotations(onset, duration, words), verbose="ERROR")
    recording = read(raw)
    assert runs_of(recording.usable) == [(100, 101)]
    assert recording.breaks == (200, 300, 399)  # none before the first sample


def test_eeglab_marks_boundaries_between_two_samples(rng, tmp_path):
    pytest.importorskip("eeglabio")
    raw = raw_of(rng)
    marks = mne.Annotations([0.995, 2.005, 3.0], [0.0] * 3, ["boundary"] * 3)
    mne.export.export_raw(tmp_path / "e.set", raw.set_annotations(marks), verbose="ERROR")
    recording = read(tmp_path / "e.set")
    assert recording.breaks == (100, 201, 300) and recording.usable.all()


def test_evoked_and_plain_recordings_are_one_stretch(rng):
    assert read(raw_of(rng)).stretches == ((0, 400),)
    assert read(epochs_of(rng).average()).stretches == ((0, 50),)


def test_nothing_usable_is_an_error(rng):
    raw = raw_of(rng)
    raw.set_annotations(mne.Annotations([0.0], [4.0], ["BAD_all"]), verbose="ERROR")
    with pytest.raises(RecordingError, match="RawArray object: no usable sample"):
        read(raw)


# ---------------------------------------------------------------------------------- MNE's objects


def test_epochs_follow_one_another_with_breaks_between(rng):
    epochs = epochs_of(rng)
    recording = read(epochs)
    expected = np.concatenate(list(epochs.get_data()), axis=1).astype(np.float32)
    np.testing.assert_array_equal(recording.data, expected)
    assert recording.breaks == (50, 100, 150, 200) and recording.usable.all()
    assert any("5 epochs of 50 samples" in note for note in recording.notes)
    assert not any("overlap" in note for note in recording.notes)


def test_overlapping_epochs_are_told(rng):
    raw = raw_of(rng)
    epochs = mne.make_fixed_length_epochs(raw, 1.0, overlap=0.5, preload=True, verbose="ERROR")
    assert any("epochs overlap in time" in note for note in read(epochs).notes)


def test_bad_annotations_inside_epochs(rng):
    raw = raw_of(rng)
    marks = mne.Annotations([1.2, 1.5], [0.1, 9.0], ["BAD_jump", "boundary"])
    raw.set_annotations(marks, verbose="ERROR")
    epochs = mne.make_fixed_length_epochs(
        raw, 1.0, reject_by_annotation=False, preload=True, verbose="ERROR"
    )
    recording = read(epochs)
    assert runs_of(recording.usable) == [(120, 130)]
    assert recording.breaks == (100, 150, 200, 300)


def test_objects_are_not_changed(rng):
    raw = raw_of(rng)
    raw.info["bads"] = ["O2"]
    before, info = raw.get_data().copy(), raw.info.copy()
    read(raw, reference="average", montage="standard_1005", bads=["Cz"])
    np.testing.assert_array_equal(raw.get_data(), before)
    assert mne.utils.object_diff(raw.info, info) == ""
    epochs = mne.make_fixed_length_epochs(raw, 1.0, verbose="ERROR")
    assert not epochs.preload
    assert read(epochs).data.shape == (11, 400)
    assert not epochs.preload


def test_evoked(rng):
    evoked = epochs_of(rng).average()
    recording = read(evoked)
    np.testing.assert_array_equal(recording.data, evoked.data.astype(np.float32))
    assert recording.usable.all()


def test_projector_that_is_not_applied_is_told(rng):
    raw = raw_of(rng).set_eeg_reference("average", projection=True, verbose="ERROR")
    recording = read(raw)
    np.testing.assert_array_equal(recording.data, raw.get_data().astype(np.float32))
    assert any("projector" in note for note in recording.notes)


# ------------------------------------------------------------------------------------------ files


def test_epochs_from_fif(rng, tmp_path):
    epochs = epochs_of(rng)
    epochs.save(tmp_path / "sub-07_ses-b_run-2-epo.fif", fmt="double", verbose="ERROR")
    recording = read(tmp_path / "sub-07_ses-b_run-2-epo.fif")
    np.testing.assert_array_equal(recording.data, read(epochs).data)
    assert (recording.subject, recording.session) == ("07", "b")
    assert read(tmp_path / "sub-07_ses-b_run-2-epo.fif", subject="x").subject == "x"


def test_epochs_from_eeglab(rng, tmp_path):
    pytest.importorskip("eeglabio")
    epochs = epochs_of(rng, tmin=0.0)
    mne.export.export_epochs(tmp_path / "e.set", epochs, verbose="ERROR")
    recording = read(str(tmp_path / "e.set"))
    np.testing.assert_allclose(recording.data, read(epochs).data, rtol=1e-5, atol=1e-12)
    assert recording.breaks == (50, 100, 150, 200)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.edf", b"", "the file is empty"),
        ("cut.edf", b"0       X X X X", "cannot be read"),
        ("notes.txt", b"hello", "cannot be read: damaged, or not of the format of its name"),
        ("text.set", b"hello", "cannot be read"),
        ("empty_raw.fif", b"", "the file is empty"),
        ("bad.vhdr", b"hello", "cannot be read"),
    ],
)
def test_files_that_cannot_be_read_name_themselves(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordingError, match=message) as error:
        read(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(RecordingError, match=r"nothing_raw\.fif: no such file"):
        read(tmp_path / "nothing_raw.fif")


def test_file_cut_off_in_the_data(real_eeg, tmp_path):
    whole = (real_eeg / "mne_sample" / "sample_audvis_24s_eeg_raw.fif").read_bytes()
    (tmp_path / "cut_raw.fif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match="cut_raw.fif: cannot be read"):
        read(tmp_path / "cut_raw.fif")


# ------------------------------------------------------------------------------------------- BIDS


@pytest.fixture
def bids(rng, tmp_path):
    mne_bids = pytest.importorskip("mne_bids")
    raw = raw_of(rng, date=1_000_000_000)
    raw.info["line_freq"] = 50
    raw.set_channel_types({"O2": "eog"}, verbose="ERROR")
    place = {n: xyz for n, xyz in montage("standard_1005").items() if n in NAMES}
    dig = mne.channels.make_dig_montage(
        place, nasion=[0, 0.1, 0], lpa=[-0.08, 0, 0], rpa=[0.08, 0, 0], coord_frame="head"
    )
    raw.set_montage(dig, on_missing="ignore", verbose="ERROR")
    raw.info["bads"] = ["P4"]
    path = mne_bids.BIDSPath(
        root=tmp_path / "set", subject="01", session="a", task="rest", run="02", datatype="eeg"
    )
    mne_bids.write_raw_bids(
        raw, path, format="BrainVision", allow_preload=True, overwrite=True, verbose="ERROR"
    )
    return path.copy().update(suffix="eeg", extension=".vhdr"), raw


@pytest.mark.parametrize("kind", ["BIDSPath", "file"])
def test_bids_brings_types_bads_positions_and_entities(bids, kind):
    path, raw = bids
    recording = read(path if kind == "BIDSPath" else path.fpath)
    assert recording.names == NAMES[:-1] and recording.bads == ("P4",)
    assert (recording.subject, recording.session, recording.run) == ("01", "a", "02")
    np.testing.assert_allclose(recording.data, raw.get_data()[:-1], rtol=1e-5, atol=1e-12)
    place = [montage("standard_1005")[n] for n in recording.names]
    np.testing.assert_allclose(recording.positions, place, atol=1e-6)
    assert recording.source == str(path.fpath)


def test_bids_without_mne_bids_names_the_extra(bids, monkeypatch):
    path, _ = bids
    monkeypatch.setitem(sys.modules, "mne_bids", None)
    with pytest.raises(RecordingError, match=r"needs mne-bids: pip install 'eegsr_jax\[bids\]'"):
        read(path.fpath)


def test_unreadable_bids(bids):
    path, _ = bids
    with pytest.raises(RecordingError, match="sub-99.*cannot be read"):
        read(path.copy().update(subject="99"))
