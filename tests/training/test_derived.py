"""What a stage derives of each window is what it would compute on the fly, wherever it is kept."""

from __future__ import annotations

import functools
import resource
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

from eegsr_jax.data import datasets
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.segments import Segment
from eegsr_jax.data.store import prepare
from eegsr_jax.distributed import make_mesh
from eegsr_jax.errors import ConfigError, MethodError
from eegsr_jax.geometry import make_geometry, montage
from eegsr_jax.methods import GradientStage, Method
from eegsr_jax.methods.base import linear_apply
from eegsr_jax.training.derived import derive
from eegsr_jax.training.gradient import train_stage, warm_up
from eegsr_jax.training.journal import Journal, RunJournal, Stopped
from eegsr_jax.training.loop import fit, nameless
from eegsr_jax.training.many import Task, fit_many
from eegsr_jax.training.windows import MemoryWindows, StoreWindows

NAMES = "Fp1 Fp2 F3 Fz F4 C3 Cz C4 P3 Pz P4 Oz".split()
OBSERVED = "Fp1 C3 C4 Pz Oz".split()
WINDOW, SFREQ = 40, 80.0
SCALE = 2.0**17  # a power of two: products with it are exact, however they are compiled
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """2 subjects, 10 s of 12 channels."""
    dataset = datasets.load(
        "simulated", montage=NAMES, num_subjects=2, seconds=10.0, sfreq=SFREQ, num_sources=40
    )
    out = tmp_path_factory.mktemp("derived") / "store"
    return prepare(dataset, out, PREPROCESSING["none"], progress=False)


@pytest.fixture(scope="module")
def stored(store):
    """The training segments of the recordings stand by turns, and one has no window."""
    first, second = (recording.key for recording in store.recordings)
    spans = (first, 0, 210), (second, 0, 333), (first, 215, 500), (first, 500, 520)
    return StoreWindows(
        store=store,
        train=tuple(Segment(*span) for span in spans),
        validate=(Segment(first, 600, 800), Segment(second, 640, 800)),
        window=WINDOW,
        batch_size=6,
        channels=tuple(NAMES),
    )


@pytest.fixture(scope="module")
def in_memory(stored):
    return MemoryWindows(stored)


@pytest.fixture(scope="module")
def geometry():
    positions = {n: xyz for n, xyz in montage("standard_1005").items() if n in NAMES}
    return nameless(make_geometry(OBSERVED, NAMES, positions))


def parts(params, batch, geometry):
    """Some of each kind: exact, rounded, drawn, one number a window, of another type."""
    seen = batch["eeg"][:, geometry.observed_index] * params["fixed"]
    keys = jax.vmap(jax.random.split)(batch["key"])
    noise = jax.vmap(lambda key: jax.random.normal(key, seen.shape[1:]))(keys[:, 0])
    return {
        "seen": seen,
        "bent": jnp.tanh(seen) + noise,
        "bits": jax.vmap(jax.random.bits)(keys[:, 1]),
        "coarse": seen.astype(jnp.bfloat16),
    }


def predict(params, seen):
    return jnp.einsum("ml,blt->bmt", params["map"], seen)


def loss(params, batch, geometry):
    seen = batch["eeg"][:, geometry.observed_index] * params["fixed"]
    error = predict(params, batch["seen"]) - batch["eeg"] * params["fixed"]
    differs = jnp.max(jnp.abs(batch["seen"] - seen))
    return jnp.mean((error + 0.01 * batch["bent"][:, :1]) ** 2), {"differs": differs}


def score(params, batch, geometry):
    kept = (batch["part"] >= 0)[:, None, None]
    truth = batch["eeg"] * params["fixed"]
    sums = [jnp.where(kept, x, 0.0) for x in (predict(params, batch["seen"]) - truth, truth)]
    return jnp.stack([jnp.sum(x**2) for x in sums])


STAGE = GradientStage(
    name="map",
    loss=loss,
    score=score,
    trainable=("map",),
    optimizer=lambda steps: optax.adam(0.02),
    epochs=3,
    batch_size=4,
    overlap=2,
    derive=parts,
)
PARAMS = {"map": jnp.zeros((12, 5)), "fixed": jnp.float32(SCALE)}


