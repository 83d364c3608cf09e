"""`srgdiff_paper`: SRGDiff as its paper describes it, in two stages.

An autoencoder; then, jointly, a denoiser of its latents with a residual module and a step-aware
modulation (`stepwise`). The paper's numbers of what is left open are not known: what is chosen here
is ours and never claimed as the authors'.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from eegsr_jax.diffusion.grid import leading_grid
from eegsr_jax.diffusion.noise import keys_of, noise_like, step_key
from eegsr_jax.diffusion.schedule import add_noise
from eegsr_jax.diffusion.steppers import DDIM
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.bars import bars_stage
from eegsr_jax.methods.base import GradientStage, Method, Reconstruction
from eegsr_jax.methods.clipping import clip
from eegsr_jax.methods.srgdiff import losses
from eegsr_jax.methods.srgdiff.ends import decoded, initial_ends, planned_ends, seen, with_bars
from eegsr_jax.methods.srgdiff.latents import (
    encode,
    no_statistics,
    normalised,
    restored,
    statistics_stage,
)
from eegsr_jax.methods.srgdiff.shape import Shape, call, positive, refuse
from eegsr_jax.methods.srgdiff.stages import (
    LONGEST_GRADIENT,
    SCHEDULE,
    Terms,
    autoencoder_stage,
    drawn_noise,
    pair_of_latents,
    wrong_and_power,
)
from eegsr_jax.methods.srgdiff.stepwise import Stepwise, plan_steps, sample_latents
from eegsr_jax.typing import PyTree

RATE = 1e-3


def srgdiff_paper(
    sfreq: float = 200.0,
    samples: int = 800,
    steps: int = 50,
    eta: float = 0.0,
    draws: int = 1,
    residual: bool = True,
    modulation: bool = True,
    autoencoder_epochs: int = 100,
    diffusion_epochs: int = 100,
    batch_size: int = 32,
    kl: float = losses.KL,
    stft: float = losses.STFT,
    lambda_res: float = losses.RESIDUAL,
    lambda_smm: float = losses.MODULATION,
    widths: tuple[int, ...] = (64, 32),
    latent: int = 32,
    units: int = 12,
    blocks: int = 4,
    taps: int = 17,
    scales: int = 4,
    half: bool = False,
) -> Method:
    """SRGDiff as in the paper, bound to windows of `samples` at `sfreq`.

    All targets are decoded: observed channels are **not** passed through, as in the release.

    Args:
      sfreq: Hz.
      samples: of a window; `apply` refuses any other number.
      steps: of the sampler.
      eta: of DDIM: 0 draws nothing but the start, 1 is DDPM.
      draws: over which `apply` averages.
      residual: whether there is a residual module.
      modulation: whether there is a step-aware modulation.
      autoencoder_epochs: passes over the training windows in the first stage.
      diffusion_epochs: in the second.
      batch_size: windows a step.
      kl: weight of the latent's divergence from the standard normal. Not known; the release's.
      stft: weight of the distance of spectra. Not known; ours.
      lambda_res: weight of the residual's error. Not known; ours.
      lambda_smm: weight of what the modulation changes. Not known; ours.
      widths: of the autoencoder's levels, finest first; each further one halves the rate.
      latent: channels of the latent, a multiple of 4.
      units: of each latent channel in the denoiser.
      blocks: of the denoiser.
      taps: of each piece of its long convolutions, which have `taps` · 2^(`scales` - 1) in all and
        need latents longer than that.
      scales: pieces.
      half: whether the denoiser multiplies matrices in bfloat16, as accelerators like it; norms,
        transforms, the schedule and everything else stay in float32.

    Raises:
      ConfigError: an option that cannot be.
    """
    name = "srgdiff_paper"
    shape = Shape(
        samples=samples,
        widths=tuple(widths),
        latent=latent,
        units=units,
        blocks=blocks,
        taps=taps,
        scales=scales,
        half=half,
    )
    shape.check(name, stft)
    positive(name, sfreq=sfreq, batch_size=batch_size, steps=steps, draws=draws)
    refuse(name, latent=(latent, latent % 4 == 0 or not residual, "a multiple of 4"))
    # Not from the last time, where what is taken wrongly for noise is multiplied by 650.
    grid, stepper = leading_grid(SCHEDULE, steps), DDIM(eta)
    network = Stepwise(shape, residual, modulation)

    def init(key, geometry: Geometry, window) -> PyTree:
        del window
        first, second = jax.random.split(jax.random.key(0) if key is None else key)
        z = jax.ShapeDtypeStruct((1, shape.length, latent), jnp.float32)
        t = jax.ShapeDtypeStruct((1,), jnp.int32)
        return initial_ends(shape, first, geometry, adversarial=0.0) | {
            "diffusion": network.lazy_init(second, z, t, z)["params"],
            "latents": no_statistics(latent),
        }

    def plan(params, geometry: Geometry) -> PyTree:
        sampler = plan_steps(network, params["diffusion"], grid)
        own = {"steps": sampler, "latents": params["latents"]}
        return planned_ends(params, geometry) | own

    def drawn(plan, z50, keys):
        """The EEG `[batch, M, time]` of one draw."""
        start = noise_like(step_key(keys, 0), z50)
        given = normalised(z50, plan["latents"])
        key = step_key(keys, 1)
        z = sample_latents(network, plan["steps"], given, start, stepper=stepper, key=key)
        return decoded(shape, plan, restored(z, plan["latents"]))

    def draw(plan, observed, key):
        z50 = seen(name, shape, plan, observed)
        return drawn(plan, z50, step_key(keys_of(key, z50), 0))

    def apply(plan, observed, key=None) -> Reconstruction:
        z50 = seen(name, shape, plan, observed)
        keys = keys_of(key, z50)
        many = jax.lax.map(lambda n: drawn(plan, z50, step_key(keys, n)), jnp.arange(draws))
        return with_bars(plan, many.mean(0))

    def full(params, eeg, geometry):
        return encode(shape.autoencoder(geometry.target.shape[0]), params["autoencoder"], eeg)

    def wrong(params, eeg, geometry):
        return eeg - apply(plan(params, geometry), eeg[:, geometry.observed_index]).mean

    stages = (
        autoencoder_stage(shape, autoencoder_epochs, batch_size, kl, stft, adversarial=0.0),
        statistics_stage(full),
        _diffusion_stage(shape, network, diffusion_epochs, batch_size, lambda_res, lambda_smm),
        bars_stage(wrong),
    )
    return Method(name, init, stages, plan, apply, samples, 0, sfreq, draw=draw)


def _diffusion_stage(
    shape: Shape,
    network: Stepwise,
    epochs: int,
    batch_size: int,
    lambda_res: float,
    lambda_smm: float,
) -> GradientStage:
    """Trains "diffusion" on normalised latents of a frozen autoencoder."""

    def derive(params, batch, geometry):
        pair = pair_of_latents(shape, params, batch, geometry)
        own = {name: normalised(z, params["latents"]) for name, z in pair.items()}
        return own | {"seed": jax.vmap(jax.random.bits)(batch["key"])}

    def loss(params, batch, geometry):
        del geometry
        t, noise = drawn_noise(batch["key"], batch["z100"])
        pair = batch["z50"], batch["z100"]
        return joint_loss(network, params["diffusion"], *pair, noise, t, lambda_res, lambda_smm)

    def score(params, batch, geometry):
        del geometry
        t, noise = drawn_noise(jax.vmap(jax.random.key)(batch["seed"]), batch["z100"])
        noisy = add_noise(batch["z100"], noise, SCHEDULE.at(t))
        found, _ = call(network, params["diffusion"], noisy, t, batch["z50"])
        return wrong_and_power(found, noise, batch["part"])

    def optimizer(steps: int) -> optax.GradientTransformation:
        del steps
        return optax.chain(clip(LONGEST_GRADIENT), optax.adam(RATE))

    return GradientStage(
        name="diffusion",
        loss=loss,
        score=score,
        trainable=("diffusion",),
        optimizer=optimizer,
        epochs=epochs,
        batch_size=batch_size,
        derive=derive,
    )


def joint_loss(
    network: Stepwise,
    params: PyTree,
    z50: jax.Array,
    z100: jax.Array,
    noise: jax.Array,
    t: jax.Array,
    lambda_res: float = losses.RESIDUAL,
    lambda_smm: float = losses.MODULATION,
) -> Terms:
    """Of the noise, of the residual and of what the modulation changes, at the steps `[batch]`."""
    noisy = add_noise(z100, noise, SCHEDULE.at(t))
    found, said = call(network, params, noisy, t, z50)
    terms = {"noise": losses.squared(found, noise)}
    total = terms["noise"]
    if network.residual:
        terms["residual"] = losses.squared(said["residual"], z100 - noisy)
        total = total + lambda_res * terms["residual"]
    if network.modulation:
        terms["modulation"] = jnp.mean((said["scale"] - 1) ** 2 + said["shift"] ** 2)
        total = total + lambda_smm * terms["modulation"]
    return total, terms
