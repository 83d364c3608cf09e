"""The one form in which the benchmarks of speed say what they found, and how they take turns.

A report has `names`, the keys that tell its rows apart, the last one who did it (ours, theirs, in
which way), and `rows`, flat dicts: those keys, what `eegsr_jax.throughput` says of a compiled call,
always `calls`, `median_s`, `p10_s` and `p90_s`, and what else the claim is about, of which
`columns` are worth a place in a table. `headline` has ratios against what a user would take
instead. `compare.py` sets two reports side by side, `page.py` shows a folder of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from eegsr_jax.data.manifest import replacing
from eegsr_jax.evaluation.tables import three
from eegsr_jax.throughput import spread

FORM = "eegsr_jax benchmark 1"
ALWAYS = ("python", "jax", "jaxlib", "numpy", "mne")
_LOAD = os.getloadavg()[0]  # before anything is measured


def parser(text: str | None) -> argparse.ArgumentParser:
    """What every benchmark can be told."""
    style = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser(description=text, formatter_class=style)
    found.add_argument("--quick", action="store_true", help="fewer calls or cases: minutes")
    found.add_argument("--json", type=Path, help="write all that was measured here")
    return found


def clock(call: Callable[[], Any], times: int = 1) -> Callable[[], float]:
    """Gives the seconds of a call, over several in a row, each waited for."""

    def seconds() -> float:
        begin = time.perf_counter()
        for _ in range(times):
            jax.block_until_ready(call())
        return (time.perf_counter() - begin) / times

    return seconds


def taking_turns(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The seconds that each call gives, the calls one after the other in each round."""
    found = [{name: call() for name, call in calls.items()} for _ in range(rounds)]
    return {name: [one[name] for one in found] for name in calls}


def measured(seconds: Iterable[float], scale: float = 1.0) -> dict[str, Any]:
    """What a row says of the seconds of calls, each of them times `scale`."""
    return dataclasses.asdict(spread(scale * s for s in seconds))


def label(row: dict[str, Any], names: Sequence[str]) -> str:
    """What a row names."""
    values = [(name, row[name]) for name in names]
    return ", ".join(v if isinstance(v, str) else f"{name} {v:g}" for name, v in values)


def line(row: dict[str, Any], names: Sequence[str]) -> str:
    """A row in a few words."""
    median, low, high = (three(1e3 * row[k]) for k in ("median_s", "p10_s", "p90_s"))
    return f"{label(row, names)}: {median} ms ({low}–{high})"


def publish(
    options: argparse.Namespace,
    text: str | None,
    rows: list[dict[str, Any]],
    *,
    names: Sequence[str],
    headline: dict[str, float],
    columns: Sequence[str] = (),
    packages: Sequence[str] = (),
    **more: Any,
) -> None:
    """Prints the headline, and writes the file if asked.

    Args:
      options: of `parser`.
      text: of the script; its first line is the claim in a sentence.
      rows: see above.
      names: see above.
      headline: see above.
      columns: see above.
      packages: whose versions matter, beyond `ALWAYS`.
      **more: what else the claim has.
    """
    assert len({tuple(row[name] for name in names) for row in rows}) == len(rows), (
        "rows of one name"
    )
    device, path = jax.devices()[0], Path(sys.argv[0])
    flags = [word for word in sys.argv[1:] if word.startswith("--") and "json" not in word]
    report = {
        "form": FORM,
        "claim": path.stem,
        "sentence": (text or "").splitlines()[0].removeprefix("Claim: "),
        "command": " ".join(["python", f"benchmarks/{path.name}", *flags]),
        "date": date.today().isoformat(),
        "quick": options.quick,
        "device": {"kind": device.device_kind, "platform": device.platform},
        "machine": _machine(),
        "cores": _cores(),
        "load_average": [_LOAD, os.getloadavg()[0]],
        "versions": {name: _version(name) for name in (*ALWAYS, *packages)},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "headline": headline,
        "names": list(names),
        "columns": list(columns),
        "rows": rows,
    } | more
    print(json.dumps({"headline": headline}))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        with replacing(options.json, "w") as file:
            json.dump(report, file, indent=1)


def _cores() -> int | None:
    """That this process may use, where the system says."""
    own = getattr(os, "sched_getaffinity", None)
    return len(own(0)) if own else os.cpu_count()


def _version(name: str) -> str:
    try:
        return platform.python_version() if name == "python" else version(name)
    except PackageNotFoundError:
        return "none"


def _machine() -> str:
    """What Linux calls the processor, or else its family."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    models = [text.split(":", 1)[1].strip() for text in lines if text.startswith("model name")]
    return f"{platform.machine()}, {models[0] if models else platform.processor() or 'unknown'}"
