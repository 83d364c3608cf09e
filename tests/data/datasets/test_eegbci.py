"""EEGMMIDB: layouts, checksums, rates, labels, padding, download failures."""

import numpy as np
import pytest

from eegsr_jax.data.datasets import eegbci, load
from eegsr_jax.errors import DatasetError
from eegsr_jax.geometry import montage

LAYOUTS = ("", "S001", "files/eegmmidb/1.0.0/S001", "MNE-eegbci-data/files/eegmmidb/1.0.0/S001")


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"not an edf")


def write_edf(path, sfreq, seconds=2, zeros=0):
    """A minimal EDF file of eight 10-10 channels in microvolts, spelt as the data set does."""
    names = ["Fc5.", "Fcz.", "C3..", "Cz..", "C4..", "Fp1.", "Oz..", "Iz.."]
    samples = int(sfreq * seconds)
    data = np.random.default_rng(0).integers(-60, 60, (len(names), samples)).astype("<i2")
    if zeros:
        data[:, -zeros:] = 0
    fields = [("0", 8), ("X", 80), ("X", 80), ("12.08.09", 8), ("16.15.00", 8)]
    fields += [(str(256 * (len(names) + 1)), 8), ("", 44), (str(seconds), 8), ("1", 8)]
    fields += [(str(len(names)), 4)]
    per_signal = [
        names,
        ["BCI2000"] * 8,
        ["uV"] * 8,
        ["-32768"] * 8,
        ["32767"] * 8,
        ["-32768"] * 8,
        ["32767"] * 8,
        [""] * 8,
        [str(int(sfreq))] * 8,
        [""] * 8,
    ]
    widths = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
    header = "".join(text.ljust(width) for text, width in fields)
    for values, width in zip(per_signal, widths, strict=True):
        header += "".join(value.ljust(width) for value in values)
    records = data.reshape(len(names), seconds, int(sfreq)).transpose(1, 0, 2)
    path.write_bytes(header.encode("ascii") + records.tobytes())
    return data


def test_six_tasks_in_the_published_order():
    runs = ([1], [2], [3, 7, 11], [5, 9, 13], [4, 8, 12], [6, 10, 14])
    assert sorted(eegbci.RUN_TASKS) == list(eegbci.RUNS)
    for label, members in enumerate(runs):
        assert {eegbci.TASKS.index(eegbci.RUN_TASKS[run]) for run in members} == {label}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found_in_order(layout, tmp_path):
    touch(tmp_path / layout, "S001R10.edf", "S001R03.edf", "S001R03.edf.event", "notes.txt")
    entries = load("eegbci", tmp_path).entries
    assert [e.key for e in entries] == ["sub-1_ses-1_run-3", "sub-1_ses-1_run-10"]
    assert [e.label for e in entries] == ["real_left_right_fist", "imagined_fists_feet"]


def test_selection_and_what_exists(tmp_path):
    touch(tmp_path, "S001R04.edf", "S001R08.edf", "S012R04.edf")
    assert [e.key for e in load("eegbci", tmp_path, subjects="S012").entries] == [
        "sub-12_ses-1_run-4"
    ]
    with pytest.raises(DatasetError, match="eegbci: subject '3' does not exist; present: 1, 12"):
        load("eegbci", tmp_path, subjects=3)
    with pytest.raises(DatasetError, match="eegbci: run '8' does not exist; present: 4"):
        load("eegbci", tmp_path, subjects=12, runs=8)


def test_a_file_that_differs_is_named(tmp_path):
    touch(tmp_path, "S001R04.edf")
    (entry,) = load("eegbci", tmp_path).entries
    with pytest.raises(DatasetError, match="S001R04.edf: SHA-256 differs.*damaged.*verify=False"):
        entry.read()


def test_a_file_outside_the_list_is_named(tmp_path):
    touch(tmp_path, "S110R01.edf")
    (entry,) = load("eegbci", tmp_path).entries
    with pytest.raises(DatasetError, match="S110R01.edf: not in the data set's SHA-256 list"):
        entry.read()


def test_a_slow_subject_keeps_its_rate_and_says_so(tmp_path):
    data = write_edf(tmp_path / "S088R01.edf", 128)
    (entry,) = load("eegbci", tmp_path, verify=False).entries
    recording = entry.read()
    assert recording.sfreq == 128 and int(entry.subject) in eegbci.SUBJECTS_AT_128_HZ
    assert "recorded at 128 Hz; the data set's rate is 160 Hz" in recording.notes
    np.testing.assert_allclose(recording.data, data * 1e-6, atol=1e-9)


def test_names_positions_and_padding(tmp_path):
    data = write_edf(tmp_path / "S001R01.edf", 160, zeros=40)
    recording = load("eegbci", tmp_path, verify=False).entries[0].read()
    assert recording.names == ("FC5", "FCz", "C3", "Cz", "C4", "Fp1", "Oz", "Iz")
    table = montage("standard_1005")
    np.testing.assert_allclose(recording.positions, [table[n] for n in recording.names], atol=1e-6)
    assert recording.data.shape == (8, 280) and recording.usable.shape == (280,)
    assert any(note.startswith("cut 40 samples at the end") for note in recording.notes)
    np.testing.assert_allclose(recording.data, data[:, :280] * 1e-6, atol=1e-9)


