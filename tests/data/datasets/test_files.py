"""Any folder or list of recordings: what is found, how it is named, what is refused."""

import numpy as np
import pytest

from eegsr_jax.data.datasets import load
from eegsr_jax.errors import DatasetError


def write_raw(path, seconds=1.0):
    import mne

    names = ["Fp1", "Fp2", "Cz", "Oz", "T7", "T8"]
    data = np.random.default_rng(0).standard_normal((6, int(100 * seconds))) * 1e-5
    info = mne.create_info(names, 100.0, "eeg")
    path.parent.mkdir(parents=True, exist_ok=True)
    mne.io.RawArray(data, info, verbose="error").save(path, verbose="error")
    return data


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def keys(root, **options):
    return [entry.key for entry in load("files", root, **options).entries]


def test_a_recording_is_read_with_its_names(tmp_path):
    data = write_raw(
        tmp_path / "sub-07" / "ses-b" / "eeg" / "sub-07_ses-b_task-rest_run-02_eeg.fif"
    )
    (entry,) = load("files", tmp_path).entries
    recording = entry.read()
    np.testing.assert_allclose(recording.data, data, rtol=1e-6)
    assert (recording.subject, recording.session, recording.run) == ("07", "b", "02")
    assert entry.key == "sub-07_ses-b_run-02"


def test_one_file_and_lists_of_files(tmp_path):
    write_raw(tmp_path / "anna_raw.fif")
    write_raw(tmp_path / "sub-2_raw.fif")
    assert keys(tmp_path / "anna_raw.fif") == ["sub-anna_ses-1_run-1"]
    files = [tmp_path / "sub-2_raw.fif", str(tmp_path / "anna_raw.fif")]
    assert keys(files) == ["sub-2_ses-1_run-1", "sub-anna_ses-1_run-1"]
    assert load("files", files).entries[0].read().subject == "2"


def test_entities_of_folders_count_and_the_file_wins(tmp_path):
    touch(tmp_path, "sub-1/ses-2/run-3.edf", "sub-9/sub-4_run-5.edf")
    assert keys(tmp_path) == ["sub-1_ses-2_run-3", "sub-4_ses-1_run-5"]


def test_tasks_are_told_apart_only_where_there_are_several(tmp_path):
    touch(tmp_path, "sub-1_task-rest_run-2_eeg.vhdr", "sub-2_task-rest_eeg.vhdr")
    assert keys(tmp_path) == ["sub-1_ses-1_run-2", "sub-2_ses-1_run-1"]
    touch(tmp_path, "sub-2_task-odd_eeg.vhdr")
    assert keys(tmp_path) == [
        "sub-1_ses-1_run-rest-2",
        "sub-2_ses-1_run-odd-1",
        "sub-2_ses-1_run-rest-1",
    ]


def test_only_recordings_are_taken_from_a_folder(tmp_path):
    touch(tmp_path, "a.set", "a.fdt", "b.vhdr", "b.eeg", "b.vmrk", "c-cov.fif", "c_raw.fif")
    touch(tmp_path, "c_raw-1.fif", "c-trans.fif", "readme.txt", "d-epo.fif", "d-ave.fif", "e.BDF")
    touch(tmp_path, "sub-5_split-01_eeg.fif", "sub-5_split-02_eeg.fif", "g_eeg.fif.gz")
    touch(tmp_path, "derivatives/x.edf", ".git/y.edf", "sourcedata/z.edf")
    touch(tmp_path, "net.mff/signal1.bin", "net.mff/info.edf")
    found = [entry.path.removeprefix(f"{tmp_path}/") for entry in load("files", tmp_path).entries]
    assert found == [
        "a.set",
        "b.vhdr",
        "c_raw.fif",
        "d-epo.fif",
        "e.BDF",
        "g_eeg.fif.gz",
        "net.mff",
        "sub-5_split-01_eeg.fif",
    ]
    assert keys(tmp_path, subjects=5) == ["sub-5_ses-1_run-1"]


def test_a_pattern_names_them(tmp_path):
    touch(tmp_path, "P01/day2/oddball 3.edf", "P02/day1/oddball 1.edf")
    pattern = r"(?P<subject>P\d+)/day(?P<session>\d)/(?P<run>\w+ \d)\.edf"
    assert keys(tmp_path, pattern=pattern) == [
        "sub-P01_ses-2_run-oddball-3",
        "sub-P02_ses-1_run-oddball-1",
    ]
    assert keys(tmp_path, pattern=r"(?P<subject>P\d+)", subjects="P02") == ["sub-P02_ses-1_run-1"]


@pytest.mark.parametrize(
    "pattern, message",
    [
        (r"(?P<subject>Q\d+)", "does not fit P01/a.edf"),
        (r"P(\d+)", r"has the groups \[\]; expected \(\?P<subject>"),
        (r"(?P<subject>P)(?P<day>\d)", r"\['day', 'subject'\]"),
        (r"(?P<subject>P", r"missing \)"),
    ],
)
def test_patterns_that_cannot_work(pattern, message, tmp_path):
    touch(tmp_path, "P01/a.edf")
    with pytest.raises(DatasetError, match=message):
        load("files", tmp_path, pattern=pattern)


def test_two_recordings_of_one_name_are_refused(tmp_path):
    touch(tmp_path, "x/sub-1_eeg.edf", "y/sub-1_eeg.edf")
    with pytest.raises(
        DatasetError, match=r"x/sub-1_eeg.edf and .*y/sub-1_eeg.edf are both sub-1_"
    ):
        load("files", tmp_path)


def test_absent_things_are_named(tmp_path):
    with pytest.raises(DatasetError, match="files: nothing is given"):
        load("files")
    with pytest.raises(DatasetError, match="files: the list is empty"):
        load("files", [])
    touch(tmp_path, "a.edf")
    with pytest.raises(DatasetError, match=r"b\.edf does not exist"):
        load("files", [tmp_path / "a.edf", tmp_path / "b.edf"])
    with pytest.raises(DatasetError, match="subject '3' does not exist; present: a"):
        load("files", tmp_path, subjects=3)


def test_montage_reaches_the_reader(tmp_path):
    write_raw(tmp_path / "a_raw.fif")
    spots = {n: [0.01 * i, 0.05, 0.08 - 0.01 * i] for i, n in enumerate(["Fp1", "Fp2", "Cz", "Oz"])}
    spots |= {"T7": [-0.08, 0, 0.01], "T8": [0.08, 0, 0.01]}
    recording = load("files", tmp_path, montage=spots).entries[0].read()
    np.testing.assert_allclose(recording.positions, list(spots.values()), atol=1e-7)


def test_real_folders(real_eeg):
    assert keys(real_eeg / "eeglab") == ["sub-eeglab-data_ses-1_run-1"]
    recording = load("files", real_eeg / "eeglab").entries[0].read()
    assert recording.sfreq == 128 and len(recording.names) == 30
    assert keys(real_eeg / "face13") == ["sub-s01_ses-1_run-1"]
    assert keys(real_eeg / "mne_sample") == ["sub-sample-audvis-24s-eeg_ses-1_run-1"]


@pytest.mark.parametrize("bads", ["Oz", ("Oz",), ["oz"]])
def test_channels_that_are_bad_in_all_files(tmp_path, bads):
    write_raw(tmp_path / "a_raw.fif")
    dataset = load("files", tmp_path, bads=bads, montage="standard_1020")
    assert dataset.entries[0].read().bads == ("Oz",)
    assert dataset.options == {"montage": "standard_1020", "bads": list(np.atleast_1d(bads))}
