"""Preprocessing equals the methods of MNE's Raw, and refuses what MNE would only warn about."""

from __future__ import annotations

import re
from dataclasses import replace

import mne
import numpy as np
import pytest

from eegsr_jax.data.export import to_raw
from eegsr_jax.data.preprocessing import PREPROCESSING, Preprocessing, apply
from eegsr_jax.data.recording import Event, Recording
from eegsr_jax.errors import ConfigError, RecordingError

OFF = {"l_freq": None, "h_freq": None}


def noise(rng, channels=3, seconds=20.0, sfreq=160.0, **fields) -> Recording:
    samples = round(seconds * sfreq)
    data = np.cumsum(rng.standard_normal((channels, samples)), axis=1) * 1e-6
    return Recording(
        data=data.astype(np.float32),
        sfreq=sfreq,
        names=("Fz", "Cz", "Pz")[:channels],
        positions=np.eye(3)[:channels],
        usable=fields.pop("usable", np.ones(samples, bool)),
        **fields,
    )


def as_raw(recording: Recording) -> mne.io.RawArray:
    info = mne.create_info(list(recording.names), recording.sfreq, "eeg")
    return mne.io.RawArray(recording.data.astype(np.float64), info, verbose="error")


def joined(parts: list[Recording]) -> Recording:
    """One after the other; what is not data is that of the second."""
    edges = np.cumsum([part.data.shape[1] for part in parts]).tolist()
    return replace(
        parts[1],
        data=np.concatenate([part.data for part in parts], axis=1),
        usable=np.concatenate([part.usable for part in parts]),
        breaks=tuple(edges[:-1]),
    )


def by_raw(recording: Recording, p: Preprocessing, raw: mne.io.BaseRaw | None = None) -> np.ndarray:
    """What a user of MNE would do, with MNE's defaults."""
    raw = as_raw(recording) if raw is None else raw
    if p.notch:
        raw.notch_filter(np.array(p.notch), fir_design="firwin", verbose="error")
    if p.l_freq is not None or p.h_freq is not None:
        raw.filter(p.l_freq, p.h_freq, fir_design="firwin", verbose="error")
    if p.resample:
        raw.resample(p.resample, verbose="error")
    return raw.get_data().astype(np.float32)


@pytest.mark.parametrize(
    "p",
    [
        PREPROCESSING["default"],
        PREPROCESSING["dibima"],
        Preprocessing(l_freq=1.0, h_freq=None),
        Preprocessing(l_freq=None, h_freq=30.0),
        Preprocessing(**OFF, resample=128.0),
        Preprocessing(**OFF, resample=250.0),
        Preprocessing(notch=(50.0, 60.0), l_freq=1.0, h_freq=45.0, resample=100.0),
    ],
    ids=str,
)
def test_same_numbers_as_raw(rng, p):
    recording = noise(rng)
    done = apply(recording, p)
    np.testing.assert_array_equal(done.data, by_raw(recording, p))
    assert done.data.dtype == np.float32
    assert done.sfreq == (p.resample or 160.0)
    assert done.usable.shape == done.data.shape[1:]
    assert done.usable.all()


@pytest.mark.parametrize("preset", ["default", "dibima"])
def test_same_numbers_as_raw_on_a_real_file(real_eeg, preset):
    """From the file's own float64 values; ours pass through float32 once before filtering."""
    raw = mne.io.read_raw_edf(real_eeg / "eegmmidb/S001R04.edf", preload=True, verbose="error")
    recording = Recording(
        data=raw.get_data().astype(np.float32),
        sfreq=raw.info["sfreq"],
        names=tuple(raw.ch_names),
        positions=np.zeros((64, 3)),
        usable=np.ones(raw.n_times, bool),
    )
    done = apply(recording, PREPROCESSING[preset])
    if preset == "dibima":
        raw.notch_filter(50.0, fir_design="firwin", verbose="error")
    raw.filter(0.5, 40.0, fir_design="firwin", verbose="error")
    expected = raw.get_data()
    assert np.abs(done.data - expected).max() < 1e-6 * np.abs(expected).max()


def test_none_returns_the_recording_itself(rng):
    recording = noise(rng)
    assert apply(recording, PREPROCESSING["none"]) is recording
    assert apply(recording, Preprocessing(**OFF, resample=160.0)) is recording


