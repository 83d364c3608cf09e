"""Strict settings for the whole suite: eight CPU devices, no silent promotion, no reused keys."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(autouse=True)
def _strict_dtypes():
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def real_eeg() -> Path:
    """The folder of real recordings; tests that need it skip where it is absent."""
    root = os.environ.get("EEGSR_TEST_DATA", "")
    if not root or not Path(root).is_dir():
        pytest.skip("EEGSR_TEST_DATA does not name a folder of real EEG")
    return Path(root)


@pytest.fixture(scope="session")
def golden(real_eeg) -> Path:
    """The folder of golden numbers beside the real recordings; tests that need it skip."""
    folder = real_eeg.parent / "golden"
    if not folder.is_dir():
        pytest.skip(f"no folder of golden numbers beside {real_eeg.name}")
    return folder


class Counted:
    """A function that counts its calls: under `jax.jit`, how often it was traced.

    The number of programs a `jax.jit` holds cannot tell: a long session evicts them.
    """

    def __init__(self, function: Callable):
        functools.update_wrapper(self, function)
        self.function, self.calls = function, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.function(*args, **kwargs)


@pytest.fixture
def counted() -> type[Counted]:
    """Of a function: the same, with its number of `calls`."""
    return Counted


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
