"""Reconstruct a recording from a quarter of its electrodes with every method, in a minute.

eegsr demo [--recording=FILE [--montage=biosemi64]] [--layout=spread:16] [--out=FOLDER]

Fits on the first half, sets penalties and error bars on the next part, scores on the rest: the
embedded 60-channel sample, or any recording that MNE reads. Prints a table and one sentence on it,
and writes OUT/report.html, OUT/results.json, OUT/results.csv and OUT/results.md.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from absl import flags

from eegsr_jax import methods
from eegsr_jax.commands.evaluate import header, write
from eegsr_jax.data import datasets, splits
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import Store, prepare
from eegsr_jax.errors import ConfigError
from eegsr_jax.evaluation import tables
from eegsr_jax.evaluation.compare import compare, floor_rows
from eegsr_jax.evaluation.folds import Fold, Options, Protocol

ARGUMENTS = ()
METHODS = (
    "nearest,inverse_distance,minimum_norm,spherical_spline,spherical_spline(tune=True),population,"
    "gaussian,reduced_rank,ridge,lagged_ridge"
)


def define_flags() -> flags.FlagValues:
    """Which recording, from which electrodes."""
    values = flags.FlagValues()
    text = "A recording that MNE reads; default: the embedded sample."
    flags.DEFINE_string("recording", None, text, flag_values=values)
    text = "Positions of its electrodes, where the file has none: montage name or file."
    flags.DEFINE_string("montage", None, text, flag_values=values)
    flags.DEFINE_list("bads", [], "Bad channels of the recording.", flag_values=values)
    text = "Observed channels; default: a quarter, spread over the head."
    flags.DEFINE_string("layout", None, text, flag_values=values)
    flags.DEFINE_string("out", "demo_report", "Folder of the results.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace results that are there.", flag_values=values)
    return values


def run(values: flags.FlagValues) -> None:
    """Writes the files, prints the table and what it says."""
    out = Path(values.out)
    if out.exists() and not values.overwrite:
        raise ConfigError(f"{out} exists; choose another --out, or say --overwrite")
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(_dataset(values), Path(folder) / "store", PREPROCESSING["default"])
        channels = len(store.recordings[0].names) - len(store.recordings[0].bads)
        layout = values.layout or f"spread:{max(4, round(channels / 4))}"
        rows, stretch = compare(
            DEMO.folds(store, Options()),
            DEMO,
            methods.parse(METHODS),
            [layout],
            say=lambda line: print(line, file=sys.stderr),
        )
        for note in store.recordings[0].notes:
            print(f"note: {note}")
        write(out, header(DEMO, store, rows), rows, stretch, overwrite=values.overwrite)
    print(tables.text_table(floor_rows(rows) + rows))
    print(tables.reading(rows))
    print(f"look at {out / 'report.html'}")


def _dataset(values: flags.FlagValues) -> datasets.Dataset:
    if not values.recording:
        return datasets.load("sample")
    return datasets.load(
        "files", [values.recording], montage=values.montage, bads=tuple(values.bads)
    )


def _folds(store: Store, options: Options) -> list[Fold]:
    del options
    split = splits.chronological(store, train=0.5, validate=0.2, gap_seconds=0.5)
    return [Fold(subject=store.recordings[0].subject, store=store, split=split)]


DEMO = Protocol(
    name="demo",
    summary="one recording: the first half trains, the next 20 % validate, the rest tests",
    folds=_folds,
    window_seconds=1.0,
)
