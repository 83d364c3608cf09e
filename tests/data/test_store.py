"""The store: what is written is read back, interruptions leave valid parts, errors are one line."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from eegsr_jax.data.manifest import replacing
from eegsr_jax.data.preprocessing import PREPROCESSING, Preprocessing, apply
from eegsr_jax.data.recording import Event, Recording
from eegsr_jax.data.store import open_store, prepare
from eegsr_jax.errors import ChannelError, DatasetError, RecordingError

NONE = PREPROCESSING["none"]


@pytest.fixture
def files(tmp_path) -> list[str]:
    """Three source files; only their content counts."""
    paths = [tmp_path / f"source{i}.edf" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_text(f"content {i}")
    return [str(path) for path in paths]


@pytest.fixture
def recordings(make_recording) -> list[Recording]:
    return [
        make_recording(300 + i, subject=str(i), source=f"/home/somebody/source{i}.edf")
        for i in range(3)
    ]


def counting(dataset, reads: list[str], fail: str | None = None, error=KeyboardInterrupt):
    """The data set, with every read noted, and one that fails."""

    def wrap(entry):
        def read():
            reads.append(entry.subject)
            if entry.subject == fail:
                raise error
            return entry.read()

        return dataclasses.replace(entry, read=read)

    return dataclasses.replace(dataset, entries=tuple(map(wrap, dataset.entries)))


def leftovers(out: Path) -> list[str]:
    return [path.name for path in out.rglob("*") if path.suffix == ".tmp"]


# --- contents ----------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path, make_recording, make_dataset):
    recording = make_recording(
        500,
        unusable=[(0, 3), (100, 110), (495, 500)],
        bads=("Cz",),
        subject="07",
        session="b",
        run="2",
        reference="average",
        source="/home/somebody/secret name.edf",
        notes=("one", "two"),
    )
    store = prepare(make_dataset([recording]), tmp_path / "s", NONE, progress=False)
    (stored,) = store.recordings
    assert stored.key == "sub-07_ses-b_run-2"
    np.testing.assert_array_equal(store.read(stored.key), recording.data)
    np.testing.assert_array_equal(store.read(stored.key, 17, 40), recording.data[:, 17:40])
    assert store.read(stored.key).flags.c_contiguous
    assert store.read(stored.key, 5, 5).shape == (4, 0)
    assert stored.usable == ((3, 100), (110, 495))
    np.testing.assert_array_equal(stored.positions, recording.positions)
    for name in ("sfreq", "names", "bads", "subject", "session", "run", "reference", "notes"):
        assert getattr(stored, name) == getattr(recording, name)
    assert stored.source == "secret name.edf"
    assert "somebody" not in (tmp_path / "s/manifest.json").read_text()


def test_events_are_kept_and_old_stores_have_none(tmp_path, make_recording, make_dataset, files):
    events = (Event(0, 40, "rest"), Event(40, 90, "left_fist"))
    data = make_dataset([make_recording(100, events=events)], files[:1])
    reads: list[str] = []
    store = prepare(data, tmp_path / "s", NONE, progress=False)
    assert open_store(store.path).recordings[0].events == events
    assert isinstance(open_store(store.path).recordings[0].events[0], Event)
    prepare(counting(data, reads), tmp_path / "s", NONE, progress=False)
    assert reads == []

    manifest = json.loads((store.path / "manifest.json").read_text())
    manifest["recordings"][0].pop("events")  # as written before events were kept
    (store.path / "manifest.json").write_text(json.dumps(manifest))
    assert open_store(store.path).recordings[0].events is None
    renewed = prepare(counting(data, reads), tmp_path / "s", NONE, progress=False)
    assert renewed.recordings[0].events == events and len(reads) == 1


def test_usable_stretches_end_at_breaks(tmp_path, make_recording, make_dataset):
    recording = make_recording(500, unusable=[(90, 100), (250, 260)], breaks=(100, 200, 255, 400))
    store = prepare(make_dataset([recording]), tmp_path / "s", NONE, progress=False)
    expected = ((0, 90), (100, 200), (200, 250), (260, 400), (400, 500))
    assert store.recordings[0].usable == expected
    assert open_store(store.path).recordings[0].usable == expected
    np.testing.assert_array_equal(store.read(store.recordings[0].key), recording.data)


def test_data_files_are_plain_npy_with_their_own_hash(tmp_path, make_recording, make_dataset):
    store = prepare(make_dataset([make_recording(50)]), tmp_path / "s", NONE, progress=False)
    path = tmp_path / "s/recordings/sub-unknown_ses-1_run-1.npy"
    assert np.load(path).shape == (50, 4)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == store.recordings[0].sha256
    assert not store.mapped(store.recordings[0].key).flags.writeable


def test_preprocessing_is_applied_and_recorded(tmp_path, make_recording, make_dataset):
    p = Preprocessing(l_freq=1.0, h_freq=20.0, resample=50.0)
    recording = make_recording(2000, unusable=[(1000, 1100)])
    store = prepare(make_dataset([recording]), tmp_path / "s", p, progress=False)
    expected = apply(recording, p)
    np.testing.assert_array_equal(store.read(store.recordings[0].key), expected.data)
    assert store.recordings[0].sfreq == 50.0
    assert store.recordings[0].notes == expected.notes
    usable = np.zeros(expected.data.shape[1], bool)
    for start, stop in store.recordings[0].usable:
        usable[start:stop] = True
    np.testing.assert_array_equal(usable, expected.usable)
    assert open_store(tmp_path / "s", verify=True).preprocessing == p


def test_opening_again_gives_an_equal_store(make_store, make_recording):
    others = make_recording(90, subject="2", names=("C3", "C4"))
    store = make_store([make_recording(80, subject="1"), others])
    again = open_store(store.path, verify=True)
    assert again == store
    np.testing.assert_array_equal(again.recordings[1].positions, others.positions)


def test_one_montage_is_written_once(tmp_path, make_dataset, recordings):
    prepare(make_dataset(recordings), tmp_path / "s", NONE, progress=False)
    manifest = json.loads((tmp_path / "s/manifest.json").read_text())
    assert len(manifest["montages"]) == 1
    assert [r["montage"] for r in manifest["recordings"]] == [0, 0, 0]


def test_pickled_stores_read_in_another_process(make_store, make_recording):
    store = make_store([make_recording(80)])
    store.read(store.recordings[0].key)
    assert len(pickle.dumps(store)) < 3000
    code = (
        "import pickle, sys; store = pickle.load(sys.stdin.buffer);"
        "print(store.read(store.recordings[0].key).sum())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(store), capture_output=True, check=True
    )
    assert float(done.stdout) == store.read(store.recordings[0].key).sum()


def test_more_recordings_than_file_descriptors(make_store, make_recording):
    """Maps are closed again: 200 recordings are read under a limit of 180 open files."""
    import resource

    store = make_store([make_recording(5, subject=str(i)) for i in range(200)])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (180, hard))
    try:
        sums = [store.read(r.key).sum() for r in store.recordings]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(set(sums)) == 1


def test_real_files(real_eeg, tmp_path, make_dataset):
    """Two EDF files, filtered as DiBiMa does: equal to MNE, in volts."""
    import mne

    recordings, expected, paths = [], [], []
    for run in (4, 8):
        path = real_eeg / f"eegmmidb/S001R{run:02d}.edf"
        raw = mne.io.read_raw_edf(path, preload=True, verbose="error")
        recordings.append(
            Recording(
                data=raw.get_data().astype(np.float32),
                sfreq=raw.info["sfreq"],
                names=tuple(raw.ch_names),
                positions=np.zeros((64, 3)),
                usable=np.ones(raw.n_times, bool),
                subject="1",
                run=str(run),
            )
        )
        raw.notch_filter(50.0, verbose="error").filter(0.5, 40.0, verbose="error")
        expected.append(raw.get_data())
        paths.append(str(path))
    dataset = make_dataset(recordings, paths)
    store = prepare(dataset, tmp_path / "s", PREPROCESSING["dibima"], progress=False)
    for stored, truth in zip(store.recordings, expected, strict=True):
        data = store.read(stored.key, 1000, 3000)
        np.testing.assert_allclose(data, truth[:, 1000:3000], atol=1e-6 * np.abs(truth).max())
        assert 1e-6 < data.std() < 1e-3
    official = hashlib.sha256(Path(paths[0]).read_bytes()).hexdigest()
    assert store.recordings[0].source_sha256 == official


# --- selecting ---------------------------------------------------------------------------------


def test_select(make_store, make_recording):
    store = make_store(
        [make_recording(20, subject=s, run=r) for s in ("1", "2", "10") for r in ("04", "08")]
    )
    chosen = store.select(subjects=[10, 2], runs=4)
    assert [r.key for r in chosen.recordings] == ["sub-2_ses-1_run-04", "sub-10_ses-1_run-04"]
    assert store.select() == store
    with pytest.raises(DatasetError, match="run '5' does not exist; present: 04, 08"):
        store.select(runs=5)


def test_channel_index(make_store, make_recording):
    (stored,) = make_store([make_recording(20)]).recordings
    assert stored.channel_index(["Oz", "Fz"]).tolist() == [3, 0]
    with pytest.raises(ChannelError, match="no channel Cz1; did you mean Cz"):
        stored.channel_index(["Fz", "Cz1"])


def test_reading_what_is_not_there(make_store, make_recording):
    store = make_store([make_recording(20)])
    key = store.recordings[0].key
    with pytest.raises(RecordingError, match=f"no recording 'sub-unknow'.*did you mean {key}"):
        store.read("sub-unknow")
    for start, stop in ((-1, 5), (0, 21), (7, 6)):
        with pytest.raises(RecordingError, match=f"has 20 samples; {start} to {stop} cannot"):
            store.read(key, start, stop)


# --- resuming ----------------------------------------------------------------------------------


def test_a_second_call_skips_what_is_unchanged(tmp_path, make_dataset, recordings, files):
    out, reads = tmp_path / "s", []
    dataset = make_dataset(recordings, files)
    prepare(dataset, out, NONE, progress=False)
    times = {path: path.stat().st_mtime_ns for path in (out / "recordings").iterdir()}
    Path(files[1]).write_text("changed")
    (out / "recordings/sub-2_ses-1_run-1.npy").write_bytes(b"cut short")
    store = prepare(counting(dataset, reads), out, NONE, progress=False)
    assert reads == ["1", "2"]
    assert [r.subject for r in store.recordings] == ["0", "1", "2"]
    untouched = out / "recordings/sub-0_ses-1_run-1.npy"
    assert untouched.stat().st_mtime_ns == times[untouched]
    open_store(out, verify=True)


def test_companion_files_count_as_source(tmp_path, make_dataset, recordings):
    """EEGLAB keeps the samples in `.fdt`, beside the `.set` that is named."""
    path, companion = tmp_path / "a[1].set", tmp_path / "a[1].fdt"
    path.write_text("header"), companion.write_text("samples")
    reads: list[str] = []
    dataset = counting(make_dataset(recordings[:1], [str(path)]), reads)
    for change in ("samples", "samples", "other"):
        companion.write_text(change)
        prepare(dataset, tmp_path / "s", NONE, progress=False)
    assert len(reads) == 2


def test_folders_count_as_source(tmp_path, make_dataset, recordings):
    folder = tmp_path / "a.ds"
    folder.mkdir()
    reads: list[str] = []
    dataset = counting(make_dataset(recordings[:1], [str(folder)]), reads)
    for change in ("samples", "samples", "other"):
        (folder / "x.meg4").write_text(change)
        prepare(dataset, tmp_path / "s", NONE, progress=False)
    assert len(reads) == 2


def test_recordings_without_a_file_are_made_again(tmp_path, make_dataset, make_recording):
    prepare(make_dataset([make_recording(50)]), tmp_path / "s", NONE, progress=False)
    new = make_recording(50)
    new.data[:] = 7.0
    store = prepare(make_dataset([new]), tmp_path / "s", NONE, progress=False)
    assert (store.read(store.recordings[0].key) == 7.0).all()


def test_a_replaced_file_is_mapped_again(tmp_path, make_dataset, make_recording):
    first = prepare(make_dataset([make_recording(50)]), tmp_path / "s", NONE, progress=False)
    key = first.recordings[0].key
    before = first.mapped(key)
    new = make_recording(60)
    second = prepare(make_dataset([new]), tmp_path / "s", NONE, progress=False)
    np.testing.assert_array_equal(second.read(key), new.data)
    assert before.shape == (50, 4)


def test_the_data_set_may_grow(tmp_path, make_dataset, recordings, files):
    prepare(make_dataset(recordings[1:], files[1:]), tmp_path / "s", NONE, progress=False)
    reads: list[str] = []
    dataset = counting(make_dataset(recordings, files), reads)
    store = prepare(dataset, tmp_path / "s", NONE, progress=False)
    assert reads == ["0"]
    assert [r.subject for r in store.recordings] == ["0", "1", "2"]
    with pytest.raises(DatasetError, match="also holds sub-1_ses-1_run-1 .2 such recordings"):
        prepare(make_dataset(recordings[:1], files[:1]), tmp_path / "s", NONE, progress=False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RecordingError("sub-1: unreadable")])
def test_interrupted_between_recordings(tmp_path, make_dataset, recordings, files, error):
    out, reads = tmp_path / "s", []
    dataset = make_dataset(recordings, files)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        prepare(counting(dataset, [], fail="1", error=error), out, NONE, progress=False)
    with pytest.raises(DatasetError, match="stopped after 1 recordings; run the same"):
        open_store(out)
    part = open_store(out, partial=True, verify=True)
    np.testing.assert_array_equal(part.read("sub-0_ses-1_run-1"), recordings[0].data)
    assert not leftovers(out)
    store = prepare(counting(dataset, reads), out, NONE, progress=False)
    assert reads == ["1", "2"]
    assert store.complete and len(store.recordings) == 3


def test_interrupted_while_a_file_is_written(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"new, but not all of it")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path, make_dataset, recordings, files):
    prepare(make_dataset(recordings[:1], files[:1]), tmp_path / "s", NONE, progress=False)
    (tmp_path / "s/recordings/.sub-1_ses-1_run-1.npy.123.tmp").write_bytes(b"half")
    prepare(make_dataset(recordings, files), tmp_path / "s", NONE, progress=False)
    assert not leftovers(tmp_path / "s")


FULL_DISK = """
import resource, signal, sys
import numpy as np
from eegsr_jax.data.datasets.base import Dataset, Entry
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.recording import Recording
from eegsr_jax.data.store import prepare
from eegsr_jax.errors import EEGSRError

