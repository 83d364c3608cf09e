"""Filter, resample and store a data set as memory-mapped arrays.

eegsr prepare --dataset=eegbci --root=FOLDER --out=STORE --preprocessing=dibima --subjects=1,2

Called again, it finishes an interrupted store. A filter flag changes one step of the preset;
`none` leaves the step out.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from absl import flags

from eegsr_jax import config
from eegsr_jax.data import datasets, store
from eegsr_jax.data.preprocessing import PREPROCESSING, Preprocessing
from eegsr_jax.errors import ConfigError

ARGUMENTS = ()
_SELECTION = ("subjects", "sessions", "runs")
_STEPS = {
    "notch": "Frequencies to remove, Hz, with commas between.",
    "l_freq": "Lower edge of the pass band, Hz.",
    "h_freq": "Upper edge of the pass band, Hz.",
    "resample": "New sampling rate, Hz.",
}


def define_flags() -> flags.FlagValues:
    """Which data, where to, and what is done to them."""
    values = flags.FlagValues()
    define_dataset_flags(values)
    flags.DEFINE_string("out", None, "Folder of the store.", flag_values=values)
    presets = ", ".join(PREPROCESSING)
    flags.DEFINE_string("preprocessing", "default", f"One of {presets}.", flag_values=values)
    for name, text in _STEPS.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    return values


def define_dataset_flags(values: flags.FlagValues) -> None:
    """Adds the flags that `open_dataset` reads."""
    known = ", ".join(datasets.NAMES)
    flags.DEFINE_string("dataset", None, f"One of {known}.", flag_values=values)
    flags.DEFINE_string("root", None, "Folder of the data.", flag_values=values)
    for name in _SELECTION:
        text = f"Which {name}, with commas between; default all."
        flags.DEFINE_list(name, None, text, flag_values=values)
    flags.DEFINE_multi_string(
        "option",
        [],
        "NAME=VALUE: an option of this data set, as download=true.",
        flag_values=values,
    )


def open_dataset(values: flags.FlagValues) -> datasets.Dataset:
    """The data set that the flags name.

    Raises:
      ConfigError: `--dataset` is missing, or an `--option` has no `=` or a wrong type.
      DatasetError: as `datasets.load`.
    """
    selection = selected(values)
    for option in values.option:
        name, equals, text = option.partition("=")
        if not equals:
            raise ConfigError(f"--option={option}: expected --option=NAME=VALUE")
        selection[name] = config.literal(text)
    try:
        return datasets.load(required(values, "dataset"), values.root, **selection)
    except TypeError as error:
        if values.option:  # a value of the wrong type came from the user
            raise ConfigError(f"--option={' --option='.join(values.option)}: {error}") from error
        raise


def selected(values: flags.FlagValues) -> dict[str, Any]:
    """Of subjects, sessions and runs those that were named."""
    chosen = {name: values[name].value for name in _SELECTION}
    return {name: value for name, value in chosen.items() if value is not None}


def required(values: flags.FlagValues, name: str) -> str:
    """The value of a flag that must be given.

    Raises:
      ConfigError: it is not.
    """
    value = getattr(values, name)
    if not value:
        raise ConfigError(f"--{name} is missing: {values[name].help}")
    return value


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Refuse a file that is there, unless it may be replaced.

    Raises:
      ConfigError: it is.
    """
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists; choose another name, or say --overwrite")


def preprocessing(values: flags.FlagValues) -> Preprocessing:
    """The preset with the steps that were given changed.

    Raises:
      ConfigError: unknown preset, or a step that is no frequency.
    """
    preset = values.preprocessing
    if preset not in PREPROCESSING:
        raise ConfigError(f"--preprocessing={preset}: expected one of {', '.join(PREPROCESSING)}")
    given = {step: getattr(values, step) for step in _STEPS if getattr(values, step) is not None}
    if given.get("notch", "").lower() == "none":
        given["notch"] = ""
    return config.override(
        PREPROCESSING[preset], [f"{step}={text}" for step, text in given.items()]
    )


def run(values: flags.FlagValues) -> None:
    """Writes the store and says what it holds and what was done."""
    out = required(values, "out")
    done = store.prepare(open_dataset(values), out, preprocessing(values))
    seconds = sum(recording.samples / recording.sfreq for recording in done.recordings)
    print(f"{out}: {len(done.recordings)} recordings of {done.dataset}, {seconds:.0f} s in all")
    notes = Counter(note for recording in done.recordings for note in recording.notes)
    for note, number in notes.items():
        print(f"  {number} of {len(done.recordings)}: {note}")
