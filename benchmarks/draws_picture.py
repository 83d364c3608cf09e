"""A picture of what `srgdiff` draws, beside the truth and the mean.

    python benchmarks/draws_picture.py RUN RECORDING OUT.png [--start=SECONDS] [--channel=NAME]

RUN is of `srgdiff`, RECORDING a file that it was not trained on, with the whole cap. Above: one
missing channel over two seconds. Below: power of estimates against that of the truth, by frequency,
over the recording; median and quartiles of the missing channels. A mean lacks the power of what it
cannot know; a draw has it, at times of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

import jax
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from scipy.signal import welch

from eegsr_jax.data.preprocessing import apply
from eegsr_jax.data.recording import read
from eegsr_jax.geometry import find_channels
from eegsr_jax.training.loop import jitted, nameless
from eegsr_jax.training.run import load, load_card

SECONDS, DRAWS, NINETY = 2.0, 2, 1.644854
COLOURS = {"truth": "black", "mean": "#0072b2", "draw": "#d55e00"}


def windows(data: np.ndarray, length: int) -> np.ndarray:
    """`[channel, time]` -> `[windows, channel, length]`; what is left at the end is dropped."""
    count = data.shape[1] // length
    return np.swapaxes(data[:, : count * length].reshape(len(data), count, length), 0, 1)


def in_a_row(function: Callable, plan, observed: np.ndarray, draw: int = 0) -> np.ndarray:
    """What a method says of windows, `[channel, time]` again."""
    found = np.asarray(jitted(function)(plan, observed, jax.random.key(draw)))
    return np.concatenate(found, axis=-1)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("run", "recording", "out"):
        parser.add_argument(name)
    parser.add_argument("--start", type=float, default=10.0)
    parser.add_argument("--channel", help="default: the missing one of median error")
    options = parser.parse_args()
    card, (method, params, where) = load_card(options.run), load(options.run)
    step = dataclasses.replace(card.experiment.preprocessing, resample=card.sfreq)
    recording = apply(read(options.recording), step)
    truth = recording.data[find_channels(where.target_names, recording.names)]
    length = round(card.experiment.window_seconds * card.sfreq)
    cut = windows(truth, length)
    truth, observed = np.concatenate(cut, axis=-1), cut[:, np.asarray(where.observed_index)]
    plan = jitted(method.plan)(params, nameless(where))
    if method.draw is None:
        parser.error(f"{options.run}: {method.name} draws nothing; give a run of srgdiff")

    def mean(plan, observed, key):
        return method.apply(plan, observed, key).mean

    def std(plan, observed, key):
        return method.apply(plan, observed, key).std

    shown = {
        "truth": truth,
        "mean": in_a_row(mean, plan, observed),
        **{f"draw {n}": in_a_row(method.draw, plan, observed, n) for n in range(1, DRAWS + 1)},
    }
    bars = NINETY * in_a_row(std, plan, observed)
    missing = [i for i, n in enumerate(where.target_names) if n not in where.observed_names]
    error = ((shown["mean"] - truth)[missing] ** 2).mean(1) / (truth[missing] ** 2).mean(1)
    channel = missing[int(np.argsort(error)[len(error) // 2])]
    if options.channel:
        channel = int(find_channels([options.channel], where.target_names)[0])
    mpl.rcParams |= {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    figure, (above, below) = plt.subplots(2, figsize=(7, 6), layout="constrained")
    span = slice(round(options.start * card.sfreq), None)
    span = slice(span.start, span.start + round(SECONDS * card.sfreq))
    time = np.arange(truth.shape[1])[span] / card.sfreq
    low, high = (1e6 * (shown["mean"] + s * bars)[channel, span] for s in (-1, 1))
    above.fill_between(time, low, high, color=COLOURS["mean"], alpha=0.15, lw=0, label="90 % bars")
    true = np.empty(0)
    for name, x in shown.items():
        style = {"color": COLOURS[name.rstrip(" 12")], "lw": 1.4 if name == "truth" else 1.0}
        style["ls"] = "--" if name == "draw 2" else "-"
        above.plot(time, 1e6 * x[channel, span], label=name, **style)
        frequency, power = welch(x[missing], card.sfreq, nperseg=length)
        true = power if name == "truth" else true
        keep = (frequency >= 1) & (frequency <= 40)
        low, middle, high = np.percentile(
            10 * np.log10(power / true)[:, keep], (25, 50, 75), axis=0
        )
        below.plot(frequency[keep], middle, label=name, **style)
        if name in ("mean", "draw 1"):
            below.fill_between(frequency[keep], low, high, color=style["color"], alpha=0.15, lw=0)
    above.set(xlabel="time, s", ylabel=f"{where.target_names[channel]} (not given), µV")
    below.set(xlabel="frequency, Hz", ylabel="power against the truth, dB")
    for axes in (above, below):
        axes.legend(frameon=False, ncols=3)
    figure.savefig(options.out, dpi=150)
    wrong = {n: ((x - truth)[missing] ** 2).sum() for n, x in shown.items() if n != "truth"}
    print({n: f"{w / (truth[missing] ** 2).sum():.4f}" for n, w in wrong.items()})


if __name__ == "__main__":
    main()
