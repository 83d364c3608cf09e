"""Who trains on what and is tested on what: our protocols, and the peers' as they are.

A protocol turns a store into folds. The peers' are kept with their quirks, which are printed with
every result: they serve to compare with published numbers, ours to learn something.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from eegsr_jax.data import splits
from eegsr_jax.data.splits import Split
from eegsr_jax.data.store import Store
from eegsr_jax.errors import ConfigError, SplitError
from eegsr_jax.evaluation.folds import Fold, Options, Protocol, chosen_subjects
from eegsr_jax.evaluation.peers import PEERS


def protocol(name: str) -> Protocol:
    """The protocol called `name`.

    Raises:
      ConfigError: there is none.
    """
    if name not in PROTOCOLS:
        close = difflib.get_close_matches(name, PROTOCOLS, n=2, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(
            f"protocol {name!r} is unknown; expected one of {', '.join(PROTOCOLS)}{hint}"
        )
    return PROTOCOLS[name]


def _within(store: Store, options: Options, split: Callable[[Store], Split]) -> list[Fold]:
    folds = []
    for subject in chosen_subjects(store, options):
        own = store.select(subjects=[subject])
        folds.append(Fold(subject=subject, store=own, split=split(own)))
    return folds


def _within_runs(store: Store, options: Options) -> list[Fold]:
    if not (options.train_runs and options.test_runs):
        runs = ", ".join(dict.fromkeys(r.run for r in store.recordings))
        raise SplitError(
            f"protocol within_runs needs --train_runs and --test_runs; the data have runs {runs}"
        )
    return _within(
        store, options, lambda own: splits.by_run(own, options.train_runs, options.test_runs)
    )


def _within_sessions(store: Store, options: Options) -> list[Fold]:
    if not (options.train_sessions and options.test_sessions):
        names = ", ".join(dict.fromkeys(r.session for r in store.recordings))
        raise SplitError(
            "protocol within_sessions needs --train_sessions and --test_sessions; the data have "
            f"sessions {names}"
        )
    return _within(
        store,
        options,
        lambda own: splits.by_session(own, options.train_sessions, options.test_sessions),
    )


def _chronological(store: Store, options: Options) -> list[Fold]:
    return _within(
        store, options, lambda own: splits.chronological(own, gap_seconds=options.gap_seconds)
    )


def _leave_subjects_out(store: Store, options: Options) -> list[Fold]:
    folds = []
    everyone = list(dict.fromkeys(r.subject for r in store.recordings))
    if len(everyone) < 3:
        raise SplitError(
            f"protocol leave_subjects_out needs at least 3 subjects; the data have {len(everyone)}"
        )
    for subject in chosen_subjects(store, options):
        split = splits.leave_subjects_out(store, [subject], validate_subjects=0.25)
        for seconds in options.calibration_seconds:
            folds.append(
                Fold(
                    subject=subject,
                    store=store,
                    split=splits.with_calibration(
                        split, store, seconds, test_from=options.test_from
                    ),
                    calibration_seconds=seconds,
                )
            )
    return folds


OURS = (
    Protocol(
        name="within_runs",
        summary="each subject by itself: some runs train (their last 20 % validate), others test",
        folds=_within_runs,
        needs=("train_runs", "test_runs"),
    ),
    Protocol(
        name="within_sessions",
        summary="each subject by itself: some sessions train, others test",
        folds=_within_sessions,
        needs=("train_sessions", "test_sessions"),
    ),
    Protocol(
        name="chronological",
        summary="each recording by itself: 60 % train, then 20 % validate, the last 20 % test",
        folds=_chronological,
    ),
    Protocol(
        name="leave_subjects_out",
        summary="trained on other subjects (a quarter of them validate), tested on the last 40 % "
        "of one; with seconds of its own full cap where calibration_seconds says so",
        folds=_leave_subjects_out,
    ),
)
PROTOCOLS = {p.name: p for p in (*OURS, *PEERS)}
