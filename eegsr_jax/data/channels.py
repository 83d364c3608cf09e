"""Which channels of a source are EEG, what they are called, and where they sit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eegsr_jax.errors import ChannelError
from eegsr_jax.geometry import find_channels, fit_sphere, montage, standard_name

# Recorders label these as EEG; their names say otherwise.
_NOT_EEG = re.compile(
    r"EOG|ECG|EKG|EMG|EXG|STATUS|TRIG|PHOTIC"
    r"|^(STI|STIM|RESP|PLET|TEMP|GSR|ERG|AUX|MISC|DC|ACC|GYRO|LOC|ROC|SAO2|SPO2|MARKER)"
    r"[ _-]?[XYZ]?\d*$",
    re.IGNORECASE,
)
# Cap labels say nothing about a place until the cap is known. A1 and A2 are earlobes, C1..C6 and
# F1..F10 are 10-10 electrodes; the rest of these names exists on caps only.
_CAPS = {
    "BioSemi": (
        re.compile(r"A([3-9]|[12]\d|3[0-2])|[BDG]([1-9]|[12]\d|3[0-2])"),
        {n: f"biosemi{n}" for n in (16, 32, 64, 128, 160, 256)},
    ),
    "GSN-HydroCel": (
        re.compile(r"E\d{1,3}"),
        {n: f"GSN-HydroCel-{n}" for n in (32, 128, 129, 256, 257)},
    ),
}
_RELABELLED_CAPS = ("biosemi16", "biosemi32", "biosemi64")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The EEG channels of a source.

    Attributes:
      index: `[channel]` places in the source, in the order of the recording.
      labels: their names in the source.
      names: their standard names.
      positions: `[channel, 3]` metres, MNE head frame.
      notes: one sentence for each thing that was changed, dropped or guessed.
    """

    index: np.ndarray
    labels: tuple[str, ...]
    names: tuple[str, ...]
    positions: np.ndarray
    notes: tuple[str, ...]


def select(
    labels: Sequence[str],
    kinds: Sequence[str],
    found: np.ndarray,
    source_montage: Any = None,
    channels: Sequence[str] | None = None,
) -> Selection:
    """Choose the EEG channels of a source and find where they sit.

    Args:
      labels: every channel name of the source.
      kinds: MNE channel type of each ("eeg", "eog", …).
      found: `[len(labels), 3]` positions that came with the source, NaN where it has none.
      source_montage: anything `geometry.montage` takes; it wins over `found`.
      channels: names (of the source or standard) to keep, in this order; None keeps all EEG.

    Raises:
      ChannelError: no EEG channel, an unknown or doubled name, a cap whose labels need a montage,
        a montage for other channels, two electrodes in one place, or fewer than four positions.
    """
    notes: list[str] = []
    _refuse_doubles(labels)
    index = np.array([i for i, kind in enumerate(kinds) if kind == "eeg"], int)
    names = _standard_names([str(labels[i]) for i in index], source_montage, notes)
    if channels is None:
        chosen = _eeg_by_name(labels, kinds, notes)
    else:
        chosen = _asked_for(channels, labels, kinds, names)
    names = [names[i] for i in chosen]
    index = index[chosen]
    labels = [str(labels[i]) for i in index]
    positions = _positions(labels, names, np.asarray(found, float)[index], source_montage, notes)

    placed = _known(positions)
    if not placed.all():
        lost = [n for n, ok in zip(names, placed, strict=True) if not ok]
        if channels is not None or placed.sum() < 4:
            raise ChannelError(
                f"{_count(lost)} ({some(lost)}) without a position and {placed.sum()} with one; "
                "give montage=… with their positions (a name, a file or {name: xyz in metres})"
            )
        notes.append(f"{_count(lost)} without a position dropped: {', '.join(lost)}")
    index, positions = index[placed], positions[placed]
    labels = [x for x, ok in zip(labels, placed, strict=True) if ok]
    names = [x for x, ok in zip(names, placed, strict=True) if ok]
    pair = _coincident(positions)
    if pair is not None:
        a, b = pair[0]
        raise ChannelError(
            f"channels {names[a]} and {names[b]} have the same position "
            f"{positions[a].round(4).tolist()} m; correct the montage or leave one out"
        )
    return Selection(
        index=index,
        labels=tuple(labels),
        names=tuple(names),
        positions=positions,
        notes=tuple(notes),
    )


