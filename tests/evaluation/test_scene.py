"""What is drawn of a field is the field: at every instant, with every coupling."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax import geometry
from eegsr_jax.errors import MethodError
from eegsr_jax.evaluation.scene import field_at, make_scene
from eegsr_jax.gaussians import grid
from eegsr_jax.gaussians.mixture import Mixture
from eegsr_jax.gaussians.reference import gaussian_weights, precision_matrix
from eegsr_jax.methods.base import Method, Reconstruction, observed_source

NAMES = tuple("Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 Oz O2".split())
OBSERVED = ("Fp1", "Fz", "C3", "C4", "Pz", "O1", "T8")
SFREQ, SAMPLES, START = 50.0, 40, 3.0
DRIFT = 0.02  # metres a second


@pytest.fixture(scope="module")
def where():
    return geometry.make_geometry(OBSERVED, NAMES, geometry.montage("standard_1005"))


@pytest.fixture(scope="module")
def made(where) -> tuple[Method, dict]:
    """A field whose Gaussians are tilted in space, move with time and fade."""
    rng = np.random.default_rng(0)
    points = 1e-3 * grid.sphere(6) + np.asarray(where.centre)
    shape = (2, len(points))
    diagonal = np.exp(rng.normal(0, 0.2, (*shape, 4))) * [60.0, 60.0, 60.0, 3.0]
    params = {
        "centres": points,
        "diagonal": diagonal,
        "off_diagonal": rng.normal(0, 1, (*shape, 6)) * [20.0, 20.0, 20.0, 2.0, 2.0, 2.0],
        "time": rng.uniform(0, 0.8, shape),
        "amplitude": rng.normal(0, 2e-6, shape),
        "encoder": rng.normal(0, 0.1, (len(points), len(OBSERVED))),
        "skip": rng.normal(0, 0.3, (len(NAMES), len(OBSERVED))),
    }
    params = {k: jnp.asarray(v, jnp.float32) for k, v in params.items()}
    names = ("centres", "diagonal", "off_diagonal", "time", "amplitude")

    def mixture(params, where, observed):
        own = {name: params[name] for name in names}
        beta = jnp.einsum("pl,blt->btp", params["encoder"], observed, precision="highest")
        skip = jnp.einsum("ml,blt->bmt", params["skip"], observed, precision="highest")
        times = jnp.arange(observed.shape[2], dtype=jnp.float32) / np.float32(SFREQ)
        return Mixture(**own, beta=beta, times=times, unit=jnp.ones(skip.shape[:2]), skip=skip)

    def apply(plan, observed, key):
        del key
        params, where = plan
        made, source = mixture(params, where, observed), observed_source(where)
        missing = (source < 0)[None, :, None]
        estimate = field_at(made, where.target).swapaxes(1, 2) + made.skip
        mean = jnp.where(missing, estimate, observed[:, jnp.maximum(source, 0)])
        std = jnp.broadcast_to(jnp.where(missing, jnp.float32(2e-6), 0), mean.shape)
        return Reconstruction(mean, std)

    def plan(params, where):
        return params, where

    return Method("made", lambda *_: params, (), plan, apply, None, 0, SFREQ, mixture), params


@pytest.fixture(scope="module")
def eeg() -> np.ndarray:
    return np.float32(1e-5) * np.random.default_rng(1).standard_normal(
        (len(NAMES), SAMPLES), np.float32
    )


@pytest.fixture(scope="module")
def scene(made, where, eeg):
    with jax.numpy_dtype_promotion("strict"):
        return shown(made, where, eeg, eeg)


def shown(made, where, eeg, truth, keep=slice(None)):
    rows = geometry.find_channels(OBSERVED, NAMES)
    options = {"title": "made", "sfreq": SFREQ, "start": START, "keep": keep}
    return make_scene(*made, where, eeg[rows], truth, **options)


def test_what_is_drawn_adds_up_to_the_estimate(scene, made, where, eeg):
    """Ellipsoids of `Scene.at`, rendered by `gaussians`, plus skip: the mean, where missing."""
    every, missing = np.arange(SAMPLES), scene.example.missing
    method, params = made
    mixture = method.mixture(params, where, eeg[None, geometry.find_channels(OBSERVED, NAMES)])
    drawn = scene.at(scene.example.positions, every).T
    estimate = scene.example.mean["made"]
    largest = np.abs(estimate).max()
    np.testing.assert_allclose(drawn, scene.field, atol=1e-5 * largest)
    total = drawn + np.asarray(mixture.skip[0])
    np.testing.assert_allclose(total[missing], estimate[missing], atol=1e-5 * largest)
    assert np.abs(scene.field[missing]).max() > 0.05 * largest and scene.skip


def test_it_is_the_reference_renderers_field(scene, made):
    """A hundred Gaussians against 4×4 precision matrices, which know nothing of velocities."""
    _, params = made
    some = scene.brightest(100)
    with jax.enable_x64(True):
        flat = {
            name: np.asarray(params[name], float).swapaxes(0, 1).reshape(-1, width)
            for name, width in (("diagonal", 4), ("off_diagonal", 6))
        }
        matrix = np.asarray(precision_matrix(*(jnp.asarray(a) for a in flat.values())))
        # The order of the scene is by contribution: find each Gaussian again by its own time.
        own = START + np.asarray(params["time"], float).T.reshape(-1)
        place = [int(np.abs(own - t).argmin()) for t in some.time]
        centres = np.c_[some.centres, some.time]
        weights = gaussian_weights(
            jnp.asarray(scene.example.positions),
            jnp.asarray(some.seconds),
            jnp.asarray(centres),
            jnp.asarray(matrix[place]),
        )
    every = np.arange(SAMPLES)
    taken = some.amplitude + some.beta[:, some.point]
    expected = np.einsum("tmn,tn->tm", np.asarray(weights), taken)
    np.testing.assert_allclose(some.at(scene.example.positions, every), expected, rtol=1e-9)


def test_the_centre_is_where_the_weight_is_largest(scene):
    """In space, at one instant; and it moves."""
    sample, pick = np.array([30]), 0
    alone = dataclasses.replace(scene.brightest(1), amplitude=np.ones(1), beta=np.zeros((40, 1)))
    place = alone.places(sample)[0]
    peak = alone.at(place, sample)[0, pick]
    assert peak == pytest.approx(alone.activity(sample)[0, pick])
    for step in 1e-4 * np.r_[np.eye(3), -np.eye(3)]:
        assert alone.at(place + step, sample)[0, 0] < peak
    moved = np.linalg.norm(
        scene.places(np.array([0, 39]))[1] - scene.places(np.array([0]))[0], axis=1
    )
    np.testing.assert_allclose(moved, np.linalg.norm(scene.velocity, axis=1) * 39 / SFREQ)
    assert np.median(moved) > DRIFT * 39 / SFREQ


def test_time_is_that_of_the_recording(scene):
    np.testing.assert_allclose(scene.seconds, START + np.arange(SAMPLES) / SFREQ, atol=1e-6)
    assert START <= scene.time.min() and scene.time.max() <= START + 0.8


def test_those_that_give_most_come_first(scene):
    every = np.arange(SAMPLES)
    whole = scene.at(scene.example.positions, every)
    left = [np.square(whole - scene.brightest(n).at(scene.example.positions, every)).mean()
            for n in (1, 60, len(scene.time))]  # fmt: skip
    assert left[0] > left[1] > 100 * left[2]
    some = scene.brightest(7)
    assert some.beta.shape[1] <= 7 and len(some.time) == 7 and some.count == len(scene.time)
    np.testing.assert_allclose(some.activity(every), scene.activity(every)[:, :7])


def test_context_is_cut_away(scene, made, where, eeg):
    keep, inside = slice(5, 25), np.array([0, 19])
    part = shown(made, where, eeg, eeg, keep)
    np.testing.assert_allclose(part.seconds, scene.seconds[keep])
    np.testing.assert_array_equal(part.example.mean["made"], scene.example.mean["made"][:, keep])
    np.testing.assert_array_equal(part.example.truth, eeg[:, keep])
    positions = scene.example.positions
    np.testing.assert_allclose(part.at(positions, inside), scene.at(positions, inside + 5), 1e-6)


def test_channels_that_were_not_recorded_have_no_truth(made, where, eeg):
    lost = eeg.copy()
    lost[NAMES.index("Oz")] = np.nan
    scene = shown(made, where, eeg, lost)
    assert scene.example.names == tuple(n for n in NAMES if n != "Oz")
    np.testing.assert_array_equal(scene.example.truth, np.delete(eeg, NAMES.index("Oz"), 0))
    given = np.isin(NAMES, OBSERVED)
    scene = shown(made, where, eeg, np.where(given[:, None], eeg, np.float32(np.nan)))
    assert scene.example.names == NAMES and scene.example.truth is None
    assert scene.limit() > 0


def test_a_field_without_a_skip_says_so(made, where, eeg):
    method, params = made
    alone = method, params | {"skip": jnp.zeros_like(params["skip"])}
    scene = shown(alone, where, eeg, eeg)
    assert not scene.skip and scene.share() == pytest.approx(1, abs=1e-5)


def test_a_method_without_gaussians_is_refused(made, where, eeg):
    method, params = made
    other = method._replace(name="ridge", mixture=None), params
    with pytest.raises(MethodError, match="ridge has no Gaussians to show"):
        shown(other, where, eeg, eeg)


def test_gaussians_of_standardised_signals_are_told(made, where, eeg):
    """As those of `emag_paper`, whose estimate has a unit of its own at each electrode."""
    method, params = made
    alone = params | {"skip": jnp.zeros_like(params["skip"])}
    unit = jnp.linspace(1, 3, len(NAMES))

    def apply(plan, observed, key):
        mean, std = method.apply(plan, observed, key)
        return Reconstruction(mean * unit[None, :, None], std)

    def mixture(params, where, observed):
        return method.mixture(params, where, observed)._replace(unit=unit[None])

    plain = shown((method, alone), where, eeg, eeg)
    scene = shown((method._replace(apply=apply, mixture=mixture), alone), where, eeg, eeg)
    with pytest.raises(MethodError, match="do not add up"):  # which it is told, and does not guess
        shown((method._replace(apply=apply), alone), where, eeg, eeg)
    missing = scene.example.missing
    assert scene.unit == ("σ", 1.0) and plain.unit == ("µV", 1e6)
    np.testing.assert_allclose(scene.volts[missing], np.asarray(unit)[missing], rtol=1e-4)
    np.testing.assert_allclose(
        scene.field[missing], scene.example.mean["made"][missing], atol=1e-9
    )  # volts
    np.testing.assert_array_equal(np.sort(scene.amplitude), np.sort(plain.amplitude))


def test_gaussians_that_are_not_the_estimate_are_refused(made, where, eeg):
    method, params = made

    def apply(plan, observed, key):
        mean, std = method.apply(plan, observed, key)
        return Reconstruction(mean + jnp.float32(1e-6), std)

    with pytest.raises(MethodError, match="made: its Gaussians do not add up to its estimate"):
        shown((method._replace(apply=apply), params), where, eeg, eeg)
