"""Recordings in and out of MNE: volts, float32, `[channel, time]`, and a list of what was done."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from eegsr_jax.data import quality, sources
from eegsr_jax.data.channels import Selection, place, select
from eegsr_jax.errors import ChannelError, RecordingError

_FEWEST = 4  # electrodes that tell a scalp field from its reference

OnBad = Literal["mark", "raise"]


class Event(NamedTuple):
    """Samples `start` to `stop` (not included) in which what `label` says was done or shown."""

    start: int
    stop: int
    label: str


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One EEG recording, checked.

    Attributes:
      data: `[channel, time]` float32, volts; finite.
      sfreq: sampling rate, Hz.
      names: channel names in the order of `data`, standard 10-05 spelling where they have one.
      positions: `[channel, 3]` metres, MNE head frame; finite.
      usable: `[time]` bool; False where a `BAD_` annotation or a non-finite sample stands.
      breaks: samples, ascending, at which a new continuous stretch begins (another epoch, or what
        follows a boundary mark). Nothing is lost there, but the sample before is no neighbour in
        time: windows and filters stay on one side.
      bads: channels marked bad, in their place in `data` (they are never a target or an input).
      reference: "native", "average" (over the observed channels) or the reference channel's name.
      subject, session, run: strings, for splits.
      source: the file or object it came from, for error messages.
      notes: one sentence for each thing that reading changed, dropped or guessed.
      labels: the channels' names in the source, in the order of `names`; empty means the same.
      events: cues that a data set's reader knows the meaning of, in the order of time. Annotations
        of any other source are not taken: they may hold anything, names of people too.
    """

    data: np.ndarray
    sfreq: float
    names: tuple[str, ...]
    positions: np.ndarray
    usable: np.ndarray
    breaks: tuple[int, ...] = ()
    bads: tuple[str, ...] = ()
    reference: str = "native"
    subject: str = "unknown"
    session: str = "1"
    run: str = "1"
    source: str = "array"
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()

    @property
    def stretches(self) -> tuple[tuple[int, int], ...]:
        """The continuous stretches between the breaks, first and last + 1 sample of each."""
        return tuple(itertools.pairwise((0, *self.breaks, self.data.shape[1])))


def read(
    source: Any,
    *,
    montage: Any = None,
    reference: str = "native",
    channels: Sequence[str] | None = None,
    bads: Sequence[str] = (),
    unit: str = "V",
    subject: str | None = None,
    session: str | None = None,
    run: str | None = None,
    flat: OnBad = "mark",
    nan: OnBad = "mark",
) -> Recording:
    """Read and check one recording; `notes` of the result says what was done to it.

    Args:
      source: a file of any format that MNE reads (EEGLAB and FIF epochs too), a file or `BIDSPath`
        of a BIDS data set (extra `bids`), or an MNE Raw, Epochs or Evoked (never changed). Epochs
        follow one another, with a break before each but the first.
      montage: positions for all channels, anything `geometry.montage` takes; it wins over those
        in the file. None takes the file's, then the standard 10-05 template's by name.
      reference: see `rereference`; "average" is over all good channels.
      channels: names to keep, in this order (of the source or standard); None keeps all EEG.
      bads: bad channels besides those that the source marks.
      unit: what the numbers are where MNE takes them for volts: "V", "mV", "uV" or "nV".
      subject: name for splits; None takes that of a BIDS-like file name, else "unknown".
      session: likewise, else "1".
      run: likewise, else "1".
      flat: "mark" makes a flat channel bad; "raise" refuses it.
      nan: "mark" makes time with non-finite samples unusable (and a channel bad that has them in
        half of the time or more); "raise" refuses them.

    Raises:
      RecordingError: no such file, one that cannot be read, no samples, or no volts.
      ChannelError: no EEG, unknown channels or montage, two electrodes in one place, a cap that
        needs a montage, or fewer than four good channels.
    """
    where = sources.origin(source)
    notes: list[str] = []
    with sources.naming(where):
        with sources.reading(notes):
            inst = sources.open_source(source)
            labels, kinds = list(inst.ch_names), inst.get_channel_types()
            found = sources.positions(inst)
        chosen = select(labels, kinds, found, montage, channels)
        with sources.reading(notes):
            data = sources.samples(inst, chosen.index)
            usable, breaks = sources.usable(inst), sources.breaks(inst)
        named = sources.entities(source)
        return _checked(
            data,
            float(inst.info["sfreq"]),
            chosen,
            usable=usable,
            breaks=breaks,
            bad=_bad(chosen, labels, inst.info["bads"], bads),
            reference=reference,
            unit=unit,
            subject=subject or named.get("subject", "unknown"),
            session=session or named.get("session", "1"),
            run=run or named.get("run", "1"),
            source=where,
            notes=[*notes, *sources.remarks(inst)],
            flat=flat,
            nan=nan,
        )


