"""Claim: EMAG's field, exact, thousands of times (apply) and a hundred times (training) faster.

    python benchmarks/emag_render.py [--quick] [--json FILE]       # needs the extra `bench` (torch)

Beside ours runs the original's sequence of operations in PyTorch, written from its description:
windows in pieces of ten samples, each holding (batch, 10, electrode, Gaussian). Both are first
checked on the authors' numbers. Then they take turns at the shapes of SEED (62 electrodes, 800
samples) and of Localize-MI (256, 2081), with 2016 and 24,000 Gaussians:
  apply  a trained model on new windows: the method's `apply` (the field was folded once, "fold")
  train  loss, gradients, regulariser, clip, AdamW, as released: a step of the training loop
The original's time is proportional to samples and windows; where all of them would take minutes
or more memory than there is, it is timed on some and scaled: columns "of T" and "of B" say on how
many. How our time grows with each size is in `emag_scaling.py`.
"""

from __future__ import annotations

import argparse
import functools
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

from eegsr_jax.interop import emag_data, torch_emag
from eegsr_jax.methods.base import GradientStage
from eegsr_jax.training import gradient

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "emag" / "tiny.npz"
GROUPS, HIDDEN = 3, 64
SHAPES = {"SEED": (62, 800, 200, 15), "Localize-MI": (256, 2081, 8000, 64)}  # M, T, Hz, L
RATE, DECAY, PENALTY = 1e-3, 0.01, 2e-4
ROOM = 8 * 2**30  # bytes that the original's arrays of one piece may take here
PENALISED = ("chol_log_diag", "chol_off_diag")


def model(points: int, electrodes: int, inputs: int) -> tuple[dict, dict, np.ndarray]:
    """A random state dict as the original names it, its configuration, and electrodes."""
    rng = np.random.default_rng(0)
    count = points * GROUPS
    shapes = {
        "ld_encoder.0": (64, inputs),
        "ld_encoder.2": (32, 64),
        "ld_modulator.0": (HIDDEN, 32),
        "ld_modulator.2": (points, HIDDEN),
    }
    state = {
        "amplitude": 0.05 * rng.standard_normal(count),
        "mu_t": rng.uniform(0, 0.5, count),
        "chol_log_diag": np.log([1 / 15] * 3 + [10]) + 0.05 * rng.standard_normal((count, 4)),
        "chol_off_diag": 0.02 * rng.standard_normal((count, 6)),
    }
    for name, shape in shapes.items():
        bound = shape[1] ** -0.5
        state[f"{name}.weight"] = rng.uniform(-bound, bound, shape)
        state[f"{name}.bias"] = rng.uniform(-bound, bound, shape[0])
    resolution, kind = {672: (12, "sphere"), 8000: (20, "cube")}[points]
    config = {
        "grid_type": kind,
        "grid_support": "volume",
        "grid_resolution": resolution,
        "n_gaussians_per_point": GROUPS,
        "covariance_mode": "full_4d",
        "offdiag_mode": "all",
        "center_mode": "fixed_grid",
        "mixture_assignment": "uniform",
        "ld_conditioning": "per_grid",
        "forward_operator": "gaussian_splat",
    }
    places = rng.standard_normal((electrodes, 3)) * [1, 1, 0.7] + [0, 0, 0.3]
    places = 95 * places / np.linalg.norm(places, axis=1, keepdims=True)
    return {k: v.astype(np.float32) for k, v in state.items()}, config, places.astype(np.float32)


# --------------------------------------------------------------------------------- the original


