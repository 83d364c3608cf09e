"""Run directories: `config.json`, `geometry.json`, `checkpoints/`, all that a method needs.

`train` makes one from an `Experiment`, `load` opens it again. `checkpoints/params` is there when
training is complete; until then `checkpoints/progress` is, once a deep method has begun.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import jax
from jax.sharding import Mesh

from eegsr_jax import config, geometry, methods
from eegsr_jax.data.preprocessing import Preprocessing
from eegsr_jax.data.segments import by_subject, cut_end, whole
from eegsr_jax.data.store import Store
from eegsr_jax.distributed import from_first, is_first
from eegsr_jax.errors import ConfigError
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import GradientStage, Method
from eegsr_jax.training.checkpoint import load_params, save_params
from eegsr_jax.training.journal import RunJournal
from eegsr_jax.training.loop import check_binding, fit, shapes
from eegsr_jax.training.windows import StoreWindows, layout_geometry, shared_channels
from eegsr_jax.typing import PyTree

_FREE = ("mesh", "checkpoint_seconds", "writers")  # change no number by more than 1e-6
_MEND = "choose another --workdir, or delete it"
_PARAMS = "checkpoints/params"
_PROGRESS = "checkpoints/progress"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What to train on what; `configs/*.py` build one.

    Attributes:
      dataset, root, subjects, sessions, runs: as the flags of `eegsr prepare`; () means all.
      preprocessing: applied to the recordings, and expected of what is reconstructed later.
      layout: observed channels, see `layouts.layout`.
      method: as on the command line, "lagged_ridge(lags=6)".
      window_seconds: of the training windows.
      validate: share of each subject's material, at its end, that chooses penalties, stops training
        and sets error bars.
      batch_size: windows read at a time; the steps of a deep method have their own.
      seed: of everything random.
      mesh: devices to spread a deep method over, as "windows:4,gaussians:2" (sweeps: "models:8");
        None is one device, or all of several processes over "windows".
      checkpoint_seconds: between two checkpoints.
      writers: where metrics go beside `metrics.jsonl`: tensorboard, wandb.
    """

    dataset: str = "sample"
    root: str | None = None
    subjects: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    layout: str = "spread:15"
    method: str = "lagged_ridge"
    window_seconds: float = 2.0
    validate: float = 0.2
    batch_size: int = 32
    seed: int = 0
    mesh: str | None = None
    checkpoint_seconds: float = 60.0
    writers: tuple[str, ...] = ()


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
    ((_, method),) = one_method(experiment.method)
    card = card_of(experiment, store)
    refuse_other(out, card)
    windows, where = prepared(experiment, store)
    check_binding(method, card.sfreq, windows.window)
    journal = RunJournal(
        out,
        open_folder=lambda: open_run(out, card, where),
        every=experiment.checkpoint_seconds,
        writers=experiment.writers,
    )
    # A closed form is over in seconds, and has nothing to save half-way.
    long = any(isinstance(stage, GradientStage) for stage in method.stages)
    with journal.stopping() if long else nullcontext():
        key = jax.random.key(experiment.seed)
        params = fit(method, where, windows, key=key, mesh=mesh, journal=journal)
    write_run(out, card, where, params)
    return card


def refuse_idle_mesh(chosen: Iterable[Method]) -> None:
    """Refuse a mesh where none of the methods has anything to spread over it.

    Raises:
      ConfigError: so it is.
    """
    chosen = list(chosen)
    if not any(isinstance(stage, GradientStage) for m in chosen for stage in m.stages):
        names = ", ".join(dict.fromkeys(method.name for method in chosen))
        raise ConfigError(
            f"{names}: trained in closed form, on one device; leave mesh out, and start one "
            "process only"
        )


def prepared(experiment: Experiment, store: Store) -> tuple[StoreWindows, Geometry]:
    """The windows and the geometry that an experiment trains on.

    Raises:
      ConfigError: nothing is left to train or to validate on.
    """
    if not 0 < experiment.validate < 1:
        raise ConfigError(
            f"validate={experiment.validate}: expected a share between 0 and 1; error bars are set "
            "on it"
        )
    segments = [whole(recording) for recording in store.recordings]
    parts = [
        cut_end(store, own, experiment.validate, 0.0)
        for own in by_subject(store, segments).values()
    ]
    training, validating = (
        tuple(s for part in side for s in part) for side in zip(*parts, strict=True)
    )
    channels = shared_channels(store, segments)
    where = layout_geometry(store, training, channels, experiment.layout)
    windows = StoreWindows(
        store=store,
        train=training,
        validate=validating,
        window=round(experiment.window_seconds * store.recordings[0].sfreq),
        batch_size=experiment.batch_size,
        channels=channels,
    )
    return windows, where


def card_of(experiment: Experiment, store: Store) -> Card:
    """The card of an experiment on its store."""
    from eegsr_jax import __version__

    return Card(
        experiment=experiment,
        sfreq=store.recordings[0].sfreq,
        reference=store.recordings[0].reference,
        recordings=tuple(recording.key for recording in store.recordings),
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
    free = {f.name: f.default for f in fields(Experiment) if f.name in _FREE}
    return replace(card, experiment=replace(card.experiment, **free))


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
    ((_, method),) = one_method(card.experiment.method)
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


def one_method(spec: str):
    """The text of one method, and the method."""
    parsed = methods.parse(spec)
    if len(parsed) != 1:
        raise ConfigError(f"method {spec!r}: expected one method, found {len(parsed)}")
    return parsed.items()
