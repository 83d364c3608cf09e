"""Band power over the head: of the truth, of each estimate, and the difference of the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from eegsr_jax.evaluation import figures, topomap
from eegsr_jax.evaluation.metrics import BANDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("theta", "alpha", "beta")
_POWER, _DIFFERENCE = "viridis", "RdBu_r"


def band_maps(
    maps: Mapping[str, np.ndarray], positions: np.ndarray, missing: np.ndarray, title: str
) -> Figure:
    """A row for the truth and for each estimate; for each band, the power and the difference.

    Args:
      maps: mean band power `[M, band]`, squared volts, by label; the first is the truth.
      positions: `[M, 3]` metres.
      missing: `[M]` bool.
      title: of the figure.
    """
    head = topomap.flat(positions)
    weights = topomap.spline(head)
    levels = {label: _decibels(power) for label, power in maps.items()}
    truth = next(iter(levels.values()))
    apart = [(x - truth)[missing] for x in levels.values()]
    # An electrode on which a method fails would otherwise take all colours for itself.
    limit = max(float(np.percentile(np.abs(apart[1:]), 95)) if len(apart) > 1 else 0.0, 0.5)
    with figures.figure(1.6 + 3.1 * len(SHOWN), 1.3 + 1.5 * len(levels)) as made:
        axes = made.subplots(len(levels), 2 * len(SHOWN), squeeze=False)
        for column, band in enumerate(SHOWN):
            place = list(BANDS).index(band)
            ends = np.percentile(truth[:, place], (0, 100))
            for row, (label, power) in enumerate(levels.items()):
                left, right = axes[row, 2 * column : 2 * column + 2]
                values = weights @ power[:, place]
                image = topomap.draw(left, head, missing, values, tuple(ends), _POWER)
                if row:
                    values = weights @ (power - truth)[:, place]
                    shown = topomap.draw(right, head, missing, values, (-limit, limit), _DIFFERENCE)
                else:
                    right.axis("off")
                if column == 0:
                    _name(left, label)
            axes[0, 2 * column].set_title(f"{band}, {BANDS[band][0]:g}–{BANDS[band][1]:g} Hz")
            _bar(made, image, axes[-1, 2 * column], "dB re 1 µV²")
            if len(levels) > 1:
                axes[1, 2 * column + 1].set_title("difference")
                _bar(made, shown, axes[-1, 2 * column + 1], "dB")
        made.suptitle(title)
        return made


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(1e12 * power, 1e-3))


def _name(ax: Any, label: str) -> None:
    ax.text(
        -0.02, 0.5, label.replace(" (", "\n("), rotation=90, ha="right", va="center",
        ma="center", transform=ax.transAxes, fontsize=8,
    )  # fmt: skip


def _bar(made: Figure, image: Any, ax: Any, label: str) -> None:
    bar = made.colorbar(image, ax=ax, location="bottom", shrink=0.85, aspect=14, extend="both")
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=7)
