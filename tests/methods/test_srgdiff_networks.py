"""What is formed once a window or once a step gives what the networks give at every step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.diffusion.grid import leading_grid
from eegsr_jax.diffusion.sample import sample
from eegsr_jax.diffusion.schedule import NoiseSchedule
from eegsr_jax.methods.srgdiff.affine import AffineDenoiser
from eegsr_jax.methods.srgdiff.condition import ConditionEncoder, blend, share
from eegsr_jax.methods.srgdiff.denoiser import (
    Denoiser,
    condition_terms,
    constant_terms,
    denoise,
    gated,
)
from eegsr_jax.methods.srgdiff.residual import ResidualPredictor
from eegsr_jax.methods.srgdiff.sampling import few_at_a_time, plan_steps, sample_latents
from eegsr_jax.nn import fourier

LATENT, LENGTH = 3, 21  # an odd length: the last frequency has two coefficients
SIZES = {"latent": LATENT, "units": 4, "blocks": 2, "taps": 2, "scales": 3}


def relative(found, expected):
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def made(network, *inputs):
    """No zeros: what starts at zero would hide what it multiplies. Norms stay positive."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)

    def draw(like):
        drawn = 1 + rng.random(like.shape) if like.ndim == 1 else 0.3 * rng.normal(size=like.shape)
        return jnp.asarray(drawn, jnp.float32)

    return jax.tree.map(draw, shapes)


@pytest.fixture
def latents(rng):
    return list(jnp.asarray(rng.normal(size=(3, 2, LENGTH, LATENT)), jnp.float32))


@pytest.fixture
def networks(latents):
    x, z, _ = latents
    condition, denoiser = ConditionEncoder(LATENT), Denoiser(**SIZES)
    params = {
        "condition": made(condition, z, jnp.zeros(2, jnp.int32))["params"],
        "denoiser": made(denoiser, x, z, z)["params"],
    }
    return condition, denoiser, params