def original(torch, state, offsets, seconds, x, inner: int = 10):
    """`[batch, time, M]` in PyTorch: the released sequence of operations."""
    log_diagonal, off = state["chol_log_diag"], state["chol_off_diag"]
    diagonal = torch.exp(log_diagonal)
    dx, dy, dz = offsets.unbind(-1)
    z0 = diagonal[:, 0] * dx + off[:, 0] * dy + off[:, 1] * dz
    z1 = diagonal[:, 1] * dy + off[:, 2] * dz
    z2 = diagonal[:, 2] * dz
    distance = z0**2 + z1**2 + z2**2
    coupling = z0 * off[:, 3] + z1 * off[:, 4] + z2 * off[:, 5]
    rate = off[:, 3] ** 2 + off[:, 4] ** 2 + off[:, 5] ** 2 + diagonal[:, 3] ** 2
    torch.exp(-0.5 * distance)  # computed and not used, as released

    hidden = x.transpose(1, 2)
    for name in ("ld_encoder.0", "ld_encoder.2", "ld_modulator.0"):
        hidden = torch.nn.functional.linear(
            hidden, state[f"{name}.weight"], state[f"{name}.bias"]
        ).relu()
    last = (state[f"ld_modulator.2.{k}"] for k in ("weight", "bias"))
    modulation = torch.nn.functional.linear(hidden, *last)
    groups = len(state["amplitude"]) // modulation.shape[-1]
    taken = state["amplitude"] + modulation.repeat_interleave(groups, -1)

    seconds = seconds.expand(x.shape[0], -1)
    pieces = []
    for start in range(0, seconds.shape[1], inner):
        tau = seconds[:, start : start + inner, None] - state["mu_t"]
        exponent = -0.5 * distance - tau[:, :, None] * coupling
        exponent = exponent - 0.5 * (tau**2 * rate)[:, :, None]
        weights = torch.exp(exponent)
        pieces.append(torch.matmul(weights, taken[:, start : start + inner, :, None])[..., 0])
    return torch.cat(pieces, 1)


