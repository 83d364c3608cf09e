"""Every estimator on the same sources: rows, the page, the figure."""

from __future__ import annotations

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from eegsr_jax import methods
from eegsr_jax.errors import ChannelError, ConfigError
from eegsr_jax.evaluation import sources_page as page
from eegsr_jax.evaluation.sources_compare import CONTROL, OBSERVED, TRUTH, compare
from eegsr_jax.evaluation.sources_simulation import Simulation, simulate
from eegsr_jax.gaussians.mixture import Mixture
from eegsr_jax.geometry import make_geometry
from eegsr_jax.methods.base import Reconstruction

SMALL = Simulation(
    num_subjects=2,
    train_seconds=20.0,
    sfreq=80.0,
    positions=3,
    eccentricities=(0.4, 0.8),
    snr_db=(10.0, 30.0),
    spacing_mm=16.0,
    montage=tuple("Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2 Oz".split()),
)
LAYOUT = "F7,Fz,F8,T7,Cz,T8,P7,Pz,P8"


def field_of_electrodes() -> methods.Method:
    """A Gaussian halfway under each observed electrode, as strong as what is measured there."""
    spline = methods.make("spherical_spline")

    def plan(params, geometry):
        return {"spline": spline.plan(params, geometry)}

    def apply(plan, observed, key=None):
        mean, std = spline.apply(plan["spline"], observed, key)
        return Reconstruction(2.0 * mean, std)  # half of it is the skip's

    def mixture(params, geometry, observed):
        under = geometry.centre[None] + 0.5 * (geometry.observed - geometry.centre[None])
        count = len(under)
        beta = jnp.swapaxes(observed - observed.mean(1, keepdims=True), 1, 2)
        return Mixture(
            centres=jnp.concatenate([under, geometry.observed]),
            diagonal=jnp.broadcast_to(jnp.asarray([50.0, 50.0, 50.0, 0.0]), (1, 2 * count, 4)),
            off_diagonal=jnp.zeros((1, 2 * count, 6)),
            time=jnp.zeros((1, 2 * count)),
            amplitude=jnp.zeros((1, 2 * count)),
            beta=jnp.concatenate([beta, 2 * beta], -1),  # twice as strong outside the brain
            times=jnp.arange(observed.shape[2], dtype=jnp.float32) / 80,
            unit=jnp.ones((len(observed), geometry.target.shape[0])),
            skip=spline.apply(spline.plan(params, geometry), observed, None).mean,
        )

    return spline._replace(name="made", stages=(), plan=plan, apply=apply, mixture=mixture)


@pytest.fixture(scope="module")
def rows():
    compared = methods.parse("spherical_spline,ridge") | {"made": field_of_electrodes()}
    lines = []
    found = compare(SMALL, compared, [LAYOUT], say=lines.append)
    assert len(lines) == 6 and "missing NMSE" in lines[0] and "its field" in lines[2]
    return found


def pick(rows, method, estimator, key, head="known", sources=1):
    wanted = (method, estimator, head, sources)
    return [
        row[key] for row in rows
        if (row["method"], row.get("estimator"), row.get("head"), row["sources"]) == wanted
    ]  # fmt: skip


def test_there_is_a_row_for_every_condition(rows):
    estimators = {m: {r.get("estimator") for r in rows if r["method"] == m} for m in
                  {r["method"] for r in rows}}  # fmt: skip
    inverses = {"MNE", "dSPM", "sLORETA", "eLORETA", "Gaussians", "Gaussians, standardised"}
    assert estimators[TRUTH] == estimators[OBSERVED] == inverses
    assert estimators["ridge"] == inverses | {None}
    fields = {"field: field", "field: change", "field: seen"}
    assert estimators["made"] == inverses | fields | {None}
    assert len(estimators[CONTROL]) == 3
    for method, names in estimators.items():
        for name in names:
            for head in ("known", "wrong") if name in inverses else (None,):
                found = {
                    (r["subject"], r["sources"], r["eccentricity"], r["snr_db"]) for r in rows
                    if (r["method"], r.get("estimator")) == (method, name)
                    and head in (None, r.get("head"))
                }  # fmt: skip
                assert len(found) == 2 * 2 * 2 * 2, (method, name, head)
    assert {r["trials"] for r in rows} == {3} and {r["observed"] for r in rows} == {9}


def test_more_and_better_data_localise_better(rows):
    def error(method, estimator="eLORETA", **where):
        return np.mean(pick(rows, method, estimator, "error_mm", **where))

    assert error(TRUTH) < error(OBSERVED) < error(CONTROL, "any point")
    assert error(TRUTH) < error("ridge") < error(CONTROL, "any point")
    assert error(TRUTH) < error(CONTROL, "under the strongest electrode")
    assert error(CONTROL, "best constant") < error(CONTROL, "any point")
    assert error(TRUTH, head="wrong") != error(TRUTH)
    floors = pick(rows, TRUTH, "eLORETA", "floor_mm")
    assert 0 < np.mean(floors) < 16 * np.sqrt(3) / 2


def test_the_field_of_electrodes_is_a_control(rows):
    """Only points in the brain count, and they are half a radius under an electrode."""
    errors = pick(rows, "made", "field: field", "error_mm")
    chance = np.mean(pick(rows, CONTROL, "any point", "error_mm"))
    assert np.mean(errors) < chance
    assert pick(rows, "made", "field: field", "outside") == [1.0] * 8
    assert pick(rows, "made", "field: field", "field_share") == pytest.approx([0.5] * 8, rel=1e-5)
    # 18 points, the kernels of 20 electrodes tell them apart: nothing is hidden.
    assert max(pick(rows, "made", "field: seen", "silent")) < 1e-3


