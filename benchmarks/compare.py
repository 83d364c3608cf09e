"""Two reports of one benchmark, row by row: before and after a change, or two machines.

    python benchmarks/compare.py BEFORE.json AFTER.json

Gives the ratio of medians, after over before, with both spreads (p10 to p90); a star marks where
the spreads do not overlap. What else differs (machine, versions, quickness) is said first.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from report import FORM, label

from eegsr_jax.evaluation.tables import three

CIRCUMSTANCES = ("machine", "cores", "device", "xla_flags", "versions", "quick")


def load(path: Path) -> dict[str, Any]:
    """A report.

    Raises:
      SystemExit: the file is none, in one line.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: cannot be read ({error})") from None
    form = found.get("form", "none") if isinstance(found, dict) else "none"
    if form != FORM:
        raise SystemExit(f"{path}: its form is {form!r}; expected {FORM!r}: measure it again")
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Lines on what differs beside the figures."""
    found = []
    for name in CIRCUMSTANCES:
        a, b = one[name], other[name]
        if isinstance(a, dict):
            keys = [key for key in a | b if a.get(key) != b.get(key)]
            a, b = (", ".join(f"{key} {x.get(key)}" for key in keys) for x in (a, b))
        if a != b:
            found.append(f"{name}: {a} -> {b}")
    return found


def compared(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Lines on every row, those that only one report has at the end.

    Raises:
      SystemExit: they are of different claims.
    """
    if before["claim"] != after["claim"] or before["names"] != after["names"]:
        claims = f"{before['claim']!r} and {after['claim']!r}"
        raise SystemExit(f"the reports are of {claims}; expected one claim and rows of one kind")
    names, sides = before["names"], []
    for report in (before, after):
        sides.append({tuple(row[name] for name in names): row for row in report["rows"]})
    shared = [key for key in sides[0] if key in sides[1]]
    lines = []
    for key in shared:
        a, b = (side[key] for side in sides)
        apart = a["p90_s"] < b["p10_s"] or b["p90_s"] < a["p10_s"]
        ratio = f"{b['median_s'] / a['median_s']:.2f}{' *' if apart else ''}"
        lines.append(f"{label(a, names)}: {ratio}, {_spread(a)} -> {_spread(b)} ms")
    for side, when in zip(sides, ("before", "after"), strict=True):
        lines += [f"{label(side[k], names)}: only {when}" for k in side if k not in shared]
    return lines


def _spread(row: dict[str, Any]) -> str:
    median, low, high = (three(1e3 * row[k]) for k in ("median_s", "p10_s", "p90_s"))
    return f"{median} ({low}–{high})"


def main() -> None:
    """Compares and prints."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    before, after = load(options.before), load(options.after)
    lines = compared(before, after)
    print("\n".join([*(f"differs, {text}" for text in differences(before, after)), *lines]))


if __name__ == "__main__":
    main()
