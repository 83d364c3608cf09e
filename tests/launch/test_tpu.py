import pytest

from eegsr_jax.errors import ConfigError
from launch.job import Resources
from launch.tpu import tpu_slice


@pytest.mark.parametrize(
    ("tpu", "hosts", "expected"),  # hosts and chips, of GKE's tables
    [
        ("tpu-v5-lite-podslice:1x1", 1, (1, 1)),
        ("tpu-v5-lite-podslice:2x2", 1, (1, 4)),
        ("tpu-v5-lite-podslice:2x4", 1, (1, 8)),
        ("tpu-v5-lite-podslice:2x4", 2, (2, 4)),
        ("tpu-v5-lite-podslice:16x16", 1, (64, 4)),
        ("tpu-v6e-slice:4x8", 8, (8, 4)),
        ("tpu-v4-podslice:2x2x1", 1, (1, 4)),
        ("tpu-v4-podslice:2x2x2", 1, (2, 4)),
        ("tpu-v5p-slice:4x4x4", 1, (16, 4)),
        ("tpu7x:2x2x1", 1, (1, 4)),
    ],
)
def test_hosts_and_chips_of_tpu_slices(tpu, hosts, expected):
    found = tpu_slice(Resources(tpu=tpu, hosts=hosts))
    assert found[2:] == expected and ":".join(found[:2]) == tpu


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        (
            Resources(tpu="tpu-v9:2x2"),
            "'tpu-v9:2x2': unknown accelerator; expected .*tpu-v6e-slice",
        ),
        (Resources(tpu="tpu-v6e-slice"), "topology of such slices, as 4x4"),
        (Resources(tpu="tpu-v6e-slice:2x2x1"), "topology of such slices, as 4x4"),
        (Resources(tpu="tpu-v4-podslice:2x2"), "topology of such slices, as 2x2x1"),
        (Resources(tpu="tpu-v6e-slice:3x3"), "topology"),
        (Resources(tpu="tpu-v6e-slice:0x4"), "topology"),
        (Resources(tpu="tpu-v6e-slice:4x-4"), "topology"),
        (Resources(tpu="tpu-v6e-slice:4x4", hosts=2), "2 hosts, but such a slice has 4"),
        (Resources(tpu="tpu-v6e-slice:4x4", gpus=1), "one kind"),
    ],
)
def test_slices_that_are_not_are_refused(resources, said):
    with pytest.raises(ConfigError, match=said) as error:
        tpu_slice(resources)
    assert "\n" not in str(error.value)
