"""Filters and resampling through MNE, in float64, with the results of `mne.io.Raw`'s methods."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np

from eegsr_jax.data.recording import Event, Recording
from eegsr_jax.errors import ConfigError, RecordingError


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is done to a recording before it is stored, in this order; `None` or `()`: not done.

    Attributes:
      notch: frequencies to remove, Hz (MNE's FIR notch, `firwin`, transition 1 Hz).
      l_freq: lower edge of the pass band, Hz (MNE's zero-phase FIR, `firwin`, automatic length).
      h_freq: upper edge of the pass band, Hz.
      resample: new sampling rate, Hz (MNE's Fourier resampling).

    Raises:
      ConfigError: on a value that is not a positive frequency, or `l_freq >= h_freq`.
    """

    notch: tuple[float, ...] = ()
    l_freq: float | None = 0.5
    h_freq: float | None = 40.0
    resample: float | None = None

    def __post_init__(self):
        edges = [(name, getattr(self, name)) for name in ("l_freq", "h_freq", "resample")]
        given = [(name, value) for name, value in edges if value is not None]
        for name, value in [("notch", value) for value in self.notch] + given:
            if not (isinstance(value, int | float) and 0 < value < np.inf):
                raise ConfigError(
                    f"preprocessing: {name}={value!r} is not a frequency in Hz above 0; "
                    "give a number, or leave the step out"
                )
        if self.l_freq is not None and self.h_freq is not None and self.l_freq >= self.h_freq:
            raise ConfigError(
                f"preprocessing: l_freq={self.l_freq} is not below h_freq={self.h_freq}; swap them"
            )


PREPROCESSING = {
    "none": Preprocessing(l_freq=None, h_freq=None),
    "default": Preprocessing(),
    "dibima": Preprocessing(notch=(50.0,)),
}


def apply(recording: Recording, preprocessing: Preprocessing) -> Recording:
    """Filters and resamples one recording.

    The numbers are those of `raw.notch_filter(notch)`, `raw.filter(l_freq, h_freq)` and
    `raw.resample(resample)` at MNE's defaults, computed in float64 and rounded to float32 once, at
    the end. Filters run through unusable stretches, as MNE's do through `BAD_` annotations; samples
    that reading set to zero because they were not finite are bridged by straight lines first, so
    that the jump to zero does not ring into the usable signal.

    Each continuous stretch between breaks is filtered and resampled by itself, as MNE does between
    "EDGE boundary" marks and concatenated files; a stretch of n samples becomes one of n times the
    ratio of the rates, rounded, and the breaks move to where the new stretches begin. A stretch
    without a usable sample may be too short for the filter, and then stays as it is.

    Args:
      recording: `[channel, time]` volts.
      preprocessing: the steps.

    Returns:
      The recording with new `data`, `sfreq`, `usable`, `breaks`, `events` and a sentence in `notes`
      for each step. An output sample of the resampling is usable when all samples around it are.

    Raises:
      RecordingError: when a frequency lies at or above half the sampling rate, or a continuous
        stretch with usable samples is shorter than the filter.
    """
    p, sfreq = preprocessing, recording.sfreq
    steps = _filters(p)
    rate = sfreq if p.resample is None else float(p.resample)
    if not steps and rate == sfreq:
        return recording
    if wrong := too_high(p, sfreq):
        raise RecordingError(f"{recording.source}: {wrong}")
    import mne

    pieces, usable, events, bridged = [], [], [], 0
    for start, stop in recording.stretches:
        ok = recording.usable[start:stop]
        piece, filled = _bridge(recording.data[:, start:stop].astype(np.float64), ok)
        bridged += filled
        try:
            piece = _filter(piece, sfreq, p)
        except RuntimeWarning as warning:
            if ok.any():
                raise _too_short(recording, start, stop, steps, warning) from None
        if rate != sfreq:
            piece = mne.filter.resample(piece, up=rate, down=sfreq, npad="auto", verbose="warning")
            ok = _resample_usable(ok, piece.shape[1], sfreq / rate)
        events += _moved(recording.events, start, stop, sum(map(len, usable)), rate / sfreq)
        pieces.append(piece.astype(np.float32))
        usable.append(ok)
    if rate != sfreq:
        steps.append(f"resampled from {sfreq:g} to {rate:g} Hz")
    if bridged:
        steps.append(f"{bridged} zero-filled values bridged by straight lines before filtering")
    return replace(
        recording,
        data=np.concatenate(pieces, axis=1),
        sfreq=rate,
        usable=np.concatenate(usable),
        breaks=tuple(np.cumsum([len(ok) for ok in usable[:-1]], dtype=int).tolist()),
        events=tuple(events),
        notes=(*recording.notes, *steps),
    )


