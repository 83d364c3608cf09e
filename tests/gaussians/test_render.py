"""The fast renderer against the slow one, and the contract of a function of the hot path."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eegsr_jax.gaussians import grid, precision, reference
from eegsr_jax.gaussians.project import project
from eegsr_jax.gaussians.render import fold, read_out, render

BATCH, TIME, ELECTRODES, GROUPS, FEATURES = 8, 21, 9, 3, 6
POINTS = grid.cube(4)  # 64
SMALL = 2000  # weights a block: more than one tile of points


def arguments(batch=BATCH, seed=0, dtype=np.float32):
    """Parameters of a field, electrodes, times far apart and in no order; all differentiated."""
    rng = np.random.default_rng(seed)
    shape = (GROUPS, len(POINTS))
    values = {
        "positions": 60 * rng.standard_normal((ELECTRODES, 3)),
        "centres": POINTS,
        "log_diagonal": np.log([1 / 40] * 3 + [10]) + 0.1 * rng.standard_normal((*shape, 4)),
        "off_diagonal": rng.standard_normal((*shape, 6)) * ([0.01] * 3 + [0.5] * 3),
        "time": 4 * rng.random(shape),
        "amplitude": rng.standard_normal(shape),
        "times": 4 * rng.random(TIME),
        "features": rng.standard_normal((batch, TIME, FEATURES)),
        "kernel": rng.standard_normal((len(POINTS), FEATURES)),
        "bias": rng.standard_normal(len(POINTS)),
    }
    return {k: jnp.asarray(v, dtype) for k, v in values.items()}


def field_of(a):
    names = ("time", "amplitude")
    diagonal, off_diagonal = precision.cholesky(a["log_diagonal"], a["off_diagonal"])
    return precision.field(
        a["positions"], a["centres"], diagonal, off_diagonal, *(a[k] for k in names)
    )


def weights_of(a):
    return {"kernel": a["kernel"], "bias": a["bias"]}


def rendered(a, **options):
    return render(field_of(a), a["times"], a["features"], weights_of(a), **options)


def folded(a, **options):
    return read_out(fold(field_of(a), a["times"], weights_of(a), **options), a["features"])


def by_the_book(a):
    def flat(x):
        return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])

    centres = jnp.concatenate([jnp.repeat(a["centres"], GROUPS, 0), flat(a["time"])[:, None]], 1)
    matrix = reference.precision_matrix(jnp.exp(flat(a["log_diagonal"])), flat(a["off_diagonal"]))
    weights = reference.gaussian_weights(a["positions"], a["times"], centres, matrix)
    modulation = jnp.einsum("btk,pk->btp", a["features"], a["kernel"]) + a["bias"][None, None]
    return reference.render(weights, flat(a["amplitude"]), modulation)


def cotangent(shape):
    return jnp.asarray(np.random.default_rng(9).standard_normal(shape), jnp.float32)


def with_gradients(function):
    def loss(a):
        out = function(a)
        return jnp.sum(out * cotangent(out.shape).astype(out.dtype)), out

    def both(a):
        gradients, out = jax.grad(loss, has_aux=True)(a)
        return {"out": out, **gradients}

    return jax.jit(both)


def same(found, expected, tolerance=5e-6):
    for (path, a), (_, b) in zip(
        *(jax.tree_util.tree_leaves_with_path(x) for x in (found, expected)), strict=True
    ):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape and a.dtype == b.dtype
        error = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error}"


@pytest.fixture(scope="module")
def expected():
    with jax.numpy_dtype_promotion("strict"):
        return with_gradients(rendered)(arguments())


@pytest.mark.parametrize("block", [None, SMALL], ids=["one tile", "many tiles"])
@pytest.mark.parametrize("function", [rendered, folded])
def test_output_and_all_gradients_are_those_of_the_slow_renderer(function, block):
    with jax.enable_x64(True):
        wide = arguments(dtype=np.float64)
        book = with_gradients(by_the_book)(wide)
        same(with_gradients(lambda a: function(a, block=block))(wide), book, 1e-13)
    narrow = with_gradients(lambda a: function(a, block=block))(arguments())
    same(narrow, jax.tree.map(lambda x: np.asarray(x, np.float32), book))


def test_a_large_batch_is_rendered_by_its_columns(expected):
    """Beyond K + 1 windows `render` folds; the numbers stay."""
    few, many = arguments(), arguments()
    many["features"] = jnp.concatenate([few["features"]] * 2)
    same(rendered(many), jnp.concatenate([expected["out"]] * 2))


def test_the_weights_are_never_held():
    """No array of the compiled step is as large as (time, electrode, Gaussian), at any batch."""

    def widest(function, batch):
        shapes = jax.eval_shape(lambda: arguments(batch))
        text = with_gradients(function).lower(shapes).compile().as_text()
        return max(
            np.prod([int(n) for n in shape.split(",")])
            for shape in re.findall(r"f32\[([0-9,]+)\]", text)
        )

    weights = TIME * ELECTRODES * GROUPS * len(POINTS)
    assert widest(by_the_book, 1) >= weights
    for batch in (1, 6, 30):
        assert widest(lambda a: rendered(a, block=SMALL), batch) < weights


def test_without_features_the_amplitudes_alone_are_rendered():
    a = arguments()
    alone = jax.jit(lambda a: render(field_of(a), a["times"]))(a)
    assert alone.shape == (1, TIME, ELECTRODES)
    silent = a | {"features": jnp.zeros_like(a["features"]), "bias": jnp.zeros_like(a["bias"])}
    same(alone[0], rendered(silent)[0])


def test_any_modulation():
    """A function that is not affine, of its own weights, and one that knows no time."""

    def modulate(features, weights):
        return jnp.tanh(jnp.einsum("tbf,pf->tbp", features, weights))

    a = arguments()
    found = render(field_of(a), a["times"], a["features"], a["kernel"], modulate=modulate)
    direct = jnp.tanh(jnp.einsum("btf,pf->btp", a["features"], a["kernel"]))
    one_each = {"kernel": jnp.eye(len(POINTS)), "bias": jnp.zeros(len(POINTS))}
    same(found, render(field_of(a), a["times"], direct, one_each))

    def timeless(features, weights):
        return weights.T

    columns = a["kernel"][:, : BATCH - 2]
    nothing = jnp.zeros((BATCH - 2, TIME, 0))
    found = render(field_of(a), a["times"], nothing, columns, modulate=timeless)
    still = jnp.broadcast_to(columns.T[:, None], (BATCH - 2, TIME, len(POINTS)))
    same(found, render(field_of(a), a["times"], still, one_each))


def test_projection_is_rendering_of_separable_gaussians(rng):
    """Where the weights are a product of space and time, a matrix can stand for space."""
    a = arguments() | {"off_diagonal": jnp.zeros((GROUPS, len(POINTS), 6))}
    field = field_of(a)
    matrix = jnp.exp(-0.5 * field.distance)
    args = (matrix, field.rate, field.time, field.amplitude, a["times"])
    same(project(*args, a["features"], weights_of(a)), rendered(a))
    same(project(*args), render(field, a["times"]))


def test_eager_is_jit(expected):
    same(rendered(arguments()), expected["out"])


def test_vmap_over_models_also_of_gradients():
    """Independent models, positions and times at once."""
    models = [arguments(4, seed) for seed in (1, 2)]
    many = jax.jit(jax.vmap(with_gradients(rendered)))(
        jax.tree.map(lambda *x: jnp.stack(x), *models)
    )
    for i, model in enumerate(models):
        same(jax.tree.map(lambda x: x[i], many), with_gradients(rendered)(model))  # noqa: B023


def test_the_result_does_not_depend_on_batch_or_grid_of_times(expected):
    a = arguments()
    same(rendered(a | {"features": a["features"][2:5]}), expected["out"][2:5])
    some = np.array([20, 3, 4, 17])  # any order
    picked = a | {"times": a["times"][some], "features": a["features"][:, some]}
    same(rendered(picked), expected["out"][:, some])
    assert rendered(a | {"times": a["times"][:1], "features": a["features"][:, :1]}).shape[1] == 1


def test_inside_scan(expected):
    def body(total, features):
        out = rendered(arguments() | {"features": features})
        return total + out.sum(), out

    pieces = arguments()["features"].reshape(2, BATCH // 2, TIME, FEATURES)
    _, out = jax.jit(lambda p: jax.lax.scan(body, jnp.zeros(()), p))(pieces)
    same(out.reshape(BATCH, TIME, ELECTRODES), expected["out"])


def test_a_second_call_compiles_nothing(counted):
    traced = counted(rendered)
    function = with_gradients(traced)
    for seed in (0, 1):
        function(arguments(seed=seed))
        assert traced.calls == 1


# where the axis of points is
AXIS_OF_POINTS = {"centres": 0, "kernel": 0, "bias": 0} | dict.fromkeys(
    ("log_diagonal", "off_diagonal", "time", "amplitude"), 1
)


def spec(name, axes):
    """Over "x" along the axis that `axes` names; the others whole."""
    return PartitionSpec(*[None] * axes[name], "x") if name in axes else PartitionSpec()


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda a: a.name)
@pytest.mark.parametrize("axes", [{"features": 0}, AXIS_OF_POINTS], ids=["windows", "points"])
def test_eight_devices_are_one(expected, axes, axis_type):
    """Windows or Gaussians over a mesh, left to the compiler."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        placed = {
            k: jax.device_put(v, NamedSharding(mesh, spec(k, axes))) for k, v in arguments().items()
        }
        found = with_gradients(rendered)(placed)
        if axis_type == AxisType.Explicit:
            for name in ["out"] * ("features" in axes) + list(axes):
                assert found[name].sharding.spec[axes.get(name, 0)] == "x"
    same(found, expected)


