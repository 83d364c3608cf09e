"""Beyond the samples: what every method's estimate, and one draw, are worth on another level.

A level asks something of windows and of their reconstructions; here is the loop over folds, views
and methods that all levels share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from eegsr_jax.evaluation import folds as fl
from eegsr_jax.evaluation.fitting import Pass, fitted, reconstructed, refuse_known_subjects
from eegsr_jax.evaluation.views import BATCH, View, views
from eegsr_jax.methods.base import Method

Row = dict[str, Any]
Reconstruct = Callable[[np.ndarray], np.ndarray]  # windows [N, M, time], as shown, to estimates

DRAW = "{} (draw)"  # the label of one draw of a method


class Study(Protocol):
    """What a level asks of one view."""

    def floors(self) -> list[Row]:
        """Rows of no method, each with its `method`."""
        ...

    def score(self, label: str, reconstruct: Reconstruct) -> list[Row]:
        """Scores of an estimator of windows: a row for each question."""
        ...


Level = Callable[[View], Study]


def compare(
    folds: Sequence[fl.Fold],
    protocol: fl.Protocol,
    level: Level,
    methods: Mapping[str, Method],
    layouts: Sequence[str],
    *,
    references: Sequence[str] = ("native",),
    seeds: Sequence[int] = (0,),
    batch_size: int = BATCH,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[Row], Study]:
    """Rows of every fold, view and method, and the study of the first view, for pictures.

    A method that draws has rows for its mean and for one draw, labelled `DRAW`.

    Raises:
      EEGSRError: a layout does not fit, or a part of a split is empty.
    """
    rows: list[Row] = []
    studies: list[Study] = []
    last = Pass()
    for fold in folds:
        refuse_known_subjects(fold.store, methods)
        for view in views(fold, protocol, layouts, references, batch_size):
            study = level(view)
            studies = studies or [study]
            rows += [view.row(floor["method"]) | floor for floor in study.floors()]
            for fit in fitted(methods, view, last, seeds):
                for draw in (False, True) if fit.method.draw else (False,):
                    label = DRAW.format(fit.label) if draw else fit.label
                    estimate = partial(reconstructed, fit, view, size=batch_size, draw=draw)
                    found = study.score(label, estimate)
                    rows += [view.row(label) | row | fit.about for row in found]
                    say(_line(rows[-len(found) :]))
    return rows, studies[0]


def _line(rows: Sequence[Row]) -> str:
    first = rows[0]
    text = f"{first['subject']:>5} {first['layout']:<14} {first['method']:<26}"
    for row in rows:
        if "accuracy" in row:
            text += f"  {row['task']}: {row['accuracy']:.1%}"
        else:
            text += f" missing NMSE {row['nmse_missing']:.4f}  FID {row['fid']:.3g}"
            text += f"  band powers {row['band_bias_db']:+.2f} dB"
    return text
