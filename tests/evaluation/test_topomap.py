"""The map between electrodes, against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import RBFInterpolator

from eegsr_jax.evaluation import topomap


@pytest.fixture
def head(rng):
    return rng.uniform(-1, 1, (23, 2))


def test_the_spline_is_scipys(head, rng):
    values, places = rng.standard_normal(23), rng.uniform(-1.2, 1.2, (50, 2))
    ours = topomap.basis(places, head) @ topomap.spline(head) @ values
    theirs = RBFInterpolator(head, values, kernel="thin_plate_spline")(places)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    np.testing.assert_allclose(topomap.basis(head, head) @ topomap.spline(head) @ values, values)


def test_the_outline_goes_round_the_electrodes(head):
    from matplotlib.path import Path

    corners = topomap.outline(head)
    assert Path(corners).contains_points(head).all()
    far = 2 * corners - corners.mean(0)
    assert not Path(corners).contains_points(far).any()
    assert np.linalg.norm(corners[:, None] - head, axis=-1).min(1).max() < 0.14
