"""Rows in files, over subjects, in tables and in one sentence."""

from __future__ import annotations

import csv
import html.parser
import json

import numpy as np
import pytest
from scipy import stats

from eegsr_jax import methods
from eegsr_jax.errors import EEGSRError, RecordingError
from eegsr_jax.evaluation import tables


def row(method, nmse, subject="1", layout="case2_4x", **more):
    return {
        "method": method,
        "layout": layout,
        "factor": 4.0,
        "reference": "native",
        "nmse_missing": nmse,
        "nmse_all": nmse and 0.75 * nmse,
        "coverage_90": 0.91,
        "fit_seconds": 0.1,
        "split": "chronological",
        "seed": 0,
        "subject": subject,
        "observed": 16,
        "targets": 64,
        "leaky": False,
    } | more


ZERO = {"method": "zero", "layout": "case2_4x", "nmse_missing": 1.0, "nmse_all": 0.75}
THREE = [row("spherical_spline", 0.0704), row("lagged_ridge", 0.0331), row("ridge", 0.0395)]


# ----------------------------------------------------------------------------------------- files


def strict_json(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_round_trip_with_null_for_what_is_not_finite(tmp_path):
    path = tmp_path / "results.json"
    rows = [
        row("ridge", np.float32(0.5), coverage_90=float("nan"), snr_missing_db=np.float64("inf")),
        row("nearest", 0.25, per_channel=np.array([1.0, np.nan]), seed=np.int64(3)),
    ]
    tables.write_json(path, {"versions": {"jax": "0.10"}, "floors": [ZERO]}, rows)
    content = strict_json(path.read_text())
    assert list(content) == ["header", "rows"]
    header, back = tables.read_json(path)
    assert header == {"versions": {"jax": "0.10"}, "floors": [ZERO]}
    assert back[0]["nmse_missing"] == 0.5
    assert back[0]["coverage_90"] is None and back[0]["snr_missing_db"] is None
    assert back[1]["per_channel"] == [1.0, None] and back[1]["seed"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_json_keys_come_in_one_order_whatever_the_rows_do(tmp_path):
    for name, one in (("a", row("ridge", 0.5)), ("b", dict(reversed(row("ridge", 0.5).items())))):
        tables.write_json(tmp_path / name, {}, [one])
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    keys = list(tables.read_json(tmp_path / "a")[1][0])
    shared = [k for k in tables.ROW_KEYS if k in keys]
    assert keys == shared + sorted(set(keys) - set(shared))


def test_one_row_is_one_line_so_that_differences_can_be_read(tmp_path):
    tables.write_json(tmp_path / "r.json", {}, THREE)
    lines = (tmp_path / "r.json").read_text().splitlines()
    assert [sum(m in line for line in lines) for m in ("spherical_spline", '"ridge"')] == [1, 1]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    tables.write_json(path, {}, THREE)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        tables.write_json(path, {"what": object()}, THREE)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    "write", [lambda p: tables.write_json(p, {}, []), lambda p: tables.write_csv(p, [])]
)
def test_a_folder_that_cannot_be_made_is_named(tmp_path, write):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="file: cannot be written"):
        write(tmp_path / "file" / "results")


@pytest.mark.parametrize("text", ["not json", "[]", '{"rows": []}', '{"header": {}, "rows": 3}'])
def test_what_is_not_a_results_file_is_named(tmp_path, text):
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(EEGSRError, match=r"odd\.json: holds no results; expected"):
        tables.read_json(tmp_path / "odd.json")


def test_a_missing_results_file_is_named(tmp_path):
    with pytest.raises(EEGSRError, match=r"none\.json: cannot be read: No such file"):
        tables.read_json(tmp_path / "none.json")


def test_csv_has_the_row_keys_first_and_empty_cells(tmp_path):
    rows = [row("ridge", 0.1, nmse_alpha=0.2, bands=["a", "b"]), row("nearest", float("nan"))]
    tables.write_csv(tmp_path / "r.csv", rows)
    with open(tmp_path / "r.csv", newline="") as file:
        back = list(csv.DictReader(file))
    columns = list(back[0])
    assert tuple(columns[: len(tables.ROW_KEYS)]) == tables.ROW_KEYS
    assert columns[len(tables.ROW_KEYS) :] == sorted(columns[len(tables.ROW_KEYS) :])
    assert float(back[0]["nmse_missing"]) == 0.1 and back[0]["bands"] == "a b"
    assert back[1]["nmse_missing"] == "" and back[1]["nmse_alpha"] == ""
    assert back[0]["times_real_time"] == ""


