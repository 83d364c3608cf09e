"""Reconstruct a stream as it comes: a recording replayed, or the Lab Streaming Layer.

eegsr stream SOURCE OUT [--run=RUN | --method=population --target=biosemi64] [--realtime]
eegsr stream INLET OUTLET --lsl --run=RUN

SOURCE is any recording that MNE reads, OUT a FIF, EDF or BrainVision file: what a stream of these
samples gives, filtered causally, and how long each chunk took. With --lsl, INLET and OUTLET are
names of streams, and it goes on until the inlet falls silent or Ctrl-C. Streams are filtered as the
run's recordings were, but causally: the delay is printed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from absl import flags

from eegsr_jax import __version__, lsl
from eegsr_jax.commands.prepare import refuse_existing
from eegsr_jax.commands.reconstruct import define_electrode_flags
from eegsr_jax.data.causal import CausalFilter
from eegsr_jax.data.export import to_raw
from eegsr_jax.data.preprocessing import PREPROCESSING, Preprocessing
from eegsr_jax.data.recording import Recording, from_array, read
from eegsr_jax.data.writing import EXTENSIONS, write
from eegsr_jax.errors import ChannelError, ConfigError, RecordingError
from eegsr_jax.geometry import find_channels
from eegsr_jax.methods import make
from eegsr_jax.reconstruct import Arrangement, arrange
from eegsr_jax.streaming import Stream
from eegsr_jax.training.run import load_card

ARGUMENTS = ("SOURCE", "OUT")
_SEEN = 1.0  # seconds of an inlet that tell which of its channels are dead
_SILENCE = 5.0  # seconds after which an inlet has ended


def define_flags() -> flags.FlagValues:
    """Which electrodes, by what, and how fast."""
    values = flags.FlagValues()
    define_electrode_flags(values, "source")
    text = f"Filters, one of {', '.join(PREPROCESSING)}; default: the run's, else `default`."
    flags.DEFINE_enum("preprocessing", None, list(PREPROCESSING), text, flag_values=values)
    text = "Length of the chunks of a replayed recording."
    flags.DEFINE_float("chunk_ms", 20.0, text, flag_values=values)
    text = "Replay at the pace of the recording, not as fast as possible."
    flags.DEFINE_bool("realtime", False, text, flag_values=values)
    flags.DEFINE_float("seconds", None, "Stop after so many; default: never.", flag_values=values)
    text = "SOURCE and OUT are streams of the Lab Streaming Layer (extra lsl)."
    flags.DEFINE_bool("lsl", False, text, flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace an output that is there.", flag_values=values)
    return values


def run(values: flags.FlagValues, source: str, out: str) -> None:
    """Streams, and says how late and how fast."""
    make(values.method)  # a wrong name is told before anything is read
    if values.chunk_ms <= 0 or (values.seconds is not None and values.seconds <= 0):
        raise ConfigError("--chunk_ms and --seconds: expected numbers above 0")
    step = PREPROCESSING[values.preprocessing or "default"]
    if values.run and values.preprocessing is None:
        step = load_card(values.run).experiment.preprocessing
    if values.lsl:
        _relay(values, source, out, step)
    else:
        _replay(values, source, Path(out), step)


class _Chain:
    """Filter and method for the channels of one recording, and how long each chunk takes."""

    def __init__(self, values: flags.FlagValues, recording: Recording, step: Preprocessing):
        use = arrange(
            recording,
            values.target,
            method=values.method,
            run=values.run,
            max_angle=values.max_angle,
        )
        self.use, self.sfreq, self.took = use, recording.sfreq, []
        self.filter = CausalFilter(step, recording.sfreq)
        places = {n: i for i, n in enumerate(use.geometry.target_names)}
        lost = [n for n in use.names if n not in places]
        if lost:
            raise ChannelError(
                f"target {', '.join(lost)}: run {values.run} does not give it; a stream has the "
                f"channels of its run ({', '.join(list(places)[:6])}, …) only"
            )
        self.inputs = find_channels(use.observed, recording.names)
        self.outputs = [places[n] for n in use.names]
        self.stream = Stream(use.method, use.params, use.geometry)
        for note in (*recording.notes, *use.notes):
            print(f"note: {note}")
        print(f"{len(use.observed)} channels in, {len(use.names)} out ({_made_by(use, values)})")
        print(_delays(self.stream, self.filter, step))

    def push(self, chunk: np.ndarray) -> np.ndarray:
        begin = time.perf_counter()
        mean, _ = self.stream.push(self.filter(chunk[self.inputs]))
        self.took.append(time.perf_counter() - begin)
        return mean[self.outputs]

    def finish(self) -> np.ndarray:
        self.filter.restart()
        return self.stream.finish()[0][self.outputs]

    def summary(self, seconds: float) -> str:
        """How long the chunks took, against the time that they span."""
        if not self.took:
            return "no chunk came"
        took = 1e3 * np.array(self.took)
        median, p99 = np.percentile(took, (50, 99))
        return (
            f"{len(took):,} chunks of {1e3 * seconds / len(took):.3g} ms: median {median:.3g} ms, "
            f"p99 {p99:.3g} ms, jitter (standard deviation) {took.std():.2g} ms, longest "
            f"{took.max():.3g} ms; {1e3 * seconds / took.sum():,.0f} times real time"
        )


def _made_by(use: Arrangement, values: flags.FlagValues) -> str:
    return f"run {Path(values.run).name}, {use.method.name}" if values.run else use.method.name


def _delays(stream: Stream, causal: CausalFilter, step: Preprocessing) -> str:
    low, high = max(step.l_freq or 0.0, 2.0), min(step.h_freq or np.inf, 0.45 * causal.sfreq)
    middle = min(max(10.0, low), high)
    context = 1e3 * stream.delay / causal.sfreq
    filters = 1e3 * causal.delay(middle)
    text = (
        f"delay {context + filters:.3g} ms at {middle:g} Hz: {context:.3g} ms ({stream.delay} "
        f"samples) that the method waits, {filters:.2g} ms of filters"
    )
    if filters:
        ends = (f"{1e3 * causal.delay(f):.2g} at {f:g} Hz" for f in (low, high))
        text += f" ({', '.join(ends)})"
    return f"{text}; a chunk also waits for its last sample"


# ---------------------------------------------------------------------------------- a recording


def _replay(values: flags.FlagValues, source: str, out: Path, step: Preprocessing) -> None:
    if out.suffix not in EXTENSIONS:
        raise ConfigError(f"{out}: extension {out.suffix!r}; expected {', '.join(EXTENSIONS)}")
    refuse_existing(out, values.overwrite)
    recording = read(source, montage=values.montage)
    if values.seconds is not None:
        recording = _shortened(recording, values.seconds)
    chain = _Chain(values, recording, step)
    pieces = []
    for first, last in recording.stretches:  # what follows a break is another stream
        for chunk in _chunks(recording, first, last, values.chunk_ms / 1e3, values.realtime):
            pieces.append(chain.push(chunk))
        pieces.append(chain.finish())
    data = np.concatenate(pieces, 1)
    use = chain.use
    new = [n for n in use.names if n not in use.observed]  # though the source may have them too
    done = replace(
        recording, data=data, names=use.names, positions=use.positions, bads=(), labels=()
    )
    raw = to_raw(done)
    raw.info["description"] += (
        f"; eegsr_jax {__version__}: streamed, {len(new)} of {len(use.names)} channels "
        f"reconstructed by {_made_by(use, values)}: {', '.join(new) or 'none'}"
    )
    print(chain.summary(data.shape[1] / recording.sfreq))
    written = write(raw, out, overwrite=values.overwrite)
    print(f"{written}: {len(use.names)} channels, {len(new)} reconstructed")


def _shortened(recording: Recording, seconds: float) -> Recording:
    stop = max(1, min(round(seconds * recording.sfreq), recording.data.shape[1]))
    return replace(
        recording,
        data=recording.data[:, :stop],
        usable=recording.usable[:stop],
        breaks=tuple(b for b in recording.breaks if b < stop),
    )


def _chunks(
    recording: Recording, first: int, last: int, seconds: float, realtime: bool
) -> Iterator[np.ndarray]:
    """The samples in chunks of about `seconds`, each once its last sample would be there."""
    size, begin = seconds * recording.sfreq, time.perf_counter()
    number, done = 1, first
    while done < last:
        stop = min(max(first + round(number * size), done), last)
        if stop > done:
            if realtime:
                due = begin + (stop - first) / recording.sfreq
                time.sleep(max(due - time.perf_counter(), 0.0))
            yield recording.data[:, done:stop]
        number, done = number + 1, stop


# ------------------------------------------------------------------------- Lab Streaming Layer


def _relay(values: flags.FlagValues, source: str, out: str, step: Preprocessing) -> None:
    inlet = lsl.Inlet(source)
    try:
        chunk, times = _first(inlet)
        recording = from_array(
            chunk, inlet.sfreq, inlet.names, montage=values.montage, source=f"LSL stream {source}"
        )
        chain = _Chain(values, replace(recording, notes=(*inlet.notes, *recording.notes)), step)
        rows = [inlet.names.index(label) for label in recording.labels]
        outlet = lsl.Outlet(out, chain.use.names, inlet.sfreq)
        print(f"{source} -> {out}", flush=True)
        backlog, at = inlet.pull(0.0)
        chunk, times = np.concatenate([chunk, backlog], 1), np.concatenate([times, at])
        waiting, received, first = np.zeros(0), 0, len(times)
        try:
            while values.seconds is None or received < values.seconds * inlet.sfreq:
                mean = chain.push(chunk[rows])
                waiting, received = np.concatenate([waiting, times]), received + len(times)
                outlet.push(mean, waiting[: mean.shape[1]])
                waiting = waiting[mean.shape[1] :]
                chunk, times = inlet.pull(_SILENCE)
                if not len(times):
                    break
        except KeyboardInterrupt:
            pass  # how a stream is ended
        outlet.push(chain.finish(), waiting)
        del chain.took[:1]  # the first chunk is all that came while this was made ready
        print(chain.summary((received - first) / inlet.sfreq))
    finally:
        inlet.close()


def _first(inlet: lsl.Inlet) -> tuple[np.ndarray, np.ndarray]:
    """The first second of an inlet, from which its dead channels are known."""
    pieces, received = [], 0
    while received < _SEEN * inlet.sfreq:
        chunk, times = inlet.pull(_SILENCE)
        if not len(times):
            raise RecordingError(
                f"{inlet.name}: the LSL stream sent {received} samples, and nothing for "
                f"{_SILENCE:g} s; see that it is running"
            )
        pieces.append((chunk, times))
        received += len(times)
    chunks, times = zip(*pieces, strict=True)
    return np.concatenate(chunks, 1), np.concatenate(times)
