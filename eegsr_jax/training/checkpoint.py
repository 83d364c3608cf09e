"""Params on disk. The only file that knows orbax."""

from __future__ import annotations

from pathlib import Path

import jax
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

    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # wherever it was saved
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), like)
    try:
        return ocp.load(path.absolute(), abstract)
    except Exception as error:  # orbax raises many kinds; the user needs one line with the folder
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"{path}: cannot be loaded as a checkpoint: {reason[0]}") from error