def test_reconstruction_errors_by_hand(rows):
    subject = simulate(SMALL, 1)
    where = make_geometry(
        LAYOUT.split(","), subject.names, dict(zip(subject.names, subject.electrodes, strict=True))
    )
    index = np.asarray(where.observed_index)
    missing = np.setdiff1d(np.arange(20), index)
    test, spline = subject.test, methods.make("spherical_spline")
    params = spline.init(None, where, None)
    made = methods.reconstruct(spline, params, where, test.eeg[:, index]).mean
    for factor, method in ((1.0, "spherical_spline"), (2.0, "made")):
        wrong = (factor * np.asarray(made) - test.eeg)[:, missing].astype(float)
        truth = test.eeg[:, missing].astype(float)
        for key, part in (("nmse_missing", slice(None)), ("nmse_evoked", SMALL.evoked)):
            expected = [
                (wrong[c][..., part] ** 2).sum() / (truth[c][..., part] ** 2).sum()
                for e in (0.4, 0.8)
                for snr in (10.0, 30.0)
                for c in [(test.sources == 1) & (test.eccentricity == e) & (test.snr_db == snr)]
            ]
            found = pick(rows, method, None, key, head=None)[:4]
            np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_what_does_not_fit_is_refused():
    one = dataclasses.replace(SMALL, num_subjects=1)
    ridge = methods.parse("ridge")
    with pytest.raises(ChannelError, match="observes every channel"):
        compare(one, ridge, [",".join(SMALL.montage)])
    with pytest.raises(ChannelError, match="Fp3"):
        compare(one, ridge, ["Fp3,Cz,Pz,Oz"])
    bound = {"bound": methods.make("ridge")._replace(name="bound", sfreq=100.0)}
    with pytest.raises(ConfigError, match="bound"):
        compare(one, bound, [LAYOUT])


# -------------------------------------------------------------------------------------------- page


HEADER = page.about(SMALL) | {
    "command": "eegsr evaluate --protocol=sources", "versions": {"mne": "1"}, "commit": "c",
    "device": "cpu",
}  # fmt: skip


def test_the_page_says_what_the_rows_say(rows, tmp_path):
    page.write(tmp_path / "out", HEADER, rows)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(page.FILES)
    text = (tmp_path / "out/results.md").read_text()
    by_subject = [
        np.mean([r["error_mm"] for r in rows if (r["method"], r.get("estimator"), r.get("head"),
                 r["sources"], r["subject"]) == (OBSERVED, "eLORETA", "known", 1, subject)])
        for subject in "12"
    ]  # fmt: skip
    low, middle, high = np.percentile(by_subject, [5, 50, 95])
    assert f"| {middle:.1f} ({low:.1f}–{high:.1f}) |" in text
    assert f"{middle:.1f} mm on the observed electrodes alone" in text
    for words in (
        "the full cap", "`made`, field: seen", "under the strongest electrode", "wrong head",
        "no electrode sees", "by eccentricity", "by SNR, dB", "by number of sources",
        "num_subjects 2",
    ):  # fmt: skip
        assert words in text, words
    assert "nan" not in text
    content = json.loads((tmp_path / "out/results.json").read_text())
    assert len(content["rows"]) == len(rows)
    assert content["header"]["simulation"]["positions"] == 3


def test_the_sentence_names_the_best_of_each_kind(rows):
    (sentence,) = page.reading(rows)
    assert sentence.startswith(f"{LAYOUT} (9 electrodes): eLORETA misses one source by ")
    assert "best reading of a field (made, " in sentence and " of 2 subjects" in sentence
    (without,) = page.reading([r for r in rows if r["method"] != "made"])
    assert "field" not in without


def test_the_figure_has_a_line_for_each_estimator_and_one_a_field(rows):
    made = page.by_depth(rows)
    (axes,) = made.axes
    labels = [line.get_label() for line in axes.get_lines()]
    assert len(labels) == 2 + 3 + 2 + 1 + 3
    assert sum("its field" in str(label) for label in labels) == 1
    shown = dict(zip(labels, (line.get_ydata() for line in axes.get_lines()), strict=True))
    expected = [
        np.median([
            np.mean([r["error_mm"] for r in rows if (r["method"], r.get("estimator"),
                     r.get("head"), r["sources"], r["subject"], r["eccentricity"])
                     == (TRUTH, "eLORETA", "known", 1, subject, e)])
            for subject in "12"
        ]) for e in (0.4, 0.8)
    ]  # fmt: skip
    np.testing.assert_allclose(shown["eLORETA on the full cap"], expected)


def test_a_field_without_any_strength_has_no_error(rows):
    silent = [
        r | {"error_mm": float("nan")} if r.get("estimator") == "field: seen" else r for r in rows
    ]
    text = page.page(HEADER, silent)
    line = next(x for x in text.splitlines() if x.startswith("| `made`, field: seen"))
    assert line.split("|")[2].strip() == "–"
    text = page.page(
        HEADER, [a if a["subject"] == "2" else b for a, b in zip(silent, rows, strict=True)]
    )
    line = next(x for x in text.splitlines() if x.startswith("| `made`, field: seen"))
    assert line.split("|")[2].strip().endswith("; 1 of 2 subjects")