def _filters(p: Preprocessing) -> list[str]:
    """A sentence for each filter."""
    steps = [f"notch filter at {f:g} Hz" for f in p.notch]
    if p.l_freq is not None and p.h_freq is not None:
        steps.append(f"band-pass filter {p.l_freq:g}-{p.h_freq:g} Hz")
    elif p.l_freq is not None:
        steps.append(f"high-pass filter {p.l_freq:g} Hz")
    elif p.h_freq is not None:
        steps.append(f"low-pass filter {p.h_freq:g} Hz")
    return steps


def _filter(data: np.ndarray, sfreq: float, p: Preprocessing) -> np.ndarray:
    """Filters `data` `[channel, time]` float64 through MNE; may work in place.

    Raises:
      RuntimeWarning: the filter is longer than the data, of which MNE only warns.
    """
    import mne

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*longer than the signal")
        if p.notch:
            notch = np.array(p.notch)
            data = mne.filter.notch_filter(data, sfreq, notch, copy=False, verbose="warning")
        if p.l_freq is not None or p.h_freq is not None:
            data = mne.filter.filter_data(
                data, sfreq, p.l_freq, p.h_freq, copy=False, verbose="warning"
            )
    return data


def _too_short(
    recording: Recording, start: int, stop: int, steps: list[str], warning: RuntimeWarning
) -> RecordingError:
    sfreq, samples = recording.sfreq, stop - start
    where, mend = recording.source, "give a longer recording"
    if recording.breaks:
        where += f": the continuous stretch at {start / sfreq:.2f} s"
        mend = "mark it BAD_ in the source"
    return RecordingError(
        f"{where}: {samples} samples ({samples / sfreq:.2f} s at {sfreq:g} Hz) are too few for "
        f"{' and '.join(steps)} (MNE: {warning}); {mend}, or leave the filter out (preprocessing "
        "'none')"
    )


def too_high(p: Preprocessing, sfreq: float) -> str | None:
    """What to say of the first filter that a sampling rate does not allow; None: it allows all."""
    nyquist = sfreq / 2
    edges = [*(("notch", f) for f in p.notch), ("l_freq", p.l_freq), ("h_freq", p.h_freq)]
    for name, value in edges:
        if value is not None and value >= nyquist:
            return (
                f"{name} {value:g} Hz is not below {nyquist:g} Hz, half the sampling rate of "
                f"{sfreq:g} Hz; lower {name} or leave it out"
            )
    return None


def _bridge(data: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, int]:
    """Replaces, in place, exact zeros among unusable samples by lines between their neighbours."""
    bridged = 0
    if not usable.all():
        for row in data:
            gap = ~usable & (row == 0)
            if gap.any() and not gap.all():
                known = np.flatnonzero(~gap)
                row[gap] = np.interp(np.flatnonzero(gap), known, row[known])
                bridged += int(gap.sum())
    return data, bridged


def _moved(
    events: tuple[Event, ...], start: int, stop: int, place: int, ratio: float
) -> list[Event]:
    """The events that begin in samples `start` to `stop`, which now begin at `place`."""
    found = [event for event in events if start <= event.start < stop]
    ends = [[place + round((end - start) * ratio) for end in event[:2]] for event in found]
    return [Event(a, b, event.label) for (a, b), event in zip(ends, found, strict=True)]


def _resample_usable(usable: np.ndarray, samples: int, step: float) -> np.ndarray:
    """Usability after resampling; `step` is the number of old samples per new sample."""
    unusable_before = np.concatenate([[0], np.cumsum(~usable)])
    reach = max(step / 2, 1.0)  # upsampling still draws on both neighbours
    centre = np.arange(samples) * step
    first = np.clip(np.floor(centre - reach).astype(np.int64), 0, len(usable))
    last = np.clip(np.ceil(centre + reach).astype(np.int64) + 1, 0, len(usable))
    return unusable_before[last] == unusable_before[first]
