"""What a caller's own program may do with a method, and that the table tells who breaks it."""

from __future__ import annotations

import importlib.util
import itertools
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from eegsr_jax.methods import Method, Reconstruction, reconstruct
from eegsr_jax.training.loop import jitted

pytestmark = pytest.mark.filterwarnings("error")


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_inside_shard_map(case, same):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    own, whole = PartitionSpec("batch"), PartitionSpec()

    def mine(plan, x):
        return case.method.apply(plan, x, None)

    run = jax.shard_map(mine, mesh=mesh, in_specs=(whole, own), out_specs=own)
    same(jax.jit(run)(case.plan, case.x), case.expected)


def test_inputs_may_be_donated(case, same):
    """The result is the same, and nothing that was not given away is gone."""
    apply = jax.jit(case.method.apply, donate_argnums=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        for _ in range(2):
            same(apply(case.plan, jnp.array(case.x), None), case.expected)
    same(jitted(case.method.apply)(case.plan, case.x, None), case.expected)


def test_windows_in_half_precision(case):
    """bfloat16 windows are taken for what they stand for; what comes back is as exact, or more."""
    half = case.x.astype(jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        found = jax.jit(case.method.apply)(case.plan, half, None)
    expected = jitted(case.method.apply)(case.plan, half.astype(jnp.float32), None)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))
        a = np.asarray(a.astype(jnp.float32))
        np.testing.assert_allclose(a, b, rtol=0, atol=0.02 * np.abs(b).max())


@pytest.mark.slow  # backwards through plans and networks: half a minute of compiling for some
def test_the_gradient_of_the_params_against_differences(case):
    """Along one direction through every floating array."""
    if case.method.name == "population":
        pytest.skip("plans as gaussian does")
    floats, tree = jax.tree.flatten(case.params)
    places = [i for i, a in enumerate(floats) if jnp.issubdtype(a.dtype, jnp.floating)]
    places = [i for i in places if np.isfinite(floats[i]).all()]
    if not places:
        pytest.skip("nothing is learned")
    wave = jnp.sin(jnp.arange(case.expected.mean.size, dtype=jnp.float32))
    wave = wave.reshape(case.expected.mean.shape)

    @jax.jit
    def loss(step):
        moved = list(floats)
        for i in places:
            toward = jnp.cos(jnp.arange(moved[i].size, dtype=jnp.float32)).reshape(moved[i].shape)
            moved[i] = moved[i] * (1 + step * toward)
        params = jax.tree.unflatten(tree, moved)
        found = reconstruct(case.method, params, case.geometry, case.x).mean
        return jnp.sum(wave * (found - case.expected.mean)) / case.unit

    slope, step = jax.jit(jax.grad(loss))(0.0), 3e-3
    difference = (loss(step) - loss(-step)) / (2 * step)
    scale = jnp.sum(jnp.abs(wave * case.expected.mean)) / case.unit
    np.testing.assert_allclose(slope, difference, rtol=0.1, atol=1e-4 * scale)


# ------------------------------------------------------------------------------------------- draws


@pytest.fixture
def drawn(case):
    if case.method.draw is None:
        pytest.skip("gives means only")
    return case.method.draw


def test_a_draw_has_the_shape_of_the_mean_and_keeps_what_was_given(case, drawn):
    found = jitted(drawn)(case.plan, case.x, keys(8))
    assert found.shape == case.expected.mean.shape and found.dtype == jnp.float32
    assert np.isfinite(found).all()
    if not case.renders_all:
        np.testing.assert_array_equal(found[:, case.geometry.observed_index], case.x)


def test_the_draw_of_a_window_depends_on_its_key_and_on_nothing_else(case, drawn, same):
    draw = jitted(drawn)
    whole = draw(case.plan, case.x, keys(8))
    same(draw(case.plan, case.x, keys(8)), whole)  # the same keys, the same draws
    same(draw(case.plan, case.x[2:5], keys(8)[2:5]), whole[2:5], 1e-5)
    one = jax.jit(jax.vmap(lambda x, key: drawn(case.plan, x[None], key[None])[0]))
    same(one(case.x, keys(8)), whole, 1e-5)
    pieces = case.x.reshape(2, 4, *case.x.shape[1:]), keys(8).reshape(2, 4)
    scanned = jax.jit(lambda p: jax.lax.scan(lambda c, p: (c, drawn(case.plan, *p)), 0, p)[1])
    same(scanned(pieces).reshape(whole.shape), whole, 1e-5)
    assert (draw(case.plan, case.x, keys(8, 1)) != whole).mean() > 0.1


def test_the_gradient_through_a_draw_is_finite(case, drawn):
    def power(x):
        return jnp.mean(drawn(case.plan, x, keys(8)) ** 2) / case.unit**2

    assert np.isfinite(jax.jit(jax.grad(power))(case.x)).all()


# ---------------------------------------------------------------------- the table against impurity

_count = itertools.count()
_matrix = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)


def _average(spoiled) -> Method:
    """The average of what is given, at every target; `spoiled(mean, x)` does what it must not."""

    def plan(params, geometry):
        weights = jnp.full((geometry.target.shape[0], geometry.observed.shape[0]), 0.2)
        if spoiled == "bakes":
            weights = weights + jnp.asarray(_matrix)[: weights.shape[0], : weights.shape[1]]
        return {"weights": weights}

    def apply(plan, observed, key=None):
        mean = jnp.einsum("mi,bit->bmt", plan["weights"], observed)
        if spoiled == "counts":
            mean = mean + np.float32(next(_count))
        if spoiled == "looks around":
            mean = mean + observed.mean()
        if spoiled == "leaves":
            mean = jnp.asarray(np.asarray(mean))
        return Reconstruction(mean, jnp.ones_like(mean))

    return Method("average", lambda *_: {"one": jnp.ones(())}, (), plan, apply)


BROKEN = {
    "counts": "test_jit_is_eager",
    "bakes": "test_no_constant_is_baked_into_the_programs",
    "looks around": "test_the_result_does_not_depend_on_the_batch",
    "leaves": "test_inside_scan",
}


@pytest.mark.parametrize("spoiled", BROKEN)
def test_the_table_tells_an_impure_method(spoiled, case, same):
    if case.method.name != "nearest":
        pytest.skip("once is enough")
    path = Path(__file__).with_name("test_methods.py")
    spec = importlib.util.spec_from_file_location("table", path)
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    arguments = {"same": same}

    def check(method):
        plan = method.plan({}, case.geometry)
        expected = method.apply(plan, case.x, None)
        own = case._replace(method=method, params={}, plan=plan, expected=expected)
        test = getattr(table, BROKEN[spoiled])
        names = test.__code__.co_varnames[1 : test.__code__.co_argcount]
        test(own, *(arguments[name] for name in names))

    check(_average(""))
    with pytest.raises((AssertionError, jax.errors.JAXTypeError)):
        check(_average(spoiled))
