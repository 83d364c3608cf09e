"""The peers' splits against their own recipe, written out here a second time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from eegsr_jax.errors import SplitError
from eegsr_jax.evaluation.folds import Options
from eegsr_jax.evaluation.protocols import protocol


def places(segments) -> list[tuple[str, int, int]]:
    return [(s.key, s.start, s.stop) for s in segments]


# ----------------------------------------------------------------------------------------- EMAG


def test_emag_deals_windows_by_one_permutation(ramps):
    store = ramps([("a", "1", "1", 10 * 40 + 39)])  # ten windows of 4 s at 10 Hz, and a tail
    (fold,) = protocol("emag").folds(store, Options())
    golden = [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]
    assert np.random.default_rng(42).permutation(10).tolist() == golden
    key = store.recordings[0].key
    windows = [(key, 40 * i, 40 * i + 40) for i in golden]
    assert places(fold.split.train) == windows[:8]
    assert places(fold.split.test) == windows[8:]
    assert fold.split.validate == fold.split.test
    assert fold.split.leaky and fold.split.seed == 42


def test_emag_is_within_subject_over_all_runs(ramps):
    store = ramps([(s, "1", run, 130) for s in "abc" for run in "12"])  # 3 windows each
    folds = protocol("emag").folds(store, Options())
    assert [f.subject for f in folds] == ["a", "b", "c"]
    order = np.random.default_rng(42).permutation(6)
    for fold in folds:
        keys = [f"sub-{fold.subject}_ses-1_run-{run}" for run in "12"]
        windows = [(key, 40 * i, 40 * i + 40) for key in keys for i in range(3)]
        assert places(fold.split.train) == [windows[i] for i in order[:4]]  # int(0.8 * 6)
        assert places(fold.split.test) == [windows[i] for i in order[4:]]


# --------------------------------------------------------------------------------------- DiBiMa


def dibima_subjects(count: int) -> list[int]:
    rest, last = train_test_split(range(1, count + 1), test_size=0.2, random_state=2)
    first, middle = train_test_split(rest, test_size=0.125, random_state=2)
    return [*first, *middle, *last]


def test_dibima_deals_the_windows_of_109_subjects(ramps):
    order = dibima_subjects(109)
    assert order[:12] == [75, 58, 13, 107, 55, 109, 105, 35, 49, 62, 73, 50]
    assert order[-5:] == [30, 31, 28, 17, 1]

    runs = {s: f"{1 + s % 14:02d}" for s in range(1, 110)}
    store = ramps([(f"{s:03d}", "1", runs[s], 95) for s in range(1, 110)])  # 4 windows of 2 s
    (fold,) = protocol("dibima").folds(store, Options())

    def task(run: int) -> int:
        """Eyes open, eyes closed, real fist, real fists and feet, imagined fist, imagined both."""
        return run - 1 if run < 3 else {3: 2, 5: 3, 4: 4, 6: 5}[3 + (run - 3) % 4]

    windows = [
        (f"sub-{s:03d}_ses-1_run-{runs[s]}", 20 * i, 20 * i + 20) for s in order for i in range(4)
    ]
    labels = [task(int(key[-2:])) for key, *_ in windows]
    rest, test = train_test_split(
        np.arange(len(windows)), test_size=0.2, random_state=2, stratify=labels
    )
    train, validate = train_test_split(
        rest, test_size=0.125, random_state=2, stratify=[labels[i] for i in rest]
    )
    assert places(fold.split.test) == [windows[i] for i in test]  # as dealt: batches depend on it
    assert places(fold.split.validate) == [windows[i] for i in validate]
    assert places(fold.split.train) == [windows[i] for i in train]
    assert (fold.subject, fold.split.leaky, fold.split.seed) == ("all", True, 2)


@pytest.mark.parametrize("name", ["dibima", "maser"])
def test_dibima_of_one_subject_deals_its_windows(ramps, name):
    store = ramps([("1", "1", "3", 1000), ("2", "1", "3", 1000)])
    (fold,) = protocol(name).folds(store, Options(subjects=("2",)))
    assert fold.subject == "2"
    parts = fold.split.train, fold.split.validate, fold.split.test
    assert [len(p) for p in parts] == [35, 5, 10]
    assert sorted(s.start for p in parts for s in p) == list(range(0, 1000, 20))
    assert {s.key for p in parts for s in p} == {"sub-2_ses-1_run-3"}


@pytest.mark.parametrize(
    "material",
    [
        [("1", "1", "3", 40)],  # 2 windows
        [("1", "1", "1", 400), ("1", "1", "2", 25)],  # one window of a class cannot be shared out
        [("1", "1", "3", 15)],  # none
    ],
)
def test_dibima_with_too_little_is_one_line(ramps, material):
    with pytest.raises(SplitError, match="dibima: .* windows.*more data are needed"):
        protocol("dibima").folds(ramps(material), Options())


# -------------------------------------------------------------------------------------- SRGDiff


def test_srgdiff_tests_on_three_subjects(ramps):
    store = ramps([(f"{s:02d}", "1", "1", 415) for s in range(1, 16)])
    (fold,) = protocol("srgdiff").folds(store, Options())
    tested = {store.recording(s.key).subject for s in fold.split.test}
    assert tested == {"13", "14", "15"}
    trained = {store.recording(s.key).subject for s in (*fold.split.train, *fold.split.validate)}
    assert trained == {f"{s:02d}" for s in range(1, 13)}
    assert (fold.subject, fold.split.leaky, fold.split.seed) == ("all", False, None)
    # Windows are centred: 415 samples hold 10 windows of 4 s and 15 samples, 7 of them in front.
    starts = [s.start for s in fold.split.test if store.recording(s.key).subject == "14"]
    assert starts == [7 + 40 * i for i in range(10)]
    # The validation part, which they do not have, is the end of what they train on.
    everything = [*fold.split.train, *fold.split.validate]
    assert len(fold.split.train) == 96 and len(everything) == 120
    assert {store.recording(s.key).subject for s in fold.split.validate} <= {"10", "11", "12"}


def test_srgdiff_without_their_subjects_tests_on_the_last_three(ramps):
    store = ramps([(s, "1", "1", 400) for s in "abcde"])
    (fold,) = protocol("srgdiff").folds(store, Options())
    assert {store.recording(s.key).subject for s in fold.split.test} == {"c", "d", "e"}


def test_srgdiff_of_one_subject_is_sequential(ramps):
    store = ramps([("4", "1", "1", 400), ("4", "1", "2", 400), ("5", "1", "1", 400)])
    (fold,) = protocol("srgdiff").folds(store, Options(subjects=("4",)))
    first, second = "sub-4_ses-1_run-1", "sub-4_ses-1_run-2"
    windows = [(key, 40 * i, 40 * i + 40) for key in (first, second) for i in range(10)]
    assert places(fold.split.train) == windows[:12]
    assert places(fold.split.validate) == windows[12:16]
    assert places(fold.split.test) == windows[16:]
    assert fold.subject == "4"


@pytest.mark.parametrize("name", ["emag", "srgdiff"])
@pytest.mark.parametrize("samples", [30, 50])  # no window of 40 samples, and one
def test_too_little_is_one_line(ramps, name, samples):
    store = ramps([("1", "1", "1", samples), ("2", "1", "1", samples)])
    with pytest.raises(SplitError, match=f"protocol {name}: .* windows leave the .* part empty"):
        protocol(name).folds(store, Options())
