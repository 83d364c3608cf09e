"""The example, its figures and the HTML report."""

from __future__ import annotations

import dataclasses
import html
import html.parser
import re
import sys

import jax
import matplotlib
import numpy as np
import pytest

from eegsr_jax import geometry, methods
from eegsr_jax.data import preprocessing
from eegsr_jax.data.datasets import eegbci
from eegsr_jax.errors import EEGSRError, MethodError, RecordingError
from eegsr_jax.evaluation import figures, report
from eegsr_jax.evaluation.metrics import Scores
from eegsr_jax.layouts import NAMED
from eegsr_jax.training.loop import fit

matplotlib.use("agg")

NAMES = tuple("Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 Oz O2".split())
OBSERVED = ("Fp1", "Fz", "C3", "C4", "Pz", "O1", "T8")


@pytest.fixture(scope="module")
def positions():
    table = geometry.montage("standard_1005")
    return np.stack([table[name] for name in NAMES])


@pytest.fixture(scope="module")
def example(positions):
    """Low-rank Gaussian data, with the exact conditional mean and standard error as `ridge`."""
    rng = np.random.default_rng(3)
    time, given = 1280, [NAMES.index(name) for name in OBSERVED]
    smooth = np.exp(-((positions[:, None] - positions[None]) ** 2).sum(-1) / 0.06**2)
    covariance = 400e-12 * (smooth + 0.05 * np.eye(len(NAMES)))
    truth = np.linalg.cholesky(covariance) @ rng.standard_normal((len(NAMES), time))
    weights = np.linalg.solve(covariance[np.ix_(given, given)], covariance[given]).T
    mean = weights @ truth[given]
    error = np.sqrt(np.maximum(np.diag(covariance - weights @ covariance[given]), 0))
    error[given] = 0
    poor = np.where(np.isin(NAMES, OBSERVED)[:, None], truth, 0.5 * mean)
    return report.Example(
        title="simulated, 7 of 20",
        names=NAMES,
        positions=positions,
        sfreq=160.0,
        observed=OBSERVED,
        truth=truth,
        mean={"spherical_spline": poor, "ridge": mean},
        std={
            "spherical_spline": np.full_like(truth, np.inf),
            "ridge": np.broadcast_to(error[:, None], truth.shape),
        },
    )


def rows_of(example, layout="simulated", **more):
    return [
        {"method": method, "layout": layout, "reference": "native", "subject": "1"}
        | scores.summary()
        | more
        for method, scores in example.scores.items()
    ]


# --------------------------------------------------------------------------------------- example


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": np.zeros((3, 5))}, "truth has shape (3, 5); expected (20 channels"),
        ({"std": {"ridge": np.zeros((20, 4)), "spherical_spline": np.zeros((20, 5))}}, "std of"),
        ({"std": {}}, "mean is of ['ridge', 'spherical_spline'] and std of []"),
        ({"observed": NAMES}, "all 20 channels were given"),
    ],
)
def test_an_example_that_does_not_fit_is_refused(example, change, message):
    with pytest.raises(MethodError, match=re.escape(message)):
        dataclasses.replace(example, **change)


def test_observed_names_may_be_spelled_otherwise(example):
    other = dataclasses.replace(example, observed=tuple(n.upper() + "." for n in OBSERVED))
    np.testing.assert_array_equal(other.missing, example.missing)
    assert example.missing.sum() == 13


def test_exact_error_bars_promise_the_nmse_that_comes(example):
    expected = example.expected_nmse("ridge")[example.missing]
    actual = example.quality("ridge")[example.missing]
    np.testing.assert_allclose(expected, actual, rtol=0.12)
    assert np.isnan(example.expected_nmse("spherical_spline")).all()


def test_quality_is_the_plain_ratio(example):
    error = ((example.mean["ridge"] - example.truth) ** 2).sum(1) / (example.truth**2).sum(1)
    np.testing.assert_allclose(example.quality("ridge"), error)
    assert example.ranking == ["ridge", "spherical_spline"]


def test_peaks_are_local_maxima_and_the_highest_is_among_them(example):
    power, peaks = example.field_power(), example.peaks(3)
    assert len(peaks) == 3 and (np.diff(peaks) > 0).all()
    assert power.argmax() in peaks
    for peak in peaks:
        assert power[peak] == power[max(0, peak - 1) : peak + 2].max()


def test_angles_are_those_of_the_geometry(example):
    made = geometry.make_geometry(OBSERVED, NAMES, dict(zip(NAMES, example.positions, strict=True)))
    np.testing.assert_allclose(example.nearest_angle, geometry.nearest_angle(made), atol=2e-3)


