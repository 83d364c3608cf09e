"""From MNE objects to MNE objects: what stays, what is made, what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mne
import numpy as np
import pytest

from eegsr_jax import geometry as geo
from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import prepare
from eegsr_jax.errors import ChannelError, ConfigError, EEGSRError, MethodError, RecordingError
from eegsr_jax.layouts import EEGMMIDB
from eegsr_jax.methods import make
from eegsr_jax.reconstruct import reconstruct_raw
from eegsr_jax.training.experiment import Experiment
from eegsr_jax.training.run import load, train

NAMES = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()
SFREQ = 100.0


@pytest.fixture(scope="module")
def template():
    return geo.montage("standard_1005")


@pytest.fixture(scope="module")
def make_raw(template):
    """`make_raw(names, seconds)`: smooth fields, about 20 µV, and a stimulus channel."""

    def make_one(names=NAMES, seconds=6.0, sfreq=SFREQ, positions=template):
        place = np.stack([positions[n] for n in names])
        time = np.arange(round(seconds * sfreq)) / sfreq
        rng = np.random.default_rng(4)
        waves = np.stack([np.sin(2 * np.pi * (3 + 2 * i) * time + i) for i in range(6)])
        waves += 0.3 * rng.standard_normal(waves.shape)
        centres = rng.standard_normal((6, 3))
        centres *= 0.1 / np.linalg.norm(centres, axis=1, keepdims=True)
        field = np.exp(-((place[:, None] - centres[None]) ** 2).sum(-1) / 0.1**2)
        data = 2e-5 * field @ waves + 1e-7 * rng.standard_normal((len(names), len(time)))
        info = mne.create_info([*names, "STI"], sfreq, ["eeg"] * len(names) + ["stim"])
        raw = mne.io.RawArray(np.vstack([data, time // 1]), info, verbose="error")
        dig = mne.channels.make_dig_montage({n: positions[n] for n in names}, coord_frame="head")
        return raw.set_montage(dig)

    return make_one


@pytest.fixture
def raw(make_raw):
    return make_raw()


def status(done) -> dict[str, str]:
    return {row["name"]: row["status"] for row in done.reliability}


# ---------------------------------------------------------------------------------- what it keeps


def test_bad_channels_are_repaired_as_mne_does(raw):
    raw.info["bads"] = ["Cz", "P8"]
    before = raw.get_data()
    done = reconstruct_raw(raw, method="spherical_spline")
    expected = raw.copy().interpolate_bads(method={"eeg": "spline"}, verbose="error")
    assert done.raw.ch_names == raw.ch_names and done.raw.info["bads"] == []
    np.testing.assert_allclose(
        done.raw.get_data("eeg"), expected.get_data("eeg"), rtol=0, atol=1e-6 * 2e-5
    )
    np.testing.assert_array_equal(raw.get_data(), before)  # what went in is as it was
    assert raw.info["bads"] == ["Cz", "P8"]
    good = [n for n in NAMES if n not in ("Cz", "P8")]
    np.testing.assert_array_equal(done.raw.get_data(good), raw.get_data(good))  # bit for bit
    np.testing.assert_array_equal(done.raw.get_data("STI"), raw.get_data("STI"))
    assert [n for n, s in status(done).items() if s == "reconstructed"] == ["Cz", "P8"]
    assert "2 of 20 channels reconstructed by spherical_spline" in done.raw.info["description"]
    assert done.times_real_time > 0


def test_bad_channels_may_be_kept(raw):
    raw.info["bads"] = ["Cz"]
    done = reconstruct_raw(raw, ["Fz", "Cz", "FCz"], method="nearest", bads="keep")
    assert done.raw.ch_names == ["Fz", "Cz", "FCz", "STI"] and done.raw.info["bads"] == ["Cz"]
    np.testing.assert_array_equal(done.raw.get_data("Cz"), raw.get_data("Cz"))
    assert status(done) == {"Fz": "observed", "Cz": "bad, kept", "FCz": "reconstructed"}
    # Cz is nearest to FCz, but what is bad is no input.
    nearest = done.raw.get_data("FCz")
    assert not np.array_equal(nearest, raw.get_data("Cz"))
    np.testing.assert_allclose(nearest, raw.get_data("Fz"), rtol=1e-6)


def test_a_file_gives_what_its_object_gives(raw, tmp_path):
    raw.info["bads"] = ["C4"]
    raw.save(tmp_path / "one_raw.fif", fmt="double", verbose="error")
    here, there = (
        reconstruct_raw(source, method="inverse_distance")
        for source in (raw, str(tmp_path / "one_raw.fif"))
    )
    np.testing.assert_array_equal(here.raw.get_data(), there.raw.get_data())
    for one, other in zip(here.reliability, there.reliability, strict=True):
        assert one["status"] == other["status"]
        assert one["angle_deg"] == pytest.approx(other["angle_deg"], abs=1e-5)


def test_nothing_to_do_changes_nothing(raw):
    done = reconstruct_raw(raw, method="nearest")
    np.testing.assert_array_equal(done.raw.get_data(), raw.get_data())
    assert set(status(done).values()) == {"observed"}


def test_where_inputs_are_not_finite_so_is_the_result(raw):
    data = raw.get_data()
    data[3, 200:230] = np.nan
    holed = mne.io.RawArray(data, raw.info, verbose="error")
    done = reconstruct_raw(holed, ["F3", "FCz"], method="spherical_spline")
    made = done.raw.get_data("FCz")[0]
    assert np.isnan(made[200:230]).all() and np.isfinite(np.delete(made, np.s_[200:230])).all()
    np.testing.assert_array_equal(done.raw.get_data("F3")[0], data[3])  # NaN and all
    whole = reconstruct_raw(raw, ["F3", "FCz"], method="spherical_spline").raw.get_data("FCz")[0]
    np.testing.assert_allclose(made[:200], whole[:200], atol=1e-12)
    assert any("not finite" in note and "F3" in note for note in done.notes)


def test_a_flat_channel_is_no_input_and_is_repaired(raw):
    data = raw.get_data()
    data[NAMES.index("Pz")] = 3e-6
    flat = mne.io.RawArray(data, raw.info, verbose="error")
    done = reconstruct_raw(flat, method="inverse_distance")
    assert status(done)["Pz"] == "reconstructed" and np.ptp(done.raw.get_data("Pz")) > 1e-6
    assert any("flat" in note and "Pz" in note for note in done.notes)


# -------------------------------------------------------------------------------------- targets


def test_targets_by_montage_name_names_mapping_and_file(raw, template, tmp_path):
    wanted = ["Cz", "FC1", "Oz", "POz"]
    file = tmp_path / "cap.tsv"
    rows = ["\t".join([n, *map(str, template[n].tolist())]) for n in wanted]
    file.write_text("\n".join(["name\tx\ty\tz", *rows]) + "\n")
    dig = mne.channels.make_dig_montage({n: template[n] for n in wanted}, coord_frame="head")
    found = [
        reconstruct_raw(raw, target, method="spherical_spline")
        for target in (
            wanted,
            "Cz, FC1, Oz, POz",
            ["cz", "FC1", "OZ", "poz."],
            {n: template[n] for n in wanted},
            str(file),
            dig,
        )
    ]
    for done in found:
        assert done.raw.ch_names == [*wanted, "STI"]
        assert status(done) == dict.fromkeys(wanted, "reconstructed") | {
            "Cz": "observed", "Oz": "observed"
        }  # fmt: skip
        place = done.raw.get_montage().get_positions()["ch_pos"]
        for name in wanted:
            np.testing.assert_allclose(place[name], template[name], atol=1e-5)
        np.testing.assert_allclose(
            done.raw.get_data("eeg"), found[0].raw.get_data("eeg"), rtol=0, atol=1e-4 * 2e-5
        )
        assert not [n for n in done.notes if "template" in n]


def test_a_whole_montage_in_its_order(raw):
    done = reconstruct_raw(raw, "biosemi32", method="nearest")
    assert done.raw.ch_names == [*geo.montage("biosemi32"), "STI"]
    for name, was in status(done).items():
        assert was == ("observed" if name in NAMES else "reconstructed")
    np.testing.assert_array_equal(done.raw.get_data(NAMES), raw.get_data(NAMES))


def test_a_template_is_fitted_to_the_recorded_head(make_raw, template):
    small = {n: 0.8 * xyz + [0, 0.01, 0.02] for n, xyz in template.items()}
    done = reconstruct_raw(make_raw(positions=small), ["FCz", "Cz"], method="nearest")
    place = done.raw.get_montage().get_positions()["ch_pos"]
    np.testing.assert_allclose(place["FCz"], small["FCz"], atol=1e-5)
    assert any("template scaled by 0.80 and moved" in note for note in done.notes)
    # Without a common name the spheres of all electrodes serve, which is less exact.
    names = {f"E{i}": small[n] for i, n in enumerate(NAMES)}
    other = make_raw(names=list(names), positions=names)
    done = reconstruct_raw(other, ["FCz", "Cz"], method="nearest")
    place = done.raw.get_montage().get_positions()["ch_pos"]
    np.testing.assert_allclose(place["FCz"], small["FCz"], atol=6e-3)


def test_a_name_that_means_another_place_here_is_left_out(make_raw):
    """A1 is an ear lobe in the 10-20 system and the vertex of a BioSemi cap; C3 lies elsewhere."""
    cap = geo.montage("biosemi128")
    names = ["A1", "A7", "A19", "A23", "B2", "B10", "B20", "B26", "C3", "C7", "C17", "C21", "C29",
             "D4", "D7", "D19", "D23", "D31"]  # fmt: skip
    raw = make_raw(names=names, positions=cap)
    done = reconstruct_raw(raw, "standard_1020", method="nearest")
    (note,) = [n for n in done.notes if "left out" in n and "elsewhere" in n]
    assert "A1" in note and "C3" in note
    assert "A1" not in done.raw.ch_names and "C3" not in done.raw.ch_names
    # They still go in: the vertex electrode is nearest to Cz.
    np.testing.assert_allclose(
        done.raw.get_data("Cz"), raw.get_data("A1").astype(np.float32), rtol=1e-6
    )
    assert set(status(done).values()) == {"reconstructed"}


def test_targets_beyond_reach_are_refused_by_name(make_raw):
    front = make_raw(names=["Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8"])
    targets = ["AFz", "FCz", "Oz", "Iz", "Fz"]
    done = reconstruct_raw(front, targets, method="nearest")
    assert done.raw.ch_names == ["AFz", "FCz", "Fz", "STI"]
    (note,) = [n for n in done.notes if "refused" in n]
    assert "more than 60°" in note and "Oz (" in note and "Iz (" in note and "AFz" not in note
    kept = reconstruct_raw(front, targets, method="nearest", max_angle=180)
    assert kept.raw.ch_names == [*targets, "STI"]
    assert not [n for n in kept.notes if "refused" in n]
    angles = {row["name"]: row["angle_deg"] for row in kept.reliability}
    assert angles["Fz"] == 0 < angles["AFz"] < 30 < 60 < min(angles["Oz"], angles["Iz"])
    with pytest.raises(ChannelError, match="all 2 targets are more than 60°"):
        reconstruct_raw(front, ["Oz", "Iz"], method="nearest")


# ------------------------------------------------------------------------------- epochs and evoked


def test_epochs_come_back_as_epochs(raw):
    raw.info["bads"] = ["Cz"]
    events = np.array([[50, 0, 1], [150, 0, 2], [400, 0, 1]])
    epochs = mne.Epochs(raw, events, tmin=0, tmax=0.99, baseline=None, preload=True,
                        picks="all", verbose="error")  # fmt: skip
    done = reconstruct_raw(epochs, method="spherical_spline")
    expected = epochs.copy().interpolate_bads(method={"eeg": "spline"}, verbose="error")
    assert isinstance(done.raw, mne.BaseEpochs)
    np.testing.assert_array_equal(done.raw.events, epochs.events)
    np.testing.assert_allclose(
        done.raw.get_data("eeg"), expected.get_data("eeg"), rtol=0, atol=1e-6 * 2e-5
    )
    evoked = epochs.average()
    done = reconstruct_raw(evoked, method="spherical_spline")
    assert isinstance(done.raw, mne.Evoked)
    np.testing.assert_allclose(done.raw.data, expected.average().data, rtol=0, atol=1e-6 * 2e-5)


# ------------------------------------------------------------------------------------------ runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A lagged ridge that observes 12 of the 20 channels at 100 Hz."""
    folder = tmp_path_factory.mktemp("run")
    dataset = datasets.load(
        "simulated", montage=NAMES, num_subjects=1, seconds=20.0, sfreq=SFREQ, num_sources=40
    )
    store = prepare(dataset, folder / "store", PREPROCESSING["none"], progress=False)
    experiment = Experiment(
        preprocessing=PREPROCESSING["none"],
        layout="Fp1,F7,Fz,F8,T7,Cz,T8,P7,Pz,P8,O1,O2",
        method="lagged_ridge(lags=3)",
    )
    with jax.numpy_dtype_promotion("strict"):
        train(experiment, store, folder / "run")
    return folder / "run"