class Original:
    """The original at one shape: apply and train on the first samples of a window."""

    def __init__(self, state, config, places, batch: int, samples: int, sfreq: int):
        import torch

        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_default_device(self.device)
        self.state = {k: torch.tensor(v, requires_grad=True) for k, v in state.items()}
        points = np.repeat(torch_emag.points(state, config), GROUPS, 0).astype(np.float32)
        self.offsets = torch.tensor(places[:, None] - points[None])
        self.seconds = torch.arange(samples) / sfreq
        generator = torch.Generator(self.device).manual_seed(0)
        inputs = state["ld_encoder.0.weight"].shape[1]
        self.x = torch.randn(batch, inputs, samples, generator=generator)
        self.y = torch.randn(batch, samples, len(places), generator=generator)
        self.adam = torch.optim.AdamW(self.state.values(), lr=RATE, weight_decay=DECAY)

    def apply(self):
        """All samples in one call, as its evaluation does."""
        with self.torch.no_grad():
            original(self.torch, self.state, self.offsets, self.seconds, self.x)
        self.wait()

    def train(self):
        """A step in pieces of ten samples, each with its own backward pass."""
        self.adam.zero_grad()
        starts = range(0, len(self.seconds), 10)
        for start in starts:
            part = slice(start, start + 10)
            out = original(
                self.torch, self.state, self.offsets, self.seconds[part], self.x[:, :, part]
            )
            (((out - self.y[:, part]) ** 2).mean() / len(starts)).backward()
        penalty = [(self.state[k] ** 2).mean() for k in PENALISED]
        (PENALTY * self.torch.stack(penalty).sum()).backward()
        self.torch.nn.utils.clip_grad_norm_(self.state.values(), 1.0)
        self.adam.step()
        self.wait()

    def wait(self):
        """A graphics card answers before it is done."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()


# ------------------------------------------------------------------------------------------ ours


class Ours:
    """The method `emag_paper` with the same weights, compiled; params are arguments."""

    def __init__(self, state, config, places, batch: int, samples: int, sfreq: int):
        inputs = state["ld_encoder.0.weight"].shape[1]
        self.method, self.params, self.where = torch_emag.from_state_dict(
            state | {"electrode_pos": places},
            config | {"sampling_rate": sfreq},
            samples=samples,
            observed_index=range(inputs),
        )
        (self.stage,) = (s for s in self.method.stages if isinstance(s, GradientStage))
        rng = np.random.default_rng(0)
        eeg = rng.standard_normal((batch, len(places), samples))
        self.batch = {"eeg": jnp.asarray(eeg, jnp.float32)}
        self.observed = self.batch["eeg"][:, :inputs]
        self.memory = gradient.start(self.stage, self.params, 1)
        self.step = jax.jit(functools.partial(gradient.step, self.stage, 1))
        self.plan = jax.jit(self.method.plan)
        self.planned = self.plan(self.params, self.where)
        self.run = jax.jit(self.method.apply)

    def arguments(self):
        """Of `step`."""
        return self.memory, self.params, self.batch, jax.random.key(0), self.where

    def apply(self):
        """New windows through the folded field."""
        self.run(self.planned, self.observed).mean.block_until_ready()

    def make_plan(self):
        """The fold."""
        jax.block_until_ready(self.plan(self.params, self.where))

    def train(self):
        """A step; its result is left aside so that all steps are alike."""
        jax.block_until_ready(self.step(*self.arguments()))


# ------------------------------------------------------------------------------------------ check


def check() -> None:
    """Both on the authors' arrays: output and gradients within 1e-5 in float32."""
    import torch

    with np.load(GOLDEN, allow_pickle=False) as arrays:
        golden = {k: arrays[k] for k in arrays.files}
    config = json.loads(str(golden["config_json"]))
    names = [k.removeprefix("grad/") for k in golden if k.startswith("grad/")]
    state = {k: golden[f"state/{k}"] for k in names}

    weights = {k: torch.tensor(v, requires_grad=True) for k, v in state.items()}
    offsets = torch.tensor(golden["state/spatial_diff"])
    seconds = torch.tensor(golden["t"]) / config["sampling_rate"]
    out = original(torch, weights, offsets, seconds, torch.tensor(golden["x_ld"]))
    (out * torch.tensor(golden["g"])).sum().backward()
    theirs = {"out": out.detach()} | {k: v.grad for k, v in weights.items()}

    given = {"t": golden["t"], "electrode_positions_mm": golden["electrode_positions_mm"]}

    def loss(state):
        out = torch_emag.original_forward(state, config, x_ld=golden["x_ld"], **given)
        return jnp.sum(out * golden["g"]), out

    gradients, out = jax.grad(loss, has_aux=True)({k: jnp.asarray(v) for k, v in state.items()})
    for found in (theirs, {"out": out} | gradients):
        for name, value in found.items():
            expected = golden["out" if name == "out" else f"grad/{name}"]
            _near(value, expected, f"{name}, the authors' numbers")

    # The method standardises its inputs, which the arrays above are not.
    samples, inputs = 40, golden["x_ld"].shape[1]
    window = emag_data.zscore(np.random.default_rng(1).standard_normal((2, inputs, samples)))
    whole = {k.removeprefix("state/"): v for k, v in golden.items() if k.startswith("state/")}
    method, params, where = torch_emag.from_state_dict(whole, config, samples=samples)
    mean = method.apply(method.plan(params, where), jnp.asarray(window, jnp.float32), None).mean
    given = {**given, "t": np.arange(samples)}
    expected = torch_emag.original_forward(state, config, x_ld=window, **given)
    _near(mean.swapaxes(1, 2), expected, "apply against the renderer")


def _near(found, expected, name: str) -> None:
    error = np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected)
    assert error < 1e-5, f"{name}: relative error {error}"


# ---------------------------------------------------------------------------------------- timing


