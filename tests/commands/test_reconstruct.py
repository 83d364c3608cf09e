"""`eegsr reconstruct`: files in, files out, and what is said about them."""

from __future__ import annotations

import mne
import numpy as np
import pytest

from eegsr_jax.commands.main import main
from eegsr_jax.reconstruct import reconstruct_raw

NAMES = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()
OBSERVED = "Fp1 F7 Fz F8 T7 Cz T8 P7 Pz P8 O1 O2".split()


def read(path):
    return mne.io.read_raw(path, preload=True, verbose="error")


def table(path) -> dict[str, dict[str, str]]:
    header, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_more_electrodes_in_a_new_file_with_its_table(good, tmp_path, capsys):
    out = tmp_path / "more_raw.fif"
    words = ["--target=Cz,FCz,Oz,CPz", "--method=inverse_distance"]
    assert main(["reconstruct", str(good), str(out), *words]) == 0
    said = capsys.readouterr().out
    assert f"{out}: 4 channels, 2 reconstructed\n" in said
    assert "times faster than real time, compiling included" in said
    raw, before = read(out), read(good)
    assert raw.ch_names == ["Cz", "FCz", "Oz", "CPz"]
    np.testing.assert_array_equal(raw.get_data(["Cz", "Oz"]), before.get_data(["Cz", "Oz"]))
    expected = reconstruct_raw(before, ["Cz", "FCz", "Oz", "CPz"], method="inverse_distance")
    np.testing.assert_allclose(raw.get_data(), expected.raw.get_data(), atol=1e-12)
    rows = table(tmp_path / "more_raw_reliability.tsv")
    assert list(rows) == raw.ch_names
    assert [row["status"] for row in rows.values()] == [
        "observed", "reconstructed", "observed", "reconstructed"
    ]  # fmt: skip
    assert rows["FCz"]["expected_nmse"] == "n/a" and 5 < float(rows["FCz"]["angle_deg"]) < 40
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "more_raw.fif",
        "more_raw_reliability.tsv",
    ]


@pytest.mark.parametrize(
    ("what", "value", "note"),
    [("flat", 0.0, "note: flat (perhaps the reference) and marked bad: C3"),
     ("nan", np.nan, "note: channel C3 is not finite for most of the time: marked bad")],
)  # fmt: skip
def test_a_dead_channel_is_repaired_and_told(save_raw, tmp_path, capsys, what, value, note):
    def change(data):
        data[NAMES.index("C3")] = value

    source = save_raw(tmp_path / f"{what}_raw.fif", change=change)
    out = tmp_path / "mended_raw.fif"
    assert main(["reconstruct", str(source), str(out), "--method=nearest"]) == 0
    said = capsys.readouterr().out
    assert note in said and f"{out}: 20 channels, 1 reconstructed" in said
    raw = read(out)
    assert raw.ch_names == NAMES and np.ptp(raw.get_data("C3")) > 1e-6
    kept = tmp_path / "kept_raw.fif"
    assert main(["reconstruct", str(source), str(kept), "--method=nearest", "--bads=keep"]) == 0
    assert read(kept).info["bads"] == ["C3"]
    np.testing.assert_array_equal(read(kept).get_data("C3")[0], value)


def test_a_run_is_used_as_it_was_trained(good, run, save_raw, tmp_path, capsys):
    source = save_raw(tmp_path / "low_raw.fif", names=OBSERVED)
    out = tmp_path / "high_raw.fif"
    assert main(["reconstruct", str(source), str(out), f"--run={run}"]) == 0
    said = capsys.readouterr().out
    assert "20 channels, 8 reconstructed" in said
    assert f"note: run {run} was trained on files at 100 Hz" in said
    raw = read(out)
    assert raw.ch_names == NAMES
    truth = read(good)
    missing = [n for n in NAMES if n not in OBSERVED]
    wrong = (raw.get_data(missing) - truth.get_data(missing)) ** 2
    power = truth.get_data(missing) ** 2
    assert wrong.sum() < 0.3 * power.sum()
    rows = table(tmp_path / "high_raw_reliability.tsv")
    expected = np.mean([float(rows[n]["expected_nmse"]) for n in missing])
    assert 0.3 < expected / (wrong.sum() / power.sum()) < 3


def test_refused_targets_are_noted_unless_asked_for(save_raw, tmp_path, capsys):
    source = save_raw(tmp_path / "front_raw.fif", names=NAMES[:7])
    words = ["reconstruct", str(source)]
    options = ["--target=AFz,Fz,Oz", "--method=nearest"]
    assert main([*words, str(tmp_path / "a_raw.fif"), *options]) == 0
    assert "note: refused, more than 60° from every observed electrode: Oz (" in (
        capsys.readouterr().out
    )
    assert read(tmp_path / "a_raw.fif").ch_names == ["AFz", "Fz"]
    assert main([*words, str(tmp_path / "b_raw.fif"), *options, "--max_angle=180"]) == 0
    assert "note: refused" not in capsys.readouterr().out
    assert read(tmp_path / "b_raw.fif").ch_names == ["AFz", "Fz", "Oz"]


def test_a_bids_recording_gets_a_derivative(save_raw, tmp_path, capsys):
    pytest.importorskip("mne_bids")
    source = save_raw(tmp_path / "sub-07_task-rest_eeg.fif")
    out = tmp_path / "derivatives" / "eegsr_jax"
    words = ["--target=Cz,FCz", "--method=nearest"]
    assert main(["reconstruct", str(source), str(out), *words]) == 0
    (file,) = [p for p in out.rglob("*desc-sr*_eeg.*") if p.suffix in (".vhdr", ".edf", ".fif")]
    assert "sub-07" in file.name and "task-rest" in file.name
    assert str(file) in capsys.readouterr().out
    raw = read(file)
    assert raw.ch_names == ["Cz", "FCz"]
    before = read(source).get_data("Cz")
    np.testing.assert_allclose(raw.get_data("Cz"), before, rtol=1e-3, atol=1e-8)


def test_overwrite_replaces_both_files(good, tmp_path):
    out = tmp_path / "o_raw.fif"
    words = ["reconstruct", str(good), str(out), "--method=nearest"]
    assert main([*words, "--target=Cz,FCz"]) == 0
    assert main([*words, "--target=Cz,POz"]) == 2
    assert read(out).ch_names == ["Cz", "FCz"]
    assert main([*words, "--target=Cz,POz", "--overwrite"]) == 0
    assert read(out).ch_names == ["Cz", "POz"]
    assert list(table(tmp_path / "o_raw_reliability.tsv")) == ["Cz", "POz"]
