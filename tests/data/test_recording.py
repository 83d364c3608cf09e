"""Reading: channels, names, positions, units, gaps; the samples against MNE's own reading."""

import mne
import numpy as np
import pytest

from eegsr_jax.data.recording import from_array, read, require_rate, rereference
from eegsr_jax.errors import ChannelError, RecordingError
from eegsr_jax.geometry import montage

NAMES = ("Fp1", "Fp2", "F3", "F4", "C3", "Cz", "C4", "P3", "P4", "O1", "O2")


def noise(rng, channels=len(NAMES), samples=400):
    return 1e-5 * rng.standard_normal((channels, samples))


def raw_of(rng, names=NAMES, kinds="eeg", sfreq=100.0, samples=400):
    info = mne.create_info(list(names), sfreq, kinds)
    return mne.io.RawArray(noise(rng, len(names), samples), info, verbose="ERROR")


def said(recording, text):
    return any(text in note for note in recording.notes)


# ------------------------------------------------------------------------------------- real files


def test_eegmmidb_names_positions_and_samples(real_eeg):
    path = real_eeg / "eegmmidb" / "S001R04.edf"
    recording = read(path, subject="S001", run="4")
    raw = mne.io.read_raw(path, verbose="ERROR")
    mne.datasets.eegbci.standardize(raw)
    template = montage("standard_1005")
    assert recording.names == tuple(raw.ch_names)
    np.testing.assert_array_equal(recording.data, raw.get_data().astype(np.float32))
    assert recording.data.dtype == np.float32 and recording.sfreq == 160.0
    np.testing.assert_allclose(recording.positions[0], template["FC5"])
    assert recording.labels[0] == "Fc5." and recording.names[0] == "FC5"
    assert said(recording, "standard 10-05 template") and said(recording, "Fc5. -> FC5")
    assert (recording.subject, recording.session, recording.run) == ("S001", "1", "4")
    assert recording.usable.all()


def test_face13_needs_its_montage(real_eeg):
    folder = real_eeg / "face13"
    path = folder / "sub-s01_task-faceO_first150s_eeg.edf"
    with pytest.raises(ChannelError, match=r"A1.*BioSemi labels.*biosemi128") as error:
        read(path)
    assert path.name in str(error.value) and "\n" not in str(error.value)
    recording = read(path, montage=folder / "face13_electrodes_RAS.tsv")
    np.testing.assert_allclose(recording.positions[0], [-0.000684, -0.005005, 0.120470])
    assert len(recording.names) == 128 and recording.names[64] == "C1"
    assert recording.subject == "s01"
    raw = mne.io.read_raw(path, preload=True, verbose="ERROR")
    marked = np.isnan(raw.get_data(["A1"], reject_by_annotation="NaN", verbose="ERROR")[0])
    assert marked.any()
    np.testing.assert_array_equal(~recording.usable, marked)
    assert said(recording, "MNE: Omitted 78 annotation(s)")


def test_eeglab_drops_eog_by_name(real_eeg):
    recording = read(real_eeg / "eeglab" / "eeglab_data.set")
    assert len(recording.names) == 30 and said(recording, "EOG1, EOG2")
    assert recording.names[0] == "Fpz" and recording.labels[0] == "FPz"
    raw = mne.io.read_raw(real_eeg / "eeglab" / "eeglab_data.set", verbose="ERROR")
    place = raw.get_montage().get_positions()["ch_pos"]["FPz"]
    np.testing.assert_allclose(recording.positions[0], place, atol=1e-7)


def test_digitised_fif_keeps_its_own_positions(real_eeg):
    path = real_eeg / "mne_sample" / "sample_audvis_24s_eeg_raw.fif"
    recording = read(path)
    assert recording.names[0] == "EEG 001" and len(recording.names) == 60
    assert said(recording, "EOG 061")
    raw = mne.io.read_raw(path, verbose="ERROR").pick("eeg")
    np.testing.assert_array_equal(recording.data, raw.get_data().astype(np.float32))
    np.testing.assert_array_equal(
        recording.positions, np.array([c["loc"][:3] for c in raw.info["chs"]])
    )