# ------------------------------------------------------------------------------- over subjects


def test_summary_is_numpys_percentiles_over_subjects(rng):
    values = rng.uniform(size=13)
    (summary,) = tables.summarise([row("ridge", v, str(i)) for i, v in enumerate(values)])
    assert summary["n"] == 13
    assert summary["nmse_missing"] == pytest.approx(np.median(values))
    assert summary["nmse_missing_p5"] == pytest.approx(np.percentile(values, 5))
    assert summary["nmse_all_p95"] == pytest.approx(0.75 * np.percentile(values, 95))
    assert summary["observed"] == 16 and "subject" not in summary


def test_seeds_of_a_subject_are_averaged_before_the_median():
    scores = [("1", 0.2), ("1", 0.4), ("2", 1.0), ("3", 9.0)]
    rows = [row("ridge", v, subject, seed=i) for i, (subject, v) in enumerate(scores)]
    (summary,) = tables.summarise(rows)
    assert summary["n"] == 3 and summary["nmse_missing"] == pytest.approx(1.0)
    assert "seed" not in summary  # they differ


def test_subjects_without_a_score_do_not_count():
    rows = [row("ridge", 0.2, "1"), row("ridge", float("nan"), "2"), row("ridge", None, "3")]
    (summary,) = tables.summarise(rows)
    assert summary["n"] == 1 and summary["nmse_missing"] == 0.2


def test_one_leaky_row_makes_the_summary_leaky():
    (summary,) = tables.summarise([row("ridge", 0.2, "1"), row("ridge", 0.2, "2", leaky=True)])
    assert summary["leaky"] is True


def test_conditions_are_kept_apart():
    rows = [row("ridge", 0.1, layout=x, calibration_seconds=c) for x in "ab" for c in (0, 10)]
    assert len(tables.summarise(rows)) == 4
    assert len(tables.summarise(rows, by=("method", "layout"))) == 2


def test_paired_differences_are_those_of_scipy(rng):
    base, other = rng.uniform(0.1, 1, 11), rng.uniform(0.1, 1, 11)
    rows = [row("lagged_ridge", v, str(i)) for i, v in enumerate(base)]
    rows += [row("gaussian", v, str(i)) for i, v in enumerate(other)][::-1]
    (found,) = tables.paired(rows)
    assert found["n"] == 11 and found["method"] == "gaussian"
    assert found["difference"] == pytest.approx(np.median(other - base))
    assert found["ratio"] == pytest.approx(np.median(other / base))
    assert found["better"] == (other < base).sum()
    assert found["p"] == pytest.approx(stats.wilcoxon(other, base).pvalue)


def test_paired_uses_the_subjects_and_conditions_that_both_have():
    rows = [row("lagged_ridge", 0.1, "1"), row("lagged_ridge", 0.1, "2")]
    rows += [row("ridge", 0.2, "2"), row("ridge", 0.9, "3"), row("ridge", 0.2, "1", layout="other")]
    (found,) = tables.paired(rows)
    assert found["n"] == 1 and found["layout"] == "case2_4x"
    assert found["ratio"] == pytest.approx(2)


def test_equal_methods_differ_with_p_one():
    rows = [row(m, 0.1, str(i)) for m in ("ridge", "lagged_ridge") for i in range(5)]
    (found,) = tables.paired(rows)
    assert found["p"] == 1.0 and found["better"] == 0 and found["difference"] == 0


def test_a_baseline_that_is_not_there_is_named():
    with pytest.raises(EEGSRError, match="baseline 'lagged_ridge'; there are nearest, ridge"):
        tables.paired([row("ridge", 0.1), row("nearest", 0.1)])


# ---------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.03951, "0.0395"),
        (1, "1.00"),
        (0.98, "0.980"),
        (14.84, "14.8"),
        (131.4, "131"),
        (0, "0.00"),
        (24_777.0, "24,800"),
        (999.9, "1,000"),
        (1.234e-7, "1.23e-07"),
        (-0.5, "-0.500"),
    ],
)
def test_three_significant_digits(value, text):
    assert tables.three(value) == text


