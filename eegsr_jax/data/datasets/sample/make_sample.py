"""Make the embedded sample from `eeglabio/tests/data/test_raw.fif` of eeglabio 0.1.4 (BSD-3).

    python make_sample.py eeglabio-0.1.4/eeglabio/tests/data/test_raw.fif mne_sample_eeg.npz

Keeps the 60 EEG channels with their digitised positions, resamples by four with MNE (its filter
removes what lies above 75 Hz), and stores 16-bit integers with one step and one offset a channel.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

BADS = ("EEG 053",)  # marked bad in MNE's own sample recording; a third of its neighbours' size
FACTOR = 4


def quantise(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """16-bit integers, steps and offsets such that `integers * step + offset` is `data`."""
    low, high = data.min(1), data.max(1)
    step, offset = (high - low) / 65534, (high + low) / 2
    return np.rint((data - offset[:, None]) / step[:, None]).astype(np.int16), step, offset


def main(source: str, out: str) -> None:
    """Read `source`, write `out`, print size and quantisation error."""
    import mne

    raw = mne.io.read_raw_fif(source, preload=True, verbose="error").pick("eeg", exclude=[])
    raw.resample(raw.info["sfreq"] / FACTOR, verbose="error")
    data = raw.get_data()
    integers, step, offset = quantise(data)
    positions = np.stack([c["loc"][:3] for c in raw.info["chs"]])
    reference = np.round(raw.info["chs"][0]["loc"][3:6], 4).tolist()
    note = (
        "MNE sample recording, first 24 s of eeglabio's test file, hardware band 0.1-172 Hz, "
        f"resampled from 600.6 to {raw.info['sfreq']:.1f} Hz, reference electrode at {reference} m"
    )
    temporary = Path(out).with_suffix(".tmp")
    with open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            data=integers,
            step=step,
            offset=offset,
            sfreq=np.float64(raw.info["sfreq"]),
            names=np.array(raw.ch_names),
            positions=positions,
            bads=np.array(BADS),
            note=np.array(note),
        )
    os.replace(temporary, out)
    error = integers * step[:, None] + offset[:, None] - data
    print(
        f"{out}: {Path(out).stat().st_size / 1e3:.0f} kB, {data.shape}, "
        f"{raw.info['sfreq']:.4f} Hz; quantisation error at most {1e6 * np.abs(error).max():.4f} "
        f"uV, rms {1e6 * error.std():.5f} uV; smallest channel {1e6 * data.std(1).min():.1f} uV rms"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
