"""Pages of the feature and downstream levels: what they say is what the rows say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binom

from eegsr_jax import methods as mt
from eegsr_jax.evaluation import levels, levels_page
from eegsr_jax.evaluation.downstream_level import FULL, LOW
from eegsr_jax.evaluation.feature_level import OTHER, FeatureLevel
from eegsr_jax.evaluation.folds import Options
from eegsr_jax.evaluation.protocols import protocol

HEADER = {
    "command": "eegsr evaluate --level=…", "protocol": "within_runs", "summary": "runs",
    "preprocessing": "none", "quirks": ["odd"], "dataset": "simulated", "licence": "CC0",
    "layouts": {"spread:8": "abc"}, "versions": {"jax": "1"}, "commit": "c", "device": "cpu",
}  # fmt: skip
WHERE = {
    "layout": "spread:8", "reference": "native", "calibration_seconds": 0.0, "observed": 8,
    "targets": 20,
}  # fmt: skip
ACCURACY = {  # by method, of three subjects
    FULL: (0.9, 0.8, 0.7),
    LOW: (0.7, 0.7, 0.5),
    "zero": (0.5, 0.5, 0.5),
    "ridge": (0.8, 0.7, 0.6),
    "ridge (draw)": (0.9, 0.6, 0.4),
}


def decoded():
    return [
        WHERE | {"method": method, "subject": str(i), "task": "a or b", "accuracy": value,
                 "chance": 0.5, "trials": 15}
        for method, values in ACCURACY.items() for i, value in enumerate(values, 1)
    ]  # fmt: skip


def test_accuracies_are_means_over_subjects_with_their_spread():
    text = levels_page.page("Title", HEADER | {"level": "downstream"}, decoded())
    low, high = np.percentile(ACCURACY["ridge"], [5, 95])
    assert f"| `ridge` | 70.0 % ({100 * low:.1f} %–{100 * high:.1f} %) |" in text
    # Against the observed electrodes alone: 0.1, 0 and 0.1; and 0.2, -0.1 and -0.1.
    assert "| +6.7 points | 2 of 3, as good on 1 |" in text
    assert "| `ridge (draw)` | 63.3 % (42.0 %–87.0 %) | +0.0 points | 1 of 3 |" in text
    assert "| the observed electrodes alone | 63.3 % (52.0 %–70.0 %) | – | – |" in text
    bound = binom.ppf(0.95, 45, 0.5) / 45
    assert f"Guessing gets 50.0 %, and above {100 * bound:.1f} % on all 45 trials once" in text
    assert "80.0 % on the full cap" in text and "(ridge, chosen after the fact)" in text
    assert "- quirk: odd" in text and "cells: mean over subjects" in text and "nan" not in text


def test_a_sentence_for_each_task_and_layout():
    rows = decoded()
    rows += [r | {"task": "rest or not"} for r in rows]
    rows += [r | {"layout": "spread:4", "observed": 4} for r in rows]
    assert [s.partition(" on the full cap")[0] for s in levels_page.reading(rows)] == [
        f"spread:{k} ({k} of 20 electrodes given), native reference, {task}: 80.0 %"
        for k in (8, 4)
        for task in ("a or b", "rest or not")
    ]


@pytest.fixture(scope="module")
def looked_at(store):
    chosen = protocol("within_runs")
    folds = chosen.folds(store, Options(subjects=("1",), train_runs=("1",), test_runs=("2",)))
    level = FeatureLevel(folds, chosen)
    compared = mt.parse("nearest,spherical_spline")
    rows, study = levels.compare(folds, chosen, level, compared, ["spread:8"])
    return rows, study, HEADER | {"level": "features", "feature_networks": level.about()}


def test_the_files_of_the_feature_level(looked_at, tmp_path):
    rows, study, header = looked_at
    levels_page.write(tmp_path / "out", "Title", header, rows, study)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        levels_page.FILES["features"]
    )
    text = (tmp_path / "out/results.md").read_text()
    assert "nan" not in text and OTHER in text and "| zeros |" in text
    assert "no feature network: all training windows have one label" in text
    assert "Power by band, dB more than the truth's" in text and "| finer |" in text
    spline = next(r for r in rows if r["method"] == "spherical_spline")
    assert f"| `spherical_spline` | {spline['nmse_missing']:.3g} | – |" in text
    assert f"{spline['band_bias_alpha_db']:+.2f}" in text
    content = json.loads((tmp_path / "out/results.json").read_text())
    assert len(content["rows"]) == 4 and content["rows"][0]["fid"] is None
    assert (tmp_path / "out/topographies.png").stat().st_size > 50_000


def test_the_maps_show_the_truth_every_estimate_and_the_differences(looked_at):
    _, study, _ = looked_at
    made = levels_page.band_maps(
        study.maps, np.asarray(study.view.geometry.target), study.view.missing, "title"
    )
    drawn = [ax for ax in made.axes if ax.images]
    assert len(drawn) == 3 * (3 + 2)  # three bands: truth and two estimates, two differences
    texts = {t.get_text() for ax in made.axes for t in ax.texts}
    assert {"truth", "nearest", "spherical_spline"} <= texts
    limits = {ax.images[0].get_clim() for ax in drawn}
    assert sum(low == -high for low, high in limits) == 1  # differences share one scale
    dots = [line for ax in drawn[:1] for line in ax.lines if line.get_marker() == "o"]
    assert sorted(len(line.get_xdata()) for line in dots) == [8, 12]


def test_the_sentence_names_the_best(looked_at):
    rows, _, _ = looked_at
    (sentence,) = levels_page.reading(rows)
    found = {r["method"]: r["covariance_db"] for r in rows if r["method"] != OTHER}
    found.pop("zero")
    best = min(found, key=lambda m: found[m])
    assert f"truest covariance: {best} ({found[best]:.3g}" in sentence
    assert "FID" not in sentence  # there is no network
