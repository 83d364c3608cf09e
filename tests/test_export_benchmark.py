"""`benchmarks/export.py`: every way to start finds the same bits, and every part is timed.

Needs a checkout: the package alone lacks the benchmarks.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("no benchmarks here: an installed package", allow_module_level=True)


@pytest.mark.slow  # seven processes
def test_every_start_finds_the_same_bits(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = importlib.import_module("export")
    rows = script.measure("lagged_ridge", 1)
    assert tuple(row["start"] for row in rows) == script.KINDS
    for row in rows:
        assert row["same_bits"] and row["calls"] == 1
        parts = [row[f"{part.replace(' ', '_')}_s"] for part in script.PARTS]
        assert row["median_s"] == row["all_s"] == pytest.approx(sum(parts))
