"""`eegsr demo`: one command, the embedded recording, all methods, one table."""

from __future__ import annotations

import json

import pytest

from eegsr_jax.commands.demo import DEMO, METHODS
from eegsr_jax.commands.evaluate import FILES
from eegsr_jax.commands.main import main
from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import prepare
from eegsr_jax.evaluation.folds import Options
from eegsr_jax.methods import METHODS as ALL
from eegsr_jax.methods import GradientStage, make, parse


def test_the_parts_of_the_embedded_recording(tmp_path):
    store = prepare(datasets.load("sample"), tmp_path / "store", PREPROCESSING["default"])
    (fold,) = DEMO.folds(store, Options())
    (train,), (validate,), (test,) = fold.split.train, fold.split.validate, fold.split.test
    samples, gap = store.recordings[0].samples, round(0.5 * store.recordings[0].sfreq)
    assert (train.start, train.stop) == (0, round(0.5 * samples))
    assert validate.start == train.stop + gap and validate.stop == round(0.7 * samples)
    assert test.start == validate.stop + gap and test.stop == samples
    assert not fold.split.leaky


def test_every_method_of_closed_form_is_shown():
    quick = {n for n in ALL if not any(isinstance(s, GradientStage) for s in make(n).stages)}
    assert {method.name for method in parse(METHODS).values()} == quick


@pytest.mark.slow
@pytest.mark.parametrize("recording", ["embedded", "mine"])
def test_the_demo_writes_its_files_and_reads_its_table(tmp_path, capsys, recording, save_raw):
    out, words = tmp_path / "demo", []
    if recording == "mine":
        words = [f"--recording={save_raw(tmp_path / 'my_raw.fif', seconds=40.0)}", "--bads=F3",
                 "--layout=Fp1,F7,Fz,F8,T7,Cz,T8,P7,Pz,P8"]  # fmt: skip
    assert main(["demo", f"--out={out}", *words]) == 0
    said, progress = capsys.readouterr()
    assert sorted(p.name for p in out.iterdir()) == sorted(FILES)
    content = json.loads((out / "results.json").read_text())
    rows = {row["method"]: row for row in content["rows"]}
    assert list(rows) == list(parse(METHODS)) and progress.count("\n") == len(rows)
    counts = {(row["observed"], row["targets"]) for row in rows.values()}
    assert counts == ({(15, 59)} if recording == "embedded" else {(10, 19)})
    best = min(row["nmse_missing"] for row in rows.values())
    for name in ("gaussian", "lagged_ridge", "ridge"):
        assert rows[name]["nmse_missing"] < 0.85 * rows["spherical_spline"]["nmse_missing"]
        assert 0.8 < rows[name]["coverage_90"] < 0.99
    assert min(rows["gaussian"]["nmse_missing"], rows["lagged_ridge"]["nmse_missing"]) == best
    assert "zero" in said and f"look at {out / 'report.html'}" in said
    reading = said.splitlines()[-2]
    assert "reconstructs the missing channels best" in reading and reading.endswith(".")
    assert (out / "report.html").stat().st_size > 100_000
    assert main(["demo", f"--out={out}", *words]) == 2
    assert f"{out} exists; choose another --out, or say --overwrite" in capsys.readouterr().err
