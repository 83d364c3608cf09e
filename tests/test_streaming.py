"""A stream is one call on the whole, a context late, for any chunks; and it compiles once."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eegsr_jax
from eegsr_jax import methods as mt
from eegsr_jax import streaming
from eegsr_jax.data.causal import CausalFilter
from eegsr_jax.data.preprocessing import Preprocessing, apply
from eegsr_jax.data.recording import read
from eegsr_jax.errors import ChannelError, ConfigError, MethodError
from eegsr_jax.geometry import make_geometry, montage
from eegsr_jax.layouts import layout
from eegsr_jax.methods.base import Method, Reconstruction, linear_apply, linear_plan
from eegsr_jax.methods.long import reconstruct_long
from eegsr_jax.streaming import Stream
from eegsr_jax.training.loop import fit

TARGETS = "Fp1 Fp2 F3 Fz F4 C3 Cz C4 P3 Pz P4 Oz".split()
OBSERVED = "Fp1 C4 C3 Pz Oz".split()
OPTIONS = {
    "lagged_ridge": {"lags": 3},
    "gaussian": {"lags": 2},
    "emag": {"lags": 2, "resolution": 4, "components": 4, "widths": (2, 4), "features": 8},
    "srgdiff": {
        "lags": 2,
        "components": 4,
        "widths": (2, 4),
        "features": 8,
        "hidden": 8,
        "steps": 1,
        "draws": 1,
    },
}
SLOW = {"srgdiff": pytest.mark.slow}  # to compile
ANY_LENGTH = [
    pytest.param(name, marks=SLOW.get(name, ()))
    for name in mt.METHODS
    if mt.make(name).window is None
]
FOLLOW = ("gaussian", "population", "srgdiff")  # whose error bars depend on what is seen at once
QUICK = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def geometry():
    place = montage("standard_1005")
    return make_geometry(OBSERVED, TARGETS, {n: place[n] for n in TARGETS})


def streamed(stream: Stream, x: np.ndarray, sizes) -> tuple[np.ndarray, np.ndarray]:
    """All that comes out as `[L, time]` goes in, in chunks of these sizes, the last ones repeated.

    What is given may never lie ahead of what can be known.
    """
    given, done, sizes = [], 0, iter(sizes)
    while done < x.shape[1]:
        size = next(sizes)
        given.append(stream.push(x[:, done : done + size]))
        done = min(done + size, x.shape[1])
        out = sum(mean.shape[1] for mean, _ in given)
        assert done - stream.delay <= out <= done
    given.append(stream.finish())
    mean, std = (np.concatenate(a, 1) for a in zip(*given, strict=True))
    assert mean.dtype == std.dtype == np.float32 and mean.shape == std.shape
    return mean, std


def forever(size):
    while True:
        yield size


def at_random(longest: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    while True:
        yield int(generator.integers(0, longest))


# ---------------------------------------------------------------------- methods of any length


@pytest.fixture(scope="module", params=ANY_LENGTH)
def made(request, geometry):
    """A method, with params whose every matrix is drawn: any will do."""
    method = mt.make(request.param, **OPTIONS.get(request.param, {}))
    with jax.numpy_dtype_promotion("strict"):
        params = jax.jit(method.init, static_argnums=2)(jax.random.key(0), geometry, None)
    if request.param in mt.NEEDS_TRAINING:
        generator = np.random.default_rng(0)
        params = jax.tree.map(
            lambda a: a + jnp.asarray(0.1 * generator.standard_normal(a.shape), a.dtype)
            if a.ndim > 1 and a.dtype == jnp.float32 else a,
            params,
        )  # fmt: skip
        ones = {"std", "bars", "between"} & set(params)
        params |= {name: jnp.ones_like(params[name]) for name in ones}
        if "skip" in params:
            params["skip"] = params["skip"] | {"between": jnp.ones(())}
    return method, params


def test_every_method_of_any_length_for_any_chunks(made, geometry, rng):
    method, params = made
    time = 403
    x = rng.standard_normal((5, time)).astype(np.float32)
    with jax.numpy_dtype_promotion("strict"):
        plan = jax.jit(method.plan)(params, geometry)
        whole = jax.jit(method.apply)(plan, x[None], None)
    mean, std = (np.asarray(a[0]) for a in whole)
    stream, scale = Stream(method, params, geometry, block=32), np.abs(mean).max()
    assert stream.delay == method.context and (stream.inputs, stream.targets) == (5, 12)
    for sizes in (forever(1), forever(7), forever(1000), at_random(100)):
        found, bars = streamed(stream, x, sizes)
        assert found.shape == (12, time)
        np.testing.assert_allclose(found, mean, rtol=0, atol=1e-6 * scale)
        if method.name not in FOLLOW:
            np.testing.assert_array_equal(bars, std)
        np.testing.assert_array_equal(bars[np.asarray(geometry.observed_index)], 0.0)


@pytest.fixture(scope="module")
def fir(geometry):
    """`fir(lags)`: a method with a random filter, its plan as params, and the filter."""

    def make(lags: int):
        filters = np.random.default_rng(lags).standard_normal((2 * lags + 1, 12, 5))
        params = linear_plan(geometry, jnp.asarray(filters, jnp.float32), jnp.ones(12))
        method = Method("fir", None, (), lambda params, geometry: params, linear_apply, None, lags)
        return method, params, filters

    return make


@pytest.fixture(scope="module")
def streams(fir, geometry):
    return {
        (lags, block): (Stream(*fir(lags)[:2], geometry, block=block), fir(lags)[2])
        for lags in (0, 1, 4)
        for block in (1, 5, 128)
    }


@QUICK
@given(
    time=st.integers(0, 90),
    lags=st.sampled_from([0, 1, 4]),
    block=st.sampled_from([1, 5, 128]),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=9),
)
def test_any_chunks_give_what_convolving_the_whole_gives(streams, time, lags, block, sizes):
    """Streams shorter than the context and the window too; a stream is used again and again."""
    stream, filters = streams[lags, block]
    x = np.random.default_rng(time).standard_normal((5, time)).astype(np.float32)
    mean, std = streamed(stream, x, [*sizes, *[1] * 90])
    padded = np.pad(x, ((0, 0), (lags, lags)))  # silence beyond the ends
    expected = sum(filters[i] @ padded[:, i : i + time] for i in range(2 * lags + 1))
    missing = [i for i, name in enumerate(TARGETS) if name not in OBSERVED]
    assert mean.shape == (12, time)
    np.testing.assert_allclose(mean[missing], np.asarray(expected)[missing], atol=1e-5)
    np.testing.assert_array_equal(mean[[TARGETS.index(n) for n in OBSERVED]], x)
    np.testing.assert_array_equal(std[missing], 1.0)


def test_chunks_of_any_size_share_one_program(fir, geometry, rng):
    method, params, _ = fir(3)
    traced = []

    def counted(plan, observed, key):
        traced.append(observed.shape)  # runs when a program is made, not when it is run
        return method.apply(plan, observed, key)

    stream = Stream(method._replace(apply=counted), params, geometry, block=64)
    assert traced == [(1, 5, 70)]
    x = rng.standard_normal((5, 2000)).astype(np.float32)
    for sizes in (forever(1), forever(64), forever(65), at_random(300)):
        streamed(stream, x, sizes)
    assert traced == [(1, 5, 70)] * 2  # the second one is of `finish`, whatever came before
    state = stream._carrier.state
    assert state.window.shape == (5, 70)  # nothing grows
    Stream(method._replace(apply=counted), params, geometry, block=64)
    assert len(traced) == 2  # nor does another stream of the same method compile


def test_error_bars_follow_the_last_block(geometry, rng):
    """Of `gaussian`; and while the window fills, what has come, undiluted."""
    method = mt.gaussian(lags=2)
    params = method.init(None, geometry, None)
    x = (1e-5 * rng.standard_normal((5, 1200))).astype(np.float32)
    x[:, 600:] *= 10
    stream = Stream(method, params, geometry, block=64)
    _, std = streamed(stream, x, forever(4))
    bars = std[TARGETS.index("Fz")]
    np.testing.assert_allclose(bars[10:60].mean() / bars[300:600].mean(), 1, atol=0.2)
    np.testing.assert_allclose(bars[800:].mean() / bars[200:590].mean(), 10, rtol=0.1)
    plan = jax.jit(method.plan)(params, geometry)
    one = jax.jit(method.apply)(plan, x[None, :, 132:200], None).std[0, TARGETS.index("Fz"), 0]
    np.testing.assert_allclose(bars[197], one, rtol=1e-5)  # samples 132 to 199 were seen


def test_a_key_draws_anew_at_every_call(geometry, rng):
    """Error bars by sampling; the mean does not depend on the draws."""
    method = mt.make("srgdiff", **OPTIONS["srgdiff"])
    params = jax.jit(method.init, static_argnums=2)(jax.random.key(0), geometry, None)
    params |= {"bars": jnp.ones_like(params["bars"])}
    x = np.tile(rng.standard_normal((5, 1)), (1, 150)).astype(np.float32)
    found = [
        streamed(Stream(method, params, geometry, block=32, key=key), x, forever(30))
        for key in (jax.random.key(0), jax.random.key(0), jax.random.key(1))
    ]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert np.isfinite(found[0][1]).all() and (found[0][1] != found[2][1]).any()
    np.testing.assert_array_equal(found[0][0], found[2][0])


# ---------------------------------------------------------------------------- pure functions


def test_inside_the_callers_scan(fir, geometry, rng):
    method, plan, _ = fir(3)
    x = rng.standard_normal((5, 400)).astype(np.float32)
    expected = np.asarray(linear_apply(plan, x[None]).mean[0])

    @jax.jit
    def decode(plan, x):
        def body(state, chunk):
            state, found = streaming.push(method, plan, state, chunk)
            return state, found

        chunks = x.reshape(5, -1, 8).transpose(1, 0, 2)
        state, found = jax.lax.scan(body, streaming.begin(method, geometry, 16), chunks)
        found = jax.tree.map(lambda a: a.transpose(1, 0, 2).reshape(12, -1), found)
        return found, streaming.finish(method, plan, state)

    found, last = decode(plan, x)
    np.testing.assert_array_equal(found.mean[:, :3], 0.0)  # before the first sample
    np.testing.assert_array_equal(found.std[:, :3], np.inf)
    mean = np.concatenate([found.mean[:, 3:], last.mean], 1)
    np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert np.isfinite(found.std[:, 3:]).all() and last.std.shape == (12, 3)


def test_streams_side_by_side_and_differentiated(fir, geometry, rng):
    method, plan, _ = fir(2)
    x = jnp.asarray(rng.standard_normal((3, 5, 8)), jnp.float32)
    start = streaming.begin(method, geometry, 8)
    many = jax.tree.map(lambda a: jnp.stack([a] * 3), start)

    @jax.jit
    def both(plan, x):
        state, found = jax.vmap(lambda s, c: streaming.push(method, plan, s, c))(many, x)
        return found.mean, state

    mean, state = both(plan, x)
    for i in range(3):
        alone = streaming.push(method, plan, start, x[i])
        np.testing.assert_allclose(mean[i], alone[1].mean, atol=1e-6)
        np.testing.assert_array_equal(state.window[i], alone[0].window)
    gradient = jax.jit(jax.grad(lambda p, x: jnp.sum(both(p, x)[0] ** 2), (0, 1), allow_int=True))
    for leaf in jax.tree.leaves(gradient(plan, x)):
        if leaf.dtype != jax.dtypes.float0:
            assert np.isfinite(leaf).all()
    assert np.abs(gradient(plan, x)[0]["filters"]).max() > 0


def test_nothing_is_moved_from_or_to_the_host(fir, geometry):
    method, plan, _ = fir(2)
    call = jax.jit(lambda plan, s, c: streaming.push(method, plan, s, c))
    state, chunk = streaming.begin(method, geometry, 8), jnp.zeros((5, 8))
    with jax.transfer_guard("disallow"):
        call(plan, state, chunk)


# ------------------------------------------------------------------- methods bound to windows

WINDOW = 21


@functools.cache
def windowed(draws: bool = False) -> Method:
    def apply(plan, x, key):
        level = jax.vmap(jax.random.uniform)(key)[:, None, None] if draws else 0.0
        ramp = jnp.arange(WINDOW, dtype=x.dtype)[None, None]
        return Reconstruction(jnp.cumsum(x, -1) + level, ramp + jnp.abs(x))

    return Method("toy", None, (), lambda params, geometry: params, apply, WINDOW)


@pytest.fixture(scope="module")
def square(geometry):
    return make_geometry(OBSERVED, OBSERVED, dict(zip(OBSERVED, geometry.observed, strict=True)))


@QUICK
@given(time=st.integers(WINDOW, 150), longest=st.integers(2, 60), draws=st.booleans())
def test_windows_overlap_as_they_do_on_a_whole_recording(square, time, longest, draws):
    method, key = windowed(draws), jax.random.key(3)
    x = np.random.default_rng(time).standard_normal((5, time)).astype(np.float32)
    expected = [np.concatenate(a, 1) for a in list(zip(
        *reconstruct_long(method, {}, x, key, block=1), strict=True))[1:]]  # fmt: skip
    stream = Stream(method, {}, square, key=key)
    assert stream.delay == WINDOW - 1
    hop, same = WINDOW // 2, np.ones(time, bool)
    last = (time - WINDOW) // hop * hop  # where the last window on the grid begins
    if last + WINDOW < time:  # the one beyond comes too late for these
        same[time - WINDOW : last + hop] = False
        assert (~same).sum() < hop
    for sizes in (at_random(longest), forever(longest)):
        for part, one in zip(streamed(stream, x, sizes), expected, strict=True):
            np.testing.assert_allclose(part[:, same], one[:, same], rtol=1e-5, atol=1e-5)
    assert stream._carrier.samples.shape[1] == 0


def test_a_released_method_is_streamed(geometry, rng):
    method = mt.make("emag_paper", samples=32, sfreq=100.0, resolution=4, groups=1)
    params = method.init(jax.random.key(0), geometry, 32)
    x = rng.standard_normal((5, 320)).astype(np.float32)
    plan = jax.jit(method.plan)(params, geometry)
    expected = np.concatenate([b[1] for b in reconstruct_long(method, plan, x)], 1)
    mean, _ = streamed(Stream(method, params, geometry), x, at_random(50))
    np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


# -------------------------------------------------------------------------------------- refusals


def test_what_does_not_fit_is_refused(fir, geometry, square):
    method, params, _ = fir(2)
    stream = Stream(method, params, geometry, block=8)
    with pytest.raises(ChannelError, match=r"shape \(4, 3\); expected \[5, n\]"):
        stream.push(np.zeros((4, 3)))
    with pytest.raises(ChannelError, match=r"shape \(5,\)"):
        stream.push(np.zeros(5))
    with pytest.raises(ConfigError, match="block=0"):
        Stream(method, params, geometry, block=0)
    state = streaming.begin(method, geometry, 8)
    with pytest.raises(ConfigError, match="chunk of 9 samples in a stream of blocks of 8"):
        streaming.push(method, params, state, jnp.zeros((5, 9)))
    with pytest.raises(MethodError, match="toy is bound to windows of 21 samples"):
        streaming.begin(windowed(), square)
    short = Stream(windowed(), {}, square)
    short.push(np.zeros((5, 20)))
    with pytest.raises(MethodError, match="toy needs windows of 21 .* the stream ended after 20"):
        short.finish()
    mean, _ = short.finish()  # and begins anew
    assert mean.shape == (5, 0)


# -------------------------------------------------------------------------------------- real EEG


def test_real_eeg_filtered_causally_and_streamed(real_eeg):
    """Against what was filtered alike a stream loses nothing; without phase, as the filter does."""
    folder, step = real_eeg / "eegmmidb", Preprocessing()
    raw = [read(folder / f"S001R{run:02d}.edf") for run in (4, 8)]
    eeg = [apply(r, step).data for r in raw]
    names, sfreq = raw[0].names, raw[0].sfreq
    place = dict(zip(names, raw[0].positions, strict=True))
    where = make_geometry(layout("case2_4x", names), names, place)
    index = np.asarray(where.observed_index)
    windows = eeg[0][:, : eeg[0].shape[1] // 320 * 320].reshape(64, -1, 320)
    part = (np.arange(windows.shape[1]) >= windows.shape[1] * 0.8).astype(np.int32)
    batch = {"eeg": windows.transpose(1, 0, 2), "part": part}
    method = mt.lagged_ridge(6)
    params = fit(method, where, lambda: [batch])
    causal, stream = CausalFilter(step, sfreq), Stream(method, params, where)
    heard = causal(raw[1].data)
    causal.restart()
    pieces, done = [], 0
    for size in at_random(7):
        if done >= heard.shape[1]:
            break
        pieces.append(stream.push(causal(raw[1].data[:, done : done + size])[index]))
        done += size
    mean, _ = (np.concatenate(a, 1) for a in zip(*pieces, stream.finish(), strict=True))
    missing = np.setdiff1d(np.arange(64), index)
    inner = slice(800, -800)

    def error(estimate, truth):
        wrong = (estimate - truth)[missing, inner]
        return float((wrong**2).sum() / (truth[missing, inner] ** 2).sum())

    plan = jax.jit(method.plan)(params, where)
    offline = np.concatenate([b[1] for b in reconstruct_long(method, plan, eeg[1][index])], 1)
    best = error(offline, eeg[1])
    assert best < 0.1
    assert error(mean, heard) < 1.4 * best
    assert best + 0.02 < error(mean, np.roll(eeg[1], 1, 1)) < 0.5


def test_the_public_name(fir, geometry):
    assert eegsr_jax.Stream is Stream
