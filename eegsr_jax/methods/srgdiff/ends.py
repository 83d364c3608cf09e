"""The two ends of every preset: observed channels to a latent, and a latent to EEG and its bars."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eegsr_jax.errors import MethodError
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import Reconstruction, observed_source
from eegsr_jax.methods.srgdiff.latents import decode, encode, placed
from eegsr_jax.methods.srgdiff.shape import Shape
from eegsr_jax.typing import PyTree


def initial_ends(shape: Shape, key: jax.Array, geometry: Geometry, adversarial: float) -> PyTree:
    """Params before training: "autoencoder", "std" and, if `adversarial`, "discriminator"."""
    channels, (first, second) = geometry.target.shape[0], jax.random.split(key)
    x = jax.ShapeDtypeStruct((1, shape.samples, channels), jnp.float32)
    params = {
        "autoencoder": shape.autoencoder(channels).lazy_init(first, x)["params"],
        "std": jnp.full(channels, jnp.inf),
    }
    if adversarial:
        network = shape.discriminator(channels)
        params["discriminator"] = network.lazy_init(second, x, True)["params"]
    return params


def planned_ends(params: PyTree, geometry: Geometry) -> PyTree:
    """What of a plan the functions below read."""
    source = observed_source(geometry)
    return {"autoencoder": params["autoencoder"], "source": source, "std": params["std"]}


def seen(method: str, shape: Shape, plan: PyTree, observed: jax.Array) -> jax.Array:
    """The latent `[batch, length, latent]` of the observed channels alone.

    Raises:
      MethodError: windows of another length than the method is bound to.
    """
    observed = jnp.asarray(observed)
    if observed.shape[-1] != shape.samples:
        raise MethodError(
            f"{method}: windows of {observed.shape[-1]} samples; it is bound to {shape.samples}: "
            "cut the data into such windows, or train with another samples="
        )
    eeg = placed(observed, plan["source"])
    return encode(shape.autoencoder(eeg.shape[1]), plan["autoencoder"], eeg)


def decoded(shape: Shape, plan: PyTree, z: jax.Array) -> jax.Array:
    """The EEG `[batch, M, time]` of a latent."""
    return decode(shape.autoencoder(plan["std"].shape[0]), plan["autoencoder"], z)


def with_bars(plan: PyTree, mean: jax.Array) -> Reconstruction:
    """An estimate with the bars of the plan."""
    return Reconstruction(mean, jnp.broadcast_to(plan["std"][None, :, None], mean.shape))
