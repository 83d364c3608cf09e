"""One table of methods: what goes into them, what they are scored on, and the numbers."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from eegsr_jax import layouts as ly
from eegsr_jax import methods as mt
from eegsr_jax.data import datasets
from eegsr_jax.data.datasets.base import Dataset, Entry
from eegsr_jax.data.pipeline import pipeline
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.recording import Recording
from eegsr_jax.data.store import prepare
from eegsr_jax.errors import ChannelError, ConfigError, SplitError
from eegsr_jax.evaluation.compare import compare, floor_rows
from eegsr_jax.evaluation.folds import Options, Protocol
from eegsr_jax.evaluation.metrics import Scores
from eegsr_jax.evaluation.protocols import protocol
from eegsr_jax.evaluation.views import views
from eegsr_jax.methods.base import Method, MomentStage, linear_apply, linear_plan

WITHIN = protocol("within_runs")
RUNS = Options(subjects=("1",), train_runs=("1",), test_runs=("2",))
LAYOUTS = ["spread:8", "random:8:1"]
ISSUE_KEYS = (
    "method layout factor reference nmse_missing nmse_all pcc_missing snr_missing_db coverage_90 "
    "fit_seconds times_real_time split seed"
).split()
MEASURED = ("fit_seconds", "compile_seconds", "times_real_time")


@pytest.fixture(scope="module")
def methods():
    """One object of each, so that what is compiled once serves all tests."""
    return mt.parse(
        "nearest,spherical_spline,ridge(penalties=(1e-3,)),lagged_ridge(lags=2),gaussian(lags=1)"
    )


@pytest.fixture(scope="module")
def table(store, methods):
    """Rows of all methods, two layouts and both references on the second run of subject 1."""
    with jax.numpy_dtype_promotion("strict"):
        return compare(
            WITHIN.folds(store, RUNS),
            WITHIN,
            methods,
            LAYOUTS,
            references=["native", "observed_average"],
        )


def scores(row) -> dict:
    """What does not depend on the machine, nor on which other layouts are compared."""
    return {k: v for k, v in row.items() if k not in (*MEASURED, "snr_common_db")}


def of(rows, **wanted) -> list[dict]:
    return [r for r in rows if all(r[k] == v for k, v in wanted.items())]


def altered(store, tmp_path, change):
    """The store with `change(data, names)` made to every recording of subject 1."""
    entries = []
    for r in store.select(subjects=["1"]).recordings:
        recording = Recording(
            data=change(store.read(r.key), r.names).astype(np.float32),
            sfreq=r.sfreq,
            names=r.names,
            positions=r.positions,
            usable=np.ones(r.samples, bool),
            subject=r.subject,
            run=r.run,
        )
        entries.append(Entry(subject=r.subject, run=r.run, read=lambda x=recording: x))
    dataset = Dataset(name="made", entries=tuple(entries), citation="Nobody", licence="CC0-1.0")
    return prepare(dataset, tmp_path / "altered", PREPROCESSING["none"], progress=False)


# ---------------------------------------------------------------------------------------- rows


def test_a_row_for_every_method_layout_and_reference_with_all_keys(table, methods, store):
    rows, _ = table
    assert all(np.isfinite(row["snr_common_db"]) for row in rows)
    combinations = {(r["method"], r["layout"], r["reference"]) for r in rows}
    assert len(rows) == len(combinations) == len(methods) * 2 * 2
    for row in rows:
        assert [key for key in ISSUE_KEYS if key not in row] == []
        assert row["protocol"] == "within_runs" and row["split"] == "by_run"
        assert (row["observed"], row["targets"], row["factor"]) == (8, 20, 2.5)
        assert not row["leaky"] and row["seed"] is None and row["subject"] == "1"
        assert 0 < row["nmse_missing"] and 0 < row["nmse_all"] < row["nmse_missing"]
        assert row["fit_seconds"] > 0 and row["times_real_time"] > 100
        assert row["snr_missing_db"] == pytest.approx(-10 * np.log10(row["nmse_missing"]))
    drawn = np.sort(np.random.default_rng(1).choice(20, 8, replace=False))
    names = [store.recordings[0].names[i] for i in drawn]
    assert {r["layout_hash"] for r in of(rows, layout="random:8:1")} == {ly.list_hash(names)}


def test_layouts_share_the_channels_that_none_observes(store):
    (fold,) = WITHIN.folds(store, RUNS)
    both = views(fold, WITHIN, LAYOUTS)
    for view in both:
        expected = np.ones(20, bool)
        expected[[i for v in both for i in v.index]] = False
        np.testing.assert_array_equal(view.common, expected)
    assert not views(fold, WITHIN, LAYOUTS[:1])[0].common.any()


def test_learning_from_the_subject_beats_the_spline(table):
    rows, _ = table
    for layout in LAYOUTS:
        for reference in ("native", "observed_average"):
            nmse = {r["method"]: r["nmse_missing"] for r in of(rows, layout=layout)
                    if r["reference"] == reference}  # fmt: skip
            assert nmse["lagged_ridge(lags=2)"] < 0.9 * nmse["spherical_spline"]


def test_error_bars_mean_what_they_say(table):
    for row in table[0]:
        assert 0.85 < row["coverage_90"] < 0.96, row["method"]


def test_ridge_equals_scikit_learn(table, store):
    (fold,) = WITHIN.folds(store, RUNS)
    windows = {
        part: np.concatenate(
            [b["eeg"] for b in pipeline(store, segments, window=160, batch_size=64)]
        ).astype(np.float64)
        for part, segments in (
            ("train", fold.split.train), ("validate", fold.split.validate),
            ("test", fold.split.test),
        )
    }  # fmt: skip
    kept = np.sort(np.random.default_rng(1).choice(20, 8, replace=False))
    missing = np.setdiff1d(np.arange(20), kept)

    def flat(*parts):
        x = np.concatenate([windows[p] for p in parts]).transpose(0, 2, 1).reshape(-1, 20)
        return x[:, kept], x[:, missing]

    def fitted(*parts):
        x, y = flat(*parts)
        power = np.trace(np.cov(x.T, ddof=0)) / len(kept)
        return Ridge(alpha=1e-3 * power * len(x)).fit(x, y)

    x, y = flat("test")
    model = fitted("train", "validate")  # refitted on all training windows
    wrong = model.predict(x) - y
    # Error bars are the residual of what the first windows taught, on the last fifth.
    past = fitted("train").predict(flat("validate")[0]) - flat("validate")[1]
    inside = np.abs(wrong) <= 1.644854 * np.sqrt((past**2).mean(0))
    (row,) = of(
        table[0], layout="random:8:1", reference="native", method="ridge(penalties=(1e-3,))"
    )
    assert row["nmse_missing"] == pytest.approx((wrong**2).sum() / (y**2).sum(), rel=1e-4)
    assert row["coverage_90"] == pytest.approx(inside.mean(), abs=2e-3)


def test_one_pass_for_all_gives_the_numbers_of_separate_passes(table, store, methods):
    rows, _ = table
    for label, method in methods.items():
        for layout in LAYOUTS:
            alone, _ = compare(WITHIN.folds(store, RUNS), WITHIN, {label: method}, [layout])
            (together,) = of(rows, method=label, layout=layout, reference="native")
            assert scores(alone[0]) == scores(together)


def test_the_stretch_is_test_data_that_every_method_reconstructed(table, store, methods):
    rows, stretch = table
    (fold,) = WITHIN.folds(store, RUNS)
    (segment,) = fold.split.test
    truth = store.read(segment.key, 0, 800)  # ten seconds
    np.testing.assert_array_equal(stretch.truth, truth)
    assert set(stretch.mean) == set(stretch.std) == set(methods)
    kept = np.asarray(stretch.geometry.observed_index)
    for label in methods:
        np.testing.assert_array_equal(stretch.mean[label][kept], truth[kept])
        wrong = ((stretch.mean[label] - truth) ** 2).sum() / (truth**2).sum()
        (row,) = of(rows, method=label, layout=LAYOUTS[0], reference="native")
        assert 0.3 < wrong / row["nmse_all"] < 3


def test_floors_are_printed_once_a_layout(table):
    floors = floor_rows(table[0])
    assert [f["layout"] for f in floors] == LAYOUTS
    for row in floors:
        assert row["method"] == "zero" and row["nmse_missing"] == 1
        assert row["nmse_all"] == pytest.approx(1 - 8 / 20)


# ----------------------------------------------------------------------------------- references


DEEP = (
    "emag(lags=2,resolution=4,components=4,widths=(2,),features=8,epochs=2,batch_size=8),"
    "emag_paper(sfreq={sfreq},samples={samples},resolution=4,groups=1,epochs=1,init='window'),"
    "lagged_ridge(lags=2)"
)


def test_deep_methods_have_a_row_for_every_seed(store):
    sfreq = store.recordings[0].sfreq
    window = WITHIN.window(sfreq)
    methods = mt.parse(DEEP.format(sfreq=sfreq, samples=window))
    folds = WITHIN.folds(store, RUNS)
    rows, stretch = compare(folds, WITHIN, methods, ["spread:8"], seeds=(0, 1))
    deep, paper, ridge = methods
    assert [r["training_seed"] for r in rows] == [0, 1, 0, 1, None]
    assert all(np.isfinite(r["nmse_missing"]) for r in rows)
    first, second = (r["nmse_missing"] for r in of(rows, method=paper))
    assert first != second
    # The ridge comes first in one of them: it cannot be far from it.
    (alone,) = of(rows, method=ridge)
    assert of(rows, method=deep)[0]["nmse_missing"] < 1.1 * alone["nmse_missing"]
    # Longer than the window that a method is bound to, a stretch is put together.
    assert stretch.truth.shape[1] > window
    assert all(np.isfinite(x).all() for x in stretch.mean.values())
    with pytest.raises(ConfigError, match=f"bound to windows of {window + 1} samples.*samples="):
        wrong = mt.parse(DEEP.format(sfreq=sfreq, samples=window + 1))
        compare(folds, WITHIN, wrong, ["spread:8"])


def spy_on_inputs(seen: list[np.ndarray]) -> Method:
    """Predicts zero and keeps what it was given."""

    def apply(plan, observed, key):
        jax.debug.callback(lambda x: seen.append(np.array(x)), observed)
        return linear_apply(plan, observed, key)

    def plan(params, geometry):
        shape = (1, geometry.target.shape[0], geometry.observed.shape[0])
        return linear_plan(geometry, jnp.zeros(shape), jnp.ones(shape[1]))

    return Method("spy", lambda key, geometry, window: {}, (), plan, apply)


def test_what_goes_in_does_not_depend_on_missing_channels(store, tmp_path):
    """No information may come from them, not through the reference either."""
    rng = np.random.default_rng(5)
    kept = np.sort(np.random.default_rng(1).choice(20, 8, replace=False))

    def change(data, names):
        data = data.copy()
        missing = np.setdiff1d(np.arange(20), kept)
        data[missing] += 1e-4 * rng.standard_normal((12, data.shape[1])) + 3e-4
        return data

    inputs = []
    for source in (store, altered(store, tmp_path, change)):
        seen: list[np.ndarray] = []
        compare(
            WITHIN.folds(source, RUNS),
            WITHIN,
            {"spy": spy_on_inputs(seen)},
            ["random:8:1"],
            references=["native", "observed_average"],
        )
        jax.effects_barrier()
        inputs.append(seen)
    assert len(inputs[0]) == len(inputs[1]) > 3
    for before, after in zip(*inputs, strict=True):
        np.testing.assert_array_equal(before, after)
    referenced = [np.abs(x.mean(1)).max() < 1e-10 for x in inputs[0]]
    assert any(referenced) and not all(referenced)


def test_a_common_signal_does_not_change_average_referenced_scores(store, table, methods, tmp_path):
    def change(data, names):
        time = np.arange(data.shape[1]) / 80
        return data + 3e-5 * np.sin(2 * np.pi * 7 * time)[None]

    rows, _ = compare(
        WITHIN.folds(altered(store, tmp_path, change), RUNS),
        WITHIN,
        methods,
        ["random:8:1"],
        references=["native", "observed_average"],
    )
    for label in methods:
        where = {"method": label, "layout": "random:8:1"}
        ((before,), (after,)) = (
            of(r, **where, reference="observed_average") for r in (table[0], rows)
        )
        assert after["nmse_missing"] == pytest.approx(before["nmse_missing"], rel=2e-3)
        assert after["coverage_90"] == pytest.approx(before["coverage_90"], abs=2e-3)
        ((before,), (after,)) = (of(r, **where, reference="native") for r in (table[0], rows))
        assert after["nmse_missing"] < 0.8 * before["nmse_missing"]  # an easy part was added


# ----------------------------------------------------------------------------------- data access


def spy_on_training(seen: list[np.ndarray], samples: int) -> Method:
    """Keeps how often each sample (told by channel 0 of the ramps) was in each part."""

    def start(params, geometry):
        return jnp.zeros((2, samples), jnp.int32)

    def update(params, sums, batch, geometry):
        place = batch["eeg"][:, 0].astype(jnp.int32)
        used = jnp.broadcast_to((batch["part"] >= 0)[:, None], place.shape).astype(jnp.int32)
        part = jnp.broadcast_to(jnp.maximum(batch["part"], 0)[:, None], place.shape)
        return sums.at[part, place].add(used)

    def solve(params, sums, geometry):
        jax.debug.callback(lambda x: seen.append(np.array(x)), sums)
        return params

    spy = spy_on_inputs([])
    return spy._replace(stages=(MomentStage(start, update, solve),))


def samples_of(store, segments, window: int) -> np.ndarray:
    """Ramp values of the whole windows of some segments."""
    numbers = {r.key: i for i, r in enumerate(store.recordings)}
    found = []
    for s in segments:
        whole = (s.stop - s.start) // window * window
        found.append(4000 * numbers[s.key] + np.arange(s.start, s.start + whole))
    return np.sort(np.concatenate(found)) if found else np.zeros(0, int)


@pytest.mark.parametrize("name", ["within_runs", "chronological", "leave_subjects_out", "srgdiff"])
def test_test_windows_never_reach_a_stage(ramps, name):
    store = ramps([(s, "1", run, 700) for s in "abcd" for run in "12"])
    chosen = protocol(name)
    options = Options(train_runs=("1",), test_runs=("2",), calibration_seconds=(0, 20))
    for fold in chosen.folds(store, options)[:3]:
        seen: list[np.ndarray] = []
        method = spy_on_training(seen, 4000 * len(store.recordings))
        compare([fold], chosen, {"spy": method}, ["Cz,Fz,Pz,C3"])
        jax.effects_barrier()
        window, split = chosen.window(10.0), fold.split
        expected = [
            (samples_of(store, split.train, window), samples_of(store, split.validate, window))
        ]
        if split.calibration:
            own = samples_of(store, split.calibration, window)
            assert len(own) == 200
            expected.append((own[:160], own[160:]))  # the last fifth validates
        counts = np.unique(np.stack(seen), axis=0)
        assert len(counts) == len(expected)
        for parts in expected:
            wanted = np.zeros_like(counts[0])
            for which, places in enumerate(parts):
                wanted[which, places] = 1
            assert any(np.array_equal(wanted, count) for count in counts)
        tested = samples_of(store, split.test, window)
        assert counts[..., tested].sum() == 0


def test_calibration_gives_the_subject_its_own_map(store, methods):
    chosen = protocol("leave_subjects_out")
    options = Options(subjects=("2",), calibration_seconds=(0, 10, 20))
    label = "ridge(penalties=(1e-3,))"
    both = {k: methods[k] for k in (label, "gaussian(lags=1)")}
    rows, _ = compare(chosen.folds(store, options), chosen, both, ["spread:8"])
    assert [r["calibration_seconds"] for r in rows] == [0, 0, 10, 10, 20, 20]
    ridge, gaussian = ([r["nmse_missing"] for r in of(rows, method=k)] for k in both)
    assert ridge[2] < ridge[1] < ridge[0]  # simulated heads have nothing in common
    assert gaussian[2] < gaussian[1] < gaussian[0]

    # A ridge with calibration is the subject's own ridge, fitted on these seconds alone.
    own = Protocol(
        name="own", summary="", folds=lambda s, o: [
            replace(f, calibration_seconds=0.0, split=replace(
                f.split, train=f.split.calibration, validate=(), calibration=()))
            for f in chosen.folds(s, o)
        ],
    )  # fmt: skip
    options = replace(options, calibration_seconds=(20,))
    alone, _ = compare(own.folds(store, options), own, {label: methods[label]}, ["spread:8"])
    assert alone[0]["nmse_missing"] == pytest.approx(ridge[2], rel=1e-6)


def test_too_little_calibration_is_refused(store, methods):
    chosen = protocol("leave_subjects_out")
    folds = chosen.folds(store, Options(subjects=("1",), calibration_seconds=(8,)))
    with pytest.raises(SplitError, match="4 calibration windows of 2 s; at least 5 needed"):
        compare(folds, chosen, {"nearest": methods["nearest"]}, ["spread:8"])


def test_the_shipped_prior_is_not_scored_on_the_subjects_it_has_seen(store):
    known = {"mine": mt.make("population")}
    (fold,) = WITHIN.folds(store, RUNS)
    compare([fold], WITHIN, known, ["spread:8"])
    seen = replace(fold, store=replace(store, dataset="eegbci"))
    with pytest.raises(ConfigError, match="method mine has seen subjects of eegbci"):
        compare([seen], WITHIN, known, ["spread:8"])


# ---------------------------------------------------------------------------------- the peers'


def test_emag_scores_standardised_windows(store, methods):
    chosen = protocol("emag")
    (fold,) = chosen.folds(store, Options(subjects=("3",)))
    label = "nearest"
    rows, _ = compare([fold], chosen, {label: methods[label]}, ["emag:SUBJECT:2"])
    own = fold.store
    eeg = np.concatenate(
        [b["eeg"] for b in pipeline(own, fold.split.test, window=320, batch_size=8)]
    ).astype(np.float64)
    z = (eeg - eeg.mean(-1, keepdims=True)) / eeg.std(-1, keepdims=True)
    names, place = own.recordings[0].names, own.recordings[0].positions
    kept = ly.emag_draw("3", 20, 2)
    closest = np.linalg.norm(place[:, None] - place[None, kept], axis=-1).argmin(1)
    wrong = z[:, kept][:, closest] - z
    assert rows[0]["nmse_all"] == pytest.approx((wrong**2).mean() / (z**2).mean(), rel=1e-4)
    assert rows[0]["layout_hash"] == ly.list_hash([names[i] for i in kept])
    assert rows[0]["leaky"] and rows[0]["seed"] == 42


def test_dibima_scores_batches_in_the_order_that_was_dealt(store, methods):
    chosen = protocol("dibima")
    (fold,) = chosen.folds(store, Options())
    rows, _ = compare([fold], chosen, {"nearest": methods["nearest"]}, ["spread:8"], batch_size=7)
    truth = np.stack([fold.store.read(s.key, s.start, s.stop) for s in fold.split.test])
    place = fold.store.recordings[0].positions
    names = fold.store.recordings[0].names
    index = np.flatnonzero(np.isin(names, ly.layout("spread:8", names, positions=place)))
    closest = np.linalg.norm(place[:, None] - place[None, index], axis=-1).argmin(1)
    expected = Scores(np.ones(20, bool), 80.0)
    expected.add(truth, truth[:, index][:, closest], np.ones_like(truth))
    assert rows[0]["nmse_all_batch"] == pytest.approx(
        expected.summary()["nmse_all_batch"], rel=1e-4
    )
    assert rows[0]["leaky"] and rows[0]["subject"] == "all"


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("nowhere", "layout 'nowhere' is unknown"),
        ("random:20", "layout 'random:20' observes every channel"),
        ("Fz,Cz,Pz,XX9", "XX9 not among the 20 channels"),
        ("random:3", "3 observed channels"),
    ],
)
def test_layouts_are_checked_before_anything_is_trained(store, wrong, message):
    seen: list[np.ndarray] = []
    with pytest.raises(ChannelError, match=message):
        compare(
            WITHIN.folds(store, RUNS),
            WITHIN,
            {"spy": spy_on_training(seen, 1)},
            ["spread:8", wrong],
        )
    jax.effects_barrier()
    assert seen == []


def test_a_test_part_without_a_whole_window_is_refused(ramps, methods):
    store = ramps([("a", "1", "1", 400), ("a", "1", "2", 15)])
    folds = WITHIN.folds(store, Options(train_runs=("1",), test_runs=("2",)))
    with pytest.raises(SplitError, match="no window of 20 usable samples"):
        compare(folds, WITHIN, {"nearest": methods["nearest"]}, ["Cz,Fz,Pz,C3"])


# ------------------------------------------------------------------------------------- real data


@pytest.fixture(scope="module")
def s001(real_eeg, tmp_path_factory):
    dataset = datasets.load(
        "eegbci", real_eeg / "eegmmidb", subjects=["1"], runs=[str(r) for r in range(3, 15)]
    )
    out = tmp_path_factory.mktemp("s001") / "store"
    return prepare(dataset, out, PREPROCESSING["dibima"], progress=False)


@pytest.mark.slow
def test_the_reference_table_of_s001(s001):
    """Figures measured for the specification, another implementation of each."""
    expected = {
        "case2_4x": {"spherical_spline": 0.0704, "ridge": 0.0395, "lagged_ridge": 0.0331},
        "case2_8x": {"spherical_spline": 0.162, "ridge": 0.0759, "lagged_ridge": 0.0566},
        "case1_4x": {"spherical_spline": 0.0828, "ridge": 0.0381, "lagged_ridge": 0.0304},
    }
    runs = [str(r) for r in range(3, 15)]
    options = Options(train_runs=tuple(runs[:8]), test_runs=tuple(runs[8:]))
    rows, _ = compare(
        WITHIN.folds(s001, options),
        WITHIN,
        mt.parse("spherical_spline,ridge,lagged_ridge"),
        list(expected),
    )
    for layout, by_method in expected.items():
        for method, nmse in by_method.items():
            (row,) = of(rows, layout=layout, method=method)
            assert row["nmse_missing"] == pytest.approx(nmse, rel=0.03), (layout, method)
            if method != "spherical_spline":
                assert 0.88 < row["coverage_90"] < 0.94, (layout, method)
            assert row["times_real_time"] > 1000


@pytest.mark.slow
def test_the_peers_metric_on_a_random_split_of_s001(s001):
    """All channels, batches of 32: the specification's second table (another random split)."""
    chosen = protocol("dibima")
    rows, _ = compare(
        chosen.folds(s001, Options()),
        chosen,
        mt.parse("spherical_spline,ridge,lagged_ridge"),
        ["case2_4x"],
    )
    for method, nmse in (("spherical_spline", 0.0608), ("ridge", 0.0369), ("lagged_ridge", 0.0316)):
        (row,) = of(rows, method=method)
        assert row["nmse_all_batch"] == pytest.approx(nmse, rel=0.15)
        assert row["leaky"]


