"""SRGDiff as released, in PyTorch: its sequence of operations, written from its description.

Nothing is computed once that the release computes again: every step runs the condition encoder,
dense convolutions under masks, a long convolution by FFT and a gate of all hidden units in every
block, and embeddings of step and place that nobody reads. Arrays are `[batch, channel, time]`, and
state dicts have the original's names. `sampling_worker.py` compares it with the authors' numbers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

PARTS = ("vae", "conv_encoder", "denoiser", "fusion")
SHAPES = {  # constructor arguments by their original names, as published
    "vae": {
        "in_channels": 62,
        "latent_channels": 32,
        "num_channels": [64, 32],
        "num_res_blocks": 2,
        "norm_num_groups": 1,
    },
    "conv_encoder": {"latent_channels": 32, "time_emb_dim": 64},
    "denoiser": {
        "signal_length": 400,
        "signal_channel": 32,
        "hidden_channel": 12,
        "in_kernel_size": 7,
        "out_kernel_size": 7,
        "slconv_kernel_size": 17,
        "num_scales": 4,
        "num_blocks": 4,
    },
    "fusion": {"in_channels": 32, "delta_weight": 0.01},
}


# ------------------------------------------------------------------------------------ autoencoder


class Conv(nn.Module):
    """A convolution along time, under the name that MONAI gives it."""

    def __init__(self, inputs: int, outputs: int, width: int = 3, stride: int = 1, pad: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, width, stride, pad if width > 1 else 0)

    def forward(self, x):
        """Without an activation."""
        return self.conv(x)


class Residual(nn.Module):
    """Norm, SiLU and convolution, twice, beside the input."""

    def __init__(self, inputs: int, outputs: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, inputs, 1e-6), Conv(inputs, outputs)
        self.norm2, self.conv2 = nn.GroupNorm(groups, outputs, 1e-6), Conv(outputs, outputs)
        self.nin_shortcut = Conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x):
        """`[batch, outputs, time]`."""
        y = self.conv1(functional.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(functional.silu(self.norm2(y)))


class Halved(nn.Module):
    """Every second sample of a convolution; one zero is put behind the last sample."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = Conv(width, width, stride=2, pad=0)

    def forward(self, x):
        """Half as many samples."""
        return self.conv(functional.pad(x, (0, 1)))


class Doubled(nn.Module):
    """Every sample twice, and a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = Conv(width, width)

    def forward(self, x):
        """Twice as many samples."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class Ladder(nn.Module):
    """Encoder or decoder: levels of residual blocks with a change of rate between them."""

    def __init__(self, inputs, widths, outputs, blocks: int, groups: int, between: type):
        super().__init__()
        layers, width = [Conv(inputs, widths[0])], widths[0]
        for level, wider in enumerate(widths):
            for _ in range(blocks):
                layers.append(Residual(width, wider, groups))
                width = wider
            if level < len(widths) - 1:
                layers.append(between(width))
        layers += [nn.GroupNorm(groups, width, 1e-6), Conv(width, outputs)]
        self.blocks = nn.ModuleList(layers)

    def forward(self, x):
        """One behind the other."""
        for block in self.blocks:
            x = block(x)
        return x


