"""The lines of docs/architecture.md: who may import whom, and how long a file may be.

The imports are read from the source, those inside functions too. The rules are the tables below; a
new part of the package must be entered in them.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import eegsr_jax

PACKAGE = Path(eegsr_jax.__file__).parent
LONGEST = 400  # lines; aim for 300

# part of the package -> the parts that it may import
GROUND = {"errors", "typing"}
LOW = GROUND | {"numerics", "config"}
SPACE = LOW | {"geometry", "layouts"}
BLOCKS = {"nn", "diffusion", "gaussians"}
METHODS = SPACE | BLOCKS | {"methods", "distributed"}
MAY_IMPORT = {
    "errors": set(),
    "typing": set(),
    "numerics": GROUND,
    "config": GROUND,
    "distributed": LOW,
    "geometry": LOW,
    "layouts": SPACE,
    "nn": LOW | {"distributed"},  # nothing about EEG
    "diffusion": LOW | {"distributed"},  # nothing about EEG
    "gaussians": SPACE | {"distributed"},
    "methods": METHODS,
    "images": METHODS,
    "interop": METHODS,
    "artefact": LOW,
    "export": METHODS | {"artefact"},
    "data": SPACE,
    "flop": set(),
    "trials": GROUND,
    "training": METHODS | {"data", "flop", "throughput"},
    "evaluation": METHODS | {"data", "training"},
    "reconstruct": METHODS | {"data", "training"},
    "streaming": METHODS | {"training"},
    "lsl": GROUND,
    "throughput": METHODS | {"flop"},
}
MAY_IMPORT["commands"] = set(MAY_IMPORT)

# library -> the files and folders where it may be imported
HOMES = {
    "flax": ["nn/", "methods/"],
    "orbax": ["training/checkpoint.py"],
    "jax.export": ["export.py"],
    "mne": ["data/", "geometry.py", "evaluation/report.py", "evaluation/sources.py"],
    "mne_bids": ["data/"],
    "mne_lsl": ["lsl.py"],
    "grain": ["data/pipeline.py"],
    "torch": ["interop/torch_files.py"],
    "safetensors": ["interop/torch_files.py"],
    "pickle": [],
}
FORBIDDEN = {"util", "utils", "helper", "helpers", "manager", "managers", "misc", "common"}


def imported(tree: ast.AST) -> list[tuple[str, int]]:
    """(dotted name, line) of everything that the module imports, wherever the import stands."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import, write eegsr_jax.…"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = ast.unparse(node.func).rpartition(".")[2]
            if function in ("import_module", "__import__"):
                found.append((str(node.args[0].value), node.lineno))
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "jax.export":
            found.append(("jax.export", node.lineno))
    return found


def breaches(root: Path, file: Path) -> list[str]:
    """What is wrong with one file of a package that lies in the folder `root`."""
    text = file.read_text(encoding="utf-8")
    relative = file.relative_to(root).as_posix()
    part = relative.partition("/")[0].removesuffix(".py")
    found = []
    if (lines := len(text.splitlines())) > LONGEST:
        found.append(f"{lines} lines, at most {LONGEST} fit a head")
    if FORBIDDEN & set(re.split(r"[/_.]", relative)):
        found.append("a file is named after what it does, not utils, helpers or manager")
    if part != "__init__" and part not in MAY_IMPORT:
        found.append(f"{part} has no line in MAY_IMPORT: say what it may import")
    for name, line in imported(ast.parse(text)):
        if name.split(".")[0] == "eegsr_jax":
            other = (name.split(".") + [""])[1]
            if part == "__init__" or other in (part, "__version__"):
                continue
            if other not in MAY_IMPORT.get(part, ()):
                found.append(f"line {line}: {part} may not import {other or 'eegsr_jax'}")
        for library, homes in HOMES.items():
            if f"{name}.".startswith(f"{library}."):
                if not any(
                    relative == home or home[-1:] == "/" and relative.startswith(home)
                    for home in homes
                ):
                    places = ", ".join(homes) or "nowhere"
                    found.append(f"line {line}: {library} is imported in {places} only")
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_file_keeps_the_rules(file):
    assert breaches(PACKAGE, file) == []


