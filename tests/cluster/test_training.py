"""Training under a real Slurm, started as a user would without the launcher: `sbatch`, `srun`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from eegsr_jax import config
from eegsr_jax.training.experiment import trial_name
from eegsr_jax.training.run import load

pytestmark = [pytest.mark.cluster]


def metrics(run: Path) -> list[dict]:
    record = run / "metrics.jsonl"
    lines = record.read_text().splitlines() if record.exists() else []
    return [{k: v for k, v in json.loads(s).items() if k != "seconds_per_step"} for s in lines]


@pytest.mark.parametrize(("nodes", "count"), [(1, 200), (2, 60)])
def test_requeued_in_mid_training_it_goes_on_to_the_same_bits(
    nodes, count, cluster, store, experiment, tmp_path
):
    """Of two elements of an array, which train the same, the first is requeued.

    Over two nodes, a process on each, all save and go on at the same step.
    """
    trial = experiment(5, count)
    (tmp_path / "trial.json").write_text(config.list_to_json([trial]))
    command = f"{sys.executable} -m eegsr_jax.commands.main train --sweep"
    files = f"--config={tmp_path}/trial.json --workdir={tmp_path}/$SLURM_ARRAY_TASK_ID"
    job = cluster.ask(
        *("sbatch", "--parsable", "--array=0-1", "--requeue", "--open-mode=append"),
        *(f"--nodes={nodes}", "--ntasks-per-node=1", f"--output={tmp_path}/%a.out"),
        *("--wrap", f"srun {command} {files} --store={store}"),
    ).strip()
    stopped, whole = (tmp_path / str(number) / trial_name(trial) for number in range(2))
    cluster.wait_for(lambda: len(metrics(stopped)) > 3, "some epochs", 180)
    cluster.ask("scontrol", "requeue", f"{job}_0")
    done = cluster.end_of(job)
    said = (tmp_path / "0.out").read_text()
    assert done == {f"{job}_0": "COMPLETED", f"{job}_1": "COMPLETED"}, said
    assert said.count("stopped, and saved; the same command goes on") == 1, said

    rows = metrics(whole)
    assert [row["epoch"] for row in rows] == [*range(count + 1)]
    assert metrics(stopped) == rows
    (_, one, _), (_, other, _) = load(stopped), load(whole)
    jax.tree.map(np.testing.assert_array_equal, one, other)
