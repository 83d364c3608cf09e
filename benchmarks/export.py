"""Claim: an export starts quicker than its run, and the compilation cache saves most of the rest.

    python benchmarks/export.py [--quick] [--json FILE]

From the start of a process to the first reconstruction of a window, each start in a process of its
own, taking turns: the run (`eegsr_jax.load`, plan, apply) and its export (JAX alone), without and
with JAX's persistent compilation cache, filled by a start before. Seconds by the clock and of the
processor, in parts; all must find the same bits. Params are those before training, of default
sizes, 15 channels in and 64 out, 320 samples (`srgdiff_release` has 800).
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SAMPLES = {"lagged_ridge": 320, "emag": 320, "srgdiff": 320, "srgdiff_release": 800}
KINDS = ("run", "run, cached", "export", "export, cached")
PARTS = ("import", "load", "trace", "lower", "compile", "first call")
ROW = ("method", "start")


# ------------------------------------------------------------------------------------- one process


def start(kind: str, folder: Path) -> dict[str, Any]:
    """Seconds of each part, clock and processor, and a digest of what came out."""
    begun = [(time.perf_counter(), time.process_time())]

    def done() -> None:
        begun.append((time.perf_counter(), time.process_time()))

    import jax
    import numpy as np

    if kind.startswith("run"):
        import eegsr_jax

        done()
        method, params, geometry = eegsr_jax.load(folder / "run")
        plan, function = jax.jit(method.plan)(params, geometry), method.apply
        x = np.load(folder / "x.npy")
        keys: Any = jax.random.split(jax.random.key(0), len(x))
    else:
        from jax import export

        done()
        data = (folder / "exported" / "plan.safetensors").read_bytes()
        begin = 8 + int.from_bytes(data[:8], "little")
        kinds = {"F32": np.float32, "I32": np.int32, "BOOL": np.bool_}
        plan = {
            name: np.ndarray(v["shape"], kinds[v["dtype"]], data, begin + v["data_offsets"][0])
            for name, v in json.loads(data[8:begin]).items()
        }
        program = (folder / "exported" / "mean_std.bin").read_bytes()
        function = export.deserialize(bytearray(program)).call
        x = np.load(folder / "x.npy")
        keys = jax.random.key_data(jax.random.split(jax.random.key(0), len(x)))
    done()
    traced = jax.jit(function).trace(plan, x, keys)
    done()
    lowered = traced.lower()
    done()
    compiled = lowered.compile()
    done()
    mean, std = compiled(plan, x, keys)
    bits = np.asarray(mean).tobytes() + np.asarray(std).tobytes()
    done()
    assert kind.startswith("run") or "eegsr_jax" not in sys.modules
    pairs = list(zip(begun[:-1], begun[1:], strict=True))
    return {
        "clock": {part: b[0] - a[0] for part, (a, b) in zip(PARTS, pairs, strict=True)},
        "processor": {part: b[1] - a[1] for part, (a, b) in zip(PARTS, pairs, strict=True)},
        "digest": hashlib.sha256(bits).hexdigest(),
    }


def started(kind: str, folder: Path) -> dict[str, Any]:
    """`start` in a process of its own."""
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    if kind.endswith("cached"):
        environment |= {
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(folder / kind.replace(", ", "_")),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    command = [sys.executable, __file__, "--start", kind, str(folder)]
    done = subprocess.run(command, env=environment, check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


# ------------------------------------------------------------------------------------ all of them


def prepare(name: str, folder: Path) -> dict[str, float]:
    """A run of the method, its export and a window, in a folder; sizes of the files, bytes."""
    import jax
    import numpy as np

    from eegsr_jax import __version__
    from eegsr_jax.export import export
    from eegsr_jax.geometry import make_geometry, montage
    from eegsr_jax.layouts import layout
    from eegsr_jax.methods import make
    from eegsr_jax.training.experiment import Experiment
    from eegsr_jax.training.run import Card, write_run

    places = montage("biosemi64")
    names, positions = list(places), np.stack(list(places.values()))
    given = layout("spread:15", names, positions=positions)
    geometry = make_geometry(given, names, places)
    method = make(name)
    # Before training error bars are inf; numbers are what a run has.
    params = jax.tree.map(
        lambda x: np.nan_to_num(np.asarray(x), posinf=1e-5),
        jax.jit(method.init, static_argnums=2)(jax.random.key(0), geometry, SAMPLES[name]),
    )
    card = Card(
        experiment=Experiment(method=name),
        sfreq=method.sfreq or 160.0,
        reference="none",
        recordings=(),
        citation="",
        licence="",
        version=__version__,
    )
    write_run(folder / "run", card, geometry, params)
    fixed = SAMPLES[name] if name.startswith("srgdiff") else None
    begin = time.perf_counter()
    export(method, params, geometry, folder / "exported", samples=fixed)
    seconds = time.perf_counter() - begin
    shape = (1, len(geometry.observed), SAMPLES[name])
    x = 2e-5 * np.random.default_rng(0).standard_normal(shape)
    np.save(folder / "x.npy", x.astype(np.float32))
    sizes = {p.name: float(p.stat().st_size) for p in sorted((folder / "exported").iterdir())}
    return sizes | {"export_s": seconds}


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """A row for every kind of start: seconds in all, and medians of the parts."""
    import report  # which imports JAX, and a start times that

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sizes = prepare(name, folder)
        for kind in KINDS:
            if kind.endswith("cached"):
                started(kind, folder)  # fills the cache
        found = [{kind: started(kind, folder) for kind in KINDS} for _ in range(rounds)]
    digests = {one[kind]["digest"] for one in found for kind in KINDS}
    rows = []
    for kind in KINDS:
        row: dict[str, Any] = {"method": name, "start": kind, "samples": SAMPLES[name]}
        row |= {"dtype": "float32", "same_bits": len(digests) == 1, "files": sizes}
        row |= report.measured(sum(one[kind]["clock"].values()) for one in found)
        for by, end in (("clock", "s"), ("processor", "processor_s")):
            parts = [one[kind][by] for one in found]
            row["all_" + end] = statistics.median(sum(part.values()) for part in parts)
            for part in PARTS:
                key = f"{part.replace(' ', '_')}_{end}"
                row[key] = statistics.median(own[part] for own in parts)
        rows.append(row)
        print(f"{report.line(row, ROW)}, the same bits: {row['same_bits']}", flush=True)
    return rows


def main() -> None:
    """Measure and print; write JSON when asked."""
    if sys.argv[1:2] == ["--start"]:
        print(json.dumps(start(sys.argv[2], Path(sys.argv[3]))))
        return
    import report

    parser = report.parser(__doc__)
    parser.add_argument("--methods", default=",".join(SAMPLES), help="names with commas between")
    options = parser.parse_args()
    rows, headline = [], {}
    for name in options.methods.split(",")[: 2 if options.quick else None]:
        own = measure(name, 3 if options.quick else 7)
        run, _, _, cached = (row["all_processor_s"] for row in own)
        headline[f"{name}, a run's processor seconds over a cached export's"] = run / cached
        rows += own
    parts = [f"{part.replace(' ', '_')}_s" for part in PARTS]
    columns = (*parts, "all_processor_s", "same_bits")
    report.publish(
        options,
        __doc__,
        rows,
        names=ROW,
        columns=columns,
        headline=headline,
        packages=("flax",),
    )


if __name__ == "__main__":
    main()
