"""Measure how fast a run reconstructs on this device, and how near that is to the device's limits.

eegsr bench RUN [--batches=1,8,64] [--seconds=2] [--json=FILE]

Compiling apart from running, at least 20 calls for each batch size, inputs on the device. `draw`
has rows of its own where the method draws. The shares are of a matrix product and of a copy that
are measured first. Operations are counted loop by loop; caches may spare more than a copy can do.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import jax
from absl import flags

from eegsr_jax.commands.prepare import refuse_existing
from eegsr_jax.data.manifest import replacing
from eegsr_jax.errors import ConfigError
from eegsr_jax.throughput import Throughput, knee, limits, measure
from eegsr_jax.training.run import load, load_card

ARGUMENTS = ("RUN",)
_HEAD = "batch", "compile s", "ms a call (p10–p90)", "windows/s", "× real time", "MB", "products"


def define_flags() -> flags.FlagValues:
    """Which windows, and where to."""
    values = flags.FlagValues()
    text = "Windows in a call, numbers with commas between."
    flags.DEFINE_list("batches", ["1", "8", "64"], text, flag_values=values)
    text = "Of a window; default: what the run was trained on."
    flags.DEFINE_float("seconds", None, text, lower_bound=0.001, flag_values=values)
    text = "File for all that was measured."
    flags.DEFINE_string("json", None, text, flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace a file that is there.", flag_values=values)
    return values


def run(values: flags.FlagValues, folder: str) -> None:
    """Measures and prints; writes the JSON file when asked."""
    out = Path(values.json) if values.json else None
    if out:
        refuse_existing(out, values.overwrite)
    wrong = [text for text in values.batches if not text.isdecimal() or int(text) < 1]
    if wrong or not values.batches:
        raise ConfigError(f"--batches: {', '.join(wrong) or 'none'}; expected numbers of 1 or more")
    card = load_card(folder)
    method, params, where = load(folder)
    seconds = values.seconds or card.experiment.window_seconds
    samples = round(seconds * card.sfreq)
    plan = jax.jit(method.plan)(params, where)
    channels, targets = len(where.observed), len(where.target)
    device, limit = jax.devices()[0], limits()
    print(
        f"{card.experiment.method}: {channels} -> {targets} channels, windows of {samples} samples "
        f"at {card.sfreq:g} Hz, float32\n{device.device_kind} ({device.platform}), "
        f"{os.cpu_count()} cores: {limit.flop / 1e9:,.0f} GFLOP/s, {limit.byte / 1e9:,.1f} GB/s"
    )
    rows = []
    for draw in (False, True) if method.draw else (False,):
        print(("draw" if draw else "apply") + ": " + " | ".join((*_HEAD, "copy")))
        shapes = [(int(text), channels, samples) for text in values.batches]
        for shape in shapes:
            rows.append(measure(method, plan, shape, card.sfreq, limit, draw=draw))
            print(f"  {_line(rows[-1])}", flush=True)
    best = knee({row.batch: row.windows_per_s for row in rows if row.function == "apply"})
    print(f"from {best} windows a call on, apply is within a tenth of its fastest")
    if out:
        report = {
            "method": card.experiment.method,
            "device": {"kind": device.device_kind, "platform": device.platform},
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {n: version(n) for n in ("eegsr_jax", "jax", "jaxlib", "numpy")},
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "shape": {"channels": channels, "targets": targets, "samples": samples},
            "sfreq": card.sfreq,
            "dtype": "float32",
            "limits": dataclasses.asdict(limit),
            "load_average": os.getloadavg()[0],
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        with replacing(out, "w") as file:
            json.dump(report, file, indent=1)


def _line(row: Throughput) -> str:
    ms = [1e3 * x for x in (row.median_s, row.p10_s, row.p90_s)]
    cells = (
        f"{row.batch}",
        f"{row.trace_s + row.lower_s + row.compile_s:.2f}",
        f"{ms[0]:.3f} ({ms[1]:.3f}–{ms[2]:.3f})",
        f"{row.windows_per_s:,.0f}",
        f"{row.real_time:,.0f}",
        f"{row.temporary_byte / 1e6:,.1f}",
        f"{row.flop_share:.0%}",
        f"{row.byte_share:.0%}",
    )
    return " | ".join(cells)
