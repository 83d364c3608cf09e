"""Data sets by name, each in its own file, all under the contract of `base`."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eegsr_jax.data.datasets.base import Dataset, Entry
from eegsr_jax.errors import DatasetError

NAMES = ("sample", "simulated", "files", "eegbci", "seed", "seed_iv", "localize_mi")

__all__ = ["NAMES", "Dataset", "Entry", "load"]


def load(
    name: str, root: str | Path | Iterable[str | Path] | None = None, **selection: Any
) -> Dataset:
    """Open a data set by name; nothing but file names and headers is read yet.

    Args:
      name: one of `NAMES`.
      root: folder of the data, for `files` also a file or a list of them; None for `sample` and
        `simulated`.
      **selection: `subjects`, `sessions`, `runs` and the data set's own options; see the
        `open_dataset` of its module.

    Raises:
      DatasetError: unknown name or option, or the data are absent or not laid out as expected.
    """
    module_name = name.lower().replace("-", "_")
    if module_name not in NAMES:
        close = difflib.get_close_matches(module_name, NAMES, n=2, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise DatasetError(f"unknown data set {name!r}; known: {', '.join(NAMES)}{hint}")
    open_dataset = importlib.import_module(f"{__name__}.{module_name}").open_dataset
    options = [p for p in inspect.signature(open_dataset).parameters if p != "root"]
    unknown = [option for option in selection if option not in options]
    if unknown:
        raise DatasetError(
            f"{module_name}: unknown option {', '.join(unknown)}; known: {', '.join(options)}"
        )
    return open_dataset(root, **selection)
