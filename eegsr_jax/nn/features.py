"""A small convolutional classifier of windows; what its last layer sees serves as features.

Filters in time and in space (a temporal convolution and a depthwise spatial one, as in EEGNet;
Lawhern et al. 2018), squares, a mean over the window and a logarithm (as in ShallowConvNet;
Schirrmeister et al. 2017): a feature is the log power of what a learned filter lets through, which
over windows is close to normal.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

_FLOOR = 1e-6  # of the power of a unit input: silence has a logarithm too


class PowerFeatures(nn.Module):
    """Log powers behind learned filters, and scores of the classes of each question.

    Attributes:
      filters: in time.
      maps: filters in space for each of those; there are `filters * maps` features.
      width: samples of a filter in time.
      classes: to tell apart, of each question.
    """

    filters: int
    maps: int
    width: int
    classes: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """`[batch, channel, time]` of unit power to `[batch, feature]` and `[batch, class]`s."""
        samples, start = x.shape[2], nn.initializers.lecun_normal()
        time = self.param("time", start, (self.width, self.filters))
        space = self.param("space", start, (x.shape[1], self.filters * self.maps))
        # Space comes first, since the two commute and there are fewer maps than channels. The
        # filters in time are products of spectra, since XLA is slow at depthwise convolutions; the
        # taper keeps the ends of a window, which then meet, from being seen.
        mapped = jnp.einsum("bct,cm->bmt", x, space, precision="highest")
        taper = jnp.asarray(jnp.hanning(samples), x.dtype)
        response = jnp.repeat(jnp.fft.rfft(time.T, samples), self.maps, axis=0)
        passed = jnp.fft.irfft(jnp.fft.rfft(mapped * taper[None, None]) * response[None], samples)
        power = jnp.sum(passed**2, -1) / jnp.sum(taper**2)
        features = jnp.log(power + _FLOOR)
        scores = tuple(
            nn.Dense(classes, name=f"classes_{i}", precision="highest")(features)
            for i, classes in enumerate(self.classes)
        )
        return features, scores
