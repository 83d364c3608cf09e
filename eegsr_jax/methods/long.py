"""Carrying a method over a recording of any length: constant memory, no seams."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from eegsr_jax.errors import MethodError
from eegsr_jax.methods.base import Method
from eegsr_jax.typing import PyTree

Block = tuple[int, np.ndarray, np.ndarray]  # first sample, mean [M, n], std [M, n]


def reconstruct_long(
    method: Method,
    plan: PyTree,
    observed: np.ndarray,
    key: jax.Array | None = None,
    *,
    block: int = 4096,
) -> Iterator[Block]:
    """Reconstruct `[L, time]` block by block, in order.

    A method of any length sees each block with its `context` on either side, so that the result is
    that of one call on the whole (error bars that follow the power of what is seen, as those of
    `gaussian`, follow each block). A method bound to a window sees windows that overlap by half,
    blended with weights that add up to one; window i draws from `fold_in(key, i)`.

    Args:
      method: what to apply.
      plan: of that method.
      observed: `[L, time]`, an array or a memory map; only a block of it is read at a time.
      key: for methods that draw.
      block: samples per call on the device.

    Yields:
      `(start, mean [M, n], std [M, n])` float32, adjacent blocks that cover the recording once.

    Raises:
      MethodError: the recording is shorter than the method's window.
    """
    if method.window is None:
        yield from _whole_blocks(method, plan, observed, key, block)
    else:
        yield from _windows(method, plan, observed, key, block)


def _whole_blocks(method: Method, plan, observed, key, block: int) -> Iterator[Block]:
    apply, time, context = jax.jit(method.apply), observed.shape[1], method.context
    length = min(block + 2 * context, time)  # every call has this shape: one program
    start = 0
    for number in range(time):
        if start >= time:
            return
        # The last block ends with the recording, so that only its true ends are ends.
        first = min(max(start - context, 0), time - length)
        last = first + length
        stop = time if last == time else last - context
        piece = np.ascontiguousarray(observed[None, :, first:last], np.float32)
        mean, std = apply(plan, piece, None if key is None else jax.random.fold_in(key, number))
        inside = slice(start - first, stop - first)
        yield start, np.asarray(mean[0, :, inside]), np.asarray(std[0, :, inside])
        start = stop


def _windows(method: Method, plan, observed, key, block: int) -> Iterator[Block]:
    window, time = method.window, observed.shape[1]
    assert window is not None
    if time < window:
        raise MethodError(
            f"{method.name} needs windows of {window} samples; the recording has {time}"
        )
    starts = _window_starts(time, window)
    batch = max(1, min(block // window, len(starts)))
    taper = np.minimum(np.arange(1, window + 1), np.arange(window, 0, -1)).astype(np.float32)
    apply, done = jax.jit(method.apply), 0
    weight = np.zeros(0, np.float32)
    mean = std = np.zeros((0, 0), np.float32)
    for first in range(0, len(starts), batch):
        group = starts[first : first + batch]
        padded = [*group, *[group[-1]] * (batch - len(group))]
        pieces = np.stack([observed[:, s : s + window] for s in padded]).astype(np.float32)
        numbers = np.arange(first, first + batch)
        keys = None if key is None else jax.vmap(lambda n: jax.random.fold_in(key, n))(numbers)
        results = apply(plan, pieces, keys)
        means, stds = (np.asarray(a) for a in results)
        if not mean.size:
            mean = np.zeros((means.shape[1], 0), np.float32)
            std = mean.copy()
        grow = group[-1] + window - done - len(weight)
        weight = np.pad(weight, (0, grow))
        mean, std = (np.pad(a, ((0, 0), (0, grow))) for a in (mean, std))
        for start, one_mean, one_std in zip(group, means, stds, strict=False):
            here = slice(start - done, start - done + window)
            weight[here] += taper
            mean[:, here] += taper * one_mean
            std[:, here] += taper * one_std
        following = starts[first + batch] if first + batch < len(starts) else time
        ready = following - done
        yield done, mean[:, :ready] / weight[:ready], std[:, :ready] / weight[:ready]
        done, weight, mean, std = following, weight[ready:], mean[:, ready:], std[:, ready:]


def _window_starts(time: int, window: int) -> list[int]:
    """Every half window, and the last window that fits."""
    starts = list(range(0, time - window + 1, max(window // 2, 1)))
    if starts[-1] + window < time:
        starts.append(time - window)
    return starts
