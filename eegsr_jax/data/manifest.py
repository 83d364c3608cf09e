"""What a store keeps on disk: `manifest.json`, data files, and how both appear in one piece.

```
STORE/manifest.json            format version, preprocessing, data set, options, terms, recordings
STORE/recordings/<key>.npy     [time, channel] float32 volts
```

Time comes first on disk, so a window of all channels is one contiguous read; with channels first it
would be one small read for each channel (`docs/data.md` has the figures).
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from eegsr_jax import __version__
from eegsr_jax.config import from_json, to_json
from eegsr_jax.data.preprocessing import Preprocessing
from eegsr_jax.data.recording import Event
from eegsr_jax.errors import ChannelError, DatasetError

FORMAT = "eegsr_jax store"
FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class StoredRecording:
    """What the manifest says about one recording; fields as in `Recording` and `Entry`.

    `usable` holds the stretches `[start, stop)` of usable samples that follow one another without a
    break; after a break a new one begins, even where none is lost between them. `sha256` is that of
    the data file, `source_sha256` that of the file it was made from (None when there is none), and
    `source` that file's bare name. `events` is None in stores of before events were kept.
    """

    key: str
    subject: str
    session: str
    run: str
    label: str | None
    sfreq: float
    samples: int
    names: tuple[str, ...]
    positions: np.ndarray = field(compare=False, repr=False)
    bads: tuple[str, ...]
    usable: tuple[tuple[int, int], ...]
    reference: str
    source: str
    source_sha256: str | None
    sha256: str
    notes: tuple[str, ...]
    events: tuple[Event, ...] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Shape on disk: `(time, channel)`."""
        return self.samples, len(self.names)

    def channel_index(self, names: Sequence[str]) -> np.ndarray:
        """Where `names` stand among the channels, `[len(names)]` int64.

        Raises:
          ChannelError: a name is not a channel of this recording.
        """
        place = {name: i for i, name in enumerate(self.names)}
        missing = [name for name in names if name not in place]
        if missing:
            close = difflib.get_close_matches(missing[0], self.names, n=2)
            hint = f"did you mean {' or '.join(close)}" if close else f"it has {_few(self.names)}"
            raise ChannelError(f"{self.key}: no channel {_few(missing)}; {hint}")
        return np.array([place[name] for name in names], np.int64)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`; `complete` is False while recordings are still to come."""

    dataset: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    licence: str
    citation: str
    preprocessing: Preprocessing
    recordings: tuple[StoredRecording, ...]
    complete: bool


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Writes `manifest.json`, atomically."""
    # Most recordings share one montage; kept once, the file stays small however many there are.
    montages: dict[tuple[tuple[str, ...], bytes], int] = {}
    recordings = []
    for recording in manifest.recordings:
        montage = recording.names, recording.positions.tobytes()
        number = montages.setdefault(montage, len(montages))
        plain = {k: v for k, v in vars(recording).items() if k not in ("names", "positions")}
        recordings.append(plain | {"montage": number})
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "complete": manifest.complete,
        "dataset": manifest.dataset,
        "options": manifest.options,
        "licence": manifest.licence,
        "citation": manifest.citation,
        "preprocessing": json.loads(to_json(manifest.preprocessing)),
        "recordings": recordings,
        "montages": [
            {"names": names, "positions": np.frombuffer(xyz).reshape(-1, 3).tolist()}
            for names, xyz in montages
        ],
    }
    with replacing(store / "manifest.json", "w") as file:
        file.write(_one_item_a_line(content))


def _one_item_a_line(content: dict[str, Any]) -> str:
    """Readable JSON, much faster than `indent`: the file is written anew after each recording."""

    def text(value: Any) -> str:
        if isinstance(value, list):
            return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
        return json.dumps(value)

    return "{\n" + ",\n".join(f'"{key}": {text(value)}' for key, value in content.items()) + "\n}\n"


def read_manifest(store: Path) -> Manifest:
    """Reads `manifest.json`.

    Raises:
      DatasetError: there is none, it is damaged, or of another format version.
    """
    file = store / "manifest.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        known, version = content["format"] == FORMAT, content["format_version"]
    except (OSError, ValueError, KeyError, TypeError):
        known, version = False, None
    if not known:
        raise DatasetError(
            f"{store} is not a store (no valid manifest.json); `eegsr prepare` makes one"
        )
    if version != FORMAT_VERSION:
        raise DatasetError(
            f"{file}: format version {version}, eegsr_jax {__version__} reads {FORMAT_VERSION}; "
            "install a matching version, or prepare the store again"
        )
    try:
        return Manifest(
            dataset=content["dataset"],
            options=dict(content["options"]),
            licence=content["licence"],
            citation=content["citation"],
            preprocessing=from_json(Preprocessing, json.dumps(content["preprocessing"])),
            recordings=tuple(_recording(r, content["montages"]) for r in content["recordings"]),
            complete=content["complete"],
        )
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DatasetError(f"{file}: damaged ({error}); prepare the store again") from None


def _recording(content: dict[str, Any], montages: list[dict[str, Any]]) -> StoredRecording:
    check_key(content["key"])  # it becomes part of a path
    montage = montages[content.pop("montage")]
    return StoredRecording(
        **content
        | {
            "names": tuple(montage["names"]),
            "positions": np.array(montage["positions"], np.float64).reshape(-1, 3),
            "bads": tuple(content["bads"]),
            "notes": tuple(content["notes"]),
            "usable": tuple((int(start), int(stop)) for start, stop in content["usable"]),
            "events": _events(content.get("events")),
        }
    )


def _events(content: list | None) -> tuple[Event, ...] | None:
    if content is None:
        return None
    return tuple(Event(int(start), int(stop), str(label)) for start, stop, label in content)


def check_key(key: str) -> None:
    """Refuses a key that cannot be a file name.

    Raises:
      DatasetError: it has other characters than letters, digits and `._+=@-`.
    """
    if not re.fullmatch(r"\w[\w.+=@-]*", key):
        raise DatasetError(
            f"recording {key!r} cannot be a file name; use letters, digits and ._+=@- in the names "
            "of subject, session and run"
        )


def data_path(store: Path, key: str) -> Path:
    """Where the samples of a recording lie."""
    return store / "recordings" / f"{key}.npy"


def data_size(shape: tuple[int, int]) -> int:
    """Bytes of a data file of this shape, header included."""
    return len(_header(shape)) + 4 * shape[0] * shape[1]


def write_data(path: Path, data: np.ndarray) -> str:
    """Writes `[time, channel]` float32 as `.npy`, atomically; returns the file's SHA-256."""
    # Written by hand because `np.save` hides why it failed when the disk is full.
    header, body = _header(data.shape), np.ascontiguousarray(data, "<f4").data
    with replacing(path) as file:
        file.write(header)
        file.write(body)
    digest = hashlib.sha256(header)
    digest.update(body)
    return digest.hexdigest()


def _header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


@contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path` that takes its place when the block ends well.

    However else the block ends, `path` is as before and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _few(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + ("…" if len(names) > most else "")
