"""Octaves of frequency, counted down from half the sampling rate; time is the last axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eegsr_jax.nn.fourier import samples, spectrum

OCTAVES = 6  # the lowest reaches from nothing to 1/32 of half the rate


def octave_of(time: int) -> jax.Array:
    """`[time // 2 + 1]` in which octave each frequency of `time` samples is, lowest first."""
    at = jnp.arange(time // 2 + 1, dtype=jnp.float32) / (time / 2)  # of half the rate
    return jnp.clip(OCTAVES + jnp.ceil(jnp.log2(at + 1e-9)).astype(jnp.int32) - 1, 0, OCTAVES - 1)


def octaves(x: jax.Array) -> jax.Array:
    """`[..., time] -> [OCTAVES, ..., time]`, which add up to it."""
    time, both = x.shape[-1], spectrum(x)
    mine = octave_of(time)[None] == jnp.arange(OCTAVES, dtype=jnp.int32)[:, None]
    mine = mine.astype(both.dtype).reshape(OCTAVES, *(1,) * (x.ndim - 1), -1)
    return samples(both[None] * mine, time)


def octave_shares(time: int) -> jax.Array:
    """`[OCTAVES]` which share of all frequencies each has; at least one."""
    mine = octave_of(time)[None] == jnp.arange(OCTAVES, dtype=jnp.int32)[:, None]
    return jnp.maximum(mine.sum(1).astype(jnp.float32), 1.0) / (time // 2 + 1)