def test_electrodes_stand_where_mne_draws_them(example):
    import mne

    centre, radius = geometry.fit_sphere(example.positions)
    info = mne.create_info(list(NAMES), 160.0, "eeg")
    info.set_montage(
        mne.channels.make_dig_montage(
            dict(zip(NAMES, example.positions, strict=True)), coord_frame="head"
        )
    )
    with figures.figure(3, 3) as made:
        ax = made.subplots()
        mne.viz.plot_topomap(
            np.arange(20.0), info, sphere=(*centre, radius), sensors="ko", axes=ax, show=False
        )
    drawn = next(line for line in ax.lines if len(line.get_xdata()) == len(NAMES))
    xy = (np.c_[drawn.get_xdata(), drawn.get_ydata()] - centre[:2]) / radius
    np.testing.assert_allclose(example.head, xy, atol=1e-6)


# --------------------------------------------------------------------------------------- figures


def images(made):
    return {ax: ax.images[0] for ax in made.axes if ax.images}


def test_topomaps_of_a_row_share_one_colour_scale(example):
    made = report.topomaps(example, ["ridge", "spherical_spline"])
    titles = [ax.get_title() for ax in made.axes if ax.get_title()]
    assert titles == [
        "\ntruth", "ridge\nestimate", "\nerror", "\nσ",
        "spherical_spline\nestimate", "\nerror", "\nσ",
    ]  # fmt: skip
    maps = images(made)
    # Truth, and estimate and error of two methods; σ of one, since the spline has no error bars.
    assert len(maps) == 3 * 6
    rows = {}
    for ax, image in maps.items():
        kind = "σ" if image.get_cmap().name == "viridis" else "volts"
        rows.setdefault((kind, ax.get_subplotspec().rowspan.start), set()).add(image.get_clim())
    assert all(len(limits) == 1 for limits in rows.values())
    assert all(low == -high for kind, _ in rows for low, high in rows[kind, _] if kind == "volts")
    assert len({limits for key in rows for limits in rows[key] if key[0] == "σ"}) == 1
    assert sum(t.get_text() == "no\nerror\nbars" for ax in made.axes for t in ax.texts) == 3
    labels = [ax.get_ylabel() or ax.get_xlabel() for ax in made.axes]
    assert labels.count("µV") == 3 and labels.count("σ, µV") == 1


def test_topomaps_mark_given_and_missing_electrodes(example):
    made = report.topomaps(example, ["ridge"])
    for ax in images(made):
        dots = {line.get_markerfacecolor(): line for line in ax.lines if line.get_marker() == "o"}
        assert len(dots["k"].get_xdata()) == 7 and len(dots["w"].get_xdata()) == 13


def test_a_broken_electrode_does_not_take_the_colours(example):
    truth = example.truth.copy()
    truth[NAMES.index("Oz")] *= 1000
    broken = dataclasses.replace(example, truth=truth)
    made = report.topomaps(broken, ["ridge"])
    limits = [image.get_clim()[1] for image in images(made).values()]
    assert max(limits) < 1e6 * np.abs(truth).max() / 5


def test_channels_show_the_best_median_and_worst_with_their_band(example):
    made = figures.channels(example, "ridge")
    nmse = example.quality("ridge")
    missing = np.flatnonzero(example.missing)
    shown = [ax.get_title(loc="left").partition(":")[0] for ax in made.axes]
    assert shown[0] == NAMES[missing[nmse[missing].argmin()]]
    assert shown[2] == NAMES[missing[nmse[missing].argmax()]]
    assert nmse[NAMES.index(shown[1])] == np.median(nmse[missing])
    for ax, name in zip(made.axes, shown, strict=True):
        band = ax.collections[0].get_paths()[0].get_extents()
        std = 1e6 * example.std["ridge"][NAMES.index(name), 0]
        (line,) = [x for x in ax.lines if x.get_label() == "ridge"]
        assert band.y1 == pytest.approx(line.get_ydata().max() + 1.644854 * std)


def test_no_band_where_there_are_no_error_bars(example):
    made = figures.channels(example, "spherical_spline")
    assert not any(ax.collections for ax in made.axes)


def test_the_spectrum_is_that_of_mne(example):
    from mne.time_frequency import psd_array_welch

    made = figures.spectra(example, {}, "")
    (line,) = [x for x in made.axes[0].lines if x.get_label() == "truth"]
    power, frequency = psd_array_welch(
        1e6 * example.truth[example.missing], 160.0, n_fft=320, n_overlap=160, window="hann",
        remove_dc=True, verbose="error",
    )  # fmt: skip
    np.testing.assert_allclose(line.get_xdata(), frequency)
    np.testing.assert_allclose(line.get_ydata(), power.mean(0), rtol=1e-6)


def test_bands_are_drawn_in_decibels_and_empty_ones_left_out(example):
    bands = {"ridge": {"delta": 0.1, "gamma": float("nan")}, "spherical_spline": {"delta": 1.0}}
    ax = figures.spectra(example, bands, "test").axes[1]
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == pytest.approx([10, 0])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["delta\n1–4 Hz"]


