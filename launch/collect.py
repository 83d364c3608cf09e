"""All scores of a sweep: a tidy table of its trials, and the pages that `eegsr evaluate` writes."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eegsr_jax.commands import evaluate
from eegsr_jax.data.store import Store, open_store
from eegsr_jax.errors import ConfigError
from eegsr_jax.evaluation.protocols import protocol
from eegsr_jax.evaluation.results import read_json, write_csv
from eegsr_jax.evaluation.trial import SCORES, stretch_of_runs
from eegsr_jax.training.experiment import Experiment
from launch.board import label, states, trials, varying

RESULTS = "results"
_ON_A_PAGE = "method seed mesh layout subjects test_subjects root writers".split()
_NO_CASE = "method", "seed", "mesh"  # of experiments that differ in nothing else, all see the same


def collect(out: Path, store: Path, command: str) -> list[Path]:
    """Write `out/results`: trials.csv (and .parquet where pyarrow is), and pages.

    A folder has what belongs on one page: a protocol, and each value of other fields that vary.
    Trials without a result are in trials.csv too, with how they stand.

    Returns:
      The files.

    Raises:
      ConfigError: no sweep there, or no trial with scores.
    """
    experiments = trials(out)
    found = states(out, experiments)
    rows: dict[str, dict[str, Any]] = {}
    for name in experiments:
        if found[name] == "finished" and (out / name / SCORES).exists():
            rows[name] = read_json(out / name / SCORES)[1][0]
    if not rows:
        raise ConfigError(f"{out}: no trial has scores yet; look at `launch.sweep status`")
    results = out / RESULTS
    results.mkdir(exist_ok=True)
    files = _table(results, experiments, found, rows)
    opened = open_store(store)
    for folder, own in _cases(experiments, rows).items():
        name = next(iter(own.values()))["protocol"]
        head = evaluate.header(protocol(name), opened, list(own.values())) | {"command": command}
        example = _example({trial: experiments[trial] for trial in own}, out, opened)
        evaluate.write(results / folder, head, list(own.values()), example, overwrite=True)
        files += [results / folder / file for file in evaluate.FILES]
    return files


def _cases(
    experiments: dict[str, Experiment], rows: dict[str, dict[str, Any]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows that one page may have: they differ in what a page tells apart, and in nothing else."""
    several = [name for name in varying(experiments.values()) if name not in _ON_A_PAGE]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for trial, row in rows.items():
        words = [row["protocol"], *label(experiments[trial], several).split()]
        folder = re.sub(r"[^\w.,=-]", "-", "_".join(words))
        found.setdefault(folder, {})[trial] = row
    return found


def _table(
    results: Path,
    experiments: dict[str, Experiment],
    found: dict[str, str],
    rows: dict[str, dict[str, Any]],
) -> list[Path]:
    """One line a trial: what was asked for, how it stands, its scores."""
    lines = [
        {f"asked_{k}": _plain(v) for k, v in asdict(e).items()}
        | {"trial": name, "state": found[name]}
        | rows.get(name, {})
        for name, e in experiments.items()
    ]
    write_csv(results / "trials.csv", lines)
    files = [results / "trials.csv"]
    if importlib.util.find_spec("pyarrow") is not None:
        from pyarrow import Table
        from pyarrow.parquet import write_table

        columns = dict.fromkeys(key for line in lines for key in line)
        table = Table.from_pydict({c: [_flat(line.get(c)) for line in lines] for c in columns})
        half = results / ".trials.parquet.tmp"
        write_table(table, half)
        half.replace(results / "trials.parquet")
        files.append(results / "trials.parquet")
    return files


def _plain(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _flat(value: Any) -> Any:
    """What a column may hold."""
    return str(value) if isinstance(value, list | tuple | dict) else value


def _example(experiments: dict[str, Experiment], out: Path, store: Store) -> Any:
    """Pictures of the first case: the runs that differ from the first trial's in method alone."""

    def case(experiment: Experiment) -> dict[str, Any]:
        return {k: v for k, v in asdict(experiment).items() if k not in _NO_CASE}

    first = next(iter(experiments.values()))
    chosen: dict[str, str] = {}
    for name, experiment in experiments.items():
        if case(experiment) == case(first):
            chosen.setdefault(experiment.method, name)
    names = list(chosen.values())
    return stretch_of_runs([out / n for n in names], [experiments[n] for n in names], store)
