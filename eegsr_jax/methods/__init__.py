"""Reconstruction methods: each a `Method` of pure functions, made by name or by its constructor."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from eegsr_jax.errors import ConfigError
from eegsr_jax.methods.base import (
    GradientStage,
    Method,
    MomentStage,
    Reconstruction,
    reconstruct,
)
from eegsr_jax.methods.emag import emag
from eegsr_jax.methods.emag_paper import emag_paper
from eegsr_jax.methods.gaussian import gaussian, population
from eegsr_jax.methods.linear import lagged_ridge, reduced_rank, ridge
from eegsr_jax.methods.spatial import inverse_distance, minimum_norm, nearest, spherical_spline
from eegsr_jax.methods.srgdiff.paper import srgdiff_paper
from eegsr_jax.methods.srgdiff.posterior import srgdiff
from eegsr_jax.methods.srgdiff.release import srgdiff_regression, srgdiff_release

METHODS: dict[str, Callable[..., Method]] = {
    "nearest": nearest,
    "inverse_distance": inverse_distance,
    "spherical_spline": spherical_spline,
    "minimum_norm": minimum_norm,
    "ridge": ridge,
    "lagged_ridge": lagged_ridge,
    "reduced_rank": reduced_rank,
    "gaussian": gaussian,
    "population": population,
    "emag_paper": emag_paper,
    "emag": emag,
    "srgdiff_release": srgdiff_release,
    "srgdiff_regression": srgdiff_regression,
    "srgdiff_paper": srgdiff_paper,
    "srgdiff": srgdiff,
}
NEEDS_TRAINING = (
    *("ridge", "lagged_ridge", "reduced_rank", "emag_paper", "emag"),
    *("srgdiff_release", "srgdiff_regression", "srgdiff_paper", "srgdiff"),
)
UNTRAINED = tuple(name for name in METHODS if name not in NEEDS_TRAINING)

__all__ = [
    "GradientStage",
    "METHODS",
    "Method",
    "MomentStage",
    "NEEDS_TRAINING",
    "Reconstruction",
    "UNTRAINED",
    "emag",
    "emag_paper",
    "gaussian",
    "inverse_distance",
    "lagged_ridge",
    "make",
    "minimum_norm",
    "nearest",
    "parse",
    "population",
    "reconstruct",
    "reduced_rank",
    "ridge",
    "spherical_spline",
    "srgdiff",
    "srgdiff_paper",
    "srgdiff_regression",
    "srgdiff_release",
]


def make(name: str, **options: Any) -> Method:
    """The method called `name`, with the options of its constructor.

    Raises:
      ConfigError: an unknown method or option, or a value that does not fit.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=2, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"method {name!r} is unknown; expected one of {', '.join(METHODS)}{hint}")
    known = inspect.signature(METHODS[name]).parameters
    for option, value in options.items():
        if option not in known:
            raise ConfigError(
                f"method {name} has no option {option!r}; it has {', '.join(known) or 'none'}"
            )
        _check_option(name, option, value, known[option].default)
    return _made(name, tuple(sorted(options.items())))


@functools.lru_cache(maxsize=64)  # the same functions at every call, so that nothing recompiles
def _made(name: str, options: tuple[tuple[str, Any], ...]) -> Method:
    return METHODS[name](**dict(options))


def _check_option(name: str, option: str, value: Any, default: Any) -> None:
    """Refuses a value that is not of the kind of the default, or negative."""
    items = value if isinstance(value, tuple) else (value,)
    like = default[0] if isinstance(default, tuple) else default
    words = {bool: "True or False", str: "a word", int: "a whole number", float: "a number"}
    expected = words[type(like)] + ("" if isinstance(like, bool | str) else ", 0 or more")
    kinds = (int, float) if isinstance(like, float) else (type(like),)
    good = isinstance(value, tuple) == isinstance(default, tuple) and len(items) > 0
    for item in items:
        good &= isinstance(item, kinds) and isinstance(item, bool) == isinstance(like, bool)
        good = good and (isinstance(item, str) or item >= 0)
    if not good:
        several = "a tuple, each " if isinstance(default, tuple) else ""
        raise ConfigError(f"method {name}: {option}={value!r}; expected {several}{expected}")


def parse(spec: str) -> dict[str, Method]:
    """Methods written as on the command line, by their text: "ridge,lagged_ridge(lags=2)".

    Raises:
      ConfigError: not of that form, a method named twice, or see `make`.
    """
    methods: dict[str, Method] = {}
    for text in _split(spec.replace(" ", "")):
        match = re.fullmatch(r"(\w+)(?:\((.*)\))?", text)
        if match is None:
            raise ConfigError(f"{text!r} is no method; write NAME or NAME(option=value,…)")
        if text in methods:
            raise ConfigError(f"method {text} is named twice; name each once")
        methods[text] = make(match.group(1), **_options(text, match.group(2) or ""))
    return methods


def _split(spec: str) -> list[str]:
    """Parts between the commas that stand outside all brackets."""
    parts, depth = [""], 0
    for letter in spec:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _options(text: str, arguments: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
        assert isinstance(call, ast.Call) and not call.args
        return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        raise ConfigError(f"{text!r}: options are written NAME(option=value,…)") from None
