"""EEG super-resolution in JAX: few electrodes in, many out, with an honest table beside it.

The public names below are imported on first use (PEP 562), so `import eegsr_jax` itself loads
neither JAX nor MNE, starts no backend and changes no configuration.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eegsr_jax import errors as errors
    from eegsr_jax import geometry as geometry
    from eegsr_jax import methods as methods
    from eegsr_jax.data.recording import from_array as from_array
    from eegsr_jax.data.recording import read as read
    from eegsr_jax.export import load_exported as load_exported
    from eegsr_jax.reconstruct import reconstruct_raw as reconstruct_raw
    from eegsr_jax.streaming import Stream as Stream
    from eegsr_jax.training.run import load as load

__version__ = "0.1.0"

# public name -> (module that is its home, attribute there); None: the module itself
_PUBLIC = {
    "errors": ("eegsr_jax.errors", None),
    "geometry": ("eegsr_jax.geometry", None),
    "methods": ("eegsr_jax.methods", None),
    "from_array": ("eegsr_jax.data.recording", "from_array"),
    "read": ("eegsr_jax.data.recording", "read"),
    "reconstruct_raw": ("eegsr_jax.reconstruct", "reconstruct_raw"),
    "load": ("eegsr_jax.training.run", "load"),
    "Stream": ("eegsr_jax.streaming", "Stream"),
    "load_exported": ("eegsr_jax.export", "load_exported"),
}

__all__ = ["__version__", *_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'eegsr_jax' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value = import_module(module)
    if attribute is not None:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
