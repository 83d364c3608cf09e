"""Claim: one model of `emag` renders electrodes that it was never trained on, and says how well.

python benchmarks/unseen_electrodes.py --root=EEGMMIDB [--face13=FOLDER] [--json=FILE] [--work=DIR]

Held out: 12 of the 48 missing electrodes of the layout case2_4x (16 of 64) are kept from training
altogether, three times at random and once as a connected patch; the model is trained on the other
52, then asked for all 64. S001 by itself (runs 3-10, tested on 11-14), then 13 subjects by
themselves (runs 4 and 8, tested on 12). Beside it: the same without its field, `gaussian` and
splines with the same data, and, as bounds, what was trained on all 64 electrodes.

128 positions: the model of S001's 64 electrodes at the positions of a BioSemi cap, for one window.

Transfer (--face13): trained on 13 subjects of EEGMMIDB, tested on one person of another laboratory,
amplifier and cap. Both 1-30 Hz, 160 Hz, against the mean of the given channels. The inputs are the
electrodes nearest to those of case2_4x, the targets all other good ones.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax import geometry as geo
from eegsr_jax import layouts, methods
from eegsr_jax.data import datasets, preprocessing, splits
from eegsr_jax.data.recording import read
from eegsr_jax.data.segments import Segment, whole
from eegsr_jax.data.store import Store, prepare
from eegsr_jax.methods.base import Method
from eegsr_jax.training.loop import fit, jitted, nameless
from eegsr_jax.training.windows import StoreWindows, shared_channels

SUBJECTS = tuple(str(n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14))
LAYOUT, SECONDS, BATCH = "case2_4x", 2, 32
HELD_OUT, DRAWS, PATCH = 12, 3, "P6"  # electrodes left out; the patch grows around this one
FIELDLESS = "emag without its field"
ALL_GIVEN = "spherical_spline, given all 52"
FACE13_BADS = "B14 C1 C10 B1 C2 D15 A9 A10 A11 A12 A25 A26 C15 C18".split()
LOWPASS = {"l_freq": 1.0, "h_freq": 30.0}  # what Face13's authors left of it

Cap = dict[str, np.ndarray]  # electrodes: metres, head frame
Model = tuple[Method, Any]


def array(cap: Cap, names: Iterable[str] | None = None) -> np.ndarray:
    """`[channel, 3]` metres."""
    return np.stack([cap[n] for n in (cap if names is None else names)])


def geometry(cap: Cap, observed: Sequence[str], targets: Sequence[str]) -> geo.Geometry:
    """As `make_geometry`; the sphere is that of the targets."""
    return geo.make_geometry(observed, targets, {n: cap[n] for n in targets})


def cap_of(store: Store) -> Cap:
    """The channels that all recordings of a store share."""
    first, names = store.recordings[0], shared_channels(store, map(whole, store.recordings))
    return {n: first.positions[first.names.index(n)] for n in names}


def windows(
    store: Store,
    train: Iterable[Segment],
    validate: Iterable[Segment],
    channels: tuple[str, ...],
    shown: Callable[[np.ndarray], np.ndarray] = lambda eeg: eeg,
) -> StoreWindows:
    """Windows of two seconds."""
    return StoreWindows(
        store=store,
        train=tuple(train),
        validate=tuple(validate),
        window=round(SECONDS * store.recordings[0].sfreq),
        batch_size=BATCH,
        channels=channels,
        shown=shown,
    )


def trained(name: str, where: geo.Geometry, data: StoreWindows, seed: int = 0) -> Model:
    """The method and its params; "(tune=True)" and the like as on the command line."""
    (method,) = methods.parse(name).values()
    return method, fit(method, where, data, key=jax.random.key(seed))


def without_field(model: Model) -> Model:
    """`emag` reduced to the lagged ridge that it stands on."""
    method, params = model
    return method, params | {"gain": jnp.zeros(())}


def rendered(
    model: Model, where: geo.Geometry, eeg: np.ndarray, gain: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and error bars `[windows, M, time]` from the inputs `[windows, L, time]` × `gain`."""
    method, params = model
    plan = jitted(method.plan)(params, nameless(where))
    found = []
    for start in range(0, len(eeg), BATCH):
        batch = eeg[start : start + BATCH] * np.float32(gain)
        short = [(0, BATCH - len(batch)), (0, 0), (0, 0)]
        result = jitted(method.apply)(plan, np.pad(batch, short), None)
        found.append([np.asarray(x)[: len(batch)] / gain for x in result])
    mean, std = (np.concatenate(x) for x in zip(*found, strict=True))
    return mean, std


