"""Result rows as tables and as one sentence.

What is missing or not finite is "–". `tables` also hands on the names of `results`, so that a
caller needs one module for all that happens to rows.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

import numpy as np

from eegsr_jax.evaluation.results import (
    CONDITION,
    FLOOR,
    ROW_KEYS,
    Row,
    number,
    paired,
    read_json,
    summarise,
    write_csv,
    write_json,
    write_text,
)

__all__ = [
    "FLOOR",
    "ROW_KEYS",
    "cells",
    "html_grid",
    "html_table",
    "markdown_grid",
    "markdown_table",
    "paired",
    "percent",
    "ranking",
    "read_json",
    "reading",
    "summarise",
    "text_table",
    "three",
    "write_csv",
    "write_json",
    "write_text",
]

# Methods in closed form; all others are trained by gradients and must beat the lagged ridge.
_CLOSED_FORM = (
    "zero nearest inverse_distance spherical_spline minimum_norm ridge lagged_ridge reduced_rank "
    "gaussian population"
).split()
_TRUSTED = (0.85, 0.95)  # what 90 % error bars may cover before a warning


def three(value: float) -> str:
    """A number with three significant digits."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{value:#.3g}".rstrip(".")


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f} %"


_LABELS: dict[str, tuple[str, Callable[[float], str]]] = {
    "nmse_missing": ("NMSE missing", three),
    "nmse_all": ("NMSE all (flatters)", three),
    "pcc_missing": ("PCC missing", three),
    "snr_missing_db": ("SNR dB", three),
    "coverage_90": ("90 % bars cover", percent),
    "fit_seconds": ("fit s", three),
    "times_real_time": ("× real time", three),
    "calibration_seconds": ("calibration s", "{:g}".format),
    "n": ("subjects", "{:.0f}".format),
    "better": ("better on", "{:.0f}".format),
    "difference": ("median difference", three),
    "ratio": ("median ratio", three),
    "p": ("Wilcoxon p", three),
}


def text_table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """The table for a terminal, aligned; see `cells`."""
    caption, head, body = cells(rows, columns)
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    left = [i < _texts(head) for i in range(len(head))]

    def line(parts: Sequence[str]) -> str:
        padded = (
            part.ljust(width) if to_left else part.rjust(width)
            for part, width, to_left in zip(parts, widths, left, strict=True)
        )
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([*([caption] if caption else []), line(head), rule, *map(line, body)])


def markdown_table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """The table in GitHub's Markdown; see `cells`."""
    caption, head, body = cells(rows, columns)
    rule = ["---" if i < _texts(head) else "---:" for i in range(len(head))]
    lines = ["| " + " | ".join(line) + " |" for line in [head, rule, *body]]
    return "\n".join([*([caption, ""] if caption else []), *lines])


def markdown_grid(lines: Sequence[Sequence[str]]) -> str:
    """Cells in GitHub's Markdown, the first line being the head."""
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|---" * len(lines[0]) + "|", *body])


def html_table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """The table as HTML, everything escaped; see `cells`."""
    return html_grid(*cells(rows, columns))


def html_grid(caption: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Cells as HTML, everything escaped, in the classes of the report's style sheet."""
    texts = _texts(head)

    def line(parts: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} style="text-align:{"left" if i < texts else "right"}">{html.escape(part)}'
            f"</{tag}>"
            for i, part in enumerate(parts)
        )

    lines = "\n".join(f"<tr>{line(parts, 'td')}</tr>" for parts in body)
    return (
        f'<p>{html.escape(caption)}</p>\n<table class="table table-sm table-hover" '
        f'style="width:auto">\n<thead><tr>{line(head, "th")}</tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody>\n</table>"
    )


def _texts(head: Sequence[str]) -> int:
    """How many leading columns hold words."""
    return sum(label in ("method", "layout", "reference", "channel") for label in head)


