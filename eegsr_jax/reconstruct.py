"""Few electrodes in, many out: MNE objects and files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eegsr_jax import geometry as geo
from eegsr_jax import methods
from eegsr_jax.data import sources
from eegsr_jax.data.export import attach, reliability_table
from eegsr_jax.data.recording import Recording, read, require_rate
from eegsr_jax.distributed import own_devices
from eegsr_jax.errors import ChannelError, ConfigError, MethodError
from eegsr_jax.geometry import Geometry, make_geometry
from eegsr_jax.methods.base import Method
from eegsr_jax.methods.long import reconstruct_long
from eegsr_jax.training.loop import jitted, nameless
from eegsr_jax.training.run import load, load_card
from eegsr_jax.typing import PyTree

MAX_ANGLE = 60.0  # degrees from the nearest observed electrode; half a head is about 100
_ANY_MONTAGE = ("gaussian",)  # runs of the others know the electrodes they were trained on, only
_SPHERE = 8  # electrodes; fewer do not fix a head sphere well enough to move others by it
_ALIKE = 0.04  # metres; electrodes of one name farther apart are different electrodes


@dataclass(frozen=True, kw_only=True)
class Reconstructed:
    """What `reconstruct_raw` returns.

    Attributes:
      raw: the MNE object of the kind that went in, target channels first and in order.
      reliability: a row for each channel: status, expected NMSE, angle to the nearest observed
        electrode (degrees), standard error (microvolts).
      notes: what reading and reconstructing changed, dropped or guessed.
      times_real_time: recorded seconds per second of computing.
    """

    raw: Any
    reliability: list[dict[str, Any]]
    notes: tuple[str, ...]
    times_real_time: float


def reconstruct_raw(
    raw: Any,
    target: Any = None,
    *,
    method: str | Method = "population",
    run: str | Path | None = None,
    montage: Any = None,
    bads: str = "repair",
    max_angle: float = MAX_ANGLE,
) -> Reconstructed:
    """Reconstruct an MNE recording at the electrodes of `target`.

    Observed channels keep their samples bit for bit; the object that went in is not changed.

    Args:
      raw: MNE `Raw`, `Epochs` or `Evoked`, or a file that MNE reads. Its bad channels are no input.
      target: the wanted electrodes: a montage name or file, a mapping of positions, a list of
        names, or None for the channels of the recording (which repairs the bad ones), or with `run`
        for those that it was trained to reconstruct.
      method: what reconstructs, a name or a `Method` that needs no training.
      run: a run directory of `eegsr train`, instead of `method`.
      montage: positions of the recording's electrodes, where the file has none.
      bads: "repair" reconstructs bad channels that are wanted; "keep" leaves them as they are.
      max_angle: degrees; targets farther from every observed electrode are refused and left out.

    Raises:
      EEGSRError: the recording, target, method or run does not fit; the message says what and why.
    """
    recording = read(raw, montage=montage)
    use = arrange(recording, target, method=method, run=run, bads=bads, max_angle=max_angle)
    begin = time.perf_counter()
    mean, error, power = _reconstructed(use, recording)
    rows = {n: i for i, n in enumerate(use.geometry.target_names)}
    place = [rows.get(n, 0) for n in use.names]  # no row is used of what is recorded
    mean, error, power = mean[place], error[place], power[place]
    seconds = recording.data.shape[1] / recording.sfreq
    speed = seconds / (time.perf_counter() - begin)
    out = attach(
        sources.open_source(raw),
        recording,
        use.names,
        use.positions,
        mean,
        reconstructed=use.new,
        method=f"run {Path(run).name} ({use.method.name})" if run else use.method.name,
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        # The power of the signal is what was found plus what the method expects to have missed.
        expected = np.where(np.isfinite(error), error / (power + error), np.nan)
    table = reliability_table(
        use.names,
        use.new,
        expected,
        use.angle,
        np.sqrt(error),
        method=use.method.name,
        rank=min(len(use.names), len(recording.names) - len(recording.bads)),
    )
    for row in table:
        if row["name"] in use.kept:
            row |= {"status": "bad, kept", "expected_nmse": np.nan, "std_uV": np.nan}
    notes = (*recording.notes, *use.notes)
    return Reconstructed(raw=out, reliability=table, notes=notes, times_real_time=speed)


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """Which method makes which channels of a recording's.

    Attributes:
      method, params: what reconstructs.
      geometry: for which it is planned; of a run, the run's own.
      observed: L channels of the recording that go in, in the order of `geometry`.
      names: of the channels that are wanted, in order.
      positions: theirs, metres, MNE head frame.
      new: those among them that are reconstructed.
      kept: bad channels that stay as they are.
      angle: of each of `names` from the nearest observed electrode, degrees.
      notes: what was changed, dropped or guessed.
    """

    method: Method
    params: PyTree
    geometry: Geometry
    observed: tuple[str, ...]
    names: tuple[str, ...]
    positions: np.ndarray
    new: tuple[str, ...]
    kept: tuple[str, ...]
    angle: np.ndarray
    notes: tuple[str, ...]


def arrange(
    recording: Recording,
    target: Any = None,
    *,
    method: str | Method = "population",
    run: str | Path | None = None,
    bads: str = "repair",
    max_angle: float = MAX_ANGLE,
) -> Arrangement:
    """What `reconstruct_raw` does before it looks at the samples; arguments and errors are its."""
    if bads not in ("repair", "keep"):
        raise ConfigError(f"bads={bads!r}: expected 'repair' or 'keep'")
    if not 0 <= max_angle <= 180:
        raise ConfigError(f"max_angle={max_angle}: expected 0 to 180 degrees")
    notes: list[str] = []
    here = dict(zip(recording.names, recording.positions, strict=True))
    good = [n for n in recording.names if n not in recording.bads]
    model, params, trained = _model(method, run, recording, good, notes)
    observed = good if trained is None else list(trained.observed_names)
    known = {}
    if trained is not None:
        known = dict(zip(trained.target_names, np.asarray(trained.target), strict=True))
        target = trained.target_names if target is None else target
    wanted = _targets(target, recording, notes, known)
    kept = [n for n in wanted if bads == "keep" and n in recording.bads]
    new = [n for n in wanted if n not in good and n not in kept]
    if trained is not None and model.name not in _ANY_MONTAGE:
        _refuse_untrained(new, trained, f"run {run} ({model.name})")
    positions = here | wanted
    centre = geo.fit_sphere(recording.positions)[0]
    names = tuple(wanted)
    where = make_geometry(observed, names, positions, centre=centre)
    names, where = _within_reach(where, observed, positions, centre, max_angle, kept, notes)
    return Arrangement(
        method=model,
        params=model.init(jax.random.key(0), where, model.window) if params is None else params,
        geometry=where if trained is None or model.name in _ANY_MONTAGE else trained,
        observed=tuple(observed),
        names=names,
        positions=np.stack([positions[n] for n in names]),
        new=tuple(n for n in new if n in names),
        kept=tuple(kept),
        angle=geo.nearest_angle(where),
        notes=tuple(notes),
    )


def _targets(
    target: Any, recording: Recording, notes: list[str], known: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Wanted electrodes and their positions on the recording's own head, in order.

    `known` are the positions of a run's electrodes, whose names need not be standard.
    """
    here = dict(zip(recording.names, recording.positions, strict=True))
    if target is None:
        return here
    names: Sequence[str] | None = None
    if isinstance(target, str) and "," in target:
        names = [geo.standard_name(n) for n in target.split(",") if n.strip()]
    elif isinstance(target, Sequence) and not isinstance(target, str):
        names = [geo.standard_name(n) for n in target]
    if names is not None and all(n in here for n in names):
        return {n: here[n] for n in names}
    if names is not None and all(n in here or n in known for n in names):
        table = known
    else:
        table = geo.montage("standard_1005" if names is not None else target)
    table = {geo.standard_name(n): xyz for n, xyz in table.items()}
    if isinstance(target, Mapping):  # positions that the user measured are taken as they are
        return table | {n: here[n] for n in table if n in here}
    fitted = _on_head(table, recording, notes)
    chosen = list(table) if names is None else names
    # A1 is an ear lobe in the 10-20 system and the vertex of a BioSemi cap.
    elsewhere = [
        n for n in chosen if n in here and np.linalg.norm(here[n] - fitted.get(n, here[n])) > _ALIKE
    ]
    if elsewhere:
        notes.append(
            f"left out, a recorded channel of that name is elsewhere: {', '.join(elsewhere)}"
        )
        chosen = [n for n in chosen if n not in elsewhere]
    absent = [n for n in chosen if n not in fitted and n not in here]
    if absent:
        raise ChannelError(
            f"target {', '.join(absent)}: neither in the recording nor in standard_1005; give "
            "positions (a montage file or a mapping)"
        )
    return {n: here[n] if n in here else fitted[n] for n in chosen}


