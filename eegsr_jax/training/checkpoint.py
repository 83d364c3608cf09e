"""Params on disk. The only file that knows orbax."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.errors import ConfigError
from eegsr_jax.typing import PyTree


def save_params(path: Path, params: PyTree) -> None:
    """Write params into a new folder; it appears when it is complete."""
    from orbax.checkpoint import v1 as ocp

    ocp.save(path.absolute(), jax.tree.map(np.asarray, params))


def load_params(path: Path, like: PyTree) -> PyTree:
    """Read params that have the structure, shapes and types of `like` (see `Method.init`).

    Raises:
      ConfigError: no checkpoint, or one of another structure.
    """
    from orbax.checkpoint import v1 as ocp

    try:
        found = ocp.load(path.absolute())  # NumPy, on whatever device they were saved from
    except Exception as error:  # orbax raises many kinds; the user needs one line with the folder
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"{path}: cannot be loaded as a checkpoint: {reason[0]}") from error
    holds, expected = _leaves(found), _leaves(like)
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
