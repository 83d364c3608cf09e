"""`eegsr train`: a file of configs/ or the defaults, changed by --set, become a run directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from eegsr_jax.commands.main import main
from eegsr_jax.data.store import open_store
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


@pytest.mark.parametrize("config", sorted(Path(__file__).parents[2].glob("configs/*.py")))
def test_the_configs_that_come_with_the_project_are_valid(config, tmp_path, capsys):
    """Everything up to the data, which are not here."""
    words = ["--set", f"root={tmp_path / 'nowhere'}", f"--workdir={tmp_path / 'run'}"]
    assert main(["train", f"--config={config}", *words]) == 2
    assert "nowhere" in capsys.readouterr().err