def test_a_run_reconstructs_what_it_has_learned(raw, run):
    done = reconstruct_raw(raw.copy().drop_channels(["C3"]), ["C3", "Fz", "Cz"], run=run)
    method, params, where = load(run)
    x = raw.get_data(list(where.observed_names)).astype(np.float32)
    mean = method.apply(method.plan(params, where), jnp.asarray(x[None]), None).mean[0]
    np.testing.assert_allclose(
        done.raw.get_data("C3")[0], mean[NAMES.index("C3")], atol=1e-6 * 2e-5
    )
    assert status(done) == {"C3": "reconstructed", "Fz": "observed", "Cz": "observed"}
    assert "reconstructed by run run (lagged_ridge)" in done.raw.info["description"]
    (note,) = [n for n in done.notes if n.startswith("run ")]
    assert "100 Hz" in note and "native reference" in note


def test_a_run_gives_what_it_was_trained_to_give(raw, run, make_raw):
    observed = list(load(run)[2].observed_names)
    low = raw.copy().pick([*observed, "STI"])
    done = reconstruct_raw(low, run=run)  # no target: all that it knows
    assert done.raw.ch_names == [*NAMES, "STI"]
    made = [n for n, s in status(done).items() if s == "reconstructed"]
    assert made == [n for n in NAMES if n not in observed]
    np.testing.assert_array_equal(done.raw.get_data(observed), low.get_data(observed))
    more = reconstruct_raw(make_raw(names=[*NAMES, "FC5"]), ["F3", "C4", "FC5"], run=run)
    assert status(more) == dict.fromkeys(["F3", "C4", "FC5"], "observed")
    with pytest.raises(
        ChannelError, match=r"target FCz, POz: run .*run \(lagged_ridge\) was trained.* 20 channels"
    ):
        reconstruct_raw(low, ["FCz", "C3", "POz"], run=run)


