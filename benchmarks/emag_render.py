"""Claim: EMAG's field, exact, thousands of times (apply) and a hundred times (training) faster.

    python benchmarks/emag_render.py [--quick] [--json FILE]  # an hour, quick: minutes; needs torch

Beside ours runs the original's sequence of operations in PyTorch (`emag_original.py`): windows in
pieces of ten samples, each holding (batch, 10, electrode, Gaussian). Both are first
checked on the authors' numbers. Then they take turns at the shapes of SEED (62 electrodes, 800
samples) and of Localize-MI (256, 2081), with 2016 and 24,000 Gaussians:
  apply  a trained model on new windows: the method's `apply` (the field was folded once, "fold")
  train  loss, gradients, regulariser, clip, AdamW, as released: a step of the training loop
The original's time is proportional to samples and windows; where all of them would take minutes
or more memory than there is, it is timed on some and scaled: `of_samples` and `of_batch` say on how
many. How our time grows with each size is in `emag_scaling.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report
from emag_original import GROUPS, Original, original

from eegsr_jax import throughput
from eegsr_jax.interop import emag_data, torch_emag
from eegsr_jax.methods.base import GradientStage
from eegsr_jax.training import gradient

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "emag" / "tiny.npz"
HIDDEN = 64
SHAPES = {"SEED": (62, 800, 200, 15), "Localize-MI": (256, 2081, 8000, 64)}  # M, T, Hz, L
ROOM = 8 * 2**30  # bytes that the original's arrays of one piece may take here
ROW = ("shape", "gaussians", "batch", "what", "by")
Row = dict[str, Any]


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

    @functools.cached_property
    def step(self) -> tuple[Callable[[], Any], throughput.Cost]:
        """A step whose result is left aside, so that all steps are alike."""
        memory = gradient.start(self.stage, self.params, 1)
        given = memory, self.params, self.batch, jax.random.key(0), self.where
        function = functools.partial(gradient.step, self.stage, 1)
        program, cost = throughput.compiled(function, *given)
        return functools.partial(program, *given), cost

    @functools.cached_property
    def fold(self) -> tuple[Callable[[], Any], throughput.Cost]:
        """The field folded for the read-out: the plan."""
        program, cost = throughput.compiled(self.method.plan, self.params, self.where)
        return functools.partial(program, self.params, self.where), cost

    @functools.cached_property
    def apply(self) -> tuple[Callable[[], Any], throughput.Cost]:
        """New windows through the folded field."""
        given = self.fold[0](), self.observed, None
        program, cost = throughput.compiled(self.method.apply, *given)
        return functools.partial(program, *given), cost


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


def taking_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call; the calls alternate, short ones in bundles."""
    once = {name: report.clock(call) for name, call in calls.items()}
    report.taking_turns(once, 1)  # compiles, touches memory
    found = report.taking_turns(once, 1)
    many = {
        name: report.clock(call, max(1, min(100, int(0.05 / found[name][0]))))
        for name, call in calls.items()
    }
    later = report.taking_turns(many, rounds - 1)
    return {name: seconds + later[name] for name, seconds in found.items()} if later else found


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
    turns = taking_turns({k: lambda f=f, v=v: f(v) for k, (f, v) in calls.items()}, 9)
    found = {name: throughput.spread(seconds).median_s for name, seconds in turns.items()}
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


