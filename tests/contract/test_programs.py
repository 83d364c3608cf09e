"""The programs that methods are: operations in StableHLO, which no machine changes.

A line changes only when a method's arithmetic does; its old and new numbers say whether that was
meant. How often a program is compiled is in `test_methods.py`.
"""

from __future__ import annotations

import re
from collections import Counter

import jax

DEAR = ("dot_general", "convolution", "fft", "while")
# method -> of `apply`, how many of `DEAR` there are, a loop's body counting once, and of all
EXPECTED = {
    **dict.fromkeys(
        ("nearest", "inverse_distance", "spherical_spline", "minimum_norm"), ((1, 0, 0, 0), 48)
    ),
    "ridge": ((1, 0, 0, 0), 48),
    "lagged_ridge": ((0, 1, 0, 0), 44),
    "reduced_rank": ((1, 0, 0, 0), 48),
    "gaussian": ((1, 1, 0, 0), 62),
    "population": ((2, 0, 0, 0), 66),
    "emag_paper": ((4, 0, 0, 0), 86),
    "emag": ((8, 1, 0, 0), 221),
    "srgdiff_release": ((1, 32, 4, 3), 1202),
    "srgdiff_regression": ((0, 28, 0, 0), 766),
    "srgdiff_paper": ((7, 30, 4, 4), 1420),
    "srgdiff": ((16, 1, 6, 4), 1339),
}


def test_operations_of_apply(case):
    text = jax.jit(case.method.apply).lower(case.plan, case.x, None).as_text()
    found = Counter(re.findall(r"stablehlo\.(\w+)", text))
    dear, every = EXPECTED[case.method.name]
    assert tuple(found[name] for name in DEAR) == dear
    # Two versions of JAX write the same arithmetic in slightly different numbers of small ones.
    assert sum(found.values()) <= 1.02 * every
    assert found["custom_call"] == 0  # no host, no library that a device may lack
