"""Splits: cases worked by hand, no overlap whatever the recordings, refusals that name why."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eegsr_jax.data import splits
from eegsr_jax.data.manifest import StoredRecording
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.split_file import load_split, save_split
from eegsr_jax.data.splits import PARTS, Segment, Split
from eegsr_jax.data.store import Store
from eegsr_jax.errors import DatasetError, SplitError


def stored(subject, run, samples, *, session="1", sfreq=100.0, usable=None) -> StoredRecording:
    return StoredRecording(
        key=f"sub-{subject}_ses-{session}_run-{run}",
        subject=str(subject),
        session=str(session),
        run=str(run),
        label=None,
        sfreq=sfreq,
        samples=samples,
        names=("Fz", "Cz"),
        positions=np.eye(2, 3),
        bads=(),
        usable=((0, samples),) if usable is None else usable,
        reference="native",
        source="x.edf",
        source_sha256=None,
        sha256=f"hash of {subject} {session} {run}",
        notes=(),
    )


def store_of(*recordings: StoredRecording) -> Store:
    """Splits need the manifest only, so no file is written."""
    return Store(
        path=Path("STORE"),
        dataset="made",
        licence="",
        citation="",
        preprocessing=PREPROCESSING["none"],
        recordings=recordings,
        complete=True,
    )


def plain(segments) -> list[tuple]:
    """(subject and run, start, stop) of each segment."""
    return [(s.key.split("-")[1][0] + "." + s.key.split("-")[3], s.start, s.stop) for s in segments]


# --- by hand -----------------------------------------------------------------------------------


def test_chronological():
    store = store_of(stored("a", 1, 1000), stored("b", 1, 2000, sfreq=200.0))
    split = splits.chronological(store)
    assert plain(split.train) == [("a.1", 0, 600), ("b.1", 0, 1200)]
    assert plain(split.validate) == [("a.1", 700, 800), ("b.1", 1400, 1600)]
    assert plain(split.test) == [("a.1", 900, 1000), ("b.1", 1800, 2000)]
    assert (split.kind, split.leaky, split.seed) == ("chronological", False, None)
    assert split.options == {"train": 0.6, "validate": 0.2, "gap_seconds": 1.0}


def test_chronological_without_validation():
    split = splits.chronological(store_of(stored("a", 1, 1000)), train=0.6, validate=0)
    assert (plain(split.train), split.validate) == ([("a.1", 0, 600)], ())
    assert plain(split.test) == [("a.1", 700, 1000)]


def test_by_run_validates_on_the_end_of_each_subjects_training_runs():
    """Run 10 comes after run 2; 20 % of 3,000 samples: the last 600; the gap precedes the cut."""
    runs = [stored("a", run, 1000) for run in (10, 2, 3)] + [stored("a", 11, 500)]
    other = [stored("b", run, 400) for run in (2, 3, 10, 11)]
    split = splits.by_run(store_of(*runs, *other), [2, 3, 10], [11], gap_seconds=0.5)
    assert plain(split.train)[:3] == [("a.2", 0, 1000), ("a.3", 0, 1000), ("a.10", 0, 350)]
    assert plain(split.train)[3:] == [("b.2", 0, 400), ("b.3", 0, 400), ("b.10", 0, 110)]
    assert plain(split.validate) == [("a.10", 400, 1000), ("b.10", 160, 400)]
    assert plain(split.test) == [("a.11", 0, 500), ("b.11", 0, 400)]
    assert split.options["train_runs"] == ["2", "3", "10"]


def test_validation_may_take_whole_runs():
    runs = [stored("a", run, samples) for run, samples in ((1, 500), (2, 300), (3, 200), (4, 9))]
    split = splits.by_run(store_of(*runs), [1, 2, 3], [4], validate_fraction=0.5, gap_seconds=1)
    assert plain(split.train) == [("a.1", 0, 500)]
    assert plain(split.validate) == [("a.2", 0, 300), ("a.3", 0, 200)]
    none = splits.by_run(store_of(*runs), [1, 2, 3], [4], validate_fraction=0)
    assert (len(none.train), none.validate) == (3, ())


def test_duration_counts_not_samples():
    """200 s at 100 Hz and 200 s at 500 Hz: the last quarter of 400 s lies in the second."""
    runs = [stored("a", 1, 20_000), stored("a", 2, 100_000, sfreq=500.0), stored("a", 3, 9)]
    split = splits.by_run(store_of(*runs), [1, 2], [3], validate_fraction=0.25)
    assert plain(split.validate) == [("a.2", 50_000, 100_000)]


def test_by_session():
    recordings = [stored("a", r, 100, session=s) for s in ("1", "2", "3") for r in (1, 2)]
    split = splits.by_session(store_of(*recordings), ["1", "2"], "3", validate_fraction=0.25)
    assert [s.key[:11] for s in split.train] == ["sub-a_ses-1"] * 2 + ["sub-a_ses-2"]
    assert [s.key for s in split.validate] == ["sub-a_ses-2_run-2"]
    assert {s.key[:11] for s in split.test} == {"sub-a_ses-3"}
    assert split.options["test_sessions"] == ["3"]


def test_leave_subjects_out():
    store = store_of(*[stored(s, r, 50) for s in "abcdef" for r in (1, 2)])
    split = splits.leave_subjects_out(store, ["b", "f"], validate_subjects=["d"])
    assert plain(split.test) == [(f"{s}.{r}", 0, 50) for s in "bf" for r in (1, 2)]
    assert {s.key[4] for s in split.validate} == {"d"}
    assert {s.key[4] for s in split.train} == {"a", "c", "e"}
    half = splits.leave_subjects_out(store, "a", validate_subjects=0.4)
    assert {s.key[4] for s in half.validate} == {"e", "f"}
    assert splits.leave_subjects_out(store, "a", validate_subjects=0.01).validate[0].key[4] == "f"
    assert splits.leave_subjects_out(store, "a").validate == ()


def test_random_windows_cover_all_usable_windows_once():
    store = store_of(stored("a", 1, 1000, usable=((0, 95), (100, 1000))), stored("b", 1, 330))
    split = splits.random_windows(store, 10, test=0.25, validate=0.125, seed=3)
    windows = sorted(plain(split.train + split.validate + split.test))
    expected = [("a.1", t, t + 10) for t in [*range(0, 90, 10), *range(100, 1000, 10)]]
    assert windows == sorted(expected + [("b.1", t, t + 10) for t in range(0, 330, 10)])
    assert (len(split.test), len(split.validate)) == (33, 16)
    assert split.leaky and split.seed == 3
    assert splits.random_windows(store, 10, test=0.25, validate=0.125, seed=3) == split
    assert splits.random_windows(store, 10, test=0.25, validate=0.125, seed=4) != split


# --- calibration -------------------------------------------------------------------------------


@pytest.fixture
def left_out() -> tuple[Store, Split]:
    store = store_of(
        stored("a", 1, 1000),
        stored("b", 1, 1000, usable=((50, 100), (300, 1000))),
        stored("b", 2, 1000),
    )
    return store, splits.leave_subjects_out(store, "b")


@pytest.mark.parametrize(
    ("seconds", "calibration", "test"),
    [
        (0, [], [("b.1", 0, 1000), ("b.2", 0, 1000)]),
        (0.5, [("b.1", 0, 100)], [("b.1", 200, 1000), ("b.2", 0, 1000)]),
        (2, [("b.1", 0, 450)], [("b.1", 550, 1000), ("b.2", 0, 1000)]),
        (7.5, [("b.1", 0, 1000)], [("b.2", 0, 1000)]),
        (8.5, [("b.1", 0, 1000), ("b.2", 0, 100)], [("b.2", 200, 1000)]),
    ],
)
def test_calibration_counts_usable_seconds(left_out, seconds, calibration, test):
    store, split = left_out
    split = splits.with_calibration(split, store, seconds)
    assert plain(split.calibration) == calibration
    assert plain(split.test) == test
    assert split.options["calibration_seconds"] == seconds


def test_the_test_part_may_stay_the_same(left_out):
    """Test on the last 40 % whatever the calibration; the gap is taken from before the cut."""
    store, split = left_out
    made = [splits.with_calibration(split, store, s, test_from=0.6) for s in (0, 2, 8)]
    assert [plain(m.calibration) for m in made] == [
        [],
        [("b.1", 0, 450)],
        [("b.1", 0, 1000), ("b.2", 0, 50)],
    ]
    assert all(plain(m.test) == [("b.2", 200, 1000)] for m in made)
    with pytest.raises(SplitError, match="subject b: fewer than 9 usable seconds before its test"):
        splits.with_calibration(split, store, 9, test_from=0.6)


def test_calibration_that_cannot_be(left_out):
    store, split = left_out
    with pytest.raises(SplitError, match="subject b: fewer than 18 usable seconds"):
        splits.with_calibration(split, store, 18)
    with pytest.raises(SplitError, match="subject b"):  # all of it would be calibration
        splits.with_calibration(split, store, 17.5)
    with pytest.raises(SplitError, match="calibration of -1 s"):
        splits.with_calibration(split, store, -1)
    once = splits.with_calibration(split, store, 1)
    with pytest.raises(SplitError, match="has 1 calibration segments"):
        splits.with_calibration(once, store, 1)
    with pytest.raises(SplitError, match="test_from=1.5"):
        splits.with_calibration(split, store, 1, test_from=1.5)


# --- no overlap, ever --------------------------------------------------------------------------

fractions = st.floats(0, 0.9)


def samples_of(store: Store, split: Split) -> dict[str, np.ndarray]:
    """How often each sample of each recording is used, counted one by one."""
    used = {r.key: np.zeros(r.samples, int) for r in store.recordings}
    for part in PARTS:
        for segment in getattr(split, part):
            assert 0 <= segment.start < segment.stop <= len(used[segment.key])
            used[segment.key][segment.start : segment.stop] += 1
    return used


def made_by(maker, *args, **kwargs) -> Split:
    """What a maker returns; cases that it refuses are no cases."""
    try:
        return maker(*args, **kwargs)
    except SplitError:
        assume(False)
        raise


@given(
    lengths=st.lists(st.tuples(*[st.integers(1, 3000)] * 3), min_size=1, max_size=3),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_no_sample_is_used_twice(lengths, data):
    rates = st.sampled_from([50.0, 128.0, 160.0])
    store = store_of(
        *[
            stored("abc"[i], run + 1, samples, sfreq=data.draw(rates))
            for i, own in enumerate(lengths)
            for run, samples in enumerate(own)
        ]
    )
    validate, gap = data.draw(fractions), data.draw(st.floats(0, 3))
    kind = data.draw(st.sampled_from(["time", "run", "subject"]))
    if kind == "time":
        train = data.draw(fractions)
        split = made_by(
            splits.chronological, store, train=train, validate=validate, gap_seconds=gap
        )
    elif kind == "run":
        options = {"validate_fraction": validate, "gap_seconds": gap}
        split = made_by(splits.by_run, store, [1, 2], [3], **options)
    else:
        split = made_by(splits.leave_subjects_out, store, "a", validate_subjects=validate)
        split = made_by(
            splits.with_calibration,
            split,
            store,
            data.draw(st.floats(0, 5)),
            test_from=data.draw(st.none() | fractions),
            gap_seconds=gap,
        )
    assert max(used.max() for used in samples_of(store, split).values()) == 1
    splits.check(split, store)


@given(
    cuts=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=2, max_size=6),
    parts=st.lists(st.sampled_from(PARTS), min_size=6, max_size=6),
)
@settings(max_examples=200, deadline=None)
def test_check_finds_every_overlap(cuts, parts):
    """Against counting: `check` refuses exactly those splits that use a sample twice."""
    store = store_of(stored("a", 1, 60), stored("b", 1, 10))
    segments = {part: [Segment("sub-b_ses-1_run-1", i, i + 1)] for i, part in enumerate(PARTS)}
    for (start, length), part in zip(cuts, parts, strict=False):
        segments[part].append(Segment("sub-a_ses-1_run-1", start, start + length))
    split = Split(kind="made", **{part: tuple(own) for part, own in segments.items()})
    if max(used.max() for used in samples_of(store, split).values()) > 1:
        with pytest.raises(SplitError, match="share samples .* of sub-a_ses-1_run-1"):
            splits.check(split, store)
        splits.check(dataclasses.replace(split, leaky=True), store)
    else:
        splits.check(split, store)


# --- refusals ----------------------------------------------------------------------------------


@pytest.fixture
def store() -> Store:
    return store_of(stored("a", 1, 1000), stored("a", 2, 1000), stored("b", 1, 1000))


def test_check_names_parts_samples_and_recording(store):
    split = splits.chronological(store)
    wrong = dataclasses.replace(split, train=(Segment("sub-a_ses-1_run-2", 0, 950), *split.train))
    with pytest.raises(SplitError, match="train and train share samples 0 to 600 of sub-a_ses-1_r"):
        splits.check(wrong, store)
    wrong = dataclasses.replace(split, test=(Segment("sub-b_ses-1_run-1", 590, 650),))
    with pytest.raises(SplitError, match="train and test share samples 590 to 600 of sub-b_ses-1"):
        splits.check(wrong, store)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": ()}, "chronological: the train part is empty"),
        ({"validate": ()}, "the validate part is empty"),
        ({"test": ()}, "the test part is empty"),
        ({"options": {"calibration_seconds": 3}}, "the calibration part is empty"),
        ({"test": (Segment("sub-z", 0, 1),)}, "test names the recording sub-z, which STORE does"),
        ({"test": (Segment("sub-a_ses-1_run-1", 950, 1001),)}, "950 to 1001 .* which has 1000"),
        ({"test": (Segment("sub-a_ses-1_run-1", 950, 950),)}, "test takes samples 950 to 950"),
    ],
)
def test_check_refuses(store, change, message):
    with pytest.raises(SplitError, match=message):
        splits.check(dataclasses.replace(splits.chronological(store), **change), store)


def test_a_subject_on_both_sides_is_refused(store):
    split = splits.leave_subjects_out(store, "b")
    moved = dataclasses.replace(
        split, train=split.train[:1], test=(*split.test, Segment("sub-a_ses-1_run-2", 0, 9))
    )
    with pytest.raises(SplitError, match="subject a is in test and in train; a subject may be on"):
        splits.check(moved, store)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda s: splits.chronological(s, train=0.8, validate=0.2), SplitError, "train=0.8, vali"),
        (lambda s: splits.chronological(s, train=-0.1), SplitError, "train=-0.1"),
        (
            lambda s: splits.chronological(s, gap_seconds=2.5),
            SplitError,
            "sub-a_ses-1_run-1: 10.0 s leave nothing for the validate part",
        ),
        (lambda s: splits.by_run(s, 1, 9), DatasetError, "run '9' does not exist; present: 1, 2"),
        (lambda s: splits.by_run(s, 1, 2), SplitError, "subject b has nothing to test on"),
        (lambda s: splits.by_run(s, 2, 1), SplitError, "subject b has nothing to train on"),
        (lambda s: splits.by_run(s, 1, 1), SplitError, "share samples"),
        (lambda s: splits.by_run(s, 1, 2, validate_fraction=1), SplitError, "validate_fraction=1"),
        (lambda s: splits.by_session(s, "1", "2"), DatasetError, "session '2' does not exist"),
        (lambda s: splits.leave_subjects_out(s, "c"), DatasetError, "subject 'c' does not exist"),
        (lambda s: splits.leave_subjects_out(s, ["a", "b"]), SplitError, "train part is empty"),
        (
            lambda s: splits.leave_subjects_out(s, "a", validate_subjects="a"),
            SplitError,
            "subject a is in test and in validate",
        ),
        (lambda s: splits.random_windows(s, 1001), SplitError, "the train part is empty"),
        (lambda s: splits.random_windows(s, 0), SplitError, "window=0 samples"),
        (lambda s: splits.random_windows(s, 9, test=1.0), SplitError, "test=1.0"),
    ],
)
def test_makers_refuse(store, make, error, message):
    with pytest.raises(error, match=message):
        make(store)


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        splits.chronological,
        lambda s: splits.by_run(s.select(subjects="a"), 1, 2, gap_seconds=0.1),
        lambda s: splits.leave_subjects_out(s, "b", validate_subjects=0.0),
        lambda s: splits.with_calibration(splits.leave_subjects_out(s, "b"), s, 2, test_from=0.6),
        lambda s: splits.random_windows(s, 64, seed=5),
    ],
)
def test_saved_and_loaded_again(tmp_path, store, make):
    split = make(store)
    save_split(split, store, tmp_path / "split.json")
    assert load_split(tmp_path / "split.json", store) == split


def test_loading_for_other_data_is_refused(tmp_path, store):
    path = tmp_path / "split.json"
    save_split(splits.chronological(store), store, path)
    other = dataclasses.replace(store.recordings[1], sha256="other")
    changed = dataclasses.replace(store, recordings=(store.recordings[0], other))
    with pytest.raises(SplitError, match="sub-a_ses-1_run-2 .*STORE holds other data under this"):
        load_split(path, changed)
    with pytest.raises(SplitError, match="names sub-b_ses-1_run-1 .*STORE does not have it"):
        load_split(path, store.select(subjects="a"))
    more = dataclasses.replace(store, recordings=(*store.recordings, stored("c", 1, 9)))
    assert load_split(path, more).kind == "chronological"


def test_saving_does_not_overwrite_unasked(tmp_path, store):
    path = tmp_path / "split.json"
    path.write_text("mine")
    with pytest.raises(SplitError, match="split.json exists; choose another name"):
        save_split(splits.chronological(store), store, path)
    assert path.read_text() == "mine"
    save_split(splits.chronological(store), store, path, overwrite=True)
    assert load_split(path, store).kind == "chronological"


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("train"),
        lambda c: c.update(format_version=9),
        lambda c: c.update(format="x"),
        lambda c: c.update(test=[["sub-a_ses-1_run-1", "zero", 5]]),
    ],
)
def test_files_that_are_no_splits(tmp_path, store, change):
    path = tmp_path / "split.json"
    save_split(splits.chronological(store), store, path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(SplitError, match="split.json: not a split file"):
        load_split(path, store)


def test_a_file_with_overlap_is_refused(tmp_path, store):
    path = tmp_path / "split.json"
    save_split(splits.chronological(store), store, path)
    content = json.loads(path.read_text())
    content["test"].append(["sub-b_ses-1_run-1", 0, 10])
    path.write_text(json.dumps(content))
    with pytest.raises(SplitError, match="test and train share samples 0 to 10"):
        load_split(path, store)


def test_absent_file(tmp_path, store):
    with pytest.raises(SplitError, match="nothing.json: not a split file that can be read"):
        load_split(tmp_path / "nothing.json", store)
