"""Claim: SRGDiff's sampler, exact, is several times faster; with the steps it needs, many times.

    python benchmarks/sampling.py [--quick] [--json FILE] [--store FOLDER]  # with extra `bench`

Windows per second of the whole reconstruction of `srgdiff_release` at the shapes of SEED: 62
channels, of which 31 are missing, 800 samples, latents of 32 x 400, 50 DDIM steps, random weights.
The original's sequence of operations in PyTorch (`sampling_original.py`) runs in a process of its
own, checked on the authors' numbers, then ours on its weights and noise. They take turns. At large
batches the original is timed on some of its steps and scaled: column "of 50".
How few steps do is measured with a trained model, see `sampling_steps.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the card

import jax
import jax.numpy as jnp
import numpy as np
import report
import sampling_steps
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eegsr_jax import throughput
from eegsr_jax.diffusion.grid import leading_grid
from eegsr_jax.geometry import Geometry
from eegsr_jax.interop import torch_srgdiff
from eegsr_jax.methods.srgdiff.denoiser import Denoiser
from eegsr_jax.methods.srgdiff.ends import seen
from eegsr_jax.methods.srgdiff.release import released, srgdiff_release
from eegsr_jax.methods.srgdiff.sampling import plan_steps, sample_latents
from eegsr_jax.methods.srgdiff.shape import Shape
from eegsr_jax.methods.srgdiff.stages import SCHEDULE
from eegsr_jax.typing import PyTree

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "tests" / "golden"
CHANNELS, SAMPLES, LATENT, LENGTH, HIDDEN, BLOCKS, STEPS = 62, 800, 32, 400, 384, 4, 50
OBSERVED = np.arange(0, CHANNELS, 2, dtype=np.int32)
VOLT = 1e-6  # a microvolt
COUNTS = (1, 2, 3, 5, 10, 20, 25, 50)
ROW = ("batch", "steps", "by")
CLOCK = time.process_time if "--processor-seconds" in sys.argv else time.perf_counter


class Original:
    """The process of the original; `close` ends it."""

    def __init__(self, folder: Path, golden: list[Path]):
        command = [sys.executable, str(HERE / "sampling_worker.py"), CLOCK.__name__]
        command += map(str, [folder, *golden])
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process: Any = subprocess.Popen(command, text=True, **pipes)
        self.head = self._answer()

    def seconds(self, batch: int, first: int = STEPS, compiled: bool = False) -> float:
        """Of one reconstruction, or of the first of its steps and both ends."""
        job = {"batch": batch, "first": first, "compiled": compiled}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        found = self._answer()
        self.peak_mb = found["peak_mb"]
        return found["seconds"]

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the original has ended; what it said is above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


class Ours:
    """The method, compiled for numbers of steps and batches."""

    def __init__(self, params: PyTree):
        place = np.random.default_rng(0).standard_normal((CHANNELS, 3)).astype(np.float32)
        self.params = params
        self.geometry = Geometry(  # where electrodes are plays no part
            observed=jnp.asarray(place[OBSERVED]),
            target=jnp.asarray(place),
            observed_index=jnp.asarray(OBSERVED),
            centre=jnp.zeros(3),
        )

    @classmethod
    def of(cls, folder: Path) -> Ours:
        """With the original's weights."""
        with np.load(folder / "state.npz", allow_pickle=False) as arrays:
            state = {name: arrays[name] for name in arrays.files}
        config = json.loads((folder / "config.json").read_text())
        mean, std = np.zeros(LATENT), np.ones(LATENT)
        return cls(torch_srgdiff.from_state_dict(state, config, z50_mean=mean, z50_std=std)[1])

    def plan(self, steps: int = STEPS) -> Any:
        """What depends on no window."""
        return jax.jit(srgdiff_release(steps=steps).plan)(self.params, self.geometry)

    def program(self, batch: int, steps: int) -> tuple[throughput.Cost, Callable[[], float]]:
        """Its cost, and the seconds of a call: windows on the device, noise drawn in it."""
        given = self.plan(steps), jnp.asarray(VOLT * eeg(batch)), jax.random.key(0)
        program, cost = throughput.compiled(srgdiff_release(steps=steps).apply, *given)
        return cost, timed(lambda: program(*given).mean.block_until_ready())


