"""A page of results in Markdown: method by layout, with spread, pairs and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eegsr_jax.evaluation.metrics import PARTS
from eegsr_jax.evaluation.results import FLOOR, Row, paired
from eegsr_jax.evaluation.tables import markdown_grid, percent, ranking, reading, three

_SCORES = {
    "nmse_missing": "NMSE, missing channels only (lower is better; predicting zero is 1)",
    "snr_missing_db": "Signal to error, missing channels, dB",
    "snr_common_db": "Signal to error, dB, at those channels alone that no layout observes",
    "coverage_90": "Share of samples inside the 90 % error bars",
    "nmse_all": "NMSE over all channels, the given ones included (flatters)",
}


def page(title: str, header: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The page, for a file: one table for each score, reference and length of calibration."""
    rows = [row for row in rows if row["method"] != FLOOR]
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    parts = [
        f"# {title}",
        reading(rows),
        f"```\n{header['command']}\n```",
        _about(header, subjects, _seeds(rows)),
    ]
    conditions = dict.fromkeys((row["reference"], row["calibration_seconds"]) for row in rows)
    for reference, seconds in conditions:
        own = [
            r for r in rows if (r["reference"], r["calibration_seconds"]) == (reference, seconds)
        ]
        where = f"{reference} reference" + (f", {seconds:g} s of calibration" if seconds else "")
        for score, words in _SCORES.items():
            if all(row.get(score) is None for row in own):
                continue
            parts.append(f"## {words}: {where}\n\n{_grid(own, score)}")
        if fades := _along(own):
            title = f"NMSE along the window, {fades[0]}: {where}"
            parts.append(f"## {title}\n\n{markdown_grid(fades[1])}")
        for baseline in _baselines(own) if len(subjects) > 1 else ():
            title = f"Against `{baseline}`, subject by subject: {where}"
            parts.append(f"## {title}\n\n{_pairs(own, baseline)}")
    return "\n\n".join(parts) + "\n"


def _seeds(rows: Sequence[Row]) -> list[int]:
    return sorted({row["training_seed"] for row in rows if row.get("training_seed") is not None})


def _about(header: Mapping[str, Any], subjects: Sequence[str], seeds: Sequence[int]) -> str:
    lines = [f"{name}: {header[name]}" for name in ("protocol", "summary", "preprocessing")]
    lines += [f"quirk: {quirk}" for quirk in header["quirks"]]
    lines.append(f"data: {header['dataset']} ({header['licence']}), subjects {', '.join(subjects)}")
    layouts = ", ".join(f"{name} {digest}" for name, digest in header["layouts"].items())
    lines.append(f"channel-list hashes: {layouts}")
    versions = ", ".join(f"{name} {number}" for name, number in header["versions"].items())
    lines.append(f"versions: {versions}; commit {header['commit']}; device {header['device']}")
    if len(subjects) > 1:
        lines.append("cells: median over subjects (5-95 %)")
    if seeds:
        over = "each subject's are averaged" if len(subjects) > 1 else "median over them (5-95 %)"
        lines.append(f"seeds of methods trained by gradients: {', '.join(map(str, seeds))}; {over}")
    return "\n".join(f"- {line}" for line in lines)


def _grid(rows: Sequence[Row], score: str) -> str:
    layouts = list(dict.fromkeys(row["layout"] for row in rows))
    lines = [["method", *layouts]]
    for method in ranking(rows):
        cells = []
        for layout in layouts:
            own = [r for r in rows if (r["method"], r["layout"]) == (method, layout)]
            cells.append(_cell(_values(own, score), score))
        lines.append([f"`{method}`", *cells])
    return markdown_grid(lines)


def _along(rows: Sequence[Row]) -> tuple[str, list[list[str]]] | None:
    """Layout and lines of the table of the first layout, where a method changes along the window.

    Median over rows of each eighth; shown where the last quarter is twice the second or half of it
    for some method: others are level.
    """
    layout = rows[0]["layout"]
    names = [f"nmse_part_{i}" for i in range(1, PARTS + 1)]
    found = {}
    for method in ranking(rows):
        own = [r for r in rows if (r["method"], r["layout"]) == (method, layout)]
        values = [[r.get(n) for n in names] for r in own]
        if all(v is not None for value in values for v in value):
            found[method] = np.median(np.array(values, float), 0)
    ratios = [v[-2:].mean() / v[2:4].mean() for v in found.values()]
    if not any(r > 2 or r < 0.5 for r in ratios):
        return None
    lines = [["method", *(f"{i}/{PARTS}" for i in range(1, PARTS + 1))]]
    return layout, lines + [[f"`{m}`", *map(three, map(float, v))] for m, v in found.items()]


def _values(rows: Sequence[Row], score: str) -> np.ndarray:
    """One value a subject, its seeds averaged; of a single subject, one a seed."""
    subjects = dict.fromkeys(row["subject"] for row in rows)
    found = [[row.get(score) for row in rows if row["subject"] == subject] for subject in subjects]
    if len(found) == 1:
        return np.array([np.nan if v is None else v for v in found[0]], float)
    return np.array([np.mean([np.nan if v is None else v for v in own]) for own in found])


def _cell(values: np.ndarray, score: str) -> str:
    values = values[np.isfinite(values)]
    if not len(values):
        return "–"
    show = percent if score.startswith("coverage") else three
    middle = show(float(np.median(values)))
    if len(values) == 1:
        return middle
    low, high = np.percentile(values, [5, 95])
    return f"{middle} ({show(float(low))}–{show(float(high))})"


def _baselines(rows: Sequence[Row]) -> list[str]:
    """The lagged ridge, and the default spline that most people use."""
    names = list(dict.fromkeys(row["method"] for row in rows))
    lagged = [name for name in names if name.startswith("lagged_ridge")]
    best = ["lagged_ridge"] if "lagged_ridge" in lagged else lagged[:1]
    return best + [name for name in names if name == "spherical_spline"]


def _pairs(rows: Sequence[Row], baseline: str) -> str:
    lines = [["method", "layout", "median difference", "median ratio", "better on", "Wilcoxon p"]]
    for row in paired(rows, baseline):
        lines.append(
            [
                f"`{row['method']}`",
                row["layout"],
                f"{row['difference']:+.4f}",
                three(row["ratio"]),
                f"{row['better']} of {row['n']}",
                f"{row['p']:.2g}",
            ]
        )
    return markdown_grid(lines)
