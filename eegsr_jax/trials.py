"""Lists of trials for `sweep()` of a config: each trial a dict from a dotted field to its value.

def sweep():
cases = product(vary("subjects", [("1",), ("2",)]), vary("layout", ["case2_4x", "case2_8x"]))
deep = product(vary("method", ["emag", "srgdiff"]), vary("seed", range(3)))
return product(cases, chain(vary("method", ["lagged_ridge"]), deep))
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from typing import Any

from eegsr_jax.errors import ConfigError

Trials = list[dict[str, Any]]


def vary(field: str, values: Iterable[Any]) -> Trials:
    """One trial for each value of a field."""
    return [{field: value} for value in values]


def product(*lists: Trials) -> Trials:
    """Every trial of the first with every one of the second, and so on; the last varies fastest.

    Raises:
      ConfigError: two lists set the same field.
    """
    return [_joined(parts) for parts in itertools.product(*lists)]


def zipped(*lists: Trials) -> Trials:
    """The first trials of all lists as one, the second ones, and so on.

    Raises:
      ConfigError: the lists differ in length, or set the same field.
    """
    if len({len(trials) for trials in lists}) > 1:
        lengths = ", ".join(str(len(trials)) for trials in lists)
        raise ConfigError(f"zipped: lists of {lengths} trials; expected one length")
    return [_joined(parts) for parts in zip(*lists, strict=True)]


def chain(*lists: Trials) -> Trials:
    """All trials, one list after the other."""
    return list(itertools.chain(*lists))


def subsample(trials: Trials, count: int, seed: int = 0) -> Trials:
    """So many of the trials, drawn without replacement, in their order.

    Raises:
      ConfigError: there are fewer.
    """
    if not 0 < count <= len(trials):
        raise ConfigError(f"subsample: {count} of {len(trials)} trials; expected 1 to that many")
    return [trials[i] for i in sorted(random.Random(seed).sample(range(len(trials)), count))]


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        twice = found.keys() & part.keys()
        if twice:
            raise ConfigError(f"sweep: two lists set {min(twice)}; leave it to one of them")
        found |= part
    return found
