"""A scalp map between electrodes seen from above: a thin-plate spline, as numbers.

Pictures on paper and in a browser draw the same function of the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eegsr_jax.evaluation import figures
from eegsr_jax.geometry import fit_sphere

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROUND = 0.13  # of the head's radius: how far around an electrode there is colour
_CLOSE = 1e-9  # squared; what is nearer is the same place


def flat(positions: np.ndarray) -> np.ndarray:
    """`[M, 2]` electrodes `[M, 3]` seen from above, nose up; the equator of the head is at 1.

    MNE's projection: the angle from the vertex is drawn true to scale (azimuthal equidistant),
    times the electrode's distance from the centre of the sphere.
    """
    centre, radius = fit_sphere(positions)
    x, y, z = (np.asarray(positions, float) - centre).T / radius
    across = np.hypot(x, y)
    reach = np.arctan2(across, z) / (np.pi / 2) * np.hypot(across, z)
    return np.c_[x, y] * (reach / np.maximum(across, 1e-12))[:, None]


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


def draw(
    ax: Axes,
    head: np.ndarray,
    missing: np.ndarray,
    coefficients: np.ndarray,
    limits: tuple[float, float],
    cmap: str,
) -> Any:
    """Draw a map on axes of matplotlib, with its electrodes; returns the image.

    Args:
      ax: where to.
      head: `[M, 2]` electrodes.
      missing: `[M]` bool, those that were reconstructed.
      coefficients: `spline(head)` times the values.
      limits: values at the ends of the colours.
      cmap: name of the colours.
    """
    from matplotlib.patches import Polygon

    corners = outline(head)
    reach = 1.02 * max(1.15, np.abs(corners).max())
    axis = np.linspace(-reach, reach, 150)
    places = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    values = (basis(places, head) @ coefficients).reshape(150, 150)
    image = ax.imshow(
        values, cmap, vmin=limits[0], vmax=limits[1], origin="lower", interpolation="bilinear",
        extent=(-reach, reach, -reach, reach), zorder=0,
    )  # fmt: skip
    image.set_clip_path(Polygon(corners, transform=ax.transData))
    figures.draw_head(ax)
    dots(ax, head, np.ones(len(head), bool), missing, 2.2, 3)
    frame(ax, reach)
    return image


def dots(
    ax: Axes, at: np.ndarray, chosen: np.ndarray, missing: np.ndarray, size: float, zorder: int
) -> None:
    """Draw the chosen electrodes: given ones filled, reconstructed ones open."""
    size = size if len(at) <= 80 else 0.6 * size
    for part, fill in ((chosen & missing, "w"), (chosen & ~missing, "k")):
        ax.plot(*at[part].T, "o", ms=size, mfc=fill, mec="k", mew=0.5, zorder=zorder)


def frame(ax: Axes, reach: float) -> None:
    """Leave nothing but what is drawn, as far as `reach` from the middle."""
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    ax.axis("off")