def measure(truth: np.ndarray, mean: np.ndarray, std: np.ndarray) -> dict[str, np.ndarray]:
    """Error and power `[windows, M]`, and the share of samples within the 90 % bars `[M]`."""
    wrong = (mean - truth).astype(np.float64)
    inside = (np.abs(wrong) <= 1.644854 * std).mean((0, 2))
    return {
        "error": (wrong**2).sum(2),
        "power": (truth.astype(np.float64) ** 2).sum(2),
        "inside": np.where(np.isfinite(std).all((0, 2)), inside, np.nan),
    }


def nmse(found: dict[str, np.ndarray], chosen: np.ndarray) -> float:
    """Pooled over the chosen channels."""
    return float(found["error"][:, chosen].sum() / found["power"][:, chosen].sum())


def draws(cap: Cap, observed: Sequence[str]) -> dict[str, list[str]]:
    """The electrodes of each draw."""
    missing = [n for n in cap if n not in observed]
    found = {
        f"draw {seed}": np.random.default_rng(seed).permutation(len(missing))
        for seed in range(DRAWS)
    }
    found["patch"] = np.argsort(np.linalg.norm(array(cap, missing) - cap[PATCH], axis=1))
    return {draw: [missing[i] for i in np.sort(o[:HELD_OUT])] for draw, o in found.items()}


def held_out(store: Store, train_runs: Sequence[str], test_runs: Sequence[str]) -> dict[str, Any]:
    """Scores of one subject, by draw and method, and its model of all electrodes."""
    cap, split = cap_of(store), splits.by_run(store, train_runs, test_runs)
    names = tuple(cap)
    observed = layouts.layout(LAYOUT, names)
    full = geometry(cap, observed, names)
    truth = windows(store, split.test, (), names).load(0)

    def scored(model: Model, where: geo.Geometry) -> dict[str, np.ndarray]:
        given = truth[:, geo.find_channels(where.observed_names, names)]
        return measure(truth, *rendered(model, where, given))

    everything = windows(store, split.train, split.validate, names)
    bounds = {name: trained(name, full, everything) for name in ("emag", "lagged_ridge")}
    bound_scores = {f"{n}, trained on all 64": scored(m, full) for n, m in bounds.items()}
    report = {}
    for seed, (draw, left_out) in enumerate(draws(cap, observed).items()):
        kept = tuple(n for n in names if n not in left_out)
        where = geometry(cap, observed, kept)
        data = windows(store, split.train, split.validate, kept)
        started = time.perf_counter()
        models = {"emag": trained("emag", where, data, seed)}
        seconds = time.perf_counter() - started
        models[FIELDLESS] = without_field(models["emag"])
        models["gaussian"] = trained("gaussian", where, data)
        tuned = trained("spherical_spline(tune=True)", where, data)
        models["spherical_spline(tune=True)"] = everywhere(tuned, full)
        models["spherical_spline"] = spline = untrained("spherical_spline", full)
        scores = {name: scored(model, full) for name, model in models.items()} | bound_scores
        scores[ALL_GIVEN] = scored(spline, geometry(cap, kept, names))
        unseen = np.isin(names, left_out)
        seen = ~unseen & ~np.isin(names, observed)
        distance = np.linalg.norm(array(cap, left_out)[:, None] - array(cap, kept)[None], axis=-1)
        report[draw] = {
            "left_out": left_out,
            "mm_to_trained": float(distance.min(1).mean() * 1e3),
            "gain": float(models["emag"][1]["gain"]),
            "fit_seconds": seconds,
            "scores": {
                name: {
                    "seen": nmse(found, seen),
                    "unseen": nmse(found, unseen),
                    "coverage_90": float(found["inside"][unseen].mean()),
                }
                for name, found in scores.items()
            },
        }
        print(f"{time.strftime('%X')} {split.test[0].key} {draw}", file=sys.stderr, flush=True)
    return {"draws": report, "model": bounds["emag"], "cap": cap, "truth": truth}


def untrained(name: str, where: geo.Geometry) -> Model:
    """A method as it is without data."""
    (method,) = methods.parse(name).values()
    return method, method.init(None, where, None)


