"""A trained run on what its experiment tests: the row that `eegsr evaluate` would have for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eegsr_jax.data.store import Store
from eegsr_jax.evaluation.compare import Stretch, picture, scored, stretch_of
from eegsr_jax.evaluation.fitting import Fitted, Pass, refuse_known_subjects
from eegsr_jax.evaluation.folds import Fold
from eegsr_jax.evaluation.protocols import protocol
from eegsr_jax.evaluation.views import Data, View
from eegsr_jax.training.experiment import (
    Experiment,
    is_closed_form,
    one_method,
    split_of,
    trial_name,
)
from eegsr_jax.training.loop import jitted, nameless
from eegsr_jax.training.run import load

SCORES = "scores.json"  # of a run directory
_PROTOCOLS = {
    "by_run": "within_runs",
    "by_session": "within_sessions",
    "leave_subjects_out": "leave_subjects_out",
}
_SECONDS = 10.0  # of a picture


def row_of(folder: str | Path, experiment: Experiment, store: Store) -> dict[str, Any]:
    """Scores of a complete run on the test data of its experiment.

    Args:
      folder: the run directory.
      experiment: of the run; it names what to test on.
      store: with the recordings of the experiment.

    Raises:
      EEGSRError: not a complete run, a store without its recordings, or a method that has seen
        subjects of this data set.
    """
    fit, view = _planned(folder, experiment, store)
    refuse_known_subjects(store, {fit.label: fit.method})
    scores, speed = scored(fit, view, view.data.protocol.legacy_batch, Pass())
    row = view.row(fit.label) | scores.summary(view.common) | fit.about
    return row | {"times_real_time": speed, "trial": trial_name(experiment)}


def stretch_of_runs(
    folders: Sequence[Path], experiments: Sequence[Experiment], store: Store
) -> Stretch:
    """A few test seconds as several runs reconstruct them; they differ in their method alone."""
    view, pictures = None, {}
    for folder, experiment in zip(folders, experiments, strict=True):
        fit, view = _planned(folder, experiment, store)
        pictures[fit.label] = picture(fit, view, _SECONDS)
    assert view is not None
    return stretch_of(pictures, view)


def _planned(folder: str | Path, experiment: Experiment, store: Store) -> tuple[Fitted, View]:
    own, split = split_of(experiment, store)
    method, params, where = load(folder)
    subjects = list(dict.fromkeys(own.recording(s.key).subject for s in split.test))
    fold = Fold(
        subject=subjects[0] if len(subjects) == 1 else "all",
        store=own,
        split=split,
    )
    rule = replace(protocol(_PROTOCOLS[split.kind]), window_seconds=experiment.window_seconds)
    data = Data(fold, rule)
    view = View(data, experiment.layout, where, "native", np.zeros(len(data.channels), bool))
    text, _ = one_method(experiment.method)
    plan = jitted(method.plan)(params, nameless(where))
    seed = None if is_closed_form(method) else experiment.seed
    return Fitted(text, method, plan, {"training_seed": seed}), view
