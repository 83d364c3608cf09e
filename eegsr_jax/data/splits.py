"""Which samples train, validate, calibrate and test: made once, checked, saved, shared.

A split is a list of stretches of stored recordings for each part. Every maker returns a split that
`check` has passed: no sample is in two parts. The one exception, `random_windows`, is what much of
the literature does; its windows are neighbours in time, it is marked `leaky`, and every result made
with it carries the mark.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from eegsr_jax.data.datasets.selection import Selection
from eegsr_jax.data.segments import (
    Segment,
    adjacent_windows,
    by_subject,
    cut_end,
    first_seconds,
    whole,
)
from eegsr_jax.data.store import Store
from eegsr_jax.errors import SplitError

PARTS = ("train", "validate", "calibration", "test")


@dataclass(frozen=True, kw_only=True)
class Split:
    """The parts of the data, who made them (`kind`) and how (`options`, `seed`).

    `calibration` holds seconds of the test subjects that a method may adapt to; it is empty unless
    `with_calibration` filled it. `leaky` means that train and test are neighbours in time.
    """

    kind: str
    train: tuple[Segment, ...]
    validate: tuple[Segment, ...]
    test: tuple[Segment, ...]
    calibration: tuple[Segment, ...] = ()
    leaky: bool = False
    seed: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


# --- makers ------------------------------------------------------------------------------------


def chronological(
    store: Store, *, train: float = 0.6, validate: float = 0.2, gap_seconds: float = 1.0
) -> Split:
    """Cuts every recording in time: first `train`, then `validate`, the rest to test.

    Args:
      store: the recordings.
      train: fraction of each recording.
      validate: fraction of each recording; 0 for no validation part.
      gap_seconds: left out after each cut, from the later part.

    Raises:
      SplitError: fractions that leave nothing to test, or a recording too short to be cut so.
    """
    _check_fractions(train=train, validate=validate)
    options = {"train": train, "validate": validate, "gap_seconds": gap_seconds}
    parts: dict[str, list[Segment]] = {"train": [], "validate": [], "test": []}
    for r in store.recordings:
        gap = round(gap_seconds * r.sfreq)
        cuts = [round(train * r.samples), round((train + validate) * r.samples)]
        starts, stops = (0, cuts[0] + gap, cuts[1] + gap), (*cuts, r.samples)
        for name, start, stop in zip(parts, starts, stops, strict=True):
            if name == "validate" and validate == 0:
                continue
            if stop <= start:
                raise SplitError(
                    f"{r.key}: {r.samples / r.sfreq:.1f} s leave nothing for the {name} part with "
                    f"train={train}, validate={validate}, gap_seconds={gap_seconds}; lower them, "
                    "or leave the recording out"
                )
            parts[name].append(Segment(r.key, start, stop))
    return _checked(store, "chronological", parts, options)


def by_run(
    store: Store,
    train_runs: Selection,
    test_runs: Selection,
    *,
    validate_fraction: float = 0.2,
    gap_seconds: float = 0.0,
) -> Split:
    """Trains on some runs of every subject and tests on others.

    Validation takes the end of each subject's training runs in time order: `validate_fraction` of
    their total duration, so a cut lies inside one run at most, and `gap_seconds` before that cut
    are left out.

    Raises:
      SplitError: a run in both lists, or a subject that has none of the one or the other.
      DatasetError: a run that no recording has.
    """
    options = {"train_runs": _listed(train_runs), "test_runs": _listed(test_runs)}
    sides = store.select(runs=train_runs), store.select(runs=test_runs)
    return _within_subject(store, "by_run", sides, options, validate_fraction, gap_seconds)


def by_session(
    store: Store,
    train_sessions: Selection,
    test_sessions: Selection,
    *,
    validate_fraction: float = 0.2,
    gap_seconds: float = 0.0,
) -> Split:
    """Trains on some sessions of every subject and tests on others; otherwise as `by_run`."""
    options = {
        "train_sessions": _listed(train_sessions),
        "test_sessions": _listed(test_sessions),
    }
    sides = store.select(sessions=train_sessions), store.select(sessions=test_sessions)
    return _within_subject(store, "by_session", sides, options, validate_fraction, gap_seconds)


def leave_subjects_out(
    store: Store, test_subjects: Selection, *, validate_subjects: Selection | float = ()
) -> Split:
    """Tests on subjects that training has never seen.

    Args:
      store: the recordings.
      test_subjects: names of the subjects to test on.
      validate_subjects: names; or the fraction of the other subjects, the last in the order of the
        store, rounded and at least one; or `()` for no validation part.

    Raises:
      SplitError: a subject on two sides, or nobody left to train on.
      DatasetError: an unknown subject.
    """
    test = _subjects(store.select(subjects=test_subjects))
    others = [s for s in _subjects(store) if s not in test]
    if isinstance(validate_subjects, float):
        _check_fractions(validate_subjects=validate_subjects)
        count = max(round(validate_subjects * len(others)), 1 if validate_subjects else 0)
        validate = others[len(others) - count :]
    elif validate_subjects in ((), []):
        validate = []
    else:
        validate = _subjects(store.select(subjects=validate_subjects))
    train = [s for s in others if s not in validate]
    parts = {
        name: [whole(r) for r in store.recordings if r.subject in chosen]
        for name, chosen in (("train", train), ("validate", validate), ("test", test))
    }
    options = {"test_subjects": test, "validate": validate}
    return _checked(store, "leave_subjects_out", parts, options)


def random_windows(
    store: Store, window: int, *, test: float = 0.2, validate: float = 0.1, seed: int = 0
) -> Split:
    """Deals windows out at random, as many papers do. Leaky: neighbours in time train and test.

    Windows are adjacent, restart at the beginning of every usable stretch and lie inside it. They
    are shuffled by `numpy.random.default_rng(seed).permutation`.

    Args:
      store: the recordings.
      window: samples in each window.
      test: fraction of all windows.
      validate: fraction of all windows; 0 for no validation part.
      seed: of the shuffle.

    Raises:
      SplitError: fractions that leave nothing to train on, or no window fits.
    """
    _check_fractions(test=test, validate=validate)
    if window < 1:
        raise SplitError(f"random_windows: window={window} samples; give 1 or more")
    windows = adjacent_windows(store, window)
    order = np.random.default_rng(seed).permutation(len(windows))
    ends = np.cumsum([round(test * len(windows)), round(validate * len(windows))])
    parts = {
        name: [windows[i] for i in np.sort(chosen)]
        for name, chosen in zip(("test", "validate", "train"), np.split(order, ends), strict=True)
    }
    options = {"window": window, "test": test, "validate": validate}
    return _checked(store, "random_windows", parts, options, leaky=True, seed=seed)


def with_calibration(
    split: Split,
    store: Store,
    seconds: float,
    *,
    test_from: float | None = None,
    gap_seconds: float = 1.0,
) -> Split:
    """Gives a method the first `seconds` of each test subject's own material.

    Args:
      split: made by `leave_subjects_out`, as a rule.
      store: the recordings.
      seconds: usable seconds for each subject, from the beginning of its test part; 0 for none.
      test_from: None starts the test part after the calibration. A fraction, as 0.6, keeps to
        testing the last 40 % of each subject's material whatever `seconds` is, so that different
        lengths of calibration can be compared.
      gap_seconds: left out between calibration and test.

    Raises:
      SplitError: a subject has not that much before its test part begins.
    """
    if split.calibration or not seconds >= 0:
        raise SplitError(
            f"calibration of {seconds} s on a split that has {len(split.calibration)} calibration "
            "segments; give a split without calibration and 0 s or more"
        )
    calibration, test = [], []
    for subject, segments in by_subject(store, split.test).items():
        if test_from is None:
            found = first_seconds(store, segments, seconds, gap_seconds)
        else:
            _check_fractions(test_from=test_from)
            before, end = cut_end(store, segments, 1.0 - test_from, gap_seconds)
            found = first_seconds(store, before, seconds, 0.0)
            found = found and (found[0], end)
        if not found or not found[1]:
            raise SplitError(
                f"subject {subject}: fewer than {seconds:g} usable seconds before its test part; "
                "ask for less, or begin the test part later"
            )
        calibration += found[0]
        test += found[1]
    options = {"calibration_seconds": seconds, "test_from": test_from}
    new = replace(
        split,
        calibration=tuple(calibration),
        test=tuple(test),
        options=split.options | options | {"calibration_gap_seconds": gap_seconds},
    )
    check(new, store)
    return new


# --- checking ----------------------------------------------------------------------------------


def check(split: Split, store: Store) -> None:
    """Refuses a split whose score would mean something else than it says.

    Raises:
      SplitError: no sample to train or test on, or none to validate on where that was asked for; a
        recording that the store lacks, or samples that it does not have; samples used twice (except
        in a split marked leaky); or, for `leave_subjects_out`, a subject in two parts.
    """
    required = ["train", "test"] + ["validate"] * bool(split.options.get("validate"))
    required += ["calibration"] * bool(split.options.get("calibration_seconds"))
    for part in required:
        if not getattr(split, part):
            raise SplitError(f"{split.kind}: the {part} part is empty; give it more of the data")
    known = {r.key: r for r in store.recordings}
    used = [(s.key, s.start, s.stop, part) for part in PARTS for s in getattr(split, part)]
    for key, start, stop, part in used:
        if key not in known:
            raise SplitError(
                f"{split.kind}: {part} names the recording {key}, which {store.path} does not have"
            )
        if not 0 <= start < stop <= known[key].samples:
            raise SplitError(
                f"{split.kind}: {part} takes samples {start} to {stop} of {key}, which has "
                f"{known[key].samples}"
            )
    if split.kind == "leave_subjects_out":
        side = {}
        for key, _, _, part in used:
            part = "test" if part == "calibration" else part
            if side.setdefault(known[key].subject, part) != part:
                raise SplitError(
                    f"leave_subjects_out: subject {known[key].subject} is in {part} and in "
                    f"{side[known[key].subject]}; a subject may be on one side only"
                )
    used.sort()
    for (key, _, stop, part), (next_key, start, next_stop, next_part) in zip(
        used, used[1:], strict=False
    ):
        if key == next_key and start < stop and not split.leaky:
            raise SplitError(
                f"{split.kind}: {part} and {next_part} share samples {start} to "
                f"{min(stop, next_stop)} of {key}; every sample may be used once"
            )


# --- pieces ------------------------------------------------------------------------------------


def _checked(
    store: Store,
    kind: str,
    parts: dict[str, list[Segment]],
    options: dict[str, Any],
    *,
    leaky: bool = False,
    seed: int | None = None,
) -> Split:
    segments = {name: tuple(part) for name, part in parts.items()}
    split = Split(kind=kind, leaky=leaky, seed=seed, options=options, **segments)
    check(split, store)
    return split


def _within_subject(
    store: Store,
    kind: str,
    sides: tuple[Store, Store],
    options: dict[str, Any],
    validate: float,
    gap_seconds: float,
) -> Split:
    _check_fractions(validate_fraction=validate)
    train_store, test_store = sides
    parts: dict[str, list[Segment]] = {"train": [], "validate": [], "test": []}
    for side, name in ((train_store, "train"), (test_store, "test")):
        lacking = [s for s in _subjects(store) if s not in _subjects(side)]
        if lacking:
            raise SplitError(
                f"{kind}: subject {lacking[0]} has nothing to {name} on; leave it out "
                "(store.select), or name other recordings"
            )
    for segments in by_subject(store, map(whole, train_store.recordings)).values():
        train, tail = cut_end(store, segments, validate, gap_seconds)
        parts["train"] += train
        parts["validate"] += tail
    for segments in by_subject(store, map(whole, test_store.recordings)).values():
        parts["test"] += segments
    options = options | {"validate": validate, "gap_seconds": gap_seconds}
    return _checked(store, kind, parts, options)


def _subjects(store: Store) -> list[str]:
    return list(dict.fromkeys(r.subject for r in store.recordings))


def _listed(names: Selection) -> list[str] | None:
    if names is None or isinstance(names, int | str):
        return None if names is None else [str(names)]
    return [str(name) for name in names]


def _check_fractions(**fractions: float) -> None:
    total = sum(fractions.values())
    if not (all(f >= 0 for f in fractions.values()) and 0 <= total < 1):
        given = ", ".join(f"{name}={value}" for name, value in fractions.items())
        raise SplitError(f"{given}: fractions must not be negative and must add up to less than 1")