def cells(
    rows: Sequence[Row], columns: Sequence[str] | None = None
) -> tuple[str, list[str], list[list[str]]]:
    """Caption, column labels and cells of the table that the three formats share.

    Conditions come in the order of `rows`; within one, the floor ("zero") first, then methods by
    `nmse_missing` (or paired `ratio`). Several rows of one method in one condition (subjects,
    seeds) are shown as the median with the 5 to 95 % range. Three significant digits. What never
    changes is said once, in the caption.

    Args:
      rows: from an evaluation, or from `summarise` or `paired`.
      columns: keys of the rows; None takes those that the rows have, of the usual ones.
    """
    keys = [tuple(row.get(key) for key in ("method", *CONDITION)) for row in rows]
    if len(set(keys)) < len(keys):
        rows = summarise(rows)
    scored = [row for row in rows if row["method"] != FLOOR] or list(rows)
    varies = [k for k in CONDITION if len({row.get(k) for row in scored}) > 1]
    if columns is None:
        columns = ["method", *varies, *(k for k in _LABELS if k not in CONDITION)]
        columns = [c for c in columns if any(row.get(c) is not None for row in scored)]
        if all(row.get("n", 1) == 1 for row in scored):
            columns = [c for c in columns if c != "n"]
    place = {k: list(dict.fromkeys(row.get(k) for row in rows)) for k in CONDITION}

    def order(row: Row):
        score = number(row.get("nmse_missing", row.get("ratio")))
        where = [place[k].index(row.get(k)) for k in CONDITION]
        floor = row["method"] == FLOOR
        return where[0], not floor, where[1:], math.inf if score is None else score

    body = [[_cell(row, column) for column in columns] for row in sorted(rows, key=order)]
    return _caption(scored, varies), [_LABELS.get(c, (c,))[0] for c in columns], body


def _cell(row: Row, column: str) -> str:
    if column not in _LABELS and not isinstance(row.get(column), float):
        return "–" if row.get(column) is None else str(row[column])
    shown = _LABELS.get(column, ("", three))[1]
    value = number(row.get(column))
    if value is None or (column == "n" and row["method"] == FLOOR):
        return "–"
    low, high = number(row.get(f"{column}_p5")), number(row.get(f"{column}_p95"))
    if column != "nmse_missing" or low is None or high is None or row.get("n", 1) < 2:
        return shown(value)
    return f"{shown(value)} ({shown(low)} to {shown(high)})"


def _caption(rows: Sequence[Row], varies: Sequence[str]) -> str:
    if not rows:
        return ""
    parts = []
    if rows[0].get("layout") is not None and "layout" not in varies:
        parts.append(f"layout {rows[0]['layout']}{_given(rows[0])}")
    if rows[0].get("reference") is not None and "reference" not in varies:
        parts.append(f"{str(rows[0]['reference']).replace('_', ' ')} reference")
    if rows[0].get("calibration_seconds") and "calibration_seconds" not in varies:
        parts.append(f"{rows[0]['calibration_seconds']:g} s of calibration")
    if "baseline" in rows[0]:
        parts.append(f"on the same subjects as {rows[0]['baseline']}")
    elif any(row.get("n", 1) > 1 for row in rows):
        parts.append("median over subjects (5 to 95 %)")
    if any(row.get("leaky") for row in rows):
        parts.append("LEAKY split: the figures flatter")
    return "; ".join(parts)


def _given(row: Row) -> str:
    if row.get("observed") is None:
        return ""
    total = f" of {row['targets']}" if row.get("targets") is not None else ""
    return f" ({row['observed']}{total} electrodes given)"


# -------------------------------------------------------------------------------------- sentence