def test_boundaries_in_the_padding_go_with_it(tmp_path):
    import mne

    data = np.random.default_rng(0).standard_normal((6, 480)) * 1e-5
    data[:, 330:] = 0.0
    info = mne.create_info(["Fp1", "Fp2", "Cz", "Oz", "C3", "C4"], 160.0, "eeg")
    raw = mne.io.RawArray(data, info, verbose="error")
    raw.set_annotations(mne.Annotations([1.0, 2.5], [0.0, 0.0], "boundary"))
    mne.export.export_raw(
        tmp_path / "S001R01.edf", raw, physical_range=(-100.0, 100.0), verbose="error"
    )
    recording = load("eegbci", tmp_path, verify=False).entries[0].read()
    assert recording.stretches == ((0, 160), (160, 330))


def test_without_a_root_mne_s_own_folder_is_taken(tmp_path, monkeypatch):
    touch(tmp_path / "MNE-eegbci-data" / "files" / "eegmmidb" / "1.0.0" / "S005", "S005R02.edf")
    monkeypatch.setenv("MNE_DATASETS_EEGBCI_PATH", str(tmp_path))
    assert [e.key for e in load("eegbci").entries] == ["sub-5_ses-1_run-2"]


def test_failed_download_is_one_line(tmp_path, monkeypatch):
    import mne

    def refuse(*args, **kwargs):
        raise ConnectionError("Name or service not known\nmore")

    monkeypatch.setattr(mne.datasets.eegbci, "load_data", refuse)
    touch(tmp_path, "S001R03.edf")
    with pytest.raises(DatasetError, match="download of S001R04.edf to .*Name or service") as e:
        load("eegbci", tmp_path, subjects=1, runs=[3, 4], download=True)
    assert "\n" not in str(e.value) and "files S001R01.edf" in str(e.value)


def test_nothing_is_downloaded_when_all_is_there(tmp_path, monkeypatch):
    import mne

    monkeypatch.setattr(mne.datasets.eegbci, "load_data", None)  # calling it would fail
    touch(tmp_path, "S001R03.edf")
    entries = load("eegbci", tmp_path, subjects=1, runs=3, download=True).entries
    assert len(entries) == 1


def test_unknown_subject_is_refused_before_any_download(tmp_path):
    with pytest.raises(DatasetError, match="subject '110' does not exist"):
        load("eegbci", tmp_path, subjects=110, download=True)


@pytest.mark.network
def test_real_download(tmp_path):
    import os

    if not os.environ.get("EEGSR_TEST_NETWORK"):
        pytest.skip("EEGSR_TEST_NETWORK is not set")
    (entry,) = load("eegbci", tmp_path, subjects=1, runs=1, download=True).entries
    assert entry.read().data.shape == (64, 9632)


def test_real_files_equal_mne(real_eeg):
    import mne

    dataset = load("eegbci", real_eeg / "eegmmidb", subjects=1, runs=[4])
    recording = dataset.entries[0].read()
    raw = mne.io.read_raw_edf(dataset.entries[0].path, preload=True, verbose="error")
    mne.datasets.eegbci.standardize(raw)
    assert list(recording.names) == raw.ch_names and recording.sfreq == 160
    assert recording.data.shape == (64, 20000 - 80)
    np.testing.assert_allclose(recording.data, raw.get_data()[:, :-80], atol=1e-10)
    assert not raw.get_data()[:, -80:].any()


def test_real_cues_equal_mne_s_annotations(real_eeg):
    import mne

    meant = {"4": {"T0": "rest", "T1": "left_fist", "T2": "right_fist"},
             "6": {"T0": "rest", "T1": "both_fists", "T2": "both_feet"}}  # fmt: skip
    entries = load("eegbci", real_eeg / "eegmmidb", subjects=1, runs=[1, 4, 6]).entries
    assert entries[0].read().events == ()
    for entry in entries[1:]:
        raw = mne.io.read_raw_edf(entry.path, verbose="error")
        samples, numbers = mne.events_from_annotations(raw, verbose="error")
        names = {number: meant[entry.run][name] for name, number in numbers.items()}
        recording = entry.read()
        assert [(e.start, e.label) for e in recording.events] == [
            (start, names[number]) for start, _, number in samples.tolist()
        ]
        lengths = [e.stop - e.start for e in recording.events]
        np.testing.assert_allclose(lengths[:-1], np.diff(samples[:, 0]), atol=16)
        assert recording.events[-1].stop <= recording.data.shape[1]


def test_real_folder_holds_fifty_files_of_thirteen_subjects(real_eeg):
    entries = load("eegbci", real_eeg / "eegmmidb").entries
    assert len(entries) == 50
    assert [e.run for e in entries if e.subject == "1"] == [str(i) for i in range(1, 15)]
    assert len({e.subject for e in entries}) == 13


def test_git_line_ends_are_recognised(real_eeg, tmp_path):
    content = (real_eeg / "eegmmidb" / "S001R01.edf").read_bytes()
    assert b"\n" in content and b"\r\n" not in content
    (tmp_path / "S001R01.edf").write_bytes(content.replace(b"\n", b"\r\n"))
    with pytest.raises(DatasetError, match="S001R01.edf.*line ends were changed to CRLF"):
        load("eegbci", tmp_path).entries[0].read()
