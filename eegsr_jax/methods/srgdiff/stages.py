"""The stages of SRGDiff as released: what each is trained on, and by which loss.

In the losses EEG is `[batch, time, channel]` in microvolts and latents are `[batch, length,
latent]`; what is drawn is an argument, so that a loss can be compared with the original's.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from eegsr_jax.diffusion.noise import noise_like, step_key
from eegsr_jax.diffusion.schedule import Level, NoiseSchedule, add_noise
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import GradientStage
from eegsr_jax.methods.clipping import clip
from eegsr_jax.methods.srgdiff import losses
from eegsr_jax.methods.srgdiff.autoencoder import Autoencoder
from eegsr_jax.methods.srgdiff.condition import STEPS, ConditionEncoder
from eegsr_jax.methods.srgdiff.denoiser import Denoiser
from eegsr_jax.methods.srgdiff.latents import (
    decode,
    encode,
    masked,
    microvolts,
    missing,
    normalised,
    restored,
)
from eegsr_jax.methods.srgdiff.sampling import plan_steps, sample_latents
from eegsr_jax.methods.srgdiff.shape import Shape, call
from eegsr_jax.nn.discriminator import PatchDiscriminator
from eegsr_jax.typing import PyTree

SCHEDULE = NoiseSchedule.cosine()
RATE, DISCRIMINATOR_RATE = 5e-3, 5e-4  # of the autoencoder's stage
CONDITION_RATE = 5e-4
DIFFUSION_RATE = 1e-4
LONGEST_GRADIENT = 1.0
CONDITION_STEPS = 301  # a slip of the release: its number of epochs, and 0, in the place of 1000

Terms = tuple[jax.Array, dict[str, jax.Array]]


# -------------------------------------------------------------------------------- autoencoder


def autoencoder_stage(
    shape: Shape, epochs: int, batch_size: int, kl: float, stft: float, adversarial: float
) -> GradientStage:
    """Trains "autoencoder", and beside it "discriminator" unless `adversarial` is 0."""

    def networks(geometry: Geometry):
        channels = geometry.target.shape[0]
        discriminator = shape.discriminator(channels) if adversarial else None
        return shape.autoencoder(channels), discriminator

    def loss(params, batch, geometry):
        x, keys = microvolts(batch["eeg"]), batch["key"]
        like = jnp.zeros_like(x, shape=(len(x), shape.length, shape.latent))
        noise = noise_like(keys, like)
        return autoencoder_loss(*networks(geometry), params, x, noise, kl, stft, adversarial)

    def score(params, batch, geometry):
        network, own = networks(geometry)[0], params["autoencoder"]
        found = decode(network, own, encode(network, own, batch["eeg"]))
        return wrong_and_power(found, batch["eeg"], batch["part"])

    adams = {"autoencoder": optax.adam(RATE)}
    if adversarial:
        adams["discriminator"] = optax.adam(DISCRIMINATOR_RATE)
    return GradientStage(
        name="autoencoder",
        loss=loss,
        score=score,
        trainable=tuple(adams),
        optimizer=lambda steps: optax.partition(adams, {name: name for name in adams}),
        epochs=epochs,
        batch_size=batch_size,
    )


def autoencoder_loss(
    autoencoder: Autoencoder,
    discriminator: PatchDiscriminator | None,
    params: PyTree,
    x: jax.Array,
    noise: jax.Array,
    kl: float = losses.KL,
    stft: float = 0.0,
    adversarial: float = losses.ADVERSARIAL,
) -> Terms:
    """Of reconstructions from latents drawn with `noise`.

    The autoencoder's loss and, where there is one, the discriminator's in one sum: neither sees
    the other's gradient, so that one step is one of each on the same reconstruction.
    """
    own = params["autoencoder"]
    mean, log_std = call(autoencoder, own, x, method="encode")
    found = call(autoencoder, own, mean + jnp.exp(log_std) * noise, method="decode")
    terms = {"absolute": losses.absolute(found, x), "divergence": losses.divergence(mean, log_std)}
    total = terms["absolute"] + kl * terms["divergence"]
    if stft:
        terms["spectral"] = losses.spectral(found, x)
        total = total + stft * terms["spectral"]
    if discriminator is None:
        return total, terms
    frozen = jax.lax.stop_gradient(params["discriminator"])
    terms["fools"] = losses.fools(_logits(discriminator, frozen, found))
    terms["discerns"] = losses.discerns(
        _logits(discriminator, params["discriminator"], jax.lax.stop_gradient(found)),
        _logits(discriminator, params["discriminator"], x),
    )
    return total + adversarial * (terms["fools"] + terms["discerns"]), terms


def _logits(discriminator: PatchDiscriminator, params: PyTree, x: jax.Array) -> jax.Array:
    """By the statistics of the batch; running ones would be used by nobody."""
    found: Any = discriminator.apply({"params": params}, x, True, mutable=["batch_stats"])
    return found[0][-1]


# ---------------------------------------------------------------------------------- condition


def condition_stage(shape: Shape, epochs: int, batch_size: int) -> GradientStage:
    """Trains "condition" on the latents of a frozen autoencoder."""

    def loss(params, batch, geometry):
        network = shape.autoencoder(geometry.target.shape[0])
        x, t = microvolts(batch["eeg"]), drawn_steps(batch["key"], CONDITION_STEPS)
        pair = batch["z50"], batch["z100"]
        return condition_loss(network, shape.condition, params, x, *pair, t)

    def score(params, batch, geometry):
        guess = guessed(shape.condition, params, batch["z50"])
        return eeg_score(shape, params, guess, batch, geometry)

    return GradientStage(
        name="condition",
        loss=loss,
        score=score,
        trainable=("condition",),
        optimizer=lambda steps: optax.adam(CONDITION_RATE),
        epochs=epochs,
        batch_size=batch_size,
        derive=lambda params, batch, geometry: pair_of_latents(shape, params, batch, geometry),
    )


def condition_loss(
    autoencoder: Autoencoder,
    condition: ConditionEncoder,
    params: PyTree,
    x: jax.Array,
    z50: jax.Array,
    z100: jax.Array,
    t: jax.Array,
) -> Terms:
    """Of the condition at the steps `[batch]`, in the latent and decoded."""
    found = call(condition, params["condition"], z50, t)
    decoded = call(autoencoder, params["autoencoder"], found, method="decode")
    terms = {"latent": losses.squared(found, z100), "decoded": losses.squared(decoded, x)}
    return losses.LATENT * terms["latent"] + terms["decoded"], terms


def guessed(condition: ConditionEncoder, params: PyTree, z50: jax.Array) -> jax.Array:
    """The condition at step 0, where it does not depend on the step."""
    return call(condition, params["condition"], z50, method="guess")


def pair_of_latents(shape: Shape, params, batch, geometry: Geometry) -> dict[str, jax.Array]:
    """Latents of the observed channels alone, "z50", and of all, "z100"."""
    network, own = shape.autoencoder(geometry.target.shape[0]), params["autoencoder"]
    eeg = batch["eeg"]
    return {
        "z50": encode(network, own, masked(eeg, geometry)),
        "z100": encode(network, own, eeg),
    }


# ---------------------------------------------------------------------------------- denoiser


def denoiser_stage(shape: Shape, epochs: int, batch_size: int) -> GradientStage:
    """Trains "denoiser" on normalised latents, the condition encoder frozen."""
    networks = shape.condition, shape.denoiser

    def derive(params, batch, geometry):
        pair = pair_of_latents(shape, params, batch, geometry)
        own = {name: normalised(z, params["latents"]) for name, z in pair.items()}
        return own | {"seed": jax.vmap(jax.random.bits)(batch["key"])}

    def loss(params, batch, geometry):
        del geometry
        t, noise = drawn_noise(batch["key"], batch["z100"])
        return denoiser_loss(*networks, params, batch["z50"], batch["z100"], noise, t)

    def score(params, batch, geometry):
        del geometry
        t, noise = drawn_noise(jax.vmap(jax.random.key)(batch["seed"]), batch["z100"])
        found = denoised(*networks, params, batch["z50"], batch["z100"], noise, t)
        return wrong_and_power(found, noise, batch["part"])

    return GradientStage(
        name="denoiser",
        loss=loss,
        score=score,
        trainable=("denoiser",),
        optimizer=denoiser_optimizer,
        epochs=epochs,
        batch_size=batch_size,
        derive=derive,
    )


def denoiser_optimizer(steps: int) -> optax.GradientTransformation:
    """Adam at a constant rate after a clip of the global norm."""
    del steps  # the release's schedule has its first milestone behind the last epoch
    return optax.chain(clip(LONGEST_GRADIENT), optax.adam(DIFFUSION_RATE))


def denoiser_loss(
    condition: ConditionEncoder,
    denoiser: Denoiser,
    params: PyTree,
    z50: jax.Array,
    z100: jax.Array,
    noise: jax.Array,
    t: jax.Array,
) -> Terms:
    """Of what is taken for the noise in normalised latents at the steps `[batch]`."""
    found = denoised(condition, denoiser, params, z50, z100, noise, t)
    return losses.smooth_absolute(found, noise), {}


def denoised(condition, denoiser, params, z50, z100, noise, t) -> jax.Array:
    """What is taken for the noise."""
    noisy = add_noise(z100, noise, SCHEDULE.at(t))
    blended = call(condition, params["condition"], z50, t)
    return call(denoiser, params["denoiser"], noisy, blended)


# ------------------------------------------------------------------------------------ fusion


def fusion_stage(shape: Shape, grid: Level, epochs: int, batch_size: int) -> GradientStage:
    """Trains "fusion" on samples that are drawn once for each window, of that window.

    The release pairs them with other windows: it draws in one order and reads in another.
    """

    def derive(params, batch, geometry):
        pair = pair_of_latents(shape, params, batch, geometry)
        plan = sampling_plan(shape, params, grid)
        start = noise_like(batch["key"], pair["z50"])
        drawn = sampled(shape, params, plan, pair["z50"], start)
        guess = guessed(shape.condition, params, pair["z50"])
        return {"z100": pair["z100"], "guess": guess, "sample": drawn}

    def fused(params, batch):
        return call(shape.fusion, params["fusion"], batch["guess"], batch["sample"])

    def loss(params, batch, geometry):
        del geometry
        return losses.squared(fused(params, batch), batch["z100"]), {}

    def score(params, batch, geometry):
        return eeg_score(shape, params, fused(params, batch), batch, geometry)

    return GradientStage(
        name="fusion",
        loss=loss,
        score=score,
        trainable=("fusion",),
        optimizer=lambda steps: optax.adam(DIFFUSION_RATE),
        epochs=epochs,
        batch_size=batch_size,
        derive=derive,
    )


def sampling_plan(shape: Shape, params: PyTree, grid: Level) -> PyTree:
    """What of the sampler does not depend on the window."""
    return plan_steps(shape.condition, shape.denoiser, params, grid, shape.length)


def sampled(shape: Shape, params: PyTree, plan: PyTree, z50: jax.Array, start: jax.Array):
    """Latents by diffusion, in the unit of `z50`, from noise of its shape.

    The guess is made of the normalised latent, though the network was trained on latents as they
    are: so it is in the release.
    """
    guess = guessed(shape.condition, params, normalised(z50, params["latents"]))
    return restored(sample_latents(plan, guess, start), params["latents"])


# ------------------------------------------------------------------------------ what they share


def drawn_steps(keys: jax.Array, below: int) -> jax.Array:
    """`[batch]` steps, each of 0 … below - 1 as likely."""
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, below))(keys)


def drawn_noise(keys: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`[batch]` steps of the whole schedule, and noise like `[batch, length, latent]`."""
    return drawn_steps(step_key(keys, 0), STEPS), noise_like(step_key(keys, 1), z)


def eeg_score(shape: Shape, params, z: jax.Array, batch, geometry: Geometry) -> jax.Array:
    """Errors and power in the missing channels of what a latent decodes to."""
    network = shape.autoencoder(geometry.target.shape[0])
    counted = missing(geometry)[None, :, None]
    found = decode(network, params["autoencoder"], z)
    found, wanted = (jnp.where(counted, x, 0.0) for x in (found, batch["eeg"]))
    return wrong_and_power(found, wanted, batch["part"])


def wrong_and_power(found: jax.Array, wanted: jax.Array, part: jax.Array) -> Any:
    """`[2]`: squared error and power, summed over the windows that are not padding."""
    kept = (part >= 0)[:, None, None]
    squares = (jnp.where(kept, x, 0.0) ** 2 for x in (found - wanted, wanted))
    return jnp.stack([jnp.sum(x) for x in squares])
