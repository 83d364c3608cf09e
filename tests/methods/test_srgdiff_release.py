"""`srgdiff_release` and `srgdiff_regression`: what their stages see, draw and learn.

The authors' own numbers, three steps of each stage among them: `tests/interop/test_torch_srgdiff*`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.diffusion.grid import leading_grid
from eegsr_jax.diffusion.noise import noise_like
from eegsr_jax.errors import ConfigError, MethodError
from eegsr_jax.methods import GradientStage, MomentStage, make
from eegsr_jax.methods.srgdiff import stages
from eegsr_jax.methods.srgdiff.ends import seen
from eegsr_jax.methods.srgdiff.latents import encode, normalised
from eegsr_jax.methods.srgdiff.release import released
from eegsr_jax.methods.srgdiff.shape import Shape
from eegsr_jax.training.journal import Journal
from eegsr_jax.training.loop import fit

SIZES = {"samples": 24, "widths": (6,), "latent": 4}  # one level: programs compile in half the time
DENOISER = {"units": 2, "blocks": 1, "taps": 1, "scales": 2}
SHAPE = Shape(**SIZES, **DENOISER)
EPOCHS = {"autoencoder_epochs": 8, "condition_epochs": 8, "batch_size": 8}
RELEASE = {**SIZES, **DENOISER, **EPOCHS, "steps": 4, "denoiser_epochs": 8, "fusion_epochs": 4}
RELEASE["adversarial"] = 0.0


class Told(Journal):
    """Keeps what it is told, by stage."""

    def __init__(self):
        self.epochs = {}

    def epoch(self, stage, numbers, remaining=0.0, of=0):
        self.epochs.setdefault(stage, []).append(numbers)


@pytest.fixture(scope="module")
def eeg(simulate):
    return simulate(40, 24)


PART = np.repeat([0, 1], [32, 8])


@pytest.fixture(scope="module")
def made(eeg, geometry):
    """A method and params: random networks, with the statistics and bars that belong to them."""
    with jax.numpy_dtype_promotion("strict"):
        method = make("srgdiff_release", **RELEASE)
        quick = tuple(stage for stage in method.stages if isinstance(stage, MomentStage))
        closed = method._replace(stages=quick)
        return method, fit(closed, geometry, lambda: [{"eeg": eeg, "part": PART}])


@pytest.fixture(scope="module")
def plan(made, geometry):
    with jax.numpy_dtype_promotion("strict"):
        return jax.jit(made[0].plan)(made[1], geometry)


@pytest.fixture(scope="module")
def x(eeg, geometry):
    return jnp.asarray(eeg[32:, np.asarray(geometry.observed_index)])


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def stage_of(method, name):
    return next(s for s in method.stages if isinstance(s, GradientStage) and s.name == name)


@pytest.mark.slow
def test_every_stage_learns(eeg, geometry):
    method, journal = make("srgdiff_release", **RELEASE), Told()
    fit(method, geometry, lambda: [{"eeg": eeg, "part": PART}], journal=journal)
    assert list(journal.epochs) == ["autoencoder", "condition", "denoiser", "fusion"]
    for name, told in journal.epochs.items():
        start, first, last = told[0], told[1], told[-1]
        assert last["loss"] < first["loss"], name
        if name != "fusion":  # which adds a hundredth of anything
            assert last["best_validate"] < start["validate"], name


@pytest.mark.slow
def test_the_regression_learns(eeg, geometry):
    method, journal = make("srgdiff_regression", **SIZES, **EPOCHS), Told()
    params = fit(method, geometry, lambda: [{"eeg": eeg, "part": PART}], journal=journal)
    assert "discriminator" in params and method.draw is None
    assert list(journal.epochs) == ["autoencoder", "condition"]
    assert all(told[-1]["loss"] < told[1]["loss"] for told in journal.epochs.values())
    found = jax.jit(method.apply)(
        jax.jit(method.plan)(params, geometry), eeg[32:, geometry.observed_index], None
    )
    # The guess of the latent of the masked window, decoded.
    masked = np.zeros_like(eeg[32:])
    masked[:, geometry.observed_index] = eeg[32:, geometry.observed_index]
    own = {name: {"params": params[name]} for name in ("autoencoder", "condition")}
    network = SHAPE.autoencoder(20)

    @jax.jit
    def way(own, x):
        z, _ = network.apply(own["autoencoder"], x, method="encode")
        z = SHAPE.condition.apply(own["condition"], z, jnp.zeros(8, jnp.int32))  # all guess at 0
        return network.apply(own["autoencoder"], z, method="decode").swapaxes(1, 2)

    expected = way(own, 1e6 * masked.swapaxes(1, 2))
    np.testing.assert_allclose(found.mean, 1e-6 * expected, atol=1e-5 * np.abs(found.mean).max())
    bars = np.sqrt(((eeg[32:] - found.mean) ** 2).mean((0, 2)))
    np.testing.assert_allclose(found.std[0, :, 0], bars, rtol=1e-4)


# --------------------------------------------------------------------------------------- apply


def test_a_window_does_not_depend_on_its_batch(made, plan, x):
    apply = jax.jit(made[0].apply)
    whole = apply(plan, x, keys(8)).mean
    # Another shape is another program, and may round otherwise; other noise would be seen.
    close = {"rtol": 0, "atol": 1e-5 * np.abs(whole).max()}
    np.testing.assert_allclose(apply(plan, x[3:5], keys(8)[3:5]).mean, whole[3:5], **close)
    assert (apply(plan, x, keys(8, 1)).mean != whole).any()
    # One key makes one of each window's place; none draws the same for all.
    whole = apply(plan, x, jax.random.key(0)).mean
    np.testing.assert_allclose(apply(plan, x[:2], jax.random.key(0)).mean, whole[:2], **close)
    same = apply(plan, x, None).mean
    np.testing.assert_allclose(apply(plan, x[5:6], None).mean[0], same[5], **close)


def test_half_precision_is_near(made, plan, x, geometry):
    whole = jax.jit(made[0].apply)(plan, x, keys(8)).mean
    with jax.numpy_dtype_promotion("strict"):
        method = make("srgdiff_release", **RELEASE, half=True)
        own = jax.jit(method.plan)(made[1], geometry)
        found = jax.jit(method.apply)(own, x, keys(8)).mean
    gates = jax.tree.leaves(own["steps"]["prepared"]["gate"])
    assert all(a.dtype == jnp.bfloat16 for a in gates)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-3 * np.abs(whole).max())


def test_a_draw_is_the_reconstruction(made, plan, x):
    method = made[0]
    mean, std = jax.jit(method.apply)(plan, x, keys(8))
    np.testing.assert_array_equal(jax.jit(method.draw)(plan, x, keys(8)), mean)
    assert mean.shape == std.shape == (8, 20, 24) and (std > 0).all()


def test_observed_channels_are_decoded_too(made, plan, x, geometry):
    mean = jax.jit(made[0].apply)(plan, x, None).mean
    assert (mean[:, geometry.observed_index] != x).mean() > 0.99


def test_apply_is_the_released_way_from_noise(made, plan, x):
    @jax.jit
    def way(plan, x, keys):
        z50 = seen("srgdiff_release", SHAPE, plan, x)
        return released(SHAPE, plan, z50, noise_like(keys, z50))

    mean = jax.jit(made[0].apply)(plan, x, keys(8)).mean
    np.testing.assert_allclose(way(plan, x, keys(8)), mean, rtol=1e-6)


def test_nothing_of_a_step_is_left_to_apply(made, plan, x):
    """No sine of a step, no embedding; and of the denoiser only what `prepare` makes."""
    method = made[0]
    program = str(jax.make_jaxpr(method.apply)(plan, x, None))
    assert " scan[" in program
    assert " sin " not in program and " cos " not in program and "f64" not in program
    assert "denoiser" not in plan and "step_net" in str(jax.tree.structure(plan["condition"]))


# -------------------------------------------------------------------------------------- stages


def test_losses_draw_by_the_window(made, eeg, geometry):
    """What a stage's loss draws is what its keys say, and steps are those of the release."""
    method, params = made
    batch = {"eeg": jnp.asarray(eeg[:8]), "key": keys(8)}
    network = SHAPE.autoencoder(20)
    x = 1e6 * batch["eeg"].swapaxes(1, 2)
    noise = noise_like(keys(8), jnp.zeros((8, 24, 4)))
    pair = {"z50": jnp.ones((8, 24, 4)), "z100": jnp.zeros((8, 24, 4))}

    stage = stage_of(method, "autoencoder")
    value, terms = jax.jit(stage.loss)(params, batch, geometry)
    alone = jax.jit(lambda p: stages.autoencoder_loss(network, None, p, x, noise)[0])
    np.testing.assert_allclose(value, alone(params), rtol=1e-5)
    assert set(terms) == {"absolute", "divergence"}

    stage = stage_of(method, "condition")
    value, _ = jax.jit(stage.loss)(params, {**batch, "key": keys(8)} | pair, geometry)
    inputs = x, *pair.values(), stages.drawn_steps(keys(8), 301)
    alone = jax.jit(lambda p: stages.condition_loss(network, SHAPE.condition, p, *inputs)[0])
    np.testing.assert_allclose(value, alone(params), rtol=1e-5)
    many = np.asarray(stages.drawn_steps(keys(5000), 301))
    assert (many.min(), many.max()) == (0, 300)

    stage = stage_of(method, "denoiser")
    value, _ = jax.jit(stage.loss)(params, {**batch, "key": keys(8)} | pair, geometry)
    t, noise = stages.drawn_noise(keys(8), pair["z100"])
    networks, inputs = (SHAPE.condition, SHAPE.denoiser), (*pair.values(), noise, t)
    alone = jax.jit(lambda p: stages.denoiser_loss(*networks, p, *inputs)[0])
    np.testing.assert_allclose(value, alone(params), rtol=1e-5)
    many = np.asarray(stages.drawn_noise(keys(20000), jnp.zeros((20000, 1)))[0])
    assert (many.min(), many.max()) == (0, 999)


