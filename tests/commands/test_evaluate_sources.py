"""`eegsr evaluate --protocol=sources`: files, sentences, and flags that mean nothing to it."""

from __future__ import annotations

import json

import pytest

from eegsr_jax.commands.main import main
from eegsr_jax.evaluation.sources_page import FILES

SMALL = [
    "--protocol=sources",
    "--option=num_subjects=1",
    "--option=train_seconds=20",
    "--option=positions=1",
    "--option=eccentricities=0.5,0.8",
    "--option=snr_db=20",
    "--option=sfreq=80",
    "--option=spacing_mm=25",
    "--methods=nearest",
    "--option=montage=Fp1,Fp2,F7,F3,Fz,F4,F8,T7,C3,Cz,C4,T8,P7,P3,Pz,P4,P8,O1,O2,Oz",
    "--layout=case2_8x",
]


def test_files_and_sentences(capsys, tmp_path):
    out = tmp_path / "out"
    assert main(["evaluate", *SMALL, f"--out={out}"]) == 0
    printed, progress = capsys.readouterr()
    assert sorted(p.name for p in out.iterdir()) == sorted(FILES)
    content = json.loads((out / "results.json").read_text())
    assert content["header"]["protocol"] == "sources"
    assert content["header"]["simulation"]["eccentricities"] == [0.5, 0.8]
    assert {"nearest", "lagged_ridge"} < {row["method"] for row in content["rows"]}
    assert printed.startswith("case2_8x (8 electrodes): eLORETA misses one source by")
    assert str(out / "results.md") in printed and progress.count("missing NMSE") == 2
    assert main(["evaluate", *SMALL, f"--out={out}"]) == 2
    assert "exists; choose another --out, or say --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--dataset=sample"], "--dataset means nothing to protocol sources"),
        (["--train_runs=1"], "--train_runs means nothing to protocol sources"),
        (["--reference=observed_average"], "--reference means nothing to protocol sources"),
        (["--option=heads=3"], "heads"),
        (["--option=positions"], "--option=positions: expected --option=NAME=VALUE"),
        (["--option=positions=many"], "positions"),
        (["--option=positions=0"], "positions is 0; expected 1 or more"),
        (["--methods=emagg"], "method 'emagg' is unknown"),
        (["--layout=case9"], "case9"),
    ],
)
def test_wrong_flags_are_named(capsys, tmp_path, words, complaint):
    assert main(["evaluate", *SMALL, *words, f"--out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