def on_the_fly(places, part, eeg, geometry):
    """By the definition: a window, and the key of its place."""
    own = jax.random.fold_in(KEY, 2**31 + 1 + part)
    bare = [jax.random.key_data(jax.random.fold_in(own, place)) for place in places.tolist()]
    keys = jax.random.wrap_key_data(jnp.stack(bare))
    return jax.jit(parts)(PARAMS, {"eeg": eeg[places], "key": keys}, geometry)


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert found[name].dtype == x.dtype, name
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(x), err_msg=name)


def journal(folder):
    """Of a run directory, without checkpoints by the clock."""
    make, quiet = functools.partial(folder.mkdir, exist_ok=True), [].append
    return RunJournal(folder, open_folder=make, every=1e9, say=quiet)


def files(folder):
    return sorted((folder / "checkpoints" / "progress" / "derived").iterdir())


# ----------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("overlap", [1, 2, 3])
@pytest.mark.parametrize("kind", ["stored", "in_memory"])
def test_shuffled_windows_say_which_they_are(kind, overlap, request):
    windows = request.getfixturevalue(kind)
    every, source = windows.load(0, overlap), windows.shuffled(4, overlap, 7)
    share = windows.shuffled(4, overlap, 7, np.array([1, 3]))  # of one of several processes
    if kind == "stored":  # 210, 333 and 285 samples in windows of 40
        assert len(every) == {1: 5 + 8 + 7, 2: 9 + 15 + 13, 3: 14 + 23 + 19}[overlap]
    seen = []
    for _ in range(-(-len(every) // 4)):
        batch = next(source)
        np.testing.assert_array_equal(batch["eeg"], every[batch["index"]])
        own = next(share)
        np.testing.assert_array_equal(own["eeg"], batch["eeg"][[1, 3]])
        np.testing.assert_array_equal(own["index"], batch["index"][[1, 3]])
        seen += batch["index"].tolist()
    assert set(seen[: len(every)]) == set(range(len(every)))
    recorded = windows.recorded(0, overlap)
    assert len(recorded) == (2 if kind == "stored" else 1)
    for own in recorded:
        np.testing.assert_array_equal(np.concatenate([*own.read(3)]), every[own.places])


# ------------------------------------------------------------------------------------------ derive


@pytest.mark.parametrize("overlap", [1, 2])
@pytest.mark.parametrize("kind", ["stored", "in_memory", "files"])
def test_it_is_what_is_computed_on_the_fly(kind, overlap, geometry, tmp_path, request):
    windows = request.getfixturevalue("in_memory" if kind == "in_memory" else "stored")
    where = journal(tmp_path / "run") if kind == "files" else Journal()
    stage = STAGE._replace(overlap=overlap)
    both = derive(stage, PARAMS, geometry, windows, KEY, where)
    for part, found in enumerate(both):
        eeg = windows.load(part, overlap if part == 0 else 1)
        order = np.random.default_rng(0).permutation(len(eeg))
        for places in order[: len(order) // 4 * 4].reshape(-1, 4):
            same(found(places), on_the_fly(places, part, eeg, geometry))
    if kind == "files":
        assert len(files(tmp_path / "run")) == 2 * 2 * 4  # recordings, parts, names


def test_the_size_of_batches_changes_nothing(stored, geometry):
    every = np.arange(len(stored.load(0, 2)))
    stages = (STAGE._replace(batch_size=size) for size in (4, 7))
    four, seven = (derive(s, PARAMS, geometry, stored, KEY, Journal()).train(every) for s in stages)
    same(four, seven)


@pytest.mark.parametrize("kind", ["stored", "in_memory"])
def test_loss_and_score_see_that_of_their_windows(kind, geometry, request):
    windows, told = request.getfixturevalue(kind), []

    class Notes(Journal):
        def epoch(self, stage, numbers, remaining=0.0, of=0):
            told.append(numbers)

    params = train_stage(STAGE, PARAMS, geometry, windows, KEY, journal=Notes())
    assert [n["differs"] for n in told[1:]] == [0.0] * 3
    assert told[-1]["validate"] < 0.8 < told[0]["validate"]
    part = np.ones(len(windows.load(1)), np.int32)
    batch = {"eeg": windows.load(1), "part": part}
    batch["seen"] = batch["eeg"][:, np.asarray(geometry.observed_index)] * np.float32(SCALE)
    error, power = score(params, batch, geometry)
    assert float(error / power) == pytest.approx(told[-1]["best_validate"], rel=1e-5)


def test_without_validation_windows(stored, geometry):
    none = replace(stored, validate=())
    assert np.abs(train_stage(STAGE, PARAMS, geometry, none, KEY)["map"]).max() > 0.01


# ------------------------------------------------------------------------------------------- files


def stopping(folder, at):
    """A journal that is asked to stop at a step, as by a signal."""
    run = journal(folder)
    due, left = run.due, iter(range(at - 1, -1, -1))

    def asked():
        run._signals.asked = next(left) == 0
        return due()

    run.due = asked
    return run


def test_resumed_it_finds_its_files(stored, geometry, tmp_path):
    whole = train_stage(STAGE, PARAMS, geometry, stored, KEY)  # in memory
    with pytest.raises(Stopped):
        train_stage(STAGE, PARAMS, geometry, stored, KEY, journal=stopping(tmp_path / "run", 8))
    before = {path: path.stat().st_mtime_ns for path in files(tmp_path / "run")}
    assert len(before) == 16 and all(path.suffix == ".npy" for path in before)
    run = journal(tmp_path / "run")
    params = train_stage(STAGE, PARAMS, geometry, stored, KEY, journal=run)
    np.testing.assert_array_equal(params["map"], whole["map"])
    assert {path: path.stat().st_mtime_ns for path in files(tmp_path / "run")} == before
    run.finish(1, params)
    assert [p.name for p in (tmp_path / "run/checkpoints/progress").iterdir()] == ["stages"]


def test_files_of_a_recording_that_is_not_whole_are_made_again(stored, geometry, tmp_path):
    def made():
        return derive(STAGE, PARAMS, geometry, stored, KEY, journal(tmp_path / "run"))

    every = np.arange(len(stored.load(0, 2)))
    expected = made().train(every)
    lost, *others = files(tmp_path / "run")
    lost.unlink()
    (lost.parent / f".{lost.name}.1.tmp").write_bytes(b"half")  # a process was killed
    same(made().train(every), expected)
    assert files(tmp_path / "run") == [lost, *others]


@pytest.mark.parametrize("change", ["params", "key", "name", "geometry", "segments", "overlap"])
def test_what_was_derived_of_other_things_is_made_again(change, stored, geometry, tmp_path):
    derive(STAGE, PARAMS, geometry, stored, KEY, journal(tmp_path / "run"))
    before = set(files(tmp_path / "run"))
    changed = {
        "params": {"params": PARAMS | {"map": jnp.ones((12, 5))}},
        "key": {"key": jax.random.key(4)},
        "name": {"stage": STAGE._replace(name="other")},
        "geometry": {"geometry": replace(geometry, target=geometry.target + 0.001)},
        "segments": {"windows": replace(stored, train=stored.train[:1])},
        "overlap": {"stage": STAGE._replace(overlap=1)},
    }[change]
    given = {"stage": STAGE, "params": PARAMS, "geometry": geometry, "windows": stored, "key": KEY}
    derive(**given | changed, journal=journal(tmp_path / "run"))
    kept = before & set(files(tmp_path / "run"))
    assert len(kept) == (8 if change in ("segments", "overlap") else 0)  # of validation


def test_what_is_shown_otherwise_is_kept_in_memory(stored, geometry, tmp_path):
    """Nothing tells by which function windows were changed."""
    half = replace(stored, shown=lambda eeg: eeg / 2)
    found = derive(STAGE, PARAMS, geometry, half, KEY, journal(tmp_path / "run"))
    assert files(tmp_path / "run") == []
    places = np.arange(4)
    same(found.train(places), on_the_fly(places, 0, half.load(0, 2), geometry))


def test_a_full_disk_is_told(stored, geometry, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ConfigError, match="derived: cannot write what map derives: File too"):
            derive(STAGE, PARAMS, geometry, stored, KEY, journal(tmp_path / "run"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(tmp_path / "run") == []


def test_a_signal_ends_it_after_a_recording(stored, geometry, tmp_path):
    run = journal(tmp_path / "run")
    opened = StoreWindows.recorded

    class Asking(StoreWindows):
        def recorded(self, part, overlap=1):
            run._signals.asked = part == 1  # while the training windows are done
            return opened(self, part, overlap)

    asking = Asking(**{name: getattr(stored, name) for name in stored.__dataclass_fields__})
    with pytest.raises(Stopped):
        derive(STAGE, PARAMS, geometry, asking, KEY, run)
    assert len(files(tmp_path / "run")) == 8


# ------------------------------------------------------------------------- refusals, trials, meshes


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (
            lambda p, b, g: {"z": b["eeg"][0]},
            r"map: derive gives .*'z': \(12, 40\).* for 4 windows",
        ),
        (lambda p, b, g: b["eeg"], "expected arrays by name"),
        (lambda p, b, g: {"eeg": 2 * b["eeg"]}, "derive gives 'eeg', which batches have already"),
    ],
)
def test_what_cannot_be_kept_is_refused(made, complaint, stored, geometry, tmp_path):
    with pytest.raises(MethodError, match=complaint):
        derive(STAGE._replace(derive=made), PARAMS, geometry, stored, KEY, journal(tmp_path / "r"))
    assert list(tmp_path.iterdir()) == []


def test_a_trial_compiles_all_and_derives_one_batch(stored, geometry):
    traced = []

    def watched(params, batch, geometry):
        jax.debug.callback(lambda: traced.append("run"))
        traced.append("traced")
        return parts(params, batch, geometry)

    stage = STAGE._replace(derive=watched)
    warm_up(stage, PARAMS, geometry, stored)
    jax.effects_barrier()
    assert traced.count("run") == 1
    count = traced.count("traced")
    train_stage(stage, PARAMS, geometry, stored, KEY)
    jax.effects_barrier()
    assert traced.count("traced") == count
    # Two recordings in batches of 4: 22 and 15 training windows, 5 and 4 validation windows.
    assert traced.count("run") == 1 + 6 + 4 + 2 + 1


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_mesh_changes_nothing(stored, geometry, axis_type):
    mesh = jax.make_mesh((4,), ("windows",), axis_types=(axis_type,))
    alone, spread = (
        train_stage(STAGE, PARAMS, geometry, stored, KEY, mesh=m)["map"] for m in (None, mesh)
    )
    np.testing.assert_allclose(spread, alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("spec", "axis_type"),
    [
        (None, None),
        ("models:2", AxisType.Auto),
        ("models:2,windows:2", AxisType.Auto),
        ("models:2,windows:2", AxisType.Explicit),
    ],
)
def test_many_are_each_alone(spec, axis_type, stored):
    """Two seeds; and windows in another order, of which none validate."""
    positions = {n: xyz for n, xyz in montage("standard_1005").items() if n in NAMES}
    where = make_geometry(OBSERVED, NAMES, positions)

    def init(key, geometry, window):
        return PARAMS | {"map": 0.1 * jax.random.normal(key, (12, 5))}

    method = Method("toy", init, (STAGE,), lambda params, geometry: params, linear_apply)
    people = stored, stored, replace(stored, train=stored.train[::-1], validate=())
    tasks = [Task(where, windows, jax.random.key(i)) for i, windows in enumerate(people)]
    mesh = make_mesh(spec) if spec else None
    if mesh is not None:
        mesh = Mesh(mesh.devices, mesh.axis_names, (axis_type,) * len(mesh.axis_names))
    together = fit_many(method, tasks, mesh=mesh)
    for task, params in zip(tasks, together, strict=True):
        alone = fit(method, where, task.windows, key=jax.random.clone(task.key))
        np.testing.assert_allclose(params["map"], alone["map"], rtol=1e-5, atol=1e-6)
