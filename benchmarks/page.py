"""One page with plots of the reports in a folder.

    python benchmarks/page.py FOLDER PAGE.md

Machine and versions stand at the top once; where a report has others, it says so. The plots lie in
the folder: medians, whiskers from p10 to p90, on an axis of powers of ten.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare import differences, load
from report import ALWAYS, label

from eegsr_jax.data.manifest import replacing
from eegsr_jax.evaluation.tables import markdown_grid, three

MOST_COLOURS, ENDS = 4, ("p10_s", "p90_s")
UNITS = {"_per_s": " / s", "_ms": ", ms", "_mb": ", MB", "_s": ", s"}
Report = dict[str, Any]


def render(folder: Path, page: Path, first: Sequence[str] = (), absent: str = "") -> None:
    """Writes the page and the plots of all reports in a folder.

    Args:
      folder: of JSON files and, afterwards, of PNG files.
      page: Markdown.
      first: claims in the order in which they come; then the others.
      absent: a line about those that were not measured.

    Raises:
      SystemExit: there are none, or one is no report.
    """
    found = {path.stem: load(path) for path in sorted(folder.glob("*.json"))}
    if not found:
        raise SystemExit(f"{folder}: no reports")
    order = [claim for claim in first if claim in found]
    order += [claim for claim in found if claim not in order]
    head = found[order[0]]
    parts = [f"# Benchmarks{', quick' if head['quick'] else ''}", opening(head, absent)]
    for claim in order:
        report, picture = found[claim], folder / f"{claim}.png"
        plot(report, picture)
        where = Path(os.path.relpath(picture, page.parent)).as_posix()
        parts += section(report, head, where)
    with replacing(page, "w") as file:
        file.write("\n\n".join(parts) + "\n")


def opening(head: Report, absent: str) -> str:
    """What holds for all."""
    versions = ", ".join(f"{name} {head['versions'][name]}" for name in ALWAYS)
    device = head["device"]
    where = "" if device["platform"] == "cpu" else f", {device['kind']} ({device['platform']})"
    lines = [
        "Made by `make bench`, not by hand. Milliseconds of a call are medians and p10–p90,",
        "compiling apart. `benchmarks/compare.py` sets two JSON files of a claim side by side.",
        "",
        f"- {head['machine']}, cores: {head['cores']}{where}; {head['date']}",
        f"- {versions}",
        f"- XLA flags: {head['xla_flags'] or 'none'}",
    ]
    return "\n".join([*lines, *([f"- {absent}"] if absent else [])])


def section(report: Report, head: Report, picture: str) -> list[str]:
    """A claim: what it says, ratios, plot, rows."""
    sentence = report["sentence"][:1].upper() + report["sentence"][1:]
    load = " to ".join(f"{x:.1f}" for x in report["load_average"])
    how = [f"`{report['command']}`, load {load}"]
    how += [] if report["date"] == head["date"] else [report["date"]]
    how += [f"{name} {v}" for name, v in report["versions"].items() if name not in ALWAYS]
    top, own = (x | {"versions": {n: x["versions"][n] for n in ALWAYS}} for x in (head, report))
    how += [f"other than at the top, {text}" for text in differences(top, own)]
    ratios = [[name.replace("_", " "), three(x)] for name, x in report["headline"].items()]
    return [
        f"## {report['claim']}",
        f"**{sentence}**",
        "; ".join(how),
        markdown_grid([["headline", ""], *ratios]),
        f"![milliseconds a call]({picture})",
        markdown_grid(cells(report)),
    ]


def cells(report: Report) -> list[list[str]]:
    """The rows as a table, the head first."""
    rows, names = report["rows"], report["names"]
    compiled = any("temporary_byte" in row for row in rows)
    head = [*names, "ms", "p10–p90", "calls", *(["compiling, s", "temporary MB"] * compiled)]
    lines = [head + [_title(name) for name in report["columns"]]]
    for row in rows:
        median, low, high = (three(1e3 * row[k]) for k in ("median_s", "p10_s", "p90_s"))
        line = [_text(row[name]) for name in names]
        line += [median, f"{low}–{high}", str(row["calls"])]
        if compiled and "temporary_byte" in row:
            line.append(three(row["trace_s"] + row["lower_s"] + row["compile_s"]))
            line.append(three(row["temporary_byte"] / 1e6))
        elif compiled:
            line += ["", ""]
        lines.append(line + [_text(row.get(name)) for name in report["columns"]])
    return lines


def _title(key: str) -> str:
    for end, unit in UNITS.items():
        if key.endswith(end):
            return key.removesuffix(end).replace("_", " ") + unit
    return key.replace("_", " ")


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, int) or value.is_integer() else three(value)


def plot(report: Report, file: Path) -> None:
    """Medians with whiskers, a line for what a row names, a colour for who did it."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names, rows = report["names"], report["rows"]
    kinds = list(dict.fromkeys(row[names[-1]] for row in rows))
    coloured = len(names) > 1 and len(kinds) <= MOST_COLOURS
    shown = names[:-1] if coloured else names
    labels = list(dict.fromkeys(label(row, shown) for row in rows))
    count = len(kinds) if coloured else 1
    height = 0.9 + (0.16 + 0.07 * count) * len(labels) + 0.25 * coloured
    figure, axes = pyplot.subplots(figsize=(8, height), layout="constrained")
    for number, kind in enumerate(kinds if coloured else [None]):
        own = [row for row in rows if kind is None or row[names[-1]] == kind]
        x = [1e3 * row["median_s"] for row in own]
        ends = [[abs(1e3 * row[k] - m) for row, m in zip(own, x, strict=True)] for k in ENDS]
        shift = 0.6 / count * (number - (count - 1) / 2)
        y = [labels.index(label(row, shown)) + shift for row in own]
        axes.errorbar(x, y, xerr=ends, fmt="o", markersize=4, capsize=2, label=kind)
    axes.set_xscale("log")
    low, high = (1e3 * end(row[k] for row in rows) for end, k in ((min, "p10_s"), (max, "p90_s")))
    axes.set_xlim(10 ** math.floor(math.log10(low)), 10 ** (math.floor(math.log10(high)) + 1))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,g}" if x < 1e6 else f"{x:.0e}")
    axes.xaxis.set_minor_formatter(lambda x, _: "")  # between tens, where labels would overlap
    axes.set_xlabel("milliseconds a call, median and p10 to p90")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(which="both", axis="x", alpha=0.2)
    if coloured:
        figure.legend(loc="outside upper center", ncols=len(kinds), frameon=False)
    with replacing(file) as out:
        figure.savefig(out, dpi=100, format="png", metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    """Renders."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("folder", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args()
    render(options.folder, options.page)


if __name__ == "__main__":
    main()
