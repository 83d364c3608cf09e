"""The form of the benchmarks, their comparison and their page. No figure is tested.

Needs a checkout: the package alone lacks the benchmarks.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from eegsr_jax import throughput
from eegsr_jax.methods.base import GradientStage
from eegsr_jax.training import gradient
from eegsr_jax.training.loop import nameless

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("no benchmarks here: an installed package", allow_module_level=True)
HEAD = {"form", "claim", "sentence", "command", "date", "quick", "device", "machine", "cores"}
HEAD |= {"load_average", "versions", "xla_flags", "headline", "names", "columns", "rows"}
TIMES = {"calls", "median_s", "p10_s", "p90_s"}
COST = {"trace_s", "lower_s", "compile_s", "flop", "byte", "temporary_byte", "argument_byte"}


@pytest.fixture
def script(monkeypatch):
    """A script of the folder, by name, with those that it imports."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def said(script, monkeypatch, tmp_path):
    """What `dispatch.py --quick` says of one method, and the file."""
    dispatch, file = script("dispatch"), tmp_path / "reports" / "dispatch.json"
    monkeypatch.setattr(dispatch, "METHODS", ("ridge",))
    words = [str(BENCHMARKS / "dispatch.py"), "--quick", f"--json={file}"]
    monkeypatch.setattr(sys, "argv", words)
    dispatch.main()
    return json.loads(file.read_text()), file