def taking_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each call; the calls alternate, short ones in bundles."""
    seconds: dict[str, list[float]] = {}
    for name, call in calls.items():
        call()  # compiles, touches memory
        seconds[name] = [timed(call, 1)]
    bundle = {name: max(1, min(100, int(0.05 / first[0]))) for name, first in seconds.items()}
    for _ in range(rounds - 1):
        for name, call in calls.items():
            seconds[name].append(timed(call, bundle[name]))
    return {name: statistics.median(values) for name, values in seconds.items()}


def timed(call: Callable[[], Any], times: int) -> float:
    """Seconds of one call, over several in a row."""
    begin = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begin) / times


def limits() -> dict[str, float]:
    """What XLA does here per second: exponentials in cache, flops, bytes of a read-out table."""

    def again(function, count):
        return jax.jit(lambda x: jax.lax.fori_loop(0, count, lambda i, x: function(x), x))

    x = jnp.linspace(-9, 0, 2**18, dtype=jnp.float32)
    a = jnp.ones((2048, 2048), jnp.float32) / 2048
    table = jnp.ones((62 * 65 * 800,), jnp.float32)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    calls = {"exp": (again(lambda x: jnp.exp(-x), 200), x), "matmul": (product, a)}
    calls["copy"] = (again(lambda x: -x, 20), table)
    found = taking_turns(
        {k: lambda f=f, v=v: f(v).block_until_ready() for k, (f, v) in calls.items()}, 9
    )
    return {
        "exp_per_s": 200 * x.size / found["exp"],
        "flop_per_s": 2 * 2048**3 / found["matmul"],
        "byte_per_s": 20 * 2 * table.nbytes / found["copy"],
    }


def binding(what: str, shape: str, points: int, batch: int, seconds: float, limit: dict) -> str:
    """Shares of the machine's limits that a call reaches, and which limit is nearest."""
    electrodes, samples, _, inputs = SHAPES[shape]
    if what == "apply":
        each = inputs * 64 + 64 * 32 + 32 * HIDDEN + HIDDEN * electrodes
        flops = 2 * batch * samples * each
        bytes_ = 4 * samples * (electrodes * (HIDDEN + 1) + batch * (inputs + electrodes))
        shares = {
            "memory": bytes_ / seconds / limit["byte_per_s"],
            "matrix products": flops / seconds / limit["flop_per_s"],
        }
        rate = f"{flops / seconds / 1e9:.0f} GFLOP/s"
    else:
        exps = 2 * samples * electrodes * points * GROUPS
        flops = 2 * batch * samples * points * (3 * electrodes + 4 * HIDDEN)
        shares = {
            "exponentials": exps / seconds / limit["exp_per_s"],
            "matrix products": flops / seconds / limit["flop_per_s"],
        }
        rate = f"{exps / seconds / 1e9:.2f} G exp/s, {flops / seconds / 1e9:.0f} GFLOP/s"
    text = ", ".join(f"{100 * share:.0f} % of {name}" for name, share in shares.items())
    return f"{rate}: {text}; nearest: {max(shares, key=lambda k: shares[k])}"


def compare(shape: str, points: int, batch: int, part: int, rounds: int, limit: dict) -> dict:
    """Both at one shape; the original on part of a window, or of a batch that does not fit."""
    electrodes, samples, sfreq, inputs = SHAPES[shape]
    state, config, places = model(points, electrodes, inputs)
    part, fits = min(part, samples), batch
    while fits > 1 and 6 * 4 * 10 * fits * electrodes * points * GROUPS > ROOM:
        fits //= 2
    theirs = Original(state, config, places, fits, part, sfreq)
    ours = Ours(state, config, places, batch, samples, sfreq)
    found = taking_turns(
        {
            "original apply": theirs.apply,
            "apply": ours.apply,
            "original train": theirs.train,
            "train": ours.train,
            "fold": ours.make_plan,
        },
        rounds,
    )
    row = {
        "shape": shape,
        "gaussians": points * GROUPS,
        "batch": batch,
        "original_samples": part,
        "original_batch": fits,
    }
    scale = samples / part * batch / fits
    for name, seconds in found.items():
        row[f"{name}_s"] = seconds * (scale if name.startswith("original") else 1)
    for what in ("apply", "train"):
        row[f"{what}_speedup"] = row[f"original {what}_s"] / row[f"{what}_s"]
        row[f"{what}_limit"] = binding(what, shape, points, batch, row[f"{what}_s"], limit)
    if jax.default_backend() != "cpu":
        row |= half_precision(ours)
    return row


def half_precision(ours: Ours) -> dict[str, float]:
    """The read-out from a table in bfloat16: half the traffic."""
    half = ours.planned | {"table": ours.planned["table"].astype(jnp.bfloat16)}
    exact = ours.run(ours.planned, ours.observed).mean
    near = ours.run(half, ours.observed).mean

    def call():
        ours.run(half, ours.observed).mean.block_until_ready()

    return {
        "apply_bf16_s": taking_turns({"half": call}, 9)["half"],
        "bf16_relative_error": float(jnp.linalg.norm(near - exact) / jnp.linalg.norm(exact)),
    }


