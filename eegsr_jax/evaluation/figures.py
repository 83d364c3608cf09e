"""Matplotlib figures of an example. No pyplot: a figure is an object, freed when it goes.

One fixed colour for each method (Okabe and Ito's, safe for the colour-blind); truth is black.
Voltages are in microvolts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eegsr_jax.evaluation.metrics import BANDS, NOMINAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from eegsr_jax.evaluation.example import Example

DPI = 110
COLOURS = {
    "lagged_ridge": "#D55E00",
    "ridge": "#0072B2",
    "spherical_spline": "#E69F00",
    "gaussian": "#009E73",
    "reduced_rank": "#56B4E9",
    "minimum_norm": "#CC79A7",
    "inverse_distance": "#999999",
    "nearest": "#C8B900",
    "population": "#661100",
    "emag": "#882255",
    "srgdiff": "#332288",
    "srgdiff_regression": "#4477AA",
    "srgdiff_paper": "#8C6BB1",
    "srgdiff_release": "#B3A2CC",
}
_OTHERS = ("#44AA99", "#AA4499", "#117733", "#6699CC")
_BAND_NAMES = {"gamma": "low gamma"}
_SECONDS = 3.0  # of a trace, so that single waves can be seen


def colours(methods: Sequence[str]) -> dict[str, str]:
    """A colour for each method, the same in every figure and report; others in order of name."""
    known = {m: COLOURS[m] for m in methods if m in COLOURS}
    rest = sorted(set(methods) - set(known))
    return known | {m: _OTHERS[i % len(_OTHERS)] for i, m in enumerate(rest)}


@contextlib.contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure in the style of the report, in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",  # ships with matplotlib: the same everywhere
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "axes.facecolor": "white",
        "figure.facecolor": "white",
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.0,
    }
    with matplotlib.rc_context(style):
        made = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield made


def channels(example: Example, method: str) -> Figure:
    """Truth and estimate with the 90 % band: best, median and worst missing channel."""
    missing = np.flatnonzero(example.missing)
    quality = example.quality(method)
    label = "expected NMSE" if example.truth is None else "NMSE"
    order = missing[np.argsort(quality[missing], kind="stable")]
    picks = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    window = _window(example)
    seconds = np.arange(window.start, window.stop) / example.sfreq
    with figure(10, 6) as made:
        axes = made.subplots(len(picks), 1, sharex=True)
        for ax, (kind, channel) in zip(axes, picks.items(), strict=True):
            mean = 1e6 * example.mean[method][channel, window]
            std = 1e6 * example.std[method][channel, window]
            colour = colours(example.ranking)[method]
            if np.isfinite(std).all():
                low, high = mean - NOMINAL[90] * std, mean + NOMINAL[90] * std
                ax.fill_between(seconds, low, high, color=colour, alpha=0.25, lw=0, label="90 %")
            if example.truth is not None:
                truth = 1e6 * example.truth[channel, window]
                ax.plot(seconds, truth, "k", lw=1.1, label="truth")
            ax.plot(seconds, mean, color=colour, lw=1.1, label=method)
            score = f", {label} {quality[channel]:.3g}" if np.isfinite(quality[channel]) else ""
            ax.set_title(f"{example.names[channel]}: {kind} of {len(missing)}{score}", loc="left")
            ax.set_ylabel("µV")
        axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderpad=0)
        axes[-1].set_xlabel("time, s")
        axes[-1].set_xlim(seconds[0], seconds[-1])
        return made


def butterfly(example: Example, method: str) -> Figure:
    """All missing channels on top of each other: truth, estimate and error on one scale."""
    panels = {method: example.mean[method]}
    if example.truth is not None:
        error = example.mean[method] - example.truth
        panels = {"truth": example.truth, method: example.mean[method], "error": error}
    seconds = np.arange(next(iter(panels.values())).shape[1]) / example.sfreq
    shades = _front_to_back(example)
    with figure(10, 1.2 + 1.7 * len(panels)) as made:
        axes = made.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for ax, (label, data) in zip(axes, panels.items(), strict=True):
            for channel in np.flatnonzero(example.missing):
                ax.plot(seconds, 1e6 * data[channel], color=shades[channel], lw=0.6)
            ax.set_title(label, loc="left")
            ax.set_ylabel("µV")
        axes[-1].set_xlabel("time, s")
        axes[-1].set_xlim(seconds[0], seconds[-1])
        _inset_head(axes[0], example, shades)
        return made


def _front_to_back(example: Example) -> np.ndarray:
    """`[M, 4]` a colour for each electrode, by its place from the nose to the back of the head."""
    from matplotlib import colormaps

    y = example.head[:, 1]
    return colormaps["viridis"](0.95 * (y.max() - y) / max(np.ptp(y), 1e-12))


def _inset_head(ax: Axes, example: Example, shades: np.ndarray) -> None:
    inset = ax.inset_axes((1.0, 0.1, 0.1, 0.8))
    place = example.head[example.missing]
    inset.scatter(*place.T, c=shades[example.missing], s=8, lw=0, zorder=2)
    draw_head(inset)


def draw_head(ax: Axes) -> None:
    """The outline of a head with nose and ears, around the unit circle."""
    turn = np.linspace(0, 2 * np.pi, 101)
    side = np.array([1.0, 1.06, 1.09, 1.08, 1.09, 1.06, 1.0])
    height = np.array([0.18, 0.2, 0.12, 0.0, -0.14, -0.25, -0.22])
    style = {"color": "0.4", "lw": 1, "clip_on": False, "zorder": 1}
    ax.plot(np.cos(turn), np.sin(turn), **style)
    ax.plot([-0.16, 0, 0.16], [0.987, 1.13, 0.987], **style)
    ax.plot(side, height, **style)
    ax.plot(-side, height, **style)
    ax.set_aspect("equal")
    ax.axis("off")


def spectra(example: Example, bands: Mapping[str, Mapping[str, float]], source: str) -> Figure:
    """Power spectra, mean over the missing channels; and signal to noise in each band.

    Args:
      example: the stretch of the spectra.
      bands: NMSE by method and band (names of `BANDS`); may be empty.
      source: what the bands were scored on.
    """
    hue = colours(example.ranking)
    with figure(10, 4.2) as made:
        axes = made.subplots(1, 2 if bands else 1, squeeze=False)[0]
        if example.truth is not None:
            frequency, power = _psd(example.truth[example.missing], example.sfreq)
            axes[0].semilogy(frequency, power, "k", lw=2.2, label="truth")
        elif not example.missing.all():
            given = next(iter(example.mean.values()))[~example.missing]
            axes[0].semilogy(*_psd(given, example.sfreq), "k--", lw=1, label="given channels")
        for method in reversed(example.ranking):  # the best on top
            frequency, power = _psd(example.mean[method][example.missing], example.sfreq)
            axes[0].semilogy(frequency, power, color=hue[method], label=method)
        top = min(45.0, example.sfreq / 2)
        _frame_spectrum(axes[0], top)
        lines, labels = axes[0].get_legend_handles_labels()
        first = len(lines) - len(example.ranking)
        best_first = [*range(first), *range(len(lines) - 1, first - 1, -1)]
        axes[0].legend([lines[i] for i in best_first], [labels[i] for i in best_first])
        if bands:
            _bars(axes[1], bands, hue, source)
        return made


def _psd(data: np.ndarray, sfreq: float) -> tuple[np.ndarray, np.ndarray]:
    from scipy.signal import welch

    length = min(data.shape[1], round(2 * sfreq))
    frequency, power = welch(1e6 * np.asarray(data, float), sfreq, nperseg=length)
    return frequency, power.mean(0)


def _frame_spectrum(ax: Axes, top: float) -> None:
    ax.set_xlim(0.5, top)
    seen = []
    for line in ax.lines:
        x, y = np.asarray(line.get_xydata()).T
        seen.append(y[(x >= 0.5) & (x <= top) & (y > 0)])
    values = np.concatenate(seen)
    if len(values):
        ax.set_ylim(values.min() / 1.5, values.max() * 2)
    ax.set_title("spectrum, mean over missing channels", loc="left")
    ax.set_xlabel("frequency, Hz")
    ax.set_ylabel("power, µV²/Hz")


def _bars(ax: Axes, bands: Mapping[str, Mapping[str, float]], hue: dict[str, str], source: str):
    names = [b for b in BANDS if any(np.isfinite(v.get(b, np.nan)) for v in bands.values())]
    width = 0.84 / len(bands)
    for i, (method, scores) in enumerate(bands.items()):
        nmse = np.array([scores.get(b) or np.nan for b in names], float)
        place = np.arange(len(names)) + width * (i - (len(bands) - 1) / 2)
        ax.bar(place, -10 * np.log10(nmse), width, color=hue.get(method, "0.5"), label=method)
    ax.axhline(0, color="0.3", lw=0.8)
    ax.set_xticks(
        range(len(names)),
        [f"{_BAND_NAMES.get(b, b)}\n{BANDS[b][0]:g}–{BANDS[b][1]:g} Hz" for b in names],
    )
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel("signal to error, dB (0: predicting zero)")
    ax.set_title(f"missing channels by band, {source}", loc="left")


def reliability(example: Example, methods: Sequence[str]) -> Figure:
    """NMSE of each missing electrode on the head, and what the error bars promised.

    Without a truth, the NMSE that the error bars promise is drawn instead.
    """
    from matplotlib.ticker import LogLocator

    scored = example.truth is not None
    values = {m: example.quality(m) for m in methods}
    seen = np.concatenate([v[example.missing] for v in values.values()])
    seen = seen[np.isfinite(seen) & (seen > 0)]
    # A bridged or broken electrode would otherwise take most of the colours for itself.
    low, high = np.percentile(seen, (5, 95)) if len(seen) else (0.01, 1.0)
    with figure(3.9 * len(methods) + 3.6 * scored, 4.8) as made:
        axes = made.subplots(1, len(methods) + scored, squeeze=False)[0]
        for ax, (method, nmse) in zip(axes, values.items(), strict=False):
            dots = _draw_dots(ax, example, nmse, low, max(high, 1.01 * low))
            ax.set_title(method)
        bar = made.colorbar(dots, ax=axes[: len(methods)], location="bottom", shrink=0.7, aspect=40)
        bar.ax.set_xlabel(f"{'' if scored else 'expected '}NMSE of missing channels (black: given)")
        bar.ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        bar.ax.xaxis.set_major_formatter("{x:.2g}")
        bar.ax.xaxis.set_minor_formatter("")
        if scored:
            _promise(axes[-1], example, methods)
        return made


def _draw_dots(ax: Axes, example: Example, nmse: np.ndarray, low: float, high: float) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    place, missing = example.head, example.missing
    draw_head(ax)
    ax.plot(*place[~missing].T, "o", color="k", ms=4, zorder=3)
    size = np.clip(9000 / len(place), 20, 190)
    dots = ax.scatter(
        *place[missing].T,
        c=nmse[missing],
        plotnonfinite=True,
        s=size,
        norm=LogNorm(low, high),  # colours end at low and high, values do not
        cmap=colormaps["cividis_r"].with_extremes(bad="w"),
        edgecolor="0.3",
        lw=0.5,
        zorder=2,
    )
    if len(place) <= 80:
        for i in np.flatnonzero(missing):
            dark = np.isfinite(nmse[i]) and nmse[i] > low**0.6 * high**0.4
            ax.text(
                place[i, 0],
                place[i, 1],
                _short(example.names[i]),
                ha="center",
                va="center",
                fontsize=6,
                color="w" if dark else "k",
                zorder=4,
            )
    return dots


def _short(name: str) -> str:
    """A label that fits a dot: "EEG 025" is 25; nothing where no short one is to be had."""
    label = name if len(name) <= 4 else name.split()[-1].lstrip("0")
    return label if len(label) <= 4 else ""


def _promise(ax: Axes, example: Example, methods: Sequence[str]) -> None:
    """Scatter of expected against actual NMSE."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    hue = colours(example.ranking)
    seen = []
    for method in reversed(methods):
        expected = example.expected_nmse(method)[example.missing]
        actual = example.quality(method)[example.missing]
        good = np.isfinite(expected) & np.isfinite(actual) & (expected > 0) & (actual > 0)
        if good.any():
            ax.loglog(
                expected[good], actual[good], "o", ms=3.5, color=hue[method], alpha=0.7,
                mew=0, label=method,
            )  # fmt: skip
            seen += [expected[good], actual[good]]
    if seen:
        ends = np.concatenate(seen).min() / 1.3, np.concatenate(seen).max() * 1.3
        ax.loglog(ends, ends, color="0.3", lw=0.8, zorder=1)
        ax.set(xlim=ends, ylim=ends, aspect="equal")
        for axis in (ax.xaxis, ax.yaxis):  # the labels of less than two decades lie on each other
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
        ax.legend(loc="upper left", handletextpad=0.1)
    else:
        ax.text(0.5, 0.5, "no error bars", ha="center", transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])
    ax.set_xlabel("NMSE expected from the error bars")
    ax.set_ylabel("NMSE on this stretch")
    ax.set_title("each dot a missing channel")