def test_what_is_derived_of_a_window(made, eeg, geometry):
    """Latents of the masked and of the whole window; samples of that window, and no other's."""
    method, params = made
    batch = {"eeg": jnp.asarray(eeg[:3]), "key": keys(3)}
    masked = np.zeros_like(eeg[:3])
    masked[:, geometry.observed_index] = eeg[:3, geometry.observed_index]
    network = jax.jit(lambda own, e: encode(SHAPE.autoencoder(20), own, e))
    low, high = (network(params["autoencoder"], jnp.asarray(e)) for e in (masked, eeg[:3]))

    found = jax.jit(stage_of(method, "condition").derive)(params, batch, geometry)
    np.testing.assert_allclose(found["z50"], low, atol=1e-4)
    np.testing.assert_allclose(found["z100"], high, atol=1e-4)

    batch["key"] = keys(3)
    found = jax.jit(stage_of(method, "denoiser").derive)(params, batch, geometry)
    np.testing.assert_allclose(found["z100"], normalised(high, params["latents"]), atol=1e-3)

    derive = jax.jit(stage_of(method, "fusion").derive)
    found = derive(params, {**batch, "key": keys(3)}, geometry)
    alone = derive(params, {"eeg": batch["eeg"][1:2], "key": keys(3)[1:2]}, geometry)
    for name, value in found.items():
        np.testing.assert_allclose(alone[name][0], value[1], atol=1e-3, err_msg=name)

    @jax.jit
    def drawn(params, low, start):
        plan = stages.sampling_plan(SHAPE, params, leading_grid(stages.SCHEDULE, 4))
        return stages.sampled(SHAPE, params, plan, low, start)

    expected = drawn(params, low, noise_like(keys(3), low))
    np.testing.assert_allclose(found["sample"], expected, atol=1e-3)


