"""Where Gaussians stand: grids of points about the origin, in float64.

The points, their order and every rounding are those of EMAG (arXiv 2605.29731), in millimetres. A
grid of another unit or centre is the grid times a scale plus an offset.
"""

from __future__ import annotations

import numpy as np

from eegsr_jax.errors import ConfigError

RADIUS = 90.0  # mm


def cube(resolution: int, radius: float = RADIUS) -> np.ndarray:
    """`[resolution**3, 3]` points of the cube [-radius, radius]³; x slowest, z fastest."""
    axis = np.linspace(-radius, radius, _at_least_one(resolution))
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def sphere(resolution: int, radius: float = RADIUS) -> np.ndarray:
    """`[P, 3]` points of `cube` within the radius, the surface included.

    For odd resolutions, points lie on the surface and rounding decides: membership is tested on
    the norm in float64 (1419 points at 15; on squared norms it would be 1407).

    Raises:
      ConfigError: no point lies inside (resolution 1 or 2).
    """
    points = cube(resolution, radius)
    inside = points[np.linalg.norm(points, axis=1) <= radius]
    if not len(inside):
        raise ConfigError(
            f"grid: no point of a sphere at resolution {resolution}: only the cube's corners; "
            "use a resolution of 3 or more"
        )
    return inside


def shell(resolution: int, radius: float = RADIUS) -> np.ndarray:
    """`[resolution**2, 3]` points on the sphere; polar angle slowest.

    Each pole carries `resolution` points that all but coincide.
    """
    polar = np.linspace(1e-6, np.pi - 1e-6, _at_least_one(resolution))
    azimuth = np.linspace(0, 2 * np.pi, resolution, endpoint=False)
    polar, azimuth = (a.ravel() for a in np.meshgrid(polar, azimuth, indexing="ij"))
    directions = np.stack(
        [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)], -1
    )
    return radius * directions


def draw(points: int, ratio: float, seed: int) -> np.ndarray:
    """Sorted indices of round(`ratio` · `points`) points, half to even and at least one."""
    count = int(np.clip(round(ratio * points), 1, points))
    return np.sort(np.random.default_rng(seed).choice(points, count, replace=False))


def _at_least_one(resolution: int) -> int:
    if resolution < 1:
        raise ConfigError(f"grid: resolution {resolution}; expected 1 or more points an axis")
    return resolution
