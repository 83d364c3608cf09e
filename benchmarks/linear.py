"""Claim: a linear map is fitted in seconds and applied thousands of times faster than real time.

    python benchmarks/linear.py [--json FILE] [--quick]

One subject of 25 minutes, 64 channels, 160 Hz (noise with the spectrum and spatial spread of EEG;
speed does not depend on what it shows), the six published layouts of EEGMMIDB, windows of 2 s.
Beside each figure stands what a user would take instead, in the same run: scikit-learn's Ridge on
stacked lags, MNE's `interpolate_bads`, NumPy's matrix product. Compiling is timed apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax import geometry, layouts, methods
from eegsr_jax.methods import moments as mo
from eegsr_jax.methods.linear import PENALTIES, fit_layouts
from eegsr_jax.methods.long import reconstruct_long

NAMES = (
    "FC5 FC3 FC1 FCz FC2 FC4 FC6 C5 C3 C1 Cz C2 C4 C6 CP5 CP3 CP1 CPz CP2 CP4 CP6 Fp1 Fpz Fp2 AF7 "
    "AF3 AFz AF4 AF8 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FT8 T7 T8 T9 T10 TP7 TP8 P7 P5 P3 P1 Pz P2 P4 "
    "P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2 Iz"
).split()
SFREQ, WINDOW, LAGS = 160, 320, 6


def windows(seconds: float) -> np.ndarray:
    """`[window, 64, 320]` volts: random sources, smoothed in time, spread over the scalp."""
    rng = np.random.default_rng(0)
    samples = int(seconds * SFREQ) // WINDOW * WINDOW
    sources = np.cumsum(rng.standard_normal((24, samples)), 1)
    sources -= np.linspace(0, 1, samples) * sources[:, -1:]
    eeg = rng.standard_normal((64, 24)) @ np.diff(sources, prepend=0) * 1e-5
    eeg += 1e-6 * rng.standard_normal(eeg.shape)
    return eeg.reshape(64, -1, WINDOW).transpose(1, 0, 2).astype(np.float32)


def timed(call, repeats: int) -> dict[str, float]:
    """Seconds of the first call (compiling included) and of the others."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    first = time.perf_counter() - begin
    later = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        later.append(time.perf_counter() - begin)
    middle = statistics.median(later)
    return {"first_s": first, "median_s": middle, "min_s": min(later), "max_s": max(later)}


