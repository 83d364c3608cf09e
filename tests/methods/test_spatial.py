"""The fixed spatial maps against MNE-Python and NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import mne
import numpy as np
import pytest

from eegsr_jax.geometry import make_geometry
from eegsr_jax.layouts import EEGMMIDB, layout
from eegsr_jax.methods import inverse_distance, minimum_norm, nearest, spherical_spline
from eegsr_jax.methods.spatial import TUNING_ORDERS, TUNING_PENALTIES
from eegsr_jax.training.loop import fit, jitted, nameless

pytestmark = pytest.mark.filterwarnings("error:.*float64")


def moved(template, names, seed):
    """A digitised cap: every electrode a few millimetres off its template, the head off centre."""
    generator = np.random.default_rng(seed)
    shift = [0.004, -0.006, 0.003]
    return {n: 1.05 * template[n] + shift + 0.003 * generator.standard_normal(3) for n in names}


@pytest.fixture(scope="module")
def caps(template, eegmmidb):
    return {
        "template": {n: template[n] for n in eegmmidb},
        "digitised": moved(template, eegmmidb, 1),
    }


def interpolated_by_mne(eeg, positions, observed, **options):
    names = list(positions)
    info = mne.create_info(names, 160.0, "eeg")
    raw = mne.io.RawArray(eeg, info, verbose="error")
    raw.set_montage(mne.channels.make_dig_montage(positions, coord_frame="head"))
    raw.info["bads"] = [n for n in names if n not in observed]
    return raw.interpolate_bads(verbose="error", **options).get_data()


def run(method, geometry, inputs, params=None):
    params = method.init(None, geometry, None) if params is None else params
    plan = jitted(method.plan)(params, nameless(geometry))
    return jitted(method.apply)(plan, jnp.asarray(inputs, jnp.float32), None)


def reconstructed(method, positions, observed, eeg):
    geometry = make_geometry(observed, list(positions), positions)
    return np.asarray(run(method, geometry, eeg[None, np.asarray(geometry.observed_index)]).mean[0])


# One of each, so that each is compiled once for layouts of one size.
ALL = {m.name: m for m in (nearest(), inverse_distance(), spherical_spline(), minimum_norm())}
CASES = [("template", spec) for spec in EEGMMIDB] + [
    ("digitised", "case2_4x"),
    ("digitised", "case1_8x"),
]


@pytest.mark.parametrize(("cap", "spec"), CASES)
def test_spherical_spline_is_mne(caps, cap, spec, rng):
    names = list(caps[cap])
    observed = layout(spec, names)
    eeg = rng.standard_normal((64, 40)).astype(np.float32).astype(float)
    expected = interpolated_by_mne(eeg, caps[cap], observed)
    found = reconstructed(ALL["spherical_spline"], caps[cap], observed, eeg)
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("cap", "spec"), [("template", "case2_4x"), ("template", "case1_2x"), ("digitised", "case2_8x")]
)
def test_minimum_norm_is_mne(caps, cap, spec, rng):
    observed = layout(spec, list(caps[cap]))
    eeg = 1e-5 * rng.standard_normal((64, 40)).astype(np.float32).astype(float)
    expected = interpolated_by_mne(eeg, caps[cap], observed, method=dict(eeg="MNE"))
    found = reconstructed(ALL["minimum_norm"], caps[cap], observed, eeg)
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


# ------------------------------------------------------------------------ distances, on any montage


@pytest.fixture(scope="module")
def mixed(template):
    """Ten inputs, of which four are no targets, and twelve targets elsewhere."""
    inputs = "Fz Cz Pz Oz T7 T8 FFC3h FFC4h CPP3h CPP4h".split()
    targets = "Fp1 Fp2 F3 Fz F4 C3 Cz C4 P3 Pz P4 O1".split()
    return make_geometry(inputs, targets, template)


def distances(geometry):
    a, b = (np.asarray(x, float) for x in (geometry.target, geometry.observed))
    return np.linalg.norm(a[:, None] - b, axis=2)


def missing(geometry):
    return np.isin(np.arange(len(geometry.target)), geometry.observed_index, invert=True)


@pytest.mark.parametrize("which", ["geometry", "mixed"])
def test_nearest_copies_the_nearest_electrode(which, request, rng):
    geometry = request.getfixturevalue(which)
    x = rng.standard_normal((2, len(geometry.observed), 9)).astype(np.float32)
    method = ALL["nearest"]
    found = run(method, geometry, x)
    np.testing.assert_array_equal(found.mean, x[:, distances(geometry).argmin(1)])


@pytest.mark.parametrize("which", ["geometry", "mixed"])
@pytest.mark.parametrize("power", [1.0, 3.0])
def test_inverse_distance_is_the_weighted_average(which, power, request, rng):
    geometry = request.getfixturevalue(which)
    x = rng.standard_normal((2, len(geometry.observed), 9)).astype(np.float32)
    method = inverse_distance(power)
    found = run(method, geometry, x)
    weights = np.maximum(distances(geometry), 1e-6) ** -power
    expected = np.einsum("ml,blt->bmt", weights / weights.sum(1, keepdims=True), x)
    rows = missing(geometry)
    np.testing.assert_allclose(found.mean[:, rows], expected[:, rows], rtol=1e-5, atol=1e-6)
    place = np.asarray(geometry.observed_index)
    np.testing.assert_array_equal(found.mean[:, place[place >= 0]], x[:, place >= 0])


@pytest.mark.parametrize("name", ALL)
def test_a_constant_field_and_an_untrained_error_bar(name, mixed):
    method = ALL[name]
    x = jnp.full((1, 10, 3), 7.0)
    found = run(method, mixed, x)
    if name != "minimum_norm":  # shrinks towards zero
        np.testing.assert_allclose(found.mean, 7.0, rtol=1e-5)
    expected = np.where(missing(mixed), np.inf, 0.0)
    np.testing.assert_array_equal(found.std, np.broadcast_to(expected[:, None], (1, 12, 3)))


# ------------------------------------------------------------------------------------ trained parts


def passes(eeg, part, size=8):
    def batches():
        for i in range(0, len(eeg), size):
            yield {"eeg": eeg[i : i + size], "part": part[i : i + size]}

    return batches


def weights_of(params, geometry):
    """A spline's matrix by NumPy, straight from Perrin's formulas."""
    order, penalty = params
    centre, observed, target = (
        np.asarray(x, float) for x in (geometry.centre, geometry.observed, geometry.target)
    )

    def unit(p):
        return (p - centre) / np.linalg.norm(p - centre, axis=1, keepdims=True)

    n = np.arange(1, 51)
    series = np.r_[0, (2 * n + 1) / (4 * np.pi * (n * (n + 1.0)) ** order)]

    def g(a, b):
        return np.polynomial.legendre.legval(unit(a) @ unit(b).T, series)

    count = len(observed)
    system = np.zeros((count + 1, count + 1))
    system[:count, :count] = g(observed, observed) + penalty * np.eye(count)
    system[count, :count] = system[:count, count] = 1
    return np.linalg.solve(system, np.c_[g(target, observed), np.ones(len(target))].T)[:count].T


def test_tuning_picks_what_a_plain_loop_picks(geometry, simulate):
    eeg = simulate(8, 100)
    params = fit(spherical_spline(tune=True), geometry, passes(eeg, np.zeros(8, np.int32)))
    rows, index = missing(geometry), np.asarray(geometry.observed_index)
    scores = {}
    for order in TUNING_ORDERS:
        for penalty in TUNING_PENALTIES:
            guess = np.einsum("ml,blt->bmt", weights_of((order, penalty), geometry), eeg[:, index])
            scores[order, penalty] = ((guess - eeg)[:, rows].astype(float) ** 2).sum()
    best = min(scores, key=scores.__getitem__)
    assert best != (4.0, 1e-5)  # it had something to choose
    assert (float(params["order"]), float(params["penalty"])) == pytest.approx(best)
    guess = np.einsum("ml,blt->bmt", weights_of(best, geometry), eeg[:, index])
    rms = np.sqrt(((guess - eeg).astype(float) ** 2).mean((0, 2)))
    np.testing.assert_allclose(params["std"][rows], rms[rows], rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_error_bars_are_the_residual_of_the_map_on_the_data(name, geometry, simulate):
    # Offsets too: a fixed map has no mean to take out, so its error has the mean's share.
    offset = 1e-5 * np.arange(20, dtype=np.float32)[:, None]
    eeg = simulate(8, 100) + offset
    part = np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int32)
    method = ALL[name]
    params = fit(method, geometry, passes(eeg, part))
    index = np.asarray(geometry.observed_index)
    found = run(method, geometry, eeg[:, index], params)
    residual = np.asarray(found.mean, float) - eeg
    rms = np.sqrt((residual**2).mean((0, 2)))
    rows = missing(geometry)
    np.testing.assert_allclose(found.std[0, rows, 0], rms[rows], rtol=1e-4)
    np.testing.assert_array_equal(found.std[:, index], 0.0)