def test_every_folder_of_modules_is_a_package():
    assert [
        folder for folder in {f.parent for f in FILES} if not (folder / "__init__.py").exists()
    ] == []


def test_the_parts_form_layers():
    """No cycle between the parts: each part's permissions lie strictly below it."""
    above = {part: others - {part} for part, others in MAY_IMPORT.items()}
    while above:
        bottom = {part for part, others in above.items() if not others & above.keys()}
        assert bottom, f"cycle among {sorted(above)}"
        above = {part: others for part, others in above.items() if part not in bottom}


@pytest.mark.parametrize(
    ("where", "code", "complaint"),
    [
        ("geometry.py", "from eegsr_jax.methods import base", "geometry may not import methods"),
        ("geometry.py", "from eegsr_jax import methods", "geometry may not import methods"),
        ("geometry.py", "import eegsr_jax.data.store", "geometry may not import data"),
        ("methods/linear.py", "from eegsr_jax.data.store import Store", "may not import data"),
        ("methods/linear.py", "from eegsr_jax import read", "methods may not import read"),
        (
            "data/store.py",
            "def f():\n    from eegsr_jax.methods import base",
            "line 2: data may not",
        ),
        ("nn/unet.py", "import eegsr_jax.geometry", "nn may not import geometry"),
        ("training/loop.py", "import eegsr_jax.evaluation.metrics", "may not import evaluation"),
        ("evaluation/report.py", "import eegsr_jax.commands.main", "may not import commands"),
        ("config.py", "import eegsr_jax", "config may not import eegsr_jax"),
        ("data/x.py", "import importlib\nimportlib.import_module('eegsr_jax.methods')", "line 2"),
        ("training/loop.py", "from flax import linen", "flax is imported in nn/, methods/ only"),
        ("training/loop.py", "from orbax.checkpoint import v1", "training/checkpoint.py only"),
        ("methods/base.py", "from jax import export", "jax.export is imported in export.py only"),
        ("methods/base.py", "import jax\njax.export.export", "line 2: jax.export"),
        ("reconstruct.py", "def f():\n    import mne.io", "line 2: mne is imported in"),
        ("evaluation/metrics.py", "import mne", "mne is imported in"),
        ("interop/torch_emag.py", "import torch", "torch is imported in interop/torch_files.py"),
        ("interop/torch_files.py", "import pickle", "pickle is imported in nowhere only"),
        ("methods/base.py", "from eegsr_jax import interop", "methods may not import interop"),
        ("data/utils.py", "", "not utils"),
        ("data/plot_helpers.py", "", "not utils"),
        ("voodoo.py", "", "voodoo has no line in MAY_IMPORT"),
        ("geometry.py", "#\n" * (LONGEST + 1), "401 lines"),
    ],
)
def test_a_wrong_file_is_caught(tmp_path, where, code, complaint):
    file = tmp_path / where
    file.parent.mkdir(exist_ok=True)
    file.write_text(code)
    (found,) = breaches(tmp_path, file)
    assert complaint in found


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("methods/emag.py", "from flax import linen\nfrom eegsr_jax.gaussians import render"),
        ("training/checkpoint.py", "from orbax.checkpoint import v1"),
        ("export.py", "from jax import export\nimport jax\njax.export.export"),
        ("data/recording.py", "def f():\n    import mne"),
        ("training/loop.py", "import jax\nfrom eegsr_jax.data import pipeline\nimport mnemonic"),
    ],
)
def test_a_right_file_passes(tmp_path, where, code):
    file = tmp_path / where
    file.parent.mkdir(exist_ok=True)
    file.write_text(code)
    assert breaches(tmp_path, file) == []
