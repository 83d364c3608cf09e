"""The files around the package agree with it. Needs a checkout: the package alone lacks them."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

import eegsr_jax

ROOT = Path(__file__).parents[1]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere():
    assert f"\nversion: {eegsr_jax.__version__}\n" in read("CITATION.cff")
    assert "## [Unreleased]" in read("CHANGELOG.md") or eegsr_jax.__version__ in read(
        "CHANGELOG.md"
    )


def test_every_bound_says_why():
    """Each line of setup.py that bounds a version carries its reason."""
    bounds = [line for line in read("setup.py").splitlines() if re.search(r'"[^"]*[<>]=?\d', line)]
    assert len(bounds) > 5
    assert [line for line in bounds if "  # " not in line] == []


def test_ci_runs_the_readme_command():
    assert "\nmake test\n" in read(".ci/run")
    assert (ROOT / ".ci/run").stat().st_mode & stat.S_IXUSR


PAGES = sorted(
    page.relative_to(ROOT).as_posix() for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
)


@pytest.mark.parametrize("page", PAGES)
def test_links_between_our_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", read(page)):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"
