"""Claim: draws of `srgdiff` are like EEG, few steps suffice, and its bars need few of them.

python benchmarks/posterior_draws.py --root=EEGMMIDB --subject=1 --train_runs=3,4,5,6,7,8,9,10 \
    --test_runs=11,12,13,14 [--layouts=case2_4x,case2_8x] [--out=FILE.md] [--json=FILE]

Within one subject. Three tables for each layout:

- by draws K: error of the mean of K draws, against the mean itself (which needs none); how many
  samples lie within the 90 % bars, as they come out of K draws and after the correction on
  validation windows; and how well the bars fit, as the log likelihood of the errors beyond that of
  bars that never change.
- by steps of the sampler: what draws look like (evaluation/features.py), and what one costs.
- with the diffusion and without it (`epochs=0`: draws in closed form).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eegsr_jax import methods
from eegsr_jax.data import datasets, splits
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import Store, open_store, prepare
from eegsr_jax.evaluation import features
from eegsr_jax.evaluation.folds import Fold
from eegsr_jax.evaluation.protocols import protocol
from eegsr_jax.evaluation.tables import markdown_grid
from eegsr_jax.evaluation.views import View, views
from eegsr_jax.methods.base import Method
from eegsr_jax.training.loop import fit, jitted, nameless, run_stage

DRAWS, STEPS = (1, 2, 4, 8, 16), (1, 2, 3, 4, 8, 16)
NINETY, BATCH, REPEATS = 1.644854, 32, 5
FEATURES = ("band_error_db", "degree_error_db", "covariance_db", "band_frechet_db")


def reconstructed(function: Any, plan: Any, view: View, eeg: np.ndarray, seed: int) -> Any:
    """Of windows `[N, M, time]`: what a method's `apply` or `draw` says, in batches."""
    found = []
    for number, start in enumerate(range(0, len(eeg), BATCH)):
        own = eeg[start : start + BATCH, view.index]
        given = np.pad(own, [(0, BATCH - len(own)), (0, 0), (0, 0)])
        key = jax.random.fold_in(jax.random.key(seed), number)
        made = jitted(function)(plan, given, key)
        found.append(jax.tree.map(lambda x, n=len(own): np.asarray(x)[:n], made))
    return jax.tree.map(lambda *x: np.concatenate(x), *found)


def nmse(mean: np.ndarray, truth: np.ndarray, view: View) -> float:
    """Of missing channels, pooled."""
    wrong = (mean - truth)[:, view.missing].astype(np.float64)
    return float((wrong**2).sum() / (truth[:, view.missing].astype(np.float64) ** 2).sum())


def likelihood(wrong: np.ndarray, std: np.ndarray) -> float:
    """Mean log density of errors under normals of these standard errors; log of volts dropped."""
    wrong, std = wrong.astype(np.float64), std.astype(np.float64)
    return float(np.mean(-np.log(std) - 0.5 * (wrong / std) ** 2))


def by_draws(params: Any, view: View, truth: np.ndarray) -> list[dict[str, float]]:
    """One row for each number of draws."""
    where, rows, total = nameless(view.geometry), [], 0.0
    method = methods.make("srgdiff")
    plan = jitted(method.plan)(params, where)
    calibrated = view.training().load(1)  # validation windows: their errors make fixed bars
    center = reconstructed(method.apply, plan, view, calibrated, 0).mean
    fixed = np.sqrt(((center - calibrated)[:, view.missing] ** 2).mean((0, 2)))[None, :, None]
    for seed in range(max(DRAWS)):
        total = total + reconstructed(method.draw, plan, view, truth, 100 + seed)
        count = seed + 1
        if count not in DRAWS:
            continue
        own = methods.make("srgdiff", draws=count)
        corrected = run_stage(
            own.stages[-1], params, view.geometry, view.training(), jax.random.key(0)
        )
        raw = corrected | {name: np.ones_like(params[name]) for name in ("spread", "bars")}
        bars = {}
        for name, used in (("corrected", corrected), ("raw", raw)):
            found = reconstructed(own.apply, jitted(own.plan)(used, where), view, truth, 0)
            wrong, std = ((x[:, view.missing]) for x in (found.mean - truth, found.std))
            bars[f"coverage_{name}"] = float((np.abs(wrong) <= NINETY * std).mean())
            gained = likelihood(wrong, std) - likelihood(wrong, np.broadcast_to(fixed, wrong.shape))
            bars[f"gained_{name}"] = gained
        rows.append({"draws": count, "nmse_of_their_mean": nmse(total / count, truth, view)} | bars)
    return rows