def place(wanted: Sequence[str], labels: Sequence[str], names: Sequence[str]) -> list[int]:
    """Places of `wanted` channels, given by their name in the source or by their standard name.

    Raises:
      ChannelError: a name that is neither.
    """
    exact = {label: i for i, label in enumerate(labels)}
    return [exact[w] if w in exact else int(find_channels([w], names)[0]) for w in wanted]


def some(names: Sequence[str]) -> str:
    """The first names, for a sentence."""
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} channel{'s' if len(names) != 1 else ''}"


def _refuse_doubles(labels: Sequence[str]) -> None:
    doubled = sorted({n for n in labels if list(labels).count(n) > 1})
    if doubled:
        raise ChannelError(f"channel {', '.join(doubled)} occurs twice; give each its own name")


def _eeg_by_name(labels: Sequence[str], kinds: Sequence[str], notes: list[str]) -> list[int]:
    """Places, among the channels of type eeg, of those whose name agrees."""
    eeg = [n for n, kind in zip(labels, kinds, strict=True) if kind == "eeg"]
    chosen = [i for i, n in enumerate(eeg) if not _NOT_EEG.search(n)]
    if not chosen:
        raise ChannelError(
            f"no EEG channel among {_count(labels)} ({some(labels)}) of types "
            f"{', '.join(sorted(set(kinds)))}; set the channel types in MNE, or name channels=…"
        )
    other = [n for n in labels if n not in eeg]
    if other:
        notes.append(f"{_count(other)} of other types left out: {', '.join(other)}")
    named = [n for n in eeg if _NOT_EEG.search(n)]
    if named:
        notes.append(f"{_count(named)} not EEG by name left out: {', '.join(named)}")
    return chosen


def _asked_for(
    channels: Sequence[str], labels: Sequence[str], kinds: Sequence[str], names: Sequence[str]
) -> list[int]:
    """Places, among the channels of type eeg, of the channels the caller named."""
    for label, kind in zip(labels, kinds, strict=True):
        if label in channels and kind != "eeg":
            raise ChannelError(f"channel {label} is of type {kind}; expected eeg")
    eeg = [n for n, kind in zip(labels, kinds, strict=True) if kind == "eeg"]
    chosen = place(channels, eeg, names)
    if len(set(chosen)) < len(chosen):
        twice = sorted({c for c, i in zip(channels, chosen, strict=True) if chosen.count(i) > 1})
        raise ChannelError(f"channel {', '.join(twice)} is named twice; name each channel once")
    return chosen


# ----------------------------------------------------------------------------------------- names


def _standard_names(labels: Sequence[str], source_montage: Any, notes: list[str]) -> list[str]:
    relabel: dict[str, str] = {}
    if isinstance(source_montage, str) and source_montage in _RELABELLED_CAPS and _cap(labels):
        # MNE lists these caps in the order of BioSemi's own labels A1..A32, B1..B32.
        electrodes = montage(source_montage)
        relabel = {f"{'AB'[i // 32]}{i % 32 + 1}": name for i, name in enumerate(electrodes)}
    names = [relabel.get(label.strip(), standard_name(label)) for label in labels]
    # T3 and T7 in one file: standard names would make them one channel.
    clash = {n for n in names if names.count(n) > 1}
    names = [label if n in clash else n for label, n in zip(labels, names, strict=True)]
    changed = [f"{a} -> {b}" for a, b in zip(labels, names, strict=True) if a != b]
    if changed:
        notes.append(f"{_count(changed)} given standard names: {some(changed)}")
    return names


def _cap(labels: Sequence[str]) -> tuple[str, str] | None:
    """Maker and likely montage of a cap with its own labels, or None."""
    for maker, (pattern, caps) in _CAPS.items():
        if sum(bool(pattern.fullmatch(label.strip())) for label in labels) >= 4:
            return maker, caps[min((n for n in caps if n >= len(labels)), default=max(caps))]
    return None


# ------------------------------------------------------------------------------------- positions