def eeg(batch: int) -> np.ndarray:
    """Of observed channels, `[batch, L, time]` in microvolts."""
    shape = (batch, len(OBSERVED), SAMPLES)
    return 20 * np.random.default_rng(0).standard_normal(shape, np.float32)


def agree(ours: Ours, folder: Path) -> float:
    """Relative deviation of ours from the original at these shapes, from the same noise."""
    with np.load(folder / "example.npz", allow_pickle=False) as arrays:
        x, noise, expected = (arrays[name] for name in ("eeg", "noise", "out"))
    shape = Shape(samples=SAMPLES)
    run = jax.jit(lambda p, x, s: released(shape, p, seen("ours", shape, p, x), s) / VOLT)
    found = np.asarray(run(ours.plan(), VOLT * x[:, OBSERVED], noise.swapaxes(1, 2)))
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert error < 1e-4, f"ours against the original: relative error {error}"
    return error


# ---------------------------------------------------------------------------------------- timing


def timed(call: Callable[[], Any]) -> Callable[[], float]:
    """The seconds of a call; it is called once before."""
    call()

    def once() -> float:
        begin = CLOCK()
        call()
        return CLOCK() - begin

    return once


def medians(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Of the seconds of calls that take turns."""
    found = report.taking_turns(calls, rounds)
    return {name: throughput.spread(seconds).median_s for name, seconds in found.items()}


def limits() -> dict[str, float]:
    """What XLA does here per second: flops, bytes from memory and from caches, transforms."""

    def again(function, count):
        return jax.jit(lambda x: jax.lax.fori_loop(0, count, lambda i, x: function(x), x))

    a = jnp.ones((2048, 2048), jnp.float32) / 2048
    large, small = jnp.ones(2**26, jnp.float32), jnp.ones(2**20, jnp.float32)
    rows = jnp.ones((BLOCKS * HIDDEN, LENGTH), jnp.float32)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    jobs = {"matmul": (product, a), "memory": (again(jnp.negative, 4), large)}
    jobs["cache"] = (again(jnp.negative, 200), small)
    jobs["fft"] = (jax.jit(jnp.fft.rfft), rows)
    calls = {k: timed(lambda f=f, v=v: f(v).block_until_ready()) for k, (f, v) in jobs.items()}
    found = medians(calls, 9)
    return {
        "flop_per_s": 2 * 2048**3 / found["matmul"],
        "memory_byte_per_s": 4 * 2 * large.nbytes / found["memory"],
        "cache_byte_per_s": 200 * 2 * small.nbytes / found["cache"],
        "transforms_per_s": len(rows) / found["fft"],
    }


def counted(steps: int) -> dict[str, float]:
    """What one window costs ours, by its formulas; the original's multiplications beside it.

    Bytes: every array of a step is written once and read as often as there are operations that
    need it, whatever lies in between.
    """
    plane, spectrum = HIDDEN * LENGTH, HIDDEN * (LENGTH // 2 + 1)
    ends = 2 * 127e6  # encoder 63 million multiplications, decoder 55, two guesses 9
    gates = 2 * BLOCKS * HIDDEN * plane
    transforms = BLOCKS * HIDDEN
    step = transforms * 2.5 * LENGTH * np.log2(LENGTH) + BLOCKS * (8 * plane + 22 * spectrum)
    step += 2 * 8 * spectrum
    moved = 4 * (1 + BLOCKS) * plane + BLOCKS * (2 * 4 * plane + (2 + 4) * 8 * spectrum)
    dense = 2 * (BLOCKS * HIDDEN * plane + 3 * 7 * LATENT * plane)
    return {
        "flop": ends + gates + steps * step,
        "byte": steps * moved,
        "transforms": steps * transforms,
        "original_flop": ends + steps * dense,
    }


def shares(batch: int, steps: int, seconds: float, limit: dict[str, float]) -> dict[str, float]:
    """Parts of the machine's limits that ours reaches."""
    cost = counted(steps)
    return {
        "matrix products": batch * cost["flop"] / seconds / limit["flop_per_s"],
        "bytes in caches": batch * cost["byte"] / seconds / limit["cache_byte_per_s"],
        "transforms": batch * cost["transforms"] / seconds / limit["transforms_per_s"],
    }


def compare(
    original: Original, ours: Ours, batch: int, first: int, rounds: int, counts: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Rows at one batch size: the original, of which `first` steps are timed, and ours."""
    programs = {n: ours.program(batch, n) for n in counts}
    kinds = {"original": False}
    if original.head["device"] == "cuda":
        kinds["original, compiled"] = True
    calls: dict[str, Callable[[], float]] = {}
    for name, compiled in kinds.items():
        original.seconds(batch, 1, compiled)
        calls[name] = lambda c=compiled: original.seconds(batch, first, c)
        if first < STEPS:
            calls[f"{name}, ends"] = lambda c=compiled: original.seconds(batch, 0, c)
    calls |= {f"{n} steps": call for n, (_, call) in programs.items()}
    found = report.taking_turns(calls, rounds)
    usual = {"batch": batch, "channels": CHANNELS, "samples": SAMPLES, "dtype": "float32"}
    rows: list[dict[str, Any]] = []
    for name in kinds:
        seconds = found[name]
        if first < STEPS:
            ends = found[f"{name}, ends"]
            pairs = zip(seconds, ends, strict=True)
            seconds = [end + (whole - end) * STEPS / first for whole, end in pairs]
        row = usual | {"steps": STEPS, "by": name} | report.measured(seconds)
        rows.append(
            row
            | {"of_steps": first, "beyond_start_mb": original.peak_mb - original.head["held_mb"]}
        )
    theirs = rows[0]["median_s"]
    for n, (cost, _) in programs.items():
        row = usual | {"steps": n, "by": "ours"} | report.measured(found[f"{n} steps"])
        row |= dataclasses.asdict(cost)
        rows.append(row | {"speedup": theirs / row["median_s"]})
    return [row | {"windows_per_s": batch / row["median_s"]} for row in rows]


def half_precision(ours: Ours, batch: int, rounds: int) -> dict[str, float]:
    """The sampler alone with gates in bfloat16: the fusion takes a hundredth of what it says."""
    shape, grid, rng = Shape(samples=SAMPLES), leading_grid(SCHEDULE, STEPS), np.random.default_rng
    x = [jnp.asarray(rng(i).standard_normal((batch, LENGTH, LATENT), np.float32)) for i in (0, 1)]
    run, calls, latents = jax.jit(sample_latents), {}, {}
    for name in ("float32", "bfloat16"):
        network = Denoiser(dtype=jnp.dtype(name))
        plan = plan_steps(shape.condition, network, ours.params, grid, LENGTH)
        latents[name] = run(plan, *x)
        calls[name] = timed(lambda plan=plan: run(plan, *x).block_until_ready())
    found = {f"{name}_s": seconds for name, seconds in medians(calls, rounds).items()}
    full, half = latents["float32"], latents["bfloat16"]
    deviation = float(jnp.linalg.norm(half - full) / jnp.linalg.norm(full))
    return found | {"batch": batch, "relative_deviation": deviation}


def over_devices(devices: int, batch: int, rounds: int) -> dict[str, float]:
    """Seconds with the batch spread over devices."""
    ours, method = Ours({}), srgdiff_release(adversarial=0.0)
    ours.params = jax.jit(method.init, static_argnums=2)(jax.random.key(0), ours.geometry, SAMPLES)
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        plan = jax.device_put(ours.plan(), NamedSharding(mesh, PartitionSpec()))
        x = jax.device_put(VOLT * eeg(batch), NamedSharding(mesh, PartitionSpec("batch")))
        run = jax.jit(method.apply)
        call = timed(lambda: run(plan, x, None).mean.block_until_ready())
        return {"devices": devices, "batch": batch, "seconds": medians({"": call}, rounds)[""]}


# ------------------------------------------------------------------------------------------ main


def main() -> None:
    """Measure and print; write JSON when asked."""
    parser = report.parser(__doc__)
    parser.add_argument("--store", type=Path, help="of real EEG to train on, not simulated")
    parser.add_argument("--golden", type=Path, help="a folder of more of the authors' arrays")
    parser.add_argument(
        "--processor-seconds",
        action="store_true",
        help="on one core, and not by the clock: for a machine that others use too",
    )
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.processor_seconds:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX counts the cores
    if options.devices:
        jax.config.update("jax_num_cpu_devices", options.devices)
        print(json.dumps(over_devices(options.devices, 32, 3)))
        return
    if find_spec("torch") is None:
        parser.error("the original needs PyTorch: pip install 'eegsr_jax[bench]'")
    golden = [GOLDEN, *([options.golden] if options.golden else [])]
    with tempfile.TemporaryDirectory() as folder:
        original = Original(Path(folder), golden)
        try:
            measure(original, Path(folder), options)
        finally:
            original.close()


def measure(original: Original, folder: Path, options: argparse.Namespace) -> None:
    """All figures, printed as they come."""
    ours, head, quick = Ours.of(folder), original.head, options.quick
    error, limit = agree(ours, folder), limits()
    print(
        f"torch on {head['device']}, {head['threads']} threads; {len(head['errors'])} arrays of "
        f"the authors: largest relative error {max(head['errors'].values()):.1e}; ours against the "
        f"original {error:.1e}\n" + ", ".join(f"{k} {x:.3g}" for k, x in limit.items()),
        flush=True,
    )
    counts = (1, 2, 5, 10, STEPS) if quick else COUNTS
    # batch, steps of the original that are timed, rounds
    cases = ((1, 50, 5), (8, 50, 3), (32, 10, 3))
    if not quick:
        cases = ((1, 50, 21), (8, 50, 15), (32, 50, 7), (256, 5, 3))
    rows = []
    speedup, reached = {}, {}
    for batch, first, rounds in cases:
        counted_here = counts if batch == 8 else (STEPS,)
        for row in compare(original, ours, batch, first, rounds, counted_here):
            rows.append(row)
            if row["by"] == "ours":
                speedup[batch, row["steps"]] = row["speedup"]
            print(f"{report.line(row, ROW)}, {row.get('speedup', 1):.1f} times", flush=True)
        seconds = next(r["median_s"] for r in rows[::-1] if r["steps"] == STEPS and "speedup" in r)
        reached[batch] = shares(batch, STEPS, seconds, limit)
        print("   ", ", ".join(f"{100 * x:.0f} % of {name}" for name, x in reached[batch].items()))
    precision = half_precision(ours, 8, 3 if quick else 15)
    print("gates in bfloat16:", json.dumps(precision))
    data = sampling_steps.windows(options.store, 48 if quick else 160)
    steps = sampling_steps.sweep("srgdiff_release", data, quick, counts)
    print(sampling_steps.table(steps), flush=True)
    devices = [] if quick else [apart("--devices", str(n)) for n in (1, 2)]
    few = steps["few_steps"]
    headline = {
        "sampling_speedup_b8": speedup[8, STEPS],
        "sampling_speedup_b32": speedup[32, STEPS],
        "few_step_speedup": speedup[8, few],
        "few_steps": few,
    }
    report.publish(
        options,
        __doc__,
        rows,
        names=ROW,
        columns=("of_steps", "speedup", "windows_per_s", "beyond_start_mb"),
        headline=headline,
        packages=("torch",),
        original=head,
        error=error,
        limits=limit,
        shares=reached,
        counted_per_window=counted(STEPS),
        precision=precision,
        steps=[steps],
        devices=devices,
        clock=CLOCK.__name__,
    )


def apart(*flags: str) -> Any:
    """This script in a process of its own, and what its last line says."""
    command = [sys.executable, __file__, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
