"""Open whatever holds EEG (a path, a BIDS path, an MNE object) and take its samples out."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eegsr_jax.errors import EEGSRError, RecordingError

_BLOCK = 1 << 16  # samples read at once: MNE hands out float64, twice the size that is kept
_EPOCHS_FIF = re.compile(r"[-_]epo\.fif(\.gz)?$")
_BIDS_FILE = re.compile(r"sub-[^_]+(_[a-z]+-[^_]+)*_eeg\.(edf|vhdr|set|bdf)")
_JOINS = ("BAD BOUNDARY", "EDGE BOUNDARY", "BOUNDARY", "NEW SEGMENT/")


def origin(source: Any) -> str:
    """What to call a source in messages."""
    if isinstance(source, str | Path):
        return str(source)
    if is_bids_path(source):
        return str(source.fpath)
    return f"{type(source).__name__} object"


def entities(source: Any) -> dict[str, str]:
    """Subject, session and run that a BIDS path or a BIDS-like file name tells."""
    name = Path(origin(source)).name if not _is_mne(source) else ""
    found = re.findall(r"(?:^|_)(sub|ses|run)-([^_.]+)", name)
    return {{"sub": "subject", "ses": "session", "run": "run"}[k]: v for k, v in found}


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Put the name of the source in front of the message of any error of ours."""
    try:
        yield
    except EEGSRError as error:
        raise type(error)(f"{where}: {error}") from error


