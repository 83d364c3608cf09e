"""Checkpoints of PyTorch programs as arrays, by the user's own PyTorch or safetensors.

Neither is needed by anything else here. Nothing in a file is run: PyTorch reads with
`weights_only`, which admits tensors and plain values and refuses the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eegsr_jax.errors import ConfigError

State = dict[str, np.ndarray]


def read(path: str | Path) -> tuple[State, dict[str, Any]]:
    """The arrays of a checkpoint by their names, and the configuration that it carries.

    A `.safetensors` file has the configuration as JSON under "config" in its metadata; any other is
    taken for one of `torch.save`: a state dict, or a dict of one under "model_state_dict" and a
    "config". A file without a configuration gives an empty one.

    Raises:
      ConfigError: no such file, damaged, the library that reads it is not installed, or it holds
        what cannot be read without running code.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; expected a .pt or .safetensors file")
    return _safetensors(path) if path.suffix == ".safetensors" else _torch(path)


def _safetensors(path: Path) -> tuple[State, dict[str, Any]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise _absent(path, "safetensors", "") from None
    try:
        with safe_open(path, framework="numpy") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}
            return state, json.loads((file.metadata() or {}).get("config", "{}"))
    except (SafetensorError, ValueError, TypeError) as error:
        raise _damaged(path, error) from None


def _torch(path: Path) -> tuple[State, dict[str, Any]]:
    try:
        import torch
    except ImportError:
        raise _absent(path, "torch", ", or save it as .safetensors where torch is") from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # RuntimeError, UnpicklingError, EOFError … by what is wrong
        raise _damaged(path, error) from None
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path}: holds a {type(found).__name__}; expected a state dict")
    config = found.get("config", {})
    state = found.get("model_state_dict", found)
    odd = [name for name, x in state.items() if not isinstance(x, torch.Tensor)]
    if odd:
        raise ConfigError(
            f"{path}: {odd[0]!r} is no tensor; expected a state dict, bare or under "
            "'model_state_dict'"
        )
    return {name: _array(x) for name, x in state.items()}, dict(config)


def _array(tensor: Any) -> np.ndarray:
    """NumPy has no bfloat16."""
    tensor = tensor.detach()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _absent(path: Path, library: str, otherwise: str) -> ConfigError:
    return ConfigError(f"{path}: to read it, pip install {library}{otherwise}")


def _damaged(path: Path, error: Exception) -> ConfigError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ConfigError(
        f"{path}: cannot be read as tensors and plain values ({first}); have its maker save the "
        "state dict alone, or as .safetensors"
    )
