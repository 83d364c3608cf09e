"""What is kept on disk can always be read, whatever a killed process left beside it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax.training import checkpoint


def state(value):
    return {"x": jnp.full((3,), float(value)), "step": jnp.asarray(value, jnp.int32)}


def kept(folder):
    found = checkpoint.newest(folder)
    assert found is not None and found[1] == "stage"
    return checkpoint.load_leaves(found[0], state(0))


@pytest.mark.parametrize("left", [(), ("1.part",), ("2.part",), ("0", "1.part", "2.part")])
def test_the_newest_is_read_and_the_others_go(tmp_path, left):
    folder = tmp_path / "within"
    for value in (1, 2):
        checkpoint.save_leaves(folder, "stage", state(value), {"at": value})
    for name in left:
        (folder / name / "state").mkdir(parents=True)  # begun, and not ended
    checkpoint.save_leaves(folder, "stage", state(3), {"at": 3})
    found, position = kept(folder)
    assert position["at"] == 3 and int(found["step"]) == 3
    np.testing.assert_array_equal(found["x"], [3, 3, 3])
    assert [path.name for path in folder.iterdir()] == ["2"]


def test_what_is_half_written_is_not_read(tmp_path):
    folder = tmp_path / "within"
    checkpoint.save_leaves(folder, "stage", state(1), {"at": 1})
    (folder / "1.part" / "state").mkdir(parents=True)
    assert kept(folder)[1]["at"] == 1