def from_array(
    data: Any,
    sfreq: float,
    names: Sequence[str],
    positions: Any = None,
    *,
    unit: str = "V",
    montage: Any = None,
    reference: str = "native",
    breaks: Sequence[int] = (),
    bads: Sequence[str] = (),
    subject: str = "unknown",
    session: str = "1",
    run: str = "1",
    source: str = "array",
    flat: OnBad = "mark",
    nan: OnBad = "mark",
) -> Recording:
    """A checked recording from `[channel, time]` numbers.

    Args:
      data: `[channel, time]`, real numbers in `unit`.
      sfreq: sampling rate, Hz.
      names: channel names; what they say is not EEG is left out.
      positions: `[channel, 3]` metres in the MNE head frame, or None.
      unit: "V", "mV", "uV" or "nV".
      montage: as in `read`, and it wins over `positions`.
      reference: as in `read`.
      breaks: samples, ascending, at which a new continuous stretch begins; see `Recording`.
      bads: names of bad channels.
      subject: name for splits.
      session: name for splits.
      run: name for splits.
      source: what to call these data in messages.
      flat: as in `read`.
      nan: as in `read`.

    Raises:
      RecordingError: not two-dimensional, no samples, a sampling rate that is none, breaks that do
        not fit, or no volts.
      ChannelError: names or positions that do not match the data, and all that `read` refuses.
    """
    with sources.naming(source):
        data = np.asarray(data)
        names = list(names)
        if data.ndim != 2 or data.dtype.kind not in "fiu":
            raise RecordingError(
                f"data is {data.dtype} of shape {data.shape}; expected real [channel, time]"
            )
        if len(data) != len(names):
            mend = "; transpose the data" if data.shape[1] == len(names) else ""
            raise ChannelError(f"{len(names)} names for {len(data)} channels of data{mend}")
        if not (np.isfinite(sfreq) and sfreq > 0):
            raise RecordingError(f"sampling rate is {sfreq}; expected a positive number of Hz")
        ends = np.array([0, *breaks, max(data.shape[1], 1)])
        if not np.issubdtype(ends.dtype, np.integer) or np.any(np.diff(ends) < 1):
            raise RecordingError(
                f"breaks are {list(breaks)}; expected whole numbers that ascend from 1 to "
                f"{data.shape[1] - 1}"
            )
        found = np.full((len(names), 3), np.nan) if positions is None else np.asarray(positions)
        if found.shape != (len(names), 3):
            raise ChannelError(f"positions have shape {found.shape}; expected ({len(names)}, 3)")
        chosen = select(names, ["eeg"] * len(names), found, montage)
        return _checked(
            data[chosen.index].astype(np.float32),
            float(sfreq),
            chosen,
            usable=np.ones(data.shape[1], bool),
            breaks=tuple(ends[1:-1].tolist()),
            bad=_bad(chosen, names, (), bads),
            reference=reference,
            unit=unit,
            subject=subject,
            session=session,
            run=run,
            source=source,
            notes=[],
            flat=flat,
            nan=nan,
        )


