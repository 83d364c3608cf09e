"""Carrying a method over a recording of any length: constant memory, no seams."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from eegsr_jax.distributed import WINDOWS, along, place, shard_map
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
    mesh: Mesh | None = None,
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
      block: samples per call on a device.
      mesh: of this process, with an axis "windows": as many blocks go side by side, where there is
        more than one. The numbers are those of one device, but for rounding.

    Yields:
      `(start, mean [M, n], std [M, n])` float32, adjacent blocks that cover the recording once.

    Raises:
      MethodError: the recording is shorter than the method's window.
    """
    mesh = mesh if observed.shape[1] > block else None
    count = 1 if mesh is None else mesh.shape[WINDOWS]
    if mesh is not None:
        plan = place(plan, mesh, PartitionSpec())
    if method.window is None:
        yield from _whole_blocks(method, plan, observed, key, block, mesh, count)
    else:
        yield from _windows(method, plan, observed, key, block, mesh, count)


def _whole_blocks(method: Method, plan, observed, key, block, mesh, count: int) -> Iterator[Block]:
    time, context = observed.shape[1], method.context
    apply = _side_by_side(method.apply, mesh, whole=True)
    length = min(block + 2 * context, time)  # every call has this shape: one program
    spans, start = [], 0
    while start < time:
        # The last block ends with the recording, so that only its true ends are ends.
        first = min(max(start - context, 0), time - length)
        last = first + length
        stop = time if last == time else last - context
        spans.append((start, first, stop))
        start = stop
    for begin in range(0, len(spans), count):
        group = spans[begin : begin + count]
        padded = group + group[-1:] * (count - len(group))
        pieces = [observed[:, first : first + length] for _, first, _ in padded]
        numbers = np.arange(begin, begin + count)
        means, stds = apply(plan, np.stack(pieces).astype(np.float32), _keys(key, numbers))
        for (start, first, stop), mean, std in zip(group, means, stds, strict=False):
            inside = slice(start - first, stop - first)
            yield start, mean[:, inside], std[:, inside]


def _keys(key: jax.Array | None, numbers: np.ndarray) -> jax.Array | None:
    """One key for each block or window."""
    return None if key is None else jax.vmap(lambda n: jax.random.fold_in(key, n))(numbers)


@functools.lru_cache(maxsize=32)
def _side_by_side(apply: Callable, mesh: Mesh | None, *, whole: bool) -> Callable:
    """`apply` of stacked pieces and keys, its results as NumPy; `whole`, one piece a device.

    A piece by itself has one key, as it has in a call of its own.
    """

    def own(plan, pieces, keys):
        return apply(plan, pieces, keys[0] if whole and keys is not None else keys)

    run: Callable = own
    if mesh is not None:
        rows = along(mesh, WINDOWS)
        run = shard_map(own, mesh, (PartitionSpec(), rows, rows), rows)
    compiled = jax.jit(run)
    return lambda *given: tuple(np.asarray(x) for x in compiled(*given))


def _windows(method: Method, plan, observed, key, block, mesh, count: int) -> Iterator[Block]:
    window, time = method.window, observed.shape[1]
    assert window is not None
    if time < window:
        raise MethodError(
            f"{method.name} needs windows of {window} samples; the recording has {time}"
        )
    starts = _window_starts(time, window)
    batch = count * max(1, min(block // window, -(-len(starts) // count)))
    weights = taper(window)
    apply, done = _side_by_side(method.apply, mesh, whole=False), 0
    weight = np.zeros(0, np.float32)
    mean = std = np.zeros((0, 0), np.float32)
    for first in range(0, len(starts), batch):
        group = starts[first : first + batch]
        padded = [*group, *[group[-1]] * (batch - len(group))]
        pieces = np.stack([observed[:, s : s + window] for s in padded]).astype(np.float32)
        means, stds = apply(plan, pieces, _keys(key, np.arange(first, first + batch)))
        if not mean.size:
            mean = np.zeros((means.shape[1], 0), np.float32)
            std = mean.copy()
        grow = group[-1] + window - done - len(weight)
        weight = np.pad(weight, (0, grow))
        mean, std = (np.pad(a, ((0, 0), (0, grow))) for a in (mean, std))
        for start, one_mean, one_std in zip(group, means, stds, strict=False):
            here = slice(start - done, start - done + window)
            weight[here] += weights
            mean[:, here] += weights * one_mean
            std[:, here] += weights * one_std
        following = starts[first + batch] if first + batch < len(starts) else time
        ready = following - done
        yield done, mean[:, :ready] / weight[:ready], std[:, :ready] / weight[:ready]
        done, weight, mean, std = following, weight[ready:], mean[:, ready:], std[:, ready:]


def taper(window: int) -> np.ndarray:
    """Weights `[window]` of its samples where windows overlap, float32."""
    return np.minimum(np.arange(1, window + 1), np.arange(window, 0, -1)).astype(np.float32)


def _window_starts(time: int, window: int) -> list[int]:
    """Every half window, and the last window that fits."""
    starts = list(range(0, time - window + 1, max(window // 2, 1)))
    if starts[-1] + window < time:
        starts.append(time - window)
    return starts
