"""The peers' protocols as their code has them, defects included and named.

Sources: DiBiMa (UgoLomoio/DiBiMa-EEGSR), MASER (iiiifan/MASER-EEGSR), EMAG (AlexLazarovich/EMAG),
SRGDiff (DhrLhj/ICLR2026SRGDiff). All of them score all channels, the given ones included; their
number is `nmse_all_batch` (DiBiMa, MASER) or `nmse_all` (EMAG, SRGDiff).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eegsr_jax.data.segments import Segment, adjacent_windows
from eegsr_jax.data.splits import Split
from eegsr_jax.data.store import Store
from eegsr_jax.errors import ConfigError, SplitError
from eegsr_jax.evaluation.folds import Fold, Options, Protocol, chosen_subjects

_TASK = {1: 0, 2: 1} | {run: 2 + block for block, runs in enumerate(
    ((3, 7, 11), (5, 9, 13), (4, 8, 12), (6, 10, 14))) for run in runs}  # fmt: skip
_SRGDIFF_TEST = ("13", "14", "15")


def _split(kind: str, windows: Sequence[Segment], parts, *, leaky: bool, seed: int | None) -> Split:
    # In the order that they were dealt in: scores of batches depend on it.
    train, validate, test = (
        tuple(windows[i] for i in np.asarray(places, int).tolist()) for places in parts
    )
    chosen = {"train": train, "validate": validate, "test": test}
    empty = [name for name, segments in chosen.items() if not segments]
    if empty:
        raise SplitError(
            f"protocol {kind}: {len(windows)} windows leave the {empty[0]} part empty; more data "
            "are needed"
        )
    return Split(kind=kind, train=train, validate=validate, test=test, leaky=leaky, seed=seed)


def _dibima(store: Store, options: Options) -> list[Fold]:
    try:
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise ConfigError(
            "protocols dibima and maser deal their windows with scikit-learn's train_test_split; "
            "pip install scikit-learn"
        ) from None

    def deal(items, test_size, stratify=None):
        try:
            return train_test_split(items, test_size=test_size, random_state=2, stratify=stratify)
        except ValueError as error:
            raise SplitError(
                f"protocol dibima: {len(items)} windows cannot be dealt ({error}); more data are "
                "needed"
            ) from None

    subjects = chosen_subjects(store, options)
    if len(subjects) > 4:  # the order of their subject-level split, which they do not use further
        rest, last = deal(sorted(subjects, key=lambda s: (len(s), s)), 0.2)
        first, middle = deal(rest, 0.125)
        subjects = [*first, *middle, *last]
    order = {subject: i for i, subject in enumerate(subjects)}
    chosen = store.select(subjects=subjects)
    windows = adjacent_windows(chosen, round(2 * chosen.recordings[0].sfreq))
    windows.sort(key=lambda w: order[chosen.recording(w.key).subject])  # stable: runs, then time
    runs = [chosen.recording(w.key).run for w in windows]
    labels = [_TASK.get(int(run), 0) if run.isdigit() else 0 for run in runs]
    rest, test = deal(np.arange(len(windows)), 0.2, labels)
    train, validate = deal(rest, 0.125, [labels[i] for i in rest])
    split = _split("dibima", windows, (train, validate, test), leaky=True, seed=2)
    return [Fold(subject="all" if len(subjects) > 1 else subjects[0], store=chosen, split=split)]


def _emag(store: Store, options: Options) -> list[Fold]:
    folds = []
    for subject in chosen_subjects(store, options):
        own = store.select(subjects=[subject])
        windows = adjacent_windows(own, round(4 * own.recordings[0].sfreq))
        order = np.random.default_rng(42).permutation(len(windows))
        cut = int(0.8 * len(windows))
        parts = (order[:cut], order[cut:], order[cut:])  # their test part is their validation part
        split = _split("emag", windows, parts, leaky=True, seed=42)
        folds.append(Fold(subject=subject, store=own, split=split))
    return folds


def _srgdiff(store: Store, options: Options) -> list[Fold]:
    subjects = chosen_subjects(store, options)
    chosen = store.select(subjects=subjects)
    windows = adjacent_windows(chosen, round(4 * chosen.recordings[0].sfreq), centred=True)
    if len(subjects) == 1:
        cut = int(0.8 * len(windows))
        train, test = np.arange(cut), np.arange(cut, len(windows))
    else:
        held_out = [s for s in subjects if s.lstrip("0S") in _SRGDIFF_TEST] or subjects[-3:]
        is_test = np.array([chosen.recording(w.key).subject in held_out for w in windows], bool)
        train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    # They have no validation part: ours is the end of the training part, so that nothing leaks.
    cut = int(0.8 * len(train))
    parts = (train[:cut], train[cut:], test)
    split = _split("srgdiff", windows, parts, leaky=False, seed=None)
    label = subjects[0] if len(subjects) == 1 else "all"
    return [Fold(subject=label, store=chosen, split=split)]


_RANDOM = "windows of all runs are dealt at random: neighbours in time train and test"
PEERS = (
    Protocol(
        name="dibima",
        summary="DiBiMa on EEGMMIDB: windows of 2 s, random stratified split, nmse_all_batch",
        folds=_dibima,
        preprocessing="dibima",
        quirks=(
            _RANDOM,
            "published for 109 subjects with one model; scored over all channels, batches of 32",
        ),
    ),
    Protocol(
        name="maser",
        summary="MASER on EEGMMIDB: as dibima, batches of 64, the known channels copied",
        folds=_dibima,
        preprocessing="dibima",
        legacy_batch=64,
        quirks=(
            _RANDOM,
            "MASER's subjects, split and filters are unpublished: DiBiMa's stand in for them",
            "16 channels as the paper says; the released index arithmetic shows the network other "
            "patches (22 channels in the first second, 10 in the second)",
        ),
    ),
    Protocol(
        name="emag",
        summary="EMAG: windows of 4 s, each channel standardised, random split within subject",
        folds=_emag,
        preprocessing="none",
        window_seconds=4.0,
        zscore=True,
        quirks=(
            _RANDOM,
            "the test part is the validation part",
            "every window is standardised with the truth's own mean and deviation",
        ),
    ),
    Protocol(
        name="srgdiff",
        summary="SRGDiff: windows of 4 s, subjects 13, 14 and 15 test (or the last 20 % of one)",
        folds=_srgdiff,
        preprocessing="none",
        window_seconds=4.0,
        quirks=(
            "the released autoencoder stage sees most windows of the test subjects; not so here",
            "their list of accepted trials is unpublished: all trials are used",
        ),
    ),
)
