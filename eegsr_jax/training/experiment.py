"""Experiments: what is trained on what, and tested on what; `configs/*.py` build them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

from eegsr_jax import config, methods
from eegsr_jax.data import splits
from eegsr_jax.data.preprocessing import Preprocessing
from eegsr_jax.data.segments import by_subject, cut_end, whole
from eegsr_jax.data.splits import Split
from eegsr_jax.data.store import Store
from eegsr_jax.errors import ConfigError, SplitError
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import GradientStage, Method
from eegsr_jax.training.windows import StoreWindows, layout_geometry, shared_channels

# What changes no number by more than 1e-6; the same data may lie elsewhere.
_FREE = ("root", "mesh", "checkpoint_seconds", "writers")
_PARTS = ("subjects", "sessions", "runs")
_TEST_FROM = 0.6  # of a subject that nobody was trained on, as `evaluate` has it


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What to train on what, and what to test it on; `configs/*.py` build one.

    Attributes:
      dataset, root, subjects, sessions, runs: as the flags of `eegsr prepare`; () means all.
      test_subjects, test_sessions, test_runs: what tests, one of the three; it does not train. The
        last 40 % of a test subject's material tests. () thrice: nothing is tested.
      preprocessing: applied to the recordings, and expected of what is reconstructed later.
      layout: observed channels, see `layouts.layout`.
      method: as on the command line, "lagged_ridge(lags=6)".
      window_seconds: of the training windows.
      validate: share of each subject's material, at its end, that chooses penalties, stops training
        and sets error bars; with `test_subjects`, share of the other subjects.
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
    test_subjects: tuple[str, ...] = ()
    test_sessions: tuple[str, ...] = ()
    test_runs: tuple[str, ...] = ()
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


def settled(experiment: Experiment) -> Experiment:
    """Without what changes no number: experiments that are equal then are one."""
    free = {f.name: f.default for f in fields(Experiment) if f.name in _FREE}
    return replace(experiment, **free)


def trial_name(experiment: Experiment) -> str:
    """Of its run directory in a sweep: sixteen hexadecimal digits, a hash of all that matters."""
    return config.resolved_hash(settled(experiment))


def check_store(experiment: Experiment, store: Store) -> None:
    """Refuse a store of other data, or filtered otherwise, than the experiment says.

    Raises:
      ConfigError: it is.
    """
    for name in ("dataset", "preprocessing"):
        found, asked = getattr(store, name), getattr(experiment, name)
        if found != asked:
            raise ConfigError(
                f"{store.path}: was prepared with {name}={found!r}, the experiment has {asked!r}; "
                "choose another --store"
            )


def needs(experiment: Experiment, part: str) -> tuple[str, ...] | None:
    """Names of "subjects", "sessions" or "runs" to train and test on; None means all."""
    own, tested = getattr(experiment, part), getattr(experiment, f"test_{part}")
    return tuple(dict.fromkeys((*own, *tested))) if own else None


def is_tested(experiment: Experiment) -> bool:
    """Whether it names what to test on."""
    return any(getattr(experiment, f"test_{part}") for part in _PARTS)


def split_of(experiment: Experiment, store: Store) -> tuple[Store, Split]:
    """The recordings of an experiment, of a store that may hold more, and which do what.

    Raises:
      ConfigError: test data of two kinds.
      SplitError: what tests also trains, or nothing is left for a part.
      DatasetError: a name does not exist.
    """
    own = store.select(**{part: needs(experiment, part) for part in _PARTS})
    kinds = [part for part in _PARTS if getattr(experiment, f"test_{part}")]
    if len(kinds) > 1:
        raise ConfigError(
            f"test_{kinds[0]} and test_{kinds[1]}: expected test data of one kind, subjects, "
            "sessions or runs"
        )
    if not kinds:
        return own, _untested(experiment, own)
    (part,) = kinds
    tested = own.select(**{part: getattr(experiment, f"test_{part}")})
    if getattr(experiment, part):
        trained = own.select(**{part: getattr(experiment, part)})
    else:
        keys = {recording.key for recording in tested.recordings}
        left = tuple(r for r in own.recordings if r.key not in keys)
        trained = replace(own, recordings=left)
    names, test_names = (_named(side, part) for side in (trained, tested))
    others = [name for name in names if name not in test_names]
    if not others:
        raise SplitError(
            f"test_{part}={','.join(test_names)}: nothing else is left to train on; test on fewer"
        )
    if part == "subjects":
        both = own.select(subjects=(*others, *test_names))
        split = splits.leave_subjects_out(both, test_names, validate_subjects=experiment.validate)
        return both, splits.with_calibration(split, both, 0.0, test_from=_TEST_FROM)
    make = splits.by_session if part == "sessions" else splits.by_run
    return own, make(own, names, test_names, validate_fraction=experiment.validate)


def _named(store: Store, part: str) -> list[str]:
    return list(dict.fromkeys(getattr(recording, part[:-1]) for recording in store.recordings))


def _untested(experiment: Experiment, store: Store) -> Split:
    segments = [whole(recording) for recording in store.recordings]
    parts = [
        cut_end(store, own, experiment.validate, 0.0)
        for own in by_subject(store, segments).values()
    ]
    train, validate = (tuple(s for part in side for s in part) for side in zip(*parts, strict=True))
    return Split(kind="untested", train=train, validate=validate, test=())


def prepared(experiment: Experiment, store: Store) -> tuple[StoreWindows, Geometry]:
    """The windows and the geometry that an experiment trains on.

    Raises:
      ConfigError: nothing is left to train or to validate on.
      EEGSRError: see `split_of`.
    """
    if not 0 < experiment.validate < 1:
        raise ConfigError(
            f"validate={experiment.validate}: expected a share between 0 and 1; error bars are set "
            "on it"
        )
    store, split = split_of(experiment, store)
    channels = shared_channels(store, (*split.train, *split.validate, *split.test))
    where = layout_geometry(store, split.train, channels, experiment.layout)
    windows = StoreWindows(
        store=store,
        train=split.train,
        validate=split.validate,
        window=round(experiment.window_seconds * store.recordings[0].sfreq),
        batch_size=experiment.batch_size,
        channels=channels,
    )
    return windows, where


def one_method(spec: str) -> tuple[str, Method]:
    """The text of one method, and the method."""
    parsed = methods.parse(spec)
    if len(parsed) != 1:
        raise ConfigError(f"method {spec!r}: expected one method, found {len(parsed)}")
    ((text, method),) = parsed.items()
    return text, method


def is_closed_form(method: Method) -> bool:
    """Whether nothing of it is trained by gradients."""
    return not any(isinstance(stage, GradientStage) for stage in method.stages)


def refuse_idle_mesh(chosen: Iterable[Method]) -> None:
    """Refuse a mesh where none of the methods has anything to spread over it.

    Raises:
      ConfigError: so it is.
    """
    chosen = list(chosen)
    if all(is_closed_form(method) for method in chosen):
        names = ", ".join(dict.fromkeys(method.name for method in chosen))
        raise ConfigError(
            f"{names}: trained in closed form, on one device; leave mesh out, and start one "
            "process only"
        )
