"""The HTML report of an evaluation or a demo: one self-contained file, made with MNE.

It opens with the sentence and the table, then shows one stretch of one recording. It holds no
absolute path of the machine it was made on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eegsr_jax.data.writing import staged
from eegsr_jax.evaluation import figures, page, tables
from eegsr_jax.evaluation.example import Example
from eegsr_jax.evaluation.metrics import BANDS, NOMINAL, PARTS
from eegsr_jax.evaluation.results import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Example", "save_pictures", "write_report"]

Rows = Sequence[Mapping[str, Any]]

_PEAKS = 3
_VOLTS, _SIGMA = "RdBu_r", "viridis"  # colours that the colour-blind can tell


def write_report(
    path: str | Path,
    *,
    header: Mapping[str, Any],
    rows: Rows,
    example: Example,
    notes: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Write the report of `rows`, with pictures of `example`.

    Args:
      path: of the HTML file.
      header: what someone needs in order to get the same numbers; `floors` in it, rows of the
        method "zero", join the table.
      rows: scores, as in `results.json`; may be empty where there was no truth.
      example: a stretch of one recording.
      notes: sentences for the reader.
      overwrite: whether the file may exist.

    Raises:
      RecordingError: the file exists and may not be overwritten, or the disk refuses.
    """
    import mne

    path = Path(path)
    with staged(path.parent, [path.name], overwrite) as folder, mne.use_log_level("ERROR"):
        made = mne.Report(
            title=f"EEG super-resolution: {page.without_paths(example.title)}",
            image_format="png",
            img_max_width=None,
            img_max_res=None,
        )
        made.add_html(page.summary(header, rows, example, notes), title="Summary")
        for title, caption, draw in _pictures(rows, example):
            made.add_figure(draw(), title=title, caption=caption)
        made.add_html(page.channel_table(example, _shown(rows, example)), title="Channels")
        made.save(folder / path.name, open_browser=False)


def save_pictures(folder: str | Path, example: Example, *, overwrite: bool = False) -> list[Path]:
    """Write `topomaps.png`, `channels.png` and `reliability.png` into `folder`.

    Raises:
      RecordingError: one exists and may not be overwritten, or the disk refuses.
    """
    shown = _shown((), example)
    made = {
        "topomaps.png": lambda: topomaps(example, shown),
        "channels.png": lambda: figures.channels(example, shown[0]),
        "reliability.png": lambda: figures.reliability(example, shown),
    }
    with staged(Path(folder), list(made), overwrite) as temporary:
        for name, draw in made.items():
            draw().savefig(temporary / name)
    return [Path(folder) / name for name in made]


def _shown(rows: Rows, example: Example) -> list[str]:
    """The best method, and the default spline or else the second best."""
    order = [m for m in tables.ranking(rows) if m in example.mean] or example.ranking
    rest = [m for m in order[1:] if m != "spherical_spline"]
    return [order[0], *(["spherical_spline"] if "spherical_spline" in order[1:] else rest[:1])]


def _pictures(rows: Rows, example: Example) -> list[tuple[str, str, Callable[[], Figure]]]:
    """Title, caption and drawing of every figure that this example can have."""
    shown = _shown(rows, example)
    best = shown[0]
    scored = example.truth is not None
    source, found = _scores(rows, example)
    bands = {m: {b: s[f"nmse_{b}"] for b in BANDS if f"nmse_{b}" in s} for m, s in found.items()}
    bands = {m: b for m, b in bands.items() if any(number(v) is not None for v in b.values())}
    covered = {
        m: {n: float(c) for n in NOMINAL if (c := number(s.get(f"coverage_{n}"))) is not None}
        for m, s in found.items()
    }
    covered = {m: c for m, c in covered.items() if c}
    out = [
        (
            "Topomaps",
            "Peaks of global field power. Filled dots: given electrodes; open dots: missing ones. "
            + ("Truth, estimate and error of a row share one colour scale. " if scored else "")
            + "σ: standard error, with a scale of its own.",
            lambda: topomaps(example, shown),
        ),
        (
            "Butterfly",
            "All missing channels, coloured from the front of the head to its back.",
            lambda: figures.butterfly(example, best),
        ),
        (
            "Channels with error bars",
            f"{best}: the best, the median and the worst missing channel of this stretch, with the "
            "band that should hold the truth 90 % of the time.",
            lambda: figures.channels(example, best),
        ),
        (
            "Spectra and bands",
            "Left: power spectra of this stretch, mean over missing channels. "
            + ("Right: signal to error in each band; longer is better." if bands else ""),
            lambda: figures.spectra(example, bands, source),
        ),
    ]
    if any(np.isfinite(example.quality(m)[example.missing]).any() for m in shown):
        text = "How far to trust each electrode. "
        text += "On the diagonal, error bars keep what they promise." if scored else ""
        out.append(("Reliability on the head", text, lambda: figures.reliability(example, shown)))
    if covered:
        text = "Above the diagonal error bars are too wide, below too narrow."
        out.append(("Coverage", text, lambda: figures.coverage(covered, source)))
    parts = {
        m: [s[f"nmse_part_{i}"] for i in range(1, PARTS + 1)]
        for m, s in found.items()
        if number(s.get("nmse_part_1")) is not None
    }
    if rows and parts:
        text = "A method that knows nothing of where a window begins is level."
        out.append(("Along the window", text, lambda: figures.along_window(parts, source)))
    return out