def memory_of_a_step(points: int, batch: int, samples: int) -> float:
    """MB that the compiled step needs beside its inputs and outputs, at SEED's electrodes."""
    electrodes, _, sfreq, inputs = SHAPES["SEED"]
    state, config, places = model(points, electrodes, inputs)
    ours = Ours(state, config, places, batch, samples, sfreq)
    analysis: Any = ours.step.lower(*ours.arguments()).compile().memory_analysis()
    return analysis.temp_size_in_bytes / 2**20


# ------------------------------------------------------------------------------------------ main


def main() -> None:
    """Measure and print; write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="five minutes instead of an hour")
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        parser.error("the original needs PyTorch: pip install 'eegsr_jax[bench]'")
    check()
    limit = limits()
    head = {
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch_threads": torch.get_num_threads(),
        "versions": {n: version(n) for n in ("jax", "jaxlib", "numpy", "torch")},
        "limits": limit,
    }
    print(f"{head['device']}, {head['machine']}, torch on {head['torch_threads']} threads")
    giga = {name: value / 1e9 for name, value in limit.items()}
    print(
        f"limits: {giga['exp_per_s']:.2f} G exp/s, {giga['flop_per_s']:.0f} GFLOP/s, "
        f"{giga['byte_per_s']:.0f} GB/s"
    )
    # shape, points, batch, samples for the original, rounds
    if arguments.quick:
        cases = [
            ("SEED", 672, 1, 100, 3),
            ("SEED", 672, 8, 40, 3),
            ("SEED", 672, 32, 10, 3),
            ("SEED", 8000, 8, 10, 1),
            ("Localize-MI", 672, 8, 10, 1),
        ]
    else:
        cases = [
            (shape, points, batch, 200 if (shape, points) == ("SEED", 672) else 20, 5)
            for shape in SHAPES
            for points in (672, 8000)
            for batch in (1, 8, 32)
        ]
    names = ("original apply_s", "apply_s", "original train_s", "train_s", "fold_s")
    print(
        f"{'shape':<12}{'N':>6}{'B':>4}{'of T':>6}{'of B':>6}"
        + "".join(f"{n.removesuffix('_s'):>17}" for n in names)
        + f"{'apply x':>10}{'train x':>9}"
    )
    rows = []
    for shape, points, batch, part, rounds in cases:
        row = compare(shape, points, batch, part, rounds, limit)
        rows.append(row)
        print(
            f"{shape:<12}{row['gaussians']:>6}{batch:>4}"
            f"{row['original_samples']:>6}{row['original_batch']:>6}"
            + "".join(f"{row[n]:>15.4f} s" for n in names)
            + f"{row['apply_speedup']:>10,.0f}{row['train_speedup']:>9,.0f}",
            flush=True,
        )
        for what in ("apply", "train"):
            print(f"    {what}: {row[f'{what}_limit']}")
    memory = {batch: memory_of_a_step(8000, batch, 200) for batch in (1, 8, 32)}
    text = ", ".join(f"B={batch}: {mb:.0f} MB" for batch, mb in memory.items())
    held = 4 * 8 * 200 * 62 * 24_000 / 2**20
    print(f"temporary memory of a training step, N=24,000, T=200: {text}")
    print(f"    the weights alone, which the original holds at B=8 in one call: {held:,.0f} MB")
    by_batch = {r["batch"]: r for r in rows if (r["shape"], r["gaussians"]) == ("SEED", 2016)}
    headline = {
        "apply_speedup_b8": by_batch[8]["apply_speedup"],
        "train_step_speedup_b8": by_batch[8]["train_speedup"],
        "train_step_speedup_b32": by_batch[32]["train_speedup"],
        "train_temp_mb_24k": memory[8],
    }
    print(json.dumps({"headline": headline}))
    if arguments.json:
        result = head | {"headline": headline, "rows": rows}
        arguments.json.write_text(json.dumps(result | {"train_temp_mb": memory}, indent=1))


if __name__ == "__main__":
    main()
