"""The folder of an export: a card, programs, and arrays, written whole and read unchanged.

What the programs are, and who makes and calls them, is `export.py`'s. The arrays are a safetensors
file (https://github.com/huggingface/safetensors: the length of a header, the header in JSON, the
arrays end to end), which takes a few lines to read and to write, and no library.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from eegsr_jax import config
from eegsr_jax.errors import ConfigError, MethodError

FORMAT = 1  # of the folder; a higher one is not read
PLATFORMS = ("cpu", "cuda", "tpu")
GUARANTEE = (
    "jax.export promises that its files run with releases of jax up to 6 months newer and 3 weeks "
    "older than the one that wrote them (its documentation, Compatibility guarantees); later, "
    "export the run again"
)
LIMITS = (
    "it is a program: run it only if you trust where it comes from",
    "no vmap (the batch is the first axis), no jvp; reverse gradients of the first order",
    "error bars hold for data like those of training",
)
CARD, PLAN, MEAN_STD = "card.json", "plan.safetensors", "mean_std.bin"
_TYPES = {
    "bool": "BOOL", "int8": "I8", "int16": "I16", "int32": "I32", "uint8": "U8", "uint16": "U16",
    "uint32": "U32", "float16": "F16", "bfloat16": "BF16", "float32": "F32",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Electrode:
    """A channel and where it is, metres in the MNE head frame."""

    name: str
    position: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a method comes from and what it expects; None and "" where nobody said.

    Attributes:
      method: with its options, as on the command line.
      sfreq: Hz.
      reference: of the recordings.
      l_freq, h_freq, notch: Hz, the filters that the recordings have gone through.
      unit: of what goes in and comes out.
      scale: how large that is, in words; nothing is to be scaled.
      dataset, recordings, citation, licence: of the training data.
    """

    method: str = ""
    sfreq: float | None = None
    reference: str = ""
    l_freq: float | None = None
    h_freq: float | None = None
    notch: tuple[float, ...] = ()
    unit: str = "V"
    scale: str = ""
    dataset: str = ""
    recordings: tuple[str, ...] = ()
    citation: str = ""
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class Versions:
    """What made the files."""

    eegsr_jax: str
    jax: str
    jaxlib: str
    calling_convention: int


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the folder; `sha256` in hexadecimal."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ExportCard:
    """What an export is, expects and returns.

    Attributes:
      format: of the folder.
      origin: the method, its training data, and what it expects of a recording.
      observed, target: channels in and out, in order.
      samples: of a window; None for any number.
      context: samples on either side that an output sample depends on.
      files: what else is in the folder.
      platforms: that the programs run on.
      versions: that made them.
      exported: on which day.
      export_again_by: the day after which a release of jax may refuse them.
      guarantee: who promises that, and what.
      limits: what cannot be done with them.
    """

    format: int = FORMAT
    origin: Origin
    observed: tuple[Electrode, ...]
    target: tuple[Electrode, ...]
    samples: int | None
    context: int
    files: tuple[File, ...]
    platforms: tuple[str, ...] = PLATFORMS
    versions: Versions
    exported: str
    export_again_by: str
    guarantee: str = GUARANTEE
    limits: tuple[str, ...] = LIMITS


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Refuse a folder that is there, unless it is an export that may be replaced.

    Raises:
      ConfigError: it is.
    """
    if not out.exists():
        return
    if not overwrite:
        raise ConfigError(f"{out} exists; choose another name, or say --overwrite")
    if not (out / CARD).is_file():
        raise ConfigError(f"{out} is no export, and is not replaced; choose another name")


def listed(contents: Mapping[str, bytes]) -> tuple[File, ...]:
    """Files as a card lists them."""
    return tuple(File(name=name, sha256=_digest(data)) for name, data in contents.items())


def write(out: Path, card: ExportCard, contents: Mapping[str, bytes]) -> None:
    """The folder, by rename; one that is there is away for the moment between two renames."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        new, old = work / "new", work / "old"
        new.mkdir()
        for name, data in contents.items():
            (new / name).write_bytes(data)
        (new / CARD).write_text(config.to_json(card), encoding="utf-8")
        if out.exists():
            os.replace(out, old)
        try:
            os.replace(new, out)
        except OSError:
            os.replace(old, out)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def read_card(path: Path) -> ExportCard:
    """What is in the folder.

    Raises:
      ConfigError: no export, a damaged card, or of a newer format.
    """
    try:
        text = (path / CARD).read_text(encoding="utf-8")
        found = json.loads(text).get("format")
    except OSError:
        raise ConfigError(f"{path} is no export: it has no {CARD}; see `eegsr export`") from None
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path}/{CARD}: cannot be read: {error}") from None
    if isinstance(found, int) and found > FORMAT:
        raise ConfigError(f"{path}: of format {found}, this eegsr_jax reads {FORMAT}; update it")
    try:
        card = config.from_json(ExportCard, text)
    except ConfigError as error:
        raise ConfigError(f"{path}/{CARD}: {error}") from None
    if absent := {MEAN_STD, PLAN} - {file.name for file in card.files}:
        raise ConfigError(f"{path}/{CARD}: lists no {min(absent)}; copy it again")
    return card


def read_files(path: Path, card: ExportCard) -> dict[str, bytes]:
    """The other files, by name.

    Raises:
      ConfigError: one is missing or changed.
    """
    found = {}
    for file in card.files:
        try:
            found[file.name] = (path / file.name).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{path}/{file.name}: {error.strerror}; copy the whole folder"
            ) from None
        if _digest(found[file.name]) != file.sha256:
            raise ConfigError(
                f"{path}/{file.name} is not what was exported: its sha256 is not the card's; copy "
                "it again, or export the run again"
            )
    return found


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The arrays as a safetensors file.

    Raises:
      MethodError: of a type that it cannot hold.
    """
    header, parts, end = {}, [], 0
    # The widest first, so that each lies at a multiple of its width.
    for name, x in sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        if x.dtype.name not in _TYPES:
            raise MethodError(f"the plan's {name} is {x.dtype}; a plan holds {', '.join(_TYPES)}")
        begin, end = end, end + x.nbytes
        kind = _TYPES[x.dtype.name]
        header[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [begin, end]}
        parts.append(x.tobytes())
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def unpacked(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file."""
    kinds = {kind: jnp.dtype(name) for name, kind in _TYPES.items()}
    start = 8 + int.from_bytes(data[:8], "little")
    return {
        name: np.ndarray(
            item["shape"], kinds[item["dtype"]], data, offset=start + item["data_offsets"][0]
        )
        for name, item in json.loads(data[8:start]).items()
    }
