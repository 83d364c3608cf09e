"""Who trains on what: no sample on two sides, and the sides that a protocol promises."""

from __future__ import annotations

import numpy as np
import pytest

from eegsr_jax.errors import ConfigError, DatasetError, SplitError
from eegsr_jax.evaluation.folds import Options
from eegsr_jax.evaluation.protocols import OURS, PEERS, PROTOCOLS, protocol

OPTIONS = Options(train_runs=("1",), test_runs=("2",), calibration_seconds=(0.0, 4.0))


def uses(store, fold, part) -> dict[str, np.ndarray]:
    """How often each sample of each recording is in a part of the split."""
    counts = {r.key: np.zeros(r.samples, int) for r in store.recordings}
    for segment in getattr(fold.split, part):
        counts[segment.key][segment.start : segment.stop] += 1
    return counts


def subjects(store, fold, part) -> set[str]:
    return {store.recording(s.key).subject for s in getattr(fold.split, part)}


def seconds(fold, part) -> float:
    sfreq = fold.store.recordings[0].sfreq
    return sum(s.stop - s.start for s in getattr(fold.split, part)) / sfreq


@pytest.mark.parametrize("name", [n for n in PROTOCOLS if n != "within_sessions"])
def test_no_sample_is_used_twice(store, name):
    folds = protocol(name).folds(store, OPTIONS)
    for fold in folds:
        parts = {p: uses(store, fold, p) for p in ("train", "validate", "calibration", "test")}
        if name == "emag":  # its test part is its validation part, which its quirks say
            assert fold.split.test == fold.split.validate and fold.split.leaky
            parts["validate"] = {key: 0 * count for key, count in parts["validate"].items()}
        for recording in store.recordings:
            used = sum(parts[p][recording.key] for p in parts)
            assert used.max() <= 1, (name, fold.subject, recording.key)
        assert fold.split.train and fold.split.test
        assert fold.split.leaky == (name in ("dibima", "maser", "emag"))


def test_within_runs_keeps_subjects_and_runs_apart(store):
    folds = protocol("within_runs").folds(store, OPTIONS)
    assert [f.subject for f in folds] == ["1", "2", "3", "4"]
    for fold in folds:
        for part, run in (("train", "1"), ("validate", "1"), ("test", "2")):
            segments = getattr(fold.split, part)
            assert {store.recording(s.key).run for s in segments} == {run}
            assert subjects(store, fold, part) == {fold.subject}
        assert seconds(fold, "train") == pytest.approx(0.8 * 24)
        assert seconds(fold, "validate") == pytest.approx(0.2 * 24)  # the end of the training runs
        assert fold.split.validate[0].start == fold.split.train[-1].stop


def test_only_the_subjects_asked_for(store):
    options = Options(train_runs=("1",), test_runs=("2",), subjects=("3", "S002"))
    folds = protocol("within_runs").folds(store, options)
    assert {f.subject for f in folds} == {"2", "3"}
    with pytest.raises(DatasetError, match="'9'.*1, 2, 3, 4"):
        protocol("chronological").folds(store, Options(subjects=("9",)))


def test_within_sessions(ramps):
    store = ramps([(s, session, "1", 200) for s in "ab" for session in ("one", "two")])
    options = Options(train_sessions=("one",), test_sessions=("two",))
    for fold in protocol("within_sessions").folds(store, options):
        assert {store.recording(s.key).session for s in fold.split.train} == {"one"}
        assert {store.recording(s.key).session for s in fold.split.test} == {"two"}
        assert subjects(store, fold, "test") == {fold.subject}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("within_runs", "--train_runs and --test_runs; the data have runs 1, 2"),
        ("within_sessions", "--train_sessions and --test_sessions; the data have sessions 1"),
    ],
)
def test_what_must_be_chosen_is_asked_for_by_name(store, name, message):
    with pytest.raises(SplitError, match=message):
        protocol(name).folds(store, Options())


def test_chronological_cuts_every_recording_in_the_order_of_time(store):
    (fold,) = protocol("chronological").folds(store, Options(subjects=("2",), gap_seconds=0.5))
    for recording in fold.store.recordings:
        train, validate, test = (
            next(s for s in getattr(fold.split, part) if s.key == recording.key)
            for part in ("train", "validate", "test")
        )
        assert (train.start, test.stop) == (0, recording.samples)
        assert validate.start == train.stop + 40 and test.start == validate.stop + 40
        assert [round(s.stop / recording.samples, 1) for s in (train, validate)] == [0.6, 0.8]


def test_leave_subjects_out_tests_on_strangers(store):
    folds = protocol("leave_subjects_out").folds(store, Options())
    assert [f.subject for f in folds] == ["1", "2", "3", "4"]
    for fold in folds:
        assert subjects(store, fold, "test") == {fold.subject}
        known = subjects(store, fold, "train"), subjects(store, fold, "validate")
        assert known[0] | known[1] == {"1", "2", "3", "4"} - {fold.subject}
        assert len(known[1]) == 1 and not known[0] & known[1]
        assert seconds(fold, "test") == pytest.approx(0.4 * 48)
        assert fold.split.calibration == ()


def test_calibration_comes_before_the_test_part_which_stays_the_same(store):
    options = Options(subjects=("3",), calibration_seconds=(0, 10, 25.5))
    none, ten, more = protocol("leave_subjects_out").folds(store, options)
    assert [f.calibration_seconds for f in (none, ten, more)] == [0, 10, 25.5]
    assert none.split.test == ten.split.test == more.split.test
    assert none.split.train == ten.split.train == more.split.train
    assert seconds(ten, "calibration") == 10 and seconds(more, "calibration") == 25.5
    assert subjects(store, more, "calibration") == {"3"}
    assert ten.split.calibration[0].start == 0
    assert {store.recording(s.key).run for s in more.split.calibration} == {"1", "2"}
    last, first = more.split.calibration[-1], more.split.test[0]
    assert last.key == first.key and last.stop <= first.start


def test_leave_subjects_out_says_what_it_needs(store, ramps):
    with pytest.raises(SplitError, match="at least 3 subjects; the data have 2"):
        protocol("leave_subjects_out").folds(store.select(subjects=["1", "2"]), Options())
    with pytest.raises(SplitError, match="subject 1: fewer than 40 usable seconds"):
        protocol("leave_subjects_out").folds(store, Options(calibration_seconds=(40,)))


def test_unknown_names_get_a_list_and_a_guess():
    with pytest.raises(ConfigError, match="'nothing' is unknown.*within_runs, .*srgdiff"):
        protocol("nothing")
    with pytest.raises(ConfigError, match="did you mean leave_subjects_out"):
        protocol("leave_subject_out")


def test_the_peers_say_what_is_wrong_with_them():
    assert [p.name for p in PEERS] == ["dibima", "maser", "emag", "srgdiff"]
    assert all(p.quirks for p in PEERS) and not any(p.quirks for p in OURS)
    assert PROTOCOLS["emag"].zscore and not PROTOCOLS["srgdiff"].zscore
    assert (PROTOCOLS["dibima"].legacy_batch, PROTOCOLS["maser"].legacy_batch) == (32, 64)


def test_windows_in_samples():
    assert PROTOCOLS["dibima"].window(160.0) == 320
    assert PROTOCOLS["emag"].window(200.0) == 800
    assert PROTOCOLS["within_runs"].window(150.15) == 300
