"""`emag_paper` against plain NumPy, and what its stages learn.

The authors' own numbers, three of their steps among them: `tests/interop/test_torch_emag.py`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.errors import ConfigError, MethodError
from eegsr_jax.gaussians import grid, precision, reference
from eegsr_jax.gaussians.render import render
from eegsr_jax.interop import emag_data
from eegsr_jax.methods import make, reconstruct
from eegsr_jax.methods.emag_paper import mean_of_chunks, optimizer, zscore
from eegsr_jax.methods.long import reconstruct_long
from eegsr_jax.training.loop import fit, nameless

TINY = {"sfreq": 40.0, "samples": 30, "resolution": 4, "groups": 2}


@pytest.fixture(scope="module")
def drawn(geometry):
    """A method and params of which nothing is zero."""
    with jax.numpy_dtype_promotion("strict"):
        method = make("emag_paper", **TINY, init="window")
        params = method.init(jax.random.key(0), geometry, None)
        key = jax.random.key(1)
        params["field"] = {
            name: x + 0.02 * jax.random.normal(jax.random.fold_in(key, i), x.shape)
            for i, (name, x) in enumerate(params["field"].items())
        }
        scale = jnp.linspace(1.0, 3.0, 20) * 1e-5
        return method, params | {"scale": scale, "std": jnp.linspace(0.1, 0.5, 20)}


@pytest.fixture(scope="module")
def x(simulate, geometry):
    return simulate(3, 30)[:, np.asarray(geometry.observed_index)]


def slowly(params, geometry, standard):
    """Released equations in float64, all weights at once: `[batch, M, time]`."""

    def layer(x, one):
        kernel, bias = (np.asarray(one[k], np.float64) for k in ("kernel", "bias"))
        return x @ kernel.T + bias

    encoder, modulator, field = (params[k] for k in ("encoder", "modulator", "field"))
    h = np.asarray(standard, np.float64).swapaxes(1, 2)
    for one in (encoder["first"], encoder["second"], modulator["first"]):
        h = np.maximum(layer(h, one), 0)
    beta = layer(h, modulator["second"])
    groups, points = field["time"].shape

    def by_point(a):  # n = p · G + g
        return jnp.asarray(np.asarray(a, np.float64).swapaxes(0, 1).reshape(-1, *a.shape[2:]))

    with jax.enable_x64(True):
        own = {name: by_point(a) for name, a in field.items()}
        centres = jnp.repeat(jnp.asarray(np.asarray(params["centres"], np.float64)), groups, 0)
        weights = reference.gaussian_weights(
            1000 * jnp.asarray(np.asarray(geometry.target, np.float64)),
            jnp.arange(standard.shape[-1], dtype=jnp.float64) / 40,
            jnp.concatenate([centres, own["time"][:, None]], 1),
            reference.precision_matrix(jnp.exp(own["log_diagonal"]), own["off_diagonal"]),
        )
        out = reference.render(weights, own["amplitude"], jnp.asarray(beta))
    return np.asarray(out).swapaxes(1, 2)


def test_the_estimate_is_that_of_the_equations(drawn, geometry, x):
    method, params = drawn
    mean, std = reconstruct(method, params, geometry, x)
    wide = x.astype(np.float64)
    scale = np.asarray(params["scale"], np.float64)
    index = np.asarray(geometry.observed_index)
    unit = (wide.std(-1) / scale[index]).mean(1)[:, None] * scale
    out = slowly(params, geometry, emag_data.zscore(wide * 1e6))
    expected = unit[..., None] * out
    assert np.linalg.norm(mean - expected) < 1e-5 * np.linalg.norm(expected)
    bars = unit * np.asarray(params["std"])
    np.testing.assert_allclose(std, np.repeat(bars[..., None], 30, 2), rtol=1e-5)


def test_an_estimate_is_as_loud_as_its_input(drawn, geometry, x):
    method, params = drawn
    plan = method.plan(params, geometry)
    for a, b in zip(method.apply(plan, 8 * x, None), method.apply(plan, x, None), strict=True):
        np.testing.assert_array_equal(a, 8 * b)
    loud = params | {"scale": 8 * params["scale"]}  # standardised, the input is the same
    again = reconstruct(method, loud, geometry, x)
    np.testing.assert_allclose(again.mean, method.apply(plan, x, None).mean, rtol=1e-6)


def test_a_channel_without_training_data_is_like_the_others(drawn, geometry, x):
    method, params = drawn
    index = jnp.asarray(geometry.observed_index).at[0].set(-1)
    plan = method.plan(params, dataclasses.replace(nameless(geometry), observed_index=index))
    np.testing.assert_allclose(plan["observed_scale"][0], params["scale"].mean())
    np.testing.assert_array_equal(
        plan["observed_scale"][1:], params["scale"][geometry.observed_index][1:]
    )


def test_standardised_as_released(rng):
    x = rng.standard_normal((3, 4, 50)) * 1e-5 + 1e-4
    x[1, 2] = 1e-4  # flat
    scale = x.std(-1).mean(0)
    found, std = zscore(jnp.asarray(x, jnp.float32), jnp.asarray(scale, jnp.float32))
    np.testing.assert_allclose(found, emag_data.zscore(1e6 * x), atol=2e-4)
    np.testing.assert_array_equal(found[1, 2], 0)
    np.testing.assert_allclose(std[1, 2], 1e-6 * scale[2], rtol=1e-5)
    slope = jax.grad(lambda x: jnp.sum(zscore(x, jnp.ones(4))[0] ** 3))(jnp.zeros((1, 4, 5)))
    assert np.isfinite(slope).all()


@pytest.mark.parametrize(("time", "chunk"), [(25, 10), (21, 10), (20, 10), (7, 10), (5, 1)])
def test_chunks_weigh_the_same(rng, time, chunk):
    error = rng.standard_normal((2, 3, time)).astype(np.float32) ** 2
    pieces = np.split(error, range(chunk, time, chunk), axis=-1)
    expected = np.mean([piece.mean((1, 2)) for piece in pieces], 0)
    np.testing.assert_allclose(mean_of_chunks(jnp.asarray(error), chunk), expected, rtol=1e-5)


def test_a_step_is_adam_with_decay_after_a_clip():
    """By hand: the first step of Adam is the sign of the gradient, unless it is tiny."""
    params = {"a": jnp.asarray([1.0, -2.0, 3.0])}
    gradients = {"a": jnp.asarray([3e5, -4e5, 1e-3])}
    transform = optimizer(1)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = transform.update(gradients, transform.init(params), params)
    clipped = np.asarray(gradients["a"]) / 5e5
    expected = -1e-3 * (clipped / (np.abs(clipped) + 1e-8) + 0.01 * np.asarray(params["a"]))
    np.testing.assert_allclose(updates["a"], expected, rtol=1e-5)


def test_the_losses_are_those_of_standardised_windows(drawn, geometry, simulate):
    method, params = drawn
    stage = method.stages[1]
    eeg = simulate(4, 30)
    scale = jnp.asarray(eeg.std(-1).mean(0))
    params = params | {"scale": scale}
    standard = emag_data.zscore(1e6 * eeg.astype(np.float64))
    out = slowly(params, geometry, standard[:, np.asarray(geometry.observed_index)])
    by_window = ((out - standard) ** 2).reshape(4, 20, 3, 10).mean((1, 2, 3))
    own = params["field"]
    extra = 2e-4 * sum(np.mean(np.square(own[k])) for k in ("log_diagonal", "off_diagonal"))

    value, terms = stage.loss(params, {"eeg": jnp.asarray(eeg)}, geometry)
    np.testing.assert_allclose(terms["data"], by_window.mean(), rtol=1e-5)
    np.testing.assert_allclose(terms["regulariser"], extra, rtol=1e-5)
    np.testing.assert_allclose(value, by_window.mean() + extra, rtol=1e-5)
    part = jnp.asarray([1, 1, -1, 1], jnp.int32)
    error, power = stage.score(params, {"eeg": jnp.asarray(eeg), "part": part}, geometry)
    np.testing.assert_allclose(error / power, by_window[[0, 1, 3]].mean(), rtol=1e-5)


def test_the_first_params(geometry):
    method = make("emag_paper")  # as published
    assert (method.window, method.sfreq) == (800, 200.0)
    params = method.init(jax.random.key(0), geometry, None)
    stage = method.stages[1]
    trained = jax.tree.leaves({name: params[name] for name in stage.trainable})
    assert sum(a.size for a in trained) == 101 * 672 + 64 * 8 + 4256
    np.testing.assert_array_equal(params["centres"], grid.sphere(12).astype(np.float32))
    field = params["field"]
    assert not field["amplitude"].any() and not field["off_diagonal"].any()
    widths = 1 / np.exp(field["log_diagonal"])
    np.testing.assert_allclose(widths, np.full((3, 672, 4), [15, 15, 15, 0.1]), rtol=1e-5)
    assert 0 <= field["time"].min() < 0.01 and 0.49 < field["time"].max() < 0.5
    for network, layer, fan_in in (
        ("encoder", "first", 8),
        ("encoder", "second", 64),
        ("modulator", "first", 32),
        ("modulator", "second", 64),
    ):
        for a in params[network][layer].values():
            most = fan_in**-0.5
            assert a.max() <= most and a.min() >= -most
            assert abs(a.std() - most / 3**0.5) < 0.15 * most
    assert stage.epochs == 20 and stage.patience == 0 and stage.min_delta == 1e-4

    other = make("emag_paper", init="window", grid="cube", resolution=4)
    params = other.init(jax.random.key(0), geometry, None)
    assert params["centres"].shape == (64, 3)
    assert 3.8 < params["field"]["time"].max() < 4
    np.testing.assert_allclose(1 / np.exp(params["field"]["log_diagonal"][..., 3]), 0.8, rtol=1e-5)


def test_scales_and_bars_are_learned(drawn, geometry, simulate):
    method, params = drawn
    params = params | {"std": jnp.full(20, jnp.inf)}
    eeg, part = simulate(6, 30), np.array([0, 0, 0, 1, 1, -1], np.int32)
    quiet = method._replace(stages=(method.stages[0], method.stages[2]))
    found = fit(quiet, geometry, lambda: [{"eeg": eeg, "part": part}], params=params)
    scale = np.sqrt(eeg[:3].var(-1).mean(0))
    np.testing.assert_allclose(found["scale"], scale, rtol=1e-5)
    index = np.asarray(geometry.observed_index)
    mean = np.asarray(reconstruct(method, found, geometry, eeg[3:5][:, index]).mean)
    unit = (eeg[3:5][:, index].std(-1) / scale[index]).mean(1)[:, None, None] * scale[:, None]
    bars = np.sqrt((((eeg[3:5] - mean) / unit) ** 2).mean((0, 2)))
    np.testing.assert_allclose(found["std"], bars, rtol=1e-4)

    alone = fit(quiet, geometry, lambda: [{"eeg": eeg[:3], "part": part[:3]}], params=params)
    assert np.isinf(alone["std"]).all()
    eeg[:, 4] = 1e-5
    with pytest.raises(MethodError, match="emag_paper: the fit is not finite.*without any signal"):
        fit(quiet, geometry, lambda: [{"eeg": eeg, "part": part}], params=params)


def test_the_mixture_is_what_stands_behind_the_estimate(drawn, geometry, x):
    """Rendered in metres, it is the estimate before it gets its unit."""
    method, params = drawn
    behind = method.mixture(params, geometry, jnp.asarray(x))
    field = precision.field(
        geometry.target,
        behind.centres,
        behind.diagonal,
        behind.off_diagonal,
        behind.time,
        behind.amplitude,
    )
    weights = {"kernel": jnp.eye(len(behind.centres)), "bias": jnp.zeros(len(behind.centres))}
    out = render(field, behind.times, behind.beta, weights).swapaxes(1, 2) + behind.skip
    mean, std = reconstruct(method, params, geometry, x)
    unit = std[..., :1] / params["std"][None, :, None]
    np.testing.assert_allclose(unit * out, mean, atol=2e-5 * np.abs(mean).max())


def test_a_recording_goes_through_in_windows(drawn, geometry, simulate):
    method, params = drawn
    plan = method.plan(params, geometry)
    long = simulate(1, 100)[0][np.asarray(geometry.observed_index)]
    blocks = list(reconstruct_long(method, plan, long))
    assert sum(mean.shape[1] for _, mean, _ in blocks) == 100
    assert all(np.isfinite(mean).all() for _, mean, _ in blocks)


@pytest.mark.slow
def test_trained_as_released_it_fades_along_the_window(geometry, simulate):
    """No Gaussian reaches the end of a window at first; those of "window" are there."""
    eeg, part = simulate(48, 40), (np.arange(48) >= 32).astype(np.int32)
    small = {"sfreq": 10.0, "samples": 40, "resolution": 5, "groups": 2}
    found = {}
    for init in ("reference", "window"):
        method = make("emag_paper", **small, init=init, epochs=20, batch_size=4)
        params = fit(method, geometry, lambda: [{"eeg": eeg, "part": part}])
        given = eeg[32:, np.asarray(geometry.observed_index)]
        mean, std = (np.asarray(a) for a in reconstruct(method, params, geometry, given))
        error, power = (np.square(a).reshape(-1, 4, 10) for a in (eeg[32:] - mean, eeg[32:]))
        found[init] = error.sum((0, 2)) / power.sum((0, 2))
        assert 0.85 < (np.abs(eeg[32:] - mean) < 1.645 * std).mean() < 0.95
    assert found["reference"][0] < 0.9 and (found["reference"][3:] > 0.99).all(), found
    assert (found["window"] < 0.8).all(), found


def test_another_window_is_refused(drawn, geometry, simulate):
    method, params = drawn
    plan = method.plan(params, geometry)
    with pytest.raises(MethodError, match="windows of 31 samples; it is bound to 30: cut"):
        jax.jit(method.apply)(plan, simulate(1, 31)[:, :8], None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sfreq": 0.0}, "sfreq=0.0; expected more than 0"),
        ({"samples": 0}, "samples=0; expected more"),
        ({"groups": 0}, "groups=0"),
        ({"chunk": 0}, "chunk=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"grid": "ball"}, "grid 'ball'; expected one of sphere, cube"),
        ({"init": "zeros"}, "init 'zeros'; expected one of reference, window"),
        ({"covariance": "full"}, "covariance 'full'; expected one of full_4d, spatial"),
        ({"resolution": 2}, "no point of a sphere at resolution 2"),
    ],
)
def test_what_cannot_be_is_named(options, words):
    with pytest.raises(ConfigError, match=words):
        make("emag_paper", **options)