def _positions(
    labels: Sequence[str],
    names: Sequence[str],
    found: np.ndarray,
    source_montage: Any,
    notes: list[str],
) -> np.ndarray:
    if source_montage is not None:
        return _from_montage(labels, names, found, source_montage, notes)
    found = _plausible(found, names, notes)
    missing = ~_known(found)
    cap = _cap(labels)
    if cap is not None and missing.all():
        maker, example = cap
        raise ChannelError(
            f"channels {some(labels)} carry {maker} labels and no positions; where they sit "
            f'depends on the cap: give montage="{example}" or the one of your cap'
        )
    if cap is not None or not missing.any():
        return found
    template = _look_up(labels, names, montage("standard_1005"))
    taken = [n for n, m, known in zip(names, missing, _known(template), strict=True) if m and known]
    if taken:
        notes.append(
            f"positions of {_count(taken)} ({some(taken)}) taken by name from the standard 10-05 "
            "template"
        )
    return np.where(missing[:, None], template, found)


def _from_montage(
    labels: Sequence[str],
    names: Sequence[str],
    found: np.ndarray,
    source_montage: Any,
    notes: list[str],
) -> np.ndarray:
    out = _look_up(labels, names, montage(source_montage))
    without = [n for n, known in zip(labels, _known(out), strict=True) if not known]
    # BioSemi's C3 is no 10-20 C3: a few names in common do not make it the montage of this cap.
    if len(without) == len(labels) or (2 * len(without) > len(labels) and _cap(without)):
        raise ChannelError(
            f"the montage does not have the channels {some(without)}; give the one of this cap"
        )
    if not without:
        return out
    found = _plausible(found, names, notes)
    rest = ~_known(out) & _known(found)
    if rest.any():
        kept = ", ".join(n for n, r in zip(names, rest, strict=True) if r)
        notes.append(f"not in the montage, position of the file kept: {kept}")
    return np.where(rest[:, None], found, out)


def _look_up(
    labels: Sequence[str], names: Sequence[str], table: dict[str, np.ndarray]
) -> np.ndarray:
    by_name = {standard_name(k).lower(): v for k, v in table.items()}
    unknown = np.full(3, np.nan)
    rows = [
        table.get(label, by_name.get(name.lower(), unknown))
        for label, name in zip(labels, names, strict=True)
    ]
    return np.stack(rows).astype(float)


def _plausible(found: np.ndarray, names: Sequence[str], notes: list[str]) -> np.ndarray:
    """Positions of the file in metres, NaN where they cannot be true."""
    distance = np.linalg.norm(found, axis=1)
    given = np.isfinite(distance) & (distance > 0)  # MNE writes zeros for "unknown" too
    out = np.where(given[:, None], found, np.nan)
    if not given.any():
        return out
    radius = float(np.median(distance[given]))
    for unit, factor in (("centimetres", 100.0), ("millimetres", 1000.0)):
        if 0.05 <= radius / factor <= 0.15:
            notes.append(f"positions scaled from {unit}: their median radius is {radius:.3g}")
            out, distance, radius = out / factor, distance / factor, radius / factor
    if not 0.05 <= radius <= 0.15:
        notes.append(
            f"positions of the file ignored: median distance from the origin {radius:.3g} m, "
            "a head has about 0.1 m"
        )
        return np.full_like(out, np.nan)
    good = given & (distance > 0.03) & (distance < 0.2)
    if good.sum() >= 8:  # fewer do not fix a sphere well enough to judge by
        try:
            centre, sphere = fit_sphere(out[good])
        except ChannelError:
            notes.append("positions of the file ignored: they lie in one plane")
            return np.full_like(out, np.nan)
        off = np.abs(np.linalg.norm(out - centre, axis=1) - sphere)
        good &= ~(off > 0.04)
    pairs = _coincident(np.where(good[:, None], out, np.nan))
    if pairs is not None:
        good[pairs.ravel()] = False
    if (given & ~good).any():
        bad = [n for n, b in zip(names, given & ~good, strict=True) if b]
        notes.append(f"implausible positions of the file ignored: {some(bad)}")
    return np.where(good[:, None], out, np.nan)


def _known(positions: np.ndarray) -> np.ndarray:
    """`[channel]` bool: all three coordinates are finite."""
    return np.isfinite(positions.sum(axis=1))


def _coincident(positions: np.ndarray) -> np.ndarray | None:
    """Pairs of places closer than a tenth of a millimetre, `[pair, 2]`, or None."""
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    pairs = np.argwhere(np.triu(distance < 1e-4, 1))
    return pairs if len(pairs) else None
