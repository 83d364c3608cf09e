"""Filters for a stream: causal, sample by sample, with their state carried along.

MNE's filters of stored recordings have no phase: they look as far ahead as back, which a stream
cannot. Here are Butterworth filters of about the same pass band, which delay each frequency by a
time of its own: `delay` says by how much.
"""

from __future__ import annotations

import numpy as np

from eegsr_jax.data.preprocessing import Preprocessing, too_high
from eegsr_jax.errors import ConfigError, RecordingError

_NOTCH_WIDTH = 2.0  # Hz, at half power


class CausalFilter:
    """The notches and the pass band of a `Preprocessing`, for chunks of any size.

    The edges, at half power, are where MNE's have half the amplitude: 0.25 and 45 Hz for 0.5-40 Hz.
    The high-pass is of first order, because the phase that it turns is what most separates its
    output from a filter without phase; the low-pass is of fourth order, a notch of second.

    Attributes:
      sfreq: sampling rate, Hz.
    """

    def __init__(self, preprocessing: Preprocessing, sfreq: float):
        """Designs the filters.

        Raises:
          ConfigError: a frequency at or above half the sampling rate.
          RecordingError: the preprocessing resamples to another rate.
        """
        p, nyquist = preprocessing, sfreq / 2
        if wrong := too_high(p, sfreq):
            raise ConfigError(wrong)
        if p.resample is not None and abs(p.resample - sfreq) > 1e-5 * sfreq:
            raise RecordingError(
                f"a stream is not resampled: its rate is {sfreq:g} Hz, expected {p.resample:g} Hz; "
                "have the amplifier give that rate"
            )
        from scipy import signal

        self.sfreq = sfreq
        sections = []
        for f in p.notch:
            b, a = signal.iirnotch(f, f / _NOTCH_WIDTH, fs=sfreq)
            sections.append(signal.tf2sos(b, a))
        if p.l_freq is not None:
            edge = p.l_freq - min(max(0.25 * p.l_freq, 2.0), p.l_freq) / 2
            sections.append(signal.butter(1, edge, "highpass", fs=sfreq, output="sos"))
        if p.h_freq is not None:
            edge = p.h_freq + min(max(0.25 * p.h_freq, 2.0), nyquist - p.h_freq) / 2
            sections.append(signal.butter(4, edge, "lowpass", fs=sfreq, output="sos"))
        self._sections = np.concatenate(sections) if sections else None
        self.restart()

    def restart(self) -> None:
        """Forget what came: another recording follows."""
        self._state: np.ndarray | None = None
        self._last: np.ndarray | None = None

    def __call__(self, chunk: np.ndarray) -> np.ndarray:
        """The next `[channel, n]` volts, filtered, float32.

        The first sample is taken to have stood for ever, so that an offset does not ring. A sample
        that is not finite comes out as NaN, and the filter goes on from the one before it.
        """
        chunk = np.asarray(chunk)
        if self._sections is None or not chunk.shape[1]:
            return chunk.astype(np.float32)
        from scipy import signal

        known = np.isfinite(chunk)
        last = np.zeros(len(chunk)) if self._last is None else self._last
        chunk = chunk.astype(np.float64)
        if not known.all():
            held = np.concatenate([last[:, None], chunk], 1)
            at = np.where(known, np.arange(1, held.shape[1]), 0)
            chunk = np.take_along_axis(held, np.maximum.accumulate(at, 1), 1)
        if self._state is None:
            self._state = signal.sosfilt_zi(self._sections)[:, None] * chunk[None, :, :1]
        out, self._state = signal.sosfilt(self._sections, chunk, axis=1, zi=self._state)
        self._last = chunk[:, -1]
        return np.where(known, out, np.nan).astype(np.float32)

    def delay(self, frequency: float) -> float:
        """Group delay at a frequency in Hz, seconds."""
        if self._sections is None:
            return 0.0
        from scipy import signal

        step = 1e-4 * self.sfreq
        around = [frequency - step, frequency + step]
        _, response = signal.sosfreqz(self._sections, worN=around, fs=self.sfreq)
        return float(-np.angle(response[1] / response[0]) / (2 * np.pi * 2 * step))
