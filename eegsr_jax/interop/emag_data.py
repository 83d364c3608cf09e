"""What EMAG's loaders, splits and scores do, number for number; NumPy, positions in millimetres.

For comparing with published numbers. Ours differ where these are questionable: `data.splits` keeps
neighbouring windows apart, `evaluation.metrics` scores missing channels only. Source: see
`torch_emag`; the draw of input channels is `layouts.emag_draw`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from eegsr_jax.errors import ChannelError
from eegsr_jax.geometry import find_channels

_RIM = 85.0  # mm; radius of the cap on which a locations file is unrolled


def zscore(eeg: np.ndarray) -> np.ndarray:
    """Each channel of `[..., channel, time]` with mean 0 and population std 1 (or below 1e-6)."""
    centred = eeg - eeg.mean(-1, keepdims=True)
    return centred / np.maximum(centred.std(-1, keepdims=True), 1e-6)


def windows(lengths: Sequence[int], length: int, stride: int) -> np.ndarray:
    """`[N, 2]`: recording and first sample of every window of `length`; what is left is dropped."""
    found = [
        (recording, start)
        for recording, samples in enumerate(lengths)
        for start in range(0, samples - length + 1, stride)
    ]
    return np.array(found, np.int64).reshape(-1, 2)


def split(count: int, seed: int = 42) -> tuple[np.ndarray, np.ndarray]:
    """Training and test items of one permutation, 80 to 20; the test items also validate."""
    order = np.random.default_rng(seed).permutation(count)
    return order[: int(0.8 * count)], order[int(0.8 * count) :]


def nmse_pcc_snr(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The three scores over all entries, given channels included.

    At the edges as in the original: a constant prediction has correlation 0, a perfect one SNR 0,
    and zero truth scores 0, 0, 0.
    """
    y, z = (np.asarray(a, np.float64).ravel() for a in (truth, prediction))
    power, noise = np.mean(y**2), np.mean((z - y) ** 2)
    if power == 0:
        return np.zeros(3)
    centred_y, centred_z = y - y.mean(), z - z.mean()
    spread = np.sqrt((centred_y**2).sum() * (centred_z**2).sum())
    pcc = (centred_y * centred_z).sum() / spread if spread > 0 else 0.0
    return np.array([noise / power, pcc, 10 * np.log10(power / noise) if noise > 0 else 0.0])


def spread_inputs(x: np.ndarray, index: np.ndarray, positions_mm: np.ndarray) -> np.ndarray:
    """Inputs `[..., L, time]` at all M electrodes (`ld_input_mode interpolated`).

    Weighted by 1 / (distance + 1 mm), so that the inputs themselves are not copied exactly.
    """
    weights = 1 / (_distance(positions_mm, positions_mm[index]) + 1)
    return weights / weights.sum(-1, keepdims=True) @ x


def inverse_square_lead_field(positions_mm: np.ndarray, points_mm: np.ndarray) -> np.ndarray:
    """`[M, P]` of 1 / (distance² + 100 mm²), rows of unit norm; EMAG itself has no use for it."""
    weights = 1 / (_distance(positions_mm, points_mm) ** 2 + 100)
    return weights / (np.linalg.norm(weights, axis=-1, keepdims=True) + 1e-8)


def template_positions(table: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """`[channel, 3]` mm from a montage in metres; CB1 and CB2 are made up from their neighbours.

    Raises:
      ChannelError: a name that the montage lacks.
    """
    known = list(table)
    made_up = {"CB1": ("O1", "P7"), "CB2": ("O2", "P8")}

    def place(name: str) -> np.ndarray:
        parts = made_up.get(name, (name,))
        mean = np.mean([table[known[i]] for i in find_channels(parts, known)], 0) * 1e3
        return mean - (np.array([0, 0, 5.0]) if name in made_up else 0)

    return np.stack([place(name) for name in names])


def locations(angle: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """`[channel, 3]` mm of a polar locations file, degrees and radius, raised from the plane.

    EEGLAB's radius is an arc; raised so, electrodes beyond 0.5 end at z = 0 outside the sphere.
    """
    angle, plane = np.radians(angle), np.asarray(radius) * _RIM / 0.5
    height = np.sqrt(np.maximum(0, _RIM**2 - plane**2))
    return np.stack([plane * np.sin(angle), plane * np.cos(angle), height], -1)


def check_positions(positions_mm: np.ndarray) -> None:
    """Refuse the original's last resort, random points in place of electrodes.

    Its published SEED model carries them: where neither a locations file nor MNE was found, the
    loader went on without a word.

    Raises:
      ChannelError: these are those points.
    """
    count = len(positions_mm)
    if np.shape(positions_mm) == (count, 3) and np.allclose(
        positions_mm, random_cap(count), atol=1e-2
    ):
        raise ChannelError(
            f"positions: these {count} points are EMAG's random stand-ins, no electrodes; give the "
            "cap's positions in millimetres"
        )


def random_cap(count: int) -> np.ndarray:
    """`[count, 3]` mm: the random points, to recognise them by."""
    generator = np.random.default_rng(count)
    azimuth, polar = generator.uniform(0, 2 * np.pi, count), generator.uniform(0, np.pi / 2, count)
    across = np.sin(polar)
    return _RIM * np.stack([across * np.cos(azimuth), across * np.sin(azimuth), np.cos(polar)], -1)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.asarray(a)[:, None] - np.asarray(b)[None], axis=-1)
