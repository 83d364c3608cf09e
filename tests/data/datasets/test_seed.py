"""SEED and SEED-IV on synthetic files of the published layouts; the electrode file."""

import re

import numpy as np
import pytest
import scipy.io

from eegsr_jax.data.datasets import load, seed, seed_channels, seed_iv
from eegsr_jax.errors import ChannelError, DatasetError
from eegsr_jax.geometry import fit_sphere, montage

RIM = 0.51111
# Angle from the nose and arc of some electrodes on an idealised cap; the rest is filled in below.
ANGLES = {"Fp1": -18, "Fpz": 0, "Fp2": 18, "F7": -54, "T7": -90, "T8": 90, "P7": -120, "P8": 120}
ANGLES |= {"PO7": -135, "PO8": 135, "CB1": -150, "CB2": 150, "O1": -165, "Oz": 180, "O2": 165}
SPELT = {"Fp1": "FP1", "Fpz": "FPZ", "Fp2": "FP2", "Oz": "OZ"}


def write_trials(path, trials, samples=50, prefix="djc_eeg", **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int(re.findall(r"\d+", path.stem)[0]))
    arrays = {
        f"{prefix}{i}": rng.standard_normal((62, samples + i)) * 30 for i in range(1, trials + 1)
    }
    arrays |= changes
    scipy.io.savemat(path, {k: v for k, v in arrays.items() if v is not None}, do_compression=True)
    return arrays


def locations():
    """Lines of a `channel_62_pos.locs`: the cap's rim as on disk, the rest from the template."""
    table = montage("standard_1005")
    shared = [n for n in seed_channels.NAMES if n in table]
    centre, _ = fit_sphere(np.stack([table[n] for n in shared]))
    lines = []
    for i, name in enumerate(seed_channels.NAMES, 1):
        if name in ANGLES:
            angle, arc = ANGLES[name], RIM
        else:
            x, y, z = (table[name] - centre) / np.linalg.norm(table[name] - centre)
            angle, arc = np.degrees(np.arctan2(x, y)), np.arccos(z) / np.pi
        lines.append(f"{i}\t{angle:8.3f}\t{arc:.5f}\t{SPELT.get(name, name.upper()):>8}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def flat(tmp_path):
    folder = tmp_path / "Preprocessed_EEG"
    made = {}
    for name in ("1_20131107", "1_20131027", "1_20131030", "10_20131130", "2_20140404"):
        made[name] = write_trials(folder / f"{name}.mat", 15)
    write_trials(folder / "dujingcheng_20131027.mat", 15)
    scipy.io.savemat(folder / "label.mat", {"label": np.zeros((1, 15))})
    return tmp_path, made


def test_flat_layout_sessions_by_date(flat):
    root, made = flat
    dataset = load("seed", root)
    assert len(dataset.entries) == 5 * 15 and "redistribution" in dataset.licence
    keys = [e.key for e in dataset.entries]
    assert keys[:2] == ["sub-1_ses-1_run-1", "sub-1_ses-1_run-2"]
    assert [e.subject for e in dataset.entries[::15]] == ["1", "1", "1", "2", "10"]
    (entry,) = load("seed", root, subjects=1, sessions=2, runs=3).entries
    assert entry.path.endswith("1_20131030.mat") and entry.label == "negative"
    recording = entry.read()
    np.testing.assert_allclose(recording.data, made["1_20131030"]["djc_eeg3"] * 1e-6, rtol=1e-6)
    assert recording.sfreq == 200 and recording.data.dtype == np.float32
    assert recording.names == seed_channels.NAMES
    assert (recording.subject, recording.session, recording.run) == ("1", "2", "3")


@pytest.mark.parametrize("place", ["preprocessed_flat", "SEED_EEG/Preprocessed_EEG", "."])
def test_other_flat_places(place, tmp_path):
    write_trials(tmp_path / place / "3_20140603.mat", 15, prefix="jj_eeg")
    assert len(load("seed", tmp_path).entries) == 15


@pytest.mark.parametrize(
    "place", ["eeg_raw_data", "SEED/eeg_raw_data", "Preprocessed_EEG/eeg_raw_data", "SEED"]
)
def test_layout_by_session(place, tmp_path):
    write_trials(tmp_path / place / "1" / "4_20140621.mat", 15)
    write_trials(tmp_path / place / "3" / "4_20140705.mat", 15)
    assert [(e.subject, e.session) for e in load("seed", tmp_path).entries[::15]] == [
        ("4", "1"),
        ("4", "3"),
    ]
    with pytest.raises(DatasetError, match="session '2' does not exist; present: 1, 3"):
        load("seed", tmp_path, sessions=2)


def test_the_flat_layout_wins(flat):
    root, _ = flat
    write_trials(root / "eeg_raw_data" / "1" / "9_20140620.mat", 15)
    assert {e.subject for e in load("seed", root).entries} == {"1", "2", "10"}


def test_labels_are_the_data_sets_own():
    sign = {"positive": 1, "neutral": 0, "negative": -1}
    assert [sign[x] for x in seed.LABELS] == [1, 0, -1, -1, 0, 1, -1, 0, 1, 1, 0, -1, 0, 1, -1]
    number = {"neutral": 0, "sad": 1, "fear": 2, "happy": 3}
    assert [number[x] for x in seed_iv.LABELS["2"]] == [
        *(2, 1, 3, 0, 0, 2, 0, 2, 3, 3, 2, 3, 2, 0, 1, 1, 2, 1, 0, 3, 0, 1, 3, 1)
    ]
    for labels in seed_iv.LABELS.values():  # each emotion has six clips a session
        assert {labels.count(x) for x in number} == {6} and len(labels) == 24


@pytest.mark.parametrize("place", ["eeg_raw_data", "SEED_IV/eeg_raw_data"])
def test_seed_iv(place, tmp_path):
    made = write_trials(tmp_path / place / "2" / "15_20150508.mat", 24, prefix="tyc_eeg")
    write_trials(tmp_path / place / "1" / "2_20150915.mat", 24)
    assert len(load("seed_iv", tmp_path).entries) == 48
    (entry,) = load("seed_iv", tmp_path, subjects=15, runs=24).entries
    assert (entry.session, entry.label) == ("2", "sad")
    np.testing.assert_allclose(entry.read().data, made["tyc_eeg24"] * 1e-6, rtol=1e-6)


def test_the_wrong_data_set_is_noticed(tmp_path):
    write_trials(tmp_path / "eeg_raw_data" / "1" / "4_20140621.mat", 15)
    with pytest.raises(DatasetError, match="4_20140621.mat holds 15 trials; expected djc_eeg1 to "):
        load("seed_iv", tmp_path)
    write_trials(tmp_path / "eeg_raw_data" / "1" / "4_20140621.mat", 24)
    with pytest.raises(DatasetError, match="holds 24 trials; expected djc_eeg1 to djc_eeg15"):
        load("seed", tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"djc_eeg7": None}, "holds 14 trials; expected djc_eeg1 to djc_eeg15"),
        (
            {"djc_eeg7": np.zeros((61, 9))},
            r"djc_eeg7 has shape \(61, 9\); expected \(62, samples\)",
        ),
    ],
)
def test_wrong_contents_are_named(changes, message, tmp_path):
    write_trials(tmp_path / "Preprocessed_EEG" / "1_20131027.mat", 15, **changes)
    with pytest.raises(DatasetError, match=f"1_20131027.mat.*{message}"):
        load("seed", tmp_path)


