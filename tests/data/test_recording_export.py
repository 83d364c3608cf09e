"""Results out: MNE objects, tables, files, BIDS derivatives; read back and compared."""

import json
import os
import warnings

import mne
import numpy as np
import pytest

from eegsr_jax.data.bids import write_bids_derivative
from eegsr_jax.data.export import attach, reliability_table, to_raw
from eegsr_jax.data.recording import from_array, read, rereference
from eegsr_jax.data.writing import write, write_table
from eegsr_jax.errors import ChannelError, RecordingError
from eegsr_jax.geometry import montage

NAMES = ("Fp1", "Fp2", "F3", "F4", "C3", "Cz", "C4", "P3", "P4", "O1", "O2")
TEMPLATE = montage("standard_1005")


def raw_of(rng, first_samp=0, samples=400, sfreq=100.0):
    """Eleven EEG channels with names of an old file, EOG first and stimulus last."""
    names = ["EOG 061", *(f"{n}." for n in NAMES), "STI 014"]
    info = mne.create_info(names, sfreq, ["eog", *["eeg"] * len(NAMES), "stim"])
    data = 1e-5 * rng.standard_normal((len(names), samples))
    data[-1] = np.arange(samples) % 5
    raw = mne.io.RawArray(data, info, first_samp=first_samp, verbose="ERROR")
    raw.set_meas_date(1_000_000_000)
    raw.info["bads"] = ["P4.", "EOG 061"]
    raw.info["description"] = "a session"
    marks = mne.Annotations([0.5, 1.25], [0.1, 0.0], ["BAD_blink", "left hand"])
    return raw.set_annotations(marks, verbose="ERROR")


def positions_of(names):
    return np.array([TEMPLATE[n] for n in names])


# ------------------------------------------------------------------------------------------ to_raw


def test_recording_to_raw_and_back(rng):
    data = 1e-5 * rng.standard_normal((11, 400))
    data[2, 50:61] = np.nan
    recording = from_array(data, 160.0, NAMES, bads=["O1"])
    raw = to_raw(recording)
    assert raw.info["bads"] == ["O1"] and raw.info["sfreq"] == 160.0
    back = read(raw)
    np.testing.assert_array_equal(back.data, recording.data)
    np.testing.assert_array_equal(back.usable, recording.usable)
    np.testing.assert_allclose(back.positions, recording.positions, atol=1e-7)
    assert (back.names, back.bads) == (recording.names, recording.bads)


@pytest.mark.parametrize("name", ["x_raw.fif", "x.edf", "x.vhdr"])
def test_breaks_become_boundaries_and_come_back(rng, tmp_path, name):
    recording = from_array(1e-5 * rng.standard_normal((11, 500)), 100.0, NAMES, breaks=(99, 300))
    raw = to_raw(recording)
    assert sorted(raw.annotations.description) == ["BAD boundary"] * 2 + ["EDGE boundary"] * 2
    for back in (read(raw), read(write(raw, tmp_path / name))):
        assert back.breaks == (99, 300) and back.usable.all()
    epochs = mne.make_fixed_length_epochs(raw, 1.0, verbose="ERROR")
    assert len(epochs.drop_bad(verbose="ERROR")) == 4  # MNE drops what straddles: only 0-1 s


# ------------------------------------------------------------------------------------------ attach


@pytest.mark.parametrize("first_samp", [0, 123])
def test_attach_to_raw(rng, first_samp):
    raw = raw_of(rng, first_samp)
    before = raw.copy()
    recording = read(raw)
    names = ["Pz", "Cz", "P4", "Fp1", "Oz", "C3"]
    mean = rng.standard_normal((6, 400))
    new = ["Pz", "P4", "Oz"]
    out = attach(
        raw, recording, names, positions_of(names), mean, reconstructed=new, method="ridge"
    )
    assert isinstance(out, mne.io.RawArray) and out is not raw
    assert out.ch_names == [*names, "EOG 061", "STI 014"]
    assert out.get_channel_types() == ["eeg"] * 6 + ["eog", "stim"]
    np.testing.assert_array_equal(out.get_data(new), mean[[0, 2, 4]])
    np.testing.assert_array_equal(  # bit for bit, in double precision
        out.get_data(["Cz", "Fp1", "C3", "EOG 061", "STI 014"]),
        before.get_data(["Cz.", "Fp1.", "C3.", "EOG 061", "STI 014"]),
    )
    assert out.info["bads"] == ["EOG 061"]  # P4 is repaired
    assert out.first_samp == first_samp and out.info["meas_date"] == raw.info["meas_date"]
    np.testing.assert_array_equal(out.annotations.onset, before.annotations.onset)
    assert list(out.annotations.description) == ["BAD_blink", "left hand"]
    place = out.get_montage().get_positions()["ch_pos"]
    np.testing.assert_allclose([place[n] for n in names], positions_of(names), atol=1e-7)
    said = out.info["description"]
    assert said.startswith("a session; eegsr_jax ") and said.endswith("rank at most 6): Pz, P4, Oz")
    assert "3 of 6 channels reconstructed by ridge" in said
    assert mne.utils.object_diff(raw.info, before.info) == ""


