"""SRGDiff's losses and three steps of each of its stages, through our own losses and optimisers."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eegsr_jax.interop.srgdiff_names import module, variables
from eegsr_jax.methods import make
from eegsr_jax.methods.srgdiff import latents, losses, stages

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
PARTS = {"vae": "autoencoder", "conv_encoder": "condition"}
TRAINING = {stage.name: stage for stage in make("srgdiff_release").stages if hasattr(stage, "loss")}


@pytest.fixture(params=TOLERANCE)
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def load(golden, case, dtype):
    """Arrays in a type, and the configuration."""
    with np.load(golden / "srgdiff" / f"{case}.npz", allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    config = json.loads(str(found.pop("config_json")))
    return {
        name: jnp.asarray(x, dtype if x.dtype.kind == "f" else None) for name, x in found.items()
    }, config


def close(found, golden, tolerance, name):
    found, golden = (np.asarray(x, np.float64) for x in (found, golden))
    assert found.shape == golden.shape, name
    if not golden.any():
        np.testing.assert_array_equal(found, golden, err_msg=name)
        return
    error = np.linalg.norm(found - golden) / np.linalg.norm(golden)
    assert error < tolerance, f"{name}: {error}"


def turn(x):
    return x.swapaxes(-1, -2)


# --------------------------------------------------------------------------------------- losses


def test_losses_and_their_slopes(golden, dtype):
    arrays, config = load(golden, "losses_and_latents", dtype)
    tolerance = TOLERANCE[dtype]
    weights = config["weights"]
    assert (losses.KL, losses.ADVERSARIAL) == (weights["kl"], weights["adversarial"])
    assert (losses.LATENT, 1.0) == (weights["conv_encoder_latent"], weights["conv_encoder_recon"])
    x, recon, mu, sigma, fake, real = (
        arrays[f"vae/{name}"] for name in "x recon mu sigma logits_fake logits_real".split()
    )

    def check(name, loss, *inputs, slopes=()):
        value, gradients = jax.value_and_grad(loss, tuple(range(len(inputs))))(*inputs)
        close(value, arrays[f"vae/loss/{name}"], tolerance, name)
        for slope, gradient in zip(slopes, gradients, strict=False):
            close(gradient, arrays[f"vae/grad_{slope}"], tolerance, slope)

    def divergence(mu, sigma):
        return losses.divergence(mu, jnp.log(sigma))

    check("l1", lambda z: losses.absolute(z, x), recon, slopes=["l1/recon"])
    check("kl", divergence, mu, sigma, slopes=["kl/mu", "kl/sigma"])
    generator, discriminator = "adversarial_generator", "adversarial_discriminator"
    check(generator, losses.fools, fake, slopes=[f"{generator}/logits_fake"])
    both = [f"{discriminator}/logits_{name}" for name in ("fake", "real")]
    check(discriminator, losses.discerns, fake, real, slopes=both)
    check("adversarial_real", losses.fools, real)
    check("adversarial_fake", lambda z: 2 * losses.discerns(z, real) - losses.fools(real), fake)
    total = losses.absolute(recon, x) + losses.KL * divergence(mu, sigma)
    total = total + losses.ADVERSARIAL * losses.fools(fake)
    close(total, arrays["vae/loss/total_generator"], tolerance, "total_generator")
    total = losses.ADVERSARIAL * losses.discerns(fake, real)
    close(total, arrays["vae/loss/total_discriminator"], tolerance, "total_discriminator")


def test_losses_of_the_latent_stages(golden, dtype):
    arrays, _ = load(golden, "losses_and_latents", dtype)
    tolerance = TOLERANCE[dtype]
    own = {k.removeprefix("conv_encoder/"): x for k, x in arrays.items()}
    latent, recon = (
        losses.squared(own["zcond"], own["z100"]),
        losses.squared(own["recon"], own["x"]),
    )
    close(latent, own["loss/latent"], tolerance, "latent")
    close(recon, own["loss/recon"], tolerance, "recon")
    close(losses.LATENT * latent + recon, own["loss/total"], tolerance, "total")
    own = {k.removeprefix("rdm/"): x for k, x in arrays.items()}
    residual = losses.absolute(own["prediction"], own["z100"] - own["z50"])
    close(residual, own["loss"], tolerance, "rdm")
    noise, prediction = arrays["denoiser/noise"], arrays["denoiser/prediction"]
    loss, slope = jax.value_and_grad(losses.smooth_absolute)(prediction, noise)
    close(loss, arrays["denoiser/loss"], tolerance, "denoiser")
    close(slope, arrays["denoiser/grad_prediction"], tolerance, "grad_prediction")


def test_normalised_latents(golden, dtype):
    """The statistics are the release's, of training and test windows; ours are of training alone.

    A channel of z50 is constant, so that its deviation is the least.
    """
    arrays, _ = load(golden, "losses_and_latents", dtype)
    z = np.concatenate([arrays["latents/train_z50"], arrays["latents/test_z50"]])
    wide = z.astype(np.float64).swapaxes(0, 1).reshape(z.shape[1], -1)
    sums = np.float64(wide.shape[1]), wide.sum(1), (wide**2).sum(1)
    with jax.enable_x64(True):
        found = latents.statistics(*map(jnp.asarray, sums))
    for name, value in found.items():
        golden_value = arrays[f"latents/z50_{name}"].ravel()
        close(value, golden_value, TOLERANCE[dtype], name)
        np.testing.assert_allclose(value, golden_value, rtol=TOLERANCE[dtype])
    found = {name: jnp.asarray(x, dtype) for name, x in found.items()}
    for part in ("train", "test"):
        for z in ("z50", "z100"):
            one = turn(latents.normalised(turn(arrays[f"latents/{part}_{z}"]), found))
            name = f"latents/{part}_{z}_normalised"
            close(one, arrays[name], TOLERANCE[dtype], name)


# ---------------------------------------------------------------------------------------- steps


def start(arrays, config, parts, dtype, prefix="state/"):
    """Our networks and params of parts, by our names."""
    networks, params = {}, {}
    for part in parts:
        state = {
            k.removeprefix(f"{p}{part}/"): x
            for p in dict.fromkeys(("state/", prefix))  # buffers do not change
            for k, x in arrays.items()
            if k.startswith(f"{p}{part}/")
        }
        ours = PARTS.get(part, part)
        networks[ours] = module(part, config[part], dtype)
        params[ours] = variables(part, state, config[part])["params"]
    return networks, params


def train(stage, loss, params, steps):
    """Params and aux after each step, as the training loop makes them."""
    own = {name: params[name] for name in stage.trainable}
    optimizer = stage.optimizer(3)
    memory = optimizer.init(own)

    @jax.jit
    def step(own, memory, frozen, *batch):
        slope = jax.value_and_grad(lambda own: loss(frozen | own, *batch), has_aux=True)
        (value, terms), gradients = slope(own)
        with jax.numpy_dtype_promotion("standard"):
            updates, memory = optimizer.update(gradients, memory, own)
            after = optax.apply_updates(own, updates)
        return after, memory, terms | {"loss": value, "norm": optax.tree.norm(gradients)}

    frozen = {name: x for name, x in params.items() if name not in own}
    for batch in steps:
        before = own
        own, memory, terms = step(own, memory, frozen, *batch)
        yield before, own, terms


def compare_params(found, arrays, config, parts, dtype, number):
    _, expected = start(arrays, config, parts, dtype, f"after_step{number}/")
    for part in parts:
        name = PARTS.get(part, part)
        flat = jax.tree_util.tree_leaves_with_path(expected[name])
        for (path, golden), one in zip(flat, jax.tree.leaves(found[name]), strict=True):
            place = f"step {number}: {name}{jax.tree_util.keystr(path)}"
            close(one, golden, TOLERANCE[dtype], place)


def test_three_steps_of_the_autoencoder(golden, dtype):
    arrays, config = load(golden, "training_vae", dtype)
    parts = ("vae", "discriminator")
    networks, params = start(arrays, config, parts, dtype)
    discriminator = networks["discriminator"]
    names = {"absolute": "l1", "divergence": "kl", "fools": "adversarial_generator"}
    names["discerns"] = "adversarial_discriminator"

    def loss(params, x, noise):
        return stages.autoencoder_loss(networks["autoencoder"], discriminator, params, x, noise)

    @jax.jit
    def running(own, running, x, noise):
        """Three calls a step move the running statistics: reconstruction twice, recording once."""
        network, vae = networks["autoencoder"], {"params": own["autoencoder"]}
        mean, log_std = network.apply(vae, x, method="encode")
        found = network.apply(vae, mean + jnp.exp(log_std) * noise, method="decode")
        for seen in (found, found, x):
            given = {"params": own["discriminator"], "batch_stats": running}
            _, after = discriminator.apply(given, seen, True, mutable=["batch_stats"])
            running = after["batch_stats"]
        return running

    def statistics(prefix):
        state = {
            k.removeprefix(f"{prefix}discriminator/"): x
            for k, x in arrays.items()
            if k.startswith(f"{prefix}discriminator/")
        }
        return variables("discriminator", state, config["discriminator"])["batch_stats"]

    batches = list(zip(turn(arrays["x"]), turn(arrays["eps"]), strict=True))
    moving = statistics("state/")
    steps = train(TRAINING["autoencoder"], loss, params, batches)
    for number, (before, own, terms) in enumerate(steps, 1):
        for ours, name in names.items():
            close(terms[ours], arrays[f"loss/{name}"][number - 1], TOLERANCE[dtype], name)
        total = terms["loss"] - losses.ADVERSARIAL * terms["discerns"]
        close(total, arrays["loss/total_generator"][number - 1], TOLERANCE[dtype], "total")
        moving = running(before, moving, *batches[number - 1])
        if number != 2:
            compare_params(own, arrays, config, parts, dtype, number)
            expected = statistics(f"after_step{number}/")
            for one, golden_one in zip(*map(jax.tree.leaves, (moving, expected)), strict=True):
                close(one, golden_one, TOLERANCE[dtype], "running statistics")


def test_three_steps_of_the_condition_encoder(golden, dtype):
    arrays, config = load(golden, "training_conv_encoder", dtype)
    networks, params = start(arrays, config, ("vae", "conv_encoder"), dtype)
    inputs = [turn(arrays[name]) for name in ("x", "z50", "z100")]
    loss = functools.partial(stages.condition_loss, networks["autoencoder"], networks["condition"])
    steps = train(TRAINING["condition"], loss, params, zip(*inputs, arrays["t"], strict=True))
    for number, (_, own, terms) in enumerate(steps, 1):
        found = jnp.stack([terms["latent"], terms["decoded"], terms["loss"]])
        expected = arrays["loss_latent_recon_total"][number - 1]
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE[dtype])
        if number != 2:
            compare_params(own, arrays, config, ["conv_encoder"], dtype, number)


def test_three_steps_of_the_denoiser(golden, dtype):
    """The clip is active."""
    arrays, config = load(golden, "training_denoiser", dtype)
    networks, params = start(arrays, config, ("conv_encoder", "denoiser"), dtype)
    inputs = [turn(arrays[name]) for name in ("z50", "z100", "noise")]
    loss = functools.partial(stages.denoiser_loss, networks["condition"], networks["denoiser"])
    steps = train(TRAINING["denoiser"], loss, params, zip(*inputs, arrays["t"], strict=True))
    for number, (_, own, terms) in enumerate(steps, 1):
        close(terms["loss"], arrays["loss"][number - 1], TOLERANCE[dtype], "loss")
        close(terms["norm"], arrays["grad_norm_before_clip"][number - 1], TOLERANCE[dtype], "norm")
        assert terms["norm"] > 1
        if number != 2:
            compare_params(own, arrays, config, ["denoiser"], dtype, number)