class Autoencoder(nn.Module):
    """EEG to mean and deviation of a latent, and back."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        channels, latent, widths = (
            config[k] for k in ("in_channels", "latent_channels", "num_channels")
        )
        further = (config["num_res_blocks"], config["norm_num_groups"])
        self.encoder = Ladder(channels, widths, latent, *further, Halved)
        self.decoder = Ladder(latent, widths[::-1], channels, *further, Doubled)
        self.quant_conv_mu, self.quant_conv_log_sigma, self.post_quant_conv = (
            Conv(latent, latent, 1) for _ in range(3)
        )

    def encode(self, x):
        """Mean and standard deviation, though only the mean is used."""
        hidden = self.encoder(x)
        log_variance = torch.clamp(self.quant_conv_log_sigma(hidden), -30.0, 20.0)
        return self.quant_conv_mu(hidden), torch.exp(log_variance / 2)

    def decode(self, z):
        """The EEG of a latent."""
        return self.decoder(self.post_quant_conv(z))


# ------------------------------------------------------------------------------------- diffusion


class ConditionEncoder(nn.Module):
    """A guess of the latent of all channels, blended with an embedding of the step."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        latent, self.size = config["latent_channels"], config["time_emb_dim"]
        self.conv = nn.Sequential(
            nn.Conv1d(latent, 64, 3, padding=1), nn.ReLU(), nn.Conv1d(64, latent, 3, padding=1)
        )
        self.time_proj = nn.Linear(self.size, latent)

    def forward(self, z, t):
        """At the steps `[batch]`."""
        half = self.size // 2
        rate = torch.exp(torch.arange(half, device=z.device) * (-math.log(1e4) / (half - 1)))
        angle = t[:, None].to(z.dtype) * rate.to(z.dtype)
        step = self.time_proj(torch.cat([angle.sin(), angle.cos()], -1))[:, :, None]
        kept = torch.clamp(1 - 0.2 * t.to(z.dtype) / 1000, 0.1, 1.0)[:, None, None]
        return kept * self.conv(z) + (1 - kept) * step