def test_attach_keeps_fiducials_head_shape_and_real_samples(real_eeg):
    path = real_eeg / "mne_sample" / "sample_audvis_24s_eeg_raw.fif"
    raw = mne.io.read_raw(path, verbose="ERROR")
    recording = read(path)
    names = [*recording.names[::2], "Cz"]
    positions = np.r_[recording.positions[::2], TEMPLATE["Cz"][None]]
    mean = np.zeros((31, raw.n_times))
    out = attach(raw, recording, names, positions, mean, reconstructed=["Cz"], method="spline")
    np.testing.assert_array_equal(out.get_data(names[:-1]), raw.get_data(names[:-1]))
    assert not raw.preload and out.first_samp == raw.first_samp == 25800
    old, new = raw.get_montage().get_positions(), out.get_montage().get_positions()
    for part in ("nasion", "lpa", "rpa", "hsp", "hpi"):
        np.testing.assert_array_equal(old[part], new[part])
    assert out.ch_names[-1] == "EOG 061" and "rank at most 31" in out.info["description"]


def test_attach_to_a_cap_with_no_channel_in_common(rng):
    raw = raw_of(rng).pick("eeg")
    names = ["Fz", "Pz", "Oz", "FC1"]
    mean = rng.standard_normal((4, 400))
    out = attach(
        raw, read(raw), names, positions_of(names), mean, reconstructed=names, method="spline"
    )
    assert out.ch_names == names and out.info["bads"] == []
    np.testing.assert_array_equal(out.get_data(), mean)


def test_attach_keeps_a_bad_channel_bad_when_it_is_not_repaired(rng):
    data = 1e-5 * rng.standard_normal((11, 400))
    data[4] = 0.0
    raw = mne.io.RawArray(data, mne.create_info(list(NAMES), 100.0, "eeg"), verbose="ERROR")
    out = attach(
        raw,
        read(raw, bads=["O1"]),
        NAMES,
        positions_of(NAMES),
        np.zeros((11, 400)),
        reconstructed=[],
        method="none",
    )
    assert out.info["bads"] == ["C3", "O1"]
    np.testing.assert_array_equal(out.get_data(), data)


def test_attach_to_epochs_and_evoked(rng):
    data = 1e-5 * rng.standard_normal((5, 11, 60))
    events = np.c_[np.arange(5) * 60, np.zeros(5, int), [1, 2, 1, 2, 1]]
    info = mne.create_info(list(NAMES), 100.0, "eeg")
    epochs = mne.EpochsArray(
        data, info, events, tmin=-0.1, event_id={"a": 1, "b": 2}, verbose="ERROR"
    )
    names = ["Cz", "Oz", "C3"]
    mean = rng.standard_normal((3, 300))
    out = attach(
        epochs, read(epochs), names, positions_of(names), mean, reconstructed=["Oz"], method="x"
    )
    assert isinstance(out, mne.BaseEpochs) and out.ch_names == names
    np.testing.assert_array_equal(out.get_data()[:, [0, 2]], data[:, [5, 4]])
    np.testing.assert_array_equal(np.concatenate(list(out.get_data()[:, 1])), mean[1])
    np.testing.assert_array_equal(out.events, events)
    assert out.event_id == {"a": 1, "b": 2} and out.tmin == epochs.tmin

    evoked = epochs.average()
    out = attach(
        evoked,
        read(evoked),
        names,
        positions_of(names),
        mean[:, :60],
        reconstructed=["Oz"],
        method="x",
    )
    assert isinstance(out, mne.Evoked) and out.nave == 5
    np.testing.assert_array_equal(out.data[[0, 2]], evoked.data[[5, 4]])
    np.testing.assert_array_equal(out.data[1], mean[1, :60])