def _scores(rows: Rows, example: Example) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """What the scores are of, and those of each method, best first.

    Those of the first condition of the rows, which are over all test data; else of the stretch.
    """
    methods = [row for row in tables.summarise(rows) if row["method"] != tables.FLOOR]
    if not methods:
        return "this stretch", {m: example.scores[m].summary() for m in example.scores}
    first = [methods[0].get(k) for k in tables.CONDITION]
    chosen = [row for row in methods if [row.get(k) for k in tables.CONDITION] == first]
    source = " ".join(str(part) for part in ("all test data,", methods[0].get("layout") or ""))
    order = {m: i for i, m in enumerate(tables.ranking(chosen))}
    chosen = sorted(chosen, key=lambda row: order.get(row["method"], len(order)))
    return source.rstrip(", "), {row["method"]: row for row in chosen}


# -------------------------------------------------------------------------------------- topomaps


def topomaps(example: Example, methods: Sequence[str]) -> Figure:
    """Truth, estimate, error and σ over the head at peaks of field power, by method."""
    samples = example.peaks(_PEAKS)
    scored = example.truth is not None
    kinds = ("estimate", "error", "σ") if scored else ("estimate", "σ")
    columns = [("", "truth")] * scored + [(m, kind) for m in methods for kind in kinds]
    sigma = [1e6 * example.std[m][:, samples] for m in methods]
    finite = np.concatenate([s[np.isfinite(s)] for s in sigma])
    widest, beyond_widest = _limit(finite)
    height, ratios = len(samples), [1.0] * len(columns) + [0.08]
    with figures.figure(1.45 * len(columns) + 0.9, 1.7 * height + 1.5) as made:
        grid = made.add_gridspec(
            height + 2, len(ratios), width_ratios=ratios, height_ratios=[0.5, *[1] * height, 0.08]
        )
        _field_power(made.add_subplot(grid[0, :-1]), example, samples)
        for row, sample in enumerate(samples, 1):
            seen = [np.asarray(example.mean[m][:, sample]) for m in methods]
            seen += [] if example.truth is None else [example.truth[:, sample]]
            limit, beyond = _limit(1e6 * np.abs(seen))
            for column, (method, kind) in enumerate(columns):
                ax = made.add_subplot(grid[row, column])
                values = _values(example, method, kind, sample)
                if not np.isfinite(values).all():
                    _say(ax, "no\nerror\nbars")
                elif kind == "σ":
                    _map(ax, example, values, (0, widest), _SIGMA)
                else:
                    _map(ax, example, values, (-limit, limit), _VOLTS)
                if row == 1:
                    ax.set_title(f"{method}\n{kind}" if kind == "estimate" else f"\n{kind}")
                if column == 0:
                    ax.text(
                        -0.08, 0.5, f"{sample / example.sfreq:.2f} s", rotation=90, va="center",
                        ha="right", transform=ax.transAxes,
                    )  # fmt: skip
            cax = made.add_subplot(grid[row, -1])
            _colour_bar(cax, (-limit, limit), _VOLTS, "both" if beyond else "neither")
        if len(finite):
            cax = made.add_subplot(grid[-1, len(columns) - 2 : len(columns)])
            _colour_bar(cax, (0, widest), _SIGMA, "max" if beyond_widest else "neither")
        return made


def _colour_bar(cax: Axes, vlim: tuple[float, float], cmap: str, extend: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(*vlim), cmap)
    flat = cmap == _SIGMA
    cax.figure.colorbar(
        scale,
        cax=cax,
        orientation="horizontal" if flat else "vertical",
        label="σ, µV" if flat else "µV",
        extend=extend,
    )


def _say(ax: Axes, text: str) -> None:
    ax.axis("off")
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes)


def _limit(sizes: np.ndarray) -> tuple[float, bool]:
    """End of a colour scale that one broken electrode cannot take, and whether it cuts any."""
    if not sizes.size or sizes.max() == 0:
        return 1.0, False
    limit, most = float(np.percentile(sizes, 98, method="lower")), float(sizes.max())
    return (limit, True) if 0 < 1.5 * limit < most else (most, False)


def _values(example: Example, method: str, kind: str, sample: int) -> np.ndarray:
    """`[M]` microvolts of a column."""
    if kind == "σ":
        return 1e6 * example.std[method][:, sample]
    if kind == "estimate" or example.truth is None:
        return 1e6 * example.mean[method][:, sample]
    truth = 1e6 * example.truth[:, sample]
    return truth if kind == "truth" else 1e6 * example.mean[method][:, sample] - truth


def _map(
    ax: Axes, example: Example, values: np.ndarray, vlim: tuple[float, float], cmap: str
) -> None:
    """One map, with given electrodes as filled and missing ones as open dots."""
    import mne

    mne.viz.plot_topomap(
        values,
        example.head,
        sphere=(0, 0, 0, 1),  # the positions are relative to the head sphere already
        sensors=False,
        extrapolate="local",  # no colour where there are no electrodes
        contours=0,
        cmap=cmap,
        vlim=vlim,
        axes=ax,
        show=False,
    )
    given, missing = example.head[~example.missing], example.head[example.missing]
    size = 3.2 if len(example.head) <= 80 else 2
    ax.plot(*missing.T, "o", ms=size, mfc="w", mec="k", mew=0.5, zorder=11)
    ax.plot(*given.T, "o", ms=size, mfc="k", mec="k", mew=0.5, zorder=11)
    reach = 1.06 * max(1.15, np.abs(example.head).max())
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach))


def _field_power(ax: Axes, example: Example, samples: np.ndarray) -> None:
    power = 1e6 * example.field_power()
    seconds = np.arange(len(power)) / example.sfreq
    ax.plot(seconds, power, color="0.4", lw=0.8)
    ax.plot(seconds[samples], power[samples], "v", color="k", ms=5)
    ax.set(xlim=(0, seconds[-1]), xlabel="time, s", ylabel="field\npower, µV")