def test_blocks_join_without_a_seam(real_eeg, monkeypatch):
    path = real_eeg / "eeglab" / "eeglab_data.set"
    whole = read(path)
    monkeypatch.setattr("eegsr_jax.data.sources._BLOCK", 1000)
    np.testing.assert_array_equal(read(path).data, whole.data)


# ------------------------------------------------------------------------------- channels, names


def test_types_and_names_that_are_not_eeg(rng):
    names = [*NAMES, "EXG1", "VEOG", "STI 014", "Status", "EMG chin", "Resp"]
    raw = raw_of(rng, names, ["eeg"] * len(NAMES) + ["eeg", "eeg", "stim", "eeg", "eeg", "eeg"])
    recording = read(raw)
    assert recording.names == NAMES
    assert said(recording, "1 channel of other types left out: STI 014")
    assert said(recording, "5 channels not EEG by name left out: EXG1, VEOG, Status")


def test_old_and_decorated_names(rng):
    names = ["EEG T3-REF", "EEG T4-REF", "EEG FPZ-REF", "EEG CZ-REF", "EEG O1-REF"]
    assert read(raw_of(rng, names)).names == ("T7", "T8", "Fpz", "Cz", "O1")


def test_old_and_new_name_in_one_file_are_two_electrodes_in_one_place(rng):
    with pytest.raises(ChannelError, match="T3 and T7 have the same position"):
        read(raw_of(rng, [*NAMES, "T3", "T7"]))


def test_channels_chooses_and_orders(rng):
    raw = raw_of(rng, ["O1..", "Cz..", "C3..", "C4..", "Fz.."])
    recording = read(raw, channels=["C4", "Cz..", "O1", "C3"])
    assert recording.names == ("C4", "Cz", "O1", "C3")
    np.testing.assert_array_equal(recording.data[1], raw.get_data()[1].astype(np.float32))
    with pytest.raises(ChannelError, match="channel C5 not among the 5 channels.*close: .*C4"):
        read(raw, channels=["C5", "Cz", "O1", "C3"])
    with pytest.raises(ChannelError, match="channel Cz is named twice"):
        read(raw, channels=["Cz", "Cz", "O1", "C3"])


def test_a_channel_of_another_type_cannot_be_asked_for(rng):
    raw = raw_of(rng, [*NAMES, "EOG 061"], ["eeg"] * len(NAMES) + ["eog"])
    with pytest.raises(ChannelError, match="EOG 061 is of type eog; expected eeg"):
        read(raw, channels=["EOG 061", "Cz", "C3", "C4"])


def test_bads_of_file_and_caller(rng):
    raw = raw_of(rng, [*NAMES, "EOG"], ["eeg"] * len(NAMES) + ["eog"])
    raw.info["bads"] = ["Fp2", "EOG"]
    recording = read(raw, bads=["o1", "EOG"])
    assert recording.bads == ("Fp2", "O1") and len(recording.names) == len(NAMES)
    with pytest.raises(ChannelError, match="channel Q9 not among"):
        read(raw, bads=["Q9"])


def test_no_eeg_and_too_few(rng):
    with pytest.raises(ChannelError, match=r"RawArray object: no EEG channel .*EOG1.* types eog"):
        read(raw_of(rng, ["EOG1", "EOG2"], "eog"))
    with pytest.raises(ChannelError, match="3 with one; give montage="):
        read(raw_of(rng, ["Cz", "C3", "C4", "Q1", "Q2"]))
    with pytest.raises(ChannelError, match=r"3 good EEG channels .*\(Cz, C3, C4\); at least 4"):
        read(raw_of(rng, ["Cz", "C3", "C4", "Fz"]), bads=["Fz"])


# ------------------------------------------------------------------------------------- positions


