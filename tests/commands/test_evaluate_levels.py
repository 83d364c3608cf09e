"""`eegsr evaluate --level=…`: files, sentences, and what it refuses."""

from __future__ import annotations

import json

import pytest

from eegsr_jax.commands.main import main
from eegsr_jax.evaluation.levels_page import FILES

SIMULATED = [
    "--dataset=simulated",
    "--option=montage=biosemi16",
    "--option=num_runs=2",
    "--option=seconds=16",
    "--option=sfreq=80",
    "--option=num_sources=40",
    "--option=num_subjects=2",
    "--preprocessing=none",
    "--train_runs=1",
    "--test_runs=2",
    "--layout=spread:6",
    "--methods=nearest",
]


def test_the_feature_level(capsys, tmp_path):
    out = tmp_path / "out"
    words = ["evaluate", *SIMULATED, "--level=features", f"--out={out}"]
    assert main(words) == 0
    printed, progress = capsys.readouterr()
    assert sorted(p.name for p in out.iterdir()) == sorted([*FILES["features"], "store"])
    content = json.loads((out / "results.json").read_text())
    assert content["header"]["level"] == "features"
    assert content["header"]["feature_networks"][0]["subject"]["classes"] == 2
    expected = ["truth, other windows", "zero", "nearest", "lagged_ridge"]
    assert [row["method"] for row in content["rows"]] == 2 * expected
    assert all(row["fid"] >= 0 for row in content["rows"])
    assert "spread:6 (6 of 16 electrodes given), native reference: lowest FID: " in printed
    assert str(out / "topographies.png") in printed and progress.count("FID") == 4
    assert main(words) == 2
    assert "results.json exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--level=downstream"], "simulated have neither events nor labels"),
        (["--level=sources"], "level"),
        (["--level=features", "--layout=case9"], "case9"),
    ],
)
def test_what_is_refused(capsys, tmp_path, words, complaint):
    assert main(["evaluate", *SIMULATED, *words, f"--out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1
    assert not (tmp_path / "out" / "results.json").exists()


def test_the_downstream_level_on_real_cues(real_eeg, capsys, tmp_path):
    out = tmp_path / "out"
    root = real_eeg / "eegmmidb"
    words = ["--dataset=eegbci", f"--root={root}", "--subject=1", "--train_runs=4,8"]
    words += ["--test_runs=12", "--methods=nearest", "--layout=case2_4x", "--level=downstream"]
    assert main(["evaluate", *words, f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    content = json.loads((out / "results.json").read_text())
    rows = {(r["method"], r["task"]): r for r in content["rows"]}
    assert len(rows) == 2 * 5
    full = rows["full cap", "left_fist or right_fist"]
    assert full["trials"] == 15 and full["chance"] == 0.5 and 0 <= full["accuracy"] <= 1
    assert rows["observed electrodes", "rest or not"]["trials"] == 30
    assert printed.count("on the observed electrodes alone") == 2
