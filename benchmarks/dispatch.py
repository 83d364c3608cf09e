"""Claim: a call of a method costs what `jax.jit` costs with the same arrays, and no more.

    python benchmarks/dispatch.py [--quick] [--json FILE] [--out FILE.md]

One window of 0.1 s, 16 -> 62 electrodes, so that there is little to compute: microseconds of
`jax.jit(method.apply)(plan, x, key)`, the plan a nested dict, beside the same arithmetic with its
arrays in a row (`jax.jit(flat)(*arrays)`), compiled ahead of time, and with the plan closed over,
which no caller should do. They take turns; medians of many calls.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sampling_steps import NAMES

from eegsr_jax import geometry, methods
from eegsr_jax.evaluation.tables import markdown_grid
from eegsr_jax.training.loop import fit

SAMPLES = 16
OPTIONS: dict[str, dict[str, Any]] = {  # a call costs the same however well a method is trained
    "ridge": {},
    "lagged_ridge": {},
    "gaussian": {},
    "emag": {"epochs": 1},
    "srgdiff": {"mean_epochs": 1, "epochs": 1},
}
WAYS = ("apply", "arrays in a row", "ahead of time", "closed over")


def ways(name: str) -> tuple[int, dict[str, Callable[[], Any]]]:
    """How many arrays a plan has, and the calls that are timed."""
    places, given = geometry.montage("standard_1005"), NAMES[::4]
    where = geometry.make_geometry(given, NAMES, {n: places[n] for n in NAMES})
    eeg = 1e-5 * np.random.default_rng(0).standard_normal((40, len(NAMES), 160), np.float32)
    part = (np.arange(40) >= 32).astype(np.int32)
    method = methods.make(name, **OPTIONS[name])
    params = fit(method, where, lambda: [{"eeg": eeg, "part": part}])
    plan = jax.jit(method.plan)(params, where)
    leaves, tree = jax.tree.flatten(plan)
    x, key = jnp.asarray(eeg[:1, np.asarray(where.observed_index), :SAMPLES]), jax.random.key(0)

    def flat(*arrays):
        return tuple(method.apply(jax.tree.unflatten(tree, arrays[:-2]), *arrays[-2:]))

    apply, plain = jax.jit(method.apply), jax.jit(flat)
    ahead: Any = apply.lower(plan, x, key).compile()
    closed = jax.jit(lambda x, key: method.apply(plan, x, key))
    calls = (
        lambda: apply(plan, x, key),
        lambda: plain(*leaves, x, key),
        lambda: ahead(plan, x, key),
        lambda: closed(x, key),
    )
    return len(leaves), dict(zip(WAYS, calls, strict=True))


def microseconds(calls: dict[str, Callable[[], Any]], rounds: int, each: int) -> dict[str, float]:
    """Medians over rounds of `each` calls in a row; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            for _ in range(each):
                jax.block_until_ready(call())
            found[name].append(1e6 * (time.perf_counter() - begin) / each)
    return {name: statistics.median(seconds[1:]) for name, seconds in found.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    head = ["method", "arrays", *(f"{way}, µs" for way in WAYS), "apply / arrays in a row"]
    lines = [head]
    for row in rows:
        times = [f"{row['us'][way]:.0f}" for way in WAYS]
        lines.append([f"`{row['method']}`", str(row["arrays"]), *times, f"{row['ratio']:.2f}"])
    return markdown_grid(lines)


def main() -> None:
    """Measure and print; write JSON and a table when asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows, rounds = [], 7 if arguments.quick else 41
    for name in OPTIONS:
        arrays, calls = ways(name)
        us = microseconds(calls, rounds, 20)
        ratio = us["apply"] / us["arrays in a row"]
        rows.append({"method": name, "arrays": arrays, "us": us, "ratio": ratio})
        print(table(rows).splitlines()[-1], flush=True)
    report = {
        "headline": {row["method"]: row["ratio"] for row in rows},
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {n: version(n) for n in ("jax", "jaxlib", "numpy")},
        "load_average": os.getloadavg()[0],
        "rows": rows,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))
    if arguments.out:
        arguments.out.write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