@contextlib.contextmanager
def reading(notes: list[str]) -> Iterator[None]:
    """Turn what MNE's readers raise into one line, and what they warn of into notes."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    except EEGSRError:
        raise
    except Exception as error:  # readers of foreign files fail in every way there is
        line = " ".join(str(error).split())[:300]
        line = line or f"damaged, or not of the format of its name ({type(error).__name__})"
        raise RecordingError(f"cannot be read: {line}") from error
    for warning in caught:
        line = f"MNE: {' '.join(str(warning.message).split())[:200]}"
        if warning.category is RuntimeWarning and line not in notes:
            notes.append(line)


def open_source(source: Any) -> Any:
    """The MNE object behind a source: Raw (not loaded), Epochs or Evoked.

    Raises:
      RecordingError: no such file, an array, or a BIDS source without mne-bids.
    """
    import mne

    if _is_mne(source):
        unloaded = isinstance(source, mne.BaseEpochs) and not source.preload
        return source.copy().load_data() if unloaded else source
    if is_bids_path(source):
        return _open_bids(source)
    if not isinstance(source, str | Path):
        raise RecordingError(
            f"a {type(source).__name__} is no path, BIDS path or MNE object; "
            "for arrays use from_array(data, sfreq, names, positions)"
        )
    path = Path(source).expanduser()
    if not path.exists():
        raise RecordingError("no such file; check the path")
    if path.is_file() and not path.stat().st_size:
        raise RecordingError("the file is empty; copy or export it again")
    sidecar = path.with_name(path.name.rsplit("_", 1)[0] + "_channels.tsv")
    if path.parent.name == "eeg" and _BIDS_FILE.fullmatch(path.name) and sidecar.is_file():
        return _open_bids(path)  # else the bad channels and types of channels.tsv would be lost
    if _EPOCHS_FIF.search(path.name):
        return mne.read_epochs(path, preload=True, verbose="WARNING")
    try:
        return mne.io.read_raw(path, preload=False, verbose="WARNING")
    except TypeError:
        if path.suffix != ".set":
            raise
        return mne.io.read_epochs_eeglab(path, verbose="WARNING")  # MNE's Raw reader refuses trials


def is_bids_path(source: Any) -> bool:
    """Whether this is an `mne_bids.BIDSPath`; told without importing mne-bids."""
    return type(source).__name__ == "BIDSPath"


def _is_mne(source: Any) -> bool:
    if not hasattr(source, "info"):
        return False
    import mne

    return isinstance(source, mne.io.BaseRaw | mne.BaseEpochs | mne.Evoked)


def _open_bids(source: Any) -> Any:
    try:
        import mne_bids
    except ImportError as error:
        raise RecordingError(
            "reading BIDS needs mne-bids: pip install 'eegsr_jax[bids]' "
            "(or read the file with MNE and pass the Raw object)"
        ) from error
    if isinstance(source, Path):
        source = mne_bids.get_bids_path_from_fname(source, check=False, verbose="ERROR")
    return mne_bids.read_raw_bids(source, verbose="WARNING")


# --------------------------------------------------------------------------------------- samples


def positions(inst: Any) -> np.ndarray:
    """Positions `[channel, 3]` that an MNE object carries, metres, head frame; NaN where none."""
    from mne.io.constants import FIFF

    rows = [
        c["loc"][:3] if c["coord_frame"] == FIFF.FIFFV_COORD_HEAD else np.full(3, np.nan)
        for c in inst.info["chs"]
    ]
    return np.asarray(rows, float).reshape(-1, 3)


def samples(inst: Any, picks: np.ndarray) -> np.ndarray:
    """`[channel, time]` float32, volts as MNE understands them; epochs one after the other."""
    import mne

    if isinstance(inst, mne.io.BaseRaw):
        out = np.empty((len(picks), inst.n_times), np.float32)
        for start in range(0, inst.n_times, _BLOCK):
            stop = min(start + _BLOCK, inst.n_times)
            out[:, start:stop] = inst.get_data(picks, start, stop, verbose="WARNING")
        return out
    return continuous(inst, picks).astype(np.float32)


def continuous(inst: Any, picks: Any) -> np.ndarray:
    """Channels of a loaded MNE object as `[channel, time]` float64, epochs joined."""
    import mne

    if isinstance(inst, mne.BaseEpochs):
        data = inst.get_data(picks, copy=False, verbose="WARNING")
        return data.transpose(1, 0, 2).reshape(data.shape[1], -1)
    return inst.data[picks] if isinstance(inst, mne.Evoked) else inst.get_data(picks)


def usable(inst: Any) -> np.ndarray:
    """`[time]` bool: False under `BAD_` annotations."""
    blocks = _marks(inst)
    out = np.ones((len(blocks), len(inst.times)), bool)
    for row, marks in zip(out, blocks, strict=True):
        for onset, duration, text in marks:
            if text.startswith("BAD") and text not in _JOINS:
                first = int(round(onset))
                length = int(round(onset + np.nan_to_num(duration))) - first
                last = first + max(length, 1)  # a mark without length is one sample
                row[max(first, 0) : max(last, 0)] = False
    return out.reshape(-1)


def breaks(inst: Any) -> tuple[int, ...]:
    """Samples at which a new continuous stretch begins, ascending.

    They are the borders of epochs and the "boundary" marks of MNE, EEGLAB and BrainVision.
    """
    blocks, length = _marks(inst), len(inst.times)
    found = set(range(length, len(blocks) * length, length))
    for number, marks in enumerate(blocks):
        for onset, _, text in marks:
            first = int(np.floor(onset + 0.5 + 1e-6))  # EEGLAB's marks lie between two samples
            if text in _JOINS and 0 < first < length:
                found.add(number * length + first)
    return tuple(sorted(found))


def unapplied(projector: Any) -> bool:
    """Whether an MNE projector for EEG (an average reference, say) is there but not applied."""
    return not projector["active"] and "EEG" in projector["desc"]


def remarks(inst: Any) -> list[str]:
    """What a user of these samples should know about the object they come from."""
    import mne

    notes = []
    if isinstance(inst, mne.io.BaseRaw) and (joins := len(breaks(inst))):
        notes.append(f"{joins + 1} continuous stretches, with a boundary mark before each new one")
    if any(map(unapplied, inst.info["projs"])):
        notes.append("a projector for EEG that is not applied in the source was not applied")
    if isinstance(inst, mne.BaseEpochs):
        notes.append(f"{len(inst)} epochs of {len(inst.times)} samples put one after the other")
        starts = np.sort(inst.events[:, 0])
        if np.any(starts[1:] - starts[:-1] < len(inst.times)):
            notes.append("epochs overlap in time: random windows of them are not independent")
    return notes


def _marks(inst: Any) -> list[list[tuple[float, float, str]]]:
    """Annotations of the whole, or of each epoch: onset and duration in samples, text."""
    import mne

    if isinstance(inst, mne.Evoked):
        return [[]]
    if isinstance(inst, mne.BaseEpochs):
        start, blocks = inst.tmin, inst.get_annotations_per_epoch()
    else:
        start = inst.first_time  # MNE counts from the start of the acquisition
        blocks = [[(a["onset"], a["duration"], a["description"]) for a in inst.annotations]]
    sfreq = inst.info["sfreq"]
    return [
        # BrainVision puts the kind of mark in front.
        [
            ((a - start) * sfreq, d * sfreq, text.upper().removeprefix("COMMENT/"))
            for a, d, text, *_ in marks
        ]
        for marks in blocks
    ]