def looks(method: Method, params: Any, view: View, truth: np.ndarray) -> dict[str, float]:
    """How far one draw is from EEG, and milliseconds a window."""
    plan = jitted(method.plan)(params, nameless(view.geometry))
    drawn = reconstructed(method.draw, plan, view, truth, 1)
    of = features.harmonics(np.asarray(view.geometry.target))
    true, other = (features.describe(x, view.data.sfreq, of) for x in (truth, drawn))
    distances = features.distances(true, other, view.missing)
    given = np.zeros((BATCH, len(view.index), truth.shape[2]), np.float32)
    seconds = []
    for seed in range(REPEATS):
        begin = time.perf_counter()
        jax.block_until_ready(jitted(method.draw)(plan, given, jax.random.key(seed)))
        seconds.append(time.perf_counter() - begin)
    cost = {"nmse": nmse(drawn, truth, view), "ms": 1e3 * float(np.median(seconds)) / BATCH}
    return {name: distances[name] for name in FEATURES} | cost


def measured(store: Store, arguments: argparse.Namespace, layout: str) -> dict[str, Any]:
    """All three tables of a layout."""
    split = splits.by_run(store, arguments.train_runs.split(","), arguments.test_runs.split(","))
    fold = Fold(subject=arguments.subject, store=store, split=split)
    (view,) = views(fold, protocol("within_runs"), [layout])
    truth = np.concatenate([b["eeg"] for b in view.data.batches(split.test)])
    method = methods.make("srgdiff")
    params = fit(method, view.geometry, view.training(), key=jax.random.key(0))
    closed = methods.make("srgdiff", epochs=0)
    flat = fit(closed, view.geometry, view.training(), key=jax.random.key(0))
    plan = jitted(method.plan)(params, nameless(view.geometry))
    mean = reconstructed(method.apply, plan, view, truth, 0).mean
    of = features.harmonics(np.asarray(view.geometry.target))
    true, other = (features.describe(x, view.data.sfreq, of) for x in (truth, mean))
    distances = features.distances(true, other, view.missing)
    own = {name: distances[name] for name in FEATURES} | {"nmse": nmse(mean, truth, view)}
    return {
        "windows": len(truth),
        "mean": own,
        "closed_form": looks(closed, flat, view, truth),
        "steps": [
            {"steps": n} | looks(methods.make("srgdiff", steps=n), params, view, truth)
            for n in STEPS
        ],
        "draws": by_draws(params, view, truth),
    }


def page(report: dict[str, Any]) -> str:
    """The tables of all layouts."""
    parts = []
    for layout, found in report.items():
        looks_head = ["", "band power, dB", "degrees, dB", "covariance, dB", "band Fréchet, dB"]
        rows = [
            [
                "mean",
                *(f"{found['mean'][n]:.2f}" for n in FEATURES),
                f"{found['mean']['nmse']:.4f}",
                "",
            ]
        ]
        named = [("draw in closed form (`epochs=0`)", found["closed_form"])]
        named += [(f"draw, {row['steps']} steps", row) for row in found["steps"]]
        for name, row in named:
            figures = [f"{row[n]:.2f}" for n in FEATURES]
            rows.append([name, *figures, f"{row['nmse']:.4f}", f"{row['ms']:.1f}"])
        parts += [f"## {layout}: {found['windows']} test windows\n"]
        parts += [markdown_grid([[*looks_head, "NMSE", "ms a window"], *rows]), ""]
        head = ["draws", "NMSE of their mean", "within 90 % bars", "the same, uncorrected"]
        head += ["log likelihood gained a sample", "the same, uncorrected"]
        rows = [
            [
                str(row["draws"]),
                f"{row['nmse_of_their_mean']:.4f}",
                f"{row['coverage_corrected']:.1%}",
                f"{row['coverage_raw']:.1%}",
                f"{row['gained_corrected']:+.4f}",
                f"{row['gained_raw']:+.4f}",
            ]
            for row in found["draws"]
        ]
        parts += [markdown_grid([head, *rows]), ""]
    return "\n".join(parts)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", help="folder of EEGMMIDB")
    parser.add_argument("--store", help="prepared before, in the place of --root")
    parser.add_argument("--subject", default="1")
    parser.add_argument("--train_runs", default="3,4,5,6,7,8,9,10")
    parser.add_argument("--test_runs", default="11,12,13,14")
    parser.add_argument("--layouts", default="case2_4x,case2_8x")
    parser.add_argument("--out")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    runs = tuple(f"{arguments.train_runs},{arguments.test_runs}".split(","))
    with tempfile.TemporaryDirectory() as folder:
        if arguments.store:
            store = open_store(Path(arguments.store)).select(subjects=[arguments.subject])
        else:
            subjects = (arguments.subject,)
            data = datasets.load("eegbci", arguments.root, subjects=subjects, runs=runs)
            store = prepare(data, Path(folder) / "store", PREPROCESSING["dibima"])
        report = {
            layout: measured(store, arguments, layout) for layout in arguments.layouts.split(",")
        }
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1))
    text = page(report)
    if arguments.out:
        Path(arguments.out).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
