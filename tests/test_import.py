"""Importing is cheap and has no side effects; every public name resolves."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import eegsr_jax

HEAVY = ["grain", "matplotlib", "mne", "mne_bids", "orbax", "pandas", "pooch", "sklearn", "torch"]


def in_fresh_python(statements: str) -> dict:
    """Runs the statements in a new process and returns what is then loaded."""
    code = f"""
{statements}
import json, sys
loaded = sorted({{name.partition(".")[0] for name in sys.modules}})
bridge = sys.modules.get("jax._src.xla_bridge")
backend = bool(bridge and bridge.backends_are_initialized())
print(json.dumps({{"loaded": loaded, "backend": backend}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def modules(package) -> list[str]:
    names = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    assert names
    return names


def test_the_package_itself_loads_nothing_heavy():
    state = in_fresh_python("import eegsr_jax")
    assert not {"jax", "numpy", "scipy", "absl", *HEAVY} & set(state["loaded"])
    assert not state["backend"]


def test_no_module_starts_a_backend_or_loads_the_heavy_libraries():
    state = in_fresh_python("import " + ", ".join(modules(eegsr_jax)))
    assert "jax" in state["loaded"]  # the probe of the backend has something to look at
    assert not state["backend"]
    assert not set(HEAVY) & set(state["loaded"])


def test_the_probe_sees_a_backend():
    assert in_fresh_python("import jax; jax.devices()")["backend"]


@pytest.mark.parametrize("name", eegsr_jax.__all__)
def test_every_public_name_resolves(name):
    assert getattr(eegsr_jax, name) is not None
    assert name in dir(eegsr_jax)


def test_public_functions_live_where_the_table_says():
    for name, (module, attribute) in eegsr_jax._PUBLIC.items():
        value = getattr(eegsr_jax, name)
        assert (value.__module__ if attribute else value.__name__) == module


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'eegsr_jax' has no attribute 'recontruct'"):
        eegsr_jax.recontruct  # noqa: B018
