"""Claim: models of a sweep that are trained side by side take a fifth of one process a trial.

    python benchmarks/sweep.py [--quick] [--json FILE] [--trials N] [--alone N]

200 small EMAG models (4 simulated subjects x 2 layouts x 25 seeds) through `launch.sweep`, as whole
commands with all that they do: starting, compiling, training, writing run directories, scoring.
Two ways, with the same trials and the same recordings:
  packed   what the launcher does by itself: the trials of a method divided among its workers
  alone    --pack=1, one process a trial, as many at a time as there are cores; a share of the
           trials, and its time is carried over to all of them in proportion
The lagged ridges that belong to every sweep, eight here, are trials of both.
Recordings are prepared before. In both, programs that were compiled once are found again in a
cache on disk, which is empty first (JAX_COMPILATION_CACHE_DIR), since a user may have one. The
params of both are compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import report

from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import prepare
from eegsr_jax.training.run import load
from launch.board import trials

CONFIG = """
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.training.experiment import Experiment
from eegsr_jax.trials import product, subsample, vary

METHOD = (
    "emag(lags=2,resolution=4,components=4,widths=(4,),features=16,epochs=12,batch_size=16)"
)

def get_config():
    return Experiment(
        dataset="simulated",
        preprocessing=PREPROCESSING["none"],
        method=METHOD,
        window_seconds=1.0,
    )

def sweep():
    subjects = vary("test_subjects", [(str(n),) for n in range(1, 5)])
    layouts = vary("layout", ["spread:16", "spread:8"])
    every = product(vary("seed", range(25)), subjects, layouts)
    return subsample(every, {count}, 0)
"""
ROW = ("by",)


def main() -> None:
    """Measures, and says by how much the packed sweep is quicker."""
    parser = report.parser(__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--alone", type=int, help="of them, one process each; default: a tenth")
    options = parser.parse_args()
    some = options.alone or options.trials // (20 if options.quick else 10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = datasets.load("simulated")
        prepare(data, folder / "store", PREPROCESSING["none"], progress=False)
        cores = len(os.sched_getaffinity(0))
        packed, first = swept(folder, "packed", options.trials, [])
        alone, second = swept(folder, "alone", some, ["--pack=1", f"--workers={cores}"])
        worst = difference(folder / "packed", folder / "alone")
    whole = alone * first / second
    rows: list[dict[str, Any]] = [
        {"by": "packed", "trials": first, "seconds": packed, **report.measured([packed])},
        {"by": "alone", "trials": second, "seconds": alone, **report.measured([whole])},
    ]
    report.publish(
        options,
        __doc__,
        rows,
        names=ROW,
        headline={"packed_speedup": whole / packed, "largest_difference": worst},
        columns=("trials", "seconds"),
    )


def swept(folder: Path, by: str, count: int, flags: list[str]) -> tuple[float, int]:
    """Seconds of a whole sweep, and its number of trials."""
    config, out = folder / f"{by}.py", folder / by
    config.write_text(CONFIG.replace("{count}", str(count)))
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / f"{by}_cache")}
    words = [sys.executable, "-m", "launch.sweep", f"--config={config}", f"--store={folder}/store"]
    environment = os.environ | cache | {"PYTHONPATH": str(Path(__file__).parents[1])}

    begin = time.perf_counter()
    subprocess.run([*words, f"--out={out}", *flags], env=environment, check=True)
    seconds = time.perf_counter() - begin
    print(f"{by}: {seconds:.0f} s", flush=True)
    return seconds, len(trials(out))


def difference(one: Path, other: Path) -> float:
    """The largest of any param of the trials that both have, in shares of its largest number."""
    names = trials(one).keys() & trials(other).keys()
    assert names, "no trial is in both"
    worst = 0.0
    for name in names:
        pairs = zip(*(jax.tree.leaves(load(out / name)[1]) for out in (one, other)), strict=True)
        for a, b in pairs:
            finite = np.isfinite(b)
            np.testing.assert_array_equal(finite, np.isfinite(a))
            if finite.any():
                size = max(float(np.abs(b[finite]).max()), 1e-12)
                worst = max(worst, float(np.abs(a - b)[finite].max()) / size)
    return worst


if __name__ == "__main__":
    main()
