"""Localize-MI on synthetic files of the published shape."""

import numpy as np
import pytest

from eegsr_jax.data.datasets import load
from eegsr_jax.errors import ChannelError, DatasetError

CHANNELS, SAMPLES = 256, 2081


def cap():
    """256 points spread over a sphere above the neck (golden angle), metres."""
    i = np.arange(CHANNELS)
    z = 1 - 1.4 * (i + 0.5) / CHANNELS
    turn = i * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - z**2)
    return np.c_[ring * np.cos(turn), ring * np.sin(turn), z] * 0.09 + [0, -0.01, 0.04]


def write_run(folder, subject="01", run="01", epochs=2, bad=("E5",), **changes):
    eeg = folder / f"sub-{subject}" / "eeg"
    eeg.mkdir(parents=True, exist_ok=True)
    stem = eeg / f"sub-{subject}_task-seegstim"
    names = [f"E{i}" for i in range(1, CHANNELS + 1)]
    rng = np.random.default_rng(int(run))
    data = rng.standard_normal((epochs, CHANNELS, SAMPLES)) * 1e-5
    np.save(f"{stem}_run-{run}_epochs.npy", data)
    rows = ["name\ttype\tunits\tlow_cutoff\thigh_cutoff\tsampling_frequency\tstatus"]
    for name in names:
        status = "bad" if name in bad else "good"
        rate, unit = changes.get("rate", "8000"), changes.get("unit", "V")
        rows.append(f"{name}\tEEG\t{unit}\t0.1\tn/a\t{rate}\t{status}")
    (eeg / f"{stem.name}_run-{run}_channels.tsv").write_text("\n".join(rows) + "\n")
    rows = ["duration\tzero_time\ttrial_type"] + ["0.26\t0.25\tQ16-17 0.3mA"] * epochs
    (eeg / f"{stem.name}_run-{run}_epochs.tsv").write_text("\n".join(rows) + "\n")
    rows = ["name\tx\ty\tz\tmaterial"]
    rows += [
        f"{n}\t{x:.5f}\t{y:.5f}\t{z:.5f}\tHydroCel CleanLeads"
        for n, (x, y, z) in zip(names, cap(), strict=True)
    ]
    (eeg / f"{stem.name}_electrodes.tsv").write_text("\n".join(rows) + "\n")
    return data


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "derivatives" / "epochs"
    folder.mkdir(parents=True)
    return tmp_path, folder


def test_a_run_is_read_as_joined_epochs(root):
    root, folder = root
    data = write_run(folder)
    write_run(folder, run="02", epochs=1)
    write_run(folder, subject="07", epochs=1)
    entries = load("localize_mi", root).entries
    assert [e.key for e in entries] == [
        "sub-01_ses-1_run-01",
        "sub-01_ses-1_run-02",
        "sub-07_ses-1_run-01",
    ]
    assert entries[0].label == "Q16-17 0.3mA"
    recording = entries[0].read()
    assert recording.sfreq == 8000 and recording.data.shape == (CHANNELS, 2 * SAMPLES)
    np.testing.assert_array_equal(recording.data[:, :SAMPLES], data[0].astype(np.float32))
    np.testing.assert_array_equal(recording.data[:, SAMPLES:], data[1].astype(np.float32))
    assert recording.usable.all() and recording.breaks == (SAMPLES,)
    assert "2 epochs of 2081 samples joined end to end" in recording.notes
    assert recording.bads == ("E5",)
    np.testing.assert_allclose(recording.positions, cap(), atol=1e-5)
    assert (recording.subject, recording.run) == ("01", "01")


def test_breaks_are_those_of_mne_epochs(root):
    import mne

    from eegsr_jax.data import recording

    root, folder = root
    data = write_run(folder, epochs=3)
    ours = load("localize_mi", root).entries[0].read()
    info = mne.create_info(list(ours.names), 8000.0, "eeg")
    where = dict(zip(ours.names, ours.positions, strict=True))
    info.set_montage(mne.channels.make_dig_montage(where, coord_frame="head"))
    theirs = recording.read(mne.EpochsArray(data, info, verbose="error"))
    assert ours.breaks == theirs.breaks == (SAMPLES, 2 * SAMPLES)
    np.testing.assert_array_equal(ours.usable, theirs.usable)
    np.testing.assert_allclose(ours.data, theirs.data)


