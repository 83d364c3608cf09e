"""Make the prior that ships with `population`, and score it on recordings of other laboratories.

python benchmarks/population_prior.py --eegbci=FOLDER [--write] [RECORDING[:MONTAGE[:BADS]] ...]

Trains on run 4 of 13 subjects of EEGMMIDB (S001-S009, S011-S014), 0.5-40 Hz, native reference.
Each RECORDING is reconstructed from a half, a quarter and an eighth of its channels, ten random
layouts each, and never trained on; `benchmarks/results/population_prior.md` has the result.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import jax
import numpy as np

from eegsr_jax import geometry, layouts, methods
from eegsr_jax.data import datasets, preprocessing, store
from eegsr_jax.data.recording import read
from eegsr_jax.data.segments import whole
from eegsr_jax.evaluation.metrics import Scores
from eegsr_jax.methods.gaussian import POPULATION_PENALTY
from eegsr_jax.training.loop import fit, jitted, nameless
from eegsr_jax.training.windows import StoreWindows, layout_geometry, shared_channels

SUBJECTS = tuple(str(n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14))
KERNEL_SHARE = 0.5  # not tuned: as much kernel as population
HOME = Path(methods.__file__).parent / "priors" / "eegmmidb13.npz"


def train(root: str) -> dict[str, np.ndarray]:
    """The params of `gaussian(lags=0)` on the thirteen subjects."""
    with tempfile.TemporaryDirectory() as folder:
        data = datasets.load("eegbci", root, subjects=SUBJECTS, runs=("4",))
        made = store.prepare(data, folder, preprocessing.PREPROCESSING["default"])
        segments = [whole(recording) for recording in made.recordings]
        channels = shared_channels(made, segments)
        where = layout_geometry(made, segments, channels, "case2_4x")
        window = round(2 * made.recordings[0].sfreq)
        samples = sum(r.samples // window * window for r in made.recordings)
        method = methods.gaussian(
            lags=0,
            penalty=POPULATION_PENALTY,
            prior_samples=samples * KERNEL_SHARE / (1 - KERNEL_SHARE),
            any_reference=True,
        )

        windows = StoreWindows(
            store=made,
            train=tuple(s for i, s in enumerate(segments) if i % 4),
            validate=tuple(segments[::4]),  # every fourth subject sets the error bars
            window=window,
            batch_size=32,
            channels=channels,
        )
        params = fit(method, where, windows)
    kept = ("positions", "centre", "covariance", "inflation")
    return {name: np.asarray(params[name], np.float32) for name in kept}


def score(source: str, montage: str | None, bads: list[str]) -> list[str]:
    """Rows of the table: one for each share of observed channels."""
    recording = preprocessing.apply(
        read(source, montage=montage, bads=bads), preprocessing.PREPROCESSING["default"]
    )
    names = [n for n in recording.names if n not in recording.bads]
    rows = [recording.names.index(n) for n in names]
    positions = dict(zip(names, recording.positions[rows], strict=True))
    window = round(2 * recording.sfreq)
    count = recording.data.shape[1] // window
    windows = recording.data[rows, : count * window].reshape(len(rows), count, window)
    windows = windows.transpose(1, 0, 2)
    compared = methods.parse(
        "inverse_distance,spherical_spline,spherical_spline(order=2.0,penalty=1e-2),minimum_norm,"
        "population"
    )
    table = []
    for share in (2, 4, 8):
        scores: dict[str, list[dict[str, float]]] = {label: [] for label in compared}
        for seed in range(10):
            observed = layouts.layout(f"random:{len(names) // share}:{seed}", names)
            if len(observed) < 4:
                continue
            where = geometry.make_geometry(observed, names, positions)
            index = np.asarray(where.observed_index)
            missing = np.setdiff1d(np.arange(len(names)), index)
            for label, method in compared.items():
                params = method.init(jax.random.key(0), where, None)
                plan = jitted(method.plan)(params, nameless(where))
                result = jitted(method.apply)(plan, windows[:, index], None)
                mask = np.isin(np.arange(len(names)), missing)
                tally = Scores(mask, recording.sfreq)
                tally.add(windows, np.asarray(result.mean), np.asarray(result.std))
                scores[label].append(tally.summary())
        if not scores["population"]:
            continue
        cells = [
            f"{np.median([s['nmse_missing'] for s in found]):.3f}" for found in scores.values()
        ]
        covered = np.median([s["coverage_90"] for s in scores["population"]])
        head = f"| {Path(source).stem} | {len(names) // share} of {len(names)} | "
        table.append(head + " | ".join(cells) + f" | {covered:.1%} |")
    return table


def main() -> None:
    """Train, print the table, and write the prior when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--eegbci", required=True)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("recordings", nargs="*")
    arguments = parser.parse_args()
    params = train(arguments.eegbci)
    print(f"inflation {params['inflation']:.3f}")
    if arguments.write:
        HOME.parent.mkdir(exist_ok=True)
        np.savez_compressed(HOME, allow_pickle=False, **params)
        print(f"{HOME.name}: {HOME.stat().st_size} bytes")
    print(
        "| recording | observed | IDW | spline | spline m=2 | MNE | population | 90 % bars cover |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for source in arguments.recordings:
        path, montage, bads = (source.split(":") + ["", ""])[:3]
        print(
            "\n".join(score(path, montage or None, [b for b in bads.split(",") if b])), flush=True
        )


if __name__ == "__main__":
    main()
