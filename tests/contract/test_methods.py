"""The contract of `docs/architecture.md`, kept by every method of the table `METHODS`."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eegsr_jax.geometry import Geometry
from eegsr_jax.methods import Reconstruction, reconstruct
from eegsr_jax.training.loop import jitted

# JAX warns where float64 is asked for and truncated; nothing else may warn either.
pytestmark = pytest.mark.filterwarnings("error")


def shifted(geometry, by):
    """The same cap with its targets moved; a traced or a stacked shift will do."""
    return dataclasses.replace(geometry, target=geometry.target + by)


def test_the_shapes_and_types_of_the_result(case):
    assert isinstance(case.expected, Reconstruction)
    for part in case.expected:
        assert part.shape == (len(case.x), 12, case.x.shape[2]) and part.dtype == jnp.float32
        assert np.isfinite(part).all()
    for tree in (case.params, case.plan):  # plain nested dicts of arrays, at the boundary
        assert type(tree) is dict
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))


def test_observed_channels_are_the_input_bit_for_bit(case, rng):
    if case.renders_all:
        index = case.geometry.observed_index
        assert (case.expected.std[:, index] > 0).all()  # estimates, with error bars
        assert (case.expected.mean[:, index] != case.x).mean() > 0.9
        return
    # Numbers that any arithmetic would change: huge, tiny, denormal and signed zero.
    x = (10.0 ** rng.uniform(-38, 4, case.x.shape)).astype(np.float32)
    x[0, 0, :4] = [-0.0, 1e-42, -1e-42, 3e15]
    mean, std = (np.asarray(a) for a in jitted(case.method.apply)(case.plan, x, None))
    index = np.asarray(case.geometry.observed_index)
    np.testing.assert_array_equal(mean[:, index].view(np.int32), x.view(np.int32))
    np.testing.assert_array_equal(std[:, index], 0.0)


def test_the_error_bar_of_a_missing_channel_is_positive(case):
    rows = np.isin(np.arange(12), case.geometry.observed_index, invert=True)
    std = np.asarray(case.expected.std)[:, rows]
    power = np.asarray(case.x).std()
    assert (std > 1e-3 * power).all() and (std < 1e2 * power).all()


def test_an_estimate_depends_on_the_inputs_within_the_context_only(case, same, rng):
    if case.method.window is not None:
        pytest.skip("bound to a window, all of which an estimate may depend on")
    apply, context = jitted(case.method.apply), case.method.context
    assert context == case.context
    at = max(context, case.x.shape[2] // 2) + 4
    x = np.asarray(jnp.tile(case.x, (1, 1, 2 * at // case.x.shape[2] + 1)))
    expected = apply(case.plan, x, None).mean[..., at]
    other = rng.standard_normal(x.shape).astype(np.float32)
    inside = slice(at - context, at + context + 1)
    other[..., inside] = x[..., inside]
    same(apply(case.plan, other, None).mean[..., at], expected)
    for end in (at - context, at + context):  # and does depend on both ends of it
        other = np.array(x)
        other[..., end] += 10
        assert np.abs(apply(case.plan, other, None).mean[..., at] - expected).max() > 1e-5


def test_jit_is_eager(case, same):
    same(case.method.apply(case.plan, case.x, None), case.expected)


@pytest.mark.slow  # dozens of small programs, one for each operation
def test_jit_of_a_plan_is_eager(case, same):
    same(reconstruct(case.method, case.params, case.geometry, case.x), case.expected, 1e-4)


def test_vmap_over_windows_is_the_batch(case, same):
    def one(window):
        return jax.tree.map(lambda a: a[0], case.method.apply(case.plan, window[None], None))

    same(jax.jit(jax.vmap(one))(case.x), case.expected)


def test_vmap_over_positions_is_one_plan_each(case, same):
    if case.method.name not in ("inverse_distance", "spherical_spline", "gaussian"):
        pytest.skip("one method of each kind is enough")
    shifts = jnp.asarray([0.0, 1e-3])

    def plan(shift):
        return case.method.plan(case.params, shifted(case.geometry, shift))

    many = jax.jit(jax.vmap(plan))(shifts)
    for i, shift in enumerate((0.0, 1e-3)):
        one = jitted(case.method.plan)(case.params, shifted(case.geometry, shift))
        same([leaf[i] for leaf in jax.tree.leaves(many)], jax.tree.leaves(one), 1e-4)


def test_gradients_are_finite_also_under_rematerialisation(case):
    """With respect to the data, every float of the params, and the positions of the electrodes."""
    if case.method.name == "population":
        pytest.skip("plans as gaussian does")

    @jax.checkpoint
    def loss(x, params, geometry):
        mean, std = reconstruct(case.method, params, geometry, x)
        if case.unit != 1.0:  # as they begin, their estimates hardly depend on the data
            wave = jnp.sin(jnp.arange(mean.size, dtype=jnp.float32)).reshape(mean.shape)
            return jnp.mean(wave * (mean - case.expected.mean)) / case.unit
        return jnp.mean(mean**2) + jnp.mean(std**2)

    function = jax.jit(jax.value_and_grad(loss, (0, 1, 2), allow_int=True))
    _, found = function(case.x, case.params, case.geometry)
    for gradient in jax.tree.leaves(found):
        if gradient.dtype != jax.dtypes.float0:
            assert np.isfinite(gradient).all()
    # The gradient of the data against differences.
    toward = jnp.cos(jnp.arange(case.x.size, dtype=jnp.float32)).reshape(case.x.shape)
    slope = jnp.sum(found[0] * toward)
    step = 0.005 * case.unit if case.unit != 1.0 else 0.05  # how curved they are
    up, down = (function(case.x + s * toward, case.params, case.geometry)[0] for s in (step, -step))
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-2)


def test_inside_scan(case, same):
    """Plan and apply in the body of the caller's loop."""

    def body(total, x):
        found = reconstruct(case.method, case.params, case.geometry, x)
        return total + jnp.sum(found.mean), found

    pieces = case.x.reshape(2, len(case.x) // 2, *case.x.shape[1:])
    total, found = jax.jit(lambda p: jax.lax.scan(body, jnp.zeros(()), p))(pieces)
    whole = jax.tree.map(lambda a: a.reshape(len(case.x), *a.shape[2:]), found)
    same(whole, case.expected, 1e-4)
    assert np.isfinite(total)


def test_a_second_call_compiles_nothing(case, counted):
    traced = counted(case.method.apply), counted(case.method.plan)
    apply, plan = map(jitted, traced)
    for shift in (0.0, 1e-3):
        params = jax.tree.map(jnp.array, case.params)
        apply(plan(params, shifted(case.geometry, shift)), case.x + shift, None)
        assert [function.calls for function in traced] == [1, 1]


def test_nothing_is_moved_from_or_to_the_host(case):
    apply = jitted(case.method.apply)
    with jax.transfer_guard("disallow"):
        apply(case.plan, case.x, None)
        with pytest.raises(Exception, match="host-to-device"):  # the guard is on
            jnp.add(case.x, np.ones(case.x.shape, np.float32))


def test_the_result_does_not_depend_on_the_batch(case, same):
    apply = jitted(case.method.apply)
    for first, last in ((0, 1), (3, 6)):
        found = apply(case.plan, case.x[first:last], None)
        same(found, [part[first:last] for part in case.expected])


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda a: a.name)
def test_eight_devices_are_one(case, same, axis_type):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        x = jax.device_put(case.x, NamedSharding(mesh, PartitionSpec("batch")))
        plan = jax.device_put(case.plan, NamedSharding(mesh, PartitionSpec()))
        found = jax.jit(case.method.apply)(plan, x, None)
        assert found.mean.sharding.spec[0] == "batch"
    same(found, case.expected)


