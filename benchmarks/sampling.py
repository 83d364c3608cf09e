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
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the card

import jax
import jax.numpy as jnp
import numpy as np
import sampling_steps
from jax.sharding import AxisType, NamedSharding, PartitionSpec

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
        self.params, self.compile_s = params, {}
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

    def program(self, batch: int, steps: int) -> tuple[Any, Callable[[], float]]:
        """Compiled, and the seconds of a call: windows on the device, noise drawn in it."""
        plan, key = self.plan(steps), jax.random.key(0)
        x = jnp.asarray(VOLT * eeg(batch))
        lowered = jax.jit(srgdiff_release(steps=steps).apply).lower(plan, x, key)
        begin = time.perf_counter()
        program: Any = lowered.compile()
        self.compile_s[f"B={batch}, {steps} steps"] = time.perf_counter() - begin
        return program, timed(lambda: program(plan, x, key).mean.block_until_ready())


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


def taking_turns(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Medians of the seconds that calls take, one after the other in each round."""
    found = [{name: call() for name, call in calls.items()} for _ in range(rounds)]
    return {name: statistics.median(one[name] for one in found) for name in calls}


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
    found = taking_turns(calls, 9)
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
) -> dict[str, Any]:
    """Seconds at one batch size: ours with some numbers of steps, the original's `first` steps."""
    programs = {n: ours.program(batch, n) for n in counts}
    kinds = {"original": False}
    if original.head["device"] == "cuda":
        kinds["original compiled"] = True
    calls: dict[str, Callable[[], float]] = {}
    for name, compiled in kinds.items():
        original.seconds(batch, 1, compiled)
        calls[name] = lambda c=compiled: original.seconds(batch, first, c)
        if first < STEPS:
            calls[f"{name}, ends"] = lambda c=compiled: original.seconds(batch, 0, c)
    calls |= {f"{n} steps": call for n, (_, call) in programs.items()}
    found = taking_turns(calls, rounds)
    if first < STEPS:
        for name in kinds:
            ends = found.pop(f"{name}, ends")
            found[name] = ends + (found[name] - ends) * STEPS / first
    memory = programs[STEPS][0].memory_analysis()
    return {
        "batch": batch,
        "original_steps": first,
        "seconds": found,
        "windows_per_s": {name: batch / seconds for name, seconds in found.items()},
        "speedup": {str(n): found["original"] / found[f"{n} steps"] for n in counts},
        "temp_mb": memory.temp_size_in_bytes / 2**20,
        "original_mb": original.peak_mb - original.head["held_mb"],
    }


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
    found = {f"{name}_s": seconds for name, seconds in taking_turns(calls, rounds).items()}
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
        return {"devices": devices, "batch": batch, "seconds": taking_turns({"": call}, rounds)[""]}


# ------------------------------------------------------------------------------------------ main


def main() -> None:
    """Measure and print; write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="minutes instead of half an hour")
    parser.add_argument("--store", type=Path, help="of real EEG to train on, not simulated")
    parser.add_argument("--golden", type=Path, help="a folder of more of the authors' arrays")
    parser.add_argument(
        "--processor-seconds",
        action="store_true",
        help="on one core, and not by the clock: for a machine that others use too",
    )
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.processor_seconds:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX counts the cores
    if arguments.devices:
        jax.config.update("jax_num_cpu_devices", arguments.devices)
        print(json.dumps(over_devices(arguments.devices, 32, 3)))
        return
    if find_spec("torch") is None:
        parser.error("the original needs PyTorch: pip install 'eegsr_jax[bench]'")
    golden = [GOLDEN, *([arguments.golden] if arguments.golden else [])]
    with tempfile.TemporaryDirectory() as folder:
        original = Original(Path(folder), golden)
        try:
            result = measure(original, Path(folder), arguments.quick, arguments.store)
        finally:
            original.close()
    print(json.dumps({"headline": result["headline"]}))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


def measure(original: Original, folder: Path, quick: bool, store: Path | None) -> dict[str, Any]:
    """All figures, printed as they come."""
    ours, load, head = Ours.of(folder), os.getloadavg()[0], original.head
    error, limit = agree(ours, folder), limits()
    print(
        f"{jax.devices()[0].device_kind}, {platform.machine()}, {os.cpu_count()} cores; torch on "
        f"{head['device']}, {head['threads']} threads\n{len(head['errors'])} arrays of the "
        f"authors: largest relative error {max(head['errors'].values()):.1e}; ours against the "
        f"original {error:.1e}\n" + ", ".join(f"{k} {x:.3g}" for k, x in limit.items()),
        flush=True,
    )
    counts = (1, 2, 5, 10, STEPS) if quick else COUNTS
    # batch, steps of the original that are timed, rounds
    cases = ((1, 50, 5), (8, 50, 3), (32, 10, 3))
    if not quick:
        cases = ((1, 50, 21), (8, 50, 15), (32, 50, 7), (256, 5, 3))
    rows = []
    names = ("B", "of 50", "steps", "original s", "ours s", "windows/s", "x")
    print("{:>4}{:>6}{:>6}{:>12}{:>9}{:>11}{:>7}".format(*names))
    for batch, first, rounds in cases:
        own = counts if batch == 8 else (STEPS,)
        row = compare(original, ours, batch, first, rounds, own)
        row["shares"] = shares(batch, STEPS, row["seconds"][f"{STEPS} steps"], limit)
        rows.append(row)
        for n in own:
            print(
                f"{batch:>4}{first:>6}{n:>6}{row['seconds']['original']:>12.3f}"
                f"{row['seconds'][f'{n} steps']:>9.4f}{row['windows_per_s'][f'{n} steps']:>11.1f}"
                f"{row['speedup'][str(n)]:>7.1f}",
                flush=True,
            )
        reached = ", ".join(f"{100 * x:.0f} % of {name}" for name, x in row["shares"].items())
        print(
            f"     {reached}; temporary memory {row['temp_mb']:.0f} MB, the original's beyond its "
            f"start {row['original_mb']:.0f} MB",
            flush=True,
        )
    precision = half_precision(ours, 8, 3 if quick else 15)
    print("gates in bfloat16:", json.dumps(precision))
    data = sampling_steps.windows(store, 48 if quick else 160)
    steps = sampling_steps.sweep("srgdiff_release", data, quick, counts)
    print(sampling_steps.table(steps), flush=True)
    devices = [] if quick else [apart("--devices", str(n)) for n in (1, 2)]
    few, by_batch = steps["few_steps"], {row["batch"]: row["speedup"] for row in rows}
    loads = [load, os.getloadavg()[0]]
    print(f"devices: {devices}; load of the machine before and after: {loads}")
    return {
        "headline": {
            "sampling_speedup_b8": by_batch[8][str(STEPS)],
            "sampling_speedup_b32": by_batch[32][str(STEPS)],
            "few_step_speedup": by_batch[8][str(few)],
            "few_steps": few,
        },
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {n: version(n) for n in ("jax", "jaxlib", "numpy", "torch")},
        "original": head,
        "error": error,
        "limits": limit,
        "counted_per_window": counted(STEPS),
        "rows": rows,
        "precision": precision,
        "steps": [steps],
        "devices": devices,
        "compile_s": ours.compile_s,
        "load_average": loads,
        "clock": CLOCK.__name__,
    }


def apart(*flags: str) -> Any:
    """This script in a process of its own, and what its last line says."""
    command = [sys.executable, __file__, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
