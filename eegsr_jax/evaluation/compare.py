"""Every method on the same windows: train, reconstruct, score, one row for each combination."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from eegsr_jax import layouts as ly
from eegsr_jax.data.pipeline import pipeline
from eegsr_jax.data.segments import Segment
from eegsr_jax.data.store import Store
from eegsr_jax.errors import ChannelError, ConfigError, SplitError
from eegsr_jax.evaluation.folds import Fold, Protocol
from eegsr_jax.evaluation.metrics import Scores, floors
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import moments as mo
from eegsr_jax.methods.base import GradientStage, Method
from eegsr_jax.methods.gaussian import POPULATION_DATASET
from eegsr_jax.methods.long import reconstruct_long
from eegsr_jax.training.gradient import warm_up
from eegsr_jax.training.loop import (
    accumulate,
    check_binding,
    fit,
    initial,
    jitted,
    nameless,
    refuse_nan,
    run_stage,
    solve,
    stage_keys,
)
from eegsr_jax.training.windows import StoreWindows, layout_geometry, shared_channels
from eegsr_jax.typing import PyTree

REFERENCES = ("native", "observed_average")
MIN_CALIBRATION_WINDOWS = 5  # four train, one validates


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
      Rows (see `Scores.summary` and `_row`), and a stretch of the first fold, layout and
      reference for pictures.

    Raises:
      EEGSRError: a layout does not fit, or a part of a split is empty.
    """
    rows, stretch, last_pass = [], None, _Pass()
    for fold in folds:
        _refuse_known_subjects(fold.store, methods)
        data = _Data(fold, protocol, batch_size)
        geometries = {spec: data.geometry(spec) for spec in layouts}  # all, before hours of work
        for reference in references:
            for spec, geometry in geometries.items():
                view = _View(data, geometry, reference)
                pictures = {}
                for label, method, seed in _with_seeds(methods, seeds):
                    params, timing = _trained(method, view, last_pass, seed)
                    plan = jax.block_until_ready(jitted(method.plan)(params, nameless(geometry)))
                    scores, speed = _score(method, plan, view, protocol.legacy_batch, last_pass)
                    rows.append(
                        _row(label, spec, view, fold, protocol)
                        | scores.summary()
                        | timing
                        | {"times_real_time": speed, "training_seed": seed}
                    )
                    say(_line(rows[-1]))
                    if stretch is None and label not in pictures:
                        pictures[label] = _picture(method, plan, view, stretch_seconds)
                if stretch is None:
                    stretch = _stretch(pictures, view, fold, spec)
    assert stretch is not None
    return rows, stretch


def _with_seeds(
    methods: Mapping[str, Method], seeds: Sequence[int]
) -> Iterator[tuple[str, Method, int | None]]:
    for label, method in methods.items():
        random = any(isinstance(stage, GradientStage) for stage in method.stages)
        for seed in seeds if random else (None,):
            yield label, method, seed


def _refuse_known_subjects(store: Store, methods: Mapping[str, Method]) -> None:
    named = [label for label, method in methods.items() if method.name == "population"]
    if named and store.dataset == POPULATION_DATASET:
        raise ConfigError(
            f"method {named[0]} has seen subjects of {store.dataset}: its scores there would leak; "
            "use gaussian, which learns its prior from the training part"
        )


class _Data:
    """The windows of one fold."""

    def __init__(self, fold: Fold, protocol: Protocol, batch_size: int):
        self.fold, self.protocol, self.batch_size = fold, protocol, batch_size
        self.store: Store = fold.store
        split = fold.split
        segments = (*split.train, *split.validate, *split.calibration, *split.test)
        self.channels = shared_channels(self.store, segments)
        self.sfreq = self.store.recording(segments[0].key).sfreq
        self.window = protocol.window(self.sfreq)

    def geometry(self, spec: str) -> Geometry:
        """The geometry of a layout; SUBJECT stands for the fold's own (as in EMAG's draws)."""
        train = self.fold.split.train
        spec = spec.replace("SUBJECT", self.fold.subject)
        geometry = layout_geometry(self.store, train, self.channels, spec)
        if len(geometry.observed_names) == len(self.channels):
            raise ChannelError(f"layout {spec!r} observes every channel: nothing is missing")
        return geometry

    def batches(self, segments: Sequence[Segment]) -> Iterator[dict[str, np.ndarray]]:
        """Windows of some segments, unshuffled."""
        yield from pipeline(
            self.store,
            segments,
            window=self.window,
            batch_size=self.batch_size,
            channels=self.channels,
        )


