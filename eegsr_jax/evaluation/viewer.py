"""A scene as one HTML file: the field in three dimensions, the maps and a trace, through time.

The file needs nothing else and asks no network: it is the page in `browser/` with the numbers put
into it. It holds the EEG of the stretch, so it may go where the recording may go.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
from pathlib import Path
from typing import Any

import numpy as np

from eegsr_jax.data.writing import staged
from eegsr_jax.evaluation import page, topomap
from eegsr_jax.evaluation.scene import Scene
from eegsr_jax.geometry import fit_sphere

GAUSSIANS = 2048  # in a file, those that give most; a browser draws no more at its ease
NUMBERS = 900_000  # of two bytes, over all samples: a file of less than 3 MB
_STEPS = 32767
_SCRIPTS = ("state.js", "head.js", "maps.js", "controls.js")


def write_viewer(path: str | Path, scene: Scene, *, overwrite: bool = False) -> list[str]:
    """Write the viewer of a scene; says in sentences what was left out to keep the file small.

    Raises:
      RecordingError: the file exists and may not be overwritten, or the disk refuses.
    """
    path = Path(path)
    shown = scene.brightest(GAUSSIANS)
    every = _step(shown)
    notes = []
    if len(shown.time) < scene.count:
        notes.append(f"{len(shown.time)} of {scene.count} Gaussians, those that give most")
    if every > 1:
        notes.append(f"one sample in {every}, {scene.example.sfreq / every:g} Hz")
    text = _html(json.dumps(_content(shown, every, notes), allow_nan=False))
    with staged(path.parent, [path.name], overwrite) as folder:
        (folder / path.name).write_text(text, encoding="utf-8")
    return notes


def _html(content: str) -> str:
    folder = importlib.resources.files("eegsr_jax.evaluation") / "browser"
    parts = {
        "__STYLE__": (folder / "style.css").read_text("utf-8"),
        "__SCRIPT__": "\n".join((folder / name).read_text("utf-8") for name in _SCRIPTS),
        "__SCENE__": content.replace("<", "\\u003c"),  # no name of a channel ends the element
    }
    whole = (folder / "page.html").read_text("utf-8")
    for place, part in parts.items():
        whole = whole.replace(place, part)
    return whole


def _step(scene: Scene) -> int:
    """Every how many samples one is kept."""
    samples, points = scene.beta.shape
    channels = 4 * len(scene.example.names)
    return max(1, -(-samples * (points + channels) // NUMBERS))


def _content(scene: Scene, every: int, notes: list[str]) -> dict[str, Any]:
    """What the page reads: millimetres from the centre of the head sphere, seconds, microvolts."""
    example, method = scene.example, scene.method
    unit, size = scene.unit
    centre, radius = fit_sphere(example.positions)
    samples = np.arange(len(scene.seconds))[::every]
    upper = scene.covariance[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    std = example.std[method]
    signals = {"truth": example.truth, "estimate": example.mean[method]}
    signals |= {"field": scene.field if scene.skip else None}
    signals |= {"std": std if np.isfinite(std).all() else None}
    start = int(np.abs(samples - example.peaks(1)[0]).argmin())
    arrays = {
        "seconds": _floats(scene.seconds[samples] - scene.seconds[0]),
        "electrodes": _floats(1e3 * (np.asarray(example.positions) - centre)),
        "head": _floats(example.head),
        "outline": _floats(topomap.outline(example.head)),
        "spline": _floats(topomap.spline(example.head)),
        "centres": _floats(1e3 * (scene.centres - centre)),
        "velocity": _floats(1e3 * scene.velocity),
        "covariance": _floats(1e6 * upper),
        "time": _floats(scene.time - scene.seconds[0]),
        "rate": _floats(scene.rate),
        "amplitude": _floats(size * scene.amplitude),
        "point": _floats(scene.point),
        "beta": _integers(size * scene.beta[samples].T),
    }
    arrays |= {k: _integers(1e6 * a[:, samples]) for k, a in signals.items() if a is not None}
    return {
        "title": page.without_paths(example.title),
        "method": method,
        "names": list(example.names),
        "missing": example.missing.tolist(),
        "start": float(scene.seconds[0]),
        "sfreq": example.sfreq / every,
        "frame": start,
        "radius": 1e3 * radius,
        "limit": 1e6 * scene.limit(),
        "brightness": size * scene.brightness(),
        "unit": unit,
        "share": scene.share(),
        "count": scene.count,
        "notes": notes,
        "arrays": arrays,
    }


def _floats(values: np.ndarray) -> dict[str, Any]:
    return {"shape": list(np.shape(values)), "float32": _text(np.asarray(values, "<f4"))}


def _integers(values: np.ndarray) -> dict[str, Any]:
    """Rows of 16 bits with a scale each: 90 dB below the largest number of the row is kept."""
    scale = np.maximum(np.abs(values).max(1), 1e-30) / _STEPS
    whole = np.round(values / scale[:, None])
    return {
        "shape": list(values.shape),
        "int16": _text(whole.astype("<i2")),
        "scale": _text(scale.astype("<f4")),
    }


def _text(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
