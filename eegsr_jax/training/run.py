"""Run directories: `config.json`, `geometry.json`, `checkpoints/`, all that a method needs.

`train` makes one from an `Experiment`, `load` opens it again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import jax

from eegsr_jax import config, geometry, methods
from eegsr_jax.data.preprocessing import Preprocessing
from eegsr_jax.data.segments import by_subject, cut_end, whole
from eegsr_jax.data.store import Store
from eegsr_jax.errors import ConfigError
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import Method
from eegsr_jax.training.checkpoint import load_params, save_params
from eegsr_jax.training.loop import fit
from eegsr_jax.training.windows import layout_geometry, shared_channels, training_windows
from eegsr_jax.typing import PyTree

_PARAMS = "checkpoints/params"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What to train on what; `configs/*.py` build one.

    Attributes:
      dataset, root, subjects, sessions, runs: as the flags of `eegsr prepare`; () means all.
      preprocessing: applied to the recordings, and expected of what is reconstructed later.
      layout: observed channels, see `layouts.layout`.
      method: as on the command line, "lagged_ridge(lags=6)".
      window_seconds: of the training windows.
      validate: share of each subject's material, at its end, that chooses penalties and sets error
        bars.
      batch_size: windows at a time.
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


def train(experiment: Experiment, store: Store, out: Path) -> Card:
    """Train on a store and write the run directory, which appears when it is complete.

    Raises:
      ConfigError: `out` exists, or nothing is left to train or to validate on.
      EEGSRError: the layout or method does not fit the data.
    """
    from eegsr_jax import __version__

    if out.exists():
        raise ConfigError(f"{out} exists; choose another --workdir, or delete it")
    if not 0 < experiment.validate < 1:
        raise ConfigError(
            f"validate={experiment.validate}: expected a share between 0 and 1; error bars are set "
            "on it"
        )
    ((_, method),) = _one(experiment.method)
    segments = [whole(recording) for recording in store.recordings]
    parts = [
        cut_end(store, own, experiment.validate, 0.0)
        for own in by_subject(store, segments).values()
    ]
    training, validating = ([s for part in side for s in part] for side in zip(*parts, strict=True))
    channels = shared_channels(store, segments)
    where = layout_geometry(store, training, channels, experiment.layout)
    window = round(experiment.window_seconds * store.recordings[0].sfreq)

    def batches():
        return training_windows(
            store,
            training,
            validating,
            window=window,
            batch_size=experiment.batch_size,
            channels=channels,
        )

    params = fit(method, where, batches, key=jax.random.key(0))
    card = Card(
        experiment=experiment,
        sfreq=store.recordings[0].sfreq,
        reference=store.recordings[0].reference,
        recordings=tuple(recording.key for recording in store.recordings),
        citation=store.citation,
        licence=store.licence,
        version=__version__,
    )
    _write(out, card, where, params)
    return card


def _write(out: Path, card: Card, where: Geometry, params: PyTree) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        (half / "config.json").write_text(config.to_json(card))
        (half / "geometry.json").write_text(json.dumps(geometry.to_json(where)))
        save_params(half / _PARAMS, params)
        os.chmod(half, 0o755)
        os.replace(half, out)
    finally:
        shutil.rmtree(half, ignore_errors=True)


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
    ((_, method),) = _one(card.experiment.method)
    like = method.init(jax.random.key(0), where, method.window)
    return method, load_params(path / _PARAMS, like), where


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


def _one(spec: str):
    parsed = methods.parse(spec)
    if len(parsed) != 1:
        raise ConfigError(f"method {spec!r}: expected one method, found {len(parsed)}")
    return parsed.items()
