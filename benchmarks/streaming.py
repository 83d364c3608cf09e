"""Claim: a 20-ms chunk of a stream takes well under 5 ms, and only the filter's phase is lost.

    python benchmarks/streaming.py [--quick] [--json FILE] [--recordings=FOLDER]

16 of 64 channels in, 64 out, mean and error bars, at 160 and 250 Hz: `eegsr_jax.Stream.push` of
chunks of 20 ms, NumPy in and out, one after another, and at the pace of a recording (when caches
have gone cold). Beside them, in the same run, NumPy's product of the ridge's matrix with the chunk
(no lags, no error bars, no state) and the causal filter of 0.5-40 Hz. Wall time is what counts;
processor time of all threads, beside it, tells what other programs on the machine add. Speed does
not depend on what was learned: params are the initial ones.

With --recordings, a folder of EEGMMIDB's SxxxRyy.edf, it tells what streaming costs in accuracy:
each subject's own map from runs 4 and 8, filtered without phase, on run 12, offline and streamed.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import report

from eegsr_jax import geometry, layouts, methods
from eegsr_jax.data.causal import CausalFilter
from eegsr_jax.data.preprocessing import Preprocessing, apply
from eegsr_jax.data.recording import read
from eegsr_jax.evaluation.tables import markdown_grid
from eegsr_jax.methods.long import reconstruct_long
from eegsr_jax.streaming import Stream
from eegsr_jax.training.loop import fit

NAMES = (
    "FC5 FC3 FC1 FCz FC2 FC4 FC6 C5 C3 C1 Cz C2 C4 C6 CP5 CP3 CP1 CPz CP2 CP4 CP6 Fp1 Fpz Fp2 AF7 "
    "AF3 AFz AF4 AF8 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FT8 T7 T8 T9 T10 TP7 TP8 P7 P5 P3 P1 Pz P2 P4 "
    "P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2 Iz"
).split()
CHUNK = 0.02  # seconds
WINDOW = 320  # samples, of training
ROW = ("sfreq", "what", "chunks")
MADE = {
    "ridge": methods.ridge(),
    "lagged_ridge": methods.lagged_ridge(6),
    "gaussian": methods.gaussian(),
    "emag": methods.emag(),
}


def cap() -> geometry.Geometry:
    """16 of 64 electrodes observed."""
    positions = geometry.montage("standard_1005")
    observed = layouts.layout("case2_4x", NAMES)
    return geometry.make_geometry(observed, NAMES, {n: positions[n] for n in NAMES})


def latencies(call: Callable, chunks: list[np.ndarray], paced: bool) -> dict[str, float]:
    """From a chunk's arrival to the result as NumPy arrays; what is rare in milliseconds."""
    wall, processor, begin = [], [], time.perf_counter()
    for number, chunk in enumerate(chunks):
        if paced:
            time.sleep(max(begin + (number + 1) * CHUNK - time.perf_counter(), 0))
        start, busy = time.perf_counter(), time.process_time()
        call(chunk)
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - busy)
    return report.measured(wall) | {
        "p99_ms": 1e3 * float(np.percentile(wall, 99)),
        "jitter_ms": 1e3 * statistics.pstdev(wall),
        "max_ms": 1e3 * max(wall),
        "processor_p99_ms": 1e3 * float(np.percentile(processor, 99)),
    }


