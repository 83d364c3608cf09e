"""The downstream level: trials, tasks, and who is tested on what; also on synthetic SEED files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.io
from sklearn.metrics import balanced_accuracy_score

from eegsr_jax import methods as mt
from eegsr_jax.data import datasets
from eegsr_jax.data.datasets import seed
from eegsr_jax.data.datasets.base import Dataset, Entry
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.recording import Event, Recording
from eegsr_jax.data.store import prepare
from eegsr_jax.errors import DatasetError
from eegsr_jax.evaluation import classifier as cl
from eegsr_jax.evaluation import levels
from eegsr_jax.evaluation.downstream_level import FULL, LOW, DownstreamStudy, cut, tasks
from eegsr_jax.evaluation.folds import Options
from eegsr_jax.evaluation.protocols import protocol
from eegsr_jax.evaluation.views import Data, views
from eegsr_jax.geometry import montage

NAMES = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()
PLACES = np.stack([montage("standard_1005")[name] for name in NAMES])
WITHIN = protocol("within_runs")
OPTIONS = Options(train_runs=("1", "2"), test_runs=("3",))
LAYOUT = "spread:8"
EVENT = 330  # samples: two windows of 160, and a little
LABELS = ("rest", "left_fist", "rest", "right_fist")


def recorded(subject, run, trials=32, quiet=0.2, **fields):
    """A rhythm over each hand's cortex, which falls on the side opposite to a moved hand."""
    rng = np.random.default_rng([int(subject), int(run)])
    samples = trials * EVENT
    near = np.exp(-((PLACES[:, None] - PLACES[None]) ** 2).sum(-1) / 0.06**2)
    data = np.linalg.cholesky(near + 0.05 * np.eye(20)) @ rng.standard_normal((20, samples))
    events = []
    for number in range(trials):
        label = LABELS[number % 4]
        own = slice(number * EVENT, (number + 1) * EVENT)
        for place, silent in ((8, label == "right_fist"), (10, label == "left_fist")):
            phase = rng.uniform(0, 2 * np.pi)
            wave = np.sin(2 * np.pi * 11 * np.arange(EVENT) / 80 + phase)
            data[:, own] += 3 * (quiet if silent else 1) * near[:, place, None] * wave
        events.append(Event(own.start, own.stop, label))
    return Recording(
        data=(1e-5 * data).astype(np.float32),
        sfreq=80.0,
        names=tuple(NAMES),
        positions=PLACES,
        usable=fields.pop("usable", np.ones(samples, bool)),
        subject=subject,
        run=run,
        **{"events": tuple(events)} | fields,
    )


def stored(path, recordings, label=None, name="made"):
    entries = tuple(
        Entry(subject=r.subject, run=r.run, read=lambda r=r: r, label=label) for r in recordings
    )
    dataset = Dataset(name=name, entries=entries, citation="Nobody", licence="CC0-1.0")
    return prepare(dataset, path, PREPROCESSING["none"], progress=False)


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    recordings = [recorded(subject, run) for subject in "12" for run in "123"]
    return stored(tmp_path_factory.mktemp("hands") / "store", recordings)


def row_of(rows, method, task, subject="1"):
    (row,) = [r for r in rows if (r["method"], r["task"], r["subject"]) == (method, task, subject)]
    return row


# -------------------------------------------------------------------------------------------- rows


@pytest.fixture(scope="module")
def table(hands):
    def silent(plan, observed, key):
        return method.apply(plan, 0 * observed, key).mean

    method = mt.make("spherical_spline")
    compared = {"ridge": mt.make("ridge"), "spline": method._replace(draw=silent)}
    lines = []
    rows, study = levels.compare(
        WITHIN.folds(hands, OPTIONS), WITHIN, DownstreamStudy, compared, [LAYOUT], say=lines.append
    )
    assert len(lines) == 6 and "rest or not: " in lines[0]
    return rows, study


