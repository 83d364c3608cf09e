"""Checkpoints of PyTorch as arrays; the reading itself needs the user's torch or safetensors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from eegsr_jax.errors import ConfigError
from eegsr_jax.interop.torch_emag import from_state_dict
from eegsr_jax.interop.torch_files import read

TINY = Path(__file__).parents[1] / "golden" / "emag" / "tiny.npz"


@pytest.fixture(scope="module")
def tiny():
    with np.load(TINY, allow_pickle=False) as arrays:
        state = {k.removeprefix("state/"): arrays[k] for k in arrays if k.startswith("state/")}
        return state, json.loads(str(arrays["config_json"]))


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, x in found.items():
        assert x.dtype == expected[name].dtype
        np.testing.assert_array_equal(x, expected[name])


def test_a_torch_checkpoint(tiny, tmp_path):
    torch = pytest.importorskip("torch")
    state, config = tiny
    tensors = {name: torch.from_numpy(x) for name, x in state.items()}
    whole = {"model_state_dict": tensors, "config": config, "metrics": {"nmse": 0.3}}
    torch.save(whole, tmp_path / "whole.pt")
    found, its_config = read(tmp_path / "whole.pt")
    same(found, state)
    assert its_config == config
    _, params, _ = from_state_dict(found, its_config)
    assert params["field"]["time"].shape == (2, 7)

    torch.save(tensors | {"half": torch.ones(2).bfloat16()}, tmp_path / "bare.pth")
    found, its_config = read(tmp_path / "bare.pth")
    same(found, state | {"half": np.ones(2, np.float32)})
    assert its_config == {}


class Ran:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):  # what an unpickler would call
        return Path.touch, (self.path,)


def test_a_torch_file_runs_no_code(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"config": Ran(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(ConfigError, match=r"evil\.pt: cannot be read as tensors and plain values"):
        read(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list; expected a state dict"),
        ({"a": 1}, "'a' is no tensor; expected a state dict, bare or"),
        ({"model_state_dict": {"b": "x"}}, "'b' is no tensor"),
    ],
)
def test_another_torch_file_is_refused(tmp_path, content, words):
    torch = pytest.importorskip("torch")
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ConfigError, match=words):
        read(tmp_path / "x.pt")


def test_a_safetensors_file(tiny, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    state, config = tiny
    file = tmp_path / "x.safetensors"
    safetensors.save_file(state, file, {"config": json.dumps(config)})
    found, its_config = read(file)
    same(found, state)
    assert its_config == config
    safetensors.save_file(state, file)
    assert read(file)[1] == {}
    safetensors.save_file(state, file, {"config": "{"})
    with pytest.raises(ConfigError, match="cannot be read"):
        read(file)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_a_damaged_file_is_named(tmp_path, name):
    pytest.importorskip("torch" if name == "x.pt" else "safetensors")
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match=f"{name}: cannot be read"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "library", "words"),
    [
        ("x.pt", "torch", r"x\.pt: to read it, pip install torch, or save it as \.safetensors"),
        ("x.safetensors", "safetensors", r"to read it, pip install safetensors$"),
    ],
)
def test_what_to_install_is_said(tmp_path, monkeypatch, name, library, words):
    monkeypatch.setitem(sys.modules, library, None)  # as where it is not installed
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=words):
        read(tmp_path / name)


def test_no_such_file(tmp_path):
    with pytest.raises(ConfigError, match=r"x\.pt: there is no such file"):
        read(tmp_path / "x.pt")
