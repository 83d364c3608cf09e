"""Reconstruct a recording at more electrodes, or repair its bad channels.

eegsr reconstruct IN OUT [--target=biosemi64] [--method=population | --run=RUN]

IN is any recording that MNE reads. OUT is a FIF, EDF or BrainVision file (.fif, .edf, .vhdr), or a
folder: the root of BIDS derivatives, for a BIDS recording. Observed channels keep their samples. A
table beside OUT says how far to trust each reconstructed channel.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from eegsr_jax.commands.prepare import refuse_existing
from eegsr_jax.data.bids import write_bids_derivative
from eegsr_jax.data.writing import EXTENSIONS, write, write_table
from eegsr_jax.errors import ConfigError, RecordingError
from eegsr_jax.methods import UNTRAINED, make
from eegsr_jax.reconstruct import MAX_ANGLE, reconstruct_raw

ARGUMENTS = ("IN", "OUT")
_ENTITIES = {"sub": "subject", "ses": "session", "acq": "acquisition"}


def define_electrode_flags(values: flags.FlagValues, source: str) -> None:
    """Adds the flags that say which electrodes of a `source`, and by what."""
    text = f"Montage name or file, or names with commas between; default: the {source}'s channels."
    flags.DEFINE_string("target", None, text, flag_values=values)
    text = f"One of {', '.join(UNTRAINED)}."
    flags.DEFINE_string("method", "population", text, flag_values=values)
    text = "A run directory of `eegsr train`, instead of --method."
    flags.DEFINE_string("run", None, text, flag_values=values)
    text = f"Positions of the {source}'s electrodes: montage name or file."
    flags.DEFINE_string("montage", None, text, flag_values=values)
    text = "Refuse channels farther than this from every observed one, degrees; 180 refuses none."
    flags.DEFINE_float("max_angle", MAX_ANGLE, text, flag_values=values)


def define_flags() -> flags.FlagValues:
    """Which electrodes, and by what."""
    values = flags.FlagValues()
    define_electrode_flags(values, "recording")
    text = "What to do with bad channels: repair, or keep as they are."
    flags.DEFINE_enum("bads", "repair", ["repair", "keep"], text, flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace outputs that are there.", flag_values=values)
    return values


def run(values: flags.FlagValues, source: str, out: str) -> None:
    """Writes the recording and its table, and says what was done."""
    make(values.method)  # a wrong name is told before anything is read
    place = Path(out)
    table = place.with_name(f"{place.stem}_reliability.tsv")
    if place.suffix and place.suffix not in EXTENSIONS:
        known = ", ".join(EXTENSIONS)
        raise ConfigError(f"{out}: extension {place.suffix!r}; expected {known}, or a folder")
    if not place.suffix:
        _bids_entities(source)  # told before anything is read
    else:
        for file in (place, table):
            refuse_existing(file, values.overwrite)
    done = reconstruct_raw(
        source,
        values.target,
        method=values.method,
        run=values.run,
        montage=values.montage,
        bads=values.bads,
        max_angle=values.max_angle,
    )
    if place.suffix:
        written = write(done.raw, place, overwrite=values.overwrite)
        write_table(done.reliability, table, overwrite=values.overwrite)
    else:
        written = write_bids_derivative(
            done.raw,
            place,
            _bids_entities(source),
            done.reliability,
            sources=[Path(source).resolve()],
            overwrite=values.overwrite,
        )
    new = [row for row in done.reliability if row["status"] == "reconstructed"]
    for note in done.notes:
        print(f"note: {note}")
    print(f"{written}: {len(done.reliability)} channels, {len(new)} reconstructed")
    print(f"{done.times_real_time:,.0f} times faster than real time, compiling included")


def _bids_entities(source: str) -> dict[str, str]:
    """Entities of a BIDS-like file name."""
    parts = (part.split("-", 1) for part in Path(source).stem.split("_") if "-" in part)
    entities = {_ENTITIES.get(short, short): value for short, value in parts}
    if "subject" not in entities:
        raise RecordingError(
            f"{source} is not named like a BIDS recording (sub-…_task-…_eeg): give OUT a file name "
            "that ends in .fif, .edf or .vhdr"
        )
    return entities
