"""What all data sets share: finding the folder, and choosing subjects, sessions and runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from eegsr_jax.data.datasets.base import Entry
from eegsr_jax.errors import DatasetError

Selection = int | str | Sequence[int | str] | None


def choose(present: Iterable[str], wanted: Selection, what: str, dataset: str) -> tuple[str, ...]:
    """Those of `present` that `wanted` names, in their own order.

    Numbers match however they are written: 1, "1", "01", "sub-01" and "S001" are the same subject.

    Args:
      present: the names that exist.
      wanted: one name or number, several, or None for all.
      what: "subject", "session" or "run", for the message.
      dataset: name of the data set, for the message.

    Raises:
      DatasetError: a wanted name does not exist, or nothing is wanted.
    """
    present = tuple(dict.fromkeys(present))
    if wanted is None:
        return present
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        wanted = [wanted]
    names = [str(name) for name in wanted]
    if not names:
        raise DatasetError(f"{dataset}: no {what} is asked for; present: {_listing(present)}")
    chosen: set[str] = set()
    for name in names:
        found = {p for p in present if p == name} or {p for p in present if _bare(p) == _bare(name)}
        if not found:
            raise DatasetError(
                f"{dataset}: {what} {name!r} does not exist; present: {_listing(present)}"
            )
        chosen |= found
    return tuple(p for p in present if p in chosen)


def select(
    entries: Sequence[Entry],
    dataset: str,
    *,
    subjects: Selection = None,
    sessions: Selection = None,
    runs: Selection = None,
) -> tuple[Entry, ...]:
    """The entries of these subjects, of these sessions among those, of these runs among those.

    Raises:
      DatasetError: see `choose`.
    """
    left = tuple(entries)
    for what, wanted in (("subject", subjects), ("session", sessions), ("run", runs)):
        kept = set(choose((getattr(e, what) for e in left), wanted, what, dataset))
        left = tuple(e for e in left if getattr(e, what) in kept)
    return left


def existing_folder(root: str | Path | None, dataset: str, layout: str) -> Path:
    """`root` as a path, once it is sure that it is a folder.

    Args:
      root: what the caller gave.
      dataset: name of the data set, for the message.
      layout: one clause that says what the folder must hold and how to get the data.

    Raises:
      DatasetError: no folder is given, or there is none of that name.
    """
    if root is None:
        raise DatasetError(f"{dataset}: no folder is given; expected {layout}")
    path = Path(root).expanduser()
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise DatasetError(f"{dataset}: {path} is {found}; expected {layout}")
    return path


def refuse_root(root: str | Path | None, dataset: str) -> None:
    """Say so when a folder is given to a data set that has none.

    Raises:
      DatasetError: `root` is not None.
    """
    if root is not None:
        raise DatasetError(f"{dataset}: takes no folder, found {str(root)!r}; leave the root out")


def _bare(name: str) -> str:
    number = re.fullmatch(r"(?:sub-|ses-|run-|S)?0*(\d+)", name.strip(), re.IGNORECASE)
    return number.group(1) if number else name.strip()


def _listing(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, … ({len(names)} in all)" if len(names) > most else shown or "none"
