"""Run directories: `config.json`, `geometry.json`, `checkpoints/`, all that a method needs.

`train` makes one from an `Experiment`, `load` opens it again. `checkpoints/params` is there when
training is complete; until then `checkpoints/progress` is, once a deep method has begun.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path

import jax
from jax.sharding import Mesh

from eegsr_jax import config, geometry
from eegsr_jax.data.store import Store
from eegsr_jax.distributed import from_first, is_first
from eegsr_jax.errors import ConfigError
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import Method
from eegsr_jax.training.checkpoint import load_params, save_params
from eegsr_jax.training.experiment import (
    Experiment,
    is_closed_form,
    one_method,
    prepared,
    settled,
    split_of,
)
from eegsr_jax.training.journal import RunJournal, StopSignals
from eegsr_jax.training.loop import check_binding, fit, shapes
from eegsr_jax.typing import PyTree

_MEND = "choose another --workdir, or delete it"
_PARAMS = "checkpoints/params"
_PROGRESS = "checkpoints/progress"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a trained method expects of a recording, and where it comes from.

    Attributes:
      experiment: what was asked for.
      sfreq: Hz of the training data.
      reference: of the training data.
      recordings: their keys.
      citation, licence: of the data set.
      version: of eegsr_jax.
    """

    experiment: Experiment
    sfreq: float
    reference: str
    recordings: tuple[str, ...]
    citation: str
    licence: str
    version: str


def train(experiment: Experiment, store: Store, out: Path, *, mesh: Mesh | None = None) -> Card:
    """Train on a store into the run directory `out`, or go on where training stopped.

    SIGTERM and SIGUSR1 make a deep method save after its current step, and exit with status 0; the
    same call then goes on to the same result, bit for bit; on other devices or another number of
    processes, to about 1e-6. `mesh` is for deep methods, see `training.loop.fit`. Several processes
    call it together, with folders that all of them see.

    Raises:
      ConfigError: `out` is complete, holds another experiment, or is no run directory; or nothing
        is left to train or to validate on.
      EEGSRError: the layout or method does not fit the data.
    """
    _, method = one_method(experiment.method)
    card = card_of(experiment, store)
    refuse_other(out, card)
    windows, where = prepared(experiment, store)
    check_binding(method, card.sfreq, windows.window)
    signals = StopSignals()
    journal = RunJournal(
        out,
        open_folder=lambda: open_run(out, card, where),
        every=experiment.checkpoint_seconds,
        writers=experiment.writers,
        signals=signals,
    )
    # A closed form is over in seconds, and has nothing to save half-way.
    with nullcontext() if is_closed_form(method) else signals:
        key = jax.random.key(experiment.seed)
        params = fit(method, where, windows, key=key, mesh=mesh, journal=journal)
    write_run(out, card, where, params)
    return card


def card_of(experiment: Experiment, store: Store) -> Card:
    """The card of an experiment on a store that has its recordings."""
    from eegsr_jax import __version__

    own, split = split_of(experiment, store)
    trained = {segment.key for segment in (*split.train, *split.validate)}

    return Card(
        experiment=experiment,
        sfreq=own.recordings[0].sfreq,
        reference=own.recordings[0].reference,
        recordings=tuple(r.key for r in own.recordings if r.key in trained),
        citation=store.citation,
        licence=store.licence,
        version=__version__,
    )


def refuse_finished(out: Path) -> None:
    """Refuse a folder that holds something other than an unfinished run.

    Raises:
      ConfigError: it does.
    """
    if out.exists() and (not (out / "config.json").exists() or (out / _PARAMS).exists()):
        raise ConfigError(f"{out} exists; {_MEND}")


def refuse_other(out: Path, card: Card) -> None:
    """Refuse a folder that is there, unless it is the same run, unfinished.

    Raises:
      ConfigError: it is another, or complete.
    """
    if not out.exists():
        return
    refuse_finished(out)
    found, card = _strict(load_card(out)), _strict(card)
    for what, there, own in (("", found, card), ("experiment.", found.experiment, card.experiment)):
        for name in (f.name for f in fields(own) if f.name != "experiment"):
            before, now = getattr(there, name), getattr(own, name)
            if before != now:
                raise ConfigError(
                    f"{out} holds an unfinished run of another {what}{name}, {before!r}, not "
                    f"{now!r}; {_MEND}"
                )


def is_complete(out: Path, card: Card) -> bool:
    """Whether the folder holds this very run, trained to its end."""
    return (out / _PARAMS).exists() and _strict(load_card(out)) == _strict(card)


def _strict(card: Card) -> Card:
    """Without what is free."""
    return replace(card, experiment=settled(card.experiment))


def open_run(out: Path, card: Card, where: Geometry) -> None:
    """The folder of a run that has begun; one that is there goes on."""
    if out.exists():
        return
    half = _half(out)
    try:
        _describe(half, card, where)
        os.replace(half, out)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def write_run(out: Path, card: Card, where: Geometry, params: PyTree) -> None:
    """The complete run directory. Several processes call it together; the first writes."""
    if from_first(out.exists()):  # an unfinished run goes on in it
        save_params(out / _PARAMS, params)
        if is_first():
            shutil.rmtree(out / _PROGRESS, ignore_errors=True)
        return
    half = Path(from_first(str(_half(out)) if is_first() else None))
    try:
        if is_first():
            _describe(half, card, where)
        save_params(half / _PARAMS, params)
        if is_first():
            os.replace(half, out)
    finally:
        if is_first():
            shutil.rmtree(half, ignore_errors=True)


def _half(out: Path) -> Path:
    """A new folder beside `out`, which takes its place when all is in it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    os.chmod(half, 0o755)
    return half


def _describe(folder: Path, card: Card, where: Geometry) -> None:
    (folder / "config.json").write_text(config.to_json(card))
    (folder / "geometry.json").write_text(json.dumps(geometry.to_json(where)))


def load(path: str | Path) -> tuple[Method, PyTree, Geometry]:
    """The method, params and geometry of a run directory.

    Raises:
      ConfigError: not a run directory, or a damaged one.
    """
    path = Path(path)
    card = load_card(path)
    try:
        where = geometry.from_json(json.loads((path / "geometry.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}/geometry.json: cannot be read: {error!r}") from None
    if not (path / _PARAMS).exists():
        raise ConfigError(
            f"{path}: training has not finished; `eegsr train` with the same flags goes on with it"
        )
    _, method = one_method(card.experiment.method)
    return method, load_params(path / _PARAMS, shapes(method, where)), where


def load_card(path: str | Path) -> Card:
    """What the run's method expects of a recording.

    Raises:
      ConfigError: not a run directory, or a damaged one.
    """
    path = Path(path)
    try:
        return config.from_json(Card, (path / "config.json").read_text())
    except OSError:
        raise ConfigError(
            f"{path} is no run directory: it has no config.json; `eegsr train` makes one"
        ) from None
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}/config.json: {error}") from None
