"""Files out: whole or not at all, and never over an existing one unasked."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eegsr_jax.data.sources import naming
from eegsr_jax.errors import RecordingError

_COARSEST = 0.5e-6  # volts; the widest step of a 16-bit EDF channel that is still written

EXTENSIONS = (".fif", ".edf", ".vhdr")


def write(inst: Any, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write an MNE object by the extension of `out`; nothing is left behind when it fails.

    `.fif` holds Raw, Epochs (`-epo.fif`) and Evoked (`-ave.fif`), in double precision but for
    Evoked, which MNE writes in single. `.vhdr` (BrainVision, with `.eeg` and `.vmrk`) holds Raw in
    single precision. `.edf` holds Raw in 65,535 steps over the range of each channel.

    Raises:
      RecordingError: `out` exists and may not be overwritten, an extension or object that does not
        fit, NaN or a step above 0.5 µV in EDF, no writer installed, or a disk that refuses.
    """
    import mne

    out = Path(out)
    kind = "Raw" if isinstance(inst, mne.io.BaseRaw) else type(inst).__name__
    if out.suffix not in EXTENSIONS:
        raise RecordingError(f"{out}: extension {out.suffix!r}; expected {', '.join(EXTENSIONS)}")
    if kind != "Raw" and out.suffix != ".fif":
        raise RecordingError(f"{out}: {kind} can be written as .fif only")
    if isinstance(inst, mne.BaseEpochs) and not out.stem.endswith(("-epo", "_epo")):
        raise RecordingError(f"{out}: a file of epochs must end in -epo.fif")
    names = [out.name]
    if out.suffix == ".vhdr":
        names = [f"{out.stem}.eeg", f"{out.stem}.vmrk", out.name]
    with staged(out.parent, names, overwrite) as folder, naming(str(out)):
        save(inst, folder / out.name)
    return out


def save(inst: Any, path: Path) -> None:
    """Save an MNE object at a path that is free, in the format of its extension.

    Raises:
      RecordingError: as in `write`, but without the name of the file.
      OSError: the disk refuses.
    """
    import mne

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # names of files, and precision
            if path.suffix != ".fif":
                _export(inst, path)
            elif isinstance(inst, mne.Evoked):
                inst.save(path, verbose="ERROR")
            else:
                inst.save(path, fmt="double", verbose="ERROR")
    except ImportError as error:
        package = "pybv" if path.suffix == ".vhdr" else "edfio"
        raise RecordingError(f"{package} is not installed: pip install {package}") from error
    except (RecordingError, OSError):
        raise
    except Exception as error:  # the writers refuse names, dates and more in their own ways
        line = " ".join(str(error).split())[:300]
        raise RecordingError(f"cannot be written: {line}") from error


def _export(raw: Any, path: Path) -> None:
    """Through MNE's exporters, from a plain array that starts at its first sample."""
    import mne

    data = raw.get_data()
    marks, sfreq = raw.annotations, raw.info["sfreq"]
    onset, duration = marks.onset - raw.first_time, marks.duration
    if path.suffix == ".edf":
        _refuse_coarse(raw, data)
    else:  # MNE cuts off at the sample below, where rounding errors would lose one
        onset, duration = ((np.round(t * sfreq) + 0.25) / sfreq for t in (onset, duration))
    plain = mne.io.RawArray(data, raw.info, verbose="ERROR")
    texts = mne.Annotations(onset, duration, marks.description, ch_names=marks.ch_names)
    plain.set_annotations(texts, verbose="ERROR")
    mne.export.export_raw(path, plain, physical_range="channelwise", verbose="ERROR")


def _refuse_coarse(raw: Any, data: np.ndarray) -> None:
    for name, kind, row in zip(raw.ch_names, raw.get_channel_types(), data, strict=True):
        if not np.isfinite(row).all():
            raise RecordingError(f"EDF cannot hold the NaN of channel {name}; write .fif or .vhdr")
        step = np.ptp(row) / 65535
        if kind == "eeg" and step > _COARSEST:
            raise RecordingError(
                f"EDF would round channel {name} to steps of {1e6 * step:.2g} µV (range "
                f"{1e3 * np.ptp(row):.3g} mV); high-pass the data, or write .fif or .vhdr"
            )


@contextlib.contextmanager
def staged(folder: Path, names: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """A temporary folder inside `folder`, whose files move into it when all went well.

    Args:
      folder: where the files will be; made when absent.
      names: files that will be written, the one that readers open last.
      overwrite: whether any of them may exist.

    Raises:
      RecordingError: one exists, or the disk refuses.
    """
    existing = [folder / n for n in names if (folder / n).exists()]
    if existing and not overwrite:
        raise RecordingError(f"{existing[0]}: exists; choose another name or allow overwriting")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
            yield Path(temporary)
            made = [p.relative_to(temporary) for p in Path(temporary).rglob("*") if p.is_file()]
            taken = [folder / n for n in made if (folder / n).exists()]
            if taken and not overwrite:  # a file that the caller did not know of, as of a split FIF
                raise RecordingError(f"{taken[0]}: exists; choose another name")
            for name in sorted(made, key=lambda p: names.index(str(p)) if str(p) in names else -1):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(temporary) / name, folder / name)
    except OSError as error:
        raise RecordingError(f"{folder}: cannot be written: {error.strerror or error}") from error


def write_table(
    rows: Sequence[Mapping[str, Any]], out: str | Path, *, overwrite: bool = False
) -> None:
    """Write rows with the same keys as tab-separated text; numbers that are not finite are "n/a".

    Raises:
      RecordingError: `out` exists, or cannot be written.
    """
    out = Path(out)
    with staged(out.parent, [out.name], overwrite) as folder:
        (folder / out.name).write_text(tsv(rows), encoding="utf-8")


def tsv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as BIDS-like tab-separated text."""
    lines = ["\t".join(rows[0])] if rows else []
    return "\n".join([*lines, *("\t".join(map(_cell, r.values())) for r in rows)]) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if np.isfinite(value) else "n/a"
    return str(value)
