"""Claim: a batch spread over devices is done sooner until each has one window, or less long.

It is less where what every step costs, or passing sums on, is long against a window.

    python benchmarks/scaling.py [--quick] [--json FILE]

Measures on this machine: seconds of a training step as the batch grows, on one device (a line: what
every step costs, and each window), and seconds of adding up arrays over two processes on this host
(gloo over loopback; a line: latency, and each byte). From these constants, `predicted` says what a
step would take over more devices, each with its own cores and such links. That is arithmetic, not a
measurement; docs/scaling.md has the formula.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import report
from jax.sharding import PartitionSpec

from eegsr_jax import geometry, methods
from eegsr_jax.distributed import make_mesh, start_processes
from eegsr_jax.methods.base import GradientStage
from eegsr_jax.throughput import compiled
from eegsr_jax.training.gradient import start, step
from eegsr_jax.training.loop import nameless

SAMPLES, SFREQ, STEPS = 400, 200.0, 1000
METHODS = {
    "emag_paper": {"samples": SAMPLES, "sfreq": SFREQ},
    "emag": {},
    "srgdiff_paper": {"samples": SAMPLES, "sfreq": SFREQ},
}
BATCHES = (1, 2, 4, 8)
FLOATS = (1_000, 20_000, 100_000, 500_000, 5_000_000)
DEVICES = (1, 8, 64, 512)
ROW = ("what", "size", "by")


def line(x, y) -> tuple[float, float]:
    """What is left at 0, and the slope, neither below 0, by least squares of relative errors."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    both = np.linalg.lstsq(np.stack([1 / y, x / y], 1), np.ones(len(y)))[0]
    lines = [both, (0.0, np.sum(x / y) / np.sum((x / y) ** 2)), (np.sum(1 / y) / np.sum(y**-2), 0)]
    possible = [(float(fixed), float(each)) for fixed, each in lines if min(fixed, each) >= 0]
    return min(possible, key=lambda p: float(np.sum((1 - (p[0] + p[1] * x) / y) ** 2)))


def timed(call: Callable[[], Any], rounds: int) -> list[float]:
    """Seconds of a call that has been compiled; others who use the machine only ever add to it."""
    call()
    seconds = report.clock(call)
    return [seconds() for _ in range(rounds)]


def step_line(name: str, stage: GradientStage, params, where, rounds: int) -> dict:
    """Seconds of a step for each batch size, and their line."""
    batches = BATCHES if rounds >= 10 else BATCHES[::3]
    generator = np.random.default_rng(0)
    key, rows = jax.random.key(0), []
    for size in batches:
        eeg = generator.standard_normal((size, len(where.target), SAMPLES)).astype(np.float32)
        batch = {"eeg": 1e-5 * eeg}
        if stage.derive is not None:
            keys = jax.random.split(jax.random.key(1), size)
            batch |= jax.jit(stage.derive)(params, batch | {"key": keys}, where)
        given = start(stage, params, STEPS), params, batch, key, where
        run, cost = compiled(functools.partial(step, stage, STEPS), *given)
        seconds = timed(functools.partial(run, *given), rounds)
        row = {"what": f"{name}: {stage.name}", "size": size, "by": "step"}
        row |= {"dtype": "float32"} | report.measured(seconds) | dataclasses.asdict(cost)
        rows.append(row | {"least_s": min(seconds)})
    fixed, each = line(batches, [row["least_s"] for row in rows])
    own = {entry: params[entry] for entry in stage.trainable}
    size = sum(x.nbytes for x in jax.tree.leaves(own))
    found = {"method": name, "stage": stage.name, "batch_size": stage.batch_size, "bytes": size}
    return found | {"fixed_s": fixed, "window_s": each, "rows": rows}


def steps(rounds: int):
    """Of each stage with gradients of `METHODS`, at 64 electrodes of which 16 are seen."""
    cap = geometry.montage("biosemi64")
    where = geometry.make_geometry(list(cap)[::4], list(cap), cap)
    for name, options in METHODS.items():
        method = methods.make(name, **options)
        params = method.init(jax.random.key(0), where, method.window)
        for stage in method.stages:
            if isinstance(stage, GradientStage):
                yield step_line(name, stage, params, nameless(where), rounds)


