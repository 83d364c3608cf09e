"""How SRGDiff's release hides channels and scores, number for number; NumPy, microvolts.

For comparing with published numbers. Ours differ where these are questionable: a layout is the same
in all windows, and `evaluation.metrics` scores missing channels only. Source: see `torch_srgdiff`.
"""

from __future__ import annotations

import numpy as np

# Of the 62 of SEED, hidden in every window at "50 %"; see `data.datasets.seed_channels`.
HIDDEN = (3, 4, *range(14, 23), *range(32, 41), *range(50, 58), 61)


def hidden_channels(windows: int, seed: int, channels: int = 62, share: float = 0.5) -> np.ndarray:
    """`[windows, hidden]`, ascending: `HIDDEN`, and others drawn anew for every window.

    As many others as are lacking to the share, rounded down: of 62 channels 31 stay, not 32, and
    two of them differ from window to window.

    Args:
      windows: how many.
      seed: of NumPy's global generator, from which the original draws.
      channels: of a window.
      share: of the channels, hidden.
    """
    generator = np.random.RandomState(seed)
    rest = np.setdiff1d(np.arange(channels), HIDDEN)
    further = int(channels * share) - len(HIDDEN)
    drawn = [generator.choice(rest, further, replace=False) for _ in range(windows)]
    return np.sort([[*HIDDEN, *own] for own in drawn], -1)


def mse_nmse_pcc_snr(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The four scores over all entries, given channels included.

    With 1e-8 beside the power of the errors: a perfect prediction has a finite ratio, and so has
    one in volts, whatever it is worth.
    """
    y, z = (np.asarray(a, np.float64).ravel() for a in (truth, prediction))
    power, noise = np.mean(y**2), np.mean((z - y) ** 2)
    pcc = np.corrcoef(y, z)[0, 1]
    return np.array([noise, noise / power, pcc, 10 * np.log10(power / (noise + 1e-8))])


def spectral_distance(truth: np.ndarray, prediction: np.ndarray) -> float:
    """The term that the release's first stage has commented out; `[batch, channel, time]`.

    Squared difference of amplitudes over both channels and time, summed; no STFT.
    """
    y, z = (np.abs(np.fft.fftn(a, axes=(1, 2), norm="ortho")) for a in (truth, prediction))
    return float(np.sum((z - y) ** 2))
