"""`eegsr train`: a file of configs/ or the defaults, changed by --set, become a run directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eegsr_jax import config
from eegsr_jax.commands.main import main
from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import open_store, prepare
from eegsr_jax.evaluation.results import read_json
from eegsr_jax.training.experiment import Experiment, trial_name
from eegsr_jax.training.run import load, load_card

CONFIG = """
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.training.experiment import Experiment

def get_config():
    return Experiment(
        dataset="files",
        preprocessing=PREPROCESSING["none"],
        layout="spread:8",
        method="ridge",
        window_seconds=1.0,
    )
"""


def test_a_run_and_its_store_are_made(run, good):
    card = load_card(run)
    assert card.experiment.root == str(good) and card.experiment.method == "lagged_ridge(lags=2)"
    assert card.experiment.preprocessing.l_freq is None
    assert card.sfreq == 100 and card.recordings == ("sub-good_ses-1_run-1",)
    store = open_store(f"{run}_store", verify=True)
    assert store.preprocessing == card.experiment.preprocessing
    method, params, where = load(run)
    assert method.name == "lagged_ridge" and params["filters"].shape == (5, 20, 12)
    assert len(where.observed_names) == 12


def test_a_config_file_with_changes(good, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(CONFIG)
    words = [f"--config={tmp_path / 'mine.py'}", "--set", f"root={good}", "--set", "method=nearest"]
    out = tmp_path / "run"
    assert main(["train", *words, f"--workdir={out}", f"--store={tmp_path / 'store'}"]) == 0
    assert capsys.readouterr().out == f"{out}: nearest on 1 recordings of files\n"
    card = load_card(out)
    assert (card.experiment.method, card.experiment.window_seconds) == ("nearest", 1.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.py", "run", "store"]


def test_a_mesh_that_cannot_be_is_refused(tmp_path, capsys):
    assert main(["train", f"--workdir={tmp_path / 'run'}", "--set", "mesh=time:2"]) == 2
    assert "mesh 'time:2': 'time:2'; expected AXIS:SIZE" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_mesh_for_a_closed_form_is_refused(tmp_path, capsys):
    words = ["--set", "method=ridge", "--set", "mesh=windows:2"]
    assert main(["train", f"--workdir={tmp_path / 'run'}", *words]) == 2
    assert "ridge: trained in closed form, on one device; leave mesh" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", sorted(Path(__file__).parents[2].glob("configs/*.py")))
def test_the_configs_that_come_with_the_project_are_valid(file, tmp_path, capsys):
    """Everything up to the data, which are not here."""
    words = ["--set", f"root={tmp_path / 'nowhere'}", f"--workdir={tmp_path / 'run'}"]
    assert main(["train", f"--config={file}", *words]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_run_with_test_data_is_scored(tmp_path, capsys):
    out = tmp_path / "run"
    words = [f"--set={k}" for k in ("dataset=simulated", "preprocessing.l_freq=none")]
    words += ["--set=preprocessing.h_freq=none", "--set=subjects=1,2,3", "--set=test_subjects=3"]
    assert main(["train", f"--workdir={out}", *words, "--set=method=ridge"]) == 0
    said = capsys.readouterr().out
    (row,) = read_json(out / "scores.json")[1]
    assert f"missing NMSE {row['nmse_missing']:.4f} on test data" in said
    assert (row["subject"], row["method"], row["protocol"]) == ("3", "ridge", "leave_subjects_out")
    assert row["training_seed"] is None and 0 < row["nmse_missing"] < 1
    assert set(load_card(out).recordings) == {"sub-1_ses-1_run-1", "sub-2_ses-1_run-1"}


def test_a_file_of_experiments_is_a_sweep(tmp_path, capsys):
    trials = [Experiment(dataset="simulated", method=m) for m in ("ridge", "nearest")]
    trials = [replace(e, preprocessing=PREPROCESSING["none"], subjects=("1",)) for e in trials]
    file, store, out = (tmp_path / name for name in ("trials.json", "store", "out"))
    file.write_text(config.list_to_json(trials))
    words = ["train", "--sweep", f"--config={file}", f"--workdir={out}"]
    assert main(words) == 2
    assert "--store" in capsys.readouterr().err
    prepare(datasets.load("simulated", subjects=["1"]), store, PREPROCESSING["none"])
    assert main([*words, f"--store={store}"]) == 0
    assert capsys.readouterr().out == f"{out}: 2 runs complete\n"
    made = sorted(path.name for path in out.iterdir() if path.name[0] != ".")
    assert made == sorted(map(trial_name, trials))
    file.write_text("[]")
    assert main([*words, f"--store={store}"]) == 2
    assert "trials.json: expected an array of Experiments, not empty" in capsys.readouterr().err
    file.write_text('[{"type": "Experiment", "metod": "ridge"}]')
    assert main([*words, f"--store={store}"]) == 2
    assert "metod; did you mean" in capsys.readouterr().err
