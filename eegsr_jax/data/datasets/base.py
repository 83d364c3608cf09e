"""The contract that every data set keeps: a name, its terms, entries that are read on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eegsr_jax import geometry
from eegsr_jax.data.recording import Recording


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One recording of a data set, not read yet.

    `subject`, `session` and `run` are the names that splits use; `path` is None for generated data.
    `read()` returns the `Recording` in volts, with its own sampling rate and its native reference.
    `label` is the task or stimulus class where the data set has one: for stratified splits only.
    `truth()` returns the ground truth of generated data (the sources); None elsewhere.
    """

    subject: str
    session: str = "1"
    run: str = "1"
    path: str | None = None
    read: Callable[[], Recording] = field(repr=False)
    label: str | None = None
    truth: Callable[[], Any] | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """Stable, file-system safe name, unique inside the data set."""
        return f"sub-{self.subject}_ses-{self.session}_run-{self.run}"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Entries in their canonical order, with the terms under which the data may be used.

    `options` are the reading options that change what `read` returns, as JSON can hold them: a
    store keeps them, so that recordings read in two ways never meet in one.
    """

    name: str
    entries: tuple[Entry, ...]
    citation: str
    licence: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)


def montage_option(montage: Any) -> str | dict[str, list[float]] | None:
    """A `geometry.montage` source as JSON can hold it: a montage's name, or positions by name.

    Raises:
      ChannelError: positions that cannot be read.
    """
    if montage is None or (isinstance(montage, str) and not Path(montage).is_file()):
        return montage
    return {name: xyz.tolist() for name, xyz in geometry.montage(montage).items()}
