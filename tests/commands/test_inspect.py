"""`eegsr inspect`: what is in a run, and pictures of the field behind its estimates."""

from __future__ import annotations

import base64
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eegsr_jax
from eegsr_jax import methods, throughput
from eegsr_jax.commands.main import main
from eegsr_jax.data.store import open_store
from eegsr_jax.evaluation.scene import field_at
from eegsr_jax.gaussians import grid
from eegsr_jax.gaussians.mixture import Mixture
from eegsr_jax.geometry import find_channels
from eegsr_jax.methods.base import Method, Reconstruction, observed_source

NAMES = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()
OBSERVED = "Fp1 F7 Fz F8 T7 Cz T8 P7 Pz P8 O1 O2".split()
SFREQ = 100.0


def toy_field(window: int = 0) -> Method:
    """A field that stands still and is driven by a sample and its two neighbours."""
    points = 1e-3 * grid.sphere(5)
    width = np.float32(1 / 0.03)

    def init(key, where, window):
        del key, window
        rng = np.random.default_rng(0)
        return {
            "centres": jnp.asarray(points + np.asarray(where.centre), jnp.float32),
            "encoder": jnp.asarray(
                rng.normal(0, 0.1, (len(points), len(where.observed_names) or 12)), jnp.float32
            ),
        }

    def mixture(params, where, observed):
        shape = 1, len(points)
        smooth = observed + jnp.roll(observed, 1, 2) + jnp.roll(observed, -1, 2)
        return Mixture(
            centres=params["centres"],
            diagonal=jnp.broadcast_to(jnp.asarray([width, width, width, 0]), (*shape, 4)),
            off_diagonal=jnp.zeros((*shape, 6)),
            time=jnp.zeros(shape),
            amplitude=jnp.zeros(shape),
            beta=jnp.einsum("pl,blt->btp", params["encoder"], smooth, precision="highest"),
            times=jnp.arange(observed.shape[2], dtype=jnp.float32) / np.float32(SFREQ),
            unit=jnp.ones((len(observed), where.target.shape[0])),
            skip=jnp.zeros((len(observed), where.target.shape[0], observed.shape[2])),
        )

    def plan(params, where):
        return params, where

    def apply(planned, observed, key):
        del key
        source = observed_source(planned[1])
        missing = (source < 0)[None, :, None]
        estimate = field_at(mixture(*planned, observed), planned[1].target).swapaxes(1, 2)
        mean = jnp.where(missing, estimate, observed[:, jnp.maximum(source, 0)])
        return Reconstruction(mean, jnp.full_like(mean, jnp.inf))

    return Method("toy_field", init, (), plan, apply, window or None, 1, SFREQ, mixture)


@pytest.fixture(scope="module", autouse=True)
def _toy():
    methods.METHODS["toy_field"] = toy_field
    yield
    del methods.METHODS["toy_field"]


def trained(folder, good, method="toy_field"):
    settings = [f"root={good}", "dataset=files", f"layout={','.join(OBSERVED)}", f"method={method}",
                "preprocessing.l_freq=none", "preprocessing.h_freq=none"]  # fmt: skip
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["train", f"--workdir={folder}", *words]) == 0
    return folder


@pytest.fixture(scope="module")
def field_run(tmp_path_factory, good):
    return trained(tmp_path_factory.mktemp("field") / "run", good)


def scene_of(file) -> dict:
    (found,) = re.findall(r'id="scene">(.*?)</script>', file.read_text())
    return json.loads(found)


