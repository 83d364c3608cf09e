"""Streams of the Lab Streaming Layer, through `mne-lsl` (extra `lsl`): volts in, microvolts out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eegsr_jax.errors import ConfigError, RecordingError

# What `mne-lsl` and amplifiers call units; numbers are powers of ten.
_VOLTS = {
    **dict.fromkeys(("v", "volt", "volts", "0"), 1.0),
    **dict.fromkeys(("mv", "millivolt", "millivolts", "-3"), 1e-3),
    **dict.fromkeys(("uv", "µv", "microvolt", "microvolts", "-6"), 1e-6),
    **dict.fromkeys(("nv", "nanovolt", "nanovolts", "-9"), 1e-9),
}


class Inlet:
    """The EEG channels of a stream that something else sends.

    Attributes:
      name: of the stream.
      names: of the channels, in order.
      sfreq: sampling rate, Hz.
      notes: what was guessed.
    """

    def __init__(self, name: str, timeout: float = 10.0):
        """Looks for the stream on the network, and opens it.

        Raises:
          ConfigError: `mne-lsl` is not installed.
          RecordingError: no such stream, or more than one; not sampled at a fixed rate, without
            names of channels, without EEG, or of an unknown unit.
        """
        lsl = _library()
        found = lsl.resolve_streams(timeout=timeout, name=name)
        if len(found) != 1:
            what = f"{len(found)} LSL streams" if found else "no LSL stream"
            raise RecordingError(
                f"{name}: {what} of this name within {timeout:g} s; expected one: start it, or see "
                "that it is in this network"
            )
        self._inlet = lsl.StreamInlet(found[0], processing_flags=["clocksync"])
        self._inlet.open_stream(timeout=timeout)
        info = self._inlet.get_sinfo(timeout=timeout)
        self.name, self.sfreq, self.notes = name, float(info.sfreq), []
        if not self.sfreq > 0:
            raise RecordingError(f"{name}: LSL stream of irregular rate; expected a fixed one")
        labels = info.get_channel_names()
        if labels is None or any(label is None for label in labels):
            raise RecordingError(
                f"{name}: LSL stream without channel names; have its sender describe the channels"
            )
        self._count = len(labels)
        kinds = info.get_channel_types() or ["eeg"] * len(labels)
        self._rows = [i for i, kind in enumerate(kinds) if str(kind).lower() in ("eeg", "none")]
        if not self._rows:
            raise RecordingError(f"{name}: LSL stream without EEG; its channels are {set(kinds)}")
        self.names = tuple(labels[i] for i in self._rows)
        self._volts = self._scale(info.get_channel_units())

    def _scale(self, units: Sequence[Any] | None) -> np.ndarray:
        own = [None] * len(self._rows) if units is None else [units[i] for i in self._rows]
        if all(unit is None for unit in own):
            self.notes.append(f"{self.name} does not say its unit: taken to be microvolts")
        scale = [_VOLTS.get(str(u or "uv").lower()) for u in own]
        if None in scale:
            at = scale.index(None)
            raise RecordingError(
                f"{self.name}: channel {self.names[at]} is in {own[at]!r}; expected V, mV, uV or nV"
            )
        return np.array(scale, float)[:, None]

    def pull(self, seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """What came, at once or within `seconds`: `[L, n]` volts and `[n]` times, local clock."""
        pieces = [self._pull(0.0)]
        if not len(pieces[0][1]):
            pieces = [self._pull(seconds, max_samples=1), self._pull(0.0)]
        chunks, times = zip(*pieces, strict=True)
        return np.concatenate(chunks, 1), np.concatenate(times)

    def _pull(self, timeout: float, **options: int) -> tuple[np.ndarray, np.ndarray]:
        samples, times = self._inlet.pull_chunk(timeout=timeout, **options)
        chunk = np.asarray(samples, np.float64).reshape(len(times), self._count).T
        # Copies: the library uses its buffers again.
        return chunk[self._rows] * self._volts, np.array(times, np.float64)

    def close(self) -> None:
        """Ends the connection."""
        self._inlet.close_stream()


class Outlet:
    """A stream that this process sends."""

    def __init__(self, name: str, names: Sequence[str], sfreq: float):
        """Announces the stream of EEG channels `names`, in microvolts.

        Raises:
          ConfigError: `mne-lsl` is not installed.
        """
        lsl = _library()
        info = lsl.StreamInfo(name, "EEG", len(names), sfreq, "float32", f"eegsr_jax {name}")
        info.set_channel_names(list(names))
        info.set_channel_types("eeg")
        info.set_channel_units("microvolts")
        self._outlet = lsl.StreamOutlet(info)

    def push(self, chunk: np.ndarray, times: np.ndarray) -> None:
        """Sends `[M, n]` volts that were measured at `[n]` times, local clock."""
        if not chunk.shape[1]:
            return
        samples = np.ascontiguousarray(1e6 * chunk.T, np.float32)
        if len(samples) == 1:
            self._outlet.push_sample(samples[0], timestamp=float(times[0]))
        else:
            self._outlet.push_chunk(samples, timestamp=np.asarray(times, np.float64))


def _library() -> Any:
    try:
        from mne_lsl import lsl
    except ImportError:
        raise ConfigError("mne-lsl is not installed: pip install 'eegsr_jax[lsl]'") from None
    return lsl