def changed(report: dict, file: Path, **fields) -> Path:
    """Another file, with other fields."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(report | fields))
    return file


def test_the_form(said):
    report, _ = said
    assert set(report) == HEAD
    assert report["form"] == "eegsr_jax benchmark 1" and report["claim"] == "dispatch"
    assert report["sentence"].startswith("a call of a method costs what `jax.jit` costs")
    assert report["command"] == "python benchmarks/dispatch.py --quick" and report["quick"] is True
    assert set(report["versions"]) == {"python", "jax", "jaxlib", "numpy", "mne"}
    assert set(report["device"]) == {"kind", "platform"} and len(report["load_average"]) == 2
    assert list(report["headline"]) == ["ridge, apply over arrays in a row"]
    usual = {"method", "way", "arrays", "samples", "dtype"} | TIMES
    for row, way in zip(report["rows"], importlib.import_module("dispatch").WAYS, strict=True):
        assert row["way"] == way and row["calls"] == 21
        assert set(row) == usual | (COST if way in ("apply", "ahead of time") else set())
        assert 0 < row["p10_s"] <= row["median_s"] <= row["p90_s"]


def test_two_reports_side_by_side(said, script, monkeypatch, tmp_path, capsys):
    report, before = said
    first, *others = report["rows"]
    slower = first | {name: 2 * first[name] for name in ("median_s", "p10_s")}
    slower["p90_s"] = 2 * first["p90_s"]
    fields = {"quick": False, "versions": report["versions"] | {"jax": "9.9"}}
    fields["rows"] = [slower, others[0], *others[2:], others[1] | {"way": "sideways"}]
    after = changed(report, tmp_path / "after.json", **fields)
    monkeypatch.setattr(sys, "argv", ["compare.py", str(before), str(after)])
    capsys.readouterr()
    script("compare").main()
    found = capsys.readouterr().out.splitlines()
    assert found[:2] == [
        f"differs, versions: jax {report['versions']['jax']} -> jax 9.9",
        "differs, quick: True -> False",
    ]
    assert found[2].startswith("ridge, apply: 2.00") and " ms" in found[2]
    assert (" *" in found[2]) == (first["p90_s"] < 2 * first["p10_s"])
    assert found[3].startswith("ridge, arrays in a row: 1.00, ")
    assert found[-2:] == ["ridge, ahead of time: only before", "ridge, sideways: only after"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ({"claim": "linear"}, "of 'dispatch' and 'linear'; expected one claim"),
        ({"form": "eegsr_jax benchmark 0"}, "'eegsr_jax benchmark 0'; expected 'eegsr_jax"),
        ([], "other.json: its form is 'none'"),
        ("{", "other.json: cannot be read"),
        (None, "other.json: cannot be read"),
    ],
)
def test_reports_that_cannot_be_compared(said, script, monkeypatch, tmp_path, text, complaint):
    report, before = said
    other = tmp_path / "other.json"
    if isinstance(text, dict):
        changed(report, other, **text)
    elif text is not None:
        other.write_text(text if isinstance(text, str) else json.dumps(text))
    monkeypatch.setattr(sys, "argv", ["compare.py", str(before), str(other)])
    with pytest.raises(SystemExit) as refused:
        script("compare").main()
    assert complaint in str(refused.value) and "\n" not in str(refused.value)


def test_the_page_of_given_reports(said, script, tmp_path):
    report, file = said
    rows = [row | {"median_s": 2.5, "p90_s": 3.0, "arrays": None} for row in report["rows"]]
    other = {"claim": "other", "cores": 99, "rows": rows, "headline": {"a_b": 1234.5}}
    changed(report, file.with_name("other.json"), **other)
    page = tmp_path / "reports.md"
    script("page").render(file.parent, page, ("other", "dispatch"), "not measured: x")
    text = page.read_text()
    assert text.startswith("# Benchmarks, quick\n") and "- not measured: x\n" in text
    assert text.index("## other") < text.index("## dispatch")
    assert ", cores: 99; " in text and f"cores: 99 -> {report['cores']}" in text
    assert "| a b | 1,230 |" in text and "| ridge | apply | 2,500 | " in text
    assert "**A call of a method costs what `jax.jit` costs" in text
    for name in ("other", "dispatch"):
        assert f"](reports/{name}.png)" in text
        assert (file.parent / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="no reports"):
        script("page").render(tmp_path, page)


def test_a_failing_benchmark_stops_no_other(said, script, monkeypatch, tmp_path, capfd):
    report, _ = said
    every, out = script("every"), tmp_path / "quick"
    ready = changed(report, tmp_path / "ready.json", claim="good")
    write = f"import shutil, sys; shutil.copy({str(ready)!r}, sys.argv[-1])"
    (tmp_path / "good.py").write_text(write)
    (tmp_path / "bad.py").write_text("raise SystemExit('broken')")
    changed(report, out / "bad.json")  # of an earlier run
    monkeypatch.setattr(every, "HERE", tmp_path)
    monkeypatch.setattr(every, "CLAIMS", ("bad", "good"))
    monkeypatch.setattr(sys, "argv", ["every.py", f"--out={out}"])
    with pytest.raises(SystemExit, match="^failed: bad$"):
        every.main()
    assert "broken" in capfd.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["good.json", "good.png"]
    assert "not measured: bad" in (tmp_path / "quick.md").read_text()
    monkeypatch.setattr(sys, "argv", ["every.py", "linear"])
    with pytest.raises(SystemExit, match="2"):
        every.main()
    assert "unknown: linear; there are bad, good" in capfd.readouterr().err


def test_the_spread_of_known_seconds():
    found = throughput.spread([3.0, 1.0, 2.0, *range(10, 18)])
    assert found == throughput.Times(calls=11, median_s=12, p10_s=2.0, p90_s=16)


def stage() -> GradientStage:
    """Of one layer, that draws nothing."""

    def loss(params, batch, geometry):
        given, truth = batch["eeg"][:, geometry.observed_index], 1e5 * batch["eeg"]
        return jnp.mean((jnp.einsum("ml,blt->bmt", params["map"], 1e5 * given) - truth) ** 2), {}

    def optimizer(steps):
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3 / steps))

    score = lambda params, batch, geometry: jnp.ones(2)  # noqa: E731
    return GradientStage("layer", loss, score, ("map",), optimizer, 2, 4, average=0.98)


def test_a_step_by_hand_does_the_same_work(script, monkeypatch, tmp_path):
    training = script("training")
    monkeypatch.setattr(training, "WINDOWS", 8)
    windows, geometry = training.stored(tmp_path)
    where, own, key = nameless(geometry), stage(), jax.random.key(0)
    params = {"map": jnp.ones((64, 16)), "frozen": jnp.ones(3)}
    eeg = windows.load(0)[:4]
    with jax.numpy_dtype_promotion("standard"):  # as users have it, and optax needs it
        found, calls = training.steps(own, params, where, eeg, True, 2)
        state, batch = gradient.start(own, params, 1000), {"eeg": jnp.asarray(eeg)}
        tx, first = own.optimizer(1000), state.params
        hand = training.Averaged.create(apply_fn=None, params=first, tx=tx, average=first)
        frozen = {"frozen": params["frozen"]}
        run = jax.jit(functools.partial(training.by_hand, own))
        hand, loss = run(hand, frozen, batch, key, where)
    run = jax.jit(functools.partial(gradient.step, own, 1000))
    ours, metrics = run(state, params, batch, key, where)
    assert set(found) == set(calls) == {"step", "by hand"}
    assert found["by hand"]["flop"] == pytest.approx(found["step"]["flop"], rel=0.02)
    assert float(loss) == pytest.approx(float(metrics["loss"]), rel=1e-6)
    assert jnp.abs(hand.params["map"] - first["map"]).min() > 0
    assert jnp.allclose(hand.params["map"], ours.params["map"], rtol=0, atol=1e-7)


def test_waiting_for_windows_is_a_share_of_the_loop(script, monkeypatch, tmp_path):
    training = script("training")
    monkeypatch.setattr(training, "WINDOWS", 8)
    windows, geometry = training.stored(tmp_path)
    params = {"map": jnp.ones((64, 16))}
    aside = itertools.count(1.0).__next__
    where = nameless(geometry)
    seconds, waiting, by_hand = training.loop(stage(), params, where, windows, 3, aside)
    assert len(seconds) == 3 and seconds.min() > 0 and 0 < waiting < 1
    assert by_hand.tolist() == [3, 4, 5]  # not at the start, not after the epoch that compiles