def told(capsys, *words) -> str:
    """The one line of a refusal."""
    assert main(["inspect", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


# --------------------------------------------------------------------------------------- summary


def test_the_summary_of_a_run(run, capsys):
    assert main(["inspect", str(run)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    rows = dict(line.strip().split(maxsplit=1) for line in lines)
    assert first == str(run) and rows["method"] == "lagged_ridge(lags=2)"
    assert rows["data"] == "files, 100 Hz, native reference"
    assert rows["recordings"] == "1: sub-good_ses-1_run-1"
    assert rows["layout"].endswith(": 12 electrodes given, 8 missing")
    assert rows["given"].split() == OBSERVED
    assert rows["missing"].split() == [n for n in NAMES if n not in OBSERVED]
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(eegsr_jax.load(run)[1])]
    assert rows["parameters"] == f"{sum(sizes):,} in {len(sizes)} arrays"
    assert sum(sizes) > 5 * 20 * 12


@pytest.mark.parametrize(
    ("changes", "scores"),
    [
        ({}, "loss 0.5, validation 0.25, best 0.125 in epoch 2"),
        # What NaN is written as: there were no validation windows.
        ({"validate": None, "best_validate": None, "best_epoch": 3}, "loss 0.5 in epoch 3"),
    ],
)
def test_the_metrics_of_a_run_are_told(field_run, capsys, changes, scores):
    record = {"stage": "field", "epoch": 3, "step": 30, "loss": 0.5, "validate": 0.25,
              "best_validate": 0.125, "best_epoch": 2} | changes  # fmt: skip
    early = record | {"epoch": 2, "loss": 9.0}
    file = field_run / "metrics.jsonl"
    file.write_text("\n".join([json.dumps(early), json.dumps(record), '{"stage": "fi']))
    try:
        assert main(["inspect", str(field_run)]) == 0
    finally:
        file.unlink()
    said = capsys.readouterr().out
    assert f"field        3 epochs, {scores}\n" in said


# -------------------------------------------------------------------------------------- pictures


def test_the_training_data_are_shown_unasked(field_run, tmp_path, capsys):
    page, paper = tmp_path / "field.html", tmp_path / "field.png"
    assert main(["inspect", str(field_run), f"--field={page}", f"--png={paper}"]) == 0
    said = capsys.readouterr().out
    title = "sub-good_ses-1_run-1, training data of the run"
    assert f"{page}, {paper}: {title}, 0.010 to 2.000 s\n" in said
    assert paper.read_bytes().startswith(b"\x89PNG")
    content = scene_of(page)
    assert content["title"] == title and content["names"] == NAMES
    assert content["missing"] == [n not in OBSERVED for n in NAMES]
    assert content["start"] == pytest.approx(0.01) and content["sfreq"] == SFREQ
    assert content["arrays"]["truth"]["shape"] == [20, 200]
    assert not {"std", "field"} & set(content["arrays"])  # it has neither error bars nor skip


def test_a_stretch_is_that_of_the_recording(field_run, tmp_path, good):
    """The context is read on either side and not shown."""
    page = tmp_path / "field.html"
    words = [f"--recording={good}", "--start=5", "--seconds=1"]
    assert main(["inspect", str(field_run), f"--field={page}", *words]) == 0
    content = scene_of(page)
    assert content["title"] == good.name and content["start"] == pytest.approx(5)
    assert content["arrays"]["truth"]["shape"] == [20, 100]
    method, params, where = eegsr_jax.load(field_run)
    store = open_store(f"{field_run}_store")
    whole = store.read(store.recordings[0].key)
    observed = whole[find_channels(OBSERVED, NAMES)]
    expected = method.apply(method.plan(params, where), observed[None], None).mean[0, :, 500:600]
    array = content["arrays"]["estimate"]
    shown = np.frombuffer(base64.b64decode(array["int16"]), "<i2").reshape(20, 100)
    shown = shown * np.frombuffer(base64.b64decode(array["scale"]), "<f4")[:, None]
    np.testing.assert_allclose(shown, 1e6 * np.asarray(expected), atol=1e-4 * np.abs(shown).max())


def test_a_file_of_another_rate_is_resampled(field_run, tmp_path, save_raw, capsys):
    file = save_raw(tmp_path / "fast_raw.fif", sfreq=200.0, seconds=6.0)
    page = tmp_path / "field.html"
    assert main(["inspect", str(field_run), f"--field={page}", f"--recording={file}"]) == 0
    assert "note: resampled from 200 to 100 Hz\n" in capsys.readouterr().out
    assert scene_of(page)["sfreq"] == SFREQ


def test_a_bound_method_shows_its_window(tmp_path, good, capsys):
    method = "toy_field(window=200)"
    run = trained(tmp_path / "run", good, method)
    page = tmp_path / "field.html"
    assert main(["inspect", str(run), f"--field={page}", "--start=4"]) == 0
    assert scene_of(page)["arrays"]["truth"]["shape"][1] == 200
    said = told(capsys, run, f"--png={tmp_path / 'a.png'}", "--seconds=3")
    assert "--seconds=3: toy_field sees windows of 2 s" in said


# --------------------------------------------------------------------------------------- refusals


def test_a_method_without_gaussians_is_refused(run, tmp_path, capsys):
    said = told(capsys, run, f"--field={tmp_path / 'field.html'}")
    assert f"{run}: lagged_ridge has no field of Gaussians to show" in said
    assert list(tmp_path.iterdir()) == []


def test_existing_files_and_other_names_are_refused(field_run, tmp_path, capsys):
    file = tmp_path / "field.html"
    file.write_text("mine")
    assert f"{file} exists" in told(capsys, field_run, f"--field={file}")
    assert file.read_text() == "mine"
    assert main(["inspect", str(field_run), f"--field={file}", "--overwrite"]) == 0
    assert "ends in .png" in told(capsys, field_run, f"--png={tmp_path / 'a.pdf'}")
    assert "--at=1,b: expected seconds" in told(capsys, field_run, "--png=a.png", "--at=1,b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--start=19.5"], "no 2 s in one piece at --start=19.5; usable seconds: 0.0 to 20.0"),
        (["--seconds=60"], "no 60 s in one piece anywhere; usable seconds: 0.0 to 20.0"),
        (["--at=7"], "--at=7: the stretch is 0.010 to 2.000 s"),
        (["--recording=nowhere.fif"], "nowhere.fif"),
        (["--store=nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_shown_is_refused(field_run, tmp_path, capsys, words, message):
    assert message in told(capsys, field_run, f"--png={tmp_path / 'field.png'}", *words)
    assert list(tmp_path.iterdir()) == []


def test_a_recording_without_an_observed_channel_is_refused(field_run, tmp_path, save_raw, capsys):
    file = save_raw(tmp_path / "few_raw.fif", names=[n for n in NAMES if n != "T8"], seconds=6.0)
    said = told(capsys, field_run, f"--png={tmp_path / 'field.png'}", f"--recording={file}")
    assert "the run observes 12 channels; T8 missing or bad here" in said


def test_no_run_is_refused(tmp_path, capsys):
    assert "is no run directory" in told(capsys, tmp_path)


CONFIG = """
from eegsr_jax.training.experiment import Experiment

def get_config():
    return Experiment(dataset="files", layout="{layout}", method="{method}", window_seconds=1.0)
"""


def test_what_a_config_will_take(good, tmp_path, capsys, monkeypatch):
    for name, number in (("_SIDE", 64), ("_LENGTH", 2**12), ("SECONDS", 0.0)):
        monkeypatch.setattr(throughput, name, number)
    config = tmp_path / "mine.py"
    config.write_text(CONFIG.format(layout="best:8", method="lagged_ridge(lags=2)"))
    assert main(["inspect", str(config), "--set", f"root={good}"]) == 0
    said = capsys.readouterr().out
    assert "files; recordings: 1, taken to be as long as the first, 20 s at 100 Hz" in said
    assert "16 to train on, 4 to validate on, 100 samples each" in said
    assert "best:8: 8 electrodes given, 12 missing" in said
    row = next(line.split() for line in said.splitlines() if line.startswith("  closed form"))
    assert row[3:6] == ["1", "x", "20"] and row[-1] in ("s", "ms", "µs")
    assert "  apply" in said and "training: " in said
    assert list(tmp_path.iterdir()) == [config]  # nothing is made


def test_a_config_that_cannot_be_is_refused_in_a_line(good, tmp_path, capsys):
    def refused(*words):
        assert main(["inspect", *words]) == 2
        found = capsys.readouterr()
        assert not found.out and found.err.count("\n") == 1
        return found.err

    assert "absent.py" in refused(str(tmp_path / "absent.py"))
    config = tmp_path / "mine.py"
    config.write_text(CONFIG.format(layout="spread:8", method="emag(batch_size=4)"))
    root = ["--set", f"root={good}"]
    assert "a config has no field yet" in refused(str(config), *root, "--png=a.png")
    assert "does not divide among 3" in refused(str(config), *root, "--set", "mesh=windows:3")
    assert "layout 'spreed:8' is unknown" in refused(str(config), *root, "--set", "layout=spreed:8")
