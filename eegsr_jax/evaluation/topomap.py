"""A scalp map between electrodes seen from above: a thin-plate spline, as numbers.

Pictures on paper and in a browser draw the same function of the same numbers.
"""

from __future__ import annotations

import numpy as np

_ROUND = 0.13  # of the head's radius: how far around an electrode there is colour
_CLOSE = 1e-9  # squared; what is nearer is the same place


def spline(head: np.ndarray) -> np.ndarray:
    """From values at M electrodes to the coefficients of their spline: `[M + 3, M]`.

    The spline bends least of all functions through the values (Duchon 1977); SciPy's
    `RBFInterpolator(kernel="thin_plate_spline")` is the same function.

    Args:
      head: `[M, 2]` electrodes, at least three, not all on a line.
    """
    count = len(head)
    bend = basis(head, head)
    system = np.zeros((count + 3, count + 3))
    system[:count] = bend
    system[count:, :count] = bend[:, count:].T
    return np.linalg.solve(system, np.eye(count + 3, count))


def basis(places: np.ndarray, head: np.ndarray) -> np.ndarray:
    """`[Q, M + 3]`: r² log r to each electrode, 1, x and y; times coefficients it is the map."""
    square = np.sum((places[:, None] - head[None]) ** 2, -1)
    bend = 0.5 * square * np.log(np.maximum(square, _CLOSE))
    return np.c_[bend, np.ones(len(places)), places]


def outline(head: np.ndarray) -> np.ndarray:
    """`[Q, 2]` corners of the area that the electrodes enclose, with a margin and round edges.

    No colour belongs outside: nothing was measured there.
    """
    from scipy.spatial import ConvexHull

    turn = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    discs = head[:, None] + _ROUND * np.c_[np.cos(turn), np.sin(turn)]
    points = discs.reshape(-1, 2)
    return points[ConvexHull(points).vertices]