def test_coverage_draws_what_it_is_given():
    made = figures.coverage({"ridge": {50: 0.4, 90: 0.3}}, "test")
    (line,) = [x for x in made.axes[0].lines if x.get_label() == "ridge"]
    np.testing.assert_allclose(line.get_xydata(), [[50, 40], [90, 30]])
    assert made.axes[0].get_ylim()[0] < 30


def test_every_method_has_its_own_colour_in_every_figure():
    every = figures.colours([*methods.METHODS, "emag", "srgdiff", "lagged_ridge(lags=2)", "mine"])
    assert len(set(every.values())) == len(every)
    assert figures.colours(["mine", "ridge"])["ridge"] == every["ridge"]


def test_reliability_names_the_electrodes_briefly(example):
    renamed = dataclasses.replace(
        example,
        names=tuple(f"EEG {i:03d}" for i in range(1, 21)),
        observed=tuple(f"EEG {NAMES.index(n) + 1:03d}" for n in OBSERVED),
    )
    made = figures.reliability(renamed, ["ridge"])
    labels = {t.get_text() for t in made.axes[0].texts}
    assert len(labels) == 13 and labels <= {str(i) for i in range(1, 21)}


# ---------------------------------------------------------------------------------------- report

HEADER = {
    "protocol": "within_runs",
    "versions": {"jax": jax.__version__},
    "layouts": {"simulated": "0a1b2c3d"},
    "recordings": {f"S001R{i:02d}": "ab" * 8 for i in range(40)},
    "command": r"eegsr evaluate --root=/home/someone/data --out=C:\Users\me\out x=/srv/a.fif",
    "source": "https://physionet.org/content/eegmmidb/1.0.0/ seen 1/2",
    "floors": [{"method": "zero", "layout": "simulated", "nmse_missing": 1.0, "nmse_all": 0.65}],
}


