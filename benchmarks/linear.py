"""Claim: a linear map is fitted in seconds and applied thousands of times faster than real time.

    python benchmarks/linear.py [--json FILE] [--quick]

One subject of 25 minutes, 64 channels, 160 Hz (noise with the spectrum and spatial spread of EEG;
speed does not depend on what it shows), the six published layouts of EEGMMIDB, windows of 2 s.
Beside each figure stands what a user would take instead, in the same run: scikit-learn's Ridge on
stacked lags, MNE's `interpolate_bads`, NumPy's matrix product. Compiling is timed apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report

from eegsr_jax import geometry, layouts, methods, throughput
from eegsr_jax.methods import moments as mo
from eegsr_jax.methods.linear import PENALTIES, fit_layouts
from eegsr_jax.methods.long import reconstruct_long

NAMES = (
    "FC5 FC3 FC1 FCz FC2 FC4 FC6 C5 C3 C1 Cz C2 C4 C6 CP5 CP3 CP1 CPz CP2 CP4 CP6 Fp1 Fpz Fp2 AF7 "
    "AF3 AFz AF4 AF8 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FT8 T7 T8 T9 T10 TP7 TP8 P7 P5 P3 P1 Pz P2 P4 "
    "P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2 Iz"
).split()
SFREQ, WINDOW, LAGS = 160, 320, 6
ROW = ("task", "by")
Row = dict[str, Any]


def windows(seconds: float) -> np.ndarray:
    """`[window, 64, 320]` volts: random sources, smoothed in time, spread over the scalp."""
    rng = np.random.default_rng(0)
    samples = int(seconds * SFREQ) // WINDOW * WINDOW
    sources = np.cumsum(rng.standard_normal((24, samples)), 1)
    sources -= np.linspace(0, 1, samples) * sources[:, -1:]
    eeg = rng.standard_normal((64, 24)) @ np.diff(sources, prepend=0) * 1e-5
    eeg += 1e-6 * rng.standard_normal(eeg.shape)
    return eeg.reshape(64, -1, WINDOW).transpose(1, 0, 2).astype(np.float32)


def timed(
    task: str, by: str, call: Callable[[], Any], calls: int, cost: throughput.Cost | None = None
) -> Row:
    """A row, of calls after the first; `cost` is that of the program, where there is one."""
    seconds = report.clock(call)
    first = seconds()
    row = {"task": task, "by": by, "dtype": "float32", "first_s": first}
    row |= report.measured(seconds() for _ in range(calls))
    row |= dataclasses.asdict(cost) if cost else {}
    print(report.line(row, ROW), flush=True)
    return row


def fitting(eeg: np.ndarray, calls: int) -> list[Row]:
    """Sums over one pass, and six layouts from them; against scikit-learn on the same windows."""
    from sklearn.linear_model import Ridge

    chosen = [geometry.find_channels(v.split(), NAMES) for v in layouts.EEGMMIDB.values()]
    part = np.zeros(len(eeg), np.int32)
    part[-len(eeg) // 5 :] = mo.VALIDATE
    whole = [(eeg[i : i + 64], part[i : i + 64]) for i in range(0, len(eeg) // 64 * 64, 64)]
    start = mo.zeros(64, 2 * LAGS)
    add, cost_of_add = throughput.compiled(mo.add, start, *whole[0])

    def sums():
        total = start
        for batch, labels in whole:
            total = add(total, batch, labels)
        return total

    penalties = jnp.asarray(PENALTIES, jnp.float32)
    solve, cost = throughput.compiled(lambda m: fit_layouts(m, chosen, LAGS, penalties), sums())
    total = sums()

    def by_scikit_learn():  # one layout, one penalty: what a notebook does
        observed = np.pad(eeg[:, chosen[4]], ((0, 0), (0, 0), (LAGS, LAGS)))
        taps = [observed[:, :, i : i + WINDOW] for i in range(2 * LAGS + 1)]
        inputs = np.concatenate(taps, 1).transpose(0, 2, 1).reshape(-1, 16 * len(taps))
        targets = eeg.transpose(0, 2, 1).reshape(-1, 64)
        return Ridge(alpha=1.0).fit(inputs, targets).coef_

    return [
        timed("sums, one pass", "ours", sums, calls, cost_of_add),
        timed("six layouts x 8 penalties of them", "ours", lambda: solve(total), calls, cost),
        timed("one layout, one penalty", "scikit-learn Ridge", by_scikit_learn, min(calls, 3)),
    ]


def applying(eeg: np.ndarray, calls: int) -> list[Row]:
    """Reconstruction of all windows from 16 channels, against MNE and NumPy."""
    import mne

    where, positions = cap()
    index = np.asarray(where.observed_index)
    observed = jnp.asarray(eeg[:, index])
    rows = []
    for method in (methods.spherical_spline(), methods.ridge(), methods.lagged_ridge(LAGS)):
        plan = method.plan(method.init(jax.random.key(0), where, None), where)
        apply, cost = throughput.compiled(method.apply, plan, observed, None)
        call = functools.partial(apply, plan, observed, None)
        rows.append(timed("apply", method.name, call, calls, cost))
    matrix = np.asarray(plan["filters"][LAGS])
    columns = np.ascontiguousarray(eeg[:, index].transpose(1, 0, 2).reshape(16, -1))
    # No lags, no error bars.
    rows.append(timed("apply", "NumPy product", lambda: matrix @ columns, calls))
    raw = mne.io.RawArray(
        eeg.transpose(1, 0, 2).reshape(64, -1), mne.create_info(NAMES, SFREQ, "eeg"), verbose=False
    )
    raw.set_montage(mne.channels.make_dig_montage(positions, coord_frame="head"))
    raw.info["bads"] = [n for i, n in enumerate(NAMES) if i not in index]

    def by_mne():
        return raw.copy().interpolate_bads(reset_bads=False, verbose=False).get_data()

    rows.append(timed("apply", "MNE interpolate_bads", by_mne, max(3, calls // 3)))
    span = eeg.shape[0] * WINDOW / SFREQ
    return [row | {"real_time": span / row["median_s"]} for row in rows]


def cap() -> tuple[geometry.Geometry, dict[str, np.ndarray]]:
    """16 of 64 electrodes observed, and where all are."""
    known = geometry.montage("standard_1005")
    positions = {n: known[n] for n in NAMES}
    observed = layouts.layout("case2_4x", NAMES)
    return geometry.make_geometry(observed, NAMES, positions), positions


def long_recording(hours: float) -> Row:
    """Lagged ridge over a long recording, in a process of its own: seconds and peak memory."""
    done = subprocess.run(
        [sys.executable, __file__, "--hours", str(hours)],
        capture_output=True,
        text=True,
        check=True,
    )
    row = {"task": f"{hours:g} h, block by block", "by": "lagged_ridge", "dtype": "float32"}
    row |= json.loads(done.stdout.splitlines()[-1])
    print(f"{report.line(row, ROW)}, {row['added_mb']:.0f} MB beyond the input", flush=True)
    return row


def _hours(hours: float) -> None:
    where, _ = cap()
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
    figures = {"added_mb": (after - before) / 1024, "peak_mb": after / 1024}
    figures |= report.measured([seconds]) | {"real_time": 3600 * hours / seconds}
    print(json.dumps(figures | {"input_mb": observed.nbytes / 2**20}))


def main() -> None:
    """Measure and print; write JSON when asked."""
    parser = report.parser(__doc__)
    parser.add_argument("--hours", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hours:
        return _hours(options.hours)
    calls, seconds = (5, 300.0) if options.quick else (20, 1500.0)
    eeg = windows(seconds)
    rows = fitting(eeg, calls) + applying(eeg, calls)
    middle = {(row["task"], row["by"]): row["median_s"] for row in rows}
    sums, solved, scikit, spline, _, lagged, _, mne = middle.values()
    headline = {
        "48 fits by scikit-learn over ours": 48 * scikit / (sums + solved),
        "spline: MNE over ours": mne / spline,
        "lagged_ridge, times real time": seconds / lagged,
    }
    rows += [long_recording(hours) for hours in ((0.5, 1.0) if options.quick else (1.0, 4.0))]
    report.publish(
        options,
        __doc__,
        rows,
        names=ROW,
        columns=("first_s", "real_time", "added_mb"),
        headline=headline,
        packages=("scikit-learn",),
        shapes={"windows": list(eeg.shape), "sfreq": SFREQ, "lags": LAGS},
    )


if __name__ == "__main__":
    main()
