"""What is wrong with the samples of a recording: other units, gaps, flat channels.

Every function works in place on the arrays of one recording being read and returns its notes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eegsr_jax.errors import ChannelError, RecordingError

_VOLTS = {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "µV": 1e-6, "nV": 1e-9}
_FLAT = 1e-9  # volts peak to peak; the noise of a real amplifier is hundreds of times larger
_LARGEST = 10e-3  # volts; a larger typical amplitude means that the numbers are no volts


def to_volts(data: np.ndarray, unit: str) -> list[str]:
    """Scale `data` `[channel, time]` from `unit`.

    Raises:
      RecordingError: an unknown unit.
    """
    if unit not in _VOLTS:
        raise RecordingError(f"unit is {unit!r}; expected one of {', '.join(_VOLTS)}")
    if unit == "V":
        return []
    data *= np.float32(_VOLTS[unit])
    return [f"numbers taken as {unit} and scaled to volts"]


def refuse_no_volts(data: np.ndarray, bad: np.ndarray, unit: str) -> None:
    """Refuse data whose typical deviation from each channel's median is above 10 mV.

    The median is taken out first: a direct-coupled amplifier may well sit at 50 mV.

    Raises:
      RecordingError: the good channels are too large for EEG in volts.
    """
    thin = data[~bad, :: max(1, data.shape[1] // 10_000)]
    if not thin.size:
        return
    typical = float(np.median(np.abs(thin - np.median(thin, axis=1, keepdims=True))))
    if typical > _LARGEST:
        mend = 'unit="uV"' if unit == "V" else "another unit"
        raise RecordingError(
            f"median absolute amplitude is {typical:.3g} V, EEG has about 1e-5 V; "
            f"the numbers are probably in another unit: give {mend}"
        )


def fill_non_finite(
    data: np.ndarray,
    usable: np.ndarray,
    bad: np.ndarray,
    names: Sequence[str],
    sfreq: float,
    *,
    refuse: bool,
) -> list[str]:
    """Put zeros where samples are not finite; their time is unusable, or their channel bad.

    A channel without finite samples in at least half of the usable time is bad, and then its gaps
    do not cost the others that time.

    Raises:
      ChannelError: `refuse`, and a channel has such samples.
    """
    notes = []
    gaps = np.zeros_like(usable)
    holed = []
    for row, name in enumerate(names):  # by channel: a mask for all would be a quarter of the data
        gap = ~np.isfinite(data[row])
        if not gap.any():
            continue
        if refuse:
            raise ChannelError(
                f"channel {name} has {gap.sum()} samples that are not finite, the first at "
                f'{gap.argmax() / sfreq:.3f} s; interpolate them, or read with nan="mark"'
            )
        data[row, gap] = 0.0
        holed.append(name)
        if gap[usable].sum() * 2 > usable.sum() or gap.all():
            if not bad[row]:
                notes.append(f"channel {name} is not finite for most of the time: marked bad")
            bad[row] = True
        elif not bad[row]:
            gaps |= gap
    usable &= ~gaps
    if holed:
        notes.append(
            f"samples that are not finite set to 0 in {', '.join(holed)}; "
            f"{gaps.sum() / sfreq:.3g} s of them not usable"
        )
    return notes


def mark_flat(
    data: np.ndarray, usable: np.ndarray, bad: np.ndarray, names: Sequence[str], *, refuse: bool
) -> list[str]:
    """Mark channels bad that stay within 1 nV over the usable time.

    Raises:
      ChannelError: `refuse`, and a good channel is flat; or all of them are.
    """
    flat = np.zeros_like(bad)
    for row in np.flatnonzero(~bad):
        flat[row] = np.ptp(data[row, usable]) < _FLAT
    found = ", ".join(n for n, f in zip(names, flat, strict=True) if f)
    if not found:
        return []
    if flat.sum() == np.sum(~bad):
        raise ChannelError(
            f"all {flat.sum()} good channels are flat (within 1 nV); there is no signal, or the "
            "numbers are not in the unit that was given"
        )
    if refuse:
        raise ChannelError(
            f"flat channel {found} (within 1 nV); leave it out with channels=…, mark it with "
            'bads=…, or read with flat="mark"'
        )
    bad |= flat
    return [f"flat (perhaps the reference) and marked bad: {found}"]