def test_no_constant_is_baked_into_the_programs(case):
    text = jitted(case.method.apply).lower(case.plan, case.x, None).as_text()
    assert len(text) < 64_000 or 'dense<"0x' not in text
    # A plan of 64 electrodes, so that a matrix that was closed over would show.
    places = np.random.default_rng(0).standard_normal((64, 3))
    places = 0.1 * places / np.linalg.norm(places, axis=1, keepdims=True)
    wide = Geometry(
        observed=jnp.asarray(places[:32], jnp.float32),
        target=jnp.asarray(places, jnp.float32),
        observed_index=jnp.arange(32, dtype=jnp.int32),
        centre=jnp.zeros(3),
    )
    params = jax.eval_shape(lambda: case.method.init(None, wide, None))
    text = jax.jit(case.method.plan).lower(params, wide).as_text()
    assert 'dense<"0x' not in text  # how StableHLO writes an array of more than a few numbers


def test_export_with_a_symbolic_batch_and_length(case, same):
    batch, time = export.symbolic_shape("b, t")
    time = case.length or time
    abstract = jax.ShapeDtypeStruct((batch, 5, time), jnp.float32)
    plan = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), case.plan)

    def function(plan, x):
        return tuple(case.method.apply(plan, x, None))

    blob = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(plan, abstract)
    again = export.deserialize(blob.serialize())
    same(again.call(case.plan, case.x), tuple(case.expected))
    length = case.length or 11
    assert again.call(case.plan, case.x[:3, :, :length])[0].shape == (3, 12, length)


def test_an_exported_method_runs_in_a_fresh_process_without_our_stack(case, same, tmp_path):
    if case.method.name != "gaussian":
        pytest.skip("one method is enough")
    (batch,) = export.symbolic_shape("b")
    abstract = jax.ShapeDtypeStruct((batch, 5, case.x.shape[2]), jnp.float32)

    def function(plan, x):
        return tuple(case.method.apply(plan, x, None))

    blob = export.export(jax.jit(function))(case.plan, abstract).serialize()
    (tmp_path / "method.bin").write_bytes(blob)
    leaves = jax.tree.leaves(case.plan)
    np.savez(tmp_path / "plan.npz", *[np.asarray(leaf) for leaf in leaves])
    np.save(tmp_path / "x.npy", np.asarray(case.x))
    names = sorted(case.plan)
    script = f"""
import sys, numpy as np, jax
from jax import export
arrays = np.load("plan.npz", allow_pickle=False)
plan = dict(zip({names!r}, (arrays[k] for k in arrays.files), strict=True))
exported = export.deserialize(bytearray(open("method.bin", "rb").read()))
mean, std = exported.call(plan, np.load("x.npy"))
np.savez("out.npz", mean=mean, std=std)
assert not {{"flax", "mne", "eegsr_jax", "orbax"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=120)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as found:
        same((found["mean"], found["std"]), tuple(case.expected))
