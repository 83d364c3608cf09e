"""Whether a program fits into what its device has free, asked before it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from eegsr_jax.distributed import from_first

_SHARE = 0.8  # of what is free: the rest is for what others take meanwhile
_CGROUP = Path("/sys/fs/cgroup")


class TooLargeError(MemoryError):
    """A program needs more than its device has free.

    Attributes:
      share: of the models that would fit, about.
    """

    def __init__(self, share: float):
        super().__init__(f"{share:.0%} of it would fit")
        self.share = share


def fitting_program(function: Any, *arguments: Any) -> Callable[..., Any]:
    """A jitted function, compiled for these arguments, which are on the device already.

    Raises:
      TooLargeError: what it needs beyond them, as XLA plans it, is more than the device has free.
    """
    compiled = function.lower(*arguments).compile()
    plan, free, share = compiled.memory_analysis(), free_bytes(), None
    if plan is not None and free is not None:
        beyond = plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
        if beyond > _SHARE * free:
            # What lies there already is the models' too.
            inputs = plan.argument_size_in_bytes
            share = _SHARE * (free + inputs) / (beyond + inputs)
    share = from_first(share)  # all processes go on, or none
    if share is not None:
        raise TooLargeError(share)
    return compiled


def free_bytes() -> int | None:
    """Of the first device's memory, or of the host's for a CPU; None where nothing says it."""
    device = jax.local_devices()[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return _host_bytes() if device.platform == "cpu" else None


def _host_bytes() -> int | None:
    """What Linux would give to a new process, or this one's control group still may take."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = [1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable:")]
        own = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in own:
        number, _, name = line.partition("::")
        folder = _CGROUP / name.strip("/")
        while number == "0":  # its own group and those around it, any of which may have a limit
            found += _group_bytes(folder)
            if folder == _CGROUP:
                break
            folder = folder.parent
    return min(found) if found else None


def _group_bytes(folder: Path) -> list[int]:
    """What a control group may still take, pages of files that can go not counted; [] is all."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        stat = dict(x.split() for x in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    return [int(limit) - used + int(stat.get("inactive_file", 0))] if limit.isdecimal() else []