def columns_of(text):
    caption, head, rule, *body = text.splitlines()
    edges, start = [], 0
    for dashes in rule.split("  "):
        edges.append(slice(start, start + len(dashes)))
        start += len(dashes) + 2
    return [[line[edge].strip() for edge in edges] for line in (head, *body)]


def test_text_table_has_the_floor_first_then_methods_by_score():
    text = tables.text_table([*THREE, ZERO])
    head, *body = columns_of(text)
    assert head[:3] == ["method", "NMSE missing", "NMSE all (flatters)"]
    assert [line[0] for line in body] == ["zero", "lagged_ridge", "ridge", "spherical_spline"]
    assert [line[1] for line in body] == ["1.00", "0.0331", "0.0395", "0.0704"]
    assert body[0][head.index("90 % bars cover")] == "–"
    assert body[1][head.index("90 % bars cover")] == "91.0 %"
    assert text.splitlines()[0] == "layout case2_4x (16 of 64 electrodes given); native reference"


def test_text_table_is_aligned():
    text = tables.text_table([*THREE, ZERO])
    _, head, rule, *body = text.splitlines()
    for line in (head, *body):
        assert len(line) <= len(rule)
        gaps = [i for i, mark in enumerate(rule) if mark == " "]
        assert all(line.ljust(len(rule))[i] == " " for i in gaps)


def test_several_subjects_are_shown_as_median_and_range():
    rows = [row("ridge", v, str(i)) for i, v in enumerate(np.linspace(0.1, 0.5, 21))]
    head, line = columns_of(tables.text_table([*rows]))
    assert line[head.index("NMSE missing")] == "0.300 (0.120 to 0.480)"
    assert line[head.index("subjects")] == "21"
    assert "median over subjects (5 to 95 %)" in tables.text_table(rows).splitlines()[0]


def test_conditions_that_vary_get_a_column_and_keep_their_order():
    rows = [row("ridge", 0.3, layout="b"), row("nearest", 0.1, layout="a")]
    rows += [row("nearest", 0.5, layout="b"), ZERO | {"layout": "a"}]
    _, *body = columns_of(tables.text_table(rows))
    assert [line[:2] for line in body] == [
        ["ridge", "b"],
        ["nearest", "b"],
        ["zero", "a"],
        ["nearest", "a"],
    ]


def test_calibration_gets_a_column_when_it_varies():
    rows = [row("gaussian", 0.3 - s / 100, calibration_seconds=s) for s in (0.0, 10.0)]
    head, first, second = columns_of(tables.text_table(rows))
    place = head.index("calibration s")
    assert (first[place], second[place]) == ("0", "10")


def test_a_method_without_a_score_comes_last():
    _, *body = columns_of(tables.text_table([row("ridge", float("nan")), *THREE[:1]]))
    assert [line[:2] for line in body] == [["spherical_spline", "0.0704"], ["ridge", "–"]]


def test_a_leaky_split_is_said_in_every_table():
    assert "LEAKY" in tables.text_table([row("ridge", 0.1, leaky=True)])


def test_columns_can_be_chosen():
    text = tables.markdown_table(THREE, ["method", "nmse_missing", "split"])
    assert "| method | NMSE missing | split |" in text
    assert "| lagged_ridge | 0.0331 | chronological |" in text


def test_markdown_has_the_same_number_of_cells_everywhere():
    lines = [line for line in tables.markdown_table([*THREE, ZERO]).splitlines() if "|" in line]
    assert len(lines) == 6 and len({line.count("|") for line in lines}) == 1
    assert set(lines[1]) <= set("| -:")


def test_paired_rows_make_a_table():
    levels = {"ridge": 0.3, "lagged_ridge": 0.2, "emag": 0.1}
    rows = [row(m, v + i / 100, str(i)) for m, v in levels.items() for i in range(4)]
    head, *body = columns_of(tables.text_table(tables.paired(rows)))
    assert [line[0] for line in body] == ["emag", "ridge"]
    assert body[0][head.index("better on")] == "4"
    assert "on the same subjects as lagged_ridge" in tables.text_table(tables.paired(rows))


