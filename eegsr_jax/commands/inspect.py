"""Say what is in a run, or what a config will take; show the Gaussians of an EMAG estimate.

eegsr inspect RUN [--field=OUT.html] [--png=OUT.png] [--recording=FILE --start=SECONDS]
eegsr inspect CONFIG.py [--set FIELD=VALUE]

The HTML file is an interactive viewer that needs nothing else, the PNG is for paper. They show a
stretch of FILE, any recording that MNE reads, filtered as the training data were; without FILE, of
the recordings that the run was trained on where their store is still there, else of the sample.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from absl import flags

from eegsr_jax import config
from eegsr_jax.commands.prepare import refuse_existing
from eegsr_jax.data import datasets
from eegsr_jax.data.manifest import StoredRecording
from eegsr_jax.data.store import Store, open_store, prepare
from eegsr_jax.errors import ChannelError, ConfigError, MethodError, RecordingError
from eegsr_jax.evaluation.scene import Scene, make_scene
from eegsr_jax.evaluation.snapshot import samples_at, write_snapshot
from eegsr_jax.evaluation.viewer import write_viewer
from eegsr_jax.geometry import Geometry, standard_name
from eegsr_jax.methods.base import Method
from eegsr_jax.training import forecast_page
from eegsr_jax.training.run import Card, load, load_card
from eegsr_jax.typing import PyTree

ARGUMENTS = ("RUN|CONFIG.PY",)
_SECONDS = 2.0


def define_flags() -> flags.FlagValues:
    """What to make, and of which stretch."""
    values = flags.FlagValues()
    text = "HTML file to make: the field through time, in a browser."
    flags.DEFINE_string("field", None, text, flag_values=values)
    text = "PNG file to make: the field at some times, on paper."
    flags.DEFINE_string("png", None, text, flag_values=values)
    text = "Seconds of the recording that the PNG shows; default: three peaks of field power."
    flags.DEFINE_list("at", [], text, flag_values=values)
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE, of CONFIG.py.", flag_values=values)
    text = "A recording that MNE reads; default: the training data, or the sample."
    flags.DEFINE_string("recording", None, text, flag_values=values)
    text = "Positions of its electrodes, where the file has none: montage name or file."
    flags.DEFINE_string("montage", None, text, flag_values=values)
    text = "Where the training data were stored; default: RUN with _store at its end."
    flags.DEFINE_string("store", None, text, flag_values=values)
    text = "Second of the recording at which to begin; default: the first usable one."
    flags.DEFINE_float("start", None, text, flag_values=values)
    text = f"How long; default: the window that the method is bound to, or {_SECONDS:g}."
    flags.DEFINE_float("seconds", None, text, lower_bound=0.01, flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace files that are there.", flag_values=values)
    return values


def run(values: flags.FlagValues, folder: str) -> None:
    """Prints the summary, or makes the pictures and says which."""
    if Path(folder).suffix == ".py":
        if values.field or values.png:
            raise ConfigError(f"{folder}: a config has no field yet; train it, and give the run")
        print(forecast_page.page(folder, config.load(folder, values["set"].value or ())))
        return
    wanted = {"field": ".html", "png": ".png"}
    named = {name: str(values[name].value or "") for name in wanted}
    files = {name: Path(file) for name, file in named.items() if file}
    for name, file in files.items():
        if file.suffix != wanted[name]:
            raise ConfigError(f"--{name}={file}: expected a name that ends in {wanted[name]}")
        refuse_existing(file, values.overwrite)
    times = _times(values.at)
    card = load_card(folder)
    method, params, where = load(folder)
    if not files:
        print("\n".join(summary(folder, card, params, where)))
        return
    if method.mixture is None:
        raise MethodError(
            f"{folder}: {method.name} has no field of Gaussians to show; runs of emag and "
            "emag_paper have"
        )
    with _recordings(values, folder, card) as (store, kind):
        scene = _scene(values, store, kind, card, method, params, where)
    samples = samples_at(scene, times) if times else scene.example.peaks(3)
    if "field" in files:
        left_out = write_viewer(files["field"], scene, overwrite=values.overwrite)
        for note in left_out:
            print(f"note: {files['field']} shows {note}")
    if "png" in files:
        write_snapshot(files["png"], scene, samples, overwrite=values.overwrite)
    shown = f"{scene.seconds[0]:.3f} to {scene.seconds[-1]:.3f} s"
    print(f"{', '.join(map(str, files.values()))}: {scene.example.title}, {shown}")


def summary(folder: str, card: Card, params: PyTree, where: Geometry) -> list[str]:
    """Lines on a run: what it is, what it was trained on, how training ended."""
    experiment, leaves = card.experiment, jax.tree.leaves(params)
    step = experiment.preprocessing
    given = set(where.observed_names)
    missing = [name for name in where.target_names if name not in given]
    band = "-".join("" if f is None else f"{f:g}" for f in (step.l_freq, step.h_freq))
    rows = {
        "method": experiment.method,
        "data": f"{experiment.dataset}, {card.sfreq:g} Hz, "
        + (f"{band} Hz, " if band != "-" else "")
        + f"{card.reference} reference",
        "recordings": f"{len(card.recordings)}: {_few(card.recordings)}",
        "layout": f"{experiment.layout}: {len(given)} electrodes given, {len(missing)} missing",
        "given": " ".join(where.observed_names),
        "missing": " ".join(missing),
        "parameters": f"{sum(np.size(x) for x in leaves):,} in {len(leaves)} arrays",
        **_training(Path(folder) / "metrics.jsonl"),
        "made by": f"eegsr_jax {card.version}",
        "licence": card.licence,
    }
    return [str(folder), *(f"  {name:<13}{text}" for name, text in rows.items() if text)]


def _few(keys: tuple[str, ...]) -> str:
    return ", ".join(keys) if len(keys) <= 4 else f"{', '.join(keys[:3])}, … {keys[-1]}"


def _training(path: Path) -> dict[str, str]:
    """How each gradient stage ended, from the metrics; a line cut short is left out."""
    last = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.endswith("}"):
                record = json.loads(line)
                last[record["stage"]] = record
    labels = {"loss": "loss", "validate": "validation", "best_validate": "best"}
    out = {}
    for stage, record in last.items():
        told = {k: v for k, v in record.items() if v is not None}  # null: there is no score
        scores = [f"{text} {told[k]:.4g}" for k, text in labels.items() if k in told]
        end = f" in epoch {record['best_epoch']}" if "best_epoch" in record else ""
        out[stage] = f"{record['epoch']} epochs, {', '.join(scores)}{end}"
    return out


def _times(words: list[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ConfigError(f"--at={','.join(words)}: expected seconds") from None


@contextlib.contextmanager
def _recordings(values: flags.FlagValues, folder: str, card: Card) -> Iterator[tuple[Store, str]]:
    """A store of what may be shown, and what to call it."""
    stored = Path(values.store or f"{Path(folder)}_store")
    if not values.recording and (values.store or stored.exists()):
        yield open_store(stored), "training data of the run"
        return
    if values.recording:
        dataset = datasets.load("files", [values.recording], montage=values.montage)
        kind = Path(values.recording).name
    else:
        dataset, kind = datasets.load("sample"), "the embedded sample"
    step = dataclasses.replace(card.experiment.preprocessing, resample=card.sfreq)
    with tempfile.TemporaryDirectory() as temporary:
        yield prepare(dataset, Path(temporary) / "store", step, progress=False), kind


def _scene(
    values: flags.FlagValues,
    store: Store,
    kind: str,
    card: Card,
    method: Method,
    params: PyTree,
    where: Geometry,
) -> Scene:
    """The stretch that was asked for, or the first that will do."""
    length = _length(values.seconds, method, card.sfreq)
    recording, (first, last), begin = _find(store, values.start, length, method, card)
    for note in recording.notes:
        print(f"note: {note}")
    start = max(first, begin - method.context)
    stop = min(last, begin + length + method.context)
    data = store.read(recording.key, start, stop)
    rows = {
        standard_name(name).lower(): row
        for row, name in zip(data, recording.names, strict=True)
        if name not in recording.bads
    }
    absent = [n for n in where.observed_names if standard_name(n).lower() not in rows]
    if absent:
        raise ChannelError(
            f"{kind}, {recording.key}: the run observes {len(where.observed_names)} channels; "
            f"{', '.join(absent)} missing or bad here; give another --recording"
        )
    nothing = np.full(data.shape[1], np.nan, np.float32)
    return make_scene(
        method,
        params,
        where,
        np.stack([rows[standard_name(n).lower()] for n in where.observed_names]),
        np.stack([rows.get(standard_name(n).lower(), nothing) for n in where.target_names]),
        title=kind if values.recording else f"{recording.key}, {kind}",
        sfreq=card.sfreq,
        start=start / card.sfreq,
        keep=slice(begin - start, begin - start + length),
    )


def _length(seconds: float | None, method: Method, sfreq: float) -> int:
    if method.window is None:
        return max(2, round((seconds or _SECONDS) * sfreq))
    if seconds and round(seconds * sfreq) != method.window:
        raise ConfigError(
            f"--seconds={seconds:g}: {method.name} sees windows of {method.window / sfreq:g} s; "
            "leave the flag out"
        )
    return method.window


def _find(
    store: Store, start: float | None, length: int, method: Method, card: Card
) -> tuple[StoredRecording, tuple[int, int], int]:
    """A recording, a usable stretch of it, and the sample at which to begin."""
    for recording in store.recordings:
        if abs(recording.sfreq - card.sfreq) > 1e-5 * card.sfreq:
            raise RecordingError(
                f"{store.path}, {recording.key}: {recording.sfreq:g} Hz; the run was trained at "
                f"{card.sfreq:g} Hz"
            )
        for first, last in recording.usable:
            if start is None:
                begin = min(first + method.context, last - length)
            else:
                begin = round(start * card.sfreq)
            if first <= begin and begin + length <= last:
                return recording, (first, last), begin
    asked = "anywhere" if start is None else f"at --start={start:g}"
    usable = ", ".join(
        f"{first / card.sfreq:.1f} to {last / card.sfreq:.1f}"
        for first, last in store.recordings[0].usable[:4]
    )
    raise RecordingError(
        f"{store.recordings[0].source}: no {length / card.sfreq:g} s in one piece {asked}; usable "
        f"seconds: {usable or 'none'}"
    )