def sums(process: int, port: int, rounds: int) -> list[list[float]]:
    """Seconds of adding up arrays of `FLOATS` numbers over two processes; one of the two."""
    start_processes(f"127.0.0.1:{port}", process, 2, timeout=60)
    mesh, seconds = make_mesh("windows:2"), []
    own, whole = PartitionSpec("windows"), PartitionSpec()
    for count in FLOATS:
        rows = jax.sharding.NamedSharding(mesh, own)
        x = jax.make_array_from_callback(
            (2, count), rows, lambda at, n=count: np.ones((1, n), np.float32)
        )
        added = jax.jit(
            jax.shard_map(
                lambda x: jax.lax.psum(x, "windows"), mesh=mesh, in_specs=own, out_specs=whole
            )
        )
        seconds.append(timed(functools.partial(added, x), rounds))
    return seconds


def links(rounds: int) -> dict:
    """Latency and seconds a byte of a sum over two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, __file__, f"--port={port}"] + ["--quick"] * (rounds < 10)
    running = [
        subprocess.Popen([*words, f"--process={n}"], stdout=subprocess.PIPE, text=True)
        for n in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in running]
    rows = []
    for count, seconds in zip(FLOATS, json.loads(said[0].splitlines()[-1]), strict=True):
        row = {"what": "sum over 2 processes", "size": 4 * count, "by": "gloo", "dtype": "float32"}
        rows.append(row | report.measured(seconds) | {"least_s": min(seconds)})
    fixed, each = line([row["size"] for row in rows], [row["least_s"] for row in rows])
    return {"fixed_s": fixed, "byte_s": each, "rows": rows}


def predicted(row: dict, link: dict, devices: int) -> dict:
    """A step over the axis "windows": compute, and a ring of sums over as many devices.

    Devices beyond one a window have nothing to do.
    """
    used = min(devices, row["batch_size"])
    compute = row["window_s"] * math.ceil(row["batch_size"] / used)
    # Two processes pass each byte once; a ring of D passes 2 (D - 1) / D of it, in as many rounds.
    rounds = 2 * (used - 1)
    moved = 0.0 if used == 1 else row["bytes"] * link["byte_s"] * rounds / used
    waited = 0.0 if used == 1 else link["fixed_s"] * rounds / 2
    parts = {"windows": compute, "every step": row["fixed_s"], "bytes": moved, "latency": waited}
    seconds = sum(parts.values())
    alone = row["fixed_s"] + row["window_s"] * row["batch_size"]
    most = max((name for name in parts if name != "windows"), key=lambda name: parts[name])
    return {"devices": devices, "used": used, "seconds": seconds, "times": alone / seconds} | {
        "most_beside_windows": most
    }


def main() -> None:
    """Measure, predict and print; write JSON when asked."""
    parser = report.parser(__doc__)
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds = 3 if options.quick else 10
    if options.process is not None:
        print(json.dumps(sums(options.process, options.port, rounds)))
        return
    link = links(rounds)
    rows, lines, headline = link.pop("rows"), [], {}
    print(f"sum over 2 processes: {1e3 * link['fixed_s']:.2f} ms + {1e9 * link['byte_s']:.2f} ns/B")
    print(f"{'stage':<26}{'batch':>6}{'kB':>8}{'ms a step':>11}{'ms a window':>12}", flush=True)
    for found in steps(rounds):
        rows += found.pop("rows")
        found["predicted"] = [predicted(found, link, devices) for devices in DEVICES]
        lines.append(found)
        name = f"{found['method']}: {found['stage']}"
        headline[f"{name}, times as fast on 8 devices, predicted"] = found["predicted"][1]["times"]
        print(
            f"{name:<26}{found['batch_size']:>6}{found['bytes'] / 1e3:>8.0f}"
            f"{1e3 * found['fixed_s']:>11.1f}{1e3 * found['window_s']:>12.1f}"
        )
        for one in found["predicted"]:
            print(
                f"{one['devices']:>12} devices, {one['used']} used: "
                f"{1e3 * one['seconds']:.1f} ms, {one['times']:.1f} times as fast; beside the "
                f"windows most is {one['most_beside_windows']}",
                flush=True,
            )
    report.publish(
        options,
        __doc__,
        rows,
        names=ROW,
        columns=("least_s",),
        headline=headline,
        link=link,
        lines=lines,
    )


if __name__ == "__main__":
    main()
