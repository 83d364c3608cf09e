"""Every method on the same windows: train, reconstruct, score, one row for each combination."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from eegsr_jax.evaluation.fitting import Fitted, Pass, fitted, refuse_known_subjects
from eegsr_jax.evaluation.folds import Fold, Protocol
from eegsr_jax.evaluation.metrics import Scores, floors
from eegsr_jax.evaluation.views import Data, View, views
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import Method
from eegsr_jax.methods.long import reconstruct_long
from eegsr_jax.training.loop import jitted


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A few seconds of one test recording, reconstructed by every method, for pictures."""

    title: str
    geometry: Geometry
    sfreq: float
    truth: np.ndarray  # [M, time] volts
    mean: dict[str, np.ndarray]
    std: dict[str, np.ndarray]


def compare(
    folds: Sequence[Fold],
    protocol: Protocol,
    methods: Mapping[str, Method],
    layouts: Sequence[str],
    *,
    references: Sequence[str] = ("native",),
    seeds: Sequence[int] = (0,),
    batch_size: int = 32,
    stretch_seconds: float = 10.0,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[dict[str, Any]], Stretch]:
    """Scores of every method, layout, reference and fold.

    All methods see the same training, validation and calibration windows. Methods that are trained
    by gradients have a row for each of `seeds`.

    Returns:
      Rows (see `Scores.summary` and `View.row`), and a stretch of the first fold, layout and
      reference for pictures.

    Raises:
      EEGSRError: a layout does not fit, or a part of a split is empty.
    """
    rows, stretch, last = [], None, Pass()
    for fold in folds:
        refuse_known_subjects(fold.store, methods)
        for view in views(fold, protocol, layouts, references, batch_size):
            pictures = {}
            for fit in fitted(methods, view, last, seeds):
                scores, speed = scored(fit, view, protocol.legacy_batch, last)
                row = view.row(fit.label) | scores.summary(view.common) | fit.about
                rows.append(row | {"times_real_time": speed})
                say(_line(rows[-1]))
                if stretch is None and fit.label not in pictures:
                    pictures[fit.label] = picture(fit, view, stretch_seconds)
            if stretch is None:
                stretch = stretch_of(pictures, view)
    assert stretch is not None
    return rows, stretch


def scored(fit: Fitted, view: View, legacy_batch: int, last: Pass) -> tuple[Scores, float]:
    """Scores on the test windows, and how many times faster than real time they were made."""
    method, plan, data = fit.method, fit.plan, view.data
    scores = Scores(view.missing, data.sfreq, legacy_batch)
    apply, busy = jitted(method.apply), 0.0
    for number, batch in enumerate(data.batches(data.fold.split.test)):
        truth = view.shown(batch["eeg"])
        observed = np.zeros((data.batch_size, len(view.index), data.window), np.float32)
        observed[: len(truth)] = truth[:, view.index]
        key = jax.random.fold_in(jax.random.key(0), number)
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(plan))
        program = (method.apply, observed.shape, shapes)
        result, seconds, _ = last.timed(partial(apply, plan, observed, key), *program)
        busy += seconds * len(truth) / data.batch_size
        mean, std = (np.asarray(a)[: len(truth)] for a in result)
        scores.add(truth, mean, std)
    return scores, scores.windows * data.window / data.sfreq / busy


def _line(row: Mapping[str, Any]) -> str:
    return (
        f"{row['subject']:>5} {row['layout']:<14} {row['reference']:<16} {row['method']:<26} "
        f"missing NMSE {row['nmse_missing']:.4f}  90 % bars cover {row['coverage_90']:.1%}"
    )


def picture(fit: Fitted, view: View, seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, mean and std, `[M, time]` volts, of the first seconds that test."""
    truth = view.shown(_test_samples(view.data, seconds))
    blocks = reconstruct_long(fit.method, fit.plan, truth[view.index], jax.random.key(0))
    _, mean, std = zip(*blocks, strict=True)
    return truth, np.concatenate(mean, 1), np.concatenate(std, 1)


def _test_samples(data: Data, seconds: float) -> np.ndarray:
    """`[M, time]`: the first `seconds` of the longest usable test stretch."""
    found = []
    for segment in data.fold.split.test:
        for start, stop in data.store.recording(segment.key).usable:
            start, stop = max(start, segment.start), min(stop, segment.stop)
            found.append((stop - start, segment.key, start))
    length, key, start = max(found, key=lambda f: f[0])
    recording = data.store.recording(key)
    samples = data.store.read(key, start, start + min(length, round(seconds * data.sfreq)))
    return samples[recording.channel_index(data.channels)]


def stretch_of(pictures: Mapping[str, Any], view: View) -> Stretch:
    """The pictures of all methods as one."""
    return Stretch(
        title=f"subject {view.data.fold.subject}, {view.spec}, {view.reference} reference",
        geometry=view.geometry,
        sfreq=view.data.sfreq,
        truth=next(iter(pictures.values()))[0],
        mean={label: picture[1] for label, picture in pictures.items()},
        std={label: picture[2] for label, picture in pictures.items()},
    )


def floor_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What predicting zero scores for each layout, on channels of equal power."""
    seen = {}
    for row in rows:
        missing = np.arange(row["targets"]) >= row["observed"]
        power = floors(missing, np.ones(row["targets"]))
        seen.setdefault(row["layout"], {"method": "zero", "layout": row["layout"]} | power)
    return list(seen.values())
