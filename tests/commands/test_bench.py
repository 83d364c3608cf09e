"""`eegsr bench`: how fast a run is on the device at hand."""

from __future__ import annotations

import json

import pytest

from eegsr_jax import throughput
from eegsr_jax.commands.main import main


@pytest.fixture(autouse=True)
def few_calls(monkeypatch):
    """Figures are not tested here, only where they come from."""
    monkeypatch.setattr(throughput, "CALLS", 3)
    monkeypatch.setattr(throughput, "SECONDS", 0.0)
    monkeypatch.setattr(throughput, "_SIDE", 64)
    monkeypatch.setattr(throughput, "_LENGTH", 2**12)


def test_a_run_is_measured(run, tmp_path, capsys):
    out = tmp_path / "bench.json"
    words = ["bench", str(run), "--batches=1,3", "--seconds=0.5", f"--json={out}"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "lagged_ridge(lags=2): 12 -> 20 channels, windows of 50 samples at 100 Hz" in said
    assert "windows a call on, apply is within a tenth of its fastest" in said
    found = json.loads(out.read_text())
    assert [row["batch"] for row in found["rows"]] == [1, 3]
    assert {row["function"] for row in found["rows"]} == {"apply"}
    for row in found["rows"]:
        assert 0 < row["p10_s"] <= row["median_s"] <= row["p90_s"] and row["calls"] == 3
        assert row["windows_per_s"] == pytest.approx(row["batch"] / row["median_s"])
        assert row["real_time"] == pytest.approx(0.5 * row["windows_per_s"])
        assert min(row["trace_s"], row["lower_s"], row["compile_s"]) > 0
        # Five taps of 12 x 20 weights for each sample, twice: no less is counted.
        assert row["flop"] >= 2 * row["batch"] * 50 * 5 * 12 * 20
        assert row["argument_byte"] >= 4 * row["batch"] * 12 * 50
    assert found["limits"]["flop"] > 0 and found["limits"]["byte"] > 0
    assert main(words) == 2
    assert "exists; choose another name, or say --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("batches", ["", "0", "8,some", "-1"])
def test_batches_that_cannot_be(run, capsys, batches):
    assert main(["bench", str(run), f"--batches={batches}"]) == 2
    said = capsys.readouterr().err
    assert (
        "--batches: " in said and "expected numbers of 1 or more" in said and said.count("\n") == 1
    )


def test_the_knee_is_the_smallest_batch_that_is_nearly_as_fast():
    assert throughput.knee({1: 10.0, 8: 95.0, 64: 100.0, 512: 60.0}) == 8
