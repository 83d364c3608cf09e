"""Every quick benchmark that a CPU can run, one after another, and a page of them: `make bench`.

    python benchmarks/every.py [CLAIM ...] [--out FOLDER]

Reports and plots lie in the folder, the page beside it. Without claims the folder is emptied of
earlier reports first; with claims only theirs are replaced. A benchmark that fails stops no other:
it is named at the end, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from page import render

HERE = Path(__file__).parent
NEED_TORCH = ("emag_render", "sampling")
CLAIMS = ("data", "linear", "dispatch", "training", "streaming", "export", *NEED_TORCH)


def main() -> None:
    """Measures and renders."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help=", ".join(CLAIMS))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "quick")
    options = parser.parse_args()
    if unknown := set(options.claims) - set(CLAIMS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(CLAIMS)}")
    torch = find_spec("torch") is not None
    wanted = options.claims or [c for c in CLAIMS if torch or c not in NEED_TORCH]
    options.out.mkdir(parents=True, exist_ok=True)
    for claim in wanted if options.claims else [p.stem for p in options.out.glob("*.json")]:
        for end in ("json", "png"):
            (options.out / f"{claim}.{end}").unlink(missing_ok=True)
    failed = []
    for claim in wanted:
        print(f"== {claim}", flush=True)
        begin, file = time.perf_counter(), options.out / f"{claim}.json"
        command = [sys.executable, HERE / f"{claim}.py", "--quick", "--json", file]
        if subprocess.run(command).returncode or not file.exists():
            failed.append(claim)
        print(f"== {claim}: {time.perf_counter() - begin:.0f} s", flush=True)
    lacking = [c for c in CLAIMS if not (options.out / f"{c}.json").exists()]
    absent = f"not measured: {', '.join(lacking)}" if lacking else ""
    if not torch and set(lacking) & set(NEED_TORCH):
        absent += " (the originals need PyTorch: `pip install 'eegsr_jax[bench]'`)"
    if any(options.out.glob("*.json")):
        page = options.out.with_suffix(".md")
        render(options.out, page, CLAIMS, absent)
        print(f"{page}{'; ' if absent else ''}{absent}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
