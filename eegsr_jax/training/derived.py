"""What a stage derives of each window: made once, before its first step, and looked up afterwards.

A window's arrays depend on the window, on the params that the stage starts from and on a key of its
own, not on batches. In a run directory they lie in files, one a recording and name, so that a run
that is resumed finds them; elsewhere in memory.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from eegsr_jax.data.manifest import replacing
from eegsr_jax.errors import ConfigError, MethodError
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import GradientStage
from eegsr_jax.methods.moments import TRAIN, VALIDATE
from eegsr_jax.training.journal import Journal
from eegsr_jax.training.windows import Batch, Recorded, Windows, filled
from eegsr_jax.typing import PyTree

Lookup = Callable[[np.ndarray], Batch]  # places of windows `[n]` -> {name: [n, ...]}
Shapes = dict[str, jax.ShapeDtypeStruct]  # of a batch, by name
Run = Callable[[np.ndarray, np.ndarray], dict[str, jax.Array]]  # EEG and places of a batch
_TAKEN = ("eeg", "index", "key", "part")  # of the names in a batch
_MOST_OPEN = 128  # recordings: every mapped file holds a descriptor


class Derived(NamedTuple):
    """Of the training windows, at the stage's overlap, and of the validation windows."""

    train: Lookup
    validate: Lookup


def derive(
    stage: GradientStage,
    params: PyTree,
    geometry: Geometry,
    windows: Windows,
    key: jax.Array,
    journal: Journal,
) -> Derived:
    """What `stage.derive` makes of all windows; nothing where there is no such function.

    It runs on the default device, `stage.batch_size` windows at a time.

    Args:
      stage: whose `derive`.
      params: that the stage starts from.
      geometry: without names.
      windows: of which.
      key: of the stage.
      journal: has a folder for files, or none; what else lies there is deleted.

    Raises:
      MethodError: `derive` gives no rows of windows, or a name that batches have already.
      ConfigError: a file cannot be written.
    """
    if stage.derive is None:
        return Derived(_nothing, _nothing)
    like = _shapes(stage, params, geometry, windows)
    folder, kept, found = journal.scratch(), set(), []
    origin = _digest(stage.name, params, geometry, key)
    for part, overlap in ((TRAIN, stage.overlap), (VALIDATE, 1)):
        own = jax.random.fold_in(key, 2**31 + 1 + part)  # those of steps are below 2**31
        run = functools.partial(_compiled(stage), params, geometry, own)
        recordings, pieces = windows.recorded(part, overlap), []
        hidden = folder is None or not sys.stderr.isatty()
        for recorded in tqdm(recordings, f"{stage.name}: derive", unit="recording", disable=hidden):
            journal.halt()
            batches = _batches(stage, run, recorded)
            if folder is None or recorded.identity is None:
                opened = functools.partial(dict, _joined(batches))
            else:
                # The name of a file says all that its numbers depend on.
                known = origin, part, recorded.identity, recorded.places
                files = {
                    name: folder / f"{_digest(known, name, str(x))}.npy" for name, x in like.items()
                }
                if not all(path.exists() for path in files.values()):
                    _write(stage, files, like, batches, len(recorded.places))
                kept.update(files.values())
                opened = functools.partial(_mapped, files, like)
            pieces.append((recorded.places, opened))
        found.append(_Pieces(like, pieces))
    for path in folder.iterdir() if folder else ():
        if path not in kept:  # of other params, data or stage, or of a process that was killed
            path.unlink()
    return Derived(*found)


def blank(stage: GradientStage, params: PyTree, geometry: Geometry, windows: Windows) -> Derived:
    """Zeros in the place of what `derive` makes, whose program is compiled."""
    if stage.derive is None:
        return Derived(_nothing, _nothing)
    like = _shapes(stage, params, geometry, windows)
    run = functools.partial(_compiled(stage), params, geometry, jax.random.key(0))
    next(_batches(stage, run, windows.recorded(TRAIN, stage.overlap)[0]))

    def zeros(places: np.ndarray) -> Batch:
        return {name: np.zeros((len(places), *x.shape[1:]), x.dtype) for name, x in like.items()}

    return Derived(zeros, zeros)


