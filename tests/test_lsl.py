"""The Lab Streaming Layer on loopback: a recording replayed, reconstructed, received."""

from __future__ import annotations

import threading
import time
import uuid

import numpy as np
import pytest

from eegsr_jax import lsl
from eegsr_jax.commands.main import main
from eegsr_jax.data.export import to_raw
from eegsr_jax.data.recording import read
from eegsr_jax.errors import ConfigError, RecordingError
from eegsr_jax.reconstruct import reconstruct_raw

try:
    import mne_lsl as library
except ImportError:
    library = None
needs_lsl = pytest.mark.skipif(library is None, reason="mne-lsl is not installed (extra lsl)")
WANTED = ["FCz", "Cz", "CPz", "Oz"]
FEW = "FC5 FC1 FC2 FC6 C3 Cz C4 CP5 CP6 Fp1 Fp2 F7 F8 P7 Pz P8 O1 O2".split()


@pytest.fixture
def name():
    """Of streams that no other test on this network has."""
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def sending():
    """`sending(name, names, sfreq, data)` sends `[L, time]` volts from now on; gives the time."""
    stop, threads = threading.Event(), []

    def start(name, names, sfreq, data) -> float:
        outlet, begin = lsl.Outlet(name, names, sfreq), library.lsl.local_clock()

        def send():
            done = 0
            while done < data.shape[1] and not stop.is_set():
                size = 3 + done % 2
                times = begin + np.arange(done, done + size) / sfreq
                outlet.push(data[:, done : done + size], times[: data.shape[1] - done])
                done += size
                time.sleep(max(begin + done / sfreq - library.lsl.local_clock(), 0))

        threads.append(threading.Thread(target=send))
        threads[0].start()
        return begin

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def received(inlet: lsl.Inlet, silence: float) -> list[np.ndarray]:
    """Data and times until nothing comes."""
    pieces = []
    while len((piece := inlet.pull(silence))[1]):
        pieces.append(piece)
    inlet.close()
    return [np.concatenate(a, -1) for a in zip(*pieces, strict=True)]


@needs_lsl
def test_what_is_sent_is_received(name, sending, rng):
    x = 1e-5 * rng.standard_normal((2, 600))
    begin = sending(name, ["Fz", "Cz"], 200.0, x)
    inlet = lsl.Inlet(name)
    assert inlet.names == ("Fz", "Cz") and inlet.sfreq == 200 and inlet.notes == []
    data, times = received(inlet, 0.5)
    assert len(times) > 200
    np.testing.assert_allclose(np.diff(times), 1 / 200, atol=1e-4)
    place = np.round((times - begin) * 200).astype(int)
    np.testing.assert_allclose(data, x[:, place], rtol=1e-6)


@needs_lsl
@pytest.mark.slow  # in real time
def test_a_recording_on_loopback(real_eeg, name, sending, capsys):
    recording = read(real_eeg / "eegmmidb" / "S001R04.edf", channels=FEW)
    begin = sending(f"{name}-in", recording.names, 160.0, recording.data[:, : 160 * 60])
    got = []
    receiver = threading.Thread(
        target=lambda: got.extend(received(lsl.Inlet(f"{name}-out", timeout=60), 3.0))
    )
    receiver.start()
    words = ["--seconds=8", f"--target={','.join(WANTED)}", "--preprocessing=none"]
    assert main(["stream", f"{name}-in", f"{name}-out", "--lsl", *words]) == 0
    receiver.join()
    said = capsys.readouterr().out
    assert "18 channels in, 4 out (population)" in said and " chunks of " in said
    found, times = got
    assert found.shape[0] == 4 and found.shape[1] > 2 * 160
    np.testing.assert_allclose(np.diff(times), 1 / 160, atol=1e-4)
    # The same as offline, each sample at the time at which its inputs were measured.
    offline = reconstruct_raw(to_raw(recording), WANTED).raw.get_data()
    place = np.round((times - begin) * 160).astype(int)
    scale = np.abs(offline).max()
    np.testing.assert_allclose(found, offline[:, place], rtol=0, atol=1e-6 * scale)


@needs_lsl
@pytest.mark.parametrize(
    ("sfreq", "labels", "unit", "kind", "complaint"),
    [
        (0.0, ["Fz", "Cz"], "uV", "eeg", "LSL stream of irregular rate"),
        (100.0, None, "uV", "eeg", "LSL stream without channel names"),
        (100.0, ["Fz", "Cz"], "kelvin", "eeg", "channel Fz is in 'kelvin'; expected V, mV"),
        (100.0, ["Fz", "Cz"], "uV", "eog", "LSL stream without EEG"),
    ],
)
def test_a_stream_that_does_not_fit_is_refused(name, sfreq, labels, unit, kind, complaint):
    info = library.lsl.StreamInfo(name, "EEG", 2, sfreq, "float32", name)
    if labels:
        info.set_channel_names(labels)
    info.set_channel_types(kind)
    info.set_channel_units(unit)
    outlet = library.lsl.StreamOutlet(info)
    with pytest.raises(RecordingError, match=f"{name}.*{complaint}"):
        lsl.Inlet(name)
    del outlet


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mne_lsl", None)
    with pytest.raises(ConfigError, match=r"pip install 'eegsr_jax\[lsl\]'"):
        lsl.Inlet("any")


@needs_lsl
def test_no_such_stream(name):
    with pytest.raises(RecordingError, match=f"{name}: no LSL stream of this name within 0.5 s"):
        lsl.Inlet(name, timeout=0.5)