def test_channels_without_a_position_are_dropped_by_name(rng):
    recording = read(raw_of(rng, [*NAMES, "CB9", "QQ1"]))
    assert recording.names == NAMES and said(recording, "2 channels without a position dropped")
    assert said(recording, "CB9, QQ1")
    assert np.isfinite(recording.positions).all()


def test_montage_wins_over_the_file(rng):
    raw = raw_of(rng)
    place = montage("standard_1005")
    raw.set_montage(mne.channels.make_dig_montage(place, coord_frame="head"))
    place = {n: xyz + [0, 0, 0.005] for n, xyz in place.items()}
    np.testing.assert_allclose(read(raw, montage=place).positions[0], place["Fp1"])
    with pytest.raises(ChannelError, match="does not have the channels Fp1"):
        read(raw, montage={"E1": [0, 0.1, 0], "E2": [0.1, 0, 0]})
    with pytest.raises(ChannelError, match="standard_9999"):
        read(raw, montage="standard_9999")


def test_a_given_montage_is_not_completed_from_the_template(rng):
    place = {n: montage("standard_1005")[n] for n in NAMES if n != "C3"}
    recording = read(raw_of(rng), montage=place)
    assert "C3" not in recording.names and said(recording, "dropped: C3")


def test_biosemi_labels_and_a_cap_of_64(rng):
    names = [f"{block}{i}" for block in "AB" for i in range(1, 33)] + ["EXG1"]
    raw = raw_of(rng, names)
    with pytest.raises(ChannelError, match="BioSemi labels"):
        read(raw)
    recording = read(raw, montage="biosemi64")
    assert recording.names == tuple(mne.channels.make_standard_montage("biosemi64").ch_names)
    assert recording.labels == tuple(names[:-1])
    np.testing.assert_allclose(recording.positions[0], montage("biosemi64")["Fp1"])


def test_a_template_that_shares_some_names_with_a_cap_is_refused(rng):
    names = [f"{block}{i}" for block in "ABCD" for i in range(1, 33)]
    with pytest.raises(ChannelError, match="does not have the channels A3, A4"):
        read(raw_of(rng, names), montage="standard_1005")
    assert read(raw_of(rng, names), montage="biosemi128").names == tuple(names)


def test_geodesic_labels_name_their_cap(rng):
    with pytest.raises(ChannelError, match="E1, E2.*GSN-HydroCel-128"):
        read(raw_of(rng, [f"E{i}" for i in range(1, 129)]))


def _placed(rng, change):
    xyz = np.array([montage("standard_1005")[n] for n in NAMES])
    return from_array(noise(rng), 100.0, NAMES, change(xyz))


@pytest.mark.parametrize(("factor", "unit"), [(1e3, "millimetres"), (1e2, "centimetres")])
def test_positions_in_other_units_are_scaled(rng, factor, unit):
    recording = _placed(rng, lambda xyz: xyz * factor)
    np.testing.assert_allclose(recording.positions, _placed(rng, lambda xyz: xyz).positions)
    assert said(recording, f"positions scaled from {unit}")


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda xyz: xyz * [1, 1, 0], "lie in one plane"),
        (lambda xyz: xyz / np.linalg.norm(xyz, axis=1, keepdims=True), "ignored: median distance"),
        (lambda xyz: np.where(np.arange(11)[:, None] == 5, 0.0, xyz), "standard 10-05 template"),
        (lambda xyz: np.where(np.arange(11)[:, None] == 5, np.nan, xyz), "standard 10-05 template"),
        (lambda xyz: np.where(np.arange(11)[:, None] == 5, 9.0, xyz), "implausible positions"),
        (lambda xyz: np.where(np.arange(11)[:, None] == 5, xyz[4], xyz), "implausible positions"),
        (lambda xyz: np.where(np.arange(11)[:, None] == 5, 0.5 * xyz, xyz), "implausible"),
        (lambda xyz: np.ones_like(xyz) * 0.06, "lie in one plane"),
    ],
    ids=[
        "plane",
        "unit sphere",
        "zero",
        "nan",
        "far away",
        "equal",
        "inside the head",
        "all equal",
    ],
)
def test_positions_that_cannot_be_true_come_from_the_template(rng, change, note):
    recording = _placed(rng, change)
    assert said(recording, note) and said(recording, "taken by name from the standard 10-05")
    np.testing.assert_allclose(recording.positions[5], montage("standard_1005")["Cz"])


