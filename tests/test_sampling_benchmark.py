"""`benchmarks/sampling*.py`: the baseline is the authors' network, and few steps are counted right.

Needs a checkout: the package alone lacks the benchmarks. What runs the baseline needs PyTorch.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from eegsr_jax.interop.torch_srgdiff import original_forward

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("no benchmarks here: an installed package", allow_module_level=True)
HERE = Path(__file__).parent / "golden"


@pytest.fixture
def script(monkeypatch):
    """A script of the folder, by name, with those that it imports."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def worker(script):
    pytest.importorskip("torch")
    return script("sampling_worker")


def test_the_baseline_is_the_authors_network(worker):
    errors = worker.check(HERE)
    assert {"srgdiff_end_to_end/out", "vae_tiny/mu", "denoiser_tiny/out_with_res"} <= set(errors)


def test_the_baseline_at_the_published_sizes(worker, golden):
    errors = worker.check(golden / "srgdiff")
    assert {"denoiser_published/out", "sampling/steps50/out", "vae_big/recon"} <= set(errors)


def test_a_baseline_without_its_masks_is_refused(worker, monkeypatch):
    original = worker.so.MaskedConv.forward

    def dense(self, x):
        self.layer.mask.fill_(1)
        return original(self, x)

    monkeypatch.setattr(worker.so.MaskedConv, "forward", dense)
    with pytest.raises(AssertionError, match="denoiser_tiny, out: relative error"):
        worker.check(HERE)


def test_ours_on_the_arrays_that_the_baseline_is_checked_on():
    with np.load(HERE / "srgdiff_end_to_end.npz", allow_pickle=False) as arrays:
        held = {name: arrays[name] for name in arrays.files}
    state = {k.removeprefix("state/"): v for k, v in held.items() if k.startswith("state/")}
    inputs = {k: held[k] for k in ("x", "masked_channels", "noise", "z50_mean", "z50_std")}
    config = json.loads(str(held["config_json"]))

    def run(state, inputs):
        return original_forward("end_to_end", state, config, num_steps=50, **inputs)

    found = jax.jit(run)(state, inputs)
    for name in ("sample_normalised", "out"):
        error = np.linalg.norm(found[name] - held[name]) / np.linalg.norm(held[name])
        assert error < 1e-4, name


def test_few_steps_are_the_fewest_that_are_as_good(script, monkeypatch):
    steps = script("sampling_steps")
    nmse = {1: 0.52, 2: 0.511, 3: 0.509, 5: 0.515, 50: 0.5}
    monkeypatch.setattr(steps, "trained", lambda *_: None)
    monkeypatch.setattr(steps, "made", lambda name, data, options, n: n)
    monkeypatch.setattr(steps, "missing_nmse", lambda n, *_: nmse[n])
    data = steps.Data(*[np.zeros((4, 3, 8))] * 3, None, 200.0, "none")
    found = steps.sweep("srgdiff_paper", data, True, tuple(nmse))
    assert found["few_steps"] == 3 and found["nmse_missing"] == nmse


@pytest.mark.slow
def test_a_sweep_on_simulated_eeg(script, monkeypatch):
    steps = script("sampling_steps")
    monkeypatch.setattr(steps, "SAMPLES", 40)
    small = {"widths": (6,), "latent": 4, "units": 2, "blocks": 1, "taps": 1, "scales": 2}
    epochs = {k: 2 for k in steps.QUICK["srgdiff_release"]}
    monkeypatch.setitem(steps.QUICK, "srgdiff_release", small | epochs)
    monkeypatch.setattr(steps, "CONTROL", ("widths", "latent"))
    data = steps.windows(None, 80)
    assert [len(part) for part in data[:3]] == [64, 8, 8] and data.train.shape[1:] == (62, 40)
    assert len(data.geometry.observed_index) == 31
    found = steps.sweep("srgdiff_release", data, True, (1, 50))
    assert list(found["nmse_missing"]) == [0, 1, 50]
    assert all(0 < x < 2 for x in found["nmse_missing"].values())


def test_calls_take_turns_and_medians_are_of_each(script):
    report = script("report")
    order, seconds = [], iter([3.0, 30.0, 1.0, 10.0, 2.0, 20.0])

    def call(name):
        order.append(name)
        return next(seconds)

    turns = report.taking_turns({"a": lambda: call("a"), "b": lambda: call("b")}, 3)
    found = {name: report.measured(seconds)["median_s"] for name, seconds in turns.items()}
    assert order == list("ababab") and found == {"a": 2.0, "b": 20.0}
