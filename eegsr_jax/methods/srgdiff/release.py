"""`srgdiff_release`: SRGDiff as its authors released it; `srgdiff_regression`: and no diffusion.

Observed channels, zeros in the place of the others, become a latent; diffusion conditioned on it
draws the latent of all channels, and a hundredth of what that says otherwise than a plain guess is
added to the guess, which is decoded. What the release's defects leave to be decided is decided as
`docs/methods/srgdiff_release.md` says.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eegsr_jax.diffusion.grid import leading_grid
from eegsr_jax.diffusion.noise import keys_of, noise_like
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.bars import bars_stage
from eegsr_jax.methods.base import Method, Reconstruction
from eegsr_jax.methods.srgdiff import losses, stages
from eegsr_jax.methods.srgdiff.ends import decoded, initial_ends, planned_ends, seen, with_bars
from eegsr_jax.methods.srgdiff.latents import (
    encode,
    masked,
    no_statistics,
    statistics_stage,
)
from eegsr_jax.methods.srgdiff.shape import Shape, call, positive
from eegsr_jax.typing import PyTree


def srgdiff_release(
    sfreq: float = 200.0,
    samples: int = 800,
    steps: int = 50,
    autoencoder_epochs: int = 100,
    condition_epochs: int = 50,
    denoiser_epochs: int = 80,
    fusion_epochs: int = 20,
    batch_size: int = 32,
    kl: float = losses.KL,
    stft: float = 0.0,
    adversarial: float = losses.ADVERSARIAL,
    widths: tuple[int, ...] = (64, 32),
    latent: int = 32,
    units: int = 12,
    blocks: int = 4,
    taps: int = 17,
    scales: int = 4,
    half: bool = False,
) -> Method:
    """SRGDiff as released, bound to windows of `samples` at `sfreq`.

    All targets are decoded: observed channels are **not** passed through, as in the original. The
    residual module, which the release trains and never calls, is not here.

    Args:
      sfreq: Hz.
      samples: of a window; `apply` refuses any other number.
      steps: of the sampler.
      autoencoder_epochs: passes over the training windows. Released: 20,000.
      condition_epochs: released: 300.
      denoiser_epochs: released: 80.
      fusion_epochs: released: 50.
      batch_size: windows a step. Released: 64, 64, 256 and 32 in the four stages.
      kl: weight of the latent's divergence from the standard normal.
      stft: weight of a distance of spectra, which the release has not.
      adversarial: weight of a discriminator; 0 for none.
      widths: of the autoencoder's levels, finest first; each further one halves the rate.
      latent: channels of the latent.
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
    name = "srgdiff_release"
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
    positive(name, sfreq=sfreq, batch_size=batch_size, steps=steps)
    grid = leading_grid(stages.SCHEDULE, steps)

    def init(key, geometry: Geometry, window) -> PyTree:
        del window
        first, *keys = jax.random.split(jax.random.key(0) if key is None else key, 4)
        z = jax.ShapeDtypeStruct((1, shape.length, latent), jnp.float32)
        return initial_ends(shape, first, geometry, adversarial) | {
            "condition": initial_condition(shape, keys[0]),
            "denoiser": shape.denoiser.lazy_init(keys[1], z, z, z)["params"],
            "fusion": shape.fusion.lazy_init(keys[2], z, z)["params"],
            "latents": no_statistics(latent),
        }

    def plan(params, geometry: Geometry) -> PyTree:
        sampler = {"steps": stages.sampling_plan(shape, params, grid)}
        further = {part: params[part] for part in ("condition", "latents", "fusion")}
        return planned_ends(params, geometry) | sampler | further

    def apply(plan, observed, key=None) -> Reconstruction:
        z50 = seen(name, shape, plan, observed)
        start = noise_like(keys_of(key, z50), z50)
        return with_bars(plan, released(shape, plan, z50, start))

    def draw(plan, observed, key):
        return apply(plan, observed, key).mean

    def low(params, eeg, geometry):
        network = shape.autoencoder(geometry.target.shape[0])
        return encode(network, params["autoencoder"], masked(eeg, geometry))

    def wrong(params, eeg, geometry):
        return eeg - apply(plan(params, geometry), eeg[:, geometry.observed_index]).mean

    training = (
        stages.autoencoder_stage(shape, autoencoder_epochs, batch_size, kl, stft, adversarial),
        statistics_stage(low),
        stages.condition_stage(shape, condition_epochs, batch_size),
        stages.denoiser_stage(shape, denoiser_epochs, batch_size),
        stages.fusion_stage(shape, grid, fusion_epochs, batch_size),
        bars_stage(wrong),
    )
    return Method(name, init, training, plan, apply, samples, 0, sfreq, draw=draw)


def srgdiff_regression(
    sfreq: float = 200.0,
    samples: int = 800,
    autoencoder_epochs: int = 100,
    condition_epochs: int = 50,
    batch_size: int = 32,
    kl: float = losses.KL,
    stft: float = 0.0,
    adversarial: float = losses.ADVERSARIAL,
    widths: tuple[int, ...] = (64, 32),
    latent: int = 32,
) -> Method:
    """`srgdiff_release` without its diffusion: the guess is decoded, in one call and without noise.

    What is left of the same parts, trained in the same way; the control that says what diffusion
    adds. Options are those of `srgdiff_release`.

    Raises:
      ConfigError: an option that cannot be.
    """
    name = "srgdiff_regression"
    shape = Shape(samples=samples, widths=tuple(widths), latent=latent)
    shape.check_autoencoder(name, stft)
    positive(name, sfreq=sfreq, batch_size=batch_size)

    def init(key, geometry: Geometry, window) -> PyTree:
        del window
        first, second = jax.random.split(jax.random.key(0) if key is None else key)
        own = {"condition": initial_condition(shape, second)}
        return initial_ends(shape, first, geometry, adversarial) | own

    def plan(params, geometry: Geometry) -> PyTree:
        return planned_ends(params, geometry) | {"condition": params["condition"]}

    def apply(plan, observed, key=None) -> Reconstruction:
        del key  # nothing is drawn
        z50 = seen(name, shape, plan, observed)
        guess = stages.guessed(shape.condition, plan, z50)
        return with_bars(plan, decoded(shape, plan, guess))

    def wrong(params, eeg, geometry):
        return eeg - apply(plan(params, geometry), eeg[:, geometry.observed_index]).mean

    training = (
        stages.autoencoder_stage(shape, autoencoder_epochs, batch_size, kl, stft, adversarial),
        stages.condition_stage(shape, condition_epochs, batch_size),
        bars_stage(wrong),
    )
    return Method(name, init, training, plan, apply, samples, 0, sfreq)


def released(shape: Shape, plan: PyTree, z50: jax.Array, start: jax.Array) -> jax.Array:
    """The EEG `[batch, M, time]` of a latent of observed channels, from noise of its shape.

    With `plan` of `srgdiff_release`. The guess that is fused is that of the latent as it is, the
    one that the sampler is given is of the normalised latent.
    """
    drawn = stages.sampled(shape, plan, plan["steps"], z50, start)
    guess = stages.guessed(shape.condition, plan, z50)
    fused = call(shape.fusion, plan["fusion"], guess, drawn)
    return decoded(shape, plan, fused)


def initial_condition(shape: Shape, key: jax.Array) -> PyTree:
    """Params of the condition encoder before training."""
    z = jax.ShapeDtypeStruct((1, shape.length, shape.latent), jnp.float32)
    return shape.condition.lazy_init(key, z, jax.ShapeDtypeStruct((1,), jnp.int32))["params"]
