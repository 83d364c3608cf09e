"""BIDS derivatives: reconstructed recordings beside the data set that they come from.

Source: the Brain Imaging Data Structure 1.9, chapters "Derivatives" and "Electroencephalography".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eegsr_jax import __version__
from eegsr_jax.data.sources import naming
from eegsr_jax.data.writing import save, staged, tsv
from eegsr_jax.errors import RecordingError

_ENTITIES = {
    "subject": "sub",
    "session": "ses",
    "task": "task",
    "acquisition": "acq",
    "run": "run",
}
_TYPES = {"eeg": "EEG", "eog": "EOG", "ecg": "ECG", "emg": "EMG", "stim": "TRIG"}


def write_bids_derivative(
    raw: Any,
    root: str | Path,
    entities: Mapping[str, str | None],
    table: Sequence[Mapping[str, Any]],
    *,
    sources: Sequence[str | Path] = (),
    overwrite: bool = False,
) -> Path:
    """Write a reconstructed recording as `derivatives/eegsr_jax/sub-…/eeg/…_desc-sr_eeg.vhdr`.

    With it go the header's `.eeg` and `.vmrk`, `channels.tsv` (status and what made each channel),
    `eeg.json` with the sources and, shared by the recordings of a session, `electrodes.tsv` with
    `coordsystem.json`, and by all of them, `dataset_description.json`.

    Args:
      raw: MNE Raw, as `attach` returns it.
      root: the BIDS data set (`BIDSPath.root`).
      entities: "subject" and "task", and where used "session", "acquisition" and "run"; others
        and None are left out (`BIDSPath.entities`).
      table: rows of `reliability_table`.
      sources: files it was made from, absolute or relative to `root`, or BIDS URIs.
      overwrite: whether existing files may be replaced.

    Returns:
      The path of the `.vhdr` file.

    Raises:
      RecordingError: no subject or task, an entity that BIDS does not allow, an existing output
        (or existing electrodes of this session that are not the same), no positions, or what
        `write` refuses.
    """
    data_set, root = Path(root), Path(root) / "derivatives" / "eegsr_jax"
    folder, stem = _place(entities)
    session = re.sub(r"_(task|run)-[^_]+", "", stem)
    own = {
        f"{stem}_desc-sr_channels.tsv": tsv(_channels(raw, table)),
        f"{stem}_desc-sr_eeg.json": _json(_sidecar(raw, entities, data_set, sources)),
    }
    shared = {
        folder / f"{session}_space-CapTrak_electrodes.tsv": tsv(_electrodes(raw)),
        folder / f"{session}_space-CapTrak_coordsystem.json": _json(_coordinate_system(raw)),
        Path("dataset_description.json"): _json(_description()),
    }
    for path, text in list(shared.items()):
        if (root / path).is_file():
            if path.name == "dataset_description.json" or (root / path).read_text("utf-8") == text:
                del shared[path]  # written with an earlier recording
    out = folder / f"{stem}_desc-sr_eeg.vhdr"
    files = {folder / name: text for name, text in own.items()} | shared
    companions = [out.with_suffix(".eeg"), out.with_suffix(".vmrk"), out]
    names = [str(p) for p in (*files, *companions)]
    with staged(root, names, overwrite) as staging, naming(str(root / out)):
        (staging / folder).mkdir(parents=True)
        save(raw, staging / out)
        for path, text in files.items():
            (staging / path).write_text(text, encoding="utf-8")
    return root / out


def _place(entities: Mapping[str, str | None]) -> tuple[Path, str]:
    """Folder below the derivative's root, and the common beginning of the file names."""
    given = {k: str(v) for k in _ENTITIES if (v := entities.get(k)) is not None}
    for key in ("subject", "task"):
        if key not in given:
            raise RecordingError(f"BIDS derivative: no {key} among the entities; give one")
    for key, value in given.items():
        if not re.fullmatch(r"[A-Za-z0-9]+", value):
            raise RecordingError(f"BIDS derivative: {key} is {value!r}; letters and digits only")
    folder = Path(f"sub-{given['subject']}")
    if "session" in given:
        folder /= f"ses-{given['session']}"
    stem = "_".join(f"{_ENTITIES[k]}-{v}" for k, v in given.items())
    return folder / "eeg", stem


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _description() -> dict[str, Any]:
    return {
        "Name": "EEG super-resolution",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "eegsr_jax", "Version": __version__}],
        "DatasetLinks": {"raw": "../.."},
    }


def _channels(raw: Any, table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = {r["name"]: r for r in table}
    out = []
    for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True):
        row = rows.get(name, {})
        new = row.get("status") == "reconstructed"
        out.append(
            {
                "name": name,
                "type": _TYPES.get(kind, "MISC"),
                "units": "n/a" if kind == "stim" else "µV",
                "status": "bad" if name in raw.info["bads"] else "good",
                "status_description": f"reconstructed by {row['method']}" if new else "n/a",
                "expected_nmse": row["expected_nmse"] if new else "n/a",
                "std_uV": row["std_uV"] if new else "n/a",
            }
        )
    return out


def _electrodes(raw: Any) -> list[dict[str, Any]]:
    return [
        {"name": name} | {a: float(v) for a, v in zip("xyz", channel["loc"][:3], strict=True)}
        for name, kind, channel in zip(
            raw.ch_names, raw.get_channel_types(), raw.info["chs"], strict=True
        )
        if kind == "eeg"
    ]


def _coordinate_system(raw: Any) -> dict[str, Any]:
    montage = raw.get_montage()
    if montage is None:
        raise RecordingError("BIDS derivative: no electrode positions; set a montage")
    found = montage.get_positions()
    marks = {"NAS": found["nasion"], "LPA": found["lpa"], "RPA": found["rpa"]}
    # MNE invents landmarks at one distance on the axes where none were measured.
    nominal = np.ptp([np.linalg.norm(v) for v in marks.values()]) < 1e-6
    return {
        "EEGCoordinateSystem": "CapTrak",
        "EEGCoordinateUnits": "m",
        "EEGCoordinateSystemDescription": "RAS; the ears lie on x and the nasion on y."
        + (" The landmarks are nominal: none were measured." if nominal else ""),
        "AnatomicalLandmarkCoordinates": {k: [float(x) for x in v] for k, v in marks.items()},
        "AnatomicalLandmarkCoordinateSystem": "CapTrak",
        "AnatomicalLandmarkCoordinateUnits": "m",
    }


def _sidecar(
    raw: Any,
    entities: Mapping[str, str | None],
    data_set: Path,
    sources: Sequence[str | Path],
) -> dict[str, Any]:
    kinds = raw.get_channel_types()
    return {
        "TaskName": entities["task"],
        "SamplingFrequency": raw.info["sfreq"],
        "PowerLineFrequency": raw.info["line_freq"] or "n/a",
        "EEGReference": "n/a",
        "SoftwareFilters": "n/a",
        "RecordingDuration": raw.n_times / raw.info["sfreq"],
        "RecordingType": "continuous",
        "EEGChannelCount": kinds.count("eeg"),
        "EOGChannelCount": kinds.count("eog"),
        "TriggerChannelCount": kinds.count("stim"),
        "Description": raw.info["description"] or "",
        "Sources": [_uri(s, data_set) for s in sources],
    }


def _uri(source: str | Path, data_set: Path) -> str:
    if str(source).startswith("bids:"):
        return str(source)
    path = Path(source)
    if path.is_absolute():
        path = path.resolve()
        data_set = data_set.resolve()
        path = path.relative_to(data_set) if path.is_relative_to(data_set) else Path(path.name)
    return f"bids:raw:{path.as_posix()}"
