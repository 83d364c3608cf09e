"""Trials with known sources: what is asked for is what is in them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from eegsr_jax import layouts
from eegsr_jax.data import datasets
from eegsr_jax.data.datasets import simulated
from eegsr_jax.errors import ConfigError
from eegsr_jax.evaluation.sources_simulation import APART, CAP, LOWEST, Simulation, simulate

SMALL = Simulation(
    num_subjects=2,
    train_seconds=20.0,
    sfreq=80.0,
    positions=3,
    eccentricities=(0.4, 0.8),
    snr_db=(0.0, 20.0),
    montage=tuple("Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()),
)


@pytest.fixture(scope="module")
def subject():
    return simulate(SMALL, 2)


def background(seconds: float, run: int) -> np.ndarray:
    entry = datasets.load(
        "simulated", subjects=2, runs=run, montage=list(SMALL.montage), num_subjects=2, num_runs=2,
        seconds=seconds, sfreq=80.0,
    ).entries[0]  # fmt: skip
    return entry.read().data


def average_referenced(x: np.ndarray) -> np.ndarray:
    return x - x.mean(-1, keepdims=True)


def test_the_cap_has_the_published_layouts():
    assert len(CAP) == len(set(CAP)) == 64
    for spec in layouts.EEGMMIDB:
        assert set(layouts.layout(spec, CAP)) <= set(CAP)


def test_every_condition_has_every_source(subject):
    test = subject.test
    assert test.eeg.shape == (3 * 2 * 2 * 2, 20, 160) and test.eeg.dtype == np.float32
    for one in (test.sources == 1, test.sources == 2):
        for snr in SMALL.snr_db:
            chosen = one & (test.snr_db == snr)
            assert sorted(test.eccentricity[chosen]) == [0.4] * 3 + [0.8] * 3
    # Of one place, the conditions differ in nothing but strength and the second source.
    np.testing.assert_array_equal(test.positions[0, 0], test.positions[3, 0])
    assert len(subject.train.eeg) == 10 and set(subject.train.sources) == {1, 2}


def test_sources_are_where_they_should_be(subject):
    for trials in (subject.train, subject.test):
        offset = (trials.positions - subject.centre) / subject.radius
        reach = np.linalg.norm(offset, axis=-1)
        np.testing.assert_allclose(reach, np.stack([trials.eccentricity] * 2, 1), rtol=1e-6)
        assert (offset[..., 2] >= LOWEST * reach).all()
        apart = np.linalg.norm(offset[:, 0] - offset[:, 1], axis=-1)
        assert (apart[trials.sources == 1] == 0).all()
        assert (apart[trials.sources == 2] >= min(APART, 0.4) - 1e-9).all()


def test_what_is_added_is_dipoles_of_that_strength_at_the_middle(subject):
    """Against the lead field: in the span of the three dipoles at a place, and nowhere else."""
    test, pool = subject.test, 6
    rest = background(pool * 2.0, 2)
    added = test.eeg - np.repeat(rest.reshape(20, pool, 160).transpose(1, 0, 2), 4, 0)
    level = background(20.0, 1)
    level = np.sqrt(np.mean((level - level.mean(0)) ** 2))
    peak = average_referenced(added[:, :, SMALL.peak])
    strength = np.sqrt(np.mean(peak**2, -1))
    np.testing.assert_allclose(20 * np.log10(strength / level), test.snr_db, atol=0.01)
    assert (np.abs(added).max(1).argmax(-1) == SMALL.peak).all()
    quiet = np.abs(added[..., SMALL.baseline]).max() / np.abs(added).max()
    assert quiet < 1e-5
    outside = np.ones(160, bool)
    outside[SMALL.evoked] = False
    assert np.abs(added[..., outside]).max() < 0.06 * np.abs(added).max()
    for trial in range(len(test.eeg)):
        places = np.repeat(test.positions[trial, : test.sources[trial]], 3, 0)
        turned = np.tile(np.eye(3), (test.sources[trial], 1))
        gains = simulated.leadfield(
            subject.electrodes, places, turned, subject.centre, subject.radius
        )
        found = added[trial, :, SMALL.peak].astype(float)
        left = found - gains @ np.linalg.lstsq(gains, found, rcond=None)[0]
        assert np.linalg.norm(left) < 2e-4 * np.linalg.norm(found)


def test_seeds_and_subjects():
    again = simulate(SMALL, 2)
    np.testing.assert_array_equal(again.test.eeg, simulate(SMALL, 2).test.eeg)
    longer = simulate(dataclasses.replace(SMALL, train_seconds=24.0), 2)
    np.testing.assert_array_equal(again.test.positions, longer.test.positions)
    for changed in (simulate(SMALL, 1), simulate(dataclasses.replace(SMALL, seed=1), 2)):
        assert not np.isclose(changed.test.positions, again.test.positions).any()
        assert np.abs(changed.test.eeg - again.test.eeg).max() > 1e-6


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_subjects": 0}, "num_subjects is 0; expected 1"),
        ({"positions": 0}, "positions is 0; expected 1"),
        ({"eccentricities": (0.5, 0.95)}, r"eccentricities are \(0.5, 0.95\).* up to 0.85"),
        ({"snr_db": ()}, r"snr_db is \(\); expected decibels"),
        ({"snr_db": (float("inf"),)}, "snr_db is .*inf.*; expected decibels"),
        ({"seconds": 0.5}, "seconds is 0.5; expected 1 or more"),
        ({"spacing_mm": 0.5}, "spacing_mm is 0.5; expected 2 to 30"),
        ({"train_seconds": 8.0}, "train_seconds is 8; expected 5 windows of 2 s"),
    ],
)
def test_what_cannot_be_is_refused(change, complaint):
    with pytest.raises(ConfigError, match=complaint):
        dataclasses.replace(SMALL, **change)
