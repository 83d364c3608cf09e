"""Pages of results: seeds are no subjects, and a fade along the window is shown."""

from __future__ import annotations

from eegsr_jax.evaluation.metrics import PARTS
from eegsr_jax.evaluation.paper import page

HEADER = {
    "command": "eegsr evaluate",
    "protocol": "within_runs",
    "summary": "each subject by itself",
    "preprocessing": "none",
    "quirks": [],
    "dataset": "made up",
    "licence": "none",
    "layouts": {"case2_4x": "353d36d4"},
    "versions": {"jax": "0"},
    "commit": "abc",
    "device": "cpu",
}


def row(method, subject, nmse, seed=None, along=None):
    scores = {f"nmse_part_{i}": (along or [nmse] * PARTS)[i - 1] for i in range(1, PARTS + 1)}
    return scores | {
        "method": method,
        "layout": "case2_4x",
        "reference": "native",
        "calibration_seconds": 0.0,
        "subject": subject,
        "training_seed": seed,
        "leaky": False,
        "nmse_missing": nmse,
        "nmse_all": nmse / 2,
        "snr_missing_db": 10.0,
        "coverage_90": 0.9,
    }


def cell(text, method):
    line = next(line for line in text.splitlines() if line.startswith(f"| `{method}`"))
    return line.split("|")[2].strip()


def test_the_seeds_of_a_subject_are_averaged():
    rows = [row("lagged_ridge", s, v) for s, v in (("1", 0.1), ("2", 0.3), ("3", 0.2))]
    # Three seeds of subject 1 would pull a median over rows down to 0.1.
    rows += [row("emag", "1", v, seed) for seed, v in enumerate((0.04, 0.05, 0.06))]
    rows += [row("emag", "2", 0.25, 0), row("emag", "3", 0.15, 0)]
    text = page("title", HEADER, rows)
    assert cell(text, "emag").startswith("0.150 (0.0600–0.240)")
    assert "seeds of methods trained by gradients: 0, 1, 2; each subject's are averaged" in text
    assert "-0.0500" in text and "3 of 3" in text


def test_of_one_subject_the_spread_is_over_seeds():
    rows = [row("lagged_ridge", "1", 0.1)]
    rows += [row("emag", "1", v, seed) for seed, v in enumerate((0.04, 0.05, 0.06))]
    text = page("title", HEADER, rows)
    assert cell(text, "emag").startswith("0.0500 (0.0410–0.0590)")
    assert cell(text, "lagged_ridge") == "0.100"


def test_a_fade_along_the_window_is_shown_and_nothing_where_there_is_none():
    level = [row("lagged_ridge", "1", 0.1), row("ridge", "1", 0.12)]
    assert "along the window" not in page("title", HEADER, level)
    fading = row("emag_paper", "1", 0.5, 0, along=[0.1, 0.1, 0.2, 0.2, 0.5, 0.8, 1, 1])
    text = page("title", HEADER, [*level, fading])
    (line,) = (x for x in text.splitlines() if x.startswith("| `emag_paper` | 0.100 | 0.100"))
    assert line.endswith("| 0.800 | 1.00 | 1.00 |")


def test_densities_are_compared_on_the_channels_that_all_lack():
    rows = [row("lagged_ridge", "1", 0.1) | {"layout": y, "snr_common_db": v}
            for y, v in (("spread:4", 6.25), ("spread:8", 8.5))]  # fmt: skip
    title = "## Signal to error, dB, at those channels alone that no layout observes"
    text = page("title", HEADER, rows)
    _, _, after = text.partition(title)
    assert "| `lagged_ridge` | 6.25 | 8.50 |" in after.partition("##")[0]
    assert title not in page("title", HEADER, [row("lagged_ridge", "1", 0.1)])
