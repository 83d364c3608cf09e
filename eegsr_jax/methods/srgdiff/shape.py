"""How large SRGDiff's networks are, and which sizes cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from eegsr_jax.errors import ConfigError
from eegsr_jax.methods.srgdiff.autoencoder import Autoencoder
from eegsr_jax.methods.srgdiff.condition import ConditionEncoder
from eegsr_jax.methods.srgdiff.denoiser import Denoiser
from eegsr_jax.methods.srgdiff.fusion import GatedFusion
from eegsr_jax.methods.srgdiff.losses import STFT_WINDOWS
from eegsr_jax.nn.discriminator import PatchDiscriminator
from eegsr_jax.typing import PyTree


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes, and the networks that have them.

    Attributes:
      samples: of a window.
      widths: of the autoencoder's levels, finest first; each further one halves the rate.
      latent: channels of the latent.
      units, blocks, taps, scales: of the denoiser, see `ChannelwiseDenoiser`.
      half: whether the denoiser multiplies matrices in bfloat16.
    """

    samples: int
    widths: tuple[int, ...] = (64, 32)
    latent: int = 32
    units: int = 12
    blocks: int = 4
    taps: int = 17
    scales: int = 4
    half: bool = False

    @property
    def halved(self) -> int:
        """How many samples of EEG one of the latent stands for."""
        return 2 ** (len(self.widths) - 1)

    @property
    def length(self) -> int:
        """Samples of a latent."""
        return self.samples // self.halved

    @property
    def condition(self) -> ConditionEncoder:
        """The network of the guess."""
        return ConditionEncoder(self.latent)

    @property
    def denoiser(self) -> Denoiser:
        """As released."""
        return Denoiser(**self._denoiser(), dtype=self.dtype)

    @property
    def fusion(self) -> GatedFusion:
        """As released."""
        return GatedFusion(self.latent)

    def autoencoder(self, channels: int) -> Autoencoder:
        """Of EEG of so many channels."""
        return Autoencoder(channels, self.latent, self.widths, (2,) * len(self.widths))

    def discriminator(self, channels: int) -> PatchDiscriminator:
        """Of EEG of so many channels."""
        return PatchDiscriminator(channels, 3, channels)

    @property
    def dtype(self) -> Any:
        """Of the denoiser; None: that of inputs and parameters."""
        return jnp.bfloat16 if self.half else None

    def _denoiser(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _DENOISER}

    def check(self, method: str, stft: float) -> None:
        """Refuse sizes that do not fit each other, or a loss of weight `stft`.

        Raises:
          ConfigError: they do not.
        """
        self.check_autoencoder(method, stft)
        positive(method, **self._denoiser())
        reach = self.taps * 2 ** (self.scales - 1)
        enough = f"more than {reach * self.halved}, for long convolutions of {reach} taps, or "
        enough += "fewer taps or scales"
        refuse(method, samples=(self.samples, self.length > reach, enough))

    def check_autoencoder(self, method: str, stft: float) -> None:
        """Refuse sizes that the autoencoder, or its loss, cannot have.

        Raises:
          ConfigError: there are some.
        """
        positive(method, samples=self.samples, widths=min(self.widths), latent=self.latent)
        multiple = f"a multiple of {self.halved}: cut the data into such windows"
        refuse(method, samples=(self.samples, self.samples % self.halved == 0, multiple))
        fits = self.samples >= STFT_WINDOWS[0] or not stft
        refuse(method, samples=(self.samples, fits, f"{STFT_WINDOWS[0]} or more, or stft=0"))


def call(network: nn.Module, params: PyTree, *inputs: Any, method: str | None = None) -> Any:
    """A network, or one of its methods, with params."""
    return network.apply({"params": params}, *inputs, method=method)


_DENOISER = ("latent", "units", "blocks", "taps", "scales")


def positive(method: str, **options: float) -> None:
    """Refuse options that are not more than 0.

    Raises:
      ConfigError: one is not.
    """
    refuse(method, **{name: (value, value > 0, "more than 0") for name, value in options.items()})


def refuse(method: str, **options: tuple[Any, bool, str]) -> None:
    """Refuse options that cannot be: by name the value, whether it can be, and what is expected.

    Raises:
      ConfigError: one cannot.
    """
    for name, (value, good, expected) in options.items():
        if not good:
            raise ConfigError(f"{method}: {name}={value!r}; expected {expected}")