HANDS = "left_fist or right_fist"


def test_rows_of_both_tasks(table):
    rows, _ = table
    methods = [FULL, LOW, "zero", "ridge", "spline", "spline (draw)"]
    assert len(rows) == 2 * 2 * len(methods)
    for subject in "12":
        for method in methods:
            hands = row_of(rows, method, HANDS, subject)
            assert (hands["trials"], hands["chance"], hands["observed"]) == (16, 0.5, 8)
            assert row_of(rows, method, "rest or not", subject)["trials"] == 32


def test_what_can_be_decoded_is_decoded(table):
    rows, _ = table
    for subject in "12":
        for method in (FULL, LOW):
            assert row_of(rows, method, HANDS, subject)["accuracy"] > 0.8, method
        # A reconstruction has no more dimensions than inputs, which the filters were not made for.
        assert 0.6 < row_of(rows, "ridge", HANDS, subject)["accuracy"]
        # A draw that holds nothing of the inputs is not understood.
        assert row_of(rows, "spline (draw)", HANDS, subject)["accuracy"] == 0.5


def test_the_full_cap_by_hand(table, hands):
    """Another way through the same trials: all samples of both windows, filters, discriminant."""
    rows, study = table
    fold = WITHIN.folds(hands, replace(OPTIONS, subjects=("1",)))[0]
    parts = []
    for segments in ((*fold.split.train, *fold.split.validate), fold.split.test):
        answers, covariances = [], []
        for segment in segments:
            for event in hands.recording(segment.key).events:
                starts = [event.start, event.start + 160]
                inside = [s for s in starts if segment.start <= s and s + 160 <= segment.stop]
                if event.label == "rest" or not inside:
                    continue
                eeg = np.stack([hands.read(segment.key, s, s + 160) for s in inside])
                covariances.append(cl.band_covariances(eeg, 80.0, ((8.0, 30.0),)).mean(0))
                answers.append(int(event.label == "right_fist"))
        parts.append((np.array(covariances), np.array(answers)))
    (known, classes), (tested, truth) = parts
    found = cl.predict(cl.train(known, classes), tested)
    expected = balanced_accuracy_score(truth, found)
    assert row_of(rows, FULL, HANDS)["accuracy"] == pytest.approx(expected)


def test_nothing_of_the_test_runs_trains_a_classifier(hands, tmp_path):
    """With other signals in the test runs, the classifiers are the same."""
    recordings = [recorded("1", run, quiet=3.0 if run == "3" else 0.2) for run in "123"]
    altered = stored(tmp_path / "store", recordings)
    made = []
    for store in (hands, altered):
        fold = WITHIN.folds(store, replace(OPTIONS, subjects=("1",)))[0]
        study = DownstreamStudy(views(fold, WITHIN, [LAYOUT])[0])
        made.append(study)
    for task, before in made[0]._full.items():
        np.testing.assert_array_equal(before.filters, made[1]._full[task].filters)
        np.testing.assert_array_equal(before.weights, made[1]._full[task].weights)
    rows = made[1].floors()
    (full,) = [r for r in rows if (r["method"], r["task"]) == (FULL, HANDS)]
    assert full["accuracy"] < 0.3  # the sides have changed places


# ------------------------------------------------------------------------------------------ trials


