"""The words and tables of the report, as HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eegsr_jax.evaluation import tables
from eegsr_jax.evaluation.example import Example
from eegsr_jax.evaluation.metrics import NOMINAL
from eegsr_jax.evaluation.results import Row

LIMITS = (
    "For research only, not for diagnosis. Reconstructed channels are estimates from the given "
    "electrodes: they hold no information that those do not hold. Scores are of missing channels "
    "unless they say all; all-channel scores flatter, since given channels count as reconstructed. "
    "Error bars hold for data like those that the method was fitted on."
)
_LONG = 200  # characters of a header entry that are shown without a click
_PATH = re.compile(
    r"(?:https?|ftp)://\S+|(?P<path>(?<![\w.~)\]-])(?:[A-Za-z]:)?(?:[\\/]+[\w.+@=~-]+)+)"
)


def summary(
    header: Mapping[str, Any], rows: Sequence[Row], example: Example, notes: Sequence[str]
) -> str:
    """What the report opens with: the sentence, the table, what is shown, limits, the header."""
    missing = int(example.missing.sum())
    parts = []
    if rows:
        floors = [dict(row) for row in header.get("floors", ())]
        parts += [
            f"<p><b>{_text(tables.reading(rows))}</b></p>",
            tables.html_table([*floors, *rows]),
            _paired(rows),
            "<p>NMSE: squared error over the power of the truth, missing channels only, pooled; "
            "lower is better, and predicting zero scores 1.</p>",
        ]
    parts.append(
        f"<p>The pictures: {_text(example.title)}; {len(example.observed)} electrodes given "
        f"({_text(', '.join(example.observed))}), {missing} reconstructed.</p>"
    )
    if notes:
        parts.append(f"<ul>{''.join(f'<li>{_text(note)}</li>' for note in notes)}</ul>")
    parts.append(f"<p><i>{_text(LIMITS)}</i></p>")
    entries = {k: v for k, v in header.items() if k != "floors" and v not in (None, "", [], {})}
    if entries:
        lines = "".join(
            f"<dt>{_text(str(k).replace('_', ' '))}</dt><dd>{_entry(v)}</dd>"
            for k, v in entries.items()
        )
        parts.append(f"<dl>{lines}</dl>")
    return "\n".join(parts)


def _paired(rows: Sequence[Row]) -> str:
    """Every method against the lagged ridge, where there are several subjects."""
    methods = {row["method"] for row in rows}
    several = any(row["n"] > 1 for row in tables.summarise(rows))
    if not several or len(methods) < 2 or "lagged_ridge" not in methods:
        return ""
    return tables.html_table(tables.paired(rows, "lagged_ridge"))


def _entry(value: Any) -> str:
    """A header entry as HTML; a long one is folded."""
    text = _text(_flat(value))
    if len(text) <= _LONG:
        return text
    return f"<details><summary>{text[: text.rfind(' ', 0, 60)]} …</summary>{text}</details>"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_flat(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_flat, value))
    return str(value)


def channel_table(example: Example, methods: Sequence[str]) -> str:
    """Each missing channel with its scores by method, in HTML; the first method's worst first."""
    columns = {}
    for method in methods:
        scores = _channel_scores(example, method)
        columns |= {f"{method}: {label}": values for label, values in scores.items()}
    columns["nearest given, °"] = [_cell(angle) for angle in example.nearest_angle]
    worst = np.nan_to_num(example.quality(methods[0]))
    order = sorted(np.flatnonzero(example.missing), key=lambda i: -worst[i])
    body = [[example.names[i], *(values[i] for values in columns.values())] for i in order]
    return tables.html_grid("This stretch only.", ["channel", *columns], body)


def _channel_scores(example: Example, method: str) -> dict[str, list[str]]:
    """Cells by label, one for each channel."""
    shown = {"expected NMSE": [_cell(v) for v in example.expected_nmse(method)]}
    if example.truth is None:
        return shown
    mean, std = example.mean[method], example.std[method]
    inside = np.mean(np.abs(mean - example.truth) <= NOMINAL[90] * std, axis=1)
    covered = np.where(np.isfinite(std).all(1), inside, np.nan)
    return {
        "NMSE": [_cell(v) for v in example.quality(method)],
        **shown,
        "90 % bars cover": [tables.percent(v) if np.isfinite(v) else "–" for v in covered],
    }


def _cell(value: float) -> str:
    return tables.three(value) if np.isfinite(value) else "–"


def _text(text: str) -> str:
    return html.escape(without_paths(text))


def without_paths(text: str) -> str:
    """Text whose absolute paths are reduced to their last part; web addresses stay."""
    return _PATH.sub(lambda found: re.split(r"[\\/]", found["path"] or "")[-1] or found[0], text)