def coverage(covered: Mapping[str, Mapping[int, float]], source: str) -> Figure:
    """Share of samples inside the error bars against the nominal share, by method.

    Args:
      covered: share (0 to 1) by method and nominal per cent; methods without error bars left out.
      source: what it was counted on.
    """
    hue = colours(list(covered))
    with figure(5.2, 4.6) as made:
        ax = made.subplots()
        ax.plot([0, 100], [0, 100], color="0.3", lw=0.8)
        for method, levels in covered.items():
            nominal = sorted(levels)
            ax.plot(
                nominal, [100 * levels[n] for n in nominal], "o-", ms=4, color=hue[method],
                label=method,
            )  # fmt: skip
        lowest = min((v for levels in covered.values() for v in levels.values()), default=1)
        ax.set(xlim=(45, 101), ylim=(min(45, 100 * lowest - 5), 101))
        ax.set_xticks(list(NOMINAL))
        ax.set_yticks(list(NOMINAL))
        ax.grid(color="0.9", lw=0.8)
        ax.set_axisbelow(True)
        ax.text(62, 51, "bars too narrow", color="0.4")
        ax.text(47, 82, "bars too wide", color="0.4")
        ax.set_xlabel("nominal share of samples, %")
        ax.set_ylabel("share inside the error bars, %")
        ax.set_title(f"missing channels, {source}", loc="left")
        ax.legend(loc="lower right")
        return made