def test_statistics_are_of_the_training_windows(made, eeg, geometry):
    _, params = made
    masked = np.zeros_like(eeg[:32])
    masked[:, geometry.observed_index] = eeg[:32, geometry.observed_index]
    network = jax.jit(lambda own, e: encode(SHAPE.autoencoder(20), own, e))
    z = np.asarray(network(params["autoencoder"], masked), np.float64)
    np.testing.assert_allclose(params["latents"]["mean"], z.mean((0, 1)), rtol=1e-4)
    deviation = z.reshape(-1, 4).std(0, ddof=1)
    np.testing.assert_allclose(params["latents"]["std"], deviation, rtol=1e-4)


def test_bars_are_of_the_validation_windows(made, plan, x, eeg):
    mean, std = jax.jit(made[0].apply)(plan, x, None)
    bars = np.sqrt(((eeg[32:] - mean) ** 2).mean((0, 2)))
    np.testing.assert_allclose(std[0, :, 0], bars, rtol=1e-4)


def test_a_score_counts_missing_channels_and_no_padding(made, eeg, geometry):
    method, params = made
    batch = {"eeg": jnp.asarray(eeg[:4]), "key": keys(4)}
    stage = stage_of(method, "condition")
    derived = jax.jit(stage.derive)(params, batch, geometry)
    part = {"part": jnp.asarray([1, 1, -1, 1], jnp.int32)}
    error, power = jax.jit(stage.score)(params, batch | derived | part, geometry)
    missing = np.setdiff1d(np.arange(20), geometry.observed_index)
    np.testing.assert_allclose(power, (eeg[[0, 1, 3]][:, missing] ** 2).sum(), rtol=1e-5)

    @jax.jit
    def way(params, z):
        z = SHAPE.condition.apply({"params": params["condition"]}, z, method="guess")
        own = {"params": params["autoencoder"]}
        return 1e-6 * SHAPE.autoencoder(20).apply(own, z, method="decode").swapaxes(1, 2)

    found = way(params, derived["z50"])
    wrong = (np.asarray(found) - eeg[:4])[[0, 1, 3]][:, missing]
    np.testing.assert_allclose(error, (wrong**2).sum(), rtol=1e-4)


