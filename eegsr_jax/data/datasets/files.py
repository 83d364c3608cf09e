"""Your own recordings: a folder, a file or a list of files in any format that MNE reads.

Subject, session and run come from BIDS entities in the path (`sub-`, `ses-`, `task-`, `run-`), or
from a regular expression with named groups.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eegsr_jax.data import recording
from eegsr_jax.data.datasets.base import Dataset, Entry, montage_option
from eegsr_jax.data.datasets.selection import Selection, select
from eegsr_jax.errors import DatasetError

NAME = "files"
# One file stands for each recording: .vhdr for BrainVision, .set for EEGLAB, the folder .mff.
EXTENSIONS = (".edf", ".bdf", ".gdf", ".set", ".vhdr", ".cnt", ".mff", ".egi", ".nxe", ".lay")
# A folder of .fif files also holds covariances, forward models and the further parts of split
# recordings, which MNE reads with the first part.
_FIF = re.compile(r"(raw|eeg|meg|ieeg|sss|epo)\.fif(\.gz)?$", re.IGNORECASE)
_LATER_PART = re.compile(r"_split-0*([2-9]|[1-9]\d+)_")
_NOT_DATA = {"derivatives", "sourcedata", "code", "stimuli"}
_ENTITIES = ("sub", "ses", "task", "run")
_LAYOUT = (
    "a recording, a list of recordings, or a folder with some "
    f"(…_raw.fif, …_eeg.fif, …-epo.fif, {', '.join(EXTENSIONS)})"
)


def open_dataset(
    root: str | Path | Iterable[str | Path] | None = None,
    *,
    subjects: Selection = None,
    sessions: Selection = None,
    runs: Selection = None,
    pattern: str | None = None,
    montage: Any = None,
    bads: str | Sequence[str] = (),
) -> Dataset:
    r"""Recordings of a folder (with its sub-folders), of one file or of a list of files.

    Args:
      root: folder, file, or list of files; in a folder, `derivatives`, `sourcedata`, `code`,
        `stimuli` and hidden folders are passed over.
      subjects: names; None takes all.
      sessions: names; None takes all.
      runs: names; None takes all.
      pattern: regular expression searched in the path (below `root`, with "/") with groups named
        `subject`, `session`, `run`, e.g. r"(?P<subject>P\d+)_(?P<run>\w+)\.edf"; None parses BIDS
        names, and takes the file's stem as the subject where there is no `sub-`.
      montage: for recordings without positions; see `geometry.montage`.
      bads: a channel or channels that are bad in all of them, besides those that the files mark.

    Raises:
      DatasetError: nothing there, a pattern that does not fit a path, or two files with the same
        subject, session and run.
    """
    bads = [bads] if isinstance(bads, str) else list(bads)
    paths, base = _paths(root)
    named = [_by_pattern(p, base, pattern) if pattern else _by_entities(p, base) for p in paths]
    if not pattern:
        named = _tell_tasks_apart(named)
    entries: dict[str, Entry] = {}
    for path, names in zip(paths, named, strict=True):
        subject, session, run = (names.get(k) for k in ("subject", "session", "run"))
        entry = Entry(
            subject=subject or "unknown",
            session=session or "1",
            run=run or "1",
            path=str(path),
            read=functools.partial(
                recording.read,
                path,
                montage=montage,
                bads=bads,
                subject=subject,
                session=session,
                run=run,
            ),
        )
        if entry.key in entries:
            raise DatasetError(
                f"{NAME}: {entries[entry.key].path} and {path} are both {entry.key}; tell them "
                "apart by names or by a pattern with groups subject, session, run"
            )
        entries[entry.key] = entry
    return Dataset(
        name=NAME,
        entries=select(
            tuple(entries.values()), NAME, subjects=subjects, sessions=sessions, runs=runs
        ),
        citation="your own data",
        licence="your own data",
        options={"montage": montage_option(montage), "bads": bads},
    )


def _paths(root: Any) -> tuple[list[Path], Path]:
    if root is None:
        raise DatasetError(f"{NAME}: nothing is given; expected {_LAYOUT}")
    if not isinstance(root, str | os.PathLike):
        paths = [Path(p).expanduser() for p in root]
        absent = [p for p in paths if not p.exists()]
        if absent:
            raise DatasetError(f"{NAME}: {absent[0]} does not exist; expected {_LAYOUT}")
        if not paths:
            raise DatasetError(f"{NAME}: the list is empty; expected {_LAYOUT}")
        return paths, Path(".")
    root = Path(root).expanduser()
    if not root.exists():
        raise DatasetError(f"{NAME}: {root} does not exist; expected {_LAYOUT}")
    if root.is_file() or root.suffix.lower() in EXTENSIONS:
        return [root], root.parent
    paths = sorted(_walk(root))
    if not paths:
        raise DatasetError(f"{NAME}: no recording in {root}; expected {_LAYOUT}")
    return paths, root


def _walk(folder: Path) -> Iterable[Path]:
    for path in folder.iterdir():
        suffix = path.suffix.lower()
        if suffix in EXTENSIONS:
            if not _LATER_PART.search(path.name):
                yield path
        elif path.is_dir():
            if path.name not in _NOT_DATA and not path.name.startswith("."):
                yield from _walk(path)
        elif _FIF.search(path.name) and not _LATER_PART.search(path.name):
            yield path


def _by_pattern(path: Path, base: Path, pattern: str) -> dict[str, str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DatasetError(
            f"{NAME}: pattern {pattern!r} is no regular expression: {error}"
        ) from error
    groups = set(expression.groupindex)
    if "subject" not in groups or not groups <= {"subject", "session", "run"}:
        raise DatasetError(
            f"{NAME}: pattern {pattern!r} has the groups {sorted(groups)}; expected (?P<subject>…) "
            "and, if there are several, (?P<session>…) and (?P<run>…)"
        )
    below = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()
    match = expression.search(below)
    if match is None:
        raise DatasetError(f"{NAME}: pattern {pattern!r} does not fit {below}")
    return {name: _safe(text) for name, text in match.groupdict().items() if text}


def _by_entities(path: Path, base: Path) -> dict[str, str]:
    below = path.relative_to(base) if path.is_relative_to(base) else path
    # The file's own name is the last to speak, so that it wins over the folders.
    found: dict[str, str] = {}
    for part in below.parts:
        found.update(re.findall(rf"(?:^|_)({'|'.join(_ENTITIES)})-([A-Za-z0-9]+)", part))
    stem = re.sub(r"([_-](raw|eeg|epo))?(\.fif(\.gz)?|\.[A-Za-z]+)$", "", path.name)
    names = {"subject": _safe(found.get("sub", stem))}
    for entity, name in (("ses", "session"), ("task", "task"), ("run", "run")):
        if entity in found:
            names[name] = found[entity]
    return names


def _tell_tasks_apart(named: list[dict[str, str]]) -> list[dict[str, str]]:
    """With several tasks, the task becomes a part of the run's name."""
    several = len({names.get("task") for names in named}) > 1
    out = []
    for names in named:
        names = dict(names)
        task = names.pop("task", None)
        if several and task:
            names["run"] = f"{task}-{names.get('run', '1')}"
        out.append(names)
    return out


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-") or "unknown"