def speed(sfreq: float, count: int, paced_count: int) -> Iterator[dict[str, Any]]:
    """Two rows for every method at one sampling rate, and for what stands beside them."""
    where, rng = cap(), np.random.default_rng(0)
    edges = np.round(np.arange(count + 1) * CHUNK * sfreq).astype(int)
    chunks = [
        (1e-5 * rng.standard_normal((16, b - a))).astype(np.float32)
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    matrix = rng.standard_normal((64, 16)).astype(np.float32)
    calls: dict[str, Callable[[], tuple[Callable, int]]] = {
        "NumPy product": lambda: (lambda x: matrix @ x, 0),
        "causal filter": lambda: (CausalFilter(Preprocessing(), sfreq), 0),
    }

    def made(method):
        params = jax.jit(method.init, static_argnums=2)(jax.random.key(0), where, None)
        stream = Stream(method, params, where)
        return stream.push, stream.delay

    calls |= {name: functools.partial(made, method) for name, method in MADE.items()}
    for name, make in calls.items():
        begin = time.perf_counter()
        call, delay = make()
        seconds = time.perf_counter() - begin
        latencies(call, chunks[:50], False)
        row = {"sfreq": sfreq, "what": name, "start_s": seconds, "dtype": "float32"}
        row |= {"context_ms": 1e3 * delay / sfreq}
        yield row | {"chunks": "in a row"} | latencies(call, chunks, False)
        yield row | {"chunks": "at pace"} | latencies(call, chunks[:paced_count], True)


def accuracy(folder: Path) -> Iterator[dict[str, Any]]:
    """NMSE of the missing channels, and the share of samples within the 90 % error bars."""
    step = Preprocessing()
    for person in sorted({p.name[:4] for p in folder.glob("S???R12.edf")}):
        raw = [read(folder / f"{person}R{run}.edf") for run in ("04", "08", "12")]
        eeg = [apply(recording, step).data for recording in raw]
        names, sfreq = raw[0].names, raw[0].sfreq
        place = dict(zip(names, raw[0].positions, strict=True))
        where = geometry.make_geometry(layouts.layout("case2_4x", names), names, place)
        index = np.asarray(where.observed_index)
        missing = np.setdiff1d(np.arange(len(names)), index)
        pieces = [x[:, : x.shape[1] // WINDOW * WINDOW] for x in eeg[:2]]
        windows = np.concatenate(pieces, 1).reshape(len(names), -1, WINDOW).transpose(1, 0, 2)
        part = (np.arange(len(windows)) >= 0.8 * len(windows)).astype(np.int32)
        batch = {"eeg": windows, "part": part}
        heard = CausalFilter(step, sfreq)(raw[2].data)
        inner = slice(round(5 * sfreq), -round(5 * sfreq))
        for name in ("ridge", "lagged_ridge", "gaussian"):
            method = MADE[name]
            params = fit(method, where, lambda: [batch])  # noqa: B023
            plan = jax.jit(method.plan)(params, where)
            _, mean, std = zip(*reconstruct_long(method, plan, eeg[2][index]), strict=True)
            offline = Estimate(np.concatenate(mean, 1), np.concatenate(std, 1), missing, inner)
            stream = Stream(method, params, where)
            parts = [stream.push(heard[index][:, a : a + 3]) for a in range(0, heard.shape[1], 3)]
            mean, std = zip(*parts, stream.finish(), strict=True)
            online = Estimate(np.concatenate(mean, 1), np.concatenate(std, 1), missing, inner)
            yield {
                "subject": person,
                "method": name,
                "offline": offline.nmse(eeg[2]),
                "streamed": online.nmse(heard),
                "streamed, against zero phase": min(
                    online.nmse(np.roll(eeg[2], by, 1)) for by in range(5)
                ),
                "offline cover": offline.cover(eeg[2]),
                "streamed cover": online.cover(heard),
            }


class Estimate(NamedTuple):
    """Mean and std `[M, time]`, and where they are scored."""

    mean: np.ndarray
    std: np.ndarray
    missing: np.ndarray
    inner: slice

    def nmse(self, truth: np.ndarray) -> float:
        """Squared error over power."""
        there = truth[self.missing, self.inner]
        wrong = self.mean[self.missing, self.inner] - there
        return float((wrong**2).sum() / (there**2).sum())

    def cover(self, truth: np.ndarray) -> float:
        """Share of the samples within 1.645 standard errors."""
        wrong = (self.mean - truth)[self.missing, self.inner]
        return float(np.mean(np.abs(wrong) < 1.645 * self.std[self.missing, self.inner]))


def accuracy_table(rows: list[dict[str, Any]]) -> str:
    """Medians over subjects, in Markdown."""
    keys = list(rows[0])[2:]
    lines = [["method", *keys]]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        medians = [f"{statistics.median(row[key] for row in own):.4f}" for key in keys]
        lines.append([f"`{name}`, {len(own)} subjects", *medians])
    return markdown_grid(lines)


def main() -> None:
    """Measure and print; write JSON when asked."""
    parser = report.parser(__doc__)
    parser.add_argument("--recordings", type=Path)
    options = parser.parse_args()
    count, paced = (500, 50) if options.quick else (5000, 1000)
    rows = []
    for sfreq in (160.0, 250.0):
        for row in speed(sfreq, count, paced):
            rows.append(row)
            print(f"{report.line(row, ROW)}, p99 {row['p99_ms']:.2f} ms", flush=True)
    headline = {
        f"{row['what']} at {row['sfreq']:g} Hz, p99 at pace, ms": row["p99_ms"]
        for row in rows
        if row["what"] in MADE and row["chunks"] == "at pace"
    }
    found = list(accuracy(options.recordings)) if options.recordings else []
    if found:
        print(accuracy_table(found))
    report.publish(
        options,
        __doc__,
        rows,
        names=ROW,
        columns=("context_ms", "p99_ms", "jitter_ms", "max_ms", "processor_p99_ms"),
        headline=headline,
        packages=("scipy",),
        shapes={"inputs": 16, "targets": 64, "chunk_s": CHUNK},
        accuracy=found,
    )


if __name__ == "__main__":
    main()
