"""The pages keep their word: examples run, commands are understood, links lead somewhere.

Needs a checkout: the package alone lacks the pages. A Python block after the line
`<!-- needs data -->` is not run.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import ModuleType

import jax
import matplotlib
import pytest

from eegsr_jax import config, methods
from eegsr_jax.commands import main as program
from eegsr_jax.training.experiment import Experiment

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("eegsr_jax/**/*.md")])
if not (ROOT / "docs").is_dir():
    pytest.skip("no docs here: an installed package", allow_module_level=True)

FENCE = re.compile(r"^(<!-- needs data -->\n+)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[bool, str, str, int]]:
    """(needs data, language, text, line of its first line) of every fenced block."""
    text = page.read_text(encoding="utf-8")
    return [
        (bool(m[1]), m[2], m[3], text.count("\n", 0, m.start(3)) + 1) for m in FENCE.finditer(text)
    ]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# ------------------------------------------------------------------------------------------ python

EXAMPLES = [p for p in PAGES if any(b[1] == "python" and not b[0] for b in blocks(p))]


@pytest.mark.parametrize("page", EXAMPLES, ids=name)
def test_the_python_examples_run(page, tmp_path, monkeypatch):
    """The blocks of a page, one after another in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    here = ModuleType("example").__dict__
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as a user has
        for needs_data, language, text, line in blocks(page):
            if language == "python" and not needs_data:
                code = compile("\n" * (line - 1) + text, name(page), "exec", dont_inherit=True)
                exec(code, here)


def test_every_method_has_a_page_with_an_example():
    pages = {p.stem for p in EXAMPLES if p.parent.name == "methods"}
    assert pages >= set(methods.METHODS)


# ---------------------------------------------------------------------------------------- commands


def commands(page: Path) -> list[list[str]]:
    """The words of each `eegsr …` line of the page's blocks; a backslash continues a line."""
    found = []
    for _, language, text, _ in blocks(page):
        if language in ("", "console", "sh", "bash"):
            lines = text.replace("\\\n", " ").splitlines()
            found += [shlex.split(line, comments=True) for line in map(_unprompted, lines)]
    return [words for words in found if words[:1] == ["eegsr"] and len(words) > 1]


def _unprompted(line: str) -> str:
    return line.removeprefix("$ ") if re.match(r"(\$ )?eegsr ", line) else ""


COMMANDS = [(name(p), words[1:]) for p in PAGES for words in commands(p)]


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{p}: {' '.join(w)[:60]}" for p, w in COMMANDS]
)
def test_the_program_understands_every_command(page, words):
    """Its flags, number of arguments, methods and configuration fields."""
    if words[0].startswith("-"):
        assert words[0] in ("--help", "--version")
        return
    command = program._find(words[0])
    if words[1:] == ["--help"]:
        return
    values = program._flags(command)
    arguments = values(words)[1:]  # raises for a flag that there is not
    assert len(arguments) == len(command.ARGUMENTS)
    if "methods" in values:
        methods.parse(values["methods"].value)
    if "method" in values:
        methods.make(values["method"].value)
    if "set" in values:
        config.override(Experiment(), values["set"].value)


# ------------------------------------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{name(page)} links to {target}"
        assert not anchor or anchor in anchors(place), f"{name(page)} links to {target}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = [p.relative_to(ROOT / "docs").as_posix() for p in ROOT.glob("docs/**/*.md")]
    assert [p for p in pages if p != "README.md" and f"({p})" not in index] == []


def test_the_tree_of_the_house_is_the_house():
    """Every file in the tree of docs/architecture.md is there, and none is left out."""
    tree = next(b[2] for b in blocks(ROOT / "docs" / "architecture.md") if "eegsr_jax/\n" in b[2])
    named = set(re.findall(r"\w+\.py", tree)) - {"__init__.py"}
    there = {
        p.name for folder in ("", "methods", "training", "evaluation")
        for p in (ROOT / "eegsr_jax" / folder).glob("*.py")
    } - {"__init__.py"}  # fmt: skip
    assert named == there


# ---------------------------------------------------------------------------- the checks themselves


def test_what_is_wrong_is_found(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "# A b: c\n[x](no.md) [y](#a-b-c)\n\n<!-- needs data -->\n```python\n1 / 0\n```\n"
        "```python\nassert False\n```\n"
        "```console\n$ eegsr train --wrkdir=x \\\n  --set a=1  # why\n```\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    with pytest.raises(AssertionError, match="links to no.md"):
        test_links_lead_somewhere(page)
    assert anchors(page) == {"a-b-c"}
    assert [(b[0], b[3]) for b in blocks(page)] == [(True, 6), (False, 9), (False, 12)]
    with pytest.raises(AssertionError):
        test_the_python_examples_run(page, tmp_path, monkeypatch)
    assert commands(page) == [["eegsr", "train", "--wrkdir=x", "--set", "a=1"]]
    with pytest.raises(Exception, match="wrkdir"):
        test_the_program_understands_every_command("page.md", ["train", "--wrkdir=x"])
