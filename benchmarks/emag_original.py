"""EMAG's released sequence of operations in PyTorch, written from its description.

`emag_render.py` checks it on the authors' numbers and times it beside ours.
"""

from __future__ import annotations

import numpy as np

from eegsr_jax.interop import torch_emag

GROUPS = 3  # of Gaussians at each point
RATE, DECAY, PENALTY = 1e-3, 0.01, 2e-4
PENALISED = ("chol_log_diag", "chol_off_diag")


def original(torch, state, offsets, seconds, x, inner: int = 10):
    """`[batch, time, M]` in PyTorch: the released sequence of operations."""
    log_diagonal, off = state["chol_log_diag"], state["chol_off_diag"]
    diagonal = torch.exp(log_diagonal)
    dx, dy, dz = offsets.unbind(-1)
    z0 = diagonal[:, 0] * dx + off[:, 0] * dy + off[:, 1] * dz
    z1 = diagonal[:, 1] * dy + off[:, 2] * dz
    z2 = diagonal[:, 2] * dz
    distance = z0**2 + z1**2 + z2**2
    coupling = z0 * off[:, 3] + z1 * off[:, 4] + z2 * off[:, 5]
    rate = off[:, 3] ** 2 + off[:, 4] ** 2 + off[:, 5] ** 2 + diagonal[:, 3] ** 2
    torch.exp(-0.5 * distance)  # computed and not used, as released

    hidden = x.transpose(1, 2)
    for name in ("ld_encoder.0", "ld_encoder.2", "ld_modulator.0"):
        hidden = torch.nn.functional.linear(
            hidden, state[f"{name}.weight"], state[f"{name}.bias"]
        ).relu()
    last = (state[f"ld_modulator.2.{k}"] for k in ("weight", "bias"))
    modulation = torch.nn.functional.linear(hidden, *last)
    groups = len(state["amplitude"]) // modulation.shape[-1]
    taken = state["amplitude"] + modulation.repeat_interleave(groups, -1)

    seconds = seconds.expand(x.shape[0], -1)
    pieces = []
    for start in range(0, seconds.shape[1], inner):
        tau = seconds[:, start : start + inner, None] - state["mu_t"]
        exponent = -0.5 * distance - tau[:, :, None] * coupling
        exponent = exponent - 0.5 * (tau**2 * rate)[:, :, None]
        weights = torch.exp(exponent)
        pieces.append(torch.matmul(weights, taken[:, start : start + inner, :, None])[..., 0])
    return torch.cat(pieces, 1)


class Original:
    """The original at one shape: apply and train on the first samples of a window."""

    def __init__(self, state, config, places, batch: int, samples: int, sfreq: int):
        import torch

        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_default_device(self.device)
        self.state = {k: torch.tensor(v, requires_grad=True) for k, v in state.items()}
        points = np.repeat(torch_emag.points(state, config), GROUPS, 0).astype(np.float32)
        self.offsets = torch.tensor(places[:, None] - points[None])
        self.seconds = torch.arange(samples) / sfreq
        generator = torch.Generator(self.device).manual_seed(0)
        inputs = state["ld_encoder.0.weight"].shape[1]
        self.x = torch.randn(batch, inputs, samples, generator=generator)
        self.y = torch.randn(batch, samples, len(places), generator=generator)
        self.adam = torch.optim.AdamW(self.state.values(), lr=RATE, weight_decay=DECAY)

    def apply(self):
        """All samples in one call, as its evaluation does."""
        with self.torch.no_grad():
            original(self.torch, self.state, self.offsets, self.seconds, self.x)
        self.wait()

    def train(self):
        """A step in pieces of ten samples, each with its own backward pass."""
        self.adam.zero_grad()
        starts = range(0, len(self.seconds), 10)
        for start in starts:
            part = slice(start, start + 10)
            out = original(
                self.torch, self.state, self.offsets, self.seconds[part], self.x[:, :, part]
            )
            (((out - self.y[:, part]) ** 2).mean() / len(starts)).backward()
        penalty = [(self.state[k] ** 2).mean() for k in PENALISED]
        (PENALTY * self.torch.stack(penalty).sum()).backward()
        self.torch.nn.utils.clip_grad_norm_(self.state.values(), 1.0)
        self.adam.step()
        self.wait()

    def wait(self):
        """A graphics card answers before it is done."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()
