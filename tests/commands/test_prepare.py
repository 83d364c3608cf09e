"""`eegsr prepare` on real and simulated data, and what it leaves when it cannot go on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from eegsr_jax.commands.main import main
from eegsr_jax.data.store import open_store

SIMULATED = ["prepare", "--dataset=simulated", "--option=seconds=8"]

# SIGINT is given its usual meaning: a job started in the background would ignore it.
PROGRAM = """
import resource, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
{before}
from eegsr_jax.commands.main import main
sys.exit(main(sys.argv[1:]))
"""


def command(*words: str, before: str = "") -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(before=before), *words]


def nothing_half_written(out) -> bool:
    """The manifest is true, and every file is a whole array: none has a temporary name."""
    store = open_store(out, verify=True, partial=True)
    files = list((out / "recordings").iterdir())
    for file in files:
        assert file.suffix == ".npy" and np.load(file, mmap_mode="r").dtype == np.float32
    return {f"{recording.key}.npy" for recording in store.recordings} <= {f.name for f in files}


def test_simulated_data_are_stored(tmp_path, capsys):
    out = tmp_path / "store"
    assert main([*SIMULATED, "--subjects=1,3", f"--out={out}"]) == 0
    assert "2 recordings of simulated, 16 s in all" in capsys.readouterr().out
    store = open_store(out, verify=True)
    assert [recording.subject[-1] for recording in store.recordings] == ["1", "3"]


def test_flags_change_single_steps_of_the_preset(tmp_path):
    steps = [
        "--preprocessing=dibima",
        "--notch=none",
        "--l_freq=1",
        "--h_freq=none",
        "--resample=80",
    ]
    assert main([*SIMULATED, "--subjects=1", *steps, f"--out={tmp_path / 'store'}"]) == 0
    done = open_store(tmp_path / "store").preprocessing
    assert (done.notch, done.l_freq, done.h_freq, done.resample) == ((), 1.0, None, 80.0)


def test_real_recordings_equal_mne(tmp_path, real_eeg):
    """The stored volts are those of MNE's own reader and filters."""
    import mne

    folder = real_eeg / "eegmmidb"
    words = [f"--root={folder}", "--subjects=1", "--runs=4", f"--out={tmp_path / 'store'}"]
    assert main(["prepare", "--dataset=eegbci", "--preprocessing=dibima", *words]) == 0
    store = open_store(tmp_path / "store")
    (recording,) = store.recordings
    data = store.read(recording.key)

    raw = mne.io.read_raw_edf(folder / "S001R04.edf", preload=True, verbose="error")
    raw.crop(tmax=(data.shape[1] - 1) / raw.info["sfreq"])
    raw.notch_filter(50.0, verbose="error").filter(0.5, 40.0, verbose="error")
    np.testing.assert_allclose(data, raw.get_data(), rtol=1e-5, atol=1e-11)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--dataset is missing"),
        (["--dataset=simulated"], "--out is missing"),
        (["--dataset=simulate"], "did you mean simulated"),
        (["--dataset=eegbci", "--root=/nowhere"], "/nowhere"),
        (["--dataset=simulated", "--subjects=9"], "'9'"),
        (["--dataset=simulated", "--preprocessing=strong"], "none, default, dibima"),
        (["--dataset=simulated", "--l_freq=low"], "l_freq: found 'low', expected float or none"),
        (["--dataset=simulated", "--l_freq=50"], "l_freq=50.0 is not below h_freq=40.0"),
        (["--dataset=simulated", "--h_freq=90"], "90"),  # above half of 160 Hz
        (["--dataset=simulated", "--option=seconds"], "--option=seconds: expected"),
        (["--dataset=simulated", "--option=second=4"], "unknown option second"),
        (["--dataset=simulated", "--option=seconds=long"], "seconds is 'long'; expected a number"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, words, message):
    out = tmp_path / "store"
    given = [] if "--out" in message else [f"--out={out}"]
    assert main(["prepare", *words, *given]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("eegsr prepare: ")
    assert err.count("\n") == 1
    assert not out.exists() or nothing_half_written(out)


def test_another_store_is_not_overwritten(tmp_path, capsys):
    words = [*SIMULATED, "--subjects=1", f"--out={tmp_path / 'store'}"]
    assert main(words) == 0
    before = (tmp_path / "store/manifest.json").read_bytes()
    assert main([*words, "--l_freq=1"]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert (tmp_path / "store/manifest.json").read_bytes() == before


def test_a_full_disk_is_one_line(tmp_path):
    """A limit on the size of files stands in for the end of the disk."""
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    words = [*SIMULATED, f"--out={tmp_path / 'store'}"]
    done = subprocess.run(
        command(*words, before=limit), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "store: cannot write: File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert nothing_half_written(tmp_path / "store")


def test_interrupted_in_the_middle_it_leaves_whole_files(tmp_path):
    out = tmp_path / "store"
    words = [*SIMULATED, "--option=num_subjects=999", f"--out={out}"]
    process = subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(1200):
            if list(out.glob("recordings/*.npy")) or process.poll() is not None:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert err == "eegsr prepare: interrupted; nothing half-written\n"
    assert process.returncode == 2
    assert nothing_half_written(out)
    assert not json.loads((out / "manifest.json").read_text())["complete"]
