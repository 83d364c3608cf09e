"""Commands, jobs and nodes killed at random moments: nothing finished is lost, nothing spoilt."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from eegsr_jax import config
from launch import board, slurm

from .rig import NODES
from .test_launcher import CONFIG, HERE
from .test_sweeps import processes

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_twenty_kills_of_commands_jobs_and_nodes(cluster, experiment, tmp_path):
    file, out, whole = (tmp_path / name for name in ("config.py", "out", "whole"))
    text = CONFIG.format(text=config.to_json(experiment(0, epochs=40)))
    file.write_text(text.replace('[{"seed": 0}, {"seed": 1}]', '[{"seed": n} for n in range(4)]'))
    given = f"--config={file}", f"--store={tmp_path / 'store'}", "--pack=1", "--workers=2"
    on_slurm = "--backend=slurm", "--cores=1", "--slurm=partition=main", "--retries=9"

    def launch(*words):
        program = [sys.executable, "-m", "launch.sweep", *given, *words]
        done = subprocess.run(program, capture_output=True, text=True, cwd=HERE, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "5 trials; 5 finished" in launch(f"--out={whole}")
    generator, kills, seen = random.Random(1), Counter(), {}

    def look():
        """What is finished stays as it was."""
        for scores in out.glob("*/scores.json"):
            assert seen.setdefault(scores, scores.stat().st_mtime_ns) == scores.stat().st_mtime_ns
        assert all(scores.exists() for scores in seen)

    while kills.total() < 20:
        look()
        if len(seen) == 5:  # done before enough was killed: some trials once more
            for scores in list(seen)[:3]:
                shutil.rmtree(scores.parent)
                del seen[scores]
        launch(f"--out={out}", *on_slurm)
        time.sleep(generator.uniform(1, 12))
        kind = generator.choice(("command", "command", "job", "node"))
        if kind == "node":
            name = generator.choice(NODES)
            cluster.lose_power(name)
            time.sleep(generator.uniform(0, 10))
            cluster.start_node(name)
            kills[kind] += 1
            continue
        words = f"--workdir={out}" if kind == "command" else f"_submit {out}"
        found = processes(words)
        if found:
            try:
                os.kill(generator.choice(found), signal.SIGKILL)
            except ProcessLookupError:
                continue  # it has just ended
            kills[kind] += 1
    for _ in range(3):
        ids = [number for each in board.launches(out) for number in each["ids"].values()]
        cluster.wait_for(lambda ids=ids: not slurm.alive(ids), "the trials", 300)
        look()
        if len(seen) == 5:
            break
        launch(f"--out={out}", *on_slurm)
    assert len(seen) == 5 and min(kills[kind] for kind in ("command", "job", "node")) > 0, kills
    for scores in seen:
        ours, theirs = (
            json.loads(path.read_text())["rows"][0]["nmse_missing"]
            for path in (scores, whole / scores.parent.name / "scores.json")
        )
        assert ours == pytest.approx(theirs, rel=1e-6)
    assert board.trials(out).keys() == board.trials(whole).keys()
