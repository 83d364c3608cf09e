"""Results out: MNE objects with the reconstructed channels marked, and how far to trust each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eegsr_jax import __version__
from eegsr_jax.data.recording import Recording
from eegsr_jax.data.sources import continuous, unapplied
from eegsr_jax.errors import ChannelError, RecordingError
from eegsr_jax.geometry import standard_name


def to_raw(recording: Recording) -> Any:
    """The recording as an `mne.io.RawArray`.

    Positions become its montage, `bads` its bad channels, unusable time annotations "BAD_unusable",
    and breaks the two marks without length that `mne.concatenate_raws` sets: "BAD boundary", at
    which MNE drops epochs, and "EDGE boundary", at which it divides before it filters. Reading the
    result gives the same recording.
    """
    import mne

    info = mne.create_info(list(recording.names), recording.sfreq, "eeg")
    raw = mne.io.RawArray(recording.data.astype(np.float64), info, verbose="ERROR")
    positions = dict(zip(recording.names, recording.positions, strict=True))
    raw.set_montage(mne.channels.make_dig_montage(positions, coord_frame="head"))
    raw.info["bads"] = list(recording.bads)
    raw.info["description"] = f"{recording.source}; reference: {recording.reference}"
    edges = np.flatnonzero(np.diff(np.r_[True, recording.usable, True].astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    marks = mne.Annotations(
        starts / recording.sfreq, (stops - starts) / recording.sfreq, "BAD_unusable"
    )
    for text in ("BAD boundary", "EDGE boundary"):
        onset = np.array(recording.breaks) / recording.sfreq
        marks += mne.Annotations(onset, np.zeros_like(onset), text)
    raw.set_annotations(marks, verbose="ERROR")
    return raw


def attach(
    original: Any,
    recording: Recording,
    names: Sequence[str],
    positions: np.ndarray,
    mean: np.ndarray,
    *,
    reconstructed: Sequence[str],
    method: str,
) -> Any:
    """A copy of an MNE object with the target channels, in order, reconstructed ones among them.

    The samples of the other targets are the original's, bit for bit. What reading did not take for
    EEG (stimulus, EOG) follows at the end; EEG channels that are no target are left out.
    Annotations, events, `first_samp` and the date stay. `info["description"]` says what was
    reconstructed, and reconstructed channels are bad no more. Where an input is not finite, the
    reconstruction is NaN too. A projector for EEG that was not applied is removed: it was made for
    other channels.

    Args:
      original: the MNE Raw, Epochs or Evoked that `recording` was read from.
      recording: what `read` made of it, native reference.
      names: M target channels, in order.
      positions: `[M, 3]` metres, MNE head frame.
      mean: `[M, time]` volts, native reference, `time` as in `recording.data` (epochs one after
        the other); only the rows of reconstructed channels are used.
      reconstructed: the names whose samples come from `mean`.
      method: what made them, for the description.

    Raises:
      RecordingError: `recording` is not of `original`, or not native; wrong shapes.
      ChannelError: a target that is neither recorded nor reconstructed; values not finite.
    """
    import mne

    _refuse_mismatch(recording, names, positions, mean, reconstructed)
    out = original.copy()
    if not isinstance(out, mne.Evoked):
        with mne.use_log_level("ERROR"):
            out.load_data()
    labels = recording.labels or recording.names
    inputs = {
        label: row
        for row, (label, name) in enumerate(zip(labels, recording.names, strict=True))
        if name not in recording.bads
    }
    new = np.asarray(mean)[[list(names).index(n) for n in reconstructed]].astype(np.float64)
    new[:, ~_finite(out, recording, inputs)] = np.nan

    kept = {
        label: name
        for label, name in zip(labels, recording.names, strict=True)
        if name in names and name not in reconstructed
    }
    tail = [
        n
        for n in out.ch_names
        if n not in labels and n not in names and standard_name(n) not in names
    ]
    bads = [kept.get(b, b) for b in out.info["bads"] if b in kept or b in tail]
    bads += [n for n in kept.values() if n in recording.bads and n not in bads]
    gone = [n for n in out.ch_names if n not in kept and n not in tail]
    # Renamed before they go, since a target may bear the name of a channel that it replaces.
    out.rename_channels({n: f"{i} left out" for i, n in enumerate(gone)} | kept, verbose="ERROR")
    if len(reconstructed):
        out.add_channels([_like(out, new, reconstructed)], force_update_info=True)
    out.reorder_channels([*names, *tail])
    out.del_proj([i for i, p in enumerate(out.info["projs"]) if unapplied(p)])
    out.info["bads"] = bads
    _set_positions(out, original, names, positions)
    rank = min(len(names), len(inputs))
    said = f"{original.info['description']}; " if original.info["description"] else ""
    out.info["description"] = (
        f"{said}eegsr_jax {__version__}: {len(reconstructed)} of {len(names)} channels "
        f"reconstructed by {method} (rank at most {rank}): {', '.join(reconstructed) or 'none'}"
    )
    return out


def reliability_table(
    names: Sequence[str],
    reconstructed: Sequence[str],
    expected_nmse: np.ndarray,
    angle_deg: np.ndarray,
    std: np.ndarray,
    *,
    method: str,
    rank: int,
) -> list[dict[str, Any]]:
    """How far to trust each channel: one row a channel, in order.

    Args:
      names: M target channels.
      reconstructed: those that were reconstructed; the others are observed, with zeros.
      expected_nmse: `[M]` expected squared error over signal power, 0 (perfect) to 1 (no better
        than silence) and above.
      angle_deg: `[M]` great-circle angle to the nearest observed electrode, degrees.
      std: `[M]` or `[M, time]` standard error, volts; over time its root mean square is given.
      method: what reconstructed them.
      rank: number of independent channels, that is, of observed ones that went in.

    Raises:
      RecordingError: arrays of another length than `names`.
    """
    std = np.asarray(std, np.float64)
    std = np.sqrt((std**2).mean(1)) if std.ndim == 2 else std
    columns = {"expected_nmse": np.asarray(expected_nmse), "angle_deg": np.asarray(angle_deg)}
    for column, values in (columns | {"std": std}).items():
        if values.shape != (len(names),):
            raise RecordingError(f"{column} has shape {values.shape}; expected ({len(names)},)")
    rows = []
    for i, name in enumerate(names):
        new = name in reconstructed
        rows.append(
            {
                "name": name,
                "status": "reconstructed" if new else "observed",
                "method": method if new else "n/a",
                "expected_nmse": float(columns["expected_nmse"][i]) if new else 0.0,
                "angle_deg": float(columns["angle_deg"][i]) if new else 0.0,
                "std_uV": 1e6 * float(std[i]) if new else 0.0,
                "rank": rank,
            }
        )
    return rows


def _refuse_mismatch(
    recording: Recording,
    names: Sequence[str],
    positions: np.ndarray,
    mean: np.ndarray,
    reconstructed: Sequence[str],
) -> None:
    where = recording.source
    if recording.reference != "native":
        raise RecordingError(
            f"{where}: reconstructed against reference {recording.reference}, while the observed "
            "samples are kept as they are; give native data and set the reference of the result"
        )
    time = recording.data.shape[1]
    for what, array, expected in (
        ("positions", positions, (len(names), 3)),
        ("mean", mean, (len(names), time)),
    ):
        if np.shape(array) != expected:
            raise RecordingError(
                f"{where}: {what} has shape {np.shape(array)}; expected {expected}"
            )
    unknown = [n for n in reconstructed if n not in names]
    if unknown:
        raise ChannelError(f"{where}: reconstructed channel {', '.join(unknown)} is no target")
    lost = [n for n in names if n not in reconstructed and n not in recording.names]
    if lost:
        raise ChannelError(
            f"{where}: target {', '.join(lost)} is neither recorded nor reconstructed"
        )
    rows = [i for i, n in enumerate(names) if n in reconstructed]
    bad = [names[i] for i in rows if not np.isfinite(mean[i]).all()]
    if bad:
        raise ChannelError(f"{where}: reconstruction of {', '.join(bad)} is not finite")


def _finite(out: Any, recording: Recording, inputs: Mapping[str, int]) -> np.ndarray:
    """`[time]` bool: where all inputs are finite; refuses an object that was not the source."""
    if not set(inputs) <= set(out.ch_names):
        raise RecordingError(f"{recording.source}: not the object that the recording was read from")
    finite = np.ones(recording.data.shape[1], bool)
    for label, row in inputs.items():
        before = continuous(out, [out.ch_names.index(label)])[0]
        if len(before) != len(finite):
            raise RecordingError(
                f"{recording.source}: {len(finite)} samples were read, the object has {len(before)}"
            )
        known = np.isfinite(before)
        thin = np.flatnonzero(known)[:: max(1, len(known) // 10_000)]
        if not np.allclose(before[thin], recording.data[row, thin], rtol=1e-5, atol=1e-9):
            raise RecordingError(
                f"{recording.source}: samples of {label} differ between the object and the "
                "recording; pass the object that was read, in volts"
            )
        finite &= known
    return finite


def _like(inst: Any, data: np.ndarray, names: Sequence[str]) -> Any:
    """`[channel, time]` as an MNE object of the kind and length of `inst`."""
    import mne

    info = mne.create_info(list(names), inst.info["sfreq"], "eeg")
    if isinstance(inst, mne.Evoked):
        return mne.EvokedArray(data, info, tmin=inst.tmin, verbose="ERROR")
    if isinstance(inst, mne.BaseEpochs):
        epochs = data.reshape(len(data), len(inst), -1).transpose(1, 0, 2)
        return mne.EpochsArray(epochs, info, tmin=inst.tmin, verbose="ERROR")
    return mne.io.RawArray(data, info, first_samp=inst.first_samp, verbose="ERROR")


def _set_positions(out: Any, original: Any, names: Sequence[str], positions: np.ndarray) -> None:
    """Positions of the targets; fiducials, head shape and other electrodes as they were."""
    import mne

    old = original.get_montage()
    parts = old.get_positions() if old is not None else {"ch_pos": {}}
    others = {n: xyz for n, xyz in (parts.pop("ch_pos") or {}).items() if n in out.ch_names}
    parts.pop("coord_frame", None)
    dig = mne.channels.make_dig_montage(
        others | dict(zip(names, np.asarray(positions, float), strict=True)),
        coord_frame="head",
        **parts,
    )
    out.set_montage(dig, on_missing="ignore", verbose="ERROR")