def test_epochs_are_no_neighbours_in_time(raw, run):
    """What looks sideways stays inside an epoch, as in training."""
    raw = raw.copy().drop_channels(["C3"])
    events = np.array([[0, 0, 1], [250, 0, 1], [90, 0, 1]])
    epochs = mne.Epochs(raw, events[np.argsort(events[:, 0])], tmin=0, tmax=0.79, baseline=None,
                        preload=True, verbose="error")  # fmt: skip
    together = reconstruct_raw(epochs, ["C3", "Cz"], run=run).raw.get_data("C3")
    for i in range(3):
        alone = reconstruct_raw(epochs[i], ["C3", "Cz"], run=run).raw.get_data("C3")
        np.testing.assert_allclose(together[i], alone[0], atol=1e-12)


def test_a_run_says_what_does_not_fit(make_raw, run, raw, tmp_path):
    with pytest.raises(RecordingError, match="sampling rate is 128 Hz, expected 100 Hz"):
        reconstruct_raw(make_raw(sfreq=128.0), run=run)
    with pytest.raises(ChannelError, match="trained to observe 12 channels; Cz, O1 missing or bad"):
        reconstruct_raw(raw.copy().drop_channels(["Cz", "O1"]), run=run)
    raw.info["bads"] = ["Pz"]
    with pytest.raises(ChannelError, match="12 channels; Pz missing or bad"):
        reconstruct_raw(raw, run=run)
    with pytest.raises(ConfigError, match="is no run directory"):
        reconstruct_raw(raw, run=tmp_path)


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "ridge"}, MethodError, "ridge needs training.*eegsr train.*population"),
        ({"method": "splines"}, ConfigError, "'splines' is unknown.*spherical_spline"),
        ({"bads": "drop"}, ConfigError, "bads='drop': expected 'repair' or 'keep'"),
        ({"max_angle": -1}, ConfigError, "max_angle=-1: expected 0 to 180"),
        ({"max_angle": np.nan}, ConfigError, "max_angle=nan"),
        ({"target": "biosemi65"}, ChannelError, "'biosemi65' is neither a file nor"),
        ({"target": ["Cz", "XX9", "YY"]}, ChannelError, "target XX9, YY: neither in the recording"),
        ({"target": {"Cz": [0, 0, np.nan]}}, ChannelError, "position of Cz"),
        (
            {"target": {"Aa": [0, 0, 0.1], "Bb": [0, 0, 0.1]}},
            ChannelError,
            "Aa and Bb have the same",
        ),
        ({"montage": "nowhere"}, ChannelError, "'nowhere'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(raw, options, error, message):
    with pytest.raises(error, match=message) as caught:
        reconstruct_raw(raw, **options)
    assert "\n" not in str(caught.value) and isinstance(caught.value, EEGSRError)


def test_a_method_object_needs_no_name(raw):
    raw.info["bads"] = ["Cz"]
    by_object = reconstruct_raw(raw, method=make("inverse_distance", power=1.0))
    by_name = reconstruct_raw(raw, method="inverse_distance")
    assert not np.allclose(by_object.raw.get_data("Cz"), by_name.raw.get_data("Cz"), atol=1e-8)
    with pytest.raises(MethodError, match="needs training"):
        reconstruct_raw(raw, method=make("lagged_ridge"))


def test_a_method_that_cannot_tell_says_so(raw):
    raw.info["bads"] = ["Cz"]
    rows = {r["name"]: r for r in reconstruct_raw(raw, method="spherical_spline").reliability}
    assert np.isnan(rows["Cz"]["expected_nmse"]) and np.isinf(rows["Cz"]["std_uV"])
    assert rows["Fz"]["expected_nmse"] == 0 and rows["Fz"]["std_uV"] == 0


# -------------------------------------------------------------------------------------- real data


def test_reliability_means_something_on_real_data(real_eeg):
    """16 channels in, 64 out: the table expects errors of the size that is there."""
    raw = mne.io.read_raw_edf(real_eeg / "eegmmidb/S002R04.edf", preload=True, verbose="error")
    mne.datasets.eegbci.standardize(raw)
    raw.set_montage("colin27_1005").filter(0.5, 40, verbose="error").crop(0, 40)
    low = raw.copy().pick(EEGMMIDB["case2_4x"].split())
    done = reconstruct_raw(low, raw.ch_names, max_angle=180)
    assert done.raw.ch_names == raw.ch_names
    truth, mean = raw.get_data(), done.raw.get_data()
    rows = [r for r in done.reliability if r["status"] == "reconstructed"]
    assert len(rows) == 48
    place = [raw.ch_names.index(r["name"]) for r in rows]
    actual = ((mean - truth)[place] ** 2).sum(1) / (truth[place] ** 2).sum(1)
    expected = np.array([r["expected_nmse"] for r in rows])
    assert ((expected > 0) & (expected < 1)).all()
    assert 0.5 < np.median(expected) / np.median(actual) < 2
    ranks = [np.argsort(np.argsort(a)) for a in (expected, actual)]
    assert np.corrcoef(ranks)[0, 1] > 0.4
    std = 1e-6 * np.array([r["std_uV"] for r in rows])
    inside = np.abs((mean - truth)[place]) < 1.645 * std[:, None]
    assert 0.75 < inside.mean() < 0.99
    assert {r["rank"] for r in rows} == {16}
    np.testing.assert_array_equal(done.raw.get_data(low.ch_names), low.get_data())
