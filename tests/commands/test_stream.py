"""`eegsr stream`: a recording replayed; what it says of delay and speed; what it refuses."""

from __future__ import annotations

import re
import time

import mne
import numpy as np
import pytest

from eegsr_jax.commands.main import main
from eegsr_jax.reconstruct import reconstruct_raw

NAMES = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()
OBSERVED = "Fp1 F7 Fz F8 T7 Cz T8 P7 Pz P8 O1 O2".split()


def read(path):
    return mne.io.read_raw(path, preload=True, verbose="error")


@pytest.fixture(scope="module")
def few(tmp_path_factory, save_raw):
    return save_raw(tmp_path_factory.mktemp("few") / "few_raw.fif", names=OBSERVED)


def test_a_run_streams_what_it_reconstructs_offline(few, run, tmp_path, capsys):
    """The run's recordings were not filtered: then only the blocks differ."""
    out = tmp_path / "out_raw.fif"
    assert main(["stream", str(few), str(out), f"--run={run}"]) == 0
    said = capsys.readouterr().out
    assert "12 channels in, 20 out (run run, lagged_ridge)" in said
    assert "delay 20 ms at 10 Hz: 20 ms (2 samples) that the method waits, 0 ms of filters" in said
    found = re.search(r"1,000 chunks of 20 ms: median ([\d.]+) ms, p99 ([\d.]+) ms", said)
    assert found and 0 < float(found[1]) <= float(found[2])
    assert f"{out}: 20 channels, 8 reconstructed\n" in said
    raw, expected = read(out), reconstruct_raw(few, run=run).raw
    assert raw.ch_names == expected.ch_names == NAMES and len(raw) == len(expected)
    scale = np.abs(expected.get_data()).max()
    np.testing.assert_allclose(raw.get_data(), expected.get_data(), rtol=0, atol=1e-6 * scale)
    assert raw.info["sfreq"] == 100 and "streamed, 8 of 20 channels" in raw.info["description"]
    other = tmp_path / "other_raw.fif"
    assert main(["stream", str(few), str(other), f"--run={run}", "--chunk_ms=333"]) == 0
    np.testing.assert_allclose(read(other).get_data(), raw.get_data(), rtol=0, atol=1e-6 * scale)


def test_a_channel_that_is_recorded_and_no_input_is_reconstructed(good, few, run, tmp_path, capsys):
    for name, source in (("good", good), ("few", few)):
        words = [str(source), str(tmp_path / f"{name}_raw.fif"), f"--run={run}", "--seconds=2"]
        assert main(["stream", *words]) == 0
        assert "20 channels, 8 reconstructed\n" in capsys.readouterr().out
    index = [NAMES.index(n) for n in OBSERVED]
    full, known = read(tmp_path / "good_raw.fif").get_data(), read(good).get_data()[:, :200]
    np.testing.assert_allclose(full[index], known[index], atol=1e-11)
    rest = np.setdiff1d(np.arange(20), index)
    assert (np.abs(full[rest] - known[rest]).max(1) > 1e-7).all()


def test_an_untrained_method_and_its_filters(good, tmp_path, capsys):
    out = tmp_path / "out.vhdr"
    words = ["--method=nearest", "--target=Fz,FCz,Cz", "--seconds=5"]
    assert main(["stream", str(good), str(out), *words]) == 0
    said = capsys.readouterr().out
    assert "(0 samples) that the method waits, " in said and " at 2 Hz, " in said
    delay = float(re.search(r"delay ([\d.]+) ms at 10 Hz", said)[1])
    assert 1 < delay < 20
    raw = read(out)
    assert raw.ch_names == ["Fz", "FCz", "Cz"] and raw.n_times == 500
    # 40 Hz is the lower edge of what the filter takes away
    wave = np.abs(np.fft.rfft(raw.get_data("Cz")[0]))
    before = np.abs(np.fft.rfft(read(good).get_data("Cz")[0, :500]))
    band = slice(10, 100)  # 2 to 20 Hz
    np.testing.assert_allclose((wave[band] ** 2).sum() / (before[band] ** 2).sum(), 1, atol=0.1)
    assert abs(raw.get_data("Cz").mean()) < 1e-6


def test_what_follows_a_break_is_another_stream(save_raw, run, tmp_path):
    parts = [save_raw(tmp_path / f"{i}_raw.fif", names=OBSERVED, seconds=3 + i) for i in (0, 1)]
    both = mne.concatenate_raws([read(p) for p in parts], verbose="error")
    both.save(tmp_path / "both_raw.fif", fmt="double", verbose="error")
    whole = []
    for source in ("0", "1", "both"):
        out = tmp_path / f"{source}_out_raw.fif"
        assert main(["stream", str(tmp_path / f"{source}_raw.fif"), str(out), f"--run={run}"]) == 0
        whole.append(read(out).get_data())
    np.testing.assert_allclose(whole[2], np.concatenate(whole[:2], 1), rtol=0, atol=1e-12)


def test_real_time_takes_its_time(few, tmp_path):
    words = ["--method=nearest", "--realtime", "--seconds=0.6", "--preprocessing=none"]
    begin = time.perf_counter()
    assert main(["stream", str(few), str(tmp_path / "a_raw.fif"), *words]) == 0
    assert time.perf_counter() - begin > 0.6
    np.testing.assert_allclose(
        read(tmp_path / "a_raw.fif").get_data(), read(few).get_data()[:, :60], rtol=0, atol=1e-11
    )


def test_what_does_not_fit_is_refused_in_one_line(few, good, run, save_raw, tmp_path, capsys):
    def refused(*words: object) -> str:
        assert main(["stream", *map(str, words)]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        return captured.err

    out = tmp_path / "out_raw.fif"
    lacking = save_raw(tmp_path / "lacking_raw.fif", names=[n for n in OBSERVED if n != "Pz"])
    assert "trained to observe 12 channels; Pz missing or bad here" in refused(
        lacking, out, f"--run={run}"
    )
    fast = save_raw(tmp_path / "fast_raw.fif", names=OBSERVED, sfreq=200.0, seconds=5)
    assert "sampling rate is 200 Hz, expected 100 Hz" in refused(fast, out, f"--run={run}")
    assert "extension '.txt'" in refused(few, tmp_path / "out.txt")
    assert "--chunk_ms and --seconds" in refused(few, out, "--chunk_ms=0")
    assert "needs training" in refused(few, out, "--method=ridge")
    slow = save_raw(tmp_path / "slow_raw.fif", sfreq=64.0)
    assert "h_freq 40 Hz is not below 32 Hz" in refused(slow, out, "--method=nearest")
    assert not out.exists()
    out.write_bytes(b"mine")
    assert "exists" in refused(good, out)
    assert out.read_bytes() == b"mine"