def _refuse_untrained(wanted: Iterable[str], trained: Geometry, run: str) -> None:
    outside = [n for n in wanted if n not in trained.target_names]
    if outside:
        raise ChannelError(
            f"target {', '.join(outside)}: {run} was trained to reconstruct "
            f"{len(trained.target_names)} channels ({', '.join(trained.target_names[:6])}, …) and "
            "no other; name targets among them, or train gaussian, which takes any montage"
        )


def _on_head(
    table: Mapping[str, np.ndarray], recording: Recording, notes: list[str]
) -> dict[str, np.ndarray]:
    """A template's positions, moved and scaled so that its sphere is that of the recorded head.

    The spheres go through the electrodes of one name, where these agree: a head is no sphere, and
    other electrodes would see another one. Else they go through all of them.
    """
    here = dict(zip(recording.names, recording.positions, strict=True))
    shared = [n for n in table if n in here]
    everything = list(table) if len(table) >= _SPHERE else []
    for theirs, ours in ((shared, shared), (everything, recording.names)):
        try:
            centre, radius = geo.fit_sphere(np.reshape([table[n] for n in theirs], (-1, 3)))
            origin, size = geo.fit_sphere(np.reshape([here[n] for n in ours], (-1, 3)))
        except ChannelError:  # too few, or in one plane
            continue
        fitted = {n: (xyz - centre) * size / radius + origin for n, xyz in table.items()}
        apart = [np.linalg.norm(fitted[n] - here[n]) for n in shared]
        if ours is not shared or (np.median(apart) < _ALIKE / 2 and 0.7 < size / radius < 1.4):
            break
    else:
        notes.append("positions of the targets taken as they are: too few to fix a head sphere")
        return dict(table)
    shift = 1e3 * np.linalg.norm(origin - centre)
    if shift > 1 or abs(size / radius - 1) > 0.01:
        notes.append(
            f"template scaled by {size / radius:.2f} and moved by {shift:.0f} mm onto the sphere "
            "of the recorded electrodes"
        )
    return fitted


