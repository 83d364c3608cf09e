"""Which electrodes are observed: the field's published lists, seeded draws and designs.

Sources of the lists: EEGMMIDB and SEED cases 1 and 2 from Deep-EEGSR (IEEE 9796118) as used by
MASER and DiBiMa; the constellations, electrode subsets and the seeded draw from EMAG
(arXiv 2605.29731).
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence

import numpy as np

from eegsr_jax.errors import ChannelError
from eegsr_jax.geometry import find_channels, standard_name

EEGMMIDB = {
    "case1_2x": "Fpz AF7 AF3 AFz AF4 AF8 F7 F3 Fz F4 F8 FT7 FC3 FCz FC4 FT8 T7 C3 Cz C4 T8 TP7 CP3 "
    "CPz CP4 TP8 P7 P3 Pz P4 P8 PO7 PO3 POz PO4 PO8 Oz Iz",
    "case1_4x": "Fp1 Fp2 F5 Fz F6 T7 C3 Cz C4 T8 P5 Pz P6 O1 Oz O2",
    "case1_8x": "AF3 AF4 FC5 FC6 CP5 CP6 O1 O2",
    "case2_2x": "Fp1 Fp2 F5 F1 F2 F6 FC5 FC1 FC2 FC6 T9 C5 C1 C2 C6 T10 CP5 CP1 CP2 CP6 P5 P1 P2 "
    "P6 O1 O2",
    "case2_4x": "Fpz AF3 AF4 FC5 FC1 FC2 FC6 T9 CP5 CP1 CP2 CP6 T10 PO3 PO4 Oz",
    "case2_8x": "Fp1 Fp2 Fz T7 T8 Pz O1 O2",
}
SEED = {
    "seed_case1_2x": "AF3 AF4 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 "
    "TP8 CB1 CB2 PO3 PO4 PO5 PO7 PO6 PO8 POz O1 Oz O2",
    "seed_case1_4x": "Fp1 Fp2 F5 Fz F6 C3 Cz C4 T7 T8 P5 Pz P6 O1 O2",
    "seed_case1_8x": "AF3 AF4 FC5 FC6 CP5 CP6 PO5 PO6",
    "seed_case2_2x": "Fpz AF3 AF4 F7 F3 Fz F4 F8 FT7 FC3 FCz FC4 FT8 T7 C3 Cz C4 T8 TP7 CP3 CPz "
    "CP4 TP8 P7 P3 Pz P4 P8 PO7 PO3 POz PO4 PO8 Oz",
    "seed_case2_4x": "Fpz AF3 AF4 FC5 FC1 FC2 FC6 CP5 CP1 CP2 CP6 CB1 PO3 PO4 CB2 Oz",
    "seed_case2_8x": "Fp1 Fp2 Fz T7 T8 Pz O1 O2",
}
_MIDLINE = "Fz Cz Pz Oz"
EMAG_SUBSETS = {
    "V15": "Fp1 Fp2 F7 F8 FT7 FT8 T7 T8 TP7 TP8 P7 P8 PO7 O1 O2",
    "FT15": "Fp1 Fp2 F3 F4 F7 F8 FC5 FC6 FT7 FT8 T7 T8 TP7 TP8 P7",
    "INT15": "AF3 AF4 F1 F2 Fz FC1 FC2 C1 C2 Cz CP1 CP2 P1 P2 Pz",
    "VL7": "Fp1 F7 FT7 T7 TP7 P7 O1",
    "VR7": "Fp2 F8 FT8 T8 TP8 P8 O2",
    "VU7": "Fp1 Fp2 F7 F8 FT7 FT8 T7",
    "VLw7": "TP7 TP8 P7 P8 PO7 O1 O2",
    "INT7": "Fz FC1 FC2 Cz CP1 CP2 Pz",
    "HEMI_LEFT31": "Fp1 AF3 F7 F5 F3 F1 FT7 FC5 FC3 FC1 T7 C5 C3 C1 TP7 CP5 CP3 CP1 P7 P5 P3 P1 "
    f"PO7 PO5 PO3 CB1 O1 {_MIDLINE}",
    "HEMI_RIGHT31": "Fp2 AF4 F8 F6 F4 F2 FT8 FC6 FC4 FC2 T8 C6 C4 C2 TP8 CP6 CP4 CP2 P8 P6 P4 P2 "
    f"PO8 PO6 PO4 CB2 O2 {_MIDLINE}",
}
# EMAG takes the first k names of a constellation.
CONSTELLATIONS = {
    "circumference": "Fp1 Fp2 F7 F8 T7 T8 P7 P8 O1 O2 AF3 AF4 FT7 FT8 TP7 TP8",
    "fronto_temporal": "F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 T7 C5 C3 C1 "
    "Cz C2 C4 C6 T8",
    "interior": "Fz FCz Cz CPz Pz C1 C2 FC1 FC2 CP1 CP2 P1 P2 FC3 FC4 CP3 CP4",
}
NAMED = {k: tuple(v.split()) for k, v in (EEGMMIDB | SEED | EMAG_SUBSETS).items()}
FORMS = "random:K[:SEED], emag:SUBJECT:FACTOR, CONSTELLATION:K, spread:K, best:K, or names A,B,C"


def layout(
    spec: str,
    names: Sequence[str],
    *,
    positions: np.ndarray | None = None,
    covariance: np.ndarray | None = None,
) -> tuple[str, ...]:
    """The observed channels that `spec` asks for, in the order of `names`.

    Args:
      spec: a published list ("case2_4x", "seed_case1_8x", "V15", …) or one of: "random:16:3" (16
        channels, seed 3), "emag:sub-01:4" (EMAG's draw for a subject and factor), "interior:7"
        (the first 7 of a constellation), "spread:16" (farthest points), "best:16" (greedy choice
        for a covariance), or channel names separated by commas.
      names: the high-density channels.
      positions: `[channel, 3]` metres; for "spread".
      covariance: `[channel, channel]` from training data; for "best".

    Raises:
      ChannelError: an unknown list, a channel that the recording lacks, or a wrong count.
    """
    head, *rest = [part.strip() for part in spec.split(":")]
    if spec in NAMED:
        wanted: Sequence[str] = NAMED[spec]
    elif head == "random" and len(rest) in (1, 2):
        count, seed = _count(rest[0], names, spec), rest[1] if len(rest) > 1 else "0"
        if not seed.isdigit():
            raise ChannelError(f"layout {spec!r}: seed {seed!r} is not a whole number")
        chosen = np.random.default_rng(int(seed)).choice(len(names), count, replace=False)
        wanted = _at(chosen, names)
    elif head == "emag" and len(rest) == 2:
        wanted = _at(emag_draw(rest[0], len(names), _count(rest[1], names, spec)), names)
    elif head in CONSTELLATIONS and len(rest) == 1:
        available = CONSTELLATIONS[head].split()
        wanted = available[: _count(rest[0], available, spec)]
    elif head == "spread" and len(rest) == 1:
        if positions is None:
            raise ChannelError(f"layout {spec!r} needs electrode positions")
        wanted = _at(spread(positions, _count(rest[0], names, spec)), names)
    elif head == "best" and len(rest) == 1:
        if covariance is None:
            raise ChannelError(f"layout {spec!r} needs the covariance of training data")
        wanted = _at(best(covariance, _count(rest[0], names, spec)), names)
    elif spec.strip(", ") and "," in spec:
        wanted = [name.strip() for name in spec.split(",") if name.strip()]
    else:
        known = [*NAMED, *CONSTELLATIONS]
        close = difflib.get_close_matches(spec, known, n=3, cutoff=0.5)
        hint = f" (close: {', '.join(close)})" if close else ""
        raise ChannelError(
            f"layout {spec!r} is unknown{hint}; expected one of {', '.join(NAMED)}; or {FORMS}"
        )
    try:
        index = find_channels(wanted, names)
    except ChannelError as error:
        raise ChannelError(f"layout {spec!r}: {error}") from None
    return tuple(_at(np.sort(index), names))


def _at(places: np.ndarray, names: Sequence[str]) -> list[str]:
    return [names[int(i)] for i in places]


def _count(text: str, names: Sequence[str], spec: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= len(names):
        raise ChannelError(f"layout {spec!r}: {text!r} is not a count between 1 and {len(names)}")
    return int(text)


def emag_seed(subject: str, channel_seed: int = 0) -> int:
    """EMAG's seed of a subject: the first 8 hex digits of its SHA-1, plus `channel_seed`."""
    return (int(hashlib.sha1(subject.encode()).hexdigest()[:8], 16) + channel_seed) % 2**32


def emag_count(channels: int, factor: int, rounding: str = "floor") -> int:
    """EMAG's number of observed channels; "round" is half to even."""
    ratio = channels / factor
    count = {"floor": int(np.floor(ratio)), "ceil": int(np.ceil(ratio)), "round": round(ratio)}
    return int(np.clip(count[rounding], 1, channels))


def emag_draw(
    subject: str, channels: int, factor: int, *, channel_seed: int = 0, rounding: str = "floor"
) -> np.ndarray:
    """EMAG's observed channels of a subject, sorted 0-based indices."""
    generator = np.random.default_rng(emag_seed(subject, channel_seed))
    count = emag_count(channels, factor, rounding)
    return np.sort(generator.choice(np.arange(channels), count, replace=False))


def spread(positions: np.ndarray, count: int) -> np.ndarray:
    """Farthest-point choice of `count` electrodes, starting at the one nearest the top."""
    positions = np.asarray(positions, float)
    chosen = [int(positions[:, 2].argmax())]
    distance = np.linalg.norm(positions - positions[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(positions - positions[chosen[-1]], axis=1))
    return np.sort(chosen)


def best(covariance: np.ndarray, count: int) -> np.ndarray:
    """Greedy choice of the `count` electrodes that leave the least variance unexplained.

    Each step adds the channel that lowers trace(C) the most when it is conditioned on. Ridge of
    1e-6 of the mean variance, so that a duplicate of a chosen channel gains nothing.
    """
    rest = np.array(covariance, float)
    noise = 1e-6 * np.trace(rest) / len(rest)
    chosen: list[int] = []
    for _ in range(count):
        gain = (rest**2).sum(0) / (np.diag(rest) + noise)
        gain[chosen] = -np.inf
        pick = int(gain.argmax())
        chosen.append(pick)
        column = rest[:, pick].copy()
        rest -= np.outer(column, column) / (column[pick] + noise)
    return np.sort(chosen)


def list_hash(names: Sequence[str]) -> str:
    """Eight hex digits that identify a channel list, for result tables."""
    return hashlib.sha256(" ".join(standard_name(n) for n in names).encode()).hexdigest()[:8]