class MaskedConv(nn.Module):
    """A circular convolution of all channels with all, most of whose weights a mask makes zero."""

    def __init__(self, inputs: int, outputs: int, width: int, latent: int):
        super().__init__()
        self.layer = nn.Conv1d(inputs, outputs, width)
        own = [torch.arange(count) // (count // latent) for count in (outputs, inputs)]
        self.layer.register_buffer("mask", (own[0][:, None] == own[1]).float())

    def forward(self, x):
        """As dense as without the mask."""
        width = self.layer.weight.shape[-1]
        left = (width - 1) // 2
        x = functional.pad(x, (left, width - 1 - left), mode="circular")
        weight = self.layer.weight * self.layer.mask[:, :, None]
        return functional.conv1d(x, weight, self.layer.bias)


class LongConvolution(nn.Module):
    """Of each unit with a kernel made of pieces, of which the later are the wider; and a gain."""

    def __init__(self, units: int, taps: int, scales: int):
        super().__init__()
        self.D = nn.Parameter(torch.randn(1, units))
        self.kernel_list = nn.ParameterList(torch.randn(1, units, taps) for _ in range(scales))
        self.register_buffer("multiplier", torch.full((1, units, 1), 2.0))
        self.register_buffer("kernel_norm", self.kernel().detach().norm(dim=-1, keepdim=True))
        self.register_buffer("kernel_norm_initialized", torch.tensor(True))

    def kernel(self):
        """Not yet normalised."""
        last, pieces = len(self.kernel_list) - 1, []
        for i, piece in enumerate(self.kernel_list):
            wide = functional.interpolate(piece, scale_factor=float(2 ** max(0, i - 1)))
            pieces.append(wide * self.multiplier ** (last - i))
        return torch.cat(pieces, -1)

    def forward(self, x):
        """By FFT. The kernel is moved into place, which costs less than to move what it gives."""
        kernel, length = self.kernel() / self.kernel_norm, x.shape[-1]
        kernel = functional.pad(kernel, (0, length - kernel.shape[-1]))
        kernel = torch.roll(kernel, -(self.taps // 2), -1)
        product = torch.fft.rfft(x) * torch.fft.rfft(kernel)
        return torch.fft.irfft(product, length) + self.D[:, :, None] * x

    @property
    def taps(self) -> int:
        """Of the whole kernel."""
        return self.kernel_list[0].shape[-1] * 2 ** (len(self.kernel_list) - 1)


class Embedding(nn.Module):
    """Of a step or a place."""

    def __init__(self, size: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, size), nn.SiLU(), nn.Linear(size, size))

    def forward(self, t):
        """`[n, size]` of `[n]`."""
        rate = torch.exp(torch.arange(128, device=t.device) * (-math.log(1e4) / 128))
        angle = t[:, None] * rate
        return self.mlp(torch.cat([angle.cos(), angle.sin()], -1).to(self.mlp[0].weight.dtype))


class Block(nn.Module):
    """Normalised over units and samples, convolved, and a gated condition added."""

    def __init__(self, units: int, taps: int, scales: int):
        super().__init__()
        self.conv = LongConvolution(units, taps, scales)
        self.cond_gate = nn.Sequential(nn.Conv1d(units, units, 1), nn.Sigmoid())
        nn.init.constant_(self.cond_gate[0].bias, -2.0)

    def forward(self, y, c, r):
        """The next plane."""
        y = y + self.conv(functional.layer_norm(y, y.shape[1:], eps=1e-5))
        if c is not None:
            y = y + self.cond_gate(c) * c
        return y if r is None else y + r


class Denoiser(nn.Module):
    """The noise in a latent, given a condition; the step has no part in it."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        latent, units = config["signal_channel"], config["hidden_channel"]
        hidden, width = latent * units, config["in_kernel_size"]
        self.conv_in, self.cond_proj, self.res_proj = (
            MaskedConv(latent, hidden, width, latent) for _ in range(3)
        )
        sizes = (hidden, config["slconv_kernel_size"], config["num_scales"])
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(config["num_blocks"]))
        self.conv_out = MaskedConv(hidden, latent, config["out_kernel_size"], latent)
        self.t_emb, self.pos_emb = Embedding(hidden), Embedding(hidden)

    def forward(self, x, t, cond=None, res=None):
        """Without a residual nothing is added for it: neither zeros nor the bias."""
        self.t_emb(t)  # computed and not used, as released, and so is the next
        self.pos_emb(torch.arange(x.shape[-1], device=x.device))
        y = self.conv_in(x)
        c = None if cond is None else self.cond_proj(cond)
        r = None if res is None else self.res_proj(res)
        for block in self.blocks:
            y = block(y, c, r)
        return self.conv_out(y)


class Fusion(nn.Module):
    """The guess, and a hundredth of what the sample says otherwise."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        latent, self.weight = config["in_channels"], config["delta_weight"]
        self.delta_conv = nn.Conv1d(latent, latent, 3, padding=1)
        self.gate_conv = nn.Sequential(nn.Conv1d(2 * latent, latent, 1), nn.Sigmoid())

    def forward(self, low, high):
        """Of two latents."""
        gate = self.gate_conv(torch.cat([low, high], 1))
        return low + self.weight * gate * self.delta_conv(high - low)


class Original(nn.Module):
    """All of it."""

    def __init__(self, config: dict[str, Any] = SHAPES):
        super().__init__()
        kinds = (Autoencoder, ConditionEncoder, Denoiser, Fusion)
        self.vae, self.conv_encoder, self.denoiser, self.fusion = (
            kind(config[part]) for part, kind in zip(PARTS, kinds, strict=True)
        )
        angle = (torch.arange(1000, dtype=torch.float64) / 1000 + 0.02) / 1.02 * math.pi / 2
        kept = torch.cos(angle) ** 2 / math.cos(0.02 / 1.02 * math.pi / 2) ** 2
        self.register_buffer("kept", kept, persistent=False)

    @torch.no_grad()
    def sample(self, z, x, steps: int, first: int | None = None):
        """DDIM from noise x, given a normalised latent z; only the `first` steps, if that is said.

        Steps are 1, 1 + stride, …; the last one ends without noise.
        """
        stride = 1000 // steps
        kept = [*self.kept.tolist(), 1.0]
        for n in list(range(steps))[::-1][:first]:
            t = stride * n + 1
            here, there = kept[t], kept[t - stride if n else -1]
            now = torch.full((len(x),), t, device=x.device)
            noise = self.denoiser(x, now, self.conv_encoder(z, now))
            clean = (x - math.sqrt(1 - here) * noise) / math.sqrt(here)
            x = math.sqrt(there) * clean + math.sqrt(1 - there) * noise
        return x

    @torch.no_grad()
    def reconstruct(self, eeg, noise, mean, std, steps: int = 50, first: int | None = None):
        """EEG `[batch, channel, time]` of EEG whose missing channels are zeros."""
        z, _ = self.vae.encode(eeg)
        sample = self.sample((z - mean) / std, noise, steps, first) * std + mean
        guess = self.conv_encoder(z, torch.zeros(len(z), dtype=torch.int64, device=z.device))
        return self.vae.decode(self.fusion(guess, sample))
