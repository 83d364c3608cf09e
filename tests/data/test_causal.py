"""Causal filters: any chunks, the delay that is said, the band that is kept."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from eegsr_jax.data.causal import CausalFilter
from eegsr_jax.data.preprocessing import Preprocessing
from eegsr_jax.errors import ConfigError, RecordingError

SFREQ = 250.0
STEP = Preprocessing(notch=(50.0,), l_freq=0.5, h_freq=40.0)


def gain(causal: CausalFilter, frequency: float) -> tuple[float, float]:
    """Amplitude and phase delay (seconds) of a wave that was filtered for a long time."""
    t = np.arange(round(40 * SFREQ)) / SFREQ
    causal.restart()
    out = causal(np.sin(2 * np.pi * frequency * t)[None])[0].astype(float)
    causal.restart()
    wave = np.exp(-2j * np.pi * frequency * t)[len(t) // 2 :]
    found = 2 * np.mean(out[len(t) // 2 :] * wave)
    return abs(found), -np.angle(found * 1j) / (2 * np.pi * frequency)


def test_the_band_is_kept_and_the_rest_is_not():
    causal = CausalFilter(STEP, SFREQ)
    for frequency, least, most in (
        (0.05, 0, 0.25),
        (2, 0.98, 1.01),
        (10, 0.99, 1.01),
        (30, 0.9, 1.01),
        (50, 0, 0.01),
        (90, 0, 0.1),
    ):
        assert least <= gain(causal, frequency)[0] <= most, frequency
    # At half power where MNE's FIR filter has half the amplitude: 0.5 - 0.25 and 40 + 5 Hz.
    plain = CausalFilter(Preprocessing(), SFREQ)
    for frequency in (0.25, 45.0):
        np.testing.assert_allclose(gain(plain, frequency)[0], np.sqrt(0.5), atol=0.02)


def test_the_delay_of_a_band_is_the_one_that_is_said():
    """Of the envelope of a burst; and it is the slope of the phase, which is measured apart."""
    causal = CausalFilter(Preprocessing(), SFREQ)
    t = np.arange(1000) / SFREQ
    for frequency in (5.0, 10.0, 20.0):
        envelope = np.exp(-0.5 * ((t - 2) / 0.15) ** 2)
        out = causal((envelope * np.sin(2 * np.pi * frequency * t))[None])[0]
        causal.restart()
        power = np.abs(signal.hilbert(out.astype(float))) ** 2
        late = (power * t).sum() / power.sum() - 2
        np.testing.assert_allclose(causal.delay(frequency), late, atol=5e-4)
        assert 0.004 < causal.delay(frequency) < 0.015


def test_chunks_of_any_size_are_one(rng):
    x = 1e-5 * rng.standard_normal((4, 700)) + 1e-3
    causal = CausalFilter(STEP, SFREQ)
    whole = causal(x)
    causal.restart()
    pieces, done = [], 0
    while done < 700:
        size = int(rng.integers(0, 60))
        pieces.append(causal(x[:, done : done + size]))
        done += size
    np.testing.assert_array_equal(np.concatenate(pieces, 1), whole)
    assert whole.dtype == np.float32


def test_an_offset_does_not_ring():
    causal = CausalFilter(STEP, SFREQ)
    assert np.abs(causal(np.full((2, 500), 0.03))).max() < 1e-9
    nothing = CausalFilter(Preprocessing(l_freq=None, h_freq=None), SFREQ)
    np.testing.assert_array_equal(nothing(np.full((2, 5), 0.5)), np.float32(0.5))
    assert nothing.delay(10.0) == 0.0


def test_what_is_not_finite_is_nan_and_forgotten(rng):
    x = rng.standard_normal((2, 900))
    causal = CausalFilter(STEP, SFREQ)
    gap = x.copy()
    gap[1, 300:310] = np.nan
    gap[1, 310] = np.inf
    pieces = [causal(gap[:, a:b]) for a, b in ((0, 305), (305, 900))]
    out = np.concatenate(pieces, 1)
    causal.restart()
    held = x.copy()
    held[1, 300:311] = x[1, 299]
    expected = causal(held)
    assert np.isnan(out[1, 300:311]).all()
    finite = np.isfinite(out)
    assert (~finite).sum() == 11
    np.testing.assert_array_equal(out[finite], expected[finite])


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="h_freq 40 Hz is not below 32 Hz"):
        CausalFilter(Preprocessing(), 64.0)
    with pytest.raises(ConfigError, match="notch 50 Hz is not below 50 Hz"):
        CausalFilter(Preprocessing(notch=(50.0,)), 100.0)
    with pytest.raises(RecordingError, match="not resampled: its rate is 250 Hz, expected 160 Hz"):
        CausalFilter(Preprocessing(resample=160.0), 250.0)
    assert CausalFilter(Preprocessing(resample=250.0), 250.0).sfreq == 250.0
