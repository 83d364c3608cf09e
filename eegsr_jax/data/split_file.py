"""Split files: JSON that says which samples of exactly which data are in which part."""

from __future__ import annotations

import json
from pathlib import Path

from eegsr_jax.data.manifest import replacing
from eegsr_jax.data.segments import Segment
from eegsr_jax.data.splits import PARTS, Split, check
from eegsr_jax.data.store import Store
from eegsr_jax.errors import SplitError

FORMAT = "eegsr_jax split"
FORMAT_VERSION = 1


def save_split(split: Split, store: Store, path: str | Path, *, overwrite: bool = False) -> None:
    """Writes a split as JSON, with the SHA-256 of every recording that it names.

    Raises:
      SplitError: the file exists and `overwrite` is False.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise SplitError(f"{path} exists; choose another name, or allow overwriting")
    segments = {part: [vars(s) for s in getattr(split, part)] for part in PARTS}
    keys = sorted({s["key"] for part in segments.values() for s in part})
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **vars(split),
        "recordings": {key: store.recording(key).sha256 for key in keys},
        **{part: [list(s.values()) for s in segments[part]] for part in PARTS},
    }
    with replacing(path, "w") as file:
        json.dump(content, file, allow_nan=False)


def load_split(path: str | Path, store: Store) -> Split:
    """Reads what `save_split` wrote, for the very same data.

    Raises:
      SplitError: not a split file, damaged, of another format version, made for other data, or it
        does not pass `check`.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"expected format {FORMAT!r} version {FORMAT_VERSION}")
        hashes = dict(content["recordings"])
        parts = {
            part: tuple(Segment(str(key), int(a), int(b)) for key, a, b in content[part])
            for part in PARTS
        }
        plain = {name: content[name] for name in ("kind", "leaky", "seed", "options")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SplitError(f"{path}: not a split file that can be read ({error})") from None
    known = {r.key: r.sha256 for r in store.recordings}
    for key, sha256 in hashes.items():
        if known.get(key) != sha256:
            state = "holds other data under this name" if key in known else "does not have it"
            raise SplitError(
                f"{path} was made for another store: it names {key} (of {len(hashes)} recordings), "
                f"and {store.path} {state}; prepare the same data in the same way"
            )
    split = Split(**parts, **plain)
    check(split, store)
    return split
