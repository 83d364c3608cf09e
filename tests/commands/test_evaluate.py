"""`eegsr evaluate` end to end on simulated heads: four files and a table with one sentence."""

from __future__ import annotations

import contextlib
import csv
import io
import json

import jax
import pytest

from eegsr_jax.commands.evaluate import FILES
from eegsr_jax.commands.main import main
from eegsr_jax.data.store import open_store

SIMULATED = [
    "--dataset=simulated",
    "--option=montage=biosemi16",
    "--option=num_runs=2",
    "--option=seconds=16",
    "--option=sfreq=80",
    "--option=num_sources=40",
    "--preprocessing=none",
]
RUNS = ["--train_runs=1", "--test_runs=2", "--subject=2"]
LAYOUTS = "--layout=spread:6,random:6:1"
ISSUE_KEYS = (
    "method layout factor reference nmse_missing nmse_all pcc_missing snr_missing_db coverage_90 "
    "fit_seconds times_real_time split seed"
).split()


class Said:
    """What a command left: its status, its two outputs and its folder."""

    def __init__(self, capsys, *words):
        self.status = main(["evaluate", *words])
        self.out, self.err = capsys.readouterr()


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folder of one evaluation, and what it printed."""
    out = tmp_path_factory.mktemp("evaluate") / "out"
    printed, progress = io.StringIO(), io.StringIO()
    with (
        jax.numpy_dtype_promotion("strict"),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(progress),
    ):
        status = main(["evaluate", *SIMULATED, *RUNS, LAYOUTS, "--methods=nearest,ridge",
                       "--reference=native,observed_average", f"--out={out}"])  # fmt: skip
    assert status == 0
    return out, printed.getvalue(), progress.getvalue()


def test_the_files_are_there_and_say_the_same(first):
    out, printed, progress = first
    assert sorted(p.name for p in out.iterdir()) == sorted([*FILES, "store"])
    content = json.loads((out / "results.json").read_text())
    rows = content["rows"]
    # Three methods: the lagged ridge is always there. Two layouts, two references.
    assert len(rows) == 12 and {r["method"] for r in rows} == {"nearest", "ridge", "lagged_ridge"}
    for row in rows:
        assert [key for key in ISSUE_KEYS if key not in row] == []
        assert row["subject"] == "2" and row["factor"] == round(16 / 6, 2)
    with open(out / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12
    for line, row in zip(lines, rows, strict=True):
        assert line["method"] == row["method"] and line["layout"] == row["layout"]
        assert float(line["nmse_missing"]) == pytest.approx(row["nmse_missing"], rel=1e-6)
    page = (out / "report.html").read_text()
    assert "lagged_ridge" in page and "random:6:1" in page
    assert progress.count("\n") == 12 and "missing NMSE" in progress


def test_the_header_says_how_to_get_the_numbers_again(first):
    out, _, _ = first
    header = json.loads((out / "results.json").read_text())["header"]
    assert header["protocol"] == "within_runs" and header["dataset"] == "simulated"
    assert header["leaky"] is False and header["quirks"] == []
    assert set(header["versions"]) >= {"eegsr_jax", "jax", "mne", "numpy"}
    assert set(header["layouts"]) == {"spread:6", "random:6:1"}
    assert "commit" in header and header["licence"] and header["citation"]
    store = open_store(out / "store")
    assert header["recordings"] == {r.key: r.sha256[:16] for r in store.recordings}
    assert [r.subject for r in store.recordings] == ["2", "2"]  # no more than is asked for
    floors = header["floors"]
    assert {f["layout"]: round(f["nmse_all"], 4) for f in floors} == {
        "spread:6": 0.625, "random:6:1": 0.625
    }  # fmt: skip


def test_the_table_is_printed_with_a_reading(first):
    out, printed, _ = first
    table, reading = printed.split("zero", 1)[0], printed.splitlines()[-2]
    assert "NMSE missing" in table
    assert "zero" in printed and "lagged_ridge" in printed and "observed_average" in printed
    assert reading.endswith(".") and "NMSE" in reading
    assert str(out / "report.html") in printed.splitlines()[-1]


def test_results_are_not_overwritten_unasked(first, capsys):
    out, _, _ = first
    before = {p: p.read_bytes() for p in out.iterdir() if p.is_file()}
    said = Said(capsys, *SIMULATED, *RUNS, LAYOUTS, f"--out={out}")
    assert said.status == 2
    assert said.err == (
        f"eegsr evaluate: {out / 'results.json'} exists; choose another --out, or say --overwrite\n"
    )
    assert before == {p: p.read_bytes() for p in out.iterdir() if p.is_file()}


@pytest.mark.slow
def test_a_store_serves_again_and_names_are_a_layout(first, capsys, tmp_path):
    store = first[0] / "store"
    said = Said(capsys, f"--store={store}", "--train_runs=1", "--test_runs=2", "--methods=nearest",
                "--layout=Fz,Cz,Pz,Oz,C3,C4", f"--out={tmp_path / 'out'}")  # fmt: skip
    assert said.status == 0, said.err
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert {r["layout"] for r in rows} == {"Fz,Cz,Pz,Oz,C3,C4"}
    assert {r["observed"] for r in rows} == {6}
    assert not (tmp_path / "out/store").exists()


def test_of_a_store_only_what_is_asked_for_is_taken(first, capsys, tmp_path):
    store, folder = first[0] / "store", tmp_path / "out"
    words = [f"--store={store}", "--train_runs=1", "--test_runs=2", "--methods=nearest"]
    words += ["--layout=spread:6", f"--out={folder}"]
    assert "run '2' does not exist" in Said(capsys, *words, "--runs=1").err
    assert "subject '7' does not exist" in Said(capsys, *words, "--subjects=7").err
    assert Said(capsys, *words, "--runs=1,2", "--subjects=2").status == 0
    header = json.loads((folder / "results.json").read_text())["header"]
    assert len(header["recordings"]) == 2


@pytest.mark.slow
def test_leave_subjects_out_with_calibration(capsys, tmp_path):
    said = Said(capsys, *SIMULATED, "--option=num_subjects=3", "--protocol=leave_subjects_out",
                "--subject=1,3", "--calibration_seconds=0,10", "--layout=spread:6",
                "--methods=nearest", f"--out={tmp_path / 'out'}")  # fmt: skip
    assert said.status == 0, said.err
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    found = {(r["subject"], r["calibration_seconds"], r["method"]) for r in rows}
    methods = ("nearest", "lagged_ridge")
    assert found == {(s, c, m) for s in ("1", "3") for c in (0.0, 10.0) for m in methods}
    ridge = {(r["subject"], r["calibration_seconds"]): r["nmse_missing"]
             for r in rows if r["method"] == "lagged_ridge"}  # fmt: skip
    for subject in ("1", "3"):  # simulated heads have nothing in common
        assert ridge[subject, 10.0] < ridge[subject, 0.0]


@pytest.mark.slow
def test_the_command_of_the_readme_on_real_data(real_eeg, capsys, tmp_path):
    said = Said(capsys, "--dataset=eegbci", f"--root={real_eeg / 'eegmmidb'}",
                "--protocol=within_runs", "--subject=1", "--train_runs=3,4,5,6,7,8,9,10",
                "--test_runs=11,12,13,14", "--layout=case2_4x",
                "--methods=spherical_spline,ridge,lagged_ridge",
                f"--out={tmp_path / 'out'}")  # fmt: skip
    assert said.status == 0, said.err
    content = json.loads((tmp_path / "out/results.json").read_text())
    nmse = {r["method"]: r["nmse_missing"] for r in content["rows"]}
    assert nmse == {
        "spherical_spline": pytest.approx(0.0704, rel=0.03),
        "ridge": pytest.approx(0.0395, rel=0.03),
        "lagged_ridge": pytest.approx(0.0331, rel=0.03),
    }
    assert "50" in content["header"]["preprocessing"]  # the notch of the preset dibima
