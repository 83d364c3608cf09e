"""`python -m launch.sweep --backend=slurm`, from its first call to the table of results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launch import board, slurm, sweep

pytestmark = [pytest.mark.cluster]

HERE = Path(sweep.__file__).parents[1]
CONFIG = """
from dataclasses import replace
from eegsr_jax import config
from eegsr_jax.training.experiment import Experiment

def get_config():
    trial = config.from_json(Experiment, {text!r})
    return replace(trial, subjects=("1", "2"), test_subjects=("3",))

def sweep():
    return [{{"seed": 0}}, {{"seed": 1}}]
"""


def test_from_a_config_to_a_table(cluster, experiment, tmp_path):
    from eegsr_jax import config

    file, out = tmp_path / "config.py", tmp_path / "out"
    file.write_text(CONFIG.format(text=config.to_json(experiment(0, epochs=60))))

    def launch(*words: str) -> str:
        program = [sys.executable, "-m", "launch.sweep", *words, f"--out={out}"]
        done = subprocess.run(program, capture_output=True, text=True, cwd=HERE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command = f"--config={file}", "--backend=slurm", "--workers=2", "--cores=1", "--pack=1"
    options = "--slurm=partition=main", "--hours=0.5"
    told = launch(*command, *options)
    assert "3 trials, 0 finished, 3 to run" in told  # the lagged ridge too
    assert "3 tasks handed to Slurm" in told
    assert "in hand: " in launch("status")
    told = launch(*command, *options)
    assert "are in hand already" in told and "handed to Slurm" not in told

    ids = [id for job in board.launches(out) for id in job["ids"].values()]
    cluster.wait_for(lambda: not slurm.alive(ids), "the trials", 240)
    told = launch("status")
    assert "3 trials; 3 finished" in told, told
    assert "lagged_ridge" in launch("collect")
    assert len((out / "results" / "trials.csv").read_text().splitlines()) == 4
