"""`benchmarks/export.py`: every way to start finds the same bits, and every part is timed.

Needs a checkout: the package alone lacks the benchmarks.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "export.py"
if not SCRIPT.exists():
    pytest.skip("no benchmarks here: an installed package", allow_module_level=True)


@pytest.mark.slow  # seven processes
def test_every_start_finds_the_same_bits():
    spec = importlib.util.spec_from_file_location("export_benchmark", SCRIPT)
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    result = script.measure("lagged_ridge", 1)
    assert result["same_bits"] and set(result["starts"]) == set(script.KINDS)
    for parts in result["starts"].values():
        assert parts["clock"]["all"] == pytest.approx(sum(parts["clock"][p] for p in script.PARTS))
    assert "| export, cached |" in script.table(result)
