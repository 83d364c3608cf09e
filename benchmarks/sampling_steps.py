"""Claim: a trained sampler of SRGDiff needs few of the steps that it was published with.

    python benchmarks/sampling_steps.py [--quick] [--store FOLDER] [--methods NAMES] [--json FILE]

Each method is trained once and reconstructs windows that it has not seen with 1 to 50 steps, from
the same noise. `few_steps` is the smallest number whose missing NMSE is at most 2 % above that of
50. Without a store of real EEG (`eegsr prepare`) the data are simulated: 62 electrodes, 200 Hz.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax import methods
from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import Preprocessing
from eegsr_jax.data.store import Store, open_store, prepare
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import Method
from eegsr_jax.training.experiment import Experiment, prepared
from eegsr_jax.training.loop import fit, nameless
from eegsr_jax.typing import PyTree

STEPS = (1, 2, 3, 5, 10, 20, 25, 50)
SAMPLES, BATCH = 800, 8
NAMES = (  # SEED's, the two below the 10-10 system by their 10-05 names
    "Fp1 Fpz Fp2 AF3 AF4 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 T7 C5 C3 "
    "C1 Cz C2 C4 C6 T8 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO5 PO3 "
    "POz PO4 PO6 PO8 POO7 O1 Oz O2 POO8"
).split()
TRAINING: dict[str, dict[str, Any]] = {
    "srgdiff_release": {
        "batch_size": 8,
        "autoencoder_epochs": 100,
        "condition_epochs": 60,
        "denoiser_epochs": 30,
        "fusion_epochs": 20,
        "adversarial": 0.0,
    },
    "srgdiff_paper": {"batch_size": 8, "autoencoder_epochs": 100, "diffusion_epochs": 30},
    "srgdiff": {},
}
QUICK = {
    "srgdiff_release": {
        "autoencoder_epochs": 25,
        "condition_epochs": 20,
        "denoiser_epochs": 4,
        "fusion_epochs": 5,
    },
    "srgdiff_paper": {"autoencoder_epochs": 25, "diffusion_epochs": 5},
    "srgdiff": {"mean_epochs": 8, "epochs": 8},
}
CONTROL = ("widths", "latent")  # options that the release shares with `srgdiff_regression`


class Data(NamedTuple):
    """Windows `[n, M, time]` in volts, the first for training, the last never seen in it."""

    train: np.ndarray
    validate: np.ndarray
    test: np.ndarray
    geometry: Geometry
    sfreq: float
    source: str


def windows(folder: Path | None, most: int) -> Data:
    """Of a store, or simulated; every other electrode is observed, spread over the cap."""
    if folder is not None:
        return _of_store(open_store(folder), most, str(folder.name))
    seconds = most * SAMPLES / 200
    simulated = datasets.load(
        "simulated", montage=NAMES, num_subjects=1, seconds=seconds, sfreq=200.0
    )
    with tempfile.TemporaryDirectory() as place:
        store = prepare(simulated, Path(place) / "store", Preprocessing(), progress=False)
        return _of_store(store, most, "simulated")


def _of_store(store: Store, most: int, source: str) -> Data:
    sfreq = store.recordings[0].sfreq
    count = len(store.recordings[0].names)
    experiment = Experiment(layout=f"spread:{count // 2}", window_seconds=SAMPLES / sfreq)
    read, where = prepared(experiment, store)
    train, later = read.load(0), read.load(1)
    # The later part: one half to validate on, the other half to test on.
    share = max(1, round(0.1 * most / BATCH)) * BATCH
    half = min(share, len(later) // 2)
    held = later[:half], later[len(later) - half :]
    return Data(train[: most - 2 * half], *held, nameless(where), sfreq, source)


def made(name: str, data: Data, options: dict[str, Any], steps: int) -> Method:
    """The method with a number of steps."""
    if name != "srgdiff":  # which takes windows of any length
        options = {"samples": SAMPLES, "sfreq": data.sfreq} | options
    return methods.make(name, steps=steps, **options)


def trained(name: str, data: Data, options: dict[str, Any]) -> PyTree:
    """Params after training with 50 steps."""
    eeg = np.concatenate([data.train, data.validate])
    part = np.repeat([0, 1], [len(data.train), len(data.validate)])
    return fit(made(name, data, options, 50), data.geometry, lambda: [{"eeg": eeg, "part": part}])


def missing_nmse(method: Method, params: PyTree, data: Data) -> float:
    """Pooled over windows, missing channels and samples that training did not see."""
    plan, apply = jax.jit(method.plan)(params, data.geometry), jax.jit(method.apply)
    observed = np.asarray(data.geometry.observed_index)
    missing = np.setdiff1d(np.arange(data.test.shape[1]), observed)
    wrong = power = 0.0
    for first in range(0, len(data.test), BATCH):
        truth = data.test[first : first + BATCH]
        found = np.asarray(apply(plan, jnp.asarray(truth[:, observed]), None).mean, np.float64)
        wrong += ((found - truth)[:, missing] ** 2).sum()
        power += (truth[:, missing].astype(np.float64) ** 2).sum()
    return wrong / power


def sweep(name: str, data: Data, quick: bool, numbers: tuple[int, ...] = STEPS) -> dict[str, Any]:
    """Trains a method and scores it by number of steps; "0" is the release without diffusion."""
    options = TRAINING[name] | (QUICK[name] if quick else {})
    begin = time.perf_counter()
    params = trained(name, data, options)
    seconds = time.perf_counter() - begin
    nmse = {n: missing_nmse(made(name, data, options, n), params, data) for n in numbers}
    few = min(n for n in numbers if nmse[n] <= 1.02 * nmse[50])
    if name == "srgdiff_release":
        own = {k: options[k] for k in CONTROL if k in options}
        control = methods.make("srgdiff_regression", samples=SAMPLES, sfreq=data.sfreq, **own)
        nmse = {0: missing_nmse(control, params, data)} | nmse
    return {
        "method": name,
        "data": data.source,
        "windows": [len(data.train), len(data.validate), len(data.test)],
        "options": options,
        "training_s": seconds,
        "nmse_missing": nmse,
        "few_steps": few,
    }


def table(found: dict[str, Any]) -> str:
    """A line of text."""
    scores = ", ".join(f"{n}: {x:.4f}" for n, x in found["nmse_missing"].items())
    return (
        f"{found['method']}, {found['data']}, {found['windows'][0]} windows in "
        f"{found['training_s']:.0f} s; missing NMSE by steps {scores}; few_steps "
        f"{found['few_steps']}"
    )


def main() -> None:
    """Train, score and print; write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--store", type=Path, help="of real EEG, in the place of simulated")
    parser.add_argument("--methods", default=",".join(TRAINING), help="separated by commas")
    parser.add_argument("--windows", type=int, default=160, help="that are used, at most")
    parser.add_argument("--quick", action="store_true", help="fewer epochs and windows")
    arguments = parser.parse_args()
    data = windows(arguments.store, 48 if arguments.quick else arguments.windows)
    rows = []
    for name in arguments.methods.split(","):
        rows.append(sweep(name, data, arguments.quick))
        print(table(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