def test_average_projector_of_the_old_channels_is_removed(rng):
    raw = raw_of(rng).set_eeg_reference("average", projection=True, verbose="ERROR")
    assert raw.info["projs"]
    names = ["Cz", "Oz"]
    mean = np.ones((2, 400))
    out = attach(raw, read(raw), names, positions_of(names), mean, reconstructed=["Oz"], method="x")
    assert not out.info["projs"] and raw.info["projs"]
    np.testing.assert_array_equal(out.get_data(["Cz"]), raw.get_data(["Cz."]))


def test_nothing_is_made_up_where_the_input_is_missing(rng):
    raw = raw_of(rng)
    raw._data[1, 30:40] = np.nan  # Fp1
    recording = read(raw)
    names = ["Cz", "Oz"]
    out = attach(
        raw,
        recording,
        names,
        positions_of(names),
        np.ones((2, 400)),
        reconstructed=["Oz"],
        method="x",
    )
    expected = np.ones(400)
    expected[30:40] = np.nan
    np.testing.assert_array_equal(out.get_data("Oz")[0], expected)


def test_attach_refuses_what_does_not_fit(rng):
    raw = raw_of(rng)
    recording = read(raw)
    names, mean = ["Cz", "Oz"], np.zeros((2, 400))

    def with_(recording=recording, original=raw, names=names, mean=mean, new=("Oz",), **change):
        positions = change.get("positions", positions_of(names))
        return attach(
            original, recording, names, positions, mean, reconstructed=list(new), method="x"
        )

    with pytest.raises(RecordingError, match="reconstructed against reference average"):
        with_(recording=rereference(recording, "average"))
    with pytest.raises(RecordingError, match=r"mean has shape \(2, 399\); expected \(2, 400\)"):
        with_(mean=mean[:, 1:])
    with pytest.raises(RecordingError, match=r"positions has shape \(3, 3\)"):
        with_(positions=np.zeros((3, 3)))
    with pytest.raises(ChannelError, match="target Oz is neither recorded nor reconstructed"):
        with_(new=())
    with pytest.raises(ChannelError, match="reconstructed channel Pz is no target"):
        with_(new=("Oz", "Pz"))
    with pytest.raises(ChannelError, match="reconstruction of Oz is not finite"):
        with_(mean=np.full((2, 400), np.nan))
    with pytest.raises(RecordingError, match=r"samples of Fp1\. differ"):
        with_(original=raw_of(rng))
    with pytest.raises(RecordingError, match="400 samples were read, the object has 101"):
        with_(original=raw.copy().crop(0, 1))
    with pytest.raises(RecordingError, match="not the object that the recording was read from"):
        with_(original=raw.copy().pick(["Cz.", "Fp1."]))


# ------------------------------------------------------------------------------------------- table


def test_reliability_table_and_file(tmp_path):
    std = np.array([[3e-6, 4e-6], [1e-6, 1e-6], [np.inf, np.inf]])
    rows = reliability_table(
        ["Cz", "Oz", "Pz"],
        ["Cz", "Pz"],
        np.array([0.2, 0.5, 0.9]),
        np.array([12.0, 20.0, 33.0]),
        std,
        method="ridge",
        rank=16,
    )
    assert [r["status"] for r in rows] == ["reconstructed", "observed", "reconstructed"]
    assert rows[0]["std_uV"] == pytest.approx(np.sqrt(12.5)) and rows[0]["expected_nmse"] == 0.2
    assert rows[1]["expected_nmse"] == rows[1]["std_uV"] == rows[1]["angle_deg"] == 0.0
    assert rows[0]["rank"] == 16 and rows[1]["method"] == "n/a"
    out = tmp_path / "a" / "reliability.tsv"
    write_table(rows, out)
    lines = [line.split("\t") for line in out.read_text().splitlines()]
    assert lines[0] == [
        "name",
        "status",
        "method",
        "expected_nmse",
        "angle_deg",
        "std_uV",
        "rank",
    ]
    assert lines[3] == ["Pz", "reconstructed", "ridge", "0.9", "33", "n/a", "16"]
    with pytest.raises(RecordingError, match="reliability.tsv: exists"):
        write_table(rows, out)
    write_table(rows[:1], out, overwrite=True)
    assert len(out.read_text().splitlines()) == 2
    with pytest.raises(RecordingError, match=r"angle_deg has shape \(2,\); expected \(3,\)"):
        reliability_table(
            ["Cz", "Oz", "Pz"], [], np.zeros(3), np.zeros(2), np.zeros(3), method="x", rank=3
        )