def test_partial_fields_add_up(expected):
    """Each device renders its own Gaussians; a sum over devices makes the field."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    specs = {k: spec(k, AXIS_OF_POINTS) for k in arguments()}

    @jax.shard_map(mesh=mesh, in_specs=(specs,), out_specs=PartitionSpec())
    def partial_fields(a):
        return jax.lax.psum(rendered(a), "x")

    same(with_gradients(partial_fields)(arguments()), expected)


def test_memory_of_a_training_step_at_24000_gaussians():
    """SEED's 62 electrodes, 200 samples: temporary memory stays small whatever the batch."""

    def megabytes(batch):
        points, electrodes, time = 8000, 62, 200
        shapes = {
            "positions": (electrodes, 3),
            "centres": (points, 3),
            "log_diagonal": (GROUPS, points, 4),
            "off_diagonal": (GROUPS, points, 6),
            "time": (GROUPS, points),
            "amplitude": (GROUPS, points),
            "times": (time,),
            "features": (batch, time, 64),
            "kernel": (points, 64),
            "bias": (points,),
        }
        a = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}
        step = jax.jit(jax.grad(lambda a: jnp.mean(rendered(a) ** 2)))
        return step.lower(a).compile().memory_analysis().temp_size_in_bytes / 2**20

    eight, thirty_two = megabytes(8), megabytes(32)
    assert eight < 120
    io = 24 * 200 * (64 + 62) * 4 / 2**20  # what 24 more windows are, in and out
    assert thirty_two - eight < 8 * io
