"""The feature level on simulated heads: its network, rows of means and draws, floors."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax import methods as mt
from eegsr_jax.data.datasets.base import Dataset, Entry
from eegsr_jax.data.pipeline import pipeline
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.recording import Event, Recording
from eegsr_jax.data.store import prepare
from eegsr_jax.evaluation import feature_network, levels
from eegsr_jax.evaluation import features as ft
from eegsr_jax.evaluation.feature_level import OTHER, FeatureLevel
from eegsr_jax.evaluation.feature_network import Networks
from eegsr_jax.evaluation.fitting import Pass, fitted, reconstructed
from eegsr_jax.evaluation.folds import Options
from eegsr_jax.evaluation.metrics import BANDS, Scores
from eegsr_jax.evaluation.protocols import protocol
from eegsr_jax.evaluation.views import views

WITHIN, ACROSS = protocol("within_runs"), protocol("leave_subjects_out")
RUNS = Options(train_runs=("1",), test_runs=("2",))
LAYOUT = "spread:8"


def drawing(name="spherical_spline"):
    """A method whose draw is its mean and 1/f noise as strong as its error bars say."""
    method = mt.make(name)

    def draw(plan, observed, key):
        mean, std = method.apply(plan, observed, None)
        frequency = jnp.arange(mean.shape[2] // 2 + 1, dtype=jnp.float32)
        amplitude = jnp.where(frequency > 0, 1 / jnp.maximum(frequency, 2.0), 0.0)
        noise = jnp.fft.rfft(jax.random.normal(key, mean.shape))
        noise = jnp.fft.irfft(noise * amplitude[None, None].astype(noise.dtype), mean.shape[2])
        return mean + std * noise / jnp.std(noise)

    return method._replace(draw=draw)


@pytest.fixture(scope="module")
def table(store):
    """Two subjects, a spline that draws and a ridge."""
    chosen = replace(RUNS, subjects=("1", "2"))
    folds = WITHIN.folds(store, chosen)
    compared = {"spline": drawing(), "ridge": mt.make("ridge")}
    lines = []
    with jax.numpy_dtype_promotion("strict"):
        level = FeatureLevel(folds, WITHIN)
        rows, study = levels.compare(
            folds, WITHIN, level, compared, [LAYOUT], say=lines.append, batch_size=5
        )
    assert len(lines) == 6 and "FID" in lines[0]
    return rows, study, level


def row_of(rows, method, subject="1"):
    (row,) = [r for r in rows if (r["method"], r["subject"]) == (method, subject)]
    return row


def test_rows_of_means_draws_and_floors(table):
    rows, study, level = table
    expected = [OTHER, "zero", "spline", "spline (draw)", "ridge"]
    assert [r["method"] for r in rows] == 2 * expected
    assert list(study.maps) == ["truth", *expected[2:]]
    for row in rows:
        assert (row["layout"], row["observed"], row["targets"]) == (LAYOUT, 8, 20)
        assert np.isfinite(row["fid"]) and row["fid"] >= 0
        assert row["windows"] == (6 if row["method"] == OTHER else 12)
        assert all(f"band_bias_{band}_db" in row for band in BANDS)
    assert row_of(rows, "zero")["nmse_missing"] == pytest.approx(1)
    assert row_of(rows, OTHER)["nmse_missing"] == pytest.approx(2, rel=0.3)  # unrelated windows
    assert row_of(rows, "zero")["fid"] > 5 * row_of(rows, "ridge")["fid"]
    assert row_of(rows, "ridge")["fit_seconds"] > 0
    (about,) = level.about()
    assert about["subject"]["classes"] == 2 and about["features"] == 32
    assert "condition" not in about  # simulated recordings have no label


def test_the_errors_are_those_of_the_signal_level(table, store):
    rows, study, _ = table
    fold = WITHIN.folds(store, replace(RUNS, subjects=("1",)))[0]
    (view,) = views(fold, WITHIN, [LAYOUT])
    eeg = np.concatenate(
        [b["eeg"] for b in pipeline(fold.store, fold.split.test, window=160, batch_size=5)]
    )
    (fit,) = fitted({"spline": drawing()}, view, Pass())
    method, plan, observed = fit.method, fit.plan, eeg[:, view.index]
    scores = Scores(view.missing, 80.0)
    scores.add(eeg, *map(np.asarray, method.apply(plan, observed, None)))
    nmse = row_of(rows, "spline")["nmse_missing"]
    assert nmse == pytest.approx(scores.summary()["nmse_missing"], rel=1e-4)
    assert row_of(rows, "spline (draw)")["nmse_missing"] > nmse
    # The draw of a batch takes the key of its number, whichever method and fold.
    keys = [jax.random.fold_in(jax.random.key(0), number) for number in (0, 1)]
    parts = [method.draw(plan, observed[5 * i : 5 * i + 5], key) for i, key in enumerate(keys)]
    drawn = reconstructed(fit, view, eeg, 5, draw=True)
    assert drawn.shape == eeg.shape
    np.testing.assert_allclose(drawn[:10], np.concatenate(parts), rtol=1e-4, atol=1e-10)
    power = ft.band_power(drawn.astype(np.float64), 80.0).mean(0)
    np.testing.assert_allclose(study.maps["spline (draw)"], power, rtol=1e-4)


def test_a_draw_makes_up_for_the_power_that_the_mean_lacks(table):
    rows, _, _ = table
    for subject in "12":
        mean, draw = (row_of(rows, m, subject) for m in ("spline", "spline (draw)"))
        assert mean["degree_bias_finer_db"] < draw["degree_bias_finer_db"]
        assert draw["covariance_db"] < mean["covariance_db"]


# ---------------------------------------------------------------------------------------- network


def labelled(tmp_path, change=lambda x, subject, run: x, subjects="12", label=None):
    """12 s of noise a run, subjects and events apart in spectrum and place; runs 1, 2 and 3."""
    place = 0.09 * np.array(
        [[0, 0, 1], [0, 1, 0], [0, -0.7, 0.7], [-1, 0, 0], [1, 0, 0], [0, -1, 0]]
    )
    entries = []
    for subject in subjects:
        for run in "123":
            rng = np.random.default_rng([int(subject), int(run)])
            data = 1e-5 * rng.standard_normal((6, 960))
            data[int(subject)] *= 3
            events = tuple(
                Event(start, start + 160, "ab"[k % 2]) for k, start in enumerate(range(0, 960, 160))
            )
            for event in events:
                data[4, event.start : event.stop] *= 4.0 if event.label == "a" else 1.0
            recording = Recording(
                data=change(data, subject, run).astype(np.float32),
                sfreq=80.0,
                names=("Cz", "Fz", "Pz", "C3", "C4", "Oz"),
                positions=place,
                usable=np.ones(960, bool),
                subject=subject,
                run=run,
                events=events if label is None else (),
            )
            read = lambda r=recording: r  # noqa: E731
            entries.append(Entry(subject=subject, run=run, read=read, label=label))
    dataset = Dataset(name="made", entries=tuple(entries), citation="Nobody", licence="CC0-1.0")
    out = tmp_path / f"store{len(list(tmp_path.iterdir()))}"
    return prepare(dataset, out, PREPROCESSING["none"], progress=False)


OPTIONS = Options(train_runs=("1", "2"), test_runs=("3",))


def network_of(store, chosen=WITHIN, options=OPTIONS, fold=0):
    folds = chosen.folds(store, options)
    networks = Networks(folds, chosen)
    (view,) = views(folds[fold], chosen, ["Cz,Fz,Pz,C3"])
    return networks.of(view), networks, folds


def test_the_network_learns_who_and_what(tmp_path):
    network, networks, folds = network_of(labelled(tmp_path))
    assert network.about["windows"] == 2 * 9  # of 12, the last fifth validates
    for question in ("subject", "condition"):
        assert network.about[question]["classes"] == 2
        assert network.about[question]["accuracy"] == 1.0 > network.about[question]["commonest"]
    for fold in folds:  # one network for all
        assert networks.of(views(fold, WITHIN, ["Cz,Fz,Pz,C3"])[0]) is network
    train = np.concatenate([
        b["eeg"] for f in folds
        for b in pipeline(f.store, f.split.train, window=160, batch_size=9)
    ])  # fmt: skip
    features = network(train)
    assert features.shape == (18, 32) and features.dtype == np.float64
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-10)
    np.testing.assert_allclose(features.std(0), 1, rtol=1e-10)


def test_no_test_window_reaches_the_network(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(feature_network, "STEPS", 40)
    eeg = 1e-5 * rng.standard_normal((4, 6, 160)).astype(np.float32)
    before = network_of(labelled(tmp_path))[0](eeg)
    altered = labelled(tmp_path, lambda x, subject, run: 7 * x if run == "3" else x)
    np.testing.assert_array_equal(network_of(altered)[0](eeg), before)
    altered = labelled(tmp_path, lambda x, subject, run: 7 * x if run == "1" else x)
    assert not np.allclose(network_of(altered)[0](eeg), before)


def test_a_subject_that_is_left_out_is_left_out(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(feature_network, "STEPS", 40)
    eeg = 1e-5 * rng.standard_normal((4, 6, 160)).astype(np.float32)

    def of(change):
        store = labelled(tmp_path, change, subjects="1234")
        return network_of(store, ACROSS, Options())

    network, networks, folds = of(lambda x, subject, run: x)
    assert networks.of(views(folds[1], ACROSS, ["Cz,Fz,Pz,C3"])[0]) is not network
    assert network.about["subject"]["classes"] == 2  # of four, one tests and one validates
    assert "accuracy" not in network.about["subject"]  # the validation subject is none of them
    same, *_ = of(lambda x, subject, run: 5 * x if subject == "1" else x)
    np.testing.assert_array_equal(same(eeg), network(eeg))


def test_one_label_is_nothing_to_learn(tmp_path):
    store = labelled(tmp_path, subjects="1", label="rest")
    network, *_ = network_of(store)
    assert network is None
    folds = WITHIN.folds(store, OPTIONS)
    level = FeatureLevel(folds, WITHIN)
    compared = {"nearest": mt.make("nearest")}
    rows, _ = levels.compare(folds, WITHIN, level, compared, ["Cz,Fz,Pz,C3"])
    assert all(np.isnan(r["fid"]) and r["band_bias_beta_db"] is not None for r in rows)
    assert level.about() == []