# ------------------------------------------------------------------------------------------- files


def test_fif_is_bit_exact(rng, tmp_path):
    raw = raw_of(rng, first_samp=50)
    out = write(raw, tmp_path / "deep" / "x_raw.fif")
    back = mne.io.read_raw(out, verbose="ERROR")
    np.testing.assert_array_equal(back.get_data(), raw.get_data())
    assert back.first_samp == 50 and back.info["bads"] == raw.info["bads"]
    assert back.info["description"] == "a session"
    np.testing.assert_allclose(back.annotations.onset, raw.annotations.onset)
    assert os.listdir(out.parent) == ["x_raw.fif"]


def test_epochs_and_evoked_fif(rng, tmp_path):
    info = mne.create_info(list(NAMES), 100.0, "eeg")
    epochs = mne.EpochsArray(1e-5 * rng.standard_normal((3, 11, 50)), info, verbose="ERROR")
    back = mne.read_epochs(write(epochs, tmp_path / "x-epo.fif"), verbose="ERROR")
    np.testing.assert_array_equal(back.get_data(), epochs.get_data())
    evoked = epochs.average()
    back = mne.read_evokeds(write(evoked, tmp_path / "x-ave.fif"), verbose="ERROR")[0]
    np.testing.assert_allclose(back.data, evoked.data, rtol=1e-6)
    with pytest.raises(RecordingError, match="must end in -epo.fif"):
        write(epochs, tmp_path / "x.fif")
    with pytest.raises(RecordingError, match="EpochsArray can be written as .fif only"):
        write(epochs, tmp_path / "x.edf")


@pytest.mark.parametrize("suffix", [".edf", ".vhdr"])
@pytest.mark.parametrize("first_samp", [0, 50])
@pytest.mark.parametrize("date", [None, 1_000_000_000])
def test_exchange_formats(rng, tmp_path, suffix, first_samp, date):
    raw = raw_of(rng, first_samp).set_annotations(None).set_meas_date(date)
    raw.set_annotations(
        mne.Annotations([0.29, 1.13], [0.57, 0.0], ["BAD_blink", "left hand"]), verbose="ERROR"
    )
    out = write(raw, tmp_path / f"x{suffix}")
    back = mne.io.read_raw(out, verbose="ERROR")
    assert back.ch_names == raw.ch_names and back.info["sfreq"] == 100.0
    data = raw.get_data()
    step = np.ptp(data, axis=1, keepdims=True) / 65534 if suffix == ".edf" else 3e-7 * abs(data)
    assert (abs(back.get_data() - data) <= 0.51 * step + 1e-14).all()
    # Both formats count from the first sample.
    mine, its = read(raw), read(back, channels=list(NAMES))
    np.testing.assert_array_equal(its.usable, mine.usable)
    np.testing.assert_allclose(back.annotations.onset, [0.29, 1.13], atol=0.004)
    assert [d.removeprefix("Comment/") for d in back.annotations.description] == [
        "BAD_blink",
        "left hand",
    ]
    expected = ["x.eeg", "x.vhdr", "x.vmrk"] if suffix == ".vhdr" else ["x.edf"]
    assert sorted(os.listdir(tmp_path)) == expected


def test_edf_of_part_of_a_second_is_padded_and_marked(rng, tmp_path):
    raw = raw_of(rng, samples=430)
    back = read(write(raw, tmp_path / "x.edf"))
    assert back.data.shape[1] == 500 and not back.usable[430:].any() and back.usable[420:430].all()


def test_fractional_rate(real_eeg, tmp_path):
    raw = mne.io.read_raw(
        real_eeg / "mne_sample" / "sample_audvis_24s_eeg_raw.fif", verbose="ERROR"
    ).crop(0, 4)
    back = read(write(raw, tmp_path / "x.vhdr"), montage=raw.get_montage())
    assert back.sfreq == pytest.approx(raw.info["sfreq"], rel=1e-6)
    np.testing.assert_allclose(back.data, raw.get_data("eeg"), rtol=3e-7, atol=1e-14)
    np.testing.assert_allclose(back.positions, read(raw).positions, atol=1e-7)


