"""Compare methods on a data set: one honest table, CSV, JSON and an HTML report.

eegsr evaluate --dataset=eegbci --root=FOLDER --protocol=within_runs --subject=1
  --train_runs=3,4,5,6,7,8,9,10 --test_runs=11,12,13,14 --layout=case2_4x,case2_8x
  --methods=spherical_spline,ridge,lagged_ridge --out=OUT

Writes OUT/results.json, results.csv, results.md and report.html. A method's options go in brackets,
as in lagged_ridge(lags=2). The lagged ridge is always among the methods: it is the number to beat.
With --level=features or --level=downstream it asks other questions of the same reconstructions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from absl import flags

from eegsr_jax import config, methods
from eegsr_jax.commands.prepare import define_dataset_flags, open_dataset, required, selected
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.store import Store, open_store, prepare
from eegsr_jax.errors import ConfigError
from eegsr_jax.evaluation import (
    levels,
    levels_page,
    paper,
    report,
    sources_compare,
    sources_page,
    tables,
)
from eegsr_jax.evaluation.compare import Stretch, compare, floor_rows
from eegsr_jax.evaluation.downstream_level import DownstreamStudy
from eegsr_jax.evaluation.feature_level import FeatureLevel
from eegsr_jax.evaluation.folds import Options, Protocol
from eegsr_jax.evaluation.protocols import PROTOCOLS, protocol
from eegsr_jax.evaluation.provenance import made_with
from eegsr_jax.evaluation.sources_simulation import Simulation
from eegsr_jax.evaluation.views import REFERENCES
from eegsr_jax.layouts import NAMED

ARGUMENTS = ()
DEFAULT_METHODS = (
    "nearest,inverse_distance,spherical_spline,spherical_spline(tune=True),minimum_norm,"
    "gaussian,reduced_rank,ridge,lagged_ridge"
)
FILES = ("results.json", "results.csv", "results.md", "report.html")
SOURCES = "sources"
LEVELS = ("signal", "features", "downstream")
_RUNS = ("train_runs", "test_runs", "train_sessions", "test_sessions")


def define_flags() -> flags.FlagValues:
    """Which data, who trains on what, which methods."""
    values = flags.FlagValues()
    define_dataset_flags(values)
    text = "As --subjects."
    flags.DEFINE_list("subject", None, text, flag_values=values)
    text = "Use a store that `eegsr prepare` made, instead of --dataset."
    flags.DEFINE_string("store", None, text, flag_values=values)
    text = f"One of {', '.join(PROTOCOLS)}; or {SOURCES}: simulated sources, see docs/sources.md."
    flags.DEFINE_string("protocol", "within_runs", text, flag_values=values)
    text = "What is asked: is it right, does it look like EEG, can it be decoded; docs/levels.md."
    flags.DEFINE_enum("level", LEVELS[0], LEVELS, text, flag_values=values)
    for name in _RUNS:
        flags.DEFINE_list(name, [], f"Which {name.split('_')[1]}.", flag_values=values)
    text = "Layouts: case2_4x,random:16:0,spread:16,…; or one, as names of channels: Fz,Cz,Pz,Oz."
    flags.DEFINE_string("layout", "case2_4x", text, flag_values=values)
    flags.DEFINE_string("methods", DEFAULT_METHODS, "What to compare.", flag_values=values)
    text = f"One or both of {', '.join(REFERENCES)}."
    flags.DEFINE_list("reference", ["native"], text, flag_values=values)
    text = "Seconds of the test subject's full cap, for leave_subjects_out."
    flags.DEFINE_list("calibration_seconds", ["0"], text, flag_values=values)
    text = "One training of each deep method for every seed."
    flags.DEFINE_list("seeds", ["0"], text, flag_values=values)
    text = "Preset of `eegsr prepare`; default: the protocol's, dibima for eegbci."
    flags.DEFINE_string("preprocessing", None, text, flag_values=values)
    flags.DEFINE_string("out", None, "Folder of the results.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace results that are there.", flag_values=values)
    return values


def run(values: flags.FlagValues) -> None:
    """Writes the files and prints what they say: a table and a sentence, or sentences."""
    out = Path(required(values, "out"))
    if values.protocol == SOURCES:
        _sources(values, out)
        return
    chosen = protocol(values.protocol)
    compared = with_lagged_ridge(methods.parse(values.methods))
    _check_references(values.reference)
    files = _free(values, out, levels_page.FILES.get(values.level, FILES))
    options = _options(values)
    for name in chosen.needs:  # told before hours of reading
        if not getattr(options, name):
            both = " and --".join(chosen.needs)
            raise ConfigError(f"--{name} is missing: protocol {chosen.name} needs --{both}")
    store = _store(values, chosen, out)
    folds, layouts = chosen.folds(store, options), _layouts(values.layout)
    how: dict[str, Any] = {
        "references": values.reference,
        "seeds": _seeds(values.seeds),
        "say": lambda line: print(line, file=sys.stderr),
    }
    if values.level == "signal":
        rows, stretch = compare(folds, chosen, compared, layouts, **how)
        write(out, header(chosen, store, rows), rows, stretch, overwrite=values.overwrite)
        print(tables.text_table(floor_rows(rows) + rows))
        print(tables.reading(rows))
    else:
        level = FeatureLevel(folds, chosen) if values.level == "features" else DownstreamStudy
        rows, study = levels.compare(folds, chosen, level, compared, layouts, **how)
        head = header(chosen, store, rows) | {"level": values.level}
        if isinstance(level, FeatureLevel):
            head["feature_networks"] = level.about()
        title = f"{store.dataset}, {chosen.name}: {values.level}"
        levels_page.write(out, title, head, rows, study)
        print("\n".join(levels_page.reading(rows)))
    print(f"written: {', '.join(str(file) for file in files)}")


def _sources(values: flags.FlagValues, out: Path) -> None:
    """Protocol `sources`: no data set, but heads whose sources are known; see docs/sources.md."""
    known = ("protocol", "layout", "methods", "option", "out", "overwrite")
    for name in define_flags():
        if name not in known and values[name].present:
            raise ConfigError(
                f"--{name} means nothing to protocol {SOURCES}, which simulates its data; it reads "
                f"--{', --'.join(known)}"
            )
    for option in values.option:
        if "=" not in option:
            raise ConfigError(f"--option={option}: expected --option=NAME=VALUE")
    simulation = config.override(Simulation(), values.option)
    compared = with_lagged_ridge(methods.parse(values.methods))
    files = _free(values, out, sources_page.FILES)
    rows = sources_compare.compare(
        simulation,
        compared,
        _layouts(values.layout),
        say=lambda line: print(line, file=sys.stderr),
    )
    sources_page.write(out, sources_page.about(simulation) | made_with(), rows)
    print("\n".join(sources_page.reading(rows)))
    print(f"written: {', '.join(str(file) for file in files)}")


def _free(values: flags.FlagValues, out: Path, names: tuple[str, ...]) -> list[Path]:
    """The files to write, none of which is there unless it may be replaced."""
    files = [out / name for name in names]
    taken = [file for file in files if file.exists()]
    if taken and not values.overwrite:
        raise ConfigError(f"{taken[0]} exists; choose another --out, or say --overwrite")
    return files


def with_lagged_ridge(compared: dict[str, methods.Method]) -> dict[str, methods.Method]:
    """The methods, and the lagged ridge where it is missing: every table prints it."""
    if any(method.name == "lagged_ridge" for method in compared.values()):
        return compared
    return compared | {"lagged_ridge": methods.make("lagged_ridge")}


def write(
    out: Path,
    head: dict[str, Any],
    rows: list[dict[str, Any]],
    stretch: Stretch,
    *,
    overwrite: bool = False,
) -> None:
    """Write `FILES` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    tables.write_json(out / "results.json", head, rows)
    tables.write_csv(out / "results.csv", rows)
    text = paper.page(f"{head['dataset']}, {head['protocol']}", head, rows)
    tables.write_text(out / "results.md", text)
    geometry = stretch.geometry
    example = report.Example(
        title=stretch.title,
        names=geometry.target_names,
        positions=geometry.target.__array__(),
        sfreq=stretch.sfreq,
        observed=geometry.observed_names,
        truth=stretch.truth,
        mean=stretch.mean,
        std=stretch.std,
    )
    report.write_report(
        out / "report.html",
        header=head,
        rows=rows,
        example=example,
        notes=head["quirks"],
        overwrite=overwrite,
    )


