"""Claim: a call of a method costs what `jax.jit` costs with the same arrays, and no more.

    python benchmarks/dispatch.py [--quick] [--json FILE]

One window of 0.1 s, 16 -> 62 electrodes, so that there is little to compute: seconds of
`jax.jit(method.apply)(plan, x, key)`, the plan a nested dict, beside the same arithmetic with its
arrays in a row (`jax.jit(flat)(*arrays)`), compiled ahead of time, and with the plan closed over,
which no caller should do. They take turns; medians of many calls.
A call costs the same however well a method is trained: params are those before training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report
from sampling_steps import NAMES

from eegsr_jax import geometry, methods, throughput

SAMPLES = 16
METHODS = ("ridge", "lagged_ridge", "gaussian", "emag", "srgdiff")
WAYS = ("apply", "arrays in a row", "ahead of time", "closed over")
ROW = ("method", "way")


def ways(name: str) -> tuple[int, throughput.Cost, dict[str, Callable[[], Any]]]:
    """How many arrays a plan has, what `apply` costs to compile, and the calls that are timed."""
    places, given = geometry.montage("standard_1005"), NAMES[::4]
    where = geometry.make_geometry(given, NAMES, {n: places[n] for n in NAMES})
    method = methods.make(name)
    params = jax.jit(method.init, static_argnums=2)(jax.random.key(0), where, None)
    plan = jax.jit(method.plan)(params, where)
    leaves, tree = jax.tree.flatten(plan)
    noise = np.random.default_rng(0).standard_normal((1, len(given), SAMPLES), np.float32)
    x, key = jnp.asarray(1e-5 * noise), jax.random.key(0)

    def flat(*arrays):
        return tuple(method.apply(jax.tree.unflatten(tree, arrays[:-2]), *arrays[-2:]))

    apply, plain = jax.jit(method.apply), jax.jit(flat)
    ahead, cost = throughput.compiled(apply, plan, x, key)
    closed = jax.jit(lambda x, key: method.apply(plan, x, key))
    calls = (
        lambda: apply(plan, x, key),
        lambda: plain(*leaves, x, key),
        lambda: ahead(plan, x, key),
        lambda: closed(x, key),
    )
    return len(leaves), cost, dict(zip(WAYS, calls, strict=True))


def measure(names: Iterable[str], rounds: int, each: int = 20) -> tuple[list[dict], dict]:
    """A row for every way of every method, and how apply compares with arrays in a row."""
    rows, headline = [], {}
    for name in names:
        arrays, cost, calls = ways(name)
        turns = {way: report.clock(call, each) for way, call in calls.items()}
        report.taking_turns(turns, 1)  # compiles and warms up
        found = {w: report.measured(s) for w, s in report.taking_turns(turns, rounds).items()}
        for way, times in found.items():
            row = {"method": name, "way": way, "arrays": arrays, "samples": SAMPLES}
            row |= {"dtype": "float32"} | times
            # One program, called in two ways; the other two are the same arithmetic.
            row |= dataclasses.asdict(cost) if way in ("apply", "ahead of time") else {}
            rows.append(row)
            print(report.line(row, ROW), flush=True)
        ratio = found["apply"]["median_s"] / found["arrays in a row"]["median_s"]
        headline[f"{name}, apply over arrays in a row"] = ratio
    return rows, headline


def main() -> None:
    """Measure and print; write JSON when asked."""
    options = report.parser(__doc__).parse_args()
    rows, headline = measure(METHODS, 21 if options.quick else 41)
    report.publish(options, __doc__, rows, names=ROW, columns=("arrays",), headline=headline)


if __name__ == "__main__":
    main()
