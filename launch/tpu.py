"""TPU slices as Google Kubernetes Engine names them."""

from __future__ import annotations

import math
from typing import NamedTuple

from eegsr_jax.errors import ConfigError
from launch.job import Resources

# Axes of a topology. A host has 4 chips, the one of 1x1 has 1; 2x4 is one host of 8 or two of 4.
_AXES = {
    "tpu-v4-podslice": 3,
    "tpu-v5-lite-podslice": 2,
    "tpu-v5p-slice": 3,
    "tpu-v6e-slice": 2,
    "tpu7x": 3,
}


class Slice(NamedTuple):
    """Hosts that train one trial.

    Attributes:
      accelerator: as "tpu-v6e-slice".
      topology: its chips, as "4x4".
      hosts: how many.
      chips: of each host.
    """

    accelerator: str
    topology: str
    hosts: int
    chips: int


def tpu_slice(resources: Resources) -> Slice:
    """The slice that resources name; of "2x4", one host unless they say two.

    Raises:
      ConfigError: the accelerator is unknown, the topology is none of it, or it has other hosts.
    """
    text = str(resources.tpu)
    accelerator, _, topology = text.partition(":")
    if accelerator not in _AXES:
        raise ConfigError(
            f"TPU {text!r}: unknown accelerator; expected ACCELERATOR:TOPOLOGY with one of "
            f"{', '.join(_AXES)}"
        )
    sizes = topology.split("x")
    chips = math.prod(int(size) if size.isdecimal() else 0 for size in sizes)
    if len(sizes) != _AXES[accelerator] or chips == 0 or (chips > 1 and chips % 4):
        example = "2x2x1" if _AXES[accelerator] == 3 else "4x4"
        raise ConfigError(f"TPU {text!r}: expected a topology of such slices, as {example}")
    if resources.gpus:
        raise ConfigError(f"TPU {text!r} and {resources.gpus} GPUs: a task takes one kind")
    hosts = 1 if topology == "2x4" and resources.hosts == 1 else max(1, chips // 4)
    if resources.hosts not in (1, hosts):
        raise ConfigError(f"TPU {text!r}: {resources.hosts} hosts, but such a slice has {hosts}")
    return Slice(accelerator, topology, hosts, chips // hosts)