class Page(html.parser.HTMLParser):
    """Text by element, images, and external resources."""

    def __init__(self, path):
        super().__init__()
        self.words, self.images, self.external = [], [], []
        # Without pictures and fonts: base64 has slashes of its own.
        self.source = re.sub(r"base64,[\w+/=\s]+", "", path.read_text(encoding="utf-8"))
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs)
        if tag in ("script", "img", "link", "iframe"):
            source = attrs.get("src") or attrs.get("href") or ""
            self.external += [source] if source and not source.startswith("data:") else []

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def page(example, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    notes = ["windows of <2 s> of /data/private/file.edf"]
    report.write_report(path, header=HEADER, rows=rows_of(example), example=example, notes=notes)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert path.stat().st_size < 5e6
    return Page(path)


def test_the_report_opens_with_the_sentence_and_the_table(page, example):
    from eegsr_jax.evaluation import tables

    assert tables.reading(rows_of(example)) in page.text
    assert page.text.index("ridge reconstructs") < page.text.index("NMSE all (flatters)")
    assert page.text.index("NMSE missing") < page.text.index("NMSE all (flatters)")
    assert "zero" in page.text and "not for diagnosis" in page.text
    assert "no lagged ridge was run" in page.text


def test_the_report_has_every_picture(page):
    titles = [image.get("alt") for image in page.images]
    wanted = ["Topomaps", "Butterfly", "Channels with error bars", "Spectra and bands"]
    assert [t for t in titles if t in (*wanted, "Reliability on the head", "Coverage")] == [
        *wanted, "Reliability on the head", "Coverage",
    ]  # fmt: skip


def test_the_report_is_self_contained(page):
    assert page.external == []


def test_the_report_tells_how_to_get_the_numbers_again(page):
    for part in ("within_runs", f"jax {jax.__version__}", "0a1b2c3d", "S001R39"):
        assert part in page.text


def test_the_report_holds_no_path_of_the_machine(page):
    for part in ("/home/someone", "Users\\me", "/srv/", "/data/private", sys.prefix, "/tmp"):
        assert part not in page.source
    assert "--root=data --out=out x=a.fif" in page.text and "file.edf" in page.text
    assert "https://physionet.org/content/eegmmidb/1.0.0/ seen 1/2" in page.text


def test_the_report_escapes_what_it_is_told(page):
    assert html.escape("windows of <2 s> of") in page.source


def test_the_channel_table_lists_the_worst_first(page, example):
    text = page.text[page.text.rindex("This stretch only") :]
    first = re.search(r"\b(" + "|".join(NAMES) + r")\b", text).group()
    nmse = np.where(example.missing, example.quality("ridge"), 0)
    assert first == NAMES[nmse.argmax()]
    assert "ridge: 90 % bars cover" in text and "nearest given, °" in text


def test_a_report_of_nothing_but_an_estimate(example, tmp_path):
    blind = dataclasses.replace(
        example,
        title="windows of <2 s>",
        truth=None,
        mean={"spherical_spline": example.mean["spherical_spline"]},
        std={"spherical_spline": example.std["spherical_spline"]},
    )
    report.write_report(tmp_path / "r.html", header={}, rows=[], example=blind)
    page = Page(tmp_path / "r.html")
    assert "Reliability on the head" not in page.text and "Topomaps" in page.text
    assert "windows of <2 s>" in page.text
    assert len(report.save_pictures(tmp_path / "png", blind)) == 3


def test_an_existing_report_is_kept_unless_asked(example, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(RecordingError, match=r"report\.html: exists"):
        report.write_report(path, header={}, rows=[], example=example)
    assert path.read_text() == "mine"


def test_a_report_that_fails_leaves_nothing(example, tmp_path):
    with pytest.raises(KeyError):
        report.write_report(tmp_path / "r.html", header={}, rows=[{"layout": "x"}], example=example)
    assert list(tmp_path.iterdir()) == []


def test_a_report_without_truth_over_an_old_one(example, tmp_path):
    from matplotlib import pyplot

    path = tmp_path / "report.html"
    path.write_text("old")
    blind = dataclasses.replace(example, truth=None)
    report.write_report(path, header={}, rows=[], example=blind, overwrite=True)
    page = Page(path)
    assert "expected NMSE" in page.text and "Coverage" not in page.text
    assert "old" != page.source and "7 electrodes given" in page.text
    assert pyplot.get_fignums() == []  # no figure stays behind


def test_several_subjects_bring_the_paired_table(example, tmp_path):
    rows = [
        row | {"subject": str(s), "method": method}
        for s in range(3)
        for row, method in zip(rows_of(example), ("spherical_spline", "lagged_ridge"), strict=True)
    ]
    report.write_report(tmp_path / "r.html", header={}, rows=rows, example=example)
    text = Page(tmp_path / "r.html").text
    assert "Over 3 subjects (medians)" in text and "on the same subjects as lagged_ridge" in text


def test_pictures_for_a_page(example, tmp_path):
    made = report.save_pictures(tmp_path / "new", example)
    assert [p.name for p in made] == ["topomaps.png", "channels.png", "reliability.png"]
    assert sorted(made) == sorted((tmp_path / "new").iterdir())
    for path in made:
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 10_000
    with pytest.raises(EEGSRError, match=r"topomaps\.png: exists"):
        report.save_pictures(tmp_path / "new", example)
    report.save_pictures(tmp_path / "new", example, overwrite=True)


# ------------------------------------------------------------------------------------- real EEG


def test_a_report_of_real_eeg(real_eeg, tmp_path):
    def read(run):
        found = eegbci.open_dataset(real_eeg / "eegmmidb", subjects=["1"], runs=[run])
        recording = found.entries[0].read()
        short = dataclasses.replace(
            recording, data=recording.data[:, :6400], usable=recording.usable[:6400]
        )
        return preprocessing.apply(short, preprocessing.PREPROCESSING["dibima"])

    train, test = read("3"), read("11")
    made = geometry.make_geometry(
        NAMED["case2_4x"], train.names, dict(zip(train.names, train.positions, strict=True))
    )
    windows = train.data.reshape(64, 20, 320).transpose(1, 0, 2)
    batch = {"eeg": windows, "part": np.repeat([0, 1], [16, 4]).astype(np.int32)}
    truth = test.data[:, :1600]
    mean, std = {}, {}
    for name in ("spherical_spline", "ridge"):
        method = methods.make(name)
        params = fit(method, made, lambda: [batch])
        observed = truth[None, np.asarray(made.observed_index)]
        found = method.apply(method.plan(params, made), observed, None)
        mean[name], std[name] = (np.asarray(a[0]) for a in found)
    example = report.Example(
        title="S001R11",
        names=train.names,
        positions=train.positions,
        sfreq=160.0,
        observed=made.observed_names,
        truth=truth,
        mean=mean,
        std=std,
    )
    assert example.ranking == ["ridge", "spherical_spline"]
    missing = example.missing
    assert isinstance(example.scores["ridge"], Scores)
    assert example.scores["ridge"].summary()["nmse_missing"] < 0.06
    # What the error bars promise orders the channels as they turn out.
    expected, actual = example.expected_nmse("ridge")[missing], example.quality("ridge")[missing]
    assert np.corrcoef(np.log(expected), np.log(actual))[0, 1] > 0.7
    report.write_report(tmp_path / "r.html", header={}, rows=[], example=example)
    page = Page(tmp_path / "r.html")
    assert str(real_eeg) not in page.source and "T9" in page.text