def compare(
    shape: str, points: int, batch: int, part: int, rounds: int, limit: dict
) -> tuple[list[Row], dict[str, float]]:
    """Both at one shape; the original on part of a window, or of a batch that does not fit.

    Returns:
      A row for each, and how many times as fast ours is.
    """
    jax.clear_caches()  # cases of one shape would find each other's programs
    electrodes, samples, sfreq, inputs = SHAPES[shape]
    state, config, places = model(points, electrodes, inputs)
    part, fits = min(part, samples), batch
    while fits > 1 and 6 * 4 * 10 * fits * electrodes * points * GROUPS > ROOM:
        fits //= 2
    theirs = Original(state, config, places, fits, part, sfreq)
    ours = Ours(state, config, places, batch, samples, sfreq)
    made = {"apply": ours.apply, "train": ours.step, "fold": ours.fold}
    calls = {("apply", "original"): theirs.apply, ("train", "original"): theirs.train}
    calls |= {(what, "ours"): call for what, (call, _) in made.items()}
    order = [("apply", by) for by in ("original", "ours")]
    order += [("train", by) for by in ("original", "ours")] + [("fold", "ours")]
    turns = taking_turns({" by ".join(k): calls[k] for k in order}, rounds)
    scale = samples / part * batch / fits
    rows, speedup = [], {}
    for what, by in order:
        row: Row = {"shape": shape, "gaussians": points * GROUPS, "batch": batch, "what": what}
        row |= {"by": by, "electrodes": electrodes, "samples": samples, "dtype": "float32"}
        row |= report.measured(turns[f"{what} by {by}"], scale if by == "original" else 1)
        if by == "original":
            row |= {"of_samples": part, "of_batch": fits}
        else:
            row |= dataclasses.asdict(made[what][1])
        if by == "ours" and what != "fold":
            row["speedup"] = speedup[what] = rows[-1]["median_s"] / row["median_s"]
            row["limit"] = binding(what, shape, points, batch, row["median_s"], limit)
        rows.append(row)
    if jax.default_backend() != "cpu":
        rows[1] |= half_precision(ours)
    return rows, speedup


def half_precision(ours: Ours) -> dict[str, float]:
    """The read-out from a table in bfloat16: half the traffic."""
    plan = ours.fold[0]()
    half = plan | {"table": plan["table"].astype(jnp.bfloat16)}
    run = jax.jit(ours.method.apply)
    exact, near = (run(p, ours.observed, None).mean for p in (plan, half))
    seconds = taking_turns({"half": lambda: run(half, ours.observed, None)}, 9)["half"]
    return {
        "bf16_s": throughput.spread(seconds).median_s,
        "bf16_relative_error": float(jnp.linalg.norm(near - exact) / jnp.linalg.norm(exact)),
    }


def memory_of_a_step(points: int, batch: int, samples: int) -> float:
    """MB that the compiled step needs beside its inputs and outputs, at SEED's electrodes."""
    electrodes, _, sfreq, inputs = SHAPES["SEED"]
    state, config, places = model(points, electrodes, inputs)
    return Ours(state, config, places, batch, samples, sfreq).step[1].temporary_byte / 2**20


# ------------------------------------------------------------------------------------------ main


def main() -> None:
    """Measure and print; write JSON when asked."""
    parser = report.parser(__doc__)
    options = parser.parse_args()
    if find_spec("torch") is None:
        parser.error("the original needs PyTorch: pip install 'eegsr_jax[bench]'")
    import torch

    check()
    limit = limits()
    giga = {name: value / 1e9 for name, value in limit.items()}
    print(
        f"limits: {giga['exp_per_s']:.2f} G exp/s, {giga['flop_per_s']:.0f} GFLOP/s, "
        f"{giga['byte_per_s']:.0f} GB/s; torch on {torch.get_num_threads()} threads"
    )
    # shape, points, batch, samples for the original, rounds
    if options.quick:
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
    rows, by_batch = [], {}
    for case in cases:
        own, speedup = compare(*case, limit)
        rows += own
        if case[:2] == ("SEED", 672):
            by_batch[case[2]] = speedup
        for row in own:
            text = f", {row['speedup']:,.0f} times as fast" if "speedup" in row else ""
            print(report.line(row, ROW) + text, flush=True)
    memory = {batch: memory_of_a_step(8000, batch, 200) for batch in (1, 8, 32)}
    text = ", ".join(f"B={batch}: {mb:.0f} MB" for batch, mb in memory.items())
    held = 4 * 8 * 200 * 62 * 24_000 / 2**20
    print(f"temporary memory of a training step, N=24,000, T=200: {text}")
    print(f"    the weights alone, which the original holds at B=8 in one call: {held:,.0f} MB")
    headline = {
        "apply_speedup_b8": by_batch[8]["apply"],
        "train_step_speedup_b8": by_batch[8]["train"],
        "train_step_speedup_b32": by_batch[32]["train"],
        "train_temp_mb_24k": memory[8],
    }
    report.publish(
        options,
        __doc__,
        rows,
        names=ROW,
        columns=("of_samples", "of_batch", "speedup", "limit"),
        headline=headline,
        packages=("torch",),
        torch_threads=torch.get_num_threads(),
        limits=limit,
        train_temp_mb=memory,
    )


if __name__ == "__main__":
    main()
