"""How fast a method runs on the device at hand, and how near that is to what the device can do.

Compiling is timed apart from running, inputs are on the device before the clock starts, and every
output is waited for. The limits are measured too, by a matrix product and a copy through XLA.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.errors import ConfigError
from eegsr_jax.flop import flop_of
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
class Cost:
    """What a compiled call costs before it runs, and what it needs.

    Attributes:
      trace_s, lower_s, compile_s: seconds, once.
      flop, byte: of a call: operations as `flop.flop` counts them; what they read and write as XLA
        counts it, which takes the body of a loop once, as many times as it does of operations.
      temporary_byte, argument_byte: memory beyond inputs and outputs; of the arguments.
    """

    trace_s: float
    lower_s: float
    compile_s: float
    flop: float
    byte: float
    temporary_byte: int
    argument_byte: int


@dataclass(frozen=True, kw_only=True)
class Times:
    """What was found of the seconds of calls.

    Attributes:
      calls: that were timed.
      median_s, p10_s, p90_s: seconds of a call.
    """

    calls: int
    median_s: float
    p10_s: float
    p90_s: float


@dataclass(frozen=True, kw_only=True)
class Throughput(Cost, Times):
    """One function with batches of one size.

    Attributes:
      function: "apply" or "draw".
      batch: windows in a call.
      windows_per_s: from the median.
      real_time: seconds of EEG for each second, from the median.
      flop_share, byte_share: of the limits; caches spare much of the second, which may exceed 1.
    """

    function: str
    batch: int
    windows_per_s: float
    real_time: float
    flop_share: float
    byte_share: float


def limits() -> Limits:
    """Of the default device, measured now."""
    a = jnp.full((_SIDE, _SIDE), 1 / _SIDE)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    long = jnp.ones(_LENGTH)
    copy = jax.jit(jnp.negative)
    speed = 2 * _SIDE**3 / statistics.median(seconds(lambda: product(a)))
    return Limits(flop=speed, byte=2 * long.nbytes / statistics.median(seconds(lambda: copy(long))))


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
    program, cost = compiled(function, *arguments)
    times = spread(seconds(lambda: program(*arguments)))
    return Throughput(
        function="draw" if draw else "apply",
        batch=batch,
        windows_per_s=batch / times.median_s,
        real_time=batch * samples / sfreq / times.median_s,
        flop_share=cost.flop / times.median_s / limit.flop,
        byte_share=cost.byte / times.median_s / limit.byte,
        **dataclasses.asdict(cost),
        **dataclasses.asdict(times),
    )


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], Cost]:
    """The program of a function, jitted or not, for such arguments, and what it costs."""
    clock = [time.perf_counter()]

    def took(made: Any) -> Any:
        clock.append(time.perf_counter())
        return made

    traced = took(jax.jit(function).trace(*arguments))
    lowered = took(traced.lower())
    program = took(lowered.compile())
    trace, lower, compile_s = np.diff(clock)
    cost, memory = program.cost_analysis() or {}, program.memory_analysis()
    found, byte = (max(float(cost.get(k, 0.0)), 0.0) for k in ("flops", "bytes accessed"))
    operations = flop_of(traced.jaxpr.jaxpr)
    return program, Cost(
        trace_s=float(trace),
        lower_s=float(lower),
        compile_s=float(compile_s),
        flop=operations,
        byte=byte * (max(operations / found, 1.0) if found else 1.0),
        temporary_byte=memory.temp_size_in_bytes,
        argument_byte=memory.argument_size_in_bytes,
    )


def seconds(call: Callable[[], Any]) -> list[float]:
    """Of calls, one after the other, after two that warm up; outputs are waited for."""
    for _ in range(2):
        jax.block_until_ready(call())
    found: list[float] = []
    while len(found) < CALLS or sum(found) < SECONDS:
        begin = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - begin)
    return found


def spread(found: Iterable[float]) -> Times:
    """Of the seconds of calls."""
    order = sorted(found)
    tail = len(order) // 10
    return Times(
        calls=len(order),
        median_s=statistics.median(order),
        p10_s=order[tail],
        p90_s=order[-1 - tail],
    )


def knee(windows_per_s: Mapping[int, float], share: float = 0.9) -> int:
    """The smallest batch with at least `share` of the highest number of windows a second."""
    most = max(windows_per_s.values())
    return min(batch for batch, speed in windows_per_s.items() if speed >= share * most)