def test_equal_positions_in_a_montage_are_refused(rng):
    place = dict(montage("standard_1005"))
    place["C4"] = place["C3"]
    with pytest.raises(ChannelError, match="C3 and C4 have the same position"):
        read(raw_of(rng), montage=place)


# --------------------------------------------------------------------------------------- samples


def test_units(rng):
    volts = from_array(noise(rng), 100.0, NAMES)
    microvolts = from_array(1e6 * noise(np.random.default_rng(0)), 100.0, NAMES, unit="uV")
    np.testing.assert_allclose(microvolts.data, volts.data, rtol=1e-6)
    with pytest.raises(RecordingError, match=r'median absolute amplitude is .* V.*unit="uV"'):
        from_array(1e6 * noise(rng), 100.0, NAMES)
    with pytest.raises(RecordingError, match="unit is 'volt'; expected one of V, mV, uV"):
        from_array(noise(rng), 100.0, NAMES, unit="volt")
    offset = from_array(noise(rng) + 0.05, 100.0, NAMES)  # a direct-coupled amplifier
    assert offset.bads == ()


def test_flat_channels(rng):
    data = noise(rng)
    data[3] = 1e-6
    data[4] = 1e-11 * rng.standard_normal(data.shape[1])
    recording = from_array(data, 100.0, NAMES)
    assert recording.bads == ("F4", "C3") and said(recording, "flat (perhaps the reference)")
    with pytest.raises(ChannelError, match="flat channel F4, C3"):
        from_array(data, 100.0, NAMES, flat="raise")
    with pytest.raises(ChannelError, match="all 11 good channels are flat"):
        from_array(1e-6 * data, 100.0, NAMES)
    with pytest.raises(RecordingError, match="flat is 'drop'; expected 'mark' or 'raise'"):
        from_array(data, 100.0, NAMES, flat="drop")


def test_samples_that_are_not_finite(rng):
    data = noise(rng)
    data[2, 50:60] = np.nan
    data[6, 55:70] = np.inf
    data[8] = np.nan
    data[9, :300] = np.nan
    recording = from_array(data, 100.0, NAMES)
    assert recording.bads == ("P4", "O1") and np.isfinite(recording.data).all()
    expected = np.ones(400, bool)
    expected[50:70] = False
    np.testing.assert_array_equal(recording.usable, expected)
    assert (recording.data[2, 50:60] == 0).all() and said(recording, "not finite set to 0 in F3")
    with pytest.raises(ChannelError, match="channel F3 has 10 samples .* at 0.500 s"):
        from_array(data, 100.0, NAMES, nan="raise")
    # A bad channel's gaps cost nobody any time.
    assert from_array(data, 100.0, NAMES, bads=["F3", "C4"]).usable.all()


def test_breaks_of_arrays(rng):
    recording = from_array(noise(rng), 100.0, NAMES, breaks=np.array([1, 250, 399]))
    assert recording.breaks == (1, 250, 399)
    assert recording.stretches == ((0, 1), (1, 250), (250, 399), (399, 400))
    assert rereference(recording, "average").breaks == recording.breaks
    for breaks in ([0], [400], [300, 200], [200, 200], [-1], [1.5], ["a"]):
        with pytest.raises(RecordingError, match=r"breaks are .*; expected .* from 1 to 399"):
            from_array(noise(rng), 100.0, NAMES, breaks=breaks)


