"""Reconstruction methods: each a `Method` of pure functions, made by name or by its constructor."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable
from typing import Any

from eegsr_jax.errors import ConfigError
from eegsr_jax.methods.base import Method, MomentStage, Reconstruction, reconstruct
from eegsr_jax.methods.gaussian import gaussian, population
from eegsr_jax.methods.linear import lagged_ridge, reduced_rank, ridge
from eegsr_jax.methods.spatial import inverse_distance, minimum_norm, nearest, spherical_spline

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
}
NEEDS_TRAINING = ("ridge", "lagged_ridge", "reduced_rank")
UNTRAINED = tuple(name for name in METHODS if name not in NEEDS_TRAINING)

__all__ = [
    "METHODS",
    "Method",
    "MomentStage",
    "NEEDS_TRAINING",
    "Reconstruction",
    "UNTRAINED",
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
]


def make(name: str, **options: Any) -> Method:
    """The method called `name`, with the options of its constructor.

    Raises:
      ConfigError: an unknown method or option.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=2, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"method {name!r} is unknown; expected one of {', '.join(METHODS)}{hint}")
    known = inspect.signature(METHODS[name]).parameters
    for option in options:
        if option not in known:
            raise ConfigError(
                f"method {name} has no option {option!r}; it has {', '.join(known) or 'none'}"
            )
    return METHODS[name](**options)


def parse(spec: str) -> dict[str, Method]:
    """Methods written as on the command line, by their text: "ridge,lagged_ridge(lags=2)".

    Raises:
      ConfigError: not of that form, a method named twice, or see `make`.
    """
    methods: dict[str, Method] = {}
    for text in re.split(r",(?![^(]*\))", spec.replace(" ", "")):
        match = re.fullmatch(r"(\w+)(?:\((.*)\))?", text)
        if match is None:
            raise ConfigError(f"{text!r} is no method; write NAME or NAME(option=value,…)")
        if text in methods:
            raise ConfigError(f"method {text} is named twice; name each once")
        methods[text] = make(match.group(1), **_options(text, match.group(2) or ""))
    return methods


def _options(text: str, arguments: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
        assert isinstance(call, ast.Call) and not call.args
        return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        raise ConfigError(f"{text!r}: options are written NAME(option=value,…)") from None
