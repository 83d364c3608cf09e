"""The 62 channels that SEED and SEED-IV share: their order in the files, and where they sit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eegsr_jax import geometry
from eegsr_jax.errors import DatasetError

NAMES = tuple(
    "Fp1 Fpz Fp2 AF3 AF4 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 "
    "T7 C5 C3 C1 Cz C2 C4 C6 T8 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 P7 P5 P3 P1 Pz P2 P4 P6 P8 "
    "PO7 PO5 PO3 POz PO4 PO6 PO8 CB1 O1 Oz O2 CB2".split()
)
# CB1 and CB2 are no 10-05 names. The locations file puts them on the rim between PO7 and O1 (PO8
# and O2), and other users of the data set call them POO7 and POO8: the same place of the 10-05.
TEMPLATE_NAMES = {"CB1": "POO7", "CB2": "POO8"}
LOCATIONS = "channel_62_pos.locs"


def positions(folders: Sequence[Path], montage: Any) -> tuple[np.ndarray, str]:
    """Positions `[62, 3]` (metres, head frame) of `NAMES`, and a sentence on their origin.

    Args:
      folders: where `channel_62_pos.locs` may be.
      montage: see `geometry.montage`; None takes the file, else the standard 10-05 template.

    Raises:
      DatasetError: the file is damaged or lacks a channel.
      ChannelError: the montage is unknown or lacks a channel.
    """
    if montage is None:
        file = next((f / LOCATIONS for f in folders if (f / LOCATIONS).is_file()), None)
        if file is not None:
            return read_locations(file), f"positions from {file.name}"
        montage = "standard_1005"
    table = geometry.montage(montage)
    aliases = {name: name if name in table else TEMPLATE_NAMES.get(name, name) for name in NAMES}
    names = list(table)
    index = geometry.find_channels([aliases[name] for name in NAMES], names)
    moved = [f"{name} at {alias}" for name, alias in aliases.items() if alias != name]
    note = f"positions from {montage if isinstance(montage, str) else 'the given montage'}"
    return np.stack([table[names[i]] for i in index]), ", ".join([note, *moved])


def read_locations(path: Path) -> np.ndarray:
    """Positions `[62, 3]` (metres, head frame) of `NAMES` from EEGLAB polar coordinates.

    Columns: number, angle from the nose towards the right ear in degrees, arc from the vertex in
    units of 180 degrees, name. The arc is an angle, so that an electrode with arc 0.51 is 2 degrees
    below the rim; it is no distance in the plane. The sphere of the file is turned, scaled and
    moved as one to lie nearest to the standard 10-05 template, which gives it MNE's head frame.

    Raises:
      DatasetError: a line that is not four columns, or a channel that is absent.
    """
    table = {}
    for line in path.read_text().splitlines():
        if not line.strip():
            continue
        try:
            _, angle, arc, name = line.split()
            angle, polar = np.radians(float(angle)), np.pi * float(arc)
        except ValueError:
            raise DatasetError(
                f"{path}: line {line.strip()!r}; expected number, angle, radius, name"
            ) from None
        plane = np.sin(polar)
        table[geometry.standard_name(name)] = np.array(
            [plane * np.sin(angle), plane * np.cos(angle), np.cos(polar)]
        )
    absent = [name for name in NAMES if name not in table]
    if absent:
        raise DatasetError(f"{path}: no line for {', '.join(absent)}; expected all 62 channels")
    sphere = np.stack([table[name] for name in NAMES])
    template = geometry.montage("standard_1005")
    shared = [i for i, name in enumerate(NAMES) if name in template]
    return _nearest_similarity(sphere, shared, np.stack([template[NAMES[i]] for i in shared]))


def _nearest_similarity(points: np.ndarray, some: list[int], target: np.ndarray) -> np.ndarray:
    """`points` turned, scaled and moved so that `points[some]` is nearest to `target`."""
    source = points[some]
    centred, wanted = source - source.mean(0), target - target.mean(0)
    u, strength, vt = np.linalg.svd(wanted.T @ centred)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])  # no mirror images
    rotation = (u * sign) @ vt
    scale = (strength * sign).sum() / (centred**2).sum()
    return scale * (points - source.mean(0)) @ rotation.T + target.mean(0)