def along_window(parts: Mapping[str, Sequence[float]], source: str) -> Figure:
    """NMSE of the missing channels along the window, by method: a fade shows as a slope.

    Args:
      parts: NMSE of equal parts of the window, in order, by method.
      source: what it was counted on.
    """
    hue = colours(list(parts))
    with figure(8.8, 4.0) as made:
        ax = made.subplots()
        for method, values in parts.items():
            place = (np.arange(len(values)) + 0.5) / len(values)
            ax.plot(place, values, "o-", ms=4, color=hue[method], label=method)
        ax.set(xlim=(0, 1), yscale="log", xlabel="place in the window", ylabel="NMSE")
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["start", "¼", "½", "¾", "end"])
        ax.grid(color="0.9", lw=0.8, which="both")
        ax.set_axisbelow(True)
        ax.set_title(f"missing channels, {source}", loc="left")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return made


def _window(example: Example) -> slice:
    """`_SECONDS` of typical field power."""
    total = next(iter(example.mean.values())).shape[1]
    length = min(total, round(_SECONDS * example.sfreq))
    starts = np.arange(0, total - length + 1, max(1, length // 2))
    power = example.field_power()
    levels = np.array([power[s : s + length].mean() for s in starts])
    start = int(starts[np.abs(levels - np.median(levels)).argmin()])
    return slice(start, start + length)
