"""All trials of a sweep: run directories side by side, models of one method trained together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import jax
from jax.sharding import Mesh

from eegsr_jax.data.store import Store
from eegsr_jax.errors import ConfigError
from eegsr_jax.training.journal import RunJournal
from eegsr_jax.training.loop import check_binding
from eegsr_jax.training.many import Task, fit_many
from eegsr_jax.training.run import (
    Experiment,
    card_of,
    is_complete,
    one_method,
    prepared,
    refuse_other,
    write_run,
)
from eegsr_jax.training.windows import StoreWindows


def train_sweep(
    experiments: Sequence[Experiment], store: Store, out: Path, *, mesh: Mesh | None = None
) -> list[Path]:
    """Train every experiment into a run directory of `out`; complete ones are left as they are.

    Experiments of one method are trained together (`training.many`): their subjects, layouts and
    seeds may differ. A mesh with an axis "models" spreads them.

    Returns:
      The run directories, in the order of the experiments.

    Raises:
      ConfigError: two experiments are the same, or a folder there is of another.
      EEGSRError: a layout or method does not fit the data.
    """
    names = trial_names(experiments)
    folders = [out / name for name in names]
    waiting: dict[str, list[tuple[Experiment, Path, Store]]] = {}
    for experiment, folder in zip(experiments, folders, strict=True):
        own = store.select(
            **{k: getattr(experiment, k) or None for k in ("subjects", "sessions", "runs")}
        )
        if not is_complete(folder, card_of(experiment, own)):
            refuse_other(folder, card_of(experiment, own))
            waiting.setdefault(experiment.method, []).append((experiment, folder, own))
    for text, trials in waiting.items():
        ((_, method),) = one_method(text)
        shared: dict[StoreWindows, StoreWindows] = {}
        tasks = []
        for experiment, _, own in trials:
            windows, where = prepared(experiment, own)
            check_binding(method, own.recordings[0].sfreq, windows.window)
            # Equal windows are one, so that their pass and their place on the device are shared.
            windows = shared.setdefault(windows, windows)
            tasks.append(Task(where, windows, jax.random.key(experiment.seed)))
        journal = RunJournal(
            out,
            open_folder=lambda: out.mkdir(parents=True, exist_ok=True),
            writers=trials[0][0].writers,
        )
        for (experiment, folder, own), task, params in zip(
            trials, tasks, fit_many(method, tasks, mesh=mesh, journal=journal), strict=True
        ):
            write_run(folder, card_of(experiment, own), task.geometry, params)
    return folders


def trial_names(experiments: Sequence[Experiment]) -> list[str]:
    """What sets each apart, as a folder's name: "subjects-1_layout-case2_4x".

    Raises:
      ConfigError: two are the same.
    """
    varying = [
        f.name for f in fields(Experiment) if len({getattr(e, f.name) for e in experiments}) > 1
    ]
    names = ["_".join(f"{v}-{_word(getattr(e, v))}" for v in varying) for e in experiments]
    names = [name or "trial" for name in names]  # of a single one, nothing varies
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"sweep: trial {twice[0] or 'one'} is there twice; leave one out")
    return names


def _word(value: object) -> str:
    parts = value if isinstance(value, tuple) else (value,)
    text = "+".join(str(part) for part in parts)
    return "".join(letter if letter.isalnum() or letter in "+.-_" else "-" for letter in text)