def test_each_step_is_noted_after_earlier_notes(rng):
    recording = noise(rng, notes=("first",))
    done = apply(recording, Preprocessing(notch=(50.0,), resample=100.0))
    assert done.notes == (
        "first",
        "notch filter at 50 Hz",
        "band-pass filter 0.5-40 Hz",
        "resampled from 160 to 100 Hz",
    )


def test_the_input_is_not_changed(rng):
    recording = noise(rng)
    before = recording.data.copy()
    apply(recording, PREPROCESSING["dibima"])
    np.testing.assert_array_equal(recording.data, before)


def test_annotated_stretches_are_filtered_through_as_mne_does(rng):
    usable = np.ones(3200, bool)
    usable[1000:1200] = False
    recording = noise(rng, usable=usable)
    done = apply(recording, Preprocessing())
    np.testing.assert_array_equal(done.data, by_raw(recording, Preprocessing()))
    np.testing.assert_array_equal(done.usable, usable)


def test_zero_filled_gaps_do_not_ring(rng):
    """100 mV of offset, as a DC-coupled amplifier has, around a gap that reading filled with 0."""
    whole = noise(rng, seconds=40.0)
    whole.data[:] += 0.1
    usable = np.ones(6400, bool)
    usable[3000:3300] = False
    gap = Recording(**vars(whole) | {"data": whole.data * usable, "usable": usable})
    clean, done = apply(whole, Preprocessing()), apply(gap, Preprocessing())
    rms = np.std(clean.data)
    assert np.abs(done.data - clean.data)[:, usable].max() < 3 * rms
    assert np.abs(by_raw(gap, Preprocessing()) - clean.data)[:, usable].max() > 100 * rms
    assert f"{3 * 300} zero-filled values" in done.notes[-1]


@pytest.mark.parametrize(
    "p",
    [
        PREPROCESSING["dibima"],
        Preprocessing(l_freq=1.0, h_freq=None),
        Preprocessing(**OFF, resample=100.0),
        Preprocessing(notch=(50.0,), l_freq=1.0, h_freq=45.0, resample=250.0),
    ],
    ids=str,
)
def test_stretches_are_filtered_as_mne_does_with_concatenated_files(rng, p):
    lengths = [1500, 1201, 1803]
    parts = [noise(rng, seconds=n / 160) for n in lengths]
    whole = joined(parts)
    assert whole.breaks == (1500, 2701)
    raw = mne.concatenate_raws([as_raw(part) for part in parts], verbose="error")
    done = apply(whole, p)
    np.testing.assert_array_equal(done.data, by_raw(whole, p, raw))
    ratio = (p.resample or 160.0) / 160.0
    edges = np.cumsum([round(n * ratio) for n in lengths])
    assert done.breaks == tuple(edges[:-1]) and done.data.shape[1] == edges[-1]
    assert done.stretches[1] == (edges[0], edges[1])
    if not p.resample:  # as MNE does where the marks are all that there is
        np.testing.assert_array_equal(done.data, by_raw(whole, p, to_raw(whole)))


def test_nothing_of_one_stretch_reaches_another(rng):
    """Offsets that jump at the break, and zero-filled gaps on both sides of it."""
    parts = []
    for offset, gap in ((0.1, slice(1400, 1600)), (-0.1, slice(0, 100))):
        part = noise(rng, seconds=10.0)
        part.data[:] += offset
        part.data[:, gap] = 0.0
        part.usable[gap] = False
        parts.append(part)
    p = Preprocessing(l_freq=1.0, resample=128.0)
    done, alone = apply(joined(parts), p), [apply(part, p) for part in parts]
    np.testing.assert_array_equal(done.data, np.concatenate([a.data for a in alone], axis=1))
    np.testing.assert_array_equal(done.usable, np.concatenate([a.usable for a in alone]))
    assert np.abs(done.data[:, done.usable]).max() < 1e-3


def test_events_move_with_their_samples(rng):
    whole = joined([noise(rng, seconds=3.0), noise(rng, seconds=4.0)])
    events = (Event(160, 320, "a"), Event(480, 640, "b"), Event(640, 1120, "c"))
    whole = replace(whole, events=events)
    assert apply(whole, Preprocessing(l_freq=None, h_freq=20.0)).events == events
    slower = apply(whole, Preprocessing(**OFF, resample=50.0))  # 480 samples become 150
    assert slower.breaks == (150,)
    assert slower.events == (Event(50, 100, "a"), Event(150, 200, "b"), Event(200, 350, "c"))


