"""Rows of the feature and downstream levels as files: JSON, CSV, a page in Markdown, a figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eegsr_jax.data.writing import staged
from eegsr_jax.evaluation.band_maps import band_maps
from eegsr_jax.evaluation.downstream_level import FULL, LOW
from eegsr_jax.evaluation.feature_level import OTHER, FeatureStudy
from eegsr_jax.evaluation.levels import Study
from eegsr_jax.evaluation.metrics import BANDS
from eegsr_jax.evaluation.results import FLOOR, Row, by_subject, write_csv, write_json, write_text
from eegsr_jax.evaluation.tables import markdown_grid, percent, three

FILES = {
    "features": ("results.json", "results.csv", "results.md", "topographies.png"),
    "downstream": ("results.json", "results.csv", "results.md"),
}
_DISTANCES = {
    "nmse_missing": "NMSE missing",
    "fid": "FID",
    "band_frechet_db": "band powers, Fréchet, dB",
    "band_error_db": "band powers, dB off",
    "degree_error_db": "scalp maps, dB off",
    "covariance_db": "covariance, dB",
    "covariance_window_db": "of single windows, dB",
}
_NAMES = {FULL: "the full cap", LOW: "the observed electrodes alone", OTHER: OTHER, FLOOR: "zeros"}
_LUCK = 0.05  # how often a guesser may be better than the bound that is printed


def write(
    out: Path, title: str, header: Mapping[str, Any], rows: Sequence[Row], study: Study
) -> None:
    """Write the files of `FILES` into a folder, in place of what is there.

    Raises:
      RecordingError: the disk refuses.
    """
    files = FILES[header["level"]]
    write_json(out / files[0], header, rows)
    write_csv(out / files[1], rows)
    write_text(out / files[2], page(title, header, rows))
    if isinstance(study, FeatureStudy):
        view = study.view
        where = f"subject {view.data.fold.subject}, {view.spec}, {view.reference} reference"
        figure = band_maps(study.maps, np.asarray(view.geometry.target), view.missing, where)
        with staged(out, files[3:], overwrite=True) as folder:
            figure.savefig(folder / files[3])


def page(title: str, header: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The page: sentences, how it was made, and tables."""
    parts = [f"# {title}", *reading(rows), f"```\n{header['command']}\n```", _about(header, rows)]
    if header["level"] == "features":
        parts.append(f"![band power over the head]({FILES['features'][3]})")
    for own, where in _conditions(rows):
        parts += _accuracies(own, where) if "accuracy" in own[0] else _distances(own, where)
    return "\n\n".join(parts) + "\n"


def reading(rows: Sequence[Row]) -> list[str]:
    """Sentences on the rows, one a condition."""
    sentences = []
    for own, where in _conditions(rows):
        if "accuracy" in own[0]:
            sentences += [_of_task(own, where, task) for task in _values(own, "task")]
        else:
            sentences.append(_of_features(own, where))
    return sentences


def _conditions(rows: Sequence[Row]) -> Iterable[tuple[list[Row], str]]:
    """The rows of each layout, reference and length of calibration, and words for it."""
    keys = ("layout", "reference", "calibration_seconds")
    for condition in dict.fromkeys(tuple(row[k] for k in keys) for row in rows):
        own = [row for row in rows if tuple(row[k] for k in keys) == condition]
        where = f"{condition[0]} ({own[0]['observed']} of {own[0]['targets']} electrodes given), "
        where += f"{condition[1].replace('_', ' ')} reference"
        yield own, where + (f", {condition[2]:g} s of calibration" if condition[2] else "")


def _about(header: Mapping[str, Any], rows: Sequence[Row]) -> str:
    lines = [f"{name}: {header[name]}" for name in ("protocol", "summary", "preprocessing")]
    lines += [f"quirk: {quirk}" for quirk in header["quirks"]]
    subjects = ", ".join(map(str, _values(rows, "subject")))
    lines.append(f"data: {header['dataset']} ({header['licence']}), subjects {subjects}")
    for network in header.get("feature_networks", ()):
        lines.append(f"feature network: {_of_network(network)}")
    if header["level"] == "features" and not header["feature_networks"]:
        lines.append("no feature network: all training windows have one label")
    layouts = ", ".join(f"{name} {digest}" for name, digest in header["layouts"].items())
    lines.append(f"channel-list hashes: {layouts}")
    versions = ", ".join(f"{name} {number}" for name, number in header["versions"].items())
    lines.append(f"versions: {versions}; commit {header['commit']}; device {header['device']}")
    middle = "median" if header["level"] == "features" else "mean"
    lines.append(f"cells: {middle} over subjects (5–95 %); seeds of a subject are averaged")
    return "\n".join(f"- {line}" for line in lines)


def _of_network(about: Mapping[str, Any]) -> str:
    text = f"{about['features']} features, {about['windows']} training windows"
    for question, found in about.items():
        if isinstance(found, Mapping):
            text += f"; {question}: {found['classes']} classes"
            if "accuracy" in found:
                text += f", {percent(found['accuracy'])} of the validation windows right "
                text += f"(always the commonest: {percent(found['commonest'])})"
    return text