class _View:
    """The data of a fold as one layout and reference shows them."""

    def __init__(self, data: _Data, geometry: Geometry, reference: str):
        self.data, self.geometry, self.reference = data, geometry, reference
        self.index = np.asarray(geometry.observed_index)
        self.plain = reference == "native" and not data.protocol.zscore
        self.missing = np.ones(len(data.channels), bool)
        self.missing[self.index] = False

    def shown(self, eeg: np.ndarray) -> np.ndarray:
        """`[..., M, time]` referenced and scaled as this view and protocol say."""
        if self.reference == "observed_average":
            eeg = eeg - eeg[..., self.index, :].mean(-2, keepdims=True)
        if self.data.protocol.zscore:
            centred = eeg - eeg.mean(-1, keepdims=True)
            # The floor of EMAG's loader is 1e-6 of the stored unit, microvolts in SEED.
            eeg = centred / np.maximum(centred.std(-1, keepdims=True), 1e-12)
        return eeg.astype(np.float32)

    def training(self) -> StoreWindows:
        """Training windows and validation windows."""
        data, split = self.data, self.data.fold.split
        return StoreWindows(
            store=data.store,
            train=split.train,
            validate=split.validate,
            window=data.window,
            batch_size=data.batch_size,
            channels=data.channels,
            shown=self.shown,
        )

    def calibration(self) -> Iterator[dict[str, np.ndarray]]:
        """The test subject's own seconds; the last fifth validates."""
        segments = self.data.fold.split.calibration
        eeg = np.concatenate([self.shown(b["eeg"]) for b in self.data.batches(segments)])
        if len(eeg) < MIN_CALIBRATION_WINDOWS:
            raise SplitError(
                f"{len(eeg)} calibration windows of {self.data.window / self.data.sfreq:g} s; at "
                f"least {MIN_CALIBRATION_WINDOWS} needed: calibrate on more seconds"
            )
        part = np.zeros(len(eeg), np.int32)
        part[-max(1, len(eeg) // 5) :] = mo.VALIDATE
        yield {"eeg": eeg, "part": part}


class _Pass(dict):
    """Sums of the last training data seen, by stage: one pass serves all layouts and methods."""

    def __init__(self):
        super().__init__()
        self.owner: Any = None
        self.compiled: set[Any] = set()  # what has run once: functions with the shapes they saw

    def of(self, owner: Any) -> _Pass:
        if self.owner != owner:
            self.clear()
            self.owner = owner
        return self

    def timed(self, call: Callable[[], Any], *program: Any) -> tuple[Any, float, float]:
        """The result of a call, its seconds, and the seconds that compiling took before it."""
        first = 0.0
        if program not in self.compiled:
            self.compiled.add(program)
            first = _seconds(call)[1]
        result, seconds = _seconds(call)
        return result, seconds, max(first - seconds, 0.0)


def _trained(
    method: Method, view: _View, last: _Pass, seed: int | None
) -> tuple[PyTree, dict[str, float]]:
    """Params, and seconds for fitting and for compiling, apart."""
    split, geometry, windows = view.data.fold.split, view.geometry, view.training()
    check_binding(method, view.data.sfreq, view.data.window)
    owner = (split.train, split.validate, view.data.channels, view.reference)
    shared = last.of(owner if view.plain else (owner, tuple(view.index)))
    shape = (len(view.index), len(view.missing), view.data.window)
    start, *keys = stage_keys(method, jax.random.key(seed or 0))
    params, fitting, compiling = initial(method, geometry, start), 0.0, 0.0
    for number, (stage, key) in enumerate(zip(method.stages, keys, strict=True)):
        # Compiled on a little first, so that training itself is timed without.
        if isinstance(stage, GradientStage):
            warm = partial(warm_up, stage, params, nameless(geometry), windows)
            steps = windows.steps(stage.batch_size)
            compiling += last.timed(warm, stage, steps, *shape)[2]
            run = partial(run_stage, stage, params, geometry, windows, key)
            params, seconds = _seconds(run)
            fitting += seconds
            continue
        # The first sums depend on the windows alone; later ones on params, layout and seed.
        own = (stage.start, stage.update, *(() if number == 0 else (method, seed, *view.index)))
        if own not in shared:
            warm = partial(accumulate, stage, params, geometry, [next(windows())])
            compiling += last.timed(warm, stage.start, stage.update, *shape[1:])[2]
            shared[own] = _seconds(partial(accumulate, stage, params, geometry, windows()))
        sums, seconds = shared[own]
        call = partial(solve, stage, params, sums, geometry)
        params, solving, compiled = last.timed(call, stage.solve, *shape[:2])
        fitting, compiling = fitting + seconds + solving, compiling + compiled
    if split.calibration:
        begin = time.perf_counter()
        key = jax.random.fold_in(jax.random.key(seed or 0), 1)
        params = fit(method, geometry, view.calibration, params=params, key=key)
        fitting += time.perf_counter() - begin
    refuse_nan(method, params)
    return params, {"fit_seconds": fitting, "compile_seconds": compiling}


def _seconds(call: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = jax.block_until_ready(call())
    return result, time.perf_counter() - begin


def _score(
    method: Method, plan: PyTree, view: _View, legacy_batch: int, last: _Pass
) -> tuple[Scores, float]:
    """Scores on the test windows, and how many times faster than real time they were made."""
    data = view.data
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


def _row(label: str, spec: str, view: _View, fold: Fold, protocol: Protocol) -> dict[str, Any]:
    observed, targets = len(view.index), len(view.data.channels)
    return {
        "method": label,
        "layout": spec,
        "factor": round(targets / observed, 2),
        "reference": view.reference,
        "protocol": protocol.name,
        "split": fold.split.kind,
        "seed": fold.split.seed,
        "subject": fold.subject,
        "calibration_seconds": fold.calibration_seconds,
        "observed": observed,
        "targets": targets,
        "layout_hash": ly.list_hash(view.geometry.observed_names),
        "leaky": fold.split.leaky,
    }


def _line(row: Mapping[str, Any]) -> str:
    return (
        f"{row['subject']:>5} {row['layout']:<14} {row['reference']:<16} {row['method']:<26} "
        f"missing NMSE {row['nmse_missing']:.4f}  90 % bars cover {row['coverage_90']:.1%}"
    )


def _picture(
    method: Method, plan: PyTree, view: _View, seconds: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth = view.shown(_test_samples(view.data, seconds))
    blocks = reconstruct_long(method, plan, truth[view.index], jax.random.key(0))
    _, mean, std = zip(*blocks, strict=True)
    return truth, np.concatenate(mean, 1), np.concatenate(std, 1)


def _test_samples(data: _Data, seconds: float) -> np.ndarray:
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


def _stretch(pictures: Mapping[str, Any], view: _View, fold: Fold, spec: str) -> Stretch:
    return Stretch(
        title=f"subject {fold.subject}, {spec}, {view.reference} reference",
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
