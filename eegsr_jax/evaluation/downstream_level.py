"""The downstream level: does a classifier of true full caps understand the reconstructed ones?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from eegsr_jax.data.manifest import StoredRecording
from eegsr_jax.data.pipeline import window_index
from eegsr_jax.data.segments import Segment
from eegsr_jax.errors import DatasetError
from eegsr_jax.evaluation import classifier as cl
from eegsr_jax.evaluation.levels import Reconstruct, Row
from eegsr_jax.evaluation.metrics import BANDS
from eegsr_jax.evaluation.results import FLOOR
from eegsr_jax.evaluation.views import Data, View

FULL, LOW = "full cap", "observed electrodes"  # rows of no method
REST = "rest"
MOTOR = ((8.0, 30.0),)  # Hz: mu and beta, where imagined movements show
FEWEST = 4  # trials of each class, to train on


class Trials(NamedTuple):
    """Labelled stretches, cut into windows.

    Attributes:
      eeg: `[W, M, time]`, as stored.
      trial: `[W]`, which trial a window is of.
      labels: `[trial]`.
      cued: whether they are events of recordings, and not recordings.
    """

    eeg: np.ndarray
    trial: np.ndarray
    labels: np.ndarray
    cued: bool


class DownstreamStudy:
    """Classifiers of a view's training trials, and its test trials."""

    def __init__(self, view: View):
        self.view = view
        data, split = view.data, view.data.fold.split
        learnt = cut(data, (*split.train, *split.validate))
        self._bands = MOTOR if learnt.cued else _bands(data.sfreq)
        self._test = cut(data, split.test)
        self._shown = view.shown(self._test.eeg)
        known = self._covariances(view.shown(learnt.eeg), learnt)
        self._tasks = tasks(learnt.labels)
        if not self._tasks:
            raise DatasetError(
                f"{data.store.path}: nothing to tell apart in the training part of subject "
                f"{data.fold.subject}, which has {_counted(learnt.labels)}; two classes of at "
                f"least {FEWEST} trials are needed"
            )
        self._full, self._low = {}, {}
        for task, classes in self._tasks.items():
            chosen, answers = _chosen(classes, learnt.labels)
            self._full[task] = cl.train(known[chosen], answers)
            self._low[task] = cl.train(self._observed(known[chosen]), answers)

    def floors(self) -> list[Row]:
        """The full cap; what is observed, to a classifier of its own; and silence elsewhere."""
        silent = self._shown * ~self.view.missing[:, None]
        rows = []
        for label, eeg, classifiers in (
            (FULL, self._shown, self._full),
            (LOW, self._shown, self._low),
            (FLOOR, silent, self._full),
        ):
            found = self._covariances(eeg, self._test)
            found = self._observed(found) if label == LOW else found
            rows += [{"method": label} | row for row in self._rows(found, classifiers)]
        return rows

    def score(self, label: str, reconstruct: Reconstruct) -> list[Row]:
        """A row for each task: the classifier of full caps on the reconstructed ones."""
        del label
        return self._rows(self._covariances(reconstruct(self._shown), self._test), self._full)

    def _rows(self, covariances: np.ndarray, classifiers: dict[str, cl.Classifier]) -> list[Row]:
        rows = []
        for task, classes in self._tasks.items():
            chosen, answers = _chosen(classes, self._test.labels)
            if not chosen.any():
                continue
            found = cl.predict(classifiers[task], covariances[chosen])
            rows.append(
                {
                    "task": task,
                    "accuracy": cl.balanced_accuracy(answers, found),
                    "chance": 1 / (max(classes.values()) + 1),
                    "trials": int(chosen.sum()),
                }
            )
        return rows

    def _covariances(self, eeg: np.ndarray, trials: Trials) -> np.ndarray:
        """`[trial, band, M, M]`, the mean over the windows of each."""
        own = cl.band_covariances(eeg, self.view.data.sfreq, self._bands)
        count = np.bincount(trials.trial, minlength=len(trials.labels))
        sums = np.zeros((len(trials.labels), *own.shape[1:]))
        np.add.at(sums, trials.trial, own)
        return sums / count[:, None, None, None]

    def _observed(self, covariances: np.ndarray) -> np.ndarray:
        index = self.view.index
        return covariances[..., index[:, None], index[None]]


