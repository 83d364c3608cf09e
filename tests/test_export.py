"""Exports: the same numbers in a process without us, and refusals in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import eegsr_jax
from eegsr_jax import artefact
from eegsr_jax.errors import ConfigError, EEGSRError, MethodError
from eegsr_jax.export import ExportedMethod, export, load_exported
from eegsr_jax.geometry import make_geometry, montage
from eegsr_jax.methods import Method, Reconstruction, make

PAGE = Path(__file__).parents[1] / "docs" / "export.md"
TARGETS = "Fp1 Fp2 F3 Fz F4 C3 Cz C4 P3 Pz P4 Oz".split()
OBSERVED = "Fp1 C4 C3 Pz Oz".split()
TIME = 24
_NETWORK = {"lags": 2, "components": 4, "widths": (2,), "features": 8}
METHODS = {
    "lagged_ridge": {"lags": 2},
    "gaussian": {"lags": 1},
    "emag": {**_NETWORK, "resolution": 4},
    "srgdiff": {**_NETWORK, "hidden": 8, "steps": 2, "draws": 2},
    "srgdiff_release": {
        **{"samples": TIME, "widths": (6, 4), "latent": 4, "adversarial": 0.0},
        **{"steps": 3, "units": 2, "blocks": 1, "taps": 2, "scales": 2},
    },
}
ANY_LENGTH = ("lagged_ridge", "gaussian", "emag")


class Case(NamedTuple):
    method: Method
    plan: Any
    folder: Path
    loaded: ExportedMethod
    x: jax.Array
    expected: Reconstruction


def keys(count: int) -> jax.Array:
    """Each time anew: the tests forbid to use a key twice."""
    return jax.random.split(jax.random.key(0), count)


@pytest.fixture(scope="module")
def geometry():
    positions = {n: xyz for n, xyz in montage("standard_1005").items() if n in TARGETS}
    return make_geometry(OBSERVED, TARGETS, positions)


def parameters(method, geometry):
    """As at the start of training, but away from the zeros and infinities that hide mistakes.

    `gaussian` starts with its prior, a covariance.
    """
    generator = np.random.default_rng(1)

    def stirred(x):
        x = np.asarray(x)
        if x.dtype != np.float32:
            return x
        x = np.where(np.isfinite(x), x, 1.0)
        return (x + 0.03 * generator.standard_normal(x.shape)).astype(np.float32)

    params = jax.jit(method.init, static_argnums=2)(jax.random.key(0), geometry, TIME)
    return params if method.name == "gaussian" else jax.tree.map(stirred, params)


def some(names, slow=("srgdiff_release",)):
    """Methods by name; the largest runs with the slow tests."""
    return [pytest.param(n, marks=pytest.mark.slow) if n in slow else n for n in names]


@pytest.fixture(scope="module", params=some(METHODS))
def case(request, geometry, tmp_path_factory):
    """A method, exported, and what it makes of seven windows."""
    name = request.param
    method, folder = make(name, **METHODS[name]), tmp_path_factory.mktemp(name) / "exported"
    x = np.random.default_rng(2).standard_normal((7, len(OBSERVED), TIME)).astype(np.float32)
    with jax.numpy_dtype_promotion("strict"):
        params = parameters(method, geometry)
        export(method, params, geometry, folder, samples=None if name in ANY_LENGTH else TIME)
        plan = jax.jit(method.plan)(params, geometry)
        expected = jax.jit(method.apply)(plan, x, keys(7))
    return Case(method, plan, folder, load_exported(folder), jnp.asarray(x), expected)


def only(*names):
    return pytest.mark.parametrize("case", some(names), indirect=True)


call = jax.jit(lambda model, x, key: model(x, key))  # the model an argument


def identical(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def alike(found, expected, tolerance=2e-6):
    """Equal to within `tolerance` of the largest number that there is."""
    for a, b in zip(found, expected, strict=True):
        finite = np.isfinite(b)
        np.testing.assert_array_equal(np.isfinite(a), finite)
        scale = np.abs(np.asarray(b)[finite]).max(initial=0.0)
        np.testing.assert_allclose(a[finite], b[finite], rtol=0, atol=tolerance * scale)


# --------------------------------------------------------------------------------------- numbers


def test_an_export_is_the_method_bit_for_bit(case):
    found = call(case.loaded, case.x, keys(7))
    assert isinstance(found, Reconstruction)
    identical(found, case.expected)
    assert np.isfinite(found.mean).all() and np.std(found.mean) > 0


def test_a_batch_of_one(case):
    """Another program, which may round otherwise."""
    alike(call(case.loaded, case.x[:1], keys(7)[:1]), [part[:1] for part in case.expected])


@only("srgdiff_release")
def test_keys_are_taken_as_the_method_takes_them(case):
    """None, and one for all windows: each then has its own of it."""
    apply = jax.jit(case.method.apply)
    identical(call(case.loaded, case.x, None), apply(case.plan, case.x, None))
    found = call(case.loaded, case.x, jax.random.key(5))
    identical(found, apply(case.plan, case.x, jax.random.key(5)))
    assert (np.asarray(found.mean) != np.asarray(case.expected.mean)).any()


@only("emag")
def test_a_method_that_does_not_draw_says_so(case):
    with pytest.raises(MethodError, match="emag gives means only"):
        case.loaded.draw(case.x)


@only("srgdiff", "srgdiff_release")
def test_draws_are_the_methods_bit_for_bit(case):
    found = jax.jit(lambda m, x, k: m.draw(x, k))(case.loaded, case.x, keys(7))
    identical(found, jax.jit(case.method.draw)(case.plan, case.x, keys(7)))
    assert np.std(found) > 0


@pytest.mark.parametrize("case", some(METHODS, slow=("srgdiff", "srgdiff_release")), indirect=True)
def test_gradients_are_the_methods(case):
    """With respect to the data and every float of the plan."""

    def loss(call, plan, x):
        mean, std = call(plan, x)
        return jnp.mean(mean**2) + jnp.mean(std**2)

    def exported(plan, x):
        return dataclasses.replace(case.loaded, plan=plan)(x, keys(7))

    def own(plan, x):
        return case.method.apply(plan, x, keys(7))

    found, expected = (
        jax.jit(jax.grad(lambda p, x, c=c: loss(c, p, x), (0, 1), allow_int=True))(plan, case.x)
        for c, plan in ((exported, case.loaded.plan), (own, case.plan))
    )
    leaves = jax.tree.leaves_with_path(expected[0])
    named = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}
    assert found[0].keys() == named.keys()
    pairs = [(found[1], expected[1]), *((found[0][n], x) for n, x in named.items())]
    for a, b in pairs:
        if b.dtype == jax.dtypes.float0:
            continue
        if jnp.iscomplexobj(b):  # JAX's gradients are conjugate to those of the two parts
            b = jnp.stack([b.real, -b.imag], -1)
        assert np.isfinite(b).all()
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-4 * scale)
    assert float(jnp.abs(expected[1]).max()) > 0


@only(*ANY_LENGTH)
def test_any_length_goes_in_where_the_method_allows(case):
    assert case.loaded.card.samples is None
    for length in (1, 100):
        x = jnp.tile(case.x[:2], (1, 1, 5))[..., :length]
        found = case.loaded(x)
        assert found.mean.shape == (2, len(TARGETS), length)
        identical(found, jax.jit(case.method.apply)(case.plan, x, None))


FRESH = """
import sys
names = {}
exec(sys.stdin.read(), names)
names["np"].savez("found.npz", mean=names["mean"], std=names["std"])
assert not {"eegsr_jax", "flax", "mne", "orbax"} & {name.split(".")[0] for name in sys.modules}
"""


def script() -> str:
    """The script of the page."""
    if not PAGE.exists():
        pytest.skip("no docs here: an installed package")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    (found,) = [block for block in blocks if "safetensors" in block]
    assert len(found.splitlines()) <= 20
    return found


def test_a_fresh_process_without_us_finds_the_same_bits(case):
    """By the script of the page."""
    folder = case.folder.parent
    np.save(folder / "observed.npy", case.x)
    command = [sys.executable, "-I", "-c", FRESH]
    subprocess.run(command, cwd=folder, input=script(), text=True, check=True, timeout=120)
    with np.load(folder / "found.npz", allow_pickle=False) as found:
        identical((found["mean"], found["std"]), tuple(case.expected))


OTHER = """
import sys
import jax, numpy as np
from eegsr_jax.errors import ConfigError
from eegsr_jax.export import load_exported
folder = sys.argv[1]
print(jax.__version__)
try:
    found = load_exported(folder)
