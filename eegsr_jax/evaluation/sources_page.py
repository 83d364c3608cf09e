"""Rows of `sources_compare` as files: JSON, CSV, a page in Markdown and a figure."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eegsr_jax.data.writing import staged
from eegsr_jax.evaluation import figures
from eegsr_jax.evaluation.results import Row, number, write_csv, write_json, write_text
from eegsr_jax.evaluation.sources import GAUSSIAN, INVERSES, READINGS
from eegsr_jax.evaluation.sources_compare import CONTROL, OBSERVED, TRUTH
from eegsr_jax.evaluation.sources_simulation import Simulation
from eegsr_jax.evaluation.tables import markdown_grid, three

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("results.json", "results.csv", "results.md", "localisation.png")
BEST = "eLORETA"  # the inverse that the figure and the sentences show
_FIELDS = tuple(f"field: {reading}" for reading in READINGS)
_MARKERS = "ov^s"
_NAMES = {TRUTH: "the full cap", OBSERVED: "the observed electrodes alone"}

Pick = Callable[[Row], bool]


def write(out: Path, header: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write `FILES` into a folder, in place of what is there.

    Raises:
      RecordingError: the disk refuses.
    """
    write_json(out / FILES[0], header, rows)
    write_csv(out / FILES[1], rows)
    write_text(out / FILES[2], page(header, rows))
    with staged(out, [FILES[3]], overwrite=True) as folder:
        by_depth(rows).savefig(folder / FILES[3])


def about(simulation: Simulation) -> dict[str, Any]:
    """What a header says of the simulation and of how sources were looked for."""
    fields = dataclasses.asdict(simulation) | {"montage": list(simulation.montage)}
    return {
        "protocol": "sources",
        "simulation": fields,
        "notes": {
            "inverse": "MNE-Python's minimum_norm: depth 0.8, free orientation, lambda2 1/9, white "
            "noise, average reference",
            "known head": "the spheres that made the data (an inverse crime); sources lie between "
            "the points of the inverse",
            "wrong head": "centre 5 mm off, skull 1.7 times as conductive",
        },
    }


