"""How a sweep stands, read from its folder."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from eegsr_jax import config
from eegsr_jax.errors import ConfigError
from eegsr_jax.evaluation.trial import SCORES
from eegsr_jax.training.experiment import Experiment, is_tested, trial_name
from eegsr_jax.training.sweep import FAILED, PACKS

SWEEP = "sweep.json"  # the experiments
LAUNCHES = "launches"  # a file for each call: what it gave to whom
STATES = "finished", "failed", "begun", "waiting"
_LINES = 12


def trials(out: Path) -> dict[str, Experiment]:
    """The sweep's experiments by the names of their folders.

    Raises:
      ConfigError: no sweep there.
    """
    if not (out / SWEEP).exists():
        raise ConfigError(f"{out} holds no sweep: it has no {SWEEP}; check --out")
    return {trial_name(e): e for e in config.load_list(Experiment, out / SWEEP)}


def state(out: Path, name: str, tested: bool) -> str:
    """One of `STATES`; with test data, a trial is finished when it has been scored."""
    if (out / FAILED / f"{name}.txt").exists():
        return "failed"
    if (out / name / (SCORES if tested else "checkpoints/params")).exists():
        return "finished"
    return "begun" if (out / name).exists() else "waiting"


def states(out: Path, experiments: dict[str, Experiment]) -> dict[str, str]:
    """Of every trial; one that waits in a pack which has begun has begun too."""
    found = {name: state(out, name, is_tested(e)) for name, e in experiments.items()}
    for listed in out.glob(f"{PACKS}/*/trials.txt"):
        if (listed.parent / "checkpoints").exists():
            for name in listed.read_text().split():
                if found.get(name) == "waiting":
                    found[name] = "begun"
    return found


def unfinished(out: Path, names: Iterable[str]) -> list[str]:
    """Which of the sweep's trials have neither a result nor a reason why not."""
    experiments = trials(out)
    own = [name for name in names if name in experiments]  # others are no longer asked for
    return [n for n in own if state(out, n, is_tested(experiments[n])) in ("begun", "waiting")]


def tail(file: Path, lines: int = _LINES) -> str:
    """The last lines of a log."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - 4096))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def varying(experiments: Iterable[Experiment]) -> list[str]:
    """The fields in which they differ."""
    every = list(experiments)
    return [f.name for f in fields(Experiment) if len({getattr(e, f.name) for e in every}) > 1]


def label(experiment: Experiment, names: Sequence[str]) -> str:
    """What sets a trial apart: "subjects=1 layout=case2_4x"."""
    return " ".join(f"{name}={_word(getattr(experiment, name))}" for name in names)


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def launches(out: Path) -> list[dict[str, Any]]:
    """What each call gave to whom, oldest first."""
    files = sorted((out / LAUNCHES).glob("*.json"), key=lambda file: int(file.stem))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def page(out: Path, running: dict[str, str] | None = None) -> str:
    """The table, what failed, and when it will be over.

    Args:
      out: the sweep's folder.
      running: of trials that somebody has in hand, how, as a cluster says.
    """
    experiments = trials(out)
    found = states(out, experiments)
    names = varying(experiments.values())
    running = running or {}
    counts = Counter(found.values())
    head = ", ".join(f"{counts[s]} {s}" for s in STATES if counts[s])
    lines = [f"{out}: {len(experiments)} trials; {head}"]
    table: dict[str, Counter[str]] = {}
    for name, experiment in experiments.items():
        table.setdefault(experiment.method, Counter())[found[name]] += 1
    width = max(len(method) for method in table)
    lines.append("  ".join([f"{'method':<{width}}", *(f"{s:>8}" for s in STATES)]))
    for method, own in table.items():
        lines.append("  ".join([f"{method:<{width}}", *(f"{own[s]:>8}" for s in STATES)]))
    if running:
        told = ", ".join(f"{n} {s}" for s, n in Counter(running.values()).items())
        lines.append(f"in hand: {told}")
    lines += _eta(out, experiments, found)
    for name in (n for n in experiments if found[n] == "failed"):
        why = (out / FAILED / f"{name}.txt").read_text(errors="replace").strip()
        lines.append(f"failed: {name} {label(experiments[name], names)}")
        lines += [f"    {line}" for line in why.splitlines()]
    return "\n".join(lines)


def _eta(out: Path, experiments: dict[str, Experiment], found: dict[str, str]) -> list[str]:
    """From the pace of late: closed forms, which come first, are the quickest."""
    left = sum(s in ("begun", "waiting") for s in found.values())
    last = launches(out)
    if not left or not last:
        return []
    elapsed = time.time() - last[-1]["time"]
    since, done = min(elapsed, max(600, elapsed / 2)), 0
    for name, experiment in experiments.items():
        if found[name] == "finished":
            file = out / name / (SCORES if is_tested(experiment) else "config.json")
            done += time.time() - file.stat().st_mtime < since
    if not done:
        return []
    more = f"{left} more would take {clock(since / done * left)}"
    return [f"{done} finished in the last {clock(since)}; at this pace {more}"]


def clock(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