@pytest.mark.slow
def test_what_other_subjects_teach(real_eeg, tmp_path):
    """Run 4 of 13 subjects: a prior from the others beats the spline, ten seconds beat both."""
    dataset = datasets.load(
        "eegbci",
        real_eeg / "eegmmidb",
        subjects=[str(s) for s in range(1, 15) if s != 10],
        runs=["4"],
    )
    store = prepare(dataset, tmp_path / "store", PREPROCESSING["default"], progress=False)
    chosen = protocol("leave_subjects_out")
    # Medians of the spline, of an average of covariances, and of that with 10 s of calibration.
    expected = {
        "case2_4x": (0.232, 0.182, 0.156),
        "case2_8x": (0.335, 0.239, 0.211),
        "case1_4x": (0.250, 0.179, 0.148),
    }
    rows, _ = compare(
        chosen.folds(store, Options(calibration_seconds=(0, 10))),
        chosen,
        mt.parse("spherical_spline,gaussian"),
        list(expected),
    )
    for layout, (of_spline, of_average, of_calibrated) in expected.items():
        spline, prior, calibrated = (
            np.array(
                [
                    r["nmse_missing"]
                    for r in of(rows, layout=layout, method=method, calibration_seconds=seconds)
                ]
            )
            for method, seconds in (("spherical_spline", 0), ("gaussian", 0), ("gaussian", 10))
        )
        assert len(prior) == 13
        assert np.median(spline) == pytest.approx(of_spline, rel=0.03)
        assert np.median(prior) < of_average and (prior < spline).sum() >= 12
        assert np.median(calibrated) < of_calibrated and (calibrated < prior).sum() >= 11