def fitting(eeg: np.ndarray, chosen: list[np.ndarray], repeats: int) -> dict[str, dict]:
    """Sums over one pass, and six layouts from them; against scikit-learn on the same windows."""
    from sklearn.linear_model import Ridge

    part = np.zeros(len(eeg), np.int32)
    part[-len(eeg) // 5 :] = mo.VALIDATE
    add = jax.jit(mo.add)
    whole = [(eeg[i : i + 64], part[i : i + 64]) for i in range(0, len(eeg) // 64 * 64, 64)]

    def sums():
        total = mo.zeros(64, 2 * LAGS)
        for batch, labels in whole:
            total = add(total, batch, labels)
        return total

    penalties = jnp.asarray(PENALTIES, jnp.float32)
    solve = jax.jit(lambda m: fit_layouts(m, chosen, LAGS, penalties))
    total = sums()
    figures = {
        "one pass over 25 min": timed(sums, repeats),
        "six layouts, lagged ridge, 8 penalties each": timed(lambda: solve(total), repeats),
    }

    def by_scikit_learn():  # one layout, one penalty: what a notebook does
        observed = np.pad(eeg[:, chosen[4]], ((0, 0), (0, 0), (LAGS, LAGS)))
        taps = [observed[:, :, i : i + WINDOW] for i in range(2 * LAGS + 1)]
        inputs = np.concatenate(taps, 1).transpose(0, 2, 1).reshape(-1, 16 * len(taps))
        targets = eeg.transpose(0, 2, 1).reshape(-1, 64)
        return Ridge(alpha=1.0).fit(inputs, targets).coef_

    figures["scikit-learn Ridge, one layout, one penalty"] = timed(by_scikit_learn, 1)
    return figures


def applying(eeg: np.ndarray, repeats: int) -> dict[str, dict]:
    """Reconstruction of all windows from 16 channels, against MNE and NumPy."""
    import mne

    positions = geometry.montage("standard_1005")
    where = geometry.make_geometry(
        layouts.layout("case2_4x", NAMES), NAMES, {n: positions[n] for n in NAMES}
    )
    index = np.asarray(where.observed_index)
    observed = jnp.asarray(eeg[:, index])
    figures = {}
    for method in (methods.spherical_spline(), methods.ridge(), methods.lagged_ridge(LAGS)):
        plan = method.plan(method.init(jax.random.key(0), where, None), where)
        apply = jax.jit(method.apply)
        figures[f"apply {method.name}"] = timed(lambda: apply(plan, observed, None), repeats)  # noqa: B023
    matrix = np.asarray(plan["filters"][LAGS])
    columns = np.ascontiguousarray(eeg[:, index].transpose(1, 0, 2).reshape(16, -1))
    figures["NumPy product (no lags, no error bars)"] = timed(lambda: matrix @ columns, repeats)
    raw = mne.io.RawArray(
        eeg.transpose(1, 0, 2).reshape(64, -1), mne.create_info(NAMES, SFREQ, "eeg"), verbose=False
    )
    raw.set_montage(
        mne.channels.make_dig_montage({n: positions[n] for n in NAMES}, coord_frame="head")
    )
    raw.info["bads"] = [n for i, n in enumerate(NAMES) if i not in index]

    def by_mne():
        return raw.copy().interpolate_bads(reset_bads=False, verbose=False).get_data()

    figures["MNE interpolate_bads (with its copy)"] = timed(by_mne, max(1, repeats // 3))
    return figures


def long_recording(hours: float) -> dict[str, float]:
    """Lagged ridge over a long recording, in a process of its own: seconds and peak memory."""
    done = subprocess.run(
        [sys.executable, __file__, "--hours", str(hours)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _hours(hours: float) -> None:
    positions = geometry.montage("standard_1005")
    where = geometry.make_geometry(
        layouts.layout("case2_4x", NAMES), NAMES, {n: positions[n] for n in NAMES}
    )
    method = methods.lagged_ridge(LAGS)
    plan = method.plan(method.init(jax.random.key(0), where, None), where)
    observed = np.ones((16, int(3600 * hours * SFREQ)), np.float32)
    for _ in reconstruct_long(method, plan, observed[:, :9000]):
        pass  # compiles
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    for _ in reconstruct_long(method, plan, observed):
        pass  # a caller writes each block to disk
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {"seconds": seconds, "added_mb": (after - before) / 1024, "peak_mb": after / 1024}
    print(json.dumps(figures | {"input_mb": observed.nbytes / 2**20}))


def main() -> None:
    """Measure and print; write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--hours", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hours:
        return _hours(arguments.hours)
    repeats, seconds = (3, 300.0) if arguments.quick else (15, 1500.0)
    eeg = windows(seconds)
    chosen = [geometry.find_channels(v.split(), NAMES) for v in layouts.EEGMMIDB.values()]
    figures = fitting(eeg, chosen, max(1, repeats // 3)) | applying(eeg, repeats)
    spans = (0.5, 1.0) if arguments.quick else (1.0, 4.0)
    head = {
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {n: version(n) for n in ("jax", "jaxlib", "numpy", "mne", "scikit-learn")},
        "shapes": {"windows": list(eeg.shape), "sfreq": SFREQ, "lags": LAGS},
    }
    long = {f"{hours:g} h": long_recording(hours) for hours in spans}
    print(f"{'':<46}{'first s':>9}{'median s':>10}{'min':>9}{'max':>9}{'x real time':>13}")
    span = eeg.shape[0] * WINDOW / SFREQ
    for name, f in figures.items():
        speed = f"{span / f['median_s']:13,.0f}" if "pply" in name or "N" in name[:3] else ""
        print(
            f"{name:<46}{f['first_s']:9.3f}{f['median_s']:10.4f}{f['min_s']:9.4f}{f['max_s']:9.4f}{speed}"
        )
    for name, f in long.items():
        print(
            f"lagged ridge 16 -> 64 over {name}: {f['seconds']:.2f} s, {f['added_mb']:.0f} MB "
            f"beyond the input of {f['input_mb']:.0f} MB"
        )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(head | {"figures": figures, "long": long}, file, indent=1)


if __name__ == "__main__":
    main()