def test_the_released_denoiser_over_samples(networks, latents):
    """As written: convolved, normalised, convolved, gated; sample by sample."""
    _, denoiser, params = networks
    x, cond, res = latents
    own = params["denoiser"]
    units, hidden = SIZES["units"], LATENT * SIZES["units"]

    def spread(name, z):
        places = (np.arange(LENGTH)[:, None] + np.arange(7) - 3) % LENGTH
        kernel = np.asarray(own[name]["kernel"], np.float64)
        wide = np.einsum("cuk,btkc->bcut", kernel, np.asarray(z, np.float64)[:, places])
        wide = wide + np.asarray(own[name]["bias"])[None, ..., None]
        return wide.reshape(len(z), hidden, LENGTH)

    y, c, r = spread("enter", x), spread("condition", cond), spread("residual", res)
    taps = SIZES["taps"] * 2 ** (SIZES["scales"] - 1)
    for block in range(SIZES["blocks"]):
        long = own[f"long_{block}"]
        pieces = [np.asarray(p, np.float64) for p in long["pieces"]]
        kernel = (
            np.concatenate(
                [
                    np.repeat(p, n, -1) * h
                    for p, n, h in zip(pieces, (1, 1, 2), (4, 2, 1), strict=True)
                ],
                -1,
            )
            / np.asarray(long["norm"])[:, None]
        )
        centred = y - y.mean((1, 2), keepdims=True)
        n = centred / np.sqrt(centred.var((1, 2), keepdims=True) + 1e-5)
        lagged = np.stack([np.roll(n, m - taps // 2, -1) for m in range(taps)], -1)
        y = y + np.einsum("hm,bhtm->bht", kernel, lagged) + np.asarray(long["gain"])[:, None] * n
        logits = np.einsum("ij,bjt->bit", np.asarray(own["gate_kernel"][block]), c)
        logits = logits + np.asarray(own["gate_bias"][block])[:, None]
        y = y + c / (1 + np.exp(-logits)) + r
    places = (np.arange(LENGTH)[:, None] + np.arange(7) - 3) % LENGTH
    apart = y.reshape(2, LATENT, units, LENGTH)[..., places]
    leave = {k: np.asarray(v) for k, v in own["leave"].items()}
    expected = np.einsum("cuk,bcutk->btc", leave["kernel"], apart) + leave["bias"]
    found = jax.jit(denoiser.apply)({"params": own}, x, cond, res)
    assert relative(found, expected) < 1e-5


def test_terms_blend_as_conditions_do(networks, latents):
    condition, denoiser, params = networks
    x, z, _ = latents
    steps = jnp.asarray([7, 981])

    @jax.jit
    def both(params):
        own, network = ({"params": params[name]} for name in ("condition", "denoiser"))
        whole = denoiser.apply(network, x, condition.apply(own, z, steps))
        prepared = denoiser.apply(network, LENGTH, method="prepare")
        window = condition_terms(prepared, condition.apply(own, z, method="guess"))
        step = constant_terms(prepared, condition.apply(own, steps, method="embed"))
        kept = {"value": share(steps)[:, None, None], "gate": share(steps)[:, None, None, None]}
        terms = {name: blend(window[name], step[name], kept[name]) for name in window}
        noise = denoise(prepared, fourier.coefficients(x.swapaxes(1, 2)), gated(prepared, terms))
        return fourier.from_coefficients(noise).swapaxes(1, 2), whole

    assert relative(*both(params)) < 1e-5


def test_sampling_on_coefficients_is_sampling_on_samples(networks, latents):
    condition, denoiser, params = networks
    start, z, _ = latents
    grid = leading_grid(NoiseSchedule.cosine(), 4)

    def plain(params, x, t, z):
        cond = condition.apply({"params": params["condition"]}, z, jnp.broadcast_to(t, len(x)))
        return denoiser.apply({"params": params["denoiser"]}, x, cond)

    expected = jax.jit(lambda params: sample(plain, params, start, z, grid))(params)
    plan = jax.jit(lambda params: plan_steps(condition, denoiser, params, grid, LENGTH))(params)
    guess = condition.apply({"params": params["condition"]}, z, method="guess")
    run = jax.jit(sample_latents)
    assert relative(run(plan, guess, start), expected) < 1e-5
    # A window does not depend on the others of its batch.
    assert relative(run(plan, guess[1:], start[1:]), expected[1:]) < 1e-5


@pytest.mark.parametrize(("batch", "cores", "few"), [(6, 4, 3), (7, 2, 1), (4, 8, 4)])
def test_a_cpu_does_as_many_windows_at_a_time_as_it_has_cores(monkeypatch, batch, cores, few):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    sizes = set()

    def product(x, y):
        sizes.add(len(x))
        return x * y

    x = jnp.arange(3.0 * batch).reshape(batch, 3)
    found = jax.jit(lambda x: few_at_a_time(product, x, 1 - x))(x)
    np.testing.assert_array_equal(found, x * (1 - x))
    assert sizes == {few, batch}  # another device would do the whole batch


def test_gates_in_half_precision_are_near(networks, latents):
    _, denoiser, params = networks
    x, cond, _ = latents
    half = Denoiser(**SIZES, dtype=jnp.bfloat16)
    full, found = (
        jax.jit(d.apply)({"params": params["denoiser"]}, x, cond) for d in (denoiser, half)
    )
    assert found.dtype == jnp.float32 and 0 < relative(found, full) < 0.02


def test_the_affine_denoiser_in_half_precision_is_near(latents):
    x, cond, res = latents
    sizes, steps = SIZES | {"shared": 2}, jnp.asarray([3, 700])
    params = made(AffineDenoiser(**sizes), x, steps, cond, res)
    with jax.numpy_dtype_promotion("strict"):
        full, found = (
            jax.jit(AffineDenoiser(**sizes, dtype=dtype).apply)(params, x, steps, cond, res)
            for dtype in (None, jnp.bfloat16)
        )
    assert found.dtype == jnp.float32 and 0 < relative(found, full) < 0.02


def test_the_share_of_the_guess():
    np.testing.assert_allclose(share(jnp.asarray([0, 500, 1000])), [1.0, 0.9, 0.8], rtol=1e-6)


def test_the_affine_denoiser_reads_step_place_condition_and_residual(latents):
    x, cond, res = latents
    network = AffineDenoiser(**(SIZES | {"blocks": 1}), shared=2)
    steps = jnp.asarray([3, 700])
    own = made(network, x, steps, cond, res)["params"]
    apply = jax.jit(network.apply)
    # As it starts, its modulations are zero.
    start = own | {k: jnp.zeros_like(v) for k, v in own.items() if k.startswith("modulation")}
    for params, reads in ((own, True), (start, False)):

        def noise(*inputs, params=params):
            return apply({"params": params}, *inputs)

        whole = noise(x, steps, cond, res)
        later = [jnp.roll(a, 4, 1) for a in (x, cond, res)]  # all but the place moves
        moved = jnp.roll(noise(later[0], steps, *later[1:]), -4, 1)
        others = ((steps[::-1], cond, res), (steps, res, res), (steps, cond, cond))
        for other in (moved, *(noise(x, *o) for o in others)):
            assert (relative(other, whole) > 1e-3) == reads


def test_the_affine_denoiser_starts_unmodulated():
    network = AffineDenoiser(**SIZES, shared=2)
    params = network.init(jax.random.key(0), jnp.zeros(1, jnp.int32), method="steps")["params"]
    assert not np.asarray(params["modulation_kernel"]).any()
    assert not np.asarray(params["modulation_bias"]).any()


def test_the_residual_in_halves(latents):
    x = latents[0]
    x = jnp.concatenate([x, x[..., :1]], -1)  # four channels, a group each
    network = ResidualPredictor(4, LENGTH, 16)
    params = made(network, x, jnp.zeros(2, jnp.int32))
    t = jnp.asarray([1, 999])
    whole = network.apply(params, x, t)
    window = network.apply(params, x, method="window")
    step = network.apply(params, t, method="step")
    assert window.shape == step.shape == x.shape
    np.testing.assert_array_equal(network.apply(params, window, step, method="join"), whole)
    assert relative(network.apply(params, window, step[::-1], method="join"), whole) > 1e-3