def header(chosen: Protocol, store: Store, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What someone needs in order to get the same numbers again."""
    return made_with() | {
        "protocol": chosen.name,
        "summary": chosen.summary,
        "quirks": list(chosen.quirks),
        "leaky": any(row["leaky"] for row in rows),
        "dataset": store.dataset,
        "licence": store.licence,
        "citation": store.citation,
        "preprocessing": str(store.preprocessing),
        "units": "ratios; missing channels only unless a name says all",
        "layouts": {row["layout"]: row["layout_hash"] for row in rows},
        "recordings": {r.key: r.sha256[:16] for r in store.recordings},
        "floors": floor_rows(rows),
    }


def _options(values: flags.FlagValues) -> Options:
    try:
        seconds = tuple(float(s) for s in values.calibration_seconds)
    except ValueError:
        raise ConfigError(
            f"--calibration_seconds={','.join(values.calibration_seconds)}: expected numbers"
        ) from None
    return Options(
        subjects=tuple(values.subject or values.subjects or ()),
        calibration_seconds=seconds,
        train_runs=tuple(values.train_runs),
        test_runs=tuple(values.test_runs),
        train_sessions=tuple(values.train_sessions),
        test_sessions=tuple(values.test_sessions),
    )


def _seeds(words: list[str]) -> list[int]:
    if not all(word.isdigit() for word in words) or len(set(words)) < len(words) or not words:
        raise ConfigError(f"--seeds={','.join(words)}: expected whole numbers, each once")
    return [int(word) for word in words]


def _layouts(text: str) -> list[str]:
    """The layouts of the flag; names of channels alone are one layout."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    several = any(part in NAMED or ":" in part for part in parts)
    return parts if several else [",".join(parts)]


def _check_references(names: list[str]) -> None:
    for name in names:
        if name not in REFERENCES:
            raise ConfigError(f"--reference={name}: expected one of {', '.join(REFERENCES)}")


def _store(values: flags.FlagValues, chosen: Protocol, out: Path) -> Store:
    if values.store:
        return open_store(values.store).select(**selected(values))
    if values.subject and not values.subjects and chosen.name != "leave_subjects_out":
        values.subjects = values.subject  # read no more than is asked for
    if not values.runs:
        values.runs = [*values.train_runs, *values.test_runs] or None
    preset = values.preprocessing or (
        "dibima" if values.dataset == "eegbci" else chosen.preprocessing
    )
    if preset not in PREPROCESSING:
        raise ConfigError(f"--preprocessing={preset}: expected one of {', '.join(PREPROCESSING)}")
    return prepare(open_dataset(values), out / "store", PREPROCESSING[preset])