def make(subject, samples):
    recording = Recording(
        data=np.ones((4, samples), np.float32), sfreq=100.0, names=("Fz", "Cz", "Pz", "Oz"),
        positions=np.eye(4, 3), usable=np.ones(samples, bool), subject=subject)
    return Entry(subject=subject, read=lambda: recording, path=None)

entries = (make("1", 1000), make("2", 100_000))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    prepare(Dataset(name="d", entries=entries, citation="", licence=""), sys.argv[1],
            PREPROCESSING["none"])
except EEGSRError as error:
    print(error)
"""


def test_a_write_that_fails(tmp_path):
    """The system refuses the second file (a limit on its size stands in for a full disk)."""
    out = tmp_path / "s"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(out)], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("\n") == 1
    assert f"{out}: cannot write: {os.strerror(errno.EFBIG)}; 1 of 2 recordings are" in done.stdout
    assert not leftovers(out)
    assert [r.subject for r in open_store(out, partial=True, verify=True).recordings] == ["1"]


def test_a_folder_that_cannot_be_written(tmp_path, make_dataset, recordings):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="file is not a store"):
        prepare(make_dataset(recordings), tmp_path / "file", NONE)
    with pytest.raises(DatasetError, match="cannot write: Not a directory; 0 of 3"):
        prepare(make_dataset(recordings), tmp_path / "file/below", NONE)


# --- refusals ----------------------------------------------------------------------------------


def test_other_settings_are_refused(tmp_path, make_dataset, recordings, files):
    dataset = make_dataset(recordings, files)
    prepare(dataset, tmp_path / "s", NONE, progress=False)
    with pytest.raises(DatasetError, match="was prepared with Preprocessing.*choose another"):
        prepare(dataset, tmp_path / "s", Preprocessing(), progress=False)
    other = dataclasses.replace(dataset, name="other")
    with pytest.raises(DatasetError, match="holds the data set 'made', not 'other'"):
        prepare(other, tmp_path / "s", NONE, progress=False)
    assert open_store(tmp_path / "s", verify=True).complete


def test_other_options_are_refused(tmp_path, make_dataset, recordings, files):
    plain = make_dataset(recordings, files)
    montage = {"Fz": (0.0, 0.08, 0.05)}
    dataset = dataclasses.replace(plain, options={"montage": montage, "seed": 3})
    store = prepare(dataset, tmp_path / "s", NONE, progress=False)
    assert store.options == {"montage": {"Fz": [0.0, 0.08, 0.05]}, "seed": 3}
    assert open_store(store.path) == store == prepare(dataset, store.path, NONE, progress=False)
    other = dataclasses.replace(plain, options={"montage": montage, "seed": 4})
    with pytest.raises(DatasetError, match="s was prepared with the option seed=3, not 4; choose"):
        prepare(other, store.path, NONE, progress=False)
    with pytest.raises(DatasetError, match=r"montage=\{'Fz': .*\}, not None; choose") as error:
        prepare(plain, store.path, NONE, progress=False)
    assert "\n" not in str(error.value)
    for value in (object(), np.nan):
        unfit = dataclasses.replace(plain, options={"montage": value})
        with pytest.raises(DatasetError, match="^made: options cannot be kept as JSON"):
            prepare(unfit, tmp_path / "t", NONE, progress=False)
    assert not (tmp_path / "t").exists()


def test_a_folder_with_other_things_is_refused(tmp_path, make_dataset, recordings):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(DatasetError, match="is not a store"):
        prepare(make_dataset(recordings), tmp_path, NONE)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_entries_that_cannot_be_stored(tmp_path, make_dataset, make_recording):
    twice = make_dataset([make_recording(9), make_recording(9)], ["a.edf", "b.edf"])
    with pytest.raises(DatasetError, match=r"a.edf and b.edf are both sub-unknown_ses-1_run-1"):
        prepare(twice, tmp_path / "s", NONE)
    with pytest.raises(DatasetError, match="'sub-../x_ses-1_run-1' cannot be a file name"):
        prepare(make_dataset([make_recording(9, subject="../x")]), tmp_path / "s", NONE)
    with pytest.raises(DatasetError, match="made: there is no recording"):
        prepare(make_dataset([]), tmp_path / "s", NONE)
    assert not (tmp_path / "s").exists()


def test_errors_name_the_recording(tmp_path, make_dataset, make_recording):
    with pytest.raises(RecordingError, match="sub-unknown_ses-1_run-1: array: h_freq 40 Hz"):
        prepare(make_dataset([make_recording(9, sfreq=60.0)]), tmp_path / "s", Preprocessing())
    broken = make_recording(9)
    broken.data[2, 3] = np.nan
    with pytest.raises(RecordingError, match="channel Pz has samples that are not finite"):
        prepare(make_dataset([broken]), tmp_path / "t", NONE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=1), "format version 1, eegsr_jax .* reads 2"),
        (lambda m: m.pop("options"), "damaged .*options"),
        (lambda m: m.update(format="something"), "is not a store"),
        (lambda m: m["recordings"][0].pop("sfreq"), "damaged .*sfreq"),
        (lambda m: m["recordings"][0].update(montage=4), "damaged"),
        (lambda m: m["recordings"][0].update(events=[[0, 4]]), "damaged"),
        (lambda m: m["recordings"][0].update(key="../../x"), "cannot be a file name"),
        (lambda m: m["preprocessing"].update(notch="50"), "damaged .*notch"),
        (lambda m: m["recordings"][0].update(samples=21), "has 448 bytes instead of 464"),
    ],
)
def test_a_manifest_that_does_not_fit(make_store, make_recording, change, message):
    path = make_store([make_recording(20)]).path
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match=message) as caught:
        open_store(path)
    assert str(path) in str(caught.value)


def test_files_that_do_not_fit(make_store, make_recording, tmp_path):
    with pytest.raises(DatasetError, match=f"{re.escape(str(tmp_path))} is not a store"):
        open_store(tmp_path)
    store = make_store([make_recording(20)])
    file = store.path / f"recordings/{store.recordings[0].key}.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    open_store(store.path)
    with pytest.raises(DatasetError, match=f"{file} has changed since"):
        open_store(store.path, verify=True)
    np.save(file, np.zeros((40, 2), np.float32))
    with pytest.raises(DatasetError, match=r"holds float32 \(40, 2\), the manifest says"):
        open_store(store.path).read(store.recordings[0].key)
    file.unlink()
    with pytest.raises(DatasetError, match=f"{file} is absent; run"):
        open_store(store.path)


def test_threads_may_share_a_store(make_store, make_recording):
    store = make_store([make_recording(50, subject=str(i)) for i in range(20)])
    sums: list[float] = []

    def work():
        sums.append(sum(float(store.read(r.key).sum()) for r in store.recordings))

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(set(sums)) == 1 and len(sums) == 4
