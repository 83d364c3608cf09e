"""A scene on paper: the Gaussians from two sides and the scalp maps at chosen times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eegsr_jax.data.writing import staged
from eegsr_jax.errors import ConfigError
from eegsr_jax.evaluation import figures, topomap
from eegsr_jax.evaluation.scene import Scene
from eegsr_jax.geometry import fit_sphere

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAUSSIANS = 400  # drawn, those that give most
SIZE = 0.5  # of an ellipsoid, in standard deviations
MOST = 8  # columns of a figure
_FAINTEST = 0.1  # of full colour; fainter ones are left out
_DPI = 300
# What is to the right and what is up on the paper, in the head frame.
_VIEWS = {
    "from above": np.array([[1, 0, 0], [0, 1, 0]]),
    "from the left": np.array([[0, -1, 0], [0, 0, 1]]),
}
_CMAP = "RdBu_r"
_COLOURS = ("#2166ac", "#b2182b")  # negative, positive


def write_snapshot(
    path: str | Path, scene: Scene, samples: np.ndarray, *, overwrite: bool = False
) -> None:
    """Write the figure of a scene at some samples as PNG.

    Raises:
      RecordingError: the file exists and may not be overwritten, or the disk refuses.
    """
    path = Path(path)
    made = snapshot(scene, samples)
    with staged(path.parent, [path.name], overwrite) as folder:
        made.savefig(folder / path.name, dpi=_DPI, format="png")


def samples_at(scene: Scene, seconds: Sequence[float]) -> np.ndarray:
    """The samples nearest to some times of the recording.

    Raises:
      ConfigError: a time outside the scene, or more than fit on paper.
    """
    if len(seconds) > MOST:
        raise ConfigError(f"--at: {len(seconds)} times; at most {MOST} fit on paper")
    first, last, half = scene.seconds[0], scene.seconds[-1], 0.5 / scene.example.sfreq
    for second in seconds:
        if not first - half <= second <= last + half:
            raise ConfigError(
                f"--at={second:g}: the stretch is {first:.3f} to {last:.3f} s of the recording"
            )
    return np.abs(scene.seconds[:, None] - np.asarray(seconds, float)).argmin(0)


def snapshot(scene: Scene, samples: np.ndarray) -> Figure:
    """A column for each sample: the Gaussians from two sides, then maps on one scale."""
    example, method = scene.example, scene.method
    maps = {} if example.truth is None else {"truth": example.truth}
    maps |= {f"estimate\n({method})": example.mean[method]}
    maps |= {"of it, the\nGaussians": scene.field} if scene.skip else {}
    rows, columns = [*_VIEWS, *maps], len(samples)
    weights, limit = topomap.spline(example.head), 1e6 * scene.limit()
    with figures.figure(1.0 + 1.75 * columns, 0.5 + 1.75 * len(rows)) as made:
        axes = made.subplots(len(rows), columns, squeeze=False)
        for column, sample in enumerate(samples):
            axes[0, column].set_title(f"{scene.seconds[sample]:.3f} s")
            for ax, view in zip(axes[:, column], _VIEWS, strict=False):
                _draw_gaussians(ax, scene, int(sample), _VIEWS[view])
            for ax, values in zip(axes[len(_VIEWS) :, column], maps.values(), strict=True):
                shown = weights @ (1e6 * values[:, sample])
                topomap.draw(ax, example.head, example.missing, shown, (-limit, limit), _CMAP)
        for ax, name in zip(axes[:, 0], rows, strict=True):
            ax.text(
                -0.02, 0.5, name, rotation=90, ha="right", va="center", ma="center",
                transform=ax.transAxes,
            )  # fmt: skip
        unit, size = scene.unit
        label = f"activity, {unit}"
        _colour_bar(made, axes[: len(_VIEWS)], size * scene.brightness(), _fading(), label)
        _colour_bar(made, axes[len(_VIEWS) :], limit, _CMAP, "µV")
        return made


def _draw_gaussians(ax: Axes, scene: Scene, sample: int, view: np.ndarray) -> None:
    """Ellipsoids as ellipses, the far ones first, between the two halves of the electrodes."""
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import to_rgb

    centre, radius = fit_sphere(scene.example.positions)
    toward = np.cross(*view)
    shown = scene.brightest(GAUSSIANS)
    share = shown.activity(np.array([sample]))[0] / scene.brightness()
    place = (shown.places(np.array([sample]))[0] - centre) / radius
    order = np.argsort(place @ toward)
    order = order[np.abs(share[order]) >= _FAINTEST]
    values, vectors = np.linalg.eigh(view @ shown.covariance[order] @ view.T)
    width, height = 2 * SIZE * np.sqrt(np.maximum(values, 0)).T[::-1] / radius
    angle = np.degrees(np.arctan2(vectors[:, 1, 1], vectors[:, 0, 1]))
    colour = np.array([to_rgb(_COLOURS[int(s > 0)]) for s in share[order]]).reshape(-1, 3)
    alpha = 0.6 * np.minimum(1, np.abs(share[order]))
    blobs = EllipseCollection(
        width, height, angle,
        units="xy", offsets=place[order] @ view.T, offset_transform=ax.transData,
        facecolors=np.c_[colour, alpha], edgecolors=np.c_[0.6 * colour, 0.5 * alpha],
        linewidths=0.3, zorder=2,
    )  # fmt: skip
    ax.add_collection(blobs)
    turn = np.linspace(0, 2 * np.pi, 101)
    ax.fill(np.cos(turn), np.sin(turn), fc="0.93", ec="0.4", lw=1, zorder=0)
    _draw_nose(ax, view)
    at = (np.asarray(scene.example.positions) - centre) / radius
    for near, size in ((False, 2.0), (True, 3.0)):
        half = (at @ toward >= 0) == near
        topomap.dots(ax, at @ view.T, half, scene.example.missing, size, 3 if near else 1)
    topomap.frame(ax, 1.3)


def _draw_nose(ax: Axes, view: np.ndarray) -> None:
    """A wedge at the front, as `browser/head.js` draws it."""
    corners = np.array(
        [[-0.16, 0.98, -0.14], [0, 1.22, -0.08], [0.16, 0.98, -0.14], [0, 0.99, 0.14]]
    )
    ax.fill(*(corners[[0, 1, 2]] @ view.T).T, fc="0.93", ec="0.4", lw=1, zorder=0)
    ax.fill(*(corners[[0, 1, 3]] @ view.T).T, fc="0.93", ec="0.4", lw=1, zorder=0)


def _fading() -> Any:
    """The colours of `_draw_gaussians`: from one to nothing to the other."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("activity", [_COLOURS[0], "#eeeeee", _COLOURS[1]])


def _colour_bar(made: Figure, axes: np.ndarray, limit: float, cmap: Any, label: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(-limit, limit), cmap)
    made.colorbar(scale, ax=list(axes.ravel()), shrink=0.55, aspect=22, label=label, extend="both")