def test_stretches_of_any_length_can_be_resampled(rng):
    whole = joined([noise(rng, seconds=n / 160) for n in (1, 2, 3, 500, 1)])
    for rate in (10.0, 100.0, 256.0):
        done = apply(whole, Preprocessing(**OFF, resample=rate))
        assert (np.diff([0, *done.breaks, done.data.shape[1]]) >= 1).all()
        assert len(done.breaks) == 4 and done.usable.all()
        assert np.isfinite(done.data).all()


def test_a_stretch_shorter_than_the_filter_is_named(rng):
    whole = joined([noise(rng), noise(rng, seconds=2.0, source="a.edf"), noise(rng)])
    expected = r"a.edf: the continuous stretch at 20.00 s: 320 samples \(2.00 s at 160 Hz\) .*BAD_"
    with pytest.raises(RecordingError, match=expected) as error:
        apply(whole, Preprocessing(resample=100.0))
    assert "\n" not in str(error.value) and "resampled" not in str(error.value)


def test_a_short_stretch_that_nobody_uses_stays_as_it_is(rng):
    short = noise(rng, seconds=2.0)
    short.usable[:] = False
    first, last = noise(rng), noise(rng)
    done = apply(joined([first, short, last]), Preprocessing())
    np.testing.assert_array_equal(done.data[:, :3200], apply(first, Preprocessing()).data)
    np.testing.assert_array_equal(done.data[:, 3520:], apply(last, Preprocessing()).data)
    np.testing.assert_array_equal(done.data[:, 3200:3520], short.data)
    assert done.breaks == (3200, 3520) and done.usable.sum() == 6400


@pytest.mark.parametrize(("sfreq", "new"), [(160.0, 64.0), (200.0, 100.0), (128.0, 160.0)])
def test_resampled_samples_next_to_unusable_ones_are_unusable(rng, sfreq, new):
    """Brute force: the new sample is usable when all old ones around its moment are."""
    usable = rng.random(int(sfreq * 20)) > 0.02
    recording = noise(rng, sfreq=sfreq, usable=usable)
    done = apply(recording, Preprocessing(**OFF, resample=new))
    times = np.arange(len(usable)) / sfreq
    reach = max(0.5 / new, 1 / sfreq) + 1e-9
    for i in range(done.data.shape[1]):
        if done.usable[i]:
            assert usable[np.abs(times - i / new) <= reach].all()
    assert 0.2 < done.usable.mean() <= usable.mean()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"l_freq": -1.0}, "l_freq=-1.0"),
        ({"h_freq": 0}, "h_freq=0"),
        ({"notch": (50.0, "60")}, "notch='60'"),
        ({"resample": float("nan")}, "resample=nan"),
        ({"l_freq": 40.0, "h_freq": 40.0}, "l_freq=40.0 is not below h_freq=40.0"),
    ],
)
def test_values_that_make_no_sense_are_refused(steps, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Preprocessing(**steps)


@pytest.mark.parametrize(
    ("p", "name", "value"),
    [
        (Preprocessing(h_freq=80.0), "h_freq", 80),
        (Preprocessing(notch=(50.0, 100.0)), "notch", 100),
        (Preprocessing(l_freq=90.0, h_freq=None), "l_freq", 90),
    ],
)
def test_at_or_above_nyquist(rng, p, name, value):
    with pytest.raises(RecordingError, match=f"a.edf: {name} {value} Hz is not below 80 Hz"):
        apply(noise(rng, source="a.edf"), p)


@pytest.mark.parametrize(
    "p", [Preprocessing(), Preprocessing(notch=(50.0,), **OFF)], ids=["band-pass", "notch"]
)
def test_shorter_than_the_filter(rng, p):
    with pytest.raises(RecordingError, match=r"a.edf: 320 samples \(2.00 s at 160 Hz\).*1057") as e:
        apply(noise(rng, seconds=2.0, source="a.edf"), p)
    assert "\n" not in str(e.value)