# ---------------------------------------------------------------------------------- what cannot be


def test_as_released_by_default(geometry):
    method = make("srgdiff_release")
    assert (method.window, method.sfreq) == (800, 200.0)
    params = jax.eval_shape(lambda: method.init(jax.random.key(0), geometry, None))
    sizes = {
        name: sum(a.size for a in jax.tree.leaves(params[name])) for name in ("condition", "fusion")
    }
    assert sizes == {"condition": 14_464, "fusion": 5_184}
    assert params["denoiser"]["long_3"]["pieces"].shape == (4, 384, 17)
    assert "discriminator" in params


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 801}, "srgdiff_release: samples=801; expected a multiple of 2: cut the data"),
        (
            {"samples": 272},
            "samples=272; expected more than 272, for long convolutions of 136",
        ),
        ({"samples": 0}, "samples=0; expected more than 0"),
        ({"samples": 14, "taps": 1, "scales": 1, "stft": 0.1}, "samples=14; expected 16 or more"),
        ({"sfreq": 0.0}, "sfreq=0.0; expected more than 0"),
        ({"latent": 0}, "latent=0; expected more than 0"),
        ({"units": 0}, "units=0; expected more"),
        ({"widths": (64, 0)}, "widths=0; expected more"),
        ({"batch_size": 0}, "batch_size=0; expected more"),
        ({"steps": 0}, "steps=0; expected more"),
        ({"steps": 1000}, "time grid from 1000"),
    ],
)
def test_what_cannot_be_is_named(options, words):
    with pytest.raises(ConfigError, match=words):
        make("srgdiff_release", **options)


def test_another_window_is_refused(made, plan):
    with pytest.raises(MethodError, match="windows of 25 samples; it is bound to 24: cut the"):
        jax.jit(made[0].apply)(plan, jnp.zeros((1, 8, 25)), None)