def _model(
    method: str | Method,
    run: str | Path | None,
    recording: Recording,
    good: list[str],
    notes: list[str],
) -> tuple[Method, PyTree, Geometry | None]:
    """Method, and of a run its params and the geometry that it was trained on."""
    if run is None:
        model = methods.make(method) if isinstance(method, str) else method
        if model.name in methods.NEEDS_TRAINING:
            raise MethodError(
                f"method {model.name} needs training: make a run with `eegsr train` and give "
                f"--run, or use one of {', '.join(methods.UNTRAINED)}"
            )
        return model, None, None
    model, params, trained = load(run)
    card = load_card(run)
    absent = [n for n in trained.observed_names if n not in good]
    if absent:
        raise ChannelError(
            f"{recording.source}: run {run} was trained to observe {len(trained.observed_names)} "
            f"channels; {', '.join(absent)} missing or bad here"
        )
    if model.context or model.window:
        require_rate(recording, card.sfreq)
    step = card.experiment.preprocessing
    notes.append(
        f"run {run} was trained on {card.experiment.dataset} at {card.sfreq:g} Hz, "
        f"{step.l_freq}-{step.h_freq} Hz, {card.reference} reference; its error bars hold for such "
        "data"
    )
    return model, params, trained


def _within_reach(
    where: Geometry,
    observed: Sequence[str],
    positions: Mapping[str, np.ndarray],
    centre: np.ndarray,
    max_angle: float,
    kept: Sequence[str],
    notes: list[str],
) -> tuple[tuple[str, ...], Geometry]:
    """Targets near enough to an observed electrode; the others are refused, by name."""
    angle = geo.nearest_angle(where)
    far = [n for n, a in zip(where.target_names, angle, strict=True) if a > max_angle]
    far = [n for n in far if n not in kept]
    if not far:
        return where.target_names, where
    shown = ", ".join(f"{n} ({a:.0f}°)" for n, a in zip(where.target_names, angle, strict=True)
                      if n in far)  # fmt: skip
    notes.append(f"refused, more than {max_angle:g}° from every observed electrode: {shown}")
    names = tuple(n for n in where.target_names if n not in far)
    if not names:
        raise ChannelError(
            f"all {len(far)} targets are more than {max_angle:g}° from every observed electrode; "
            "give more electrodes, or a larger max_angle"
        )
    return names, make_geometry(observed, names, positions, centre=centre)


def _reconstructed(
    use: Arrangement, recording: Recording
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate `[M, time]`, and over time its mean squared error bar and mean power, `[M]`."""
    plan = jitted(use.method.plan)(use.params, nameless(use.geometry))
    inputs = recording.data[geo.find_channels(use.observed, recording.names)]
    time_points = inputs.shape[1]
    mean = np.empty((len(use.geometry.target_names), time_points), np.float32)
    error = np.zeros(len(mean))
    for number, (first, last) in enumerate(recording.stretches):  # never across a join
        key = jax.random.fold_in(jax.random.key(0), number)
        blocks = reconstruct_long(use.method, plan, inputs[:, first:last], key, mesh=own_devices())
        for start, estimate, std in blocks:
            mean[:, first + start : first + start + estimate.shape[1]] = estimate
            error += (std.astype(np.float64) ** 2).sum(1)
    return mean, error / time_points, mean.var(1, dtype=np.float64)
