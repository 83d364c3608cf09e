"""Claim: rendering costs what its weights cost, and a large batch or more devices hardly more.

    python benchmarks/emag_scaling.py [--quick] [--json FILE]

Seconds of rendering a field and of rendering it with all gradients, as one size changes and the
others stay as in EMAG's published configuration at SEED's shapes. Batches beyond 65 windows cost
the same as 65. Devices are CPU devices, each with its share of the Gaussians: they show that the
numbers stay, not how fast several machines are.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report
from emag_original import GROUPS
from emag_render import HIDDEN, taking_turns
from jax.sharding import AxisType, PartitionSpec

from eegsr_jax.gaussians.precision import Field
from eegsr_jax.gaussians.render import render

USUAL = {"gaussians": 2016, "electrodes": 62, "samples": 800, "batch": 8}
SIZES = {
    "gaussians": (1008, 2016, 8064, 24192),
    "electrodes": (16, 62, 128, 256),
    "samples": (100, 400, 800, 1600),
    "batch": (1, 8, 32, 64, 128, 256),
}
DEVICES = (1, 2, 4, 8)
ROW = ("changed", "to", "what")


def random_field(gaussians: int, electrodes: int, samples: int, batch: int) -> tuple:
    """Field, times, features and weights of a size."""
    rng = np.random.default_rng(0)
    shape = (GROUPS, gaussians // GROUPS)
    arrays = (
        rng.gamma(3, 5, (electrodes, *shape)),
        3 * rng.standard_normal((electrodes, *shape)),
        rng.uniform(50, 150, shape),
        rng.uniform(0, 0.5, shape),
        0.05 * rng.standard_normal(shape),
    )
    weights = {
        "kernel": 0.1 * rng.standard_normal((shape[1], HIDDEN)),
        "bias": 0.1 * rng.standard_normal(shape[1]),
    }
    features = rng.standard_normal((batch, samples, HIDDEN))
    parts = (Field._make(arrays), np.arange(samples) / 200, features, weights)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), parts)


def times(size: dict[str, int], rounds: int) -> dict[str, dict[str, Any]]:
    """Of rendering, and of rendering with all gradients."""
    given = random_field(**size)
    both = jax.grad(lambda f, t, x, w: jnp.mean(render(f, t, x, w) ** 2), (0, 2, 3))
    calls = {"forwards": jax.jit(render), "with gradients": jax.jit(both)}
    turns = taking_turns({k: lambda f=f: f(*given) for k, f in calls.items()}, rounds)
    return {what: report.measured(seconds) for what, seconds in turns.items()}


def over_devices(devices: int, rounds: int) -> dict[str, Any]:
    """Times, and the deviation from one device, with the Gaussians spread over CPU devices."""
    mesh = jax.make_mesh((devices,), ("x",), axis_types=(AxisType.Auto,))
    whole, by_point = PartitionSpec(), PartitionSpec("x")
    last, across = PartitionSpec(None, None, "x"), PartitionSpec(None, "x")
    specs = (
        Field._make([last, last, across, across, across]),
        whole,
        whole,
        {"kernel": by_point, "bias": by_point},
    )

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=whole)
    def spread(*given):
        return jax.lax.psum(render(*given), "x")

    given = random_field(**USUAL)
    alone, together = render(*given), spread(*given)
    error = float(jnp.linalg.norm(together - alone) / jnp.linalg.norm(alone))
    seconds = taking_turns({"": lambda: spread(*given)}, rounds)[""]
    return report.measured(seconds) | {"relative_error": error}


def main() -> None:
    """Measure and print; write JSON when asked."""
    parser = report.parser(__doc__)
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds = 1 if options.quick else 5
    if options.devices:
        jax.config.update("jax_num_cpu_devices", options.devices)
        print(json.dumps(over_devices(options.devices, rounds)))
        return
    rows: list[dict[str, Any]] = []
    for name, values in SIZES.items():
        for value in values:
            size = USUAL | {name: value}
            weights = size["gaussians"] * size["electrodes"] * size["samples"]
            for what, found in times(size, rounds).items():
                row = {"changed": name, "to": value, "what": what} | size | found
                rows.append(row | {"ns_a_weight": 1e9 * found["median_s"] / weights})
                print(report.line(rows[-1], ROW), flush=True)
    for devices in DEVICES:
        command = [sys.executable, __file__, "--devices", str(devices)]
        command += ["--quick"] * options.quick
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = {"changed": "devices", "to": devices, "what": "forwards"} | USUAL
        rows.append(row | json.loads(done.stdout.splitlines()[-1]))
        print(f"{report.line(rows[-1], ROW)}, deviation {rows[-1]['relative_error']:.1e}")
    first = {(row["changed"], row["to"]): row["median_s"] for row in rows[::-1]}
    headline = {
        "64 windows over one": first["batch", 64] / first["batch", 1],
        "8 CPU devices over one": first["devices", 8] / first["devices", 1],
    }
    columns = ("ns_a_weight", "relative_error")
    report.publish(options, __doc__, rows, names=ROW, columns=columns, headline=headline)


if __name__ == "__main__":
    main()