def rereference(
    recording: Recording, reference: str, observed: Sequence[str] | None = None
) -> Recording:
    """The recording against another reference.

    Args:
      recording: any reference.
      reference: "native" leaves a native recording as it is; "average" subtracts, from every
        channel, the mean of the `observed` ones only, as in use, when the others do not exist; a
        channel's name subtracts that channel. It stays in its place as exact zeros, as in MNE, and
        becomes bad, since nothing can be learnt from it or scored on it.
      observed: channels of the average; None is all good ones.

    Raises:
      ChannelError: an unknown or bad channel.
      RecordingError: "native" asked of a recording that is native no more.
    """
    if reference == "native":
        if recording.reference != "native":
            raise RecordingError(
                f"{recording.source}: its reference is {recording.reference} and the native one "
                "cannot be restored; read it again"
            )
        return recording
    with sources.naming(recording.source):
        labels = recording.labels or recording.names
        if reference == "average":
            wanted = [n for n in recording.names if n not in recording.bads]
            wanted = wanted if observed is None else list(observed)
        else:
            wanted = [reference]
        if not wanted:
            raise ChannelError("no channel to average; name at least one in observed")
        index = place(wanted, labels, recording.names)
        bad = [recording.names[i] for i in index if recording.names[i] in recording.bads]
        if bad:
            raise ChannelError(f"reference channel {', '.join(bad)} is bad; name good ones")
    mean = recording.data[index].mean(0, dtype=np.float64)
    data = (recording.data - mean).astype(np.float32)
    if reference == "average":
        note = f"referenced to the average of {len(index)} channels"
        return replace(recording, data=data, reference="average", notes=(*recording.notes, note))
    name = recording.names[index[0]]
    return replace(
        recording,
        data=data,
        reference=name,
        bads=(*recording.bads, name),
        notes=(*recording.notes, f"referenced to {name}, which is zero now and marked bad"),
    )


def require_rate(recording: Recording, sfreq: float) -> None:
    """Refuse a recording that is not sampled at `sfreq` Hz.

    Raises:
      RecordingError: another sampling rate (by more than 1 part in 100,000).
    """
    if abs(recording.sfreq - sfreq) > 1e-5 * sfreq:
        raise RecordingError(
            f"{recording.source}: sampling rate is {recording.sfreq:g} Hz, expected {sfreq:g} Hz; "
            f"resample it first (Preprocessing(resample={sfreq:g}))"
        )


# ---------------------------------------------------------------------------------------- checks


def _bad(
    chosen: Selection, labels: Sequence[str], marked: Sequence[str], asked: Sequence[str]
) -> np.ndarray:
    """`[channel]` bool: marked bad by the source or by the caller."""
    bad = np.array([label in marked for label in chosen.labels])
    for name in asked:
        try:
            bad[place([name], chosen.labels, chosen.names)] = True
        except ChannelError:
            place([name], labels, labels)  # bad and left out already is fine; unknown is not
    return bad


def _checked(
    data: np.ndarray,
    sfreq: float,
    chosen: Selection,
    *,
    usable: np.ndarray,
    breaks: tuple[int, ...],
    bad: np.ndarray,
    reference: str,
    unit: str,
    source: str,
    notes: Sequence[str],
    flat: OnBad,
    nan: OnBad,
    **of_whom: Any,
) -> Recording:
    """Scale, mark what is flat or not finite, refuse what cannot be used; owns its arrays."""
    for option, value in (("flat", flat), ("nan", nan)):
        if value not in ("mark", "raise"):
            raise RecordingError(f"{option} is {value!r}; expected 'mark' or 'raise'")
    if data.shape[1] == 0:
        raise RecordingError("no samples; the file is empty or was cut off")
    notes = [*notes, *chosen.notes]
    if bad.any():
        notes.append(f"marked bad in the source or by the caller: {_which(chosen.names, bad)}")
    if not usable.all():
        notes.append(f"{np.sum(~usable) / sfreq:.3g} s marked bad")
    notes += quality.to_volts(data, unit)
    notes += quality.fill_non_finite(data, usable, bad, chosen.names, sfreq, refuse=nan == "raise")
    if not usable.any():
        raise RecordingError("no usable sample; all of it is marked bad or not finite")
    quality.refuse_no_volts(data, bad, unit)
    notes += quality.mark_flat(data, usable, bad, chosen.names, refuse=flat == "raise")
    if np.sum(~bad) < _FEWEST:
        raise ChannelError(
            f"{np.sum(~bad)} good EEG channels with a position ({_which(chosen.names, ~bad)}); at "
            f"least {_FEWEST} needed to tell a scalp field from its reference"
        )
    recording = Recording(
        data=data,
        sfreq=sfreq,
        names=chosen.names,
        positions=chosen.positions,
        usable=usable,
        breaks=breaks,
        bads=tuple(n for n, b in zip(chosen.names, bad, strict=True) if b),
        source=source,
        notes=tuple(notes),
        labels=chosen.labels,
        **of_whom,
    )
    return recording if reference == "native" else rereference(recording, reference)


def _which(names: Sequence[str], chosen: np.ndarray) -> str:
    return ", ".join(n for n, c in zip(names, chosen, strict=True) if c) or "none"
