"""Stretches of stored recordings, and cutting them in the order in which they were recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from eegsr_jax.data.manifest import StoredRecording
from eegsr_jax.data.store import Store


@dataclass(frozen=True)
class Segment:
    """Samples `start` to `stop` (not included) of the stored recording `key`."""

    key: str
    start: int
    stop: int


def whole(recording: StoredRecording) -> Segment:
    """All of a recording."""
    return Segment(recording.key, 0, recording.samples)


def adjacent_windows(store: Store, window: int, *, centred: bool = False) -> list[Segment]:
    """Every adjacent window of every usable stretch, in the order of the store.

    What is left of a stretch stands at its end, or, `centred`, half of it before the first window.
    """
    return [
        Segment(r.key, start, start + window)
        for r in store.recordings
        for first, last in r.usable
        for start in range(
            first + ((last - first) % window // 2 if centred else 0), last - window + 1, window
        )
    ]


def by_subject(store: Store, segments: Iterable[Segment]) -> dict[str, list[Segment]]:
    """Segments of each subject in the order of session, run ("2" before "10") and time."""
    subjects: dict[str, list[Segment]] = {}
    for segment in segments:
        subjects.setdefault(store.recording(segment.key).subject, []).append(segment)

    def time(segment: Segment) -> tuple:
        recording = store.recording(segment.key)
        return _natural(recording.session), _natural(recording.run), segment.start

    return {subject: sorted(own, key=time) for subject, own in subjects.items()}


def cut_end(
    store: Store, segments: Sequence[Segment], fraction: float, gap_seconds: float
) -> tuple[list[Segment], list[Segment]]:
    """Cuts segments in time order in two; the second part is `fraction` of the total duration.

    When the cut lies inside a segment, the first part ends `gap_seconds` before it.
    """
    rates = [store.recording(s.key).sfreq for s in segments]
    left = fraction * sum((s.stop - s.start) / r for s, r in zip(segments, rates, strict=True))
    head, tail = list(segments), []
    while head:
        last, rate = head[-1], rates[len(head) - 1]
        samples = min(round(left * rate), last.stop - last.start)
        if samples <= 0:
            break
        head.pop()
        cut = last.stop - samples
        tail.insert(0, replace(last, start=cut))
        left -= samples / rate
        if cut > last.start:
            stop = cut - round(gap_seconds * rate)
            head += [replace(last, stop=stop)] if stop > last.start else []
            break
    return head, tail


def first_seconds(
    store: Store, segments: Sequence[Segment], seconds: float, gap_seconds: float
) -> tuple[list[Segment], list[Segment]] | None:
    """The beginning that holds so many usable seconds, and what follows `gap_seconds` later.

    None when there are fewer usable seconds.
    """
    first: list[Segment] = []
    left = seconds
    for number, segment in enumerate(segments):
        recording = store.recording(segment.key)
        wanted = round(left * recording.sfreq)
        if wanted == 0:
            return first, list(segments[number:])
        cut, found = _usable_stop(recording, segment, wanted)
        first.append(replace(segment, stop=cut))
        left -= found / recording.sfreq
        if found == wanted:
            start = cut + round(gap_seconds * recording.sfreq)
            rest = [replace(segment, start=start)] if start < segment.stop else []
            return first, rest + list(segments[number + 1 :])
    return ([], []) if seconds == 0 else None


def _usable_stop(recording: StoredRecording, segment: Segment, wanted: int) -> tuple[int, int]:
    """Where `wanted` usable samples of a segment end (else its stop), and how many were found."""
    found = 0
    for start, stop in recording.usable:
        start, stop = max(start, segment.start), min(stop, segment.stop)
        if stop - start >= wanted - found:
            return start + wanted - found, wanted
        found += max(stop - start, 0)
    return segment.stop, found


def _natural(name: str) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
