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
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from emag_render import GROUPS, HIDDEN, taking_turns
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


def times(size: dict[str, int], rounds: int) -> dict[str, float]:
    """Seconds of rendering, and of rendering with all gradients."""
    given = random_field(**size)
    both = jax.grad(lambda f, t, x, w: jnp.mean(render(f, t, x, w) ** 2), (0, 2, 3))
    calls = {"forward_s": jax.jit(render), "with_gradients_s": jax.jit(both)}
    return taking_turns(
        {k: lambda f=f: jax.block_until_ready(f(*given)) for k, f in calls.items()}, rounds
    )


def over_devices(devices: int, rounds: int) -> dict[str, float]:
    """Seconds, and the deviation from one device, with the Gaussians spread over CPU devices."""
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
    found = taking_turns({"forward_s": lambda: spread(*given).block_until_ready()}, rounds)
    return found | {"relative_error": error}


def main() -> None:
    """Measure and print; write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else 5
    if arguments.devices:
        jax.config.update("jax_num_cpu_devices", arguments.devices)
        print(json.dumps(over_devices(arguments.devices, rounds)))
        return
    rows = []
    print(f"{'changed':<12}{'to':>8}{'forward s':>12}{'gradients s':>13}{'ns a weight':>13}")
    for name, values in SIZES.items():
        for value in values:
            size = USUAL | {name: value}
            row = times(size, rounds)
            weights = size["gaussians"] * size["electrodes"] * size["samples"]
            each = [1e9 * row[k] / weights for k in ("forward_s", "with_gradients_s")]
            rows.append({"changed": name} | size | row)
            print(
                f"{name:<12}{value:>8}{row['forward_s']:>12.4f}{row['with_gradients_s']:>13.4f}"
                f"{each[0]:>8.2f}{each[1]:>5.1f}",
                flush=True,
            )
    for devices in DEVICES:
        command = [sys.executable, __file__, "--devices", str(devices)]
        command += ["--quick"] * arguments.quick
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append({"changed": "devices", "devices": devices} | USUAL | row)
        print(
            f"{'devices':<12}{devices:>8}{row['forward_s']:>12.4f}"
            f"   deviation {row['relative_error']:.1e}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