@pytest.mark.parametrize("stride", [None, 1])
def test_a_window_may_be_a_whole_epoch_and_none_straddles_two(root, tmp_path, stride):
    from eegsr_jax.data.pipeline import pipeline, window_index
    from eegsr_jax.data.preprocessing import PREPROCESSING
    from eegsr_jax.data.segments import whole
    from eegsr_jax.data.store import prepare

    root, folder = root
    data = write_run(folder, epochs=3, bad=())
    dataset = load("localize_mi", root)
    store = prepare(dataset, tmp_path / "store", PREPROCESSING["none"], progress=False)
    segments = [whole(store.recordings[0])]
    index = window_index(store, segments, window=SAMPLES, stride=stride)
    assert index.tolist() == [[0, 0], [0, SAMPLES], [0, 2 * SAMPLES]]
    (batch,) = pipeline(store, segments, window=SAMPLES, batch_size=3, stride=stride)
    np.testing.assert_array_equal(batch["eeg"], data.astype(np.float32))
    shorter = window_index(store, segments, window=SAMPLES - 4, stride=stride)
    inside = [0, 1, 2, 3, 4] if stride else [0]
    assert (shorter[:, 1] % SAMPLES).tolist() == 3 * inside


@pytest.mark.parametrize("below", ["", "derivatives/epochs"])
def test_root_may_be_the_data_set_or_its_epochs(below, root):
    root, folder = root
    write_run(folder, epochs=1)
    assert len(load("localize_mi", root / below).entries) == 1


def test_selection(root):
    root, folder = root
    write_run(folder, epochs=1)
    write_run(folder, run="02", epochs=1)
    assert [e.run for e in load("localize_mi", root, subjects="sub-01", runs=2).entries] == ["02"]
    with pytest.raises(DatasetError, match="localize_mi: subject '3' does not exist; present: 01"):
        load("localize_mi", root, subjects=3)
    with pytest.raises(DatasetError, match="localize_mi: run '9' does not exist; present: 01, 02"):
        load("localize_mi", root, runs=9)


@pytest.mark.parametrize("kind", ["epochs", "channels"])
def test_a_missing_table_is_named(kind, root):
    root, folder = root
    write_run(folder, epochs=1)
    name = f"sub-01_task-seegstim_run-01_{kind}.tsv"
    (folder / "sub-01" / "eeg" / name).unlink()
    with pytest.raises(DatasetError, match=f"{name} does not exist; expected derivatives"):
        load("localize_mi", root).entries[0].read()


def test_missing_positions_are_named(root):
    root, folder = root
    write_run(folder, epochs=1)
    file = folder / "sub-01" / "eeg" / "sub-01_task-seegstim_electrodes.tsv"
    (entry,) = load("localize_mi", root).entries
    file.write_text("".join(x for x in file.read_text().splitlines(True) if "E77\t" not in x))
    with pytest.raises(DatasetError, match="electrodes.tsv: no position for E77"):
        entry.read()
    file.unlink()
    with pytest.raises(DatasetError, match="electrodes.tsv does not exist"):
        entry.read()


def test_a_damaged_array_is_named(root):
    root, folder = root
    write_run(folder, epochs=1)
    path = folder / "sub-01" / "eeg" / "sub-01_task-seegstim_run-01_epochs.npy"
    (entry,) = load("localize_mi", root).entries
    content = path.read_bytes()
    for broken in (content[:100_000], b"nonsense"):
        path.write_bytes(broken)
        with pytest.raises(DatasetError, match="run-01_epochs.npy cannot be read as a .npy array"):
            entry.read()
    np.save(path, np.array([{}], dtype=object))  # pickled content is never loaded
    with pytest.raises(DatasetError, match="run-01_epochs.npy cannot be read"):
        entry.read()


@pytest.mark.parametrize("shape", [(CHANNELS, 9), (1, CHANNELS - 1, 9), (2, CHANNELS, 9)])
def test_an_array_that_does_not_fit_its_tables_is_named(shape, root):
    root, folder = root
    write_run(folder, epochs=1)
    np.save(folder / "sub-01" / "eeg" / "sub-01_task-seegstim_run-01_epochs.npy", np.zeros(shape))
    with pytest.raises(DatasetError, match=r"_epochs.npy has shape .*expected \(1, 256, samples\)"):
        load("localize_mi", root).entries[0].read()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"unit": "uV"}, "channels.tsv: units are .*uV.*; expected V"),
        ({"rate": "n/a"}, "channels.tsv: sampling_frequency is n/a"),
    ],
)
def test_wrong_tables_are_named(changes, message, root):
    root, folder = root
    write_run(folder, epochs=1, **changes)
    with pytest.raises((DatasetError, ChannelError), match=message):
        load("localize_mi", root).entries[0].read()


def test_a_table_without_a_column_is_named(root):
    root, folder = root
    write_run(folder, epochs=1)
    file = folder / "sub-01" / "eeg" / "sub-01_task-seegstim_run-01_channels.tsv"
    file.write_text(file.read_text().replace("status", "state"))
    with pytest.raises(DatasetError, match="channels.tsv holds name, .*expected rows with status"):
        load("localize_mi", root).entries[0].read()
