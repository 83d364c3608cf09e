"""Params on disk. The only file that knows orbax.

Several processes call each of these functions together, with the same whole arrays, and see one
folder; the first writes, and says what is there.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.distributed import from_first, is_first
from eegsr_jax.errors import ConfigError
from eegsr_jax.typing import PyTree


def save_params(path: Path, params: PyTree) -> None:
    """Write params into a new folder; it appears when it is complete."""
    from orbax.checkpoint import v1 as ocp

    ocp.save(path.absolute(), jax.tree.map(np.asarray, params))


def load_params(path: Path, like: PyTree = None) -> PyTree:
    """Read params that have the structure, shapes and types of `like` (see `Method.init`).

    None takes them as they are: nested dicts.

    Raises:
      ConfigError: no checkpoint, or one of another structure.
    """
    from orbax.checkpoint import v1 as ocp

    try:
        found = ocp.load(path.absolute())  # NumPy, on whatever device they were saved from
    except Exception as error:  # orbax raises many kinds; the user needs one line with the folder
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"{path}: cannot be loaded as a checkpoint: {reason[0]}") from error
    holds = _leaves(found)
    expected = holds if like is None else _leaves(like)
    wrong = [name for name in holds | expected if holds.get(name) != expected.get(name)]
    if wrong:
        raise ConfigError(
            f"{path}: {wrong[0]} is {holds.get(wrong[0], 'absent')}, expected "
            f"{expected.get(wrong[0], 'no such entry')}; the checkpoint is of another method, "
            "layout or version"
        )
    return jax.tree.map(jnp.asarray, found)


def _leaves(params: PyTree) -> dict[str, str]:
    """Type and shape of every array by its place."""
    return {
        jax.tree_util.keystr(place): f"{leaf.dtype}{list(leaf.shape)}"
        for place, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def save_leaves(folder: Path, stage: str, state: PyTree, position: dict[str, Any]) -> None:
    """Replace what `folder` keeps by the arrays of a state, of any structure, and a JSON record.

    What was there is deleted only when the new is complete: one of the two can always be read.
    """
    old = _entries(folder)
    number = max((int(name) for name in old if name.isdigit()), default=-1) + 1
    half = folder / f"{number}.part"
    if is_first():
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
    save_params(half / "state", {f"{i:05}": x for i, x in enumerate(jax.tree.leaves(state))})
    if is_first():
        (half / "position.json").write_text(json.dumps({"stage": stage} | position))
        os.replace(half, folder / str(number))
        _delete(folder, old)


def newest(folder: Path) -> tuple[Path, str] | None:
    """The newest complete folder that `save_leaves` made, and its stage."""
    found = highest(folder)
    return found and (found, json.loads((found / "position.json").read_text())["stage"])


def highest(folder: Path) -> Path | None:
    """Of the complete entries, which have numbers for names, that with the highest."""
    numbers = [int(name) for name in _entries(folder) if name.isdigit()]
    return folder / str(max(numbers)) if numbers else None


def save_finished(folder: Path, count: int, params: PyTree) -> None:
    """Replace what `folder` keeps by the params after `count` stages, as `save_leaves` does."""
    old = _entries(folder)
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
    save_params(folder / str(count), params)
    if is_first():
        _delete(folder, old)


def _entries(folder: Path) -> list[str]:
    """What is in a folder; another process may see it late."""
    return from_first([path.name for path in folder.glob("*")])


def _delete(folder: Path, names: list[str]) -> None:
    """Entries that have their final names lose them first: what has one is always complete."""
    for name in names:
        if not (folder / name).exists():  # half-written by a killed process, now whole
            continue
        gone = folder / (f"{name}.part" if name.isdigit() else name)
        os.replace(folder / name, gone)
        shutil.rmtree(gone, ignore_errors=True)


def load_finished(folder: Path) -> tuple[int, PyTree] | None:
    """What `save_finished` kept: how many stages, and the params after them."""
    found = highest(folder)
    return found and (int(found.name), load_params(found))


def load_leaves(path: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """A state in the structure of `like` and the record that were saved."""
    leaves, tree = jax.tree.flatten(like)
    expected = {f"{i:05}": x for i, x in enumerate(leaves)}
    found = load_params(path / "state", expected)
    state = jax.tree.unflatten(tree, [found[name] for name in sorted(found)])
    return state, json.loads((path / "position.json").read_text())