def test_trials_are_cut_from_the_cue_in_usable_time(tmp_path):
    samples = 32 * EVENT
    usable = np.ones(samples, bool)
    usable[EVENT + 200] = False  # in the second window of the second trial
    usable[2 * EVENT + 100] = usable[2 * EVENT + 300] = False  # in both of the third
    recordings = [recorded("1", run, usable=usable) for run in "123"]
    store = stored(tmp_path / "store", recordings)
    fold = WITHIN.folds(store, OPTIONS)[0]
    trials = cut(Data(fold, WITHIN), fold.split.test)
    assert trials.cued and len(trials.labels) == 31
    assert trials.eeg.shape == (61, 20, 160)
    assert trials.labels[:4].tolist() == ["rest", "left_fist", "right_fist", "rest"]
    assert trials.trial[:6].tolist() == [0, 0, 1, 2, 2, 3]
    key = fold.split.test[0].key
    for place, start in ((0, 0), (1, 160), (2, EVENT), (3, 3 * EVENT)):
        np.testing.assert_array_equal(trials.eeg[place], store.read(key, start, start + 160))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["rest"] * 4 + ["a"] * 4, {"rest or not": {"rest": 0, "a": 1}}),
        (["a"] * 4 + ["b"] * 5 + ["c"] * 3, {"a or b": {"a": 0, "b": 1}}),
        (
            ["rest"] * 4 + ["b"] * 4 + ["a"] * 4,
            {"rest or not": {"rest": 0, "a": 1, "b": 1}, "a or b": {"a": 0, "b": 1}},
        ),
        (["a"] * 9 + ["b"], {}),
    ],
)
def test_tasks(labels, expected):
    assert tasks(np.array(labels)) == expected


@pytest.mark.parametrize(
    ("fields", "label", "message"),
    [
        ({"events": ()}, None, "of made have neither events nor labels"),
        ({"events": ()}, "one", "nothing to tell apart .* subject 1, which has .* of one"),
        ({"events": (Event(0, 100, "a"),)}, None, "no event is as long as a window of 2 s"),
    ],
)
def test_what_cannot_be_classified_is_refused(tmp_path, fields, label, message):
    store = stored(tmp_path / "store", [recorded("1", run, **fields) for run in "123"], label)
    fold = WITHIN.folds(store, OPTIONS)[0]
    with pytest.raises(DatasetError, match=message):
        DownstreamStudy(views(fold, WITHIN, [LAYOUT])[0])


def test_a_store_of_before_events_were_kept(hands):
    old = replace(hands, recordings=tuple(replace(r, events=None) for r in hands.recordings))
    fold = WITHIN.folds(old, OPTIONS)[0]
    with pytest.raises(DatasetError, match="sub-1_ses-1_run-1 was stored before events were kept"):
        DownstreamStudy(views(fold, WITHIN, [LAYOUT])[0])


# ----------------------------------------------------------------------------------- labelled films


def test_emotions_of_seed(tmp_path):
    """Three classes, by recordings: 12 s a film, whose rhythm is louder where its emotion says."""
    folder = tmp_path / "Preprocessed_EEG"
    folder.mkdir()
    rng = np.random.default_rng(0)
    place = {"positive": 10, "neutral": 30, "negative": 50}
    films = {}
    for number, emotion in enumerate(seed.LABELS, 1):
        film = 10 * rng.standard_normal((62, 2400))
        film[place[emotion]] += 30 * np.sin(2 * np.pi * 40 * np.arange(2400) / 200) * rng.uniform()
        films[f"djc_eeg{number}"] = film
        film[place[emotion]] *= 3
    scipy.io.savemat(folder / "1_20131027.mat", films)
    dataset = datasets.load("seed", tmp_path)
    store = prepare(dataset, tmp_path / "store", PREPROCESSING["none"], progress=False)
    runs = [str(run) for run in range(1, 16)]
    options = Options(train_runs=tuple(runs[:9]), test_runs=tuple(runs[9:]))
    rows, _ = levels.compare(
        WITHIN.folds(store, options), WITHIN, DownstreamStudy,
        {"nearest": mt.make("nearest")}, ["seed_case2_2x"],
    )  # fmt: skip
    (task,) = {r["task"] for r in rows}
    assert task == "negative or neutral or positive"
    full = row_of(rows, FULL, task)
    assert (full["trials"], full["chance"]) == (6 * 6, 1 / 3)
    assert full["accuracy"] > 0.9
    assert row_of(rows, "zero", task)["accuracy"] < full["accuracy"]
