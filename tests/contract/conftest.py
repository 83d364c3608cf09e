"""One table: a small instance of every method, trained on a little noise; and what `same` means.

A method joins by its name in `METHODS`, by a line in `OPTIONS` where its defaults are large, and by
its operations in `test_programs.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.geometry import Geometry, make_geometry, montage
from eegsr_jax.methods import METHODS, Method, Reconstruction, make
from eegsr_jax.training.loop import fit, jitted

OPTIONS = {
    "lagged_ridge": {"lags": 2},
    "reduced_rank": {"ranks": (2, 3)},
    "gaussian": {"lags": 1},
    "emag": {
        "lags": 2,
        "resolution": 4,
        "components": 4,
        "widths": (2,),
        "features": 8,
        "epochs": 2,
        "batch_size": 4,
    },
    "emag_paper": {"samples": 24, "resolution": 4, "groups": 2, "init": "window", "epochs": 2},
}
CONTEXT = {
    "emag": 40,
    "srgdiff": 40,
}  # where it is not the lags: the span over which power is taken
# Observed channels too, as its authors do.
RENDERS_ALL = ("emag_paper", "srgdiff_release", "srgdiff_regression", "srgdiff_paper")
UNIT = dict.fromkeys(RENDERS_ALL[1:], 1e-5)  # V; others are given ones, and take any unit
TARGETS = "Fp1 Fp2 F3 Fz F4 C3 Cz C4 P3 Pz P4 Oz".split()
OBSERVED = "Fp1 C4 C3 Pz Oz".split()
BATCH, TIME = 8, 24
_SRGDIFF = {"samples": 24, "widths": (6, 4), "latent": 4, "autoencoder_epochs": 2, "batch_size": 4}
_SAMPLER = {"steps": 3, "units": 2, "blocks": 1, "taps": 2, "scales": 2}
_RELEASE = {"condition_epochs": 2, "adversarial": 0.0}
OPTIONS |= {
    "srgdiff_release": {
        **_SRGDIFF,
        **_SAMPLER,
        **_RELEASE,
        "denoiser_epochs": 1,
        "fusion_epochs": 1,
    },
    "srgdiff_regression": {**_SRGDIFF, **_RELEASE},
    "srgdiff_paper": {**_SRGDIFF, **_SAMPLER, "diffusion_epochs": 1},
    "srgdiff": {
        **{name: OPTIONS["emag"][name] for name in ("lags", "components", "widths", "features")},
        "mean_epochs": 2,
        "epochs": 2,
        "batch_size": 4,
        "hidden": 8,
        "steps": 2,
        "draws": 2,
    },
}
TRANSFORMS = ("srgdiff",)  # Fourier, of a number of samples that must be known


class Case(NamedTuple):
    method: Method
    options: dict[str, Any]  # that it was made with
    geometry: Geometry
    params: Any
    plan: Any
    x: jax.Array
    expected: Reconstruction
    unit: float
    context: int  # that it must say it has
    renders_all: bool  # observed channels too
    length: int | None  # of the windows that it takes; None: any


@pytest.fixture(scope="session")
def geometry():
    positions = {n: xyz for n, xyz in montage("standard_1005").items() if n in TARGETS}
    return make_geometry(OBSERVED, TARGETS, positions)


@pytest.fixture(scope="session", params=METHODS)
def case(request, geometry):
    method = make(request.param, **OPTIONS.get(request.param, {}))
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((12, 6))
    eeg = np.einsum("cs,wst->wct", mixing, generator.standard_normal((24, 6, TIME)))
    eeg = (UNIT.get(request.param, 1.0) * eeg).astype(np.float32)
    part = (np.arange(16) >= 12).astype(np.int32)
    with jax.numpy_dtype_promotion("strict"):  # as in the tests, to share their programs
        params = fit(method, geometry, lambda: [{"eeg": eeg[:16], "part": part}])
        plan = jitted(method.plan)(params, geometry)
        x = jnp.asarray(eeg[16:, np.asarray(geometry.observed_index)])
        expected = jitted(method.apply)(plan, x, None)
    name = request.param
    return Case(
        *(method, OPTIONS.get(name, {}), geometry, params, plan, x, expected),
        unit=UNIT.get(name, 1.0),
        context=CONTEXT.get(name, OPTIONS.get(name, {}).get("lags", 0)),
        renders_all=name in RENDERS_ALL,
        length=TIME if method.window or name in TRANSFORMS else None,
    )


@pytest.fixture(scope="session")
def same():
    """Asserts that two trees are equal."""
    return _same


def _same(found, expected, tolerance=2e-6):
    """Equal to within `tolerance` of the largest number, leaf by leaf."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())
