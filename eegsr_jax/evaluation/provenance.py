"""With what numbers were made."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from eegsr_jax import __version__


def made_with() -> dict[str, Any]:
    """With what numbers are made here: command, device, commit, versions."""
    import jax

    return {
        "command": called("eegsr"),
        "device": str(jax.devices()[0].device_kind),
        "commit": _commit(),
        "versions": {"eegsr_jax": __version__}
        | {name: metadata.version(name) for name in ("jax", "jaxlib", "mne", "numpy", "scipy")},
    }


def called(program: str) -> str:
    """How this process was called, without the machine's folders."""
    words = []
    for before, word in itertools.pairwise(sys.argv):
        if before.strip("-") == "env" or re.match("--?env=", word):
            word = re.sub(r"^((--?env=)?[^=]*=).*", r"\1…", word)  # it may be a secret
        words.append(re.sub(r"(^(?=/)|=)(\S*/)([^/,]*)", r"\1…/\3", word))
    return " ".join([program, *(shlex.quote(w) if set(w) & set("()") else w for w in words)])


def _commit() -> str | None:
    """The revision of this checkout, or None for an installed package."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
