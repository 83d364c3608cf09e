"""What an experiment trains on and what tests it: the splits of `evaluate`, and no overlap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import prepare
from eegsr_jax.errors import EEGSRError
from eegsr_jax.evaluation.folds import Options
from eegsr_jax.evaluation.protocols import protocol
from eegsr_jax.training.experiment import Experiment, is_tested, needs, prepared, split_of
from eegsr_jax.training.run import card_of

NAMES = "Fp1 Fp2 F3 Fz F4 C3 Cz C4 P3 Pz P4 O1 O2".split()
EXPERIMENT = Experiment(
    dataset="simulated", preprocessing=PREPROCESSING["none"], layout="spread:6", window_seconds=1.0
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """4 subjects with 3 runs of 10 s."""
    dataset = datasets.load(
        "simulated", montage=NAMES, num_subjects=4, num_runs=3, seconds=10.0, sfreq=80.0
    )
    out = tmp_path_factory.mktemp("experiment") / "store"
    return prepare(dataset, out, PREPROCESSING["none"], progress=False)


def parts(split):
    return {part: getattr(split, part) for part in ("train", "validate", "calibration", "test")}


@pytest.mark.parametrize(
    ("changes", "name", "options"),
    [
        (
            {"subjects": ("2",), "runs": ("1", "2"), "test_runs": ("3",)},
            "within_runs",
            {"subjects": ("2",), "train_runs": ("1", "2"), "test_runs": ("3",)},
        ),
        (
            {"test_subjects": ("3",), "validate": 0.25},
            "leave_subjects_out",
            {"subjects": ("3",)},
        ),
        (
            {"subjects": ("1", "2", "3", "4"), "test_subjects": ("3",), "validate": 0.25},
            "leave_subjects_out",
            {"subjects": ("3",)},
        ),
    ],
)
def test_the_split_is_that_of_evaluate(store, changes, name, options):
    _, found = split_of(replace(EXPERIMENT, **changes), store)
    (fold,) = protocol(name).folds(store, Options(**options))
    assert parts(found) == parts(fold.split) and found.kind == fold.split.kind


def test_runs_that_are_not_tested_train(store):
    named = replace(EXPERIMENT, subjects=("1",), runs=("1", "3"), test_runs=("2",))
    others = replace(EXPERIMENT, subjects=("1",), test_runs=("2",))
    assert parts(split_of(named, store)[1]) == parts(split_of(others, store)[1])


def test_a_card_names_what_trained_and_not_what_tests(store):
    experiment = replace(EXPERIMENT, subjects=("1",), test_runs=("2",))
    keys = card_of(experiment, store).recordings
    assert [key.partition("run-")[2] for key in keys] == ["1", "3"]
    windows, _ = prepared(experiment, store)
    tested = split_of(experiment, store)[1].test
    used = {segment.key for segment in (*windows.train, *windows.validate)}
    assert used == set(keys) and not used & {segment.key for segment in tested}


def test_without_test_data_the_end_validates_and_nothing_tests(store):
    experiment = replace(EXPERIMENT, subjects=("1",))
    assert not is_tested(experiment)
    own, split = split_of(experiment, store)
    assert split.test == () and len(own.recordings) == 3
    train, validate = (sum(s.stop - s.start for s in x) for x in (split.train, split.validate))
    np.testing.assert_allclose(validate / (train + validate), 0.2)


def test_what_it_needs_of_a_data_set():
    experiment = replace(EXPERIMENT, subjects=("1", "2"), test_subjects=("3",), test_runs=("9",))
    assert needs(experiment, "subjects") == ("1", "2", "3")
    assert needs(experiment, "runs") is None  # all


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_runs": ("1",), "test_subjects": ("2",)}, "test_subjects and test_runs"),
        ({"runs": ("1", "2"), "test_runs": ("2",)}, "2"),
        ({"test_runs": ("7",)}, "7"),
        ({"subjects": ("1",), "test_subjects": ("1",)}, "nothing else is left to train on"),
        ({"test_runs": ("1", "2", "3")}, "nothing else is left to train on"),
    ],
)
def test_what_cannot_be_tested(store, changes, message):
    with pytest.raises(EEGSRError, match=message):
        split_of(replace(EXPERIMENT, **changes), store)