def _bands(sfreq: float) -> tuple[tuple[float, float], ...]:
    return tuple(band for band in BANDS.values() if band[0] < 0.45 * sfreq)


def tasks(labels: np.ndarray) -> dict[str, dict[str, int]]:
    """What can be told apart: by name of the task, the class of each label.

    Where there is rest: rest against all else, and the others among themselves. Labels of fewer
    than `FEWEST` trials count as absent.
    """
    names, counts = np.unique(labels, return_counts=True)
    kept = [str(name) for name, count in zip(names, counts, strict=True) if count >= FEWEST]
    others = [name for name in kept if name != REST]
    found = []
    if REST in kept and others:
        found.append((f"{REST} or not", {REST: 0} | dict.fromkeys(others, 1)))
    if len(others) > 1:
        found.append((" or ".join(others), {name: i for i, name in enumerate(others)}))
    return dict(found)


def _chosen(classes: dict[str, int], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which trials a task is about, `[trial]` bool, and the classes of those."""
    chosen = np.isin(labels, list(classes))
    return chosen, np.array([classes[str(label)] for label in labels[chosen]], int)


def _counted(labels: np.ndarray) -> str:
    names, counts = np.unique(labels, return_counts=True)
    return ", ".join(f"{c} of {n}" for n, c in zip(names, counts, strict=True)) or "no trials"


# ------------------------------------------------------------------------------------------- trials


def cut(data: Data, segments: Sequence[Segment]) -> Trials:
    """The trials that lie in some segments.

    Where the recordings have events each is a trial: its windows follow one another from the cue,
    as many as fit. Else a trial is one of the adjacent windows, with the label of its recording.

    Raises:
      DatasetError: a store of before events were kept; neither events nor labels; or no event is
        as long as a window.
    """
    recordings = [data.store.recording(key) for key in dict.fromkeys(s.key for s in segments)]
    old = [r.key for r in recordings if r.events is None]
    if old:
        raise DatasetError(
            f"{data.store.path}: {old[0]} was stored before events were kept; run the same "
            "`eegsr prepare` again to renew it"
        )
    cued = any(r.events for r in recordings)
    if not cued and not any(r.label for r in recordings):
        raise DatasetError(
            f"{data.store.path}: the recordings of {data.store.dataset} have neither events nor "
            "labels, so there is nothing to classify; take eegbci, seed or seed_iv"
        )
    find: Callable = _events if cued else _windows
    places, labels = [], []
    for segment in segments:
        for starts, label in find(data, data.store.recording(segment.key), segment):
            places += [(segment.key, start, len(labels)) for start in starts]
            labels.append(label)
    if not places:
        raise DatasetError(
            f"{data.store.path}: no event is as long as a window of "
            f"{data.window / data.sfreq:g} s; choose a protocol with shorter ones"
        )
    eeg = [
        data.store.read(key, start, start + data.window)[
            data.store.recording(key).channel_index(data.channels)
        ]
        for key, start, _ in places
    ]
    return Trials(np.stack(eeg), np.array([t for *_, t in places]), np.array(labels), cued)


def _events(data: Data, recording: StoredRecording, segment: Segment):
    """The first samples of the windows of each event, and its label."""
    window = data.window
    usable = [(max(a, segment.start), min(b, segment.stop)) for a, b in recording.usable]
    for event in recording.events or ():
        starts = [
            start
            for start in range(event.start, event.stop - window + 1, window)
            if any(a <= start and start + window <= b for a, b in usable)
        ]
        if starts:
            yield starts, event.label


def _windows(data: Data, recording: StoredRecording, segment: Segment):
    """Each adjacent window, and the label of the recording."""
    for _, start in window_index(data.store, [segment], window=data.window).tolist():
        yield [start], recording.label or "none"