# ---------------------------------------------------------------------------------------- features


def _distances(rows: Sequence[Row], where: str) -> list[str]:
    bands = {f"band_bias_{b}_db": b for b in BANDS if f"band_bias_{b}_db" in rows[0]}
    degrees = [key for key in rows[0] if key.startswith("degree_bias_")]
    finer = {key: key.split("_")[2] for key in degrees}
    tables = [
        (f"## Distances from the truth: {where}", _DISTANCES, three),
        (f"## Power by band, dB more than the truth's: {where}", bands, _signed),
        (f"## Power of scalp maps by degree, dB more than the truth's: {where}", finer, _signed),
    ]
    return [f"{title}\n\n{_table(rows, columns, show)}" for title, columns, show in tables]


def _table(rows: Sequence[Row], columns: Mapping[str, str], show: Callable[[float], str]) -> str:
    lines = [["method", *columns.values()]]
    for method in _values(rows, "method"):
        own = [row for row in rows if row["method"] == method]
        lines.append([_label(method), *(_cell(own, key, np.median, show) for key in columns)])
    return markdown_grid(lines)


def _of_features(rows: Sequence[Row], where: str) -> str:
    methods = [m for m in _values(rows, "method") if m not in _NAMES]
    parts = []
    for key, words in (
        ("fid", "lowest FID"),
        ("band_error_db", "truest band powers"),
        ("covariance_db", "truest covariance"),
        ("nmse_missing", "lowest NMSE"),
    ):
        found = {m: _middle([r for r in rows if r["method"] == m], key, np.median) for m in methods}
        found = {m: value for m, value in found.items() if np.isfinite(value)}
        if found:
            best = min(found, key=lambda m: found[m])
            unit = " dB off" if key.endswith("_db") else ""
            parts.append(f"{words}: {best} ({three(found[best])}{unit})")
    return f"{where}: {'; '.join(parts)}."


# -------------------------------------------------------------------------------------- downstream


def _accuracies(rows: Sequence[Row], where: str) -> list[str]:
    parts = []
    for task in _values(rows, "task"):
        own = [row for row in rows if row["task"] == task]
        lines = [["tested on", "accuracy", "minus the observed electrodes", "better on"]]
        for method in _values(own, "method"):
            mine = [row for row in own if row["method"] == method]
            accuracy = _cell(mine, "accuracy", np.mean, percent)
            lines.append([_label(method), accuracy, *_against(mine, own)])
        parts.append(f"## {task}: {where}\n\n{_luck(own)}\n\n{markdown_grid(lines)}")
    return parts


def _against(mine: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Mean difference from the observed electrodes alone, and on how many subjects it is above."""
    base = by_subject([r for r in rows if r["method"] == LOW], "accuracy")
    own = by_subject(mine, "accuracy")
    apart = np.array([own[s] - base[s] for s in own if s in base])
    if mine[0]["method"] == LOW or not len(apart):
        return ["–", "–"]
    level = f", as good on {int((apart == 0).sum())}" if (apart == 0).any() else ""
    return [f"{100 * apart.mean():+.1f} points", f"{(apart > 0).sum()} of {len(apart)}{level}"]


def _of_task(rows: Sequence[Row], where: str, task: str) -> str:
    own = [row for row in rows if row["task"] == task]

    def mean(method: str) -> float:
        return _middle([r for r in own if r["method"] == method], "accuracy", np.mean)

    methods = [m for m in _values(own, "method") if m not in _NAMES]
    best = max(methods, key=mean)
    return (
        f"{where}, {task}: {percent(mean(FULL))} on the full cap, {percent(mean(LOW))} on the "
        f"observed electrodes alone, {percent(mean(best))} on the best reconstruction ({best}, "
        f"chosen after the fact). {_luck(own)}"
    )


def _luck(rows: Sequence[Row]) -> str:
    """What guessing gets, and what it stays below as a rule."""
    from scipy.stats import binom

    one = [row for row in rows if row["method"] == FULL]
    trials, chance = sum(row["trials"] for row in one), one[0]["chance"]
    bound = binom.ppf(1 - _LUCK, trials, chance) / trials
    return (
        f"Guessing gets {percent(chance)}, and above {percent(bound)} on all {trials} trials once "
        "in twenty."
    )


# ----------------------------------------------------------------------------------- rows to cells


def _values(rows: Sequence[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def _label(method: str) -> str:
    return _NAMES.get(method, f"`{method}`")


def _middle(rows: Sequence[Row], key: str, middle: Callable[..., Any]) -> float:
    values = list(by_subject(rows, key).values())
    return float(middle(values)) if values else float("nan")


def _cell(
    rows: Sequence[Row], key: str, middle: Callable[..., Any], show: Callable[[float], str]
) -> str:
    values = list(by_subject(rows, key).values())
    if not values:
        return "–"
    text = show(float(middle(values)))
    if len(values) > 1:
        low, high = np.percentile(values, [5, 95])
        text += f" ({show(float(low))}–{show(float(high))})"
    return text


def _signed(value: float) -> str:
    return f"{value:+.2f}"