def test_files_that_are_no_recordings_are_named(tmp_path):
    path = tmp_path / "Preprocessed_EEG" / "1_20131027.mat"
    path.parent.mkdir()
    scipy.io.savemat(path, {"label": np.zeros(3)})
    with pytest.raises(DatasetError, match="1_20131027.mat holds label; expected arrays named"):
        load("seed", tmp_path)
    path.write_bytes(b"nonsense" * 40)
    with pytest.raises(DatasetError, match="1_20131027.mat cannot be read as a MATLAB file"):
        load("seed", tmp_path)


def test_a_cut_file_is_named_on_reading(tmp_path):
    path = tmp_path / "1_20131027.mat"
    write_trials(path, 15, samples=500)
    (entry,) = load("seed", tmp_path, runs=1).entries
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    with pytest.raises(DatasetError, match="1_20131027.mat: djc_eeg1 cannot be read"):
        entry.read()


def test_matlab_73_says_how_to_mend_it(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "1_20131027.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["djc_eeg1"] = np.zeros((10, 62))
    with open(path, "r+b") as file:  # MATLAB's own mark in front of the HDF5 content
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    with pytest.raises(DatasetError, match="1_20131027.mat is a MATLAB v7.3.*save it with -v7"):
        load("seed", tmp_path)


def test_doubled_sessions_are_refused(tmp_path):
    write_trials(tmp_path / "eeg_raw_data" / "1" / "4_20140621.mat", 15)
    write_trials(tmp_path / "eeg_raw_data" / "1" / "4_20140622.mat", 15)
    with pytest.raises(
        DatasetError, match="4_20140621.mat and .*4_20140622.mat are both subject 4"
    ):
        load("seed", tmp_path)
    for day in (1, 2, 3, 4):
        write_trials(tmp_path / f"4_2014010{day}.mat", 15)
    with pytest.raises(DatasetError, match="4 files of subject 4 .*expected three"):
        load("seed", tmp_path)


# --------------------------------------------------------------------------------------- positions


def unit(points):
    points = points - fit_sphere(points)[0]
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_locations_keep_every_angle_of_the_file_as_mne_reads_it(tmp_path):
    import mne

    path = tmp_path / "channel_62_pos.locs"
    path.write_text(locations())
    ours = seed_channels.read_locations(path)
    theirs = mne.channels.read_custom_montage(path).get_positions()["ch_pos"]
    names = [SPELT.get(n, n.upper()) for n in seed_channels.NAMES]
    theirs = np.stack([theirs[n] for n in names])
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(unit(ours) @ unit(ours).T, theirs @ theirs.T, atol=1e-6)


def test_locations_lie_in_the_head_frame(tmp_path):
    (tmp_path / "channel_62_pos.locs").write_text(locations())
    write_trials(tmp_path / "1_20131027.mat", 15)
    recording = load("seed", tmp_path, runs=1).entries[0].read()
    assert "positions from channel_62_pos.locs" in recording.notes
    template = montage("standard_1005")
    shared = [i for i, n in enumerate(seed_channels.NAMES) if n in template]
    there = np.stack([template[seed_channels.NAMES[i]] for i in shared])
    off = np.linalg.norm(recording.positions[shared] - there, axis=1)
    assert np.median(off) < 0.008 and off.max() < 0.025
    centre, radius = fit_sphere(recording.positions)
    np.testing.assert_allclose(
        np.linalg.norm(recording.positions - centre, axis=1), radius, rtol=1e-5
    )
    at = dict(zip(recording.names, recording.positions, strict=True))
    assert at["T7"][0] < -0.07 < 0.07 < at["T8"][0]  # left is left: no mirror image
    assert at["Fpz"][1] > 0.08 and at["Oz"][1] < -0.05 and at["Cz"][2] > 0.12


def test_the_arc_is_an_angle_and_no_distance_in_the_plane(tmp_path):
    path = tmp_path / "channel_62_pos.locs"
    path.write_text(locations())
    at = dict(zip(seed_channels.NAMES, unit(seed_channels.read_locations(path)), strict=True))
    # two points of the rim, 180 degrees of azimuth apart, are 4 degrees less than a half turn apart
    angle = np.degrees(np.arccos(at["Fpz"] @ at["Oz"]))
    assert angle == pytest.approx(360 - 2 * 180 * RIM, abs=0.01)


def test_the_template_places_cb1_and_cb2_between_their_neighbours(tmp_path):
    write_trials(tmp_path / "1_20131027.mat", 15)
    recording = load("seed", tmp_path, runs=1).entries[0].read()
    assert any("CB1 at POO7, CB2 at POO8" in note for note in recording.notes)
    at = dict(zip(recording.names, recording.positions, strict=True))
    for cb, po, o in (("CB1", "PO7", "O1"), ("CB2", "PO8", "O2")):
        assert np.linalg.norm(at[cb] - (at[po] + at[o]) / 2) < 0.004
    np.testing.assert_allclose(at["CB1"] * [-1, 1, 1], at["CB2"], atol=0.004)
    gaps = np.linalg.norm(recording.positions[:, None] - recording.positions, axis=-1)
    assert gaps[~np.eye(62, dtype=bool)].min() > 0.01


def test_a_given_montage_wins(tmp_path):
    (tmp_path / "channel_62_pos.locs").write_text(locations())
    write_trials(tmp_path / "1_20131027.mat", 15)
    template = montage("standard_1005")
    own = {n: template.get(n, template["Cz"]) * 0.9 for n in seed_channels.NAMES}
    own["CB1"], own["CB2"] = template["PO9"], template["PO10"]
    recording = load("seed", tmp_path, runs=1, montage=own).entries[0].read()
    np.testing.assert_allclose(recording.positions, list(own.values()), atol=1e-7)
    with pytest.raises(ChannelError, match="AF3"):
        lacking = {n: xyz for n, xyz in own.items() if n != "AF3"}
        load("seed", tmp_path, runs=1, montage=lacking).entries[0].read()


def test_damaged_location_files_are_named(tmp_path):
    path = tmp_path / "channel_62_pos.locs"
    path.write_text(locations().replace("CB2", "XX2"))
    with pytest.raises(DatasetError, match="channel_62_pos.locs: no line for CB2"):
        seed_channels.read_locations(path)
    path.write_text("1 -18 FP1\n")
    with pytest.raises(DatasetError, match="line '1 -18 FP1'; expected number, angle, radius"):
        seed_channels.read_locations(path)