except ConfigError as error:
    print(error)
    sys.exit()
x = np.load(sys.argv[2])
mean, std = found(x, jax.random.split(jax.random.key(0), len(x)))
np.savez(sys.argv[3], mean=mean, std=std)
"""


def test_another_jax_finds_the_same_numbers_or_says_why_not(case, tmp_path):
    other = os.environ.get("EEGSR_TEST_OTHER_PYTHON")
    where = Path(eegsr_jax.__file__).parents[1]
    if not other or not (where / "setup.py").exists():
        pytest.skip("no checkout, or EEGSR_TEST_OTHER_PYTHON names no Python with another jax")
    np.save(tmp_path / "x.npy", case.x)
    words = [other, "-c", OTHER, str(case.folder), str(tmp_path / "x.npy"), str(tmp_path / "y.npz")]
    done = subprocess.run(
        words,
        env=os.environ | {"PYTHONPATH": str(where)},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        timeout=300,
    )
    version, *said = done.stdout.splitlines()
    if _number(version) < _number(jax.__version__) and said:
        assert len(said) == 1 and "which cannot read it" in said[0] and version in said[0]
        return
    assert not said
    with np.load(tmp_path / "y.npz", allow_pickle=False) as arrays:
        found = [arrays["mean"], arrays["std"]]
    alike(found, case.expected, 1e-5)
    error = np.abs(found[0] - np.asarray(case.expected.mean)).max()
    error /= np.abs(case.expected.mean).max()
    print(f"{case.method.name}: jax {version} against {jax.__version__}: {error:.1e}")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])


def test_plans_of_every_type(geometry, tmp_path):
    """Nested, complex, whole, true or false, half precision, empty."""
    plan = {
        "a": {"rotation": jnp.asarray([1 + 2j, -3j], jnp.complex64), "on": jnp.asarray(True)},
        "half": jnp.asarray([0.5, 3.0], jnp.bfloat16),
        "rows": [jnp.arange(12, dtype=jnp.int32) % 5],
        "nothing": jnp.zeros((0, 3)),
    }

    def apply(plan, observed, keys):
        gain = (plan["a"]["rotation"][0] * plan["a"]["rotation"][1]).real  # 6
        gain = gain * plan["half"].astype(jnp.float32).sum() + plan["nothing"].sum()
        mean = gain * observed[:, plan["rows"][0]]
        noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
        return Reconstruction(jnp.where(plan["a"]["on"], mean, 0.0), noise)

    toy = Method("toy", lambda *_: {}, (), lambda *_: plan, apply)
    export(toy, {}, geometry, tmp_path / "out")
    loaded, x = load_exported(tmp_path / "out"), np.ones((2, 5, 3), np.float32)
    mean, std = loaded(x, keys(2))
    np.testing.assert_array_equal(mean, np.full((2, 12, 3), 21.0))
    identical(std, apply(plan, x, keys(2)).std)
    assert sorted(loaded.plan) == ["a/on", "a/rotation", "half", "nothing", "rows/0"]
    assert loaded.plan["a/rotation"].shape == (2, 2)


# -------------------------------------------------------------------------------------- embedding


@only("lagged_ridge", "emag")
def test_inside_a_program_of_the_caller(case, counted):
    """As an argument, in a scan, and traced once for any plan."""
    pieces = case.x[:6].reshape(3, 2, *case.x.shape[1:])

    @jax.jit
    @counted
    def program(model, pieces):
        def body(total, x):
            found = model(x)
            return total + found.mean.sum(), found.mean

        return jax.lax.scan(body, 0.0, pieces)

    total, found = program(case.loaded, pieces)
    whole = case.expected.mean[:6]
    alike([found.reshape(whole.shape)], [whole])
    np.testing.assert_allclose(total, whole.sum(), rtol=1e-4)
    program(jax.tree.map(jnp.array, case.loaded), pieces)
    assert program.__wrapped__.calls == 1
    assert len(jax.tree.leaves(case.loaded)) == len(jax.tree.leaves(case.plan))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda a: a.name)
@only("lagged_ridge", "emag")
def test_eight_devices_are_one(case, axis_type):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        spread = jnp.concatenate([case.x, case.x[:1]])
        spread = jax.device_put(spread, NamedSharding(mesh, PartitionSpec("batch")))
        found = case.loaded(spread)
        assert found.mean.sharding.spec[0] == "batch"
    alike([np.asarray(part)[:7] for part in found], case.expected)


# ------------------------------------------------------------------------------------- the folder


def test_the_card_says_what_goes_in_and_comes_out(case, geometry):
    card = load_exported(case.folder).card
    assert [e.name for e in card.observed] == OBSERVED
    assert [e.name for e in card.target] == TARGETS
    np.testing.assert_allclose([e.position for e in card.target], geometry.target, rtol=1e-6)
    assert card.context == case.method.context and card.origin.unit == "V"
    assert card.versions.jax == jax.__version__
    assert card.versions.eegsr_jax == eegsr_jax.__version__
    draws = ["draw.bin"] if case.method.draw else []
    assert [file.name for file in card.files] == ["mean_std.bin", *draws, "plan.safetensors"]
    assert sorted(p.name for p in case.folder.iterdir()) == sorted(
        ["card.json", *(file.name for file in card.files)]
    )
    for _, program in case.loaded._programs:
        assert program.platforms == artefact.PLATFORMS


def export_nearest(geometry, place, **options):
    method = make("nearest")
    return export(method, method.init(None, geometry, None), geometry, place, **options)


@pytest.fixture
def copied(tmp_path, geometry):
    """An export to damage."""
    place = tmp_path / "exported"
    export_nearest(geometry, place)
    return place


def changed(folder: Path, change) -> None:
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("version", "message"),
    [(8, "too old: jax 0.1.2 wrote it in calling convention 8"), (99, "too new: jax 0.1.2 wrote")],
)
def test_another_calling_convention_is_refused(copied, version, message):
    changed(copied, lambda card: card["versions"].update(calling_convention=version, jax="0.1.2"))
    with pytest.raises(ConfigError, match=message) as caught:
        load_exported(copied)
    assert "\n" not in str(caught.value) and "export the run again" in str(caught.value)


@pytest.mark.parametrize("name", ["mean_std.bin", "plan.safetensors"])
def test_a_changed_or_missing_file_is_refused(copied, name):
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(ConfigError, match=f"{name} is not what was exported"):
        load_exported(copied)
    (copied / name).unlink()
    with pytest.raises(ConfigError, match=f"{name}: No such file"):
        load_exported(copied)


def test_what_this_jax_cannot_read_is_refused(copied):
    """A program that is none, with its own digest in the card."""
    (copied / "mean_std.bin").write_bytes(b"not a program")
    digest = artefact.listed({"": b"not a program"})[0].sha256
    changed(copied, lambda card: card["files"][0].update(sha256=digest))
    with pytest.raises(ConfigError, match="which cannot read it") as caught:
        load_exported(copied)
    assert "\n" not in str(caught.value)


def test_a_newer_format_is_refused(copied):
    changed(copied, lambda card: card.update(format=2, novelty=1))
    with pytest.raises(ConfigError, match="of format 2, this eegsr_jax reads 1; update it"):
        load_exported(copied)


def test_no_export_and_a_damaged_card_are_refused(copied, tmp_path):
    with pytest.raises(ConfigError, match="nothing is no export: it has no card.json"):
        load_exported(tmp_path / "nothing")
    changed(copied, lambda card: card["files"].pop())
    with pytest.raises(ConfigError, match="card.json: lists no plan.safetensors"):
        load_exported(copied)
    (copied / "card.json").write_text("{")
    with pytest.raises(ConfigError, match="card.json: cannot be read"):
        load_exported(copied)
    (copied / "card.json").write_text('{"type": "ExportCard"}')
    with pytest.raises(ConfigError, match="card.json: .*missing 9"):
        load_exported(copied)


def test_an_existing_folder_is_replaced_when_asked_and_an_export(copied, tmp_path, geometry):
    with pytest.raises(ConfigError, match="exists; choose another name, or say --overwrite"):
        export_nearest(geometry, copied)
    (copied / "mine.txt").touch()
    export_nearest(geometry, copied, samples=9, overwrite=True)
    assert load_exported(copied).card.samples == 9
    assert not (copied / "mine.txt").exists()
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ConfigError, match="other is no export, and is not replaced"):
        export_nearest(geometry, other, overwrite=True)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


# --------------------------------------------------------------------------------------- refusals


def test_a_method_that_must_know_its_window_says_so(geometry, tmp_path):
    method = make("srgdiff", **METHODS["srgdiff"])
    params = parameters(method, geometry)
    with pytest.raises(MethodError, match=r"srgdiff must know the number of samples.*--samples=N"):
        export(method, params, geometry, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_samples_that_cannot_be_is_refused(geometry, tmp_path):
    bound = make("srgdiff_release", **METHODS["srgdiff_release"])
    with pytest.raises(ConfigError, match="samples=25: expected 24, as the method is bound to"):
        export(bound, {}, geometry, tmp_path / "out", samples=25)
    with pytest.raises(ConfigError, match="samples=0: expected 1 or more"):
        export_nearest(geometry, tmp_path / "out", samples=0)


def test_a_mesh_is_refused(geometry, tmp_path):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh), pytest.raises(ConfigError, match="export outside of it"):
        export_nearest(geometry, tmp_path / "out")


@pytest.mark.parametrize(
    ("x", "key", "message"),
    [
        (
            np.zeros((2, 6, 9), "f4"),
            None,
            r"observed is \[2, 6, 9\]; expected \[batch, 5, 9\]",
        ),
        (np.zeros((5, 9), "f4"), None, r"observed is \[5, 9\].*Fp1, C4, C3, Pz, Oz"),
        (np.zeros((2, 5, 8), "f4"), None, r"observed is \[2, 5, 8\]; expected \[batch, 5, 9\]"),
        (np.zeros((0, 5, 9), "f4"), None, r"observed is \[0, 5, 9\]"),
        (np.zeros((2, 5, 9)), None, "observed is float64; expected float32, in V"),
        (np.zeros((2, 5, 9), "f4"), 0, r"key is int\[\]; expected jax.random.key\("),
        (np.zeros((2, 5, 9), "f4"), np.zeros(2, "u4"), r"key is uint32\[2\]; expected"),
    ],
)
def test_wrong_inputs_are_refused(geometry, tmp_path, x, key, message):
    export_nearest(geometry, tmp_path / "out", samples=9)
    loaded = load_exported(tmp_path / "out")
    with pytest.raises(EEGSRError, match=message) as caught:
        loaded(x, key)
    assert "\n" not in str(caught.value)
    with pytest.raises(MethodError, match=r"key<fry>\[3\]"):
        loaded(np.zeros((2, 5, 9), np.float32), jax.random.split(jax.random.key(0), 3))


# ------------------------------------------------------------------------------------ safetensors

ARRAYS = {
    "a/flag": np.asarray([True, False, True]),
    "a/number": np.float32(2.5),
    "b": np.arange(6, dtype=np.int32).reshape(2, 3).T,
    "empty": np.zeros((0, 4), np.float32),
    "half": np.asarray(jnp.linspace(-3, 3, 5, dtype=jnp.bfloat16)),
}


def test_arrays_come_back_as_they_were():
    found = artefact.unpacked(artefact.packed({n: np.asarray(x) for n, x in ARRAYS.items()}))
    assert found.keys() == ARRAYS.keys()
    for name, x in ARRAYS.items():
        assert found[name].dtype == x.dtype and found[name].shape == x.shape
        np.testing.assert_array_equal(found[name], x)
    with pytest.raises(MethodError, match="the plan's z is complex64"):
        artefact.packed({"z": np.zeros(2, np.complex64)})


def test_the_library_reads_our_files(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays = {n: np.asarray(x) for n, x in ARRAYS.items() if n != "half"}
    (tmp_path / "x.safetensors").write_bytes(artefact.packed(arrays))
    found = safetensors.load_file(tmp_path / "x.safetensors")
    identical(found, arrays)
    rows = {n: np.array(x, order="C") for n, x in arrays.items()}  # it ignores strides
    identical(artefact.unpacked(safetensors.save(rows)), rows)
