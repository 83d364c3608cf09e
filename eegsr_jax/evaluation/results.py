"""Result rows: their files, and what they say over subjects.

A row is a dict: one method on one subject under one condition (layout, reference, seconds of
calibration). A score that is missing or not finite is null in files.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eegsr_jax.data.writing import staged
from eegsr_jax.errors import EEGSRError

Row = Mapping[str, Any]

ROW_KEYS = (
    "method",
    "layout",
    "factor",
    "reference",
    "nmse_missing",
    "nmse_all",
    "pcc_missing",
    "snr_missing_db",
    "coverage_90",
    "fit_seconds",
    "times_real_time",
    "split",
    "seed",
)
CONDITION = ("layout", "reference", "calibration_seconds")
FLOOR = "zero"  # the method of rows that say what predicting zero scores
_SCORES = ("nmse", "pcc", "snr", "coverage", "fit_seconds", "compile_seconds", "times_real_time")

# ----------------------------------------------------------------------------------------- files


def write_json(path: str | Path, header: Row, rows: Sequence[Row]) -> None:
    """Write `{"header": …, "rows": […]}`, one row a line; NaN and infinity become null.

    The file appears by rename and replaces one of that name.

    Raises:
      RecordingError: the disk refuses.
    """
    lines = ",\n".join(json.dumps(_plain(_ordered(row)), ensure_ascii=False) for row in rows)
    head = json.dumps(_plain(header), indent=1, ensure_ascii=False)
    write_text(path, f'{{\n"header": {head},\n"rows": [\n{lines}\n]\n}}\n')


def read_json(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and rows that `write_json` wrote.

    Raises:
      EEGSRError: no such file, or no results in it.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return dict(content["header"]), [dict(row) for row in content["rows"]]
    except OSError as error:
        raise EEGSRError(f"{path}: cannot be read: {error.strerror}; check the path") from None
    except (ValueError, KeyError, TypeError):
        raise EEGSRError(
            f'{path}: holds no results; expected the {{"header": …, "rows": […]}} of '
            "`eegsr evaluate`"
        ) from None


def write_csv(path: str | Path, rows: Sequence[Row]) -> None:
    """Write the rows as CSV: `ROW_KEYS` first, then all others by name; missing values are empty.

    The file appears by rename and replaces one of that name.

    Raises:
      RecordingError: the disk refuses.
    """
    plain = [_plain(row) for row in rows]
    columns = [*ROW_KEYS, *sorted(set().union(*plain) - set(ROW_KEYS))]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in plain:
        writer.writerow({k: " ".join(map(str, v)) if _many(v) else v for k, v in row.items()})
    write_text(path, text.getvalue())


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, which appears by rename and replaces one of that name."""
    path = Path(path)
    with staged(path.parent, [path.name], overwrite=True) as folder:
        (folder / path.name).write_text(text, encoding="utf-8")


def _ordered(row: Row) -> dict[str, Any]:
    first = {k: row[k] for k in ROW_KEYS if k in row}
    return first | {k: row[k] for k in sorted(row) if k not in first}


def _plain(value: Any) -> Any:
    """JSON's own types; NumPy's numbers and arrays become Python's."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if _many(value):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _many(value: Any) -> bool:
    return isinstance(value, list | tuple)


# ------------------------------------------------------------------------------- over subjects


def summarise(rows: Iterable[Row], by: Sequence[str] = ("method", *CONDITION)) -> list[dict]:
    """One row for each method and condition, over subjects.

    Several rows of one subject (seeds, sessions) are averaged first. A score has its median, and
    under `<score>_p5` and `<score>_p95` the percentiles; `n` counts the subjects that have an
    `nmse_missing`. What all rows agree on is kept, and `leaky` when any row is.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in by), []).append(row)
    return [
        dict(zip(by, key, strict=True)) | _agreed(members) | _over_subjects(members)
        for key, members in groups.items()
    ]


def _agreed(rows: Sequence[Row]) -> dict[str, Any]:
    keys = [k for k in dict.fromkeys(k for row in rows for k in row) if not _is_score(k)]
    found = {k: [row.get(k) for row in rows] for k in keys}
    same = {k: v[0] for k, v in found.items() if all(value == v[0] for value in v)}
    return same | ({"leaky": any(found["leaky"])} if "leaky" in found else {})


def _over_subjects(rows: Sequence[Row]) -> dict[str, Any]:
    out: dict[str, Any] = {"n": len(by_subject(rows, "nmse_missing"))}
    for score in sorted({k for row in rows for k in row if _is_score(k)}):
        values = list(by_subject(rows, score).values())
        low, median, high = np.percentile(values, (5, 50, 95)) if values else [math.nan] * 3
        out |= {score: float(median), f"{score}_p5": float(low), f"{score}_p95": float(high)}
    return out


def by_subject(rows: Iterable[Row], score: str) -> dict[Any, float]:
    """The mean of a score over each subject's rows (seeds); what is not finite is left out."""
    found: dict[Any, list[float]] = {}
    for row in rows:
        if (value := number(row.get(score))) is not None:
            found.setdefault(row.get("subject"), []).append(value)
    return {subject: float(np.mean(values)) for subject, values in found.items()}


def _is_score(key: str) -> bool:
    return key.startswith(_SCORES) and not key.endswith(("_p5", "_p95"))


def number(value: Any) -> float | None:
    """A finite number, or None."""
    fits = isinstance(value, int | float | np.number) and math.isfinite(value)
    return float(value) if fits else None


def paired(rows: Sequence[Row], baseline: str = "lagged_ridge") -> list[dict[str, Any]]:
    """Every method against `baseline` on the same subjects, for each condition that has both.

    Returns:
      Rows with `n` subjects, the median `difference` and `ratio` of `nmse_missing` (below 0 and 1
      the method is better), on how many subjects it is `better`, and Wilcoxon's signed-rank `p`
      (two-sided; 1 when nothing differs).

    Raises:
      EEGSRError: no row of the baseline.
    """
    from scipy.stats import wilcoxon

    groups: dict[tuple, dict[str, list[Row]]] = {}
    for row in rows:
        condition = tuple(row.get(key) for key in CONDITION)
        groups.setdefault(condition, {}).setdefault(row["method"], []).append(row)
    if not any(baseline in methods for methods in groups.values()):
        known = sorted({row["method"] for row in rows})
        raise EEGSRError(
            f"no rows of baseline {baseline!r}; there are {', '.join(known) or 'none'}"
        )
    out = []
    for condition, methods in groups.items():
        base = by_subject(methods.pop(baseline, ()), "nmse_missing")
        for method, members in methods.items():
            own = by_subject(members, "nmse_missing")
            pairs = np.array([(own[s], base[s]) for s in own if s in base])
            if not len(pairs):
                continue
            difference = pairs[:, 0] - pairs[:, 1]
            out.append(
                {"method": method, "baseline": baseline}
                | dict(zip(CONDITION, condition, strict=True))
                | {
                    "n": len(pairs),
                    "difference": float(np.median(difference)),
                    "ratio": float(np.median(pairs[:, 0] / pairs[:, 1])),
                    "better": int((difference < 0).sum()),
                    "p": float(wilcoxon(difference).pvalue) if difference.any() else 1.0,
                }
            )
    return out