class Cells(html.parser.HTMLParser):
    """Text by cell, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def test_html_table_holds_the_same_cells_and_escapes_them():
    odd = row("<script>alert(1)</script>", 0.5)
    parsed = Cells(tables.html_table([*THREE, odd]))
    _, head, body = tables.cells([*THREE, odd])
    assert parsed.open == [] and parsed.rows == [head, *body]
    assert "<script>" not in tables.html_table([odd])


# -------------------------------------------------------------------------------------- sentence


def test_reading_says_who_wins_and_by_how_much():
    many = [{**r, "subject": str(s)} for r in (*THREE, row("gaussian", 0.03)) for s in range(3)]
    assert tables.reading(many) == (
        "Over 3 subjects (medians), layout case2_4x (16 of 64 electrodes given), native reference, "
        "gaussian reconstructs the missing channels best: NMSE 0.0300 (predicting zero: 1), "
        "0.426 × the default spherical spline's 0.0704 and 0.906 × the lagged ridge's 0.0331; "
        "its 90 % error bars cover 91.0 %."
    )


def test_reading_of_one_subject_warns():
    text = tables.reading([ZERO, *THREE])
    assert text.startswith("On one subject, layout case2_4x")
    assert "lagged_ridge reconstructs the missing channels best: NMSE 0.0331" in text
    assert text.endswith("caution: one subject says little about others.")


def test_reading_over_several_conditions_counts_wins_and_gives_ranges():
    rows = [row("ridge", 0.2, layout=x) for x in "abc"]
    rows += [row("lagged_ridge", v, layout=x) for x, v in zip("abc", (0.1, 0.15, 0.3), strict=True)]
    text = tables.reading(rows)
    assert "lagged_ridge reconstructs the missing channels best in 2 of 3 conditions" in text
    assert "NMSE 0.100 to 0.300" in text


@pytest.mark.parametrize(
    ("rows", "caution"),
    [
        ([*THREE, row("srgdiff", 0.06)], "srgdiff loses to the lagged ridge (1.81 ×)"),
        ([row("lagged_ridge", 0.1, leaky=True)], "the split is leaky"),
        ([row("lagged_ridge", 0.1, coverage_90=0.7)], "those error bars are too narrow"),
        ([row("lagged_ridge", 0.1, coverage_90=0.99)], "those error bars are too wide"),
        ([row("ridge", 0.1)], "no lagged ridge was run"),
        ([row("lagged_ridge", 1.2)], "no method beats predicting zero"),
    ],
)
def test_reading_cautions(rows, caution):
    text = tables.reading(rows)
    assert caution in text.partition("; caution: ")[2]
    assert text.count(". ") == 0 and text.endswith(".")  # one sentence


def test_reading_does_not_caution_without_reason():
    rows = [{**r, "subject": str(s)} for r in (*THREE, row("srgdiff", 0.02)) for s in range(3)]
    assert "caution" not in tables.reading(rows)


def test_reading_says_when_there_are_no_error_bars():
    rows = [row("lagged_ridge", 0.1, coverage_90=None)]
    assert "it gives no error bars" in tables.reading(rows)


def test_options_of_the_lagged_ridge_make_no_deep_method():
    rows = [row("lagged_ridge(lags=2)", 0.1), row("spherical_spline(tune=True)", 0.2)]
    text = tables.reading(rows)
    assert "loses" not in text and "no lagged ridge" not in text and "default" not in text


def test_reading_of_nothing():
    assert tables.reading([]) == tables.reading([ZERO]) == "No method has a score."


def test_ranking_is_by_the_median_without_the_floor():
    rows = [
        row("ridge", 0.3, "1"),
        row("ridge", 0.1, "2"),
        row("ridge", 0.1, "3"),
        *THREE[:1],
        ZERO,
    ]
    assert tables.ranking([*rows, row("nearest", None)]) == ["spherical_spline", "ridge"]


def test_methods_of_today_are_all_known_as_closed_form():
    rows = [row("lagged_ridge", 0.1), *(row(m, 0.9) for m in methods.METHODS)]
    lost = [m for m in methods.METHODS if f"{m} loses" in tables.reading(rows)]
    assert lost and all(m.startswith(("emag", "srgdiff")) for m in lost)
