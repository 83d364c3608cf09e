"""`srgdiff_paper`: its denoising step by hand, its switches, its draws and what it learns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.diffusion.grid import leading_grid
from eegsr_jax.diffusion.sample import sample
from eegsr_jax.diffusion.schedule import NoiseSchedule, add_noise
from eegsr_jax.errors import ConfigError
from eegsr_jax.methods import MomentStage, make
from eegsr_jax.methods.srgdiff.affine import AffineDenoiser
from eegsr_jax.methods.srgdiff.condition import ConditionEncoder
from eegsr_jax.methods.srgdiff.paper import joint_loss
from eegsr_jax.methods.srgdiff.residual import ResidualPredictor
from eegsr_jax.methods.srgdiff.shape import Shape
from eegsr_jax.methods.srgdiff.stepwise import Stepwise, plan_steps, sample_latents
from eegsr_jax.training.journal import Journal
from eegsr_jax.training.loop import fit

SIZES = {"samples": 24, "widths": (6,), "latent": 4, "units": 2, "blocks": 1, "taps": 1}
SIZES["scales"] = 2
SHAPE = Shape(**SIZES)
PAPER = {**SIZES, "steps": 4, "batch_size": 8, "autoencoder_epochs": 8, "diffusion_epochs": 12}
PART = np.repeat([0, 1], [32, 8])
SWITCHES = [(True, True), (False, True), (True, False), (False, False)]


def drawn(network, seed=0):
    """Params of which nothing is zero: what starts at zero would hide what it multiplies."""
    z = jnp.zeros((2, 24, 4))
    like = jax.eval_shape(network.init, jax.random.key(0), z, jnp.zeros(2, jnp.int32), z)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape) + (a.ndim == 1), jnp.float32), like
    )["params"]


@pytest.fixture
def latents(rng):
    return [jnp.asarray(x, jnp.float32) for x in rng.normal(size=(2, 2, 24, 4))]


def relative(found, expected):
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


# ------------------------------------------------------------------------------------- the step


def by_hand(params, x, t, z50, residual, modulation):
    """From the parts, each called as a whole, and NumPy between them."""

    def whole(network, name, *inputs, method=None):
        run = jax.jit(lambda own, *inputs: network.apply({"params": own}, *inputs, method=method))
        return np.asarray(run(params[name], *inputs))

    x, direction = np.asarray(x), None
    if residual:
        direction = whole(ResidualPredictor(4, 24, signed=True), "direction", z50, t)
        normal = (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)
        x = normal + direction
    condition = ConditionEncoder(4)
    if modulation:
        blended = whole(condition, "condition", z50, t)
        head = {name: np.asarray(a) for name, a in params["head"].items()}
        change, shift = np.split(blended.mean(1) @ head["kernel"] + head["bias"], 2, -1)
        x = (1 + change)[:, None] * x + shift[:, None]
    guess = whole(condition, "condition", z50, method="guess")
    network = AffineDenoiser(latent=4, units=2, blocks=1, taps=1, scales=2, shared=2)
    inputs = () if direction is None else (jnp.asarray(direction),)
    return whole(network, "denoiser", jnp.asarray(x), t, jnp.asarray(guess), *inputs)


@pytest.mark.parametrize(("residual", "modulation"), SWITCHES)
def test_a_step_by_hand(latents, residual, modulation):
    x, z50 = latents
    network, t = Stepwise(SHAPE, residual, modulation), jnp.asarray([7, 990])
    params = drawn(network)
    assert ("direction" in params, "head" in params) == (residual, modulation)
    found, said = jax.jit(network.apply)({"params": params}, x, t, z50)
    assert relative(found, by_hand(params, x, t, z50, residual, modulation)) < 1e-4
    assert sorted(said) == ["residual"] * residual + ["scale", "shift"] * modulation


def test_half_precision_reaches_the_denoiser(latents):
    x, z50 = latents
    networks = [Stepwise(Shape(**SIZES, half=half)) for half in (False, True)]
    params, t = drawn(networks[0]), jnp.asarray([7, 990])
    full, found = (jax.jit(n.apply)({"params": params}, x, t, z50)[0] for n in networks)
    assert found.dtype == jnp.float32 and 0 < relative(found, full) < 0.02


def test_the_loss_by_hand(latents):
    z100, z50 = latents
    network, t = Stepwise(SHAPE), jnp.asarray([40, 700])
    params = drawn(network)
    noise = jnp.flip(z50, 1)
    noisy = add_noise(z100, noise, NoiseSchedule.cosine().at(t))
    found, said = jax.jit(network.apply)({"params": params}, noisy, t, z50)
    expected = {
        "noise": np.mean((found - noise) ** 2),
        "residual": np.mean((said["residual"] - (z100 - noisy)) ** 2),
        "modulation": np.mean((said["scale"] - 1) ** 2 + said["shift"] ** 2),
    }
    loss = jax.jit(lambda p: joint_loss(network, p, z50, z100, noise, t, 0.5, 0.25))
    total, terms = loss(params)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)
    weights = {"noise": 1.0, "residual": 0.5, "modulation": 0.25}
    by_hand = sum(weights[name] * value for name, value in expected.items())
    np.testing.assert_allclose(total, by_hand, rtol=1e-4)


def test_it_starts_unmodulated_and_signed(latents):
    x, z50 = latents
    network, t = Stepwise(SHAPE), jnp.asarray([7, 990])
    params = jax.jit(network.init)(jax.random.key(0), x, t, z50)
    _, said = jax.jit(network.apply)(params, x, t, z50)
    np.testing.assert_array_equal(said["scale"], np.ones((2, 1, 4)))
    np.testing.assert_array_equal(said["shift"], np.zeros((2, 1, 4)))
    assert (np.asarray(said["residual"]) < 0).any()


def test_sampling_by_a_plan_is_sampling_by_whole_steps(latents):
    start, z50 = latents
    network, grid = Stepwise(SHAPE), leading_grid(NoiseSchedule.cosine(), 4)
    params = drawn(network)

    def plain(params, x, t, z50):
        return network.apply({"params": params}, x, jnp.broadcast_to(t, len(x)), z50)[0]

    expected = jax.jit(lambda params: sample(plain, params, start, z50, grid))(params)
    plan = jax.jit(lambda params: plan_steps(network, params, grid))(params)
    run = jax.jit(lambda plan, *inputs: sample_latents(network, plan, *inputs))
    assert relative(run(plan, z50, start), expected) < 1e-4
    # A window does not depend on the others of its batch.
    assert relative(run(plan, z50[1:], start[1:]), expected[1:]) < 1e-4


# ------------------------------------------------------------------------------------ the method


@pytest.fixture(scope="module")
def eeg(simulate):
    return simulate(40, 24)


def prepared(eeg, geometry, **options):
    """A method, its plan by random networks, and observed windows."""
    method = make("srgdiff_paper", **PAPER, **options)
    closed = [stage for stage in method.stages if isinstance(stage, MomentStage)]
    params = method.init(jax.random.key(0), geometry, None)
    params["diffusion"] = drawn(Stepwise(SHAPE))
    short = method._replace(stages=tuple(closed[:1]))  # the statistics, not the bars
    params = fit(short, geometry, lambda: [{"eeg": eeg, "part": PART}], params=params)
    plan = jax.jit(method.plan)(params, geometry)
    return method, plan, jnp.asarray(eeg[32:36, np.asarray(geometry.observed_index)])


def keys():
    return jax.random.split(jax.random.key(3), 4)


def test_several_draws_are_averaged(eeg, geometry):
    method, plan, x = prepared(eeg, geometry, draws=3, eta=1.0)
    apply, draw = jax.jit(method.apply), jax.jit(method.draw)
    mean, std = apply(plan, x, keys())
    assert np.isinf(std).all() and mean.shape == (4, 20, 24)
    alone = apply(plan, x[2:3], keys()[2:3]).mean
    np.testing.assert_allclose(alone, mean[2:3], atol=1e-4 * np.abs(mean).max())
    one = make("srgdiff_paper", **PAPER, eta=1.0)
    first = jax.jit(one.apply)(plan, x, keys()).mean
    drawn = draw(plan, x, keys())
    np.testing.assert_allclose(drawn, first, rtol=0, atol=1e-5 * np.abs(first).max())
    assert relative(first, mean) > 1e-3
    same = apply(plan, x, None).mean  # without keys, the same draws in every window
    alone = apply(plan, x[3:], None).mean
    np.testing.assert_allclose(alone, same[3:], atol=1e-4 * np.abs(same).max())


def test_nothing_of_a_step_is_left_to_apply(eeg, geometry):
    method, plan, x = prepared(eeg, geometry)
    program = str(jax.make_jaxpr(method.apply)(plan, x, None))
    assert " scan[" in program
    assert " sin " not in program and " cos " not in program and "f64" not in program


def test_statistics_are_of_the_latents_to_be_drawn(eeg, geometry):
    _, plan, _ = prepared(eeg, geometry)
    network = SHAPE.autoencoder(20)
    encode = jax.jit(lambda own, x: network.apply({"params": own}, x, method="encode")[0])
    z = np.asarray(encode(plan["autoencoder"], 1e6 * eeg[:32].swapaxes(1, 2)), np.float64)
    np.testing.assert_allclose(plan["latents"]["mean"], z.mean((0, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plan["latents"]["std"], z.reshape(-1, 4).std(0, ddof=1), rtol=1e-4)


class Told(Journal):
    def __init__(self):
        self.epochs = {}

    def epoch(self, stage, numbers, remaining=0.0, of=0):
        self.epochs.setdefault(stage, []).append(numbers)


@pytest.mark.slow
def test_both_stages_learn(eeg, geometry):
    method, journal = make("srgdiff_paper", **PAPER), Told()
    params = fit(method, geometry, lambda: [{"eeg": eeg, "part": PART}], journal=journal)
    assert list(journal.epochs) == ["autoencoder", "diffusion"]
    for told in journal.epochs.values():
        assert told[-1]["loss"] < told[1]["loss"]
        assert told[-1]["best_validate"] < told[0]["validate"]
    assert {"noise", "residual", "modulation"} <= set(journal.epochs["diffusion"][1])
    assert "spectral" in journal.epochs["autoencoder"][1] and "discriminator" not in params
    x = jnp.asarray(eeg[32:, np.asarray(geometry.observed_index)])
    mean, std = jax.jit(method.apply)(jax.jit(method.plan)(params, geometry), x, None)
    bars = np.sqrt(((eeg[32:] - mean) ** 2).mean((0, 2)))
    np.testing.assert_allclose(std[0, :, 0], bars, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 320, "latent": 6}, "srgdiff_paper: latent=6; expected a multiple of 4"),
        ({"samples": 14, "taps": 1, "scales": 1}, "samples=14; expected 16 or more"),
        ({"draws": 0}, "draws=0; expected more than 0"),
        ({"steps": 0}, "steps=0; expected more than 0"),
        ({"eta": 1.5}, "eta is 1.5 in DDIM"),
    ],
)
def test_what_cannot_be_is_named(options, words):
    with pytest.raises(ConfigError, match=words):
        make("srgdiff_paper", **options)
    if "latent" in options:
        assert make("srgdiff_paper", **options, residual=False)
    if "samples" in options and "taps" in options:
        assert make("srgdiff_paper", **options, stft=0.0)