def page(header: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The page: reconstruction, localisation by inverses, fields and controls, depth, noise."""
    parts = ["# Sources, simulated", *reading(rows), f"```\n{header['command']}\n```"]
    parts += [_about(header, rows), f"![localisation error by depth]({FILES[3]})"]
    parts.append(f"## NMSE of the missing channels\n\n{_reconstruction(rows)}")
    for head in _values(rows, "head"):
        for layout in _values(rows, "layout"):
            where = f"{_given(rows, layout)}, one source, {head} head"
            table = _by_inverse(rows, layout, head)
            parts.append(f"## Localisation error in mm: {where}\n\n{table}")
    for layout in _values(rows, "layout"):
        where = f"{_given(rows, layout)}, one source, known head"
        parts.append(f"## Fields and controls: {where}\n\n{_fields(rows, layout)}")
        for axis, words in (("eccentricity", "eccentricity"), ("snr_db", "SNR, dB")):
            table = _along(rows, layout, axis)
            parts.append(f"## Localisation error in mm by {words}: {where}\n\n{table}")
        table = _along(rows, layout, "sources")
        where = f"{_given(rows, layout)}, to the nearer source, known head"
        parts.append(f"## Localisation error in mm by number of sources: {where}\n\n{table}")
    return "\n\n".join(parts) + "\n"


def reading(rows: Sequence[Row]) -> list[str]:
    """Sentences on the rows, one a layout: what the electrodes, the estimate and the field tell."""
    return [_sentence(rows, layout) for layout in _values(rows, "layout")]


def _sentence(rows: Sequence[Row], layout: str) -> str:
    def error(method: str, estimator: str) -> float:
        return _middle(rows, "error_mm", _one(layout, method, estimator))

    best = min(_methods(rows), key=lambda m: error(m, BEST))
    text = (
        f"{_given(rows, layout)}: {BEST} misses one source by {error(TRUTH, BEST):.1f} mm on the "
        f"full cap, {error(OBSERVED, BEST):.1f} mm on the observed electrodes alone and "
        f"{error(best, BEST):.1f} mm on the best reconstruction ({best})"
    )
    controls = {e: error(CONTROL, e) for e in _values(rows, "estimator", CONTROL)}
    control = min(controls, key=lambda e: controls[e])
    text += f"; without any inverse, {control}: {controls[control]:.1f} mm"
    fields = [(m, e) for m in _methods(rows) for e in _FIELDS if np.isfinite(error(m, e))]
    if not fields:
        return text + "."
    method, reading = min(fields, key=lambda f: error(*f))
    own, against = (_subjects(rows, "error_mm", _one(layout, *f)) for f in (
        (method, reading), (CONTROL, control)
    ))  # fmt: skip
    wins = sum(own[s] < against[s] for s in own)
    return (
        f"{text}; the best reading of a field ({method}, {reading.partition(': ')[2]}, chosen "
        f"after the fact): {error(method, reading):.1f} mm, better than that control on {wins} of "
        f"{len(own)} subjects, and than {BEST} on the same observed electrodes on "
        f"{_wins(rows, layout, (method, reading), (OBSERVED, BEST))}."
    )


def _wins(rows: Sequence[Row], layout: str, *pair: tuple[str, str]) -> int:
    own, other = (_subjects(rows, "error_mm", _one(layout, *p)) for p in pair)
    return sum(own[s] < other[s] for s in own)


def _about(header: Mapping[str, Any], rows: Sequence[Row]) -> str:
    fields = {k: v for k, v in header["simulation"].items() if k != "montage"}
    lines = [f"simulation: {', '.join(f'{name} {value}' for name, value in fields.items())}"]
    trials = {
        (r["sources"], r["eccentricity"], r["snr_db"], r["subject"]): r["trials"] for r in rows
    }
    lines.append(
        f"{sum(trials.values())} test trials on {len(_values(rows, 'subject'))} subjects; cells: "
        "mean over a subject's trials, median over subjects (5–95 %)"
    )
    lines += [f"{name}: {words}" for name, words in header["notes"].items()]
    versions = ", ".join(f"{name} {number}" for name, number in header["versions"].items())
    lines.append(f"versions: {versions}; commit {header['commit']}; device {header['device']}")
    return "\n".join(f"- {line}" for line in lines)


# ------------------------------------------------------------------------------------------ tables


def _reconstruction(rows: Sequence[Row]) -> str:
    layouts = _values(rows, "layout")
    head = ["method"]
    head += [f"{layout}, {part}" for layout in layouts for part in ("whole trials", "evoked wave")]
    lines = [head]
    for method in _methods(rows):
        cells = [
            _cell(
                rows, key, lambda r, y=layout, m=method: (r["layout"], r["method"]) == (y, m), three
            )
            for layout in layouts
            for key in ("nmse_missing", "nmse_evoked")
        ]
        lines.append([f"`{method}`", *cells])
    return markdown_grid(lines)


def _by_inverse(rows: Sequence[Row], layout: str, head: str) -> str:
    lines = [["data", *INVERSES]]
    for method in (TRUTH, OBSERVED, *_methods(rows)):
        picks = [_one(layout, method, estimator, head) for estimator in INVERSES]
        lines.append([_label(method), *(_cell(rows, "error_mm", pick) for pick in picks)])
    return markdown_grid(lines)


def _fields(rows: Sequence[Row], layout: str) -> str:
    keys = {
        "error_mm": "error, mm",
        "dispersion_mm": "dispersion, mm",
        "floor_mm": "least error of its points, mm",
        "outside": "peak outside the brain",
        "silent": "of its energy, no electrode sees",
        "field_share": "of the estimate, rms",
    }
    lines = [["what", *keys.values()]]
    for method, estimator in _estimators(rows):
        pick = _one(layout, method, estimator)
        cells = [_cell(rows, key, pick, _mm if key.endswith("_mm") else three) for key in keys]
        if method == CONTROL:
            cells[1] = "–"  # one point has no spread
        lines.append([_label(method, estimator), *cells])
    return markdown_grid(lines)


def _along(rows: Sequence[Row], layout: str, axis: str) -> str:
    values = _values(rows, axis)
    lines = [["what", *(f"{value:g}" for value in values)]]
    for method, estimator in _estimators(rows):
        cells = []
        for value in values:
            one = _one(layout, method, estimator, sources=None if axis == "sources" else 1)
            cells.append(
                _cell(rows, "error_mm", lambda r, one=one, v=value: one(r) and r[axis] == v)
            )
        lines.append([_label(method, estimator), *cells])
    return markdown_grid(lines)


def _estimators(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What is shown side by side: the best inverse on all data, fields, controls."""
    found = [(method, BEST) for method in (TRUTH, OBSERVED, *_methods(rows))]
    found += [(method, name) for method in (TRUTH, OBSERVED) for name in GAUSSIAN]
    fields = dict.fromkeys((r["method"], r["estimator"]) for r in rows if "outside" in r)
    return [*found, *fields, *((CONTROL, e) for e in _values(rows, "estimator", CONTROL))]


def _label(method: str, estimator: str | None = None) -> str:
    if method == CONTROL:
        return str(estimator)
    name = _NAMES.get(method, f"`{method}`")
    if estimator is None:
        return name
    return f"{estimator} on {name}" if estimator in INVERSES else f"{name}, {estimator}"


# --------------------------------------------------------------------------------- rows to numbers


def _one(
    layout: str, method: str, estimator: str, head: str = "known", sources: int | None = 1
) -> Pick:
    wanted = (layout, method, estimator, head)

    def pick(row: Row) -> bool:
        found = (row["layout"], row["method"], row.get("estimator"), row.get("head"))
        return found == wanted and sources in (None, row["sources"])

    return pick


def _subjects(rows: Sequence[Row], key: str, pick: Pick) -> dict[str, float]:
    """The mean over each subject's trials."""
    sums: dict[str, list[tuple[float, int]]] = {}
    for row in rows:
        if pick(row) and (value := number(row.get(key))) is not None:
            sums.setdefault(row["subject"], []).append((value, row["trials"]))
    return {subject: _mean(found) for subject, found in sums.items()}


def _mean(found: Sequence[tuple[float, int]]) -> float:
    values, weights = zip(*found, strict=True)
    return float(np.average(values, weights=weights))


def _middle(rows: Sequence[Row], key: str, pick: Pick) -> float:
    values = list(_subjects(rows, key, pick).values())
    return float(np.median(values)) if values else float("nan")


def _mm(value: float) -> str:
    return f"{value:.1f}"


def _cell(rows: Sequence[Row], key: str, pick: Pick, show: Callable[[float], str] = _mm) -> str:
    values = list(_subjects(rows, key, pick).values())
    if not values:
        return "–"
    text = show(float(np.median(values)))
    if len(values) > 1:
        low, high = np.percentile(values, [5, 95])
        text += f" ({show(float(low))}–{show(float(high))})"
    asked = {row["subject"] for row in rows if pick(row) and key in row}
    return text if len(values) == len(asked) else f"{text}; {len(values)} of {len(asked)} subjects"


def _values(rows: Sequence[Row], key: str, method: str | None = None) -> list[Any]:
    found = [r.get(key) for r in rows if method in (None, r["method"])]
    return [value for value in dict.fromkeys(found) if value is not None]


def _methods(rows: Sequence[Row]) -> list[str]:
    names = _values(rows, "method")
    return [name for name in names if name not in (TRUTH, OBSERVED, CONTROL)]


def _given(rows: Sequence[Row], layout: str) -> str:
    count = next(r["observed"] for r in rows if r["layout"] == layout)
    return f"{layout} ({count} electrodes)"


# ------------------------------------------------------------------------------------------ figure


def by_depth(rows: Sequence[Row]) -> Figure:
    """Localisation error against eccentricity, a panel a layout: medians over subjects."""
    layouts, steps = _values(rows, "layout"), _values(rows, "eccentricity")
    shades, controls = figures.colours(_methods(rows)), _values(rows, "estimator", CONTROL)
    with figures.figure(5.0 * len(layouts) + 3.2, 4.6) as made:
        axes = made.subplots(1, len(layouts), sharey=True, squeeze=False)[0]
        for ax, layout in zip(axes, layouts, strict=True):
            for method, estimator in _drawn(rows, layout):
                look: dict[str, Any] = {"color": shades.get(method, "black"), "lw": 1.2}
                label = _label(method, estimator).replace("`", "")
                if estimator in GAUSSIAN:
                    look |= {"color": "tab:brown", "ls": "--" if method == OBSERVED else "-"}
                elif method in _NAMES:
                    look |= {"ls": "--" if method == OBSERVED else "-", "lw": 2.0}
                elif method == CONTROL:
                    mark = _MARKERS[controls.index(estimator) % len(_MARKERS)]
                    look |= {"color": "0.6", "ls": ":", "marker": mark, "ms": 5}
                elif estimator not in INVERSES:
                    look |= {"ls": "--", "lw": 1.6, "marker": "D", "ms": 4}
                    label = f"{method}, its field, best reading"
                errors = [
                    _middle(rows, "error_mm", _at(_one(layout, method, estimator), step))
                    for step in steps
                ]
                ax.plot(steps, errors, label=textwrap.fill(label, 48), **look)
            ax.set_title(_given(rows, layout), loc="left")
            ax.set_xlabel("eccentricity of the source, head radii (deep to shallow)")
            ax.set_ylim(bottom=0)
        axes[0].set_ylabel("localisation error, mm")
        lines, labels = axes[-1].get_legend_handles_labels()
        made.legend(lines, labels, loc="outside right center")
        height = 0.2 * sum(str(label).count("\n") + 1.3 for label in labels)  # inches
        made.set_figheight(max(4.6, height))
        return made


def _at(pick: Pick, eccentricity: float) -> Pick:
    return lambda row: pick(row) and row["eccentricity"] == eccentricity


def _drawn(rows: Sequence[Row], layout: str) -> list[tuple[str, str]]:
    """`_estimators`, of each field only the reading that is best, of Gaussians the standardised."""

    def error(pair: tuple[str, str]) -> float:
        return np.nan_to_num(_middle(rows, "error_mm", _one(layout, *pair)), nan=np.inf)

    found = _estimators(rows)
    fields = [pair for pair in found if pair[1] in _FIELDS]
    best = {min((f for f in fields if f[0] == m), key=error) for m in dict(fields)}
    best |= {(method, GAUSSIAN[1]) for method in (TRUTH, OBSERVED)}
    others = {pair for pair in found if pair[1] not in (*_FIELDS, *GAUSSIAN)}
    return [pair for pair in found if pair in best | others]
