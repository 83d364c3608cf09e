"""Methods over a stream: chunks in, reconstructed chunks out, a state carried in between.

An estimate of a method with a finite `context` is known once as many more samples have come: the
stream is that late and, its ends included, what one call on the whole recording gives. `begin`,
`push` and `finish` are pure functions for the caller's own `jit`, `vmap` and `lax.scan`; `Stream`
is a thin shell about them, with NumPy in and out and chunks of any size.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.errors import ChannelError, ConfigError, MethodError
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import Method, Reconstruction
from eegsr_jax.methods.long import taper
from eegsr_jax.training.loop import jitted, nameless
from eegsr_jax.typing import PyTree

BLOCK = 128  # samples beyond the context that a call sees
Chunk = tuple[np.ndarray, np.ndarray]  # mean [M, n], std [M, n]


class StreamState(NamedTuple):
    """What a stream carries from one chunk to the next.

    Attributes:
      window: `[L, block + 2 context]` volts, the newest samples, in order from its beginning.
      filled: `[]` int32, how many there are; the window is full after as many samples.
    """

    window: jax.Array
    filled: jax.Array


def begin(method: Method, geometry: Geometry, block: int = BLOCK) -> StreamState:
    """The state before the first sample.

    Args:
      method: of any length (`window` None).
      geometry: L observed electrodes.
      block: the longest chunk, in samples. Error bars that follow the signal, as those of
        `gaussian`, see this many samples and the context on either side.

    Raises:
      MethodError: the method is bound to a window; `Stream` takes it.
      ConfigError: no block.
    """
    if method.window is not None:
        raise MethodError(
            f"{method.name} is bound to windows of {method.window} samples, each of which it must "
            "see whole; eegsr_jax.Stream cuts a stream into them"
        )
    if block < 1:
        raise ConfigError(f"block={block}: expected 1 sample or more")
    inputs = geometry.observed.shape[0]
    window = jnp.zeros((inputs, block + 2 * method.context), jnp.float32)
    return StreamState(window, jnp.zeros((), jnp.int32))


def push(
    method: Method,
    plan: PyTree,
    state: StreamState,
    chunk: jax.Array,
    count: jax.Array | None = None,
    key: jax.Array | None = None,
) -> tuple[StreamState, Reconstruction]:
    """One chunk in, as many samples out, `context` samples late.

    Args:
      method: as given to `begin`.
      plan: of that method.
      state: from `begin` or the last call.
      chunk: `[L, n]` volts, n no more than the block.
      count: `[]` int32, how many samples of the chunk there are, from its beginning, so that
        chunks of several sizes share a program; None for all n.
      key: for methods that draw, another one each call.

    Returns:
      The next state, and mean and std `[M, n]` of the n samples up to `context` before the newest
      one. Those before the first sample of the stream have mean 0 and std inf; those beyond `count`
      mean nothing.

    Raises:
      ConfigError: a chunk longer than the block.
    """
    context, size, chunk = method.context, chunk.shape[1], jnp.asarray(chunk, jnp.float32)
    capacity = state.window.shape[1]
    if size > capacity - 2 * context:
        raise ConfigError(
            f"a chunk of {size} samples in a stream of blocks of {capacity - 2 * context}: push "
            "shorter chunks, or begin with a longer block"
        )
    count = jnp.asarray(size, jnp.int32) if count is None else count
    longer = jnp.pad(state.window, ((0, 0), (0, size)))
    longer = jax.lax.dynamic_update_slice_in_dim(longer, chunk, state.filled, 1)
    filled = jnp.minimum(state.filled + count, capacity)
    shift = state.filled + count - filled
    window = jax.lax.dynamic_slice_in_dim(longer, shift, capacity, 1)
    # While the window fills, its end is a repetition of what has come: no estimate that is given
    # depends on it, and error bars that follow the power of the signal do.
    at = jnp.arange(capacity, dtype=jnp.int32)
    at = jnp.where(at < filled, at, at % jnp.maximum(filled, 1))
    found = method.apply(plan, window[:, at][None], key)

    def late(x: jax.Array, before: float) -> jax.Array:
        x = jnp.pad(x[0], ((0, 0), (size + context, size)), constant_values=before)
        return jax.lax.dynamic_slice_in_dim(x, filled - count + size, size, 1)

    return StreamState(window, filled), Reconstruction(
        late(found.mean, 0), late(found.std, jnp.inf)
    )


def finish(
    method: Method, plan: PyTree, state: StreamState, key: jax.Array | None = None
) -> Reconstruction:
    """The last `context` samples, mean and std `[M, context]`, once no more will come.

    The window must be full; a shorter stream is one call of `method.apply`.
    """
    found = method.apply(plan, state.window[None], key)
    first = state.window.shape[1] - method.context
    return Reconstruction(found.mean[0, :, first:], found.std[0, :, first:])


class Stream:
    """A method over a stream, for the host: `[L, n]` volts in, mean and std `[M, n']` out.

    Chunks may have any size, and sizes may change: there is one program, compiled when the stream
    is made. Altogether the means are those of `methods.long.reconstruct_long` on the whole, for any
    chunks.

    A method bound to a window sees windows that overlap by half, blended as in `reconstruct_long`,
    from which it differs nowhere but before the last window, when that does not begin half a window
    after another: what was given out stays.

    Attributes:
      inputs: L.
      targets: M.
      delay: samples that must follow one before its estimate is given.
    """

    def __init__(
        self,
        method: Method,
        params: PyTree,
        geometry: Geometry,
        *,
        block: int = BLOCK,
        key: jax.Array | None = None,
    ):
        """Plans and compiles.

        Args:
          method: with its params and geometry what `eegsr_jax.load` gives.
          params: of that method.
          geometry: L observed and M target electrodes.
          block: see `begin`; longer chunks are cut. Of no concern to a method bound to a window.
          key: for methods that draw.

        Raises:
          ConfigError: no block.
        """
        self.inputs, self.targets = len(geometry.observed), len(geometry.target)
        plan = jitted(method.plan)(params, nameless(geometry))
        if method.window is None:
            self._carrier: _Sliding | _Overlapping = _Sliding(
                method, plan, begin(method, geometry, block), key
            )
            self.delay = method.context
        else:
            self._carrier = _Overlapping(method, plan, self.inputs, key)
            self.delay = method.window - 1
        self._restart()
        self.push(np.zeros((self.inputs, self.delay + 1)))
        self._restart()

    def push(self, chunk: np.ndarray) -> Chunk:
        """The next samples `[L, n]`, volts; what is now known and was not given yet.

        Raises:
          ChannelError: not `[L, n]`.
        """
        chunk = np.asarray(chunk, np.float32)
        if chunk.ndim != 2 or len(chunk) != self.inputs:
            raise ChannelError(
                f"a chunk of shape {chunk.shape}; expected [{self.inputs}, n], the observed "
                "channels of the method's geometry in its order"
            )
        return self._joined(self._carrier.push(chunk))

    def finish(self) -> Chunk:
        """What is left when no more samples will come; the stream then begins anew.

        Raises:
          MethodError: less came than one window of a method that is bound to windows.
        """
        try:
            return self._joined(self._carrier.finish())
        finally:
            self._restart()

    def _restart(self) -> None:
        self._carrier.restart()

    def _joined(self, pieces: list[Chunk]) -> Chunk:
        nothing = np.zeros((self.targets, 0), np.float32)
        mean, std = zip((nothing, nothing), *pieces, strict=True)
        return np.concatenate(mean, 1), np.concatenate(std, 1)


class _Sliding:
    """A method of any length."""

    def __init__(self, method: Method, plan: PyTree, start: StreamState, key: jax.Array | None):
        self.method, self.plan, self.start, self.key = method, plan, start, key
        self.program = _program(method._replace(stages=()))  # what is trained does not matter here

    def restart(self) -> None:
        self.state, self.number, self.received = self.start, 0, 0

    def push(self, chunk: np.ndarray) -> list[Chunk]:
        given, context = [], self.method.context
        block = self.start.window.shape[1] - 2 * context
        for first in range(0, chunk.shape[1], block):
            piece = chunk[:, first : first + block]
            count = piece.shape[1]
            padded = np.zeros((len(chunk), block), np.float32)
            padded[:, :count] = piece
            self.state, found = self.program(
                self.plan, self.state, padded, np.int32(count), self.key, np.uint32(self.number)
            )
            before = min(max(context - self.received, 0), count)  # the first sample of the stream
            given.append(tuple(np.asarray(a)[:, before:count] for a in found))
            self.received += count
            self.number += 1
        return given

    def finish(self) -> list[Chunk]:
        left = min(self.method.context, self.received)
        if not left:
            return []
        # The window ends where the stream does; a short stream lies in it whole.
        seen = np.asarray(self.state.window)[None, :, : int(self.state.filled)]
        key = None if self.key is None else jax.random.fold_in(self.key, self.number)
        mean, std = jitted(self.method.apply)(self.plan, seen, key)
        return [(np.asarray(mean)[0, :, -left:], np.asarray(std)[0, :, -left:])]


@functools.lru_cache(maxsize=64)  # streams of one method and one size share a program
def _program(method: Method):
    @jax.jit
    def program(plan, state, chunk, count, key, number):
        own = None if key is None else jax.random.fold_in(key, number)
        return push(method, plan, state, chunk, count, own)

    return program


class _Overlapping:
    """A method bound to a window: windows that overlap by half, see `reconstruct_long`."""

    def __init__(self, method: Method, plan: PyTree, inputs: int, key: jax.Array | None):
        assert method.window is not None
        self.method, self.plan, self.inputs, self.key = method, plan, inputs, key
        self.window, self.hop = method.window, max(method.window // 2, 1)
        self.taper = taper(method.window)

    def restart(self) -> None:
        self.number = 0
        self.samples = np.zeros((self.inputs, 0), np.float32)  # the last window, and what came then
        self.held: np.ndarray | None = None  # sums from where the next window begins

    def push(self, chunk: np.ndarray) -> list[Chunk]:
        given, self.samples = [], np.concatenate([self.samples, chunk], 1)
        while (
            self.samples.shape[1] >= (first := 0 if self.held is None else self.hop) + self.window
        ):
            sums = self._sums(self.samples[:, first : first + self.window])
            given.append(_blended(sums[:, :, : self.hop]))
            self.held, self.samples = sums[:, :, self.hop :], self.samples[:, first:].copy()
        return given

    def finish(self) -> list[Chunk]:
        came = self.samples.shape[1]
        if self.held is None and came:
            raise MethodError(
                f"{self.method.name} needs windows of {self.window} samples; the stream ended "
                f"after {came}"
            )
        if came > self.window:  # the last window ends where the stream does
            given = self.hop - (came - self.window)
            self.held = self._sums(self.samples[:, -self.window :], given)
        return [] if self.held is None else [_blended(self.held)]

    def _sums(self, window: np.ndarray, given: int = 0) -> np.ndarray:
        """Weighted mean and std, and weights, `[3, M, sample]`; `given` samples are left out."""
        key = None if self.key is None else jax.random.fold_in(self.key, self.number)[None]
        mean, std = jitted(self.method.apply)(self.plan, window[None], key)
        self.number += 1
        sums = (self.taper * np.stack([mean[0], std[0], np.ones_like(mean[0])]))[:, :, given:]
        if self.held is not None:
            sums[:, :, : self.held.shape[2]] += self.held
        return sums


def _blended(sums: np.ndarray) -> Chunk:
    return sums[0] / sums[2], sums[1] / sums[2]
