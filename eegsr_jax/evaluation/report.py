"""The HTML report of an evaluation or a demo: one self-contained file, made with MNE.

It opens with the sentence and the table, then shows one stretch of one recording. It holds no
absolute path of the machine it was made on.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eegsr_jax.data.writing import staged
from eegsr_jax.evaluation import figures, tables
from eegsr_jax.evaluation.example import Example
from eegsr_jax.evaluation.metrics import BANDS, NOMINAL
from eegsr_jax.evaluation.results import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Example", "save_pictures", "write_report"]

Rows = Sequence[Mapping[str, Any]]

LIMITS = (
    "For research only, not for diagnosis. Reconstructed channels are estimates from the given "
    "electrodes: they hold no information that those do not hold. Scores are of missing channels "
    "unless they say all; all-channel scores flatter, since given channels count as reconstructed. "
    "Error bars hold for data like those that the method was fitted on."
)
_PEAKS = 3
_PATH = re.compile(
    r"(?:https?|ftp)://\S+|(?P<path>(?<![\w.~-])(?:[A-Za-z]:)?(?:[\\/]+[\w.+@=~-]+)+)"
)
_LONG = 200  # characters of a header entry that are shown without a click


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
            title=f"EEG super-resolution: {_bare(example.title)}",
            image_format="png",
            img_max_width=None,
            img_max_res=None,
        )
        made.add_html(_summary(header, rows, example, notes), title="Summary")
        for title, caption, draw in _pictures(rows, example):
            made.add_figure(draw(), title=title, caption=caption)
        made.add_html(_channel_table(rows, example), title="Channels")
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
        (
            "Reliability on the head",
            "How far to trust each electrode. "
            + ("On the diagonal, error bars promise what they keep." if scored else ""),
            lambda: figures.reliability(example, shown),
        ),
    ]
    if covered:
        text = "Above the diagonal error bars are too wide, below too narrow."
        out.append(("Coverage", text, lambda: figures.coverage(covered, source)))
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
            seen += [example.truth[:, sample]] if scored else []
            limit, beyond = _limit(1e6 * np.abs(seen))
            for column, (method, kind) in enumerate(columns):
                ax = made.add_subplot(grid[row, column])
                values = _values(example, method, kind, sample)
                vlim = (0, widest) if kind == "σ" else (-limit, limit)
                image = _map(ax, example, values, vlim, "viridis" if kind == "σ" else "RdBu_r")
                if row == 1:
                    ax.set_title(f"{method}\n{kind}" if kind == "estimate" else f"\n{kind}")
                if column == 0:
                    ax.text(
                        -0.08, 0.5, f"{sample / example.sfreq:.2f} s", rotation=90, va="center",
                        ha="right", transform=ax.transAxes,
                    )  # fmt: skip
                if kind == "estimate":
                    voltage = image
                elif kind == "σ" and image is not None:
                    error_bar = image
            cax = made.add_subplot(grid[row, -1])
            made.colorbar(voltage, cax=cax, label="µV", extend="both" if beyond else "neither")
        if len(finite):
            under = grid[-1, len(columns) - 2 : len(columns)]
            made.colorbar(
                error_bar,
                cax=made.add_subplot(under),
                orientation="horizontal",
                label="σ, µV",
                extend="max" if beyond_widest else "neither",
            )
        return made


def _limit(sizes: np.ndarray) -> tuple[float, bool]:
    """End of a colour scale that one broken electrode cannot take, and whether it cuts any."""
    if not sizes.size or sizes.max() == 0:
        return 1.0, False
    limit, most = float(np.percentile(sizes, 98, method="lower")), float(sizes.max())
    return (limit, True) if 0 < 1.5 * limit < most else (most, False)


def _values(example: Example, method: str, kind: str, sample: int) -> np.ndarray:
    """`[M]` microvolts of a column."""
    if kind == "truth":
        return 1e6 * example.truth[:, sample]
    if kind == "σ":
        return 1e6 * example.std[method][:, sample]
    mean = 1e6 * example.mean[method][:, sample]
    return mean if kind == "estimate" else mean - 1e6 * example.truth[:, sample]


def _map(
    ax: Axes, example: Example, values: np.ndarray, vlim: tuple[float, float], cmap: str
) -> Any:
    """One map, with given electrodes as filled and missing ones as open dots."""
    import mne

    if not np.isfinite(values).all():
        ax.axis("off")
        ax.text(0.5, 0.5, "no\nerror\nbars", ha="center", va="center", transform=ax.transAxes)
        return None
    image, _ = mne.viz.plot_topomap(
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
    return image


def _field_power(ax: Axes, example: Example, samples: np.ndarray) -> None:
    power = 1e6 * example.field_power()
    seconds = np.arange(len(power)) / example.sfreq
    ax.plot(seconds, power, color="0.4", lw=0.8)
    ax.plot(seconds[samples], power[samples], "v", color="k", ms=5)
    ax.set(xlim=(0, seconds[-1]), xlabel="time, s", ylabel="field\npower, µV")


# ------------------------------------------------------------------------------------------ text


def _summary(header: Mapping[str, Any], rows: Rows, example: Example, notes: Sequence[str]) -> str:
    missing = int(example.missing.sum())
    parts = []
    if rows:
        floors = [dict(row) for row in header.get("floors", ())]
        parts += [
            f"<p><b>{_text(tables.reading(rows))}</b></p>",
            tables.html_table([*floors, *rows]),
            _paired(rows),
            "<p>NMSE: squared error over the power of the truth, missing channels only, pooled; "
            "lower is better, and predicting zero scores 1.</p>",
        ]
    parts.append(
        f"<p>The pictures: {_text(example.title)}; {len(example.observed)} electrodes given "
        f"({_text(', '.join(example.observed))}), {missing} reconstructed.</p>"
    )
    if notes:
        parts.append(f"<ul>{''.join(f'<li>{_text(note)}</li>' for note in notes)}</ul>")
    parts.append(f"<p><i>{_text(LIMITS)}</i></p>")
    entries = {k: v for k, v in header.items() if k != "floors" and v not in (None, "", [], {})}
    if entries:
        lines = "".join(
            f"<dt>{_text(str(k).replace('_', ' '))}</dt><dd>{_entry(v)}</dd>"
            for k, v in entries.items()
        )
        parts.append(f"<dl>{lines}</dl>")
    return "\n".join(parts)


def _paired(rows: Rows) -> str:
    """Every method against the lagged ridge, where there are several subjects."""
    methods = {row["method"] for row in rows}
    several = any(row["n"] > 1 for row in tables.summarise(rows))
    if not several or len(methods) < 2 or "lagged_ridge" not in methods:
        return ""
    return tables.html_table(tables.paired(rows, "lagged_ridge"))


def _entry(value: Any) -> str:
    """A header entry as HTML; a long one is folded."""
    text = _text(_flat(value))
    if len(text) <= _LONG:
        return text
    return f"<details><summary>{text[: text.rfind(' ', 0, 60)]} …</summary>{text}</details>"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_flat(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_flat, value))
    return str(value)


def _channel_table(rows: Rows, example: Example) -> str:
    """Each missing channel with its scores by method, worst of the best method first."""
    columns = {}
    for method in _shown(rows, example):
        scores = _channel_scores(example, method)
        columns |= {f"{method}: {label}": values for label, values in scores.items()}
    columns["nearest given, °"] = [tables.three(angle) for angle in example.nearest_angle]
    worst = np.nan_to_num(example.quality(_shown(rows, example)[0]))
    order = sorted(np.flatnonzero(example.missing), key=lambda i: -worst[i])
    body = [[example.names[i], *(values[i] for values in columns.values())] for i in order]
    return tables.html_grid("This stretch only.", ["channel", *columns], body)


def _channel_scores(example: Example, method: str) -> dict[str, list[str]]:
    """Cells by label, one for each channel."""
    shown = {"expected NMSE": [_cell(v) for v in example.expected_nmse(method)]}
    if example.truth is None:
        return shown
    mean, std = example.mean[method], example.std[method]
    inside = (np.abs(mean - example.truth) <= figures.BAR_90 * std).mean(1)
    bounded = np.isfinite(std).all(1)
    return {
        "NMSE": [_cell(v) for v in example.quality(method)],
        **shown,
        "90 % bars cover": [
            tables.percent(v) if b else "–" for v, b in zip(inside, bounded, strict=True)
        ],
    }


def _cell(value: float) -> str:
    return tables.three(value) if np.isfinite(value) else "–"


def _text(text: str) -> str:
    return html.escape(_bare(text))


def _bare(text: str) -> str:
    """Text whose absolute paths are reduced to their last part; web addresses stay."""
    return _PATH.sub(lambda found: re.split(r"[\\/]", found["path"] or "")[-1] or found[0], text)