@pytest.mark.parametrize("suffix", [".edf", ".vhdr", "_raw.fif"])
def test_attached_real_recording_survives_every_format(real_eeg, tmp_path, suffix):
    path = real_eeg / "eegmmidb" / "S001R04.edf"
    raw = (
        mne.io.read_raw(path, verbose="ERROR")
        .crop(0, 20, include_tmax=False)
        .load_data(verbose="ERROR")
    )
    recording = read(raw)
    names = [*recording.names[:20], "AFp1h"]
    positions = np.r_[recording.positions[:20], TEMPLATE["AFp1h"][None]]
    mean = np.tile(recording.data[:1], (21, 1))
    out = attach(raw, recording, names, positions, mean, reconstructed=["AFp1h"], method="nearest")
    back = mne.io.read_raw(write(out, tmp_path / f"s{suffix}"), verbose="ERROR")
    assert back.ch_names == names
    tolerance = {".edf": 1e-8, ".vhdr": 1e-10, "_raw.fif": 0.0}[suffix]
    assert abs(back.get_data() - out.get_data()).max() <= tolerance
    texts = [d.removeprefix("Comment/") for d in back.annotations.description]
    assert texts == list(raw.annotations.description)


def test_edf_refuses_what_it_cannot_hold(rng, tmp_path):
    raw = raw_of(rng)
    raw._data[1, 0] = 0.2
    with pytest.raises(RecordingError, match=r"channel Fp1\. to steps of 3.1 µV \(range 200 mV\)"):
        write(raw, tmp_path / "x.edf")
    raw._data[1, 0] = np.nan
    with pytest.raises(RecordingError, match=r"NaN of channel Fp1\."):
        write(raw, tmp_path / "x.edf")
    long = raw_of(rng).rename_channels({"Cz.": "a name of many letters"})
    with pytest.raises(RecordingError, match="x.edf: cannot be written: .*longer than 16"):
        write(long, tmp_path / "x.edf")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["x_raw.fif", "x.edf", "x.vhdr"])
def test_existing_output_is_kept_unless_told(rng, tmp_path, name):
    raw = raw_of(rng)
    out = write(raw, tmp_path / name)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(RecordingError, match=f"{out.stem}.*: exists"):
        write(raw, out)
    assert before == {p: p.read_bytes() for p in tmp_path.iterdir()}
    write(raw.copy().crop(0, 1.99), out, overwrite=True)
    assert mne.io.read_raw(out, verbose="ERROR").n_times == 200
    assert set(before) == set(tmp_path.iterdir())


def test_a_companion_alone_is_kept_too(rng, tmp_path):
    (tmp_path / "x.eeg").write_bytes(b"precious")
    with pytest.raises(RecordingError, match="x.eeg: exists"):
        write(raw_of(rng), tmp_path / "x.vhdr")
    assert (tmp_path / "x.eeg").read_bytes() == b"precious"


def test_extension(rng, tmp_path):
    with pytest.raises(RecordingError, match=r"x\.csv: extension '\.csv'; expected \.fif"):
        write(raw_of(rng), tmp_path / "x.csv")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_when_writing_stops(rng, tmp_path, monkeypatch, failure):
    raw = raw_of(rng)
    out = write(raw, tmp_path / "x_raw.fif")
    before = out.read_bytes()

    def stop(self, path, **_):
        path.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(mne.io.RawArray, "save", stop)
    expected = RecordingError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left|^$"):
        write(raw, out, overwrite=True)
    assert os.listdir(tmp_path) == ["x_raw.fif"] and out.read_bytes() == before


# ------------------------------------------------------------------------------------------- BIDS


def reconstructed_of(rng, measured):
    raw = raw_of(rng)
    if measured:
        dig = mne.channels.make_dig_montage(
            {f"{n}.": TEMPLATE[n] for n in NAMES},
            nasion=[0, 0.1, 0],
            lpa=[-0.08, 0, 0],
            rpa=[0.08, 0, 0],
            coord_frame="head",
        )
        raw.set_montage(dig, verbose="ERROR")
    names = [*NAMES[:8], "Oz", "Pz"]
    mean = 1e-5 * rng.standard_normal((10, 400))
    new = ["Oz", "Pz"]
    out = attach(
        raw, read(raw), names, positions_of(names), mean, reconstructed=new, method="ridge"
    )
    table = reliability_table(
        names, new, np.full(10, 0.3), np.full(10, 9.0), np.full(10, 2e-6), method="ridge", rank=8
    )
    return out, table, names