def everywhere(model: Model, where: geo.Geometry) -> Model:
    """A spatial map at other electrodes: what was tuned is kept, the error bars are not known."""
    method, params = model
    return method, params | {"std": jnp.full(where.target.shape[:1], jnp.inf)}


def onto(cap: Cap, other: Cap) -> Cap:
    """The electrodes of `cap` on the sphere of `other`: directions from the centre are kept."""

    def sphere(positions: np.ndarray) -> tuple[np.ndarray, float]:
        centre = geo.fit_sphere(positions)[0]
        return centre, float(np.linalg.norm(positions - centre, axis=1).mean())

    own, size = sphere(array(cap))
    centre, radius = sphere(array(other))
    return {n: (place - own) * radius / size + centre for n, place in cap.items()}


def cap_of_128(subject: dict[str, Any]) -> dict[str, float]:
    """One test window of a 64-electrode model at the positions of a BioSemi cap, judged by eye."""
    cap, model = subject["cap"], subject["model"]
    observed = layouts.layout(LAYOUT, tuple(cap))
    truth = subject["truth"][len(subject["truth"]) // 2][None]
    given = truth[:, geo.find_channels(observed, tuple(cap))]
    wanted = onto(geo.montage("biosemi128"), cap)

    def at(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        where = geo.Geometry(
            observed=jnp.asarray(array(cap, observed), jnp.float32),
            target=jnp.asarray(places, jnp.float32),
            observed_index=jnp.full((len(observed),), -1, jnp.int32),
            centre=jnp.asarray(geo.fit_sphere(array(cap))[0], jnp.float32),
        )
        mean, std = rendered(model, where, given)
        return mean[0], std[0]

    places = array(wanted)
    mean, std = at(places)
    moved = places + np.random.default_rng(0).normal(size=places.shape) * 1e-3 / np.sqrt(3)
    inputs, between = at(array(cap, observed))[0], neighbours(places, mean)
    real = neighbours(array(cap), truth[0])
    rms = [float(np.sqrt((x**2).mean(1)).max() * 1e6) for x in (mean, truth[0])]
    return {
        "positions": len(places),
        "finite": bool(np.isfinite(mean).all() and np.isfinite(std).all()),
        "largest_rms_uv": rms[0],
        "largest_rms_of_64_uv": rms[1],
        "neighbours_mm": between[0],
        "neighbours_r": between[1],
        "neighbours_of_64_mm": real[0],
        "neighbours_of_64_r": real[1],
        "moved_by_1_mm": relative(at(moved)[0], mean),
        "given_electrodes_rendered": relative(inputs, given[0]) ** 2,
    }


def neighbours(places: np.ndarray, signals: np.ndarray) -> tuple[float, float]:
    """Medians: distance of each position to the nearest one, mm, and correlation with it."""
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(len(places))
    closest = distance.argmin(1)
    r = [np.corrcoef(signals[i], signals[j])[0, 1] for i, j in enumerate(closest)]
    return float(np.median(distance.min(1)) * 1e3), float(np.median(r))


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Relative L2 difference."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def less_mean(eeg: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Against the mean of the given channels, as in use, when the others do not exist."""
    return eeg - eeg[:, index].mean(1, keepdims=True)


def face13(folder: Path) -> tuple[Cap, np.ndarray]:
    """Its good electrodes, and its usable windows `[windows, channel, time]` at 160 Hz."""
    (source,) = folder.glob("*.edf")
    recording = read(str(source), montage=str(folder / "face13_electrodes_RAS.tsv"))
    only_rate = preprocessing.Preprocessing(l_freq=None, h_freq=None, resample=160.0)
    recording = preprocessing.apply(recording, only_rate)
    kept = [i for i, n in enumerate(recording.names) if n not in FACE13_BADS]
    size = round(SECONDS * recording.sfreq)
    eeg = [
        recording.data[kept, start : start + size]
        for start in range(0, recording.data.shape[1] - size + 1, size)
        if recording.usable[start : start + size].all()
    ]
    return {recording.names[i]: recording.positions[i] for i in kept}, np.stack(eeg)


def nearest_names(cap: Cap, wanted: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The electrode nearest to each place, none twice, and how far it is, metres."""
    distance = np.linalg.norm(array(cap)[:, None] - wanted[None], axis=-1)
    pick = distance.argmin(0)
    if len(set(pick)) < len(pick):
        raise SystemExit("face13: two inputs have the same nearest electrode")
    return [tuple(cap)[i] for i in pick], distance.min(0)


def transfer(root: str, folder: Path, work: Path, seeds: int) -> dict[str, Any]:
    """Scores on Face13 of what was trained on 13 subjects of EEGMMIDB."""
    data = datasets.load("eegbci", root, subjects=SUBJECTS, runs=("4", "8", "12"))
    narrow = preprocessing.Preprocessing(notch=(50.0,), **LOWPASS)
    store = prepare(data, work / "narrow", narrow, progress=False)
    home = cap_of(store)
    observed = layouts.layout(LAYOUT, tuple(home))
    index = geo.find_channels(observed, tuple(home))
    segments = [whole(r) for r in store.recordings]
    validating = set(SUBJECTS[::4])  # every fourth subject, as for the shipped prior

    def part(of_validation: bool) -> list[Segment]:
        subject = {s.key: store.recording(s.key).subject for s in segments}
        return [s for s in segments if (subject[s.key] in validating) == of_validation]

    shown = functools.partial(less_mean, index=index)
    trains = windows(store, part(False), part(True), tuple(home), shown)
    there = geometry(home, observed, tuple(home))

    cap, eeg = face13(folder)
    cap = onto(cap, home)
    inputs, distance = nearest_names(cap, array(home, observed))
    here, given = geometry(cap, inputs, tuple(cap)), geo.find_channels(inputs, tuple(cap))
    truth = less_mean(eeg, given)
    target = ~np.isin(tuple(cap), inputs)

    models = {
        "spherical_spline": untrained("spherical_spline", here),
        "spherical_spline(tune=True)": everywhere(
            trained("spherical_spline(tune=True)", there, trains), here
        ),
        "minimum_norm": untrained("minimum_norm", here),
        "population": untrained("population", here),
        "gaussian": trained("gaussian", there, trains),
        "gaussian(any_reference=True)": trained("gaussian(any_reference=True)", there, trains),
    }
    started = time.perf_counter()
    seeded = [trained("emag", there, trains, i) for i in range(seeds)]
    seconds = (time.perf_counter() - started) / seeds
    # The field is not linear: how loud the recording is matters, and its inputs tell that.
    given_rms = np.sqrt((truth[:, given] ** 2).mean())
    train_rms = np.sqrt((trains.load(0)[:, index] ** 2).mean())

    def scored(model: Model, gain: float = 1.0) -> dict[str, np.ndarray]:
        mean, std = rendered(model, here, truth[:, given], gain)
        return measure(truth, mean, std)

    gain = float(train_rms / given_rms)
    scores = {name: [scored(model)] for name, model in models.items()}
    fieldless = without_field(seeded[0])
    scores |= {
        FIELDLESS: [scored(fieldless)],
        "emag": [scored(model) for model in seeded],
        "emag, inputs scaled": [scored(model, gain) for model in seeded],
    }
    positions = array(cap)
    away = np.linalg.norm(positions[:, None] - array(cap, inputs)[None], axis=-1).min(1)
    middle = np.median(away[target])
    return {
        "inputs": dict(zip(observed, inputs, strict=True)),
        "mm_to_layout": (distance * 1e3).tolist(),
        "windows": len(truth),
        "targets": int(target.sum()),
        "rms_uv": {"training": float(train_rms * 1e6), "face13": float(given_rms * 1e6)},
        "fit_seconds": seconds,
        "near_mm": float(middle * 1e3),
        "scores": {
            name: {
                "nmse": [nmse(found, target) for found in each],
                "interval": interval(each[0], target),
                "near": nmse(each[0], target & (away <= middle)),
                "far": nmse(each[0], target & (away > middle)),
                "coverage_90": float(each[0]["inside"][target].mean()),
            }
            for name, each in scores.items()
        },
    }


def interval(found: dict[str, np.ndarray], chosen: np.ndarray) -> list[float]:
    """95 % of the pooled NMSE over 2000 draws of the windows, with replacement."""
    error, power = found["error"][:, chosen].sum(1), found["power"][:, chosen].sum(1)
    rows = np.random.default_rng(0).integers(len(error), size=(2000, len(error)))
    return np.percentile(error[rows].sum(1) / power[rows].sum(1), (2.5, 97.5)).tolist()


def table(subjects: dict[str, dict[str, Any]]) -> str:
    """Never-trained electrodes: medians (lowest-highest) over subjects, for each draw."""
    first = next(iter(subjects.values()))
    lines = [
        "| | " + " | ".join(first) + " | trained on, draws 0-2 | 90 % bars, never trained on |"
    ]
    lines.append("|---" * (len(first) + 3) + "|")

    def spread(values: list[float], form: str = "{:.4f}") -> str:
        if np.isnan(values).any():
            return "none"
        if not any(values):
            return "given"
        shown = form.format(np.median(values))
        ends = f" ({form.format(min(values))}–{form.format(max(values))})"
        return shown + (ends if len(values) > 1 else "")

    for name in first["patch"]["scores"]:
        each = {d: [s[d]["scores"][name] for s in subjects.values()] for d in first}
        cells = [spread([score["unseen"] for score in each[d]]) for d in first]
        drawn = list(zip(*(each[d] for d in first if d != "patch"), strict=True))
        cells.append(spread([float(np.mean([x["seen"] for x in row])) for row in drawn]))
        cover = [
            float(np.mean([x["coverage_90"] for x in row]))
            for row in zip(*each.values(), strict=True)
        ]
        cells.append(spread(cover, "{:.1%}"))
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def wins(subjects: dict[str, dict[str, Any]], other: str) -> str:
    """In how many subjects `emag` is better at never-trained electrodes, and by what factor."""
    lines = []
    for draw in next(iter(subjects.values())):
        ratio = np.array(
            [
                s[draw]["scores"]["emag"]["unseen"] / s[draw]["scores"][other]["unseen"]
                for s in subjects.values()
            ]
        )
        lines.append(f"{draw}: {(ratio < 1).sum()} of {len(ratio)}, × {np.median(ratio):.3f}")
    return f"- `emag` against `{other}`: " + "; ".join(lines)


def transfer_table(found: dict[str, Any]) -> str:
    """NMSE on Face13."""
    lines = [
        "| | all targets (95 % over windows) | other seeds | near half | far half | 90 % bars |",
        "|---" * 6 + "|",
    ]
    for name, s in found["scores"].items():
        low, high = s["interval"]
        cover = "none" if np.isnan(s["coverage_90"]) else f"{s['coverage_90']:.1%}"
        lines.append(
            f"| `{name}` | {s['nmse'][0]:.4f} ({low:.4f}–{high:.4f}) "
            f"| {', '.join(f'{x:.4f}' for x in s['nmse'][1:]) or '–'} "
            f"| {s['near']:.4f} | {s['far']:.4f} | {cover} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run all parts, print the tables as Markdown, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="EEGMMIDB")
    parser.add_argument("--face13", help="folder of the recording and face13_electrodes_RAS.tsv")
    parser.add_argument("--json", help="file for all numbers")
    parser.add_argument("--work", help="folder for prepared recordings; else a temporary one")
    parser.add_argument("--seeds", type=int, default=2, help="of emag in the transfer")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work, numbers = Path(arguments.work or temporary), {}

        def keep(name: str, value: Any) -> None:
            numbers[name] = value
            if arguments.json:
                Path(arguments.json).write_text(json.dumps(numbers, indent=1))

        preset = preprocessing.PREPROCESSING["dibima"]
        runs = tuple(str(n) for n in range(3, 15))
        data = datasets.load("eegbci", arguments.root, subjects=("1",), runs=runs)
        subject = held_out(prepare(data, work / "s001", preset), runs[:8], runs[8:])
        keep("s001", subject["draws"])
        print("## S001\n\n" + table({"1": numbers["s001"]}), flush=True)
        keep("cap_of_128", cap_of_128(subject))
        print("\n## 128 positions\n\n" + json.dumps(numbers["cap_of_128"], indent=1), flush=True)
        data = datasets.load("eegbci", arguments.root, subjects=SUBJECTS, runs=("4", "8", "12"))
        store, everyone = prepare(data, work / "subjects", preset), {}
        for name in SUBJECTS:
            own = store.select(subjects=[name])
            everyone[name] = held_out(own, ("4", "8"), ("12",))["draws"]
            keep("subjects", everyone)
        print("\n## 13 subjects\n\n" + table(everyone) + "\n")
        for other in next(iter(everyone.values()))["patch"]["scores"]:
            if other != "emag":
                print(wins(everyone, other))
        if arguments.face13:
            keep("face13", transfer(arguments.root, Path(arguments.face13), work, arguments.seeds))
            print("\n## Face13\n\n" + transfer_table(numbers["face13"]), flush=True)


if __name__ == "__main__":
    main()