class _Pieces:
    """Rows of the arrays of several recordings, by the places of windows among all."""

    def __init__(self, like: Shapes, pieces: Sequence[tuple[np.ndarray, Callable[[], Batch]]]):
        self._like = like
        count = sum(len(places) for places, _ in pieces)
        self._piece, self._row = np.empty((2, count), np.int64)
        for number, (places, _) in enumerate(pieces):
            self._piece[places], self._row[places] = number, np.arange(len(places))
        self._open = functools.lru_cache(_MOST_OPEN)(lambda number: pieces[number][1]())

    def __call__(self, places: np.ndarray) -> Batch:
        pieces, rows = self._piece[places], self._row[places]
        found = {
            name: np.empty((len(places), *x.shape[1:]), x.dtype) for name, x in self._like.items()
        }
        for number in np.unique(pieces).tolist():
            chosen = pieces == number
            for name, x in self._open(number).items():
                found[name][chosen] = x[rows[chosen]]
        return found


def _nothing(places: np.ndarray) -> Batch:
    del places
    return {}


@functools.lru_cache(maxsize=64)
def _compiled(stage: GradientStage):
    assert stage.derive is not None
    derive = stage.derive

    def run(params, geometry, key, eeg, places):
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(places)
        return derive(params, {"eeg": eeg, "key": keys}, geometry)

    return jax.jit(run)


def _shapes(stage: GradientStage, params: PyTree, geometry: Geometry, windows: Windows) -> Shapes:
    """What `derive` makes of a batch, by name."""
    size = stage.batch_size
    eeg = next(windows.recorded(TRAIN, stage.overlap)[0].read(size))
    own = jax.ShapeDtypeStruct((size, *eeg.shape[1:]), eeg.dtype)
    places = jax.ShapeDtypeStruct((size,), np.uint32)
    found: Any = jax.eval_shape(_compiled(stage), params, geometry, jax.random.key(0), own, places)
    arrays = isinstance(found, dict) and all(hasattr(x, "shape") for x in found.values())
    if not arrays or any(x.shape[:1] != (size,) for x in found.values()):
        shapes = jax.tree.map(lambda x: x.shape, found)
        raise MethodError(
            f"{stage.name}: derive gives {shapes} for {size} windows; expected arrays by name, "
            "with a row a window"
        )
    if taken := [name for name in found if name in _TAKEN]:
        raise MethodError(
            f"{stage.name}: derive gives {taken[0]!r}, which batches have already; choose another "
            "name"
        )
    return found


def _batches(stage: GradientStage, run: Run, recorded: Recorded) -> Iterator[Batch]:
    """The arrays of a recording's windows; all batches have one size, and so one program."""
    begin, size = 0, stage.batch_size
    for eeg in recorded.read(size):
        places = recorded.places[begin : begin + size].astype(np.uint32)
        begin += size
        found = run(filled(eeg, size), filled(places, size))
        yield {name: np.asarray(x)[: len(eeg)] for name, x in found.items()}


def _joined(batches: Iterator[Batch]) -> Batch:
    found = list(batches)
    return {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}


# ------------------------------------------------------------------------------------------ files


def _digest(*parts: PyTree) -> str:
    """Of texts and arrays."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(parts):
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        x = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape} ".encode())
        found.update(x.tobytes())
    return found.hexdigest()


def _write(
    stage: GradientStage,
    files: dict[str, Path],
    like: Shapes,
    batches: Iterator[Batch],
    windows: int,
) -> None:
    """Batch by batch, so that a recording need not fit in memory."""
    folder = next(iter(files.values())).parent
    try:
        with contextlib.ExitStack() as stack:
            opened = {name: stack.enter_context(replacing(path)) for name, path in files.items()}
            for name, x in like.items():
                # A type that NumPy does not have, bfloat16, is so many bytes to it.
                kind = f"|V{x.dtype.itemsize}" if x.dtype.kind == "V" else x.dtype.str
                header = {"descr": kind, "fortran_order": False, "shape": (windows, *x.shape[1:])}
                np.lib.format.write_array_header_1_0(opened[name], header)
            for batch in batches:
                for name, x in batch.items():
                    opened[name].write(x.tobytes())
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot write what {stage.name} derives: {error.strerror or error}; free "
            "some space, and the same command goes on"
        ) from None


def _mapped(files: dict[str, Path], like: Shapes) -> Batch:
    # The subclass that `np.load` gives makes each slice slower.
    return {
        name: np.load(path, mmap_mode="r").view(like[name].dtype).view(np.ndarray)
        for name, path in files.items()
    }