@pytest.mark.parametrize("measured", [False, True])
def test_bids_derivative_reads_back(rng, tmp_path, measured):
    mne_bids = pytest.importorskip("mne_bids")
    raw, table, names = reconstructed_of(rng, measured)
    path = mne_bids.BIDSPath(
        root=tmp_path, subject="01", session="a", task="rest", run="02", datatype="eeg"
    )
    source = tmp_path / "sub-01" / "ses-a" / "eeg" / "sub-01_ses-a_task-rest_run-02_eeg.vhdr"
    out = write_bids_derivative(raw, tmp_path, path.entities, table, sources=[source])
    folder = tmp_path / "derivatives" / "eegsr_jax" / "sub-01" / "ses-a" / "eeg"
    assert out == folder / "sub-01_ses-a_task-rest_run-02_desc-sr_eeg.vhdr"

    derived = path.copy().update(
        root=tmp_path / "derivatives" / "eegsr_jax",
        description="sr",
        suffix="eeg",
        extension=".vhdr",
    )
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        back = mne_bids.read_raw_bids(derived, verbose="WARNING")
    assert [str(w.message)[:27] for w in warned] == ["participants.tsv file not f"]
    np.testing.assert_allclose(back.get_data(names), raw.get_data(names), rtol=1e-6, atol=1e-13)
    assert back.get_channel_types() == raw.get_channel_types()
    assert back.info["bads"] == ["EOG 061"] and back.info["line_freq"] is None
    place = back.get_montage().get_positions()["ch_pos"]
    np.testing.assert_allclose([place[n] for n in names], positions_of(names), atol=1e-6)
    again = read(derived)
    assert again.names == tuple(names) and again.subject == "01" and again.run == "02"

    channels = (folder / out.name.replace("eeg.vhdr", "channels.tsv")).read_text().splitlines()
    assert channels[9].split("\t")[:5] == ["Oz", "EEG", "µV", "good", "reconstructed by ridge"]
    sidecar = json.loads((folder / out.name.replace(".vhdr", ".json")).read_text())
    relative = source.relative_to(tmp_path).as_posix()
    assert sidecar["Sources"] == [f"bids:raw:{relative}"] and sidecar["TaskName"] == "rest"
    said = json.loads((derived.root / "dataset_description.json").read_text())
    assert said["GeneratedBy"][0]["Name"] == "eegsr_jax" and said["DatasetType"] == "derivative"
    marks = json.loads(next(folder.glob("*coordsystem.json")).read_text())
    assert ("nominal" in marks["EEGCoordinateSystemDescription"]) is not measured
    assert not list(derived.root.glob(".writing*"))


def test_bids_derivative_shares_and_refuses(rng, tmp_path):
    raw, table, names = reconstructed_of(rng, False)
    who = {"subject": "01", "task": "rest", "session": None, "run": "1"}
    out = write_bids_derivative(raw, tmp_path, who, table)
    assert out.name == "sub-01_task-rest_run-1_desc-sr_eeg.vhdr"
    with pytest.raises(RecordingError, match="sub-01_task-rest_run-1.*: exists"):
        write_bids_derivative(raw, tmp_path, who, table)
    write_bids_derivative(raw, tmp_path, who | {"run": "2"}, table)  # the same electrodes
    moved = raw.copy()
    place = {n: TEMPLATE[n] + [0, 0, 0.01] for n in names}
    dig = mne.channels.make_dig_montage(place, coord_frame="head")
    moved.set_montage(dig, on_missing="ignore", verbose="ERROR")
    with pytest.raises(RecordingError, match="electrodes.tsv: exists"):
        write_bids_derivative(moved, tmp_path, who | {"run": "3"}, table)
    folder = out.parent
    assert not list(folder.glob("*run-3*"))
    write_bids_derivative(moved, tmp_path, who | {"run": "3"}, table, overwrite=True)
    with pytest.raises(RecordingError, match="no task among the entities"):
        write_bids_derivative(raw, tmp_path, {"subject": "01"}, table)
    with pytest.raises(RecordingError, match="task is 'eyes open'; letters and digits only"):
        write_bids_derivative(raw, tmp_path, who | {"task": "eyes open"}, table)