def test_arrays_that_are_no_recording(rng):
    data = noise(rng)
    with pytest.raises(ChannelError, match="11 names for 400 channels of data; transpose"):
        from_array(data.T, 100.0, NAMES)
    with pytest.raises(RecordingError, match=r"shape \(2, 11, 200\); expected real"):
        from_array(data.reshape(11, 2, 200).transpose(1, 0, 2), 100.0, NAMES)
    with pytest.raises(RecordingError, match="data is complex128"):
        from_array(data * 1j, 100.0, NAMES)
    with pytest.raises(RecordingError, match="sampling rate is 0"):
        from_array(data, 0, NAMES)
    with pytest.raises(RecordingError, match="no samples"):
        from_array(data[:, :0], 100.0, NAMES)
    with pytest.raises(ChannelError, match=r"positions have shape \(3, 11\)"):
        from_array(data, 100.0, NAMES, np.zeros((3, 11)))
    with pytest.raises(ChannelError, match="channel Cz occurs twice"):
        from_array(data, 100.0, [*NAMES[:-1], "Cz"])
    with pytest.raises(RecordingError, match="no path.*from_array"):
        read(data)


def test_the_callers_array_is_not_changed(rng):
    data = noise(rng).astype(np.float32)
    data[0, 5] = np.nan
    before = data.copy()
    from_array(data, 100.0, NAMES, unit="V")
    from_array(np.arange(4400).reshape(11, 400) % 97, 100.0, NAMES, unit="uV")
    np.testing.assert_array_equal(data, before)


# ------------------------------------------------------------------------------------- references


def test_average_over_observed_against_mne(rng):
    raw = raw_of(rng)
    recording = read(raw)
    everywhere = rereference(recording, "average")
    expected = raw.copy().set_eeg_reference("average", verbose="ERROR").get_data()
    np.testing.assert_allclose(everywhere.data, expected, atol=1e-11)
    assert everywhere.reference == "average"
    some = rereference(recording, "average", ["Cz", "C3", "fp1"])
    expected = raw.copy().set_eeg_reference(["Cz", "C3", "Fp1"], verbose="ERROR").get_data()
    np.testing.assert_allclose(some.data, expected, atol=1e-11)
    assert said(some, "average of 3 channels")
    np.testing.assert_allclose(read(raw, reference="average").data, everywhere.data)


def test_average_leaves_bad_channels_out(rng):
    raw = raw_of(rng)
    raw.info["bads"] = ["O2"]
    expected = raw.get_data() - raw.get_data()[:-1].mean(0)
    np.testing.assert_allclose(read(raw, reference="average").data, expected, atol=1e-11)
    with pytest.raises(ChannelError, match="reference channel O2 is bad"):
        rereference(read(raw), "average", ["O2", "O1"])


def test_named_reference_against_mne(rng):
    raw = raw_of(rng)
    recording = rereference(read(raw), "Cz")
    expected = raw.copy().set_eeg_reference(["Cz"], verbose="ERROR").get_data()
    np.testing.assert_allclose(recording.data, expected, atol=1e-11)
    assert recording.reference == "Cz" and recording.bads == ("Cz",)
    assert (recording.data[5] == 0).all()
    with pytest.raises(RecordingError, match="native one cannot be restored"):
        rereference(recording, "native")
    with pytest.raises(ChannelError, match="channel Q1 not among"):
        rereference(read(raw), "Q1")
    again = rereference(recording, "average", ["Fp1", "Fp2"])
    np.testing.assert_allclose(again.data, raw.get_data() - raw.get_data()[:2].mean(0), atol=1e-11)


def test_native_changes_nothing(rng):
    recording = read(raw_of(rng))
    assert rereference(recording, "native") is recording


def test_sampling_rate(rng):
    recording = from_array(noise(rng), 128.0, NAMES, source="S088R03")
    require_rate(recording, 128.0)
    with pytest.raises(RecordingError, match="S088R03: sampling rate is 128 Hz, expected 160 Hz"):
        require_rate(recording, 160.0)
