"""The network behind EEG-FID: trained here, on training windows alone, to tell what they are of.

Its questions are whose window it is and what was being done (the event at its middle, else the
label of the recording). Those that the training windows cannot ask, having one answer, are left
out; where none is left there is no network. See docs/levels.md.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eegsr_jax.data.pipeline import Order, window_index
from eegsr_jax.data.segments import Segment
from eegsr_jax.evaluation.folds import Fold, Protocol
from eegsr_jax.evaluation.views import Data, View
from eegsr_jax.nn.features import PowerFeatures
from eegsr_jax.typing import PyTree

QUESTIONS = ("subject", "condition")
FILTERS, MAPS = 16, 2  # 32 features
WIDTH = 0.5  # seconds of a filter in time
MOST = 4096  # training windows, evenly taken
STEPS, BATCH, RATE, DECAY = 800, 64, 3e-3, 1e-2
_AT_ONCE = 256


class Labelled(NamedTuple):
    """Windows `[N, M, time]`, and the answer `[N]` to each of `QUESTIONS`."""

    eeg: np.ndarray
    answers: tuple[np.ndarray, ...]


class FeatureNetwork:
    """`[N, M, time]` in the unit of its training windows to `[N, feature]`, float64.

    A feature is in standard deviations of what it was on the training windows.

    Attributes:
      about: what it was trained on, and how often it is right on the validation windows.
    """

    def __init__(self, train: Labelled, validate: Labelled | None, sfreq: float):
        asked = [i for i in range(len(QUESTIONS)) if len(set(train.answers[i])) > 1]
        known = [sorted(set(train.answers[i])) for i in asked]
        answers = [np.searchsorted(k, train.answers[i]) for i, k in zip(asked, known, strict=True)]
        power = np.mean(train.eeg**2, (0, 2), dtype=np.float64)
        self._scale = np.sqrt(np.maximum(power, 1e-12 * power.max()))
        width = min(round(WIDTH * sfreq), train.eeg.shape[2])
        self._program = _program(width, tuple(map(len, known)), STEPS)
        self._params = _trained(self._program, self._scaled(train.eeg), answers)
        self._mean, self._std = np.zeros(1), np.ones(1)
        features = self(train.eeg)
        self._mean, self._std = features.mean(0), features.std(0)
        self.about: dict[str, Any] = {"windows": len(train.eeg), "features": FILTERS * MAPS}
        for head, (i, classes) in enumerate(zip(asked, known, strict=True)):
            found = {"classes": len(classes)}
            if validate is not None:
                found |= self._accuracy(head, classes, validate.eeg, validate.answers[i])
            self.about[QUESTIONS[i]] = found

    def __call__(self, eeg: np.ndarray) -> np.ndarray:
        """Features of windows."""
        features = [np.asarray(f, np.float64) for f, _ in self._outputs(eeg)]
        return (np.concatenate(features) - self._mean) / self._std

    def _scaled(self, eeg: np.ndarray) -> np.ndarray:
        return (eeg / self._scale[:, None]).astype(np.float32)

    def _outputs(self, eeg: np.ndarray) -> Iterator[tuple[jax.Array, tuple[jax.Array, ...]]]:
        for start in range(0, len(eeg), _AT_ONCE):
            yield self._program.run(self._params, self._scaled(eeg[start : start + _AT_ONCE]))

    def _accuracy(
        self, head: int, classes: Sequence[str], eeg: np.ndarray, answers: np.ndarray
    ) -> dict[str, float]:
        """Of windows whose answer was among those of training; and that of the commonest answer."""
        known = np.isin(answers, classes)
        if not known.any():
            return {}
        scores = np.concatenate([np.asarray(s[head]) for _, s in self._outputs(eeg[known])])
        right = np.asarray(classes)[scores.argmax(1)] == answers[known]
        chance = max(Counter(answers[known].tolist()).values()) / known.sum()
        return {"accuracy": float(right.mean()), "commonest": float(chance)}


class _Program(NamedTuple):
    """Compiled once for all networks of one shape."""

    network: PowerFeatures
    steps: int
    optimizer: optax.GradientTransformation
    step: Callable[..., Any]
    run: Callable[..., Any]


@functools.lru_cache(maxsize=8)
def _program(width: int, classes: tuple[int, ...], steps: int) -> _Program:
    network = PowerFeatures(FILTERS, MAPS, width, classes)
    schedule = optax.cosine_decay_schedule(RATE, steps)
    optimizer = optax.adamw(schedule, weight_decay=DECAY)

    def step(params, state, eeg, answers):
        def loss(params):
            entropy = optax.softmax_cross_entropy_with_integer_labels
            scores = network.apply(params, eeg)[1]
            return sum(jnp.mean(entropy(s, a)) for s, a in zip(scores, answers, strict=True))

        gradients = jax.grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies int32 counts and float32
            update, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, update), state

    step = jax.jit(step, donate_argnums=(0, 1))
    return _Program(network, steps, optimizer, step, jax.jit(network.apply))


def _trained(program: _Program, eeg: np.ndarray, answers: Sequence[np.ndarray]) -> PyTree:
    """Params after all steps; the last, since nothing is chosen."""
    params = program.network.init(jax.random.key(0), jnp.asarray(eeg[:1]))
    state, size = program.optimizer.init(params), min(BATCH, len(eeg))
    order = Order(len(eeg), size, None, seed=0)
    for number in range(program.steps):
        own = order(number)
        given = tuple(a[own].astype(np.int32) for a in answers)
        params, state = program.step(params, state, eeg[own], given)
    return params


class Networks:
    """Trains the network of a view, once for all views that may share it.

    Folds share one, trained on the training windows of all, as long as none of them tests on
    what another trains on and their channels are the same; else each fold has its own. So one
    network sees all subjects where each is split by runs, and never a subject that is left out.
    """

    def __init__(self, folds: Sequence[Fold], protocol: Protocol):
        self._folds = [Data(fold, protocol) for fold in folds]
        self._made: dict[Any, FeatureNetwork | None] = {}

    def of(self, view: View) -> FeatureNetwork | None:
        """The network for a view; None where the training windows have but one label."""
        group = self._group(view.data)
        shown = () if view.reference == "native" else tuple(view.index)
        key = (view.data.channels, tuple(d.fold.split.train for d in group), view.reference, shown)
        if key not in self._made:
            self._made[key] = self._train(group, view)
        return self._made[key]

    def trained(self) -> list[FeatureNetwork]:
        """All networks that there are, in the order of their making."""
        return [network for network in self._made.values() if network is not None]

    def _group(self, data: Data) -> list[Data]:
        like = (data.channels, data.window, data.sfreq)
        group = [d for d in self._folds if (d.channels, d.window, d.sfreq) == like]
        own = [d for d in group if d.fold is data.fold]
        learnt = [s for d in group for s in (*d.fold.split.train, *d.fold.split.validate)]
        return own if any(_overlap(d.fold.split.test, learnt) for d in group) else group

    def _train(self, group: Sequence[Data], view: View) -> FeatureNetwork | None:
        train = _labelled(group, "train", view)
        assert train is not None
        if all(len(set(a)) < 2 for a in train.answers):
            return None
        return FeatureNetwork(train, _labelled(group, "validate", view), view.data.sfreq)


def _overlap(some: Sequence[Segment], others: Sequence[Segment]) -> bool:
    by_key: dict[str, list[Segment]] = {}
    for segment in others:
        by_key.setdefault(segment.key, []).append(segment)
    return any(a.start < b.stop and b.start < a.stop for a in some for b in by_key.get(a.key, ()))


def _labelled(group: Sequence[Data], part: str, view: View) -> Labelled | None:
    """At most `MOST` windows of a part of all folds; None where there are none."""
    parts = [(data, getattr(data.fold.split, part)) for data in group]
    parts = [(data, segments) for data, segments in parts if segments]
    total = sum(len(window_index(d.store, s, window=d.window)) for d, s in parts)
    step, seen = -(-total // MOST), 0
    eeg: list[np.ndarray] = []
    answers: list[tuple[str, str]] = []
    for data, segments in parts:
        for batch in data.batches(segments):
            kept = np.flatnonzero((seen + np.arange(len(batch["eeg"]))) % max(step, 1) == 0)
            seen += len(batch["eeg"])
            eeg.append(view.shown(batch["eeg"][kept]))
            answers += [_answers(data, batch["recording"][i], batch["start"][i]) for i in kept]
    if not answers:
        return None
    return Labelled(np.concatenate(eeg), tuple(np.array(a) for a in zip(*answers, strict=True)))


def _answers(data: Data, recording: int, start: int) -> tuple[str, str]:
    """Whose window it is, and what was being done in the middle of it."""
    own = data.store.recordings[recording]
    middle = start + data.window // 2
    event = next((e.label for e in own.events or () if e.start <= middle < e.stop), own.label)
    return own.subject, event or "none"
