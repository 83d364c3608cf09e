"""`eegsr export`: a run as files that need JAX only."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import eegsr_jax
from eegsr_jax.commands.main import main


def test_a_run_is_exported_and_called(run, tmp_path, capsys, rng):
    out = tmp_path / "exported"
    assert main(["export", str(run), str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{out}: lagged_ridge(lags=2), 12 channels in, 20 out, any number of samples" in said
    assert "mean_std.bin" in said and "kB" in said and "may refuse it" in said
    loaded, (method, params, where) = eegsr_jax.load_exported(out), eegsr_jax.load(run)
    x = 1e-5 * rng.standard_normal((3, 12, 50)).astype(np.float32)
    expected = jax.jit(method.apply)(method.plan(params, where), x, None)
    for a, b in zip(loaded(x), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-12)  # plans of two programs
    origin = loaded.card.origin
    assert (origin.method, origin.sfreq, origin.l_freq) == ("lagged_ridge(lags=2)", 100.0, None)
    assert origin.dataset == "files" and len(origin.recordings) == 1
    assert origin.reference and origin.unit == "V"
    assert [e.name for e in loaded.card.observed] == list(where.observed_names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--samples=0"], "samples=0: expected 1 or more"),
        ([], "exists; choose another name, or say --overwrite"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(run, tmp_path, capsys, words, message):
    if not words:
        (tmp_path / "out").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", str(run), str(tmp_path / "out"), *words]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_no_run_is_refused(tmp_path, capsys):
    assert main(["export", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "is no run directory" in capsys.readouterr().err