def ranking(rows: Sequence[Row]) -> list[str]:
    """Methods by their median `nmse_missing` over all rows, best first; without the floor."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["method"] != FLOOR and (score := number(row.get("nmse_missing"))) is not None:
            found.setdefault(row["method"], []).append(score)
    return sorted(found, key=lambda method: float(np.median(found[method])))


def reading(rows: Sequence[Row]) -> str:
    """One sentence on the rows: which method is best, by how much, and what to beware of.

    Ratios are to the default spline and to the lagged ridge, the median over conditions; the best
    method is the one that wins most of the conditions.
    """
    conditions: dict[tuple, dict[str, Row]] = {}
    for row in summarise(rows):
        if row["method"] != FLOOR and number(row.get("nmse_missing")) is not None:
            key = tuple(row.get(k) for k in CONDITION)
            conditions.setdefault(key, {})[row["method"]] = row
    if not conditions:
        return "No method has a score."
    wins = [min(c, key=lambda m: c[m]["nmse_missing"]) for c in conditions.values()]  # noqa: B023
    best = max(ranking(rows), key=wins.count)  # of equals, the first: the better one
    own = [c[best] for c in conditions.values() if best in c]
    lead = f"{best} reconstructs the missing channels best"
    if len(conditions) > 1:
        lead += f" in {wins.count(best)} of {len(conditions)} conditions"
    against = [
        f"{three(ratio)} × {name} {_range(conditions, other)}"
        for other, name in (
            ("spherical_spline", "the default spherical spline's"),
            (_lagged(conditions), "the lagged ridge's"),
        )
        if other not in (None, best)
        and (ratio := _median_ratio(conditions, best, other)) is not None
    ]
    figure = f"NMSE {_range(conditions, best)} (predicting zero: 1)"
    compared = f", {' and '.join(against)}" if against else ""
    text = f"{_where(own)}, {lead}: {figure}{compared}; {_bars(own)}"
    cautions = _cautions(rows, conditions, best, own)
    return f"{text}; caution: {', and '.join(cautions)}." if cautions else f"{text}."


def _where(own: Sequence[Row]) -> str:
    subjects = max(row["n"] for row in own)
    who = "On one subject" if subjects == 1 else f"Over {subjects} subjects (medians)"
    caption = _caption([{**own[0], "n": 1, "leaky": False}], ()) if len(own) == 1 else ""
    return f"{who}, {caption.replace('; ', ', ')}" if caption else who


def _range(conditions: dict, method: str) -> str:
    values = [c[method]["nmse_missing"] for c in conditions.values() if method in c]
    low, high = three(min(values)), three(max(values))
    return low if low == high else f"{low} to {high}"


def _median_ratio(conditions: dict, method: str, other: str) -> float | None:
    pairs = [(c[method], c[other]) for c in conditions.values() if method in c and other in c]
    ratios = [a["nmse_missing"] / b["nmse_missing"] for a, b in pairs if b["nmse_missing"] > 0]
    return float(np.median(ratios)) if ratios else None


def _lagged(conditions: dict) -> str | None:
    """The row to beat: the lagged ridge as it is by default, else with any options."""
    names = {m for c in conditions.values() for m in c if _base(m) == "lagged_ridge"}
    return min(names, key=len, default=None)


def _base(method: str) -> str:
    return method.partition("(")[0]


def _bars(own: Sequence[Row]) -> str:
    covers = [c for row in own if (c := number(row.get("coverage_90"))) is not None]
    if not covers:
        return "it gives no error bars"
    low, high = percent(min(covers)), percent(max(covers))
    return f"its 90 % error bars cover {low if low == high else f'{low} to {high}'}"


def _cautions(rows: Sequence[Row], conditions: dict, best: str, own: Sequence[Row]) -> list[str]:
    found = []
    if any(row.get("leaky") for row in rows):
        found.append("the split is leaky, so every figure flatters")
    if min(row["nmse_missing"] for row in own) >= 1:
        found.append("no method beats predicting zero")
    covers = [c for row in own if (c := number(row.get("coverage_90"))) is not None]
    if covers and min(covers) < _TRUSTED[0]:
        found.append("those error bars are too narrow")
    if covers and max(covers) > _TRUSTED[1]:
        found.append("those error bars are too wide")
    if (lagged := _lagged(conditions)) is None:
        found.append("no lagged ridge was run, which is the number to beat")
    else:
        for method in ranking(rows):
            ratio = _median_ratio(conditions, method, lagged)
            if _base(method) not in _CLOSED_FORM and ratio is not None and ratio > 1:
                found.append(f"{method} loses to the lagged ridge ({three(ratio)} ×)")
    if max(row["n"] for row in own) == 1:
        found.append("one subject says little about others")
    return found
