"""How fast a method runs on the device at hand, and how near that is to what the device can do.

Compiling is timed apart from running, inputs are on the device before the clock starts, and every
output is waited for. The limits are measured too, by a matrix product and a copy through XLA.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.errors import ConfigError
from eegsr_jax.methods.base import Method
from eegsr_jax.typing import PyTree

CALLS = 20  # at least; as many as fit into `SECONDS` otherwise
SECONDS = 1.0
_SIDE, _LENGTH = 2048, 2**25  # of the matrices; of the array that is copied
_VOLT = 1e-5  # of the noise that a method is given


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the device does in a second, through XLA.

    Attributes:
      flop: of a float32 matrix product at the highest precision.
      byte: read and written by a copy of an array larger than caches.
    """

    flop: float
    byte: float


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """One function with batches of one size.

    Attributes:
      function: "apply" or "draw".
      batch: windows in a call.
      trace_s, lower_s, compile_s: seconds, once.
      calls: that were timed.
      median_s, p10_s, p90_s: seconds of a call.
      windows_per_s: from the median.
      real_time: seconds of EEG for each second, from the median.
      flop, byte: of a call as XLA counts them: the body of a loop once, however often it runs.
      temporary_byte, argument_byte: memory beyond inputs and outputs; of plan and windows.
      flop_share, byte_share: of the limits, by XLA's counts, so at least.
    """

    function: str
    batch: int
    trace_s: float
    lower_s: float
    compile_s: float
    calls: int
    median_s: float
    p10_s: float
    p90_s: float
    windows_per_s: float
    real_time: float
    flop: float
    byte: float
    temporary_byte: int
    argument_byte: int
    flop_share: float
    byte_share: float


def limits() -> Limits:
    """Of the default device, measured now."""
    a = jnp.full((_SIDE, _SIDE), 1 / _SIDE)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    long = jnp.ones(_LENGTH)
    copy = jax.jit(jnp.negative)
    flop = 2 * _SIDE**3 / statistics.median(_seconds(lambda: product(a)))
    return Limits(flop=flop, byte=2 * long.nbytes / statistics.median(_seconds(lambda: copy(long))))


def measure(
    method: Method,
    plan: PyTree,
    shape: tuple[int, int, int],
    sfreq: float,
    limit: Limits,
    *,
    draw: bool = False,
) -> Throughput:
    """`apply`, or `draw`, on noise of a shape, float32.

    Args:
      method: what runs.
      plan: of that method, on the device.
      shape: `[batch, L, time]`.
      sfreq: Hz, for the seconds that a window stands for.
      limit: by `limits`.
      draw: whether to time the method's draws.

    Raises:
      ConfigError: no windows or samples, or others than the method is bound to.
    """
    batch, _, samples = shape
    if min(shape) < 1 or (method.window or samples) != samples:
        wanted = "1 or more of each"
        if method.window:
            wanted = f"windows of {method.window} samples, as {method.name} is bound to"
        raise ConfigError(f"{batch} windows of {samples} samples; expected {wanted}")
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    arguments = plan, jnp.asarray(_VOLT * noise), jax.random.split(jax.random.key(0), batch)
    function: Any = method.draw if draw else method.apply
    clock = [time.perf_counter()]

    def took(made: Any) -> Any:
        clock.append(time.perf_counter())
        return made

    traced = took(jax.jit(function).trace(*arguments))
    lowered = took(traced.lower())
    program = took(lowered.compile())
    found = sorted(_seconds(lambda: program(*arguments)))
    trace, lower, compile_s = np.diff(clock)
    median = statistics.median(found)
    cost, memory = program.cost_analysis() or {}, program.memory_analysis()
    flop, byte = (max(float(cost.get(k, 0.0)), 0.0) for k in ("flops", "bytes accessed"))
    return Throughput(
        function="draw" if draw else "apply",
        batch=batch,
        trace_s=float(trace),
        lower_s=float(lower),
        compile_s=float(compile_s),
        calls=len(found),
        median_s=median,
        p10_s=found[len(found) // 10],
        p90_s=found[-1 - len(found) // 10],
        windows_per_s=batch / median,
        real_time=batch * samples / sfreq / median,
        flop=flop,
        byte=byte,
        temporary_byte=memory.temp_size_in_bytes,
        argument_byte=memory.argument_size_in_bytes,
        flop_share=flop / median / limit.flop,
        byte_share=byte / median / limit.byte,
    )


def _seconds(call: Callable[[], Any]) -> list[float]:
    """Of calls, one after the other, after two that warm up."""
    for _ in range(2):
        jax.block_until_ready(call())
    found: list[float] = []
    while len(found) < CALLS or sum(found) < SECONDS:
        begin = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - begin)
    return found


def knee(rows: list[Throughput], share: float = 0.9) -> int:
    """The smallest batch with at least `share` of the highest number of windows a second."""
    most = max(row.windows_per_s for row in rows)
    return min(row.batch for row in rows if row.windows_per_s >= share * most)
