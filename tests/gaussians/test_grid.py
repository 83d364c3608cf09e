"""Grids: the original's points, in its order and with its rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eegsr_jax.errors import ConfigError
from eegsr_jax.gaussians import grid

HELPERS = Path(__file__).parents[1] / "golden" / "emag" / "helpers.npz"


def keys(prefix):
    with np.load(HELPERS, allow_pickle=False) as arrays:
        return [k for k in arrays.files if k.startswith(prefix)]


def check_points(file):
    kinds = {"cube_volume": grid.cube, "sphere_volume": grid.sphere, "sphere_surface": grid.shell}
    with np.load(file, allow_pickle=False) as arrays:
        found = [k for k in arrays.files if k.startswith("grid/")]
        for key in found:
            kind, resolution = key.removeprefix("grid/").split("_R")
            np.testing.assert_allclose(
                kinds[kind](int(resolution)), arrays[key], rtol=0, atol=1e-9, err_msg=key
            )
    return len(found)


def test_points_are_the_originals():
    assert check_points(HELPERS) == 11


def test_all_points_are_the_originals(golden):
    assert check_points(golden / "emag" / "helpers.npz") == 13


def test_counts_of_spheres_also_where_rounding_decides():
    with np.load(HELPERS, allow_pickle=False) as arrays:
        table = arrays["grid_count/sphere_volume"].tolist()
    counts = {r: len(grid.sphere(r)) for r, count in table if count}
    assert counts == {r: count for r, count in table if count}
    assert counts[15] == 1419 and len(grid.sphere(23)) == 5563


def test_the_order_of_axes():
    assert grid.cube(2, 1.0).tolist()[:3] == [[-1, -1, -1], [-1, -1, 1], [-1, 1, -1]]
    points = grid.shell(5)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 90)
    assert np.ptp(points[:5], axis=0).max() < 1e-3  # a pole: five points in one
    np.testing.assert_allclose(grid.sphere(5, 2.0), grid.sphere(5) / 45)


@pytest.mark.parametrize("key", keys("active_points/"))
def test_drawn_points(key):
    from eegsr_jax.layouts import emag_seed

    _, shape, subject = key.split("/")
    count, ratio = shape.removeprefix("P").split("_ratio")
    with np.load(HELPERS, allow_pickle=False) as arrays:
        drawn = grid.draw(int(count), float(ratio), emag_seed(subject))
        np.testing.assert_array_equal(drawn, arrays[key])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grid.sphere(2), "resolution 2"),
        (lambda: grid.sphere(1), "resolution 1"),
        (lambda: grid.cube(0), "resolution 0"),
        (lambda: grid.shell(-1), "resolution -1"),
    ],
)
def test_an_empty_grid_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
