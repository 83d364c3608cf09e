"""Claim: the same methods reconstruct MEG: magnetometers that are not there, from some that are.

    python benchmarks/meg.py [--json FILE] [--quick]

The 102 magnetometers of a Vectorview helmet, as in MNE's sample data, with the positions,
directions and coils that MNE-Python ships. Brain activity is that of the simulated EEG: 200 dipoles
in a sphere, with 1/f background, alpha and beta bursts; MNE's forward model says what the coils see
of it, and each adds white noise of 3 fT/√Hz. Everybody has dipoles of their own: those whom a
method trains on, those who validate and those who are tested share no source. 26 or 13
magnetometers are given, the others are missing. Everything is in tesla.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from eegsr_jax import geometry, layouts, methods
from eegsr_jax.data.datasets import load
from eegsr_jax.data.datasets.simulated import Sources
from eegsr_jax.evaluation.metrics import Scores
from eegsr_jax.training.loop import fit, jitted, nameless

SFREQ, WINDOW = 160, 320
NOISE = 3e-15  # tesla/√Hz, of a Vectorview magnetometer
PEOPLE = {"train": range(1, 17), "validate": range(17, 21), "test": range(21, 29)}
GIVEN, SEEDS = (26, 13), (0, 1, 2)
BY_MNE, BOUND = "MNE's field interpolation", "the field without the coils' noise"
SRGDIFF = "srgdiff(lags=2,components=8,features=32,mean_epochs=12,hidden=24,epochs=12)"  # small
METHODS = (
    *("spherical_spline", "spherical_spline(tune=True)", "gaussian(lags=2)"),
    *("lagged_ridge(lags=2)", SRGDIFF),
)

# ------------------------------------------------------------------------------------ simulation


def magnetometers(centre: np.ndarray) -> Any:
    """MNE's `Info` of the 102 magnetometers, the helmet's sphere about a head's `centre`."""
    import mne

    if not hasattr(mne.channels, "read_meg_canonical_info"):
        raise SystemExit(f"MNE {version('mne')} ships no MEG sensors: 1.12 or newer does")
    info = mne.channels.read_meg_canonical_info("neuromag")
    info = mne.pick_info(info, mne.pick_types(info, meg="mag"))
    helmet, _ = geometry.fit_sphere(np.stack([channel["loc"][:3] for channel in info["chs"]]))
    shift = mne.transforms.translation(*(centre - helmet))
    info["dev_head_t"] = mne.Transform("meg", "head", shift)
    return info


def positions(info: Any) -> dict[str, np.ndarray]:
    """Centres of the coils by name: `[3]` metres, head frame."""
    shift = info["dev_head_t"]["trans"][:3, 3]
    return {channel["ch_name"]: channel["loc"][:3] + shift for channel in info["chs"]}


def gains(info: Any, sources: Sources) -> np.ndarray:
    """`[channel, source]` T/(A m): what the coils see of unit dipoles in a sphere, by MNE."""
    import mne

    where = {"rr": sources.positions, "nn": sources.orientations}
    with mne.utils.use_log_level("error"):
        sphere = mne.make_sphere_model(r0=sources.centre, head_radius=sources.radius)
        space = mne.setup_volume_source_space(pos=where, sphere=sphere, mindist=0.0)
        forward = mne.make_forward_solution(
            info, trans=None, src=space, bem=sphere, meg=True, eeg=False
        )
    free = forward["sol"]["data"].reshape(len(info["chs"]), len(sources.positions), 3)
    return np.einsum("csx,sx->cs", free, sources.orientations)


def heads(people: Sequence[int], seconds: float) -> list[Sources]:
    """Dipoles and their time courses, of each person their own."""
    last = max(people)
    data = load("simulated", num_subjects=last, subjects=people, seconds=seconds, sfreq=SFREQ)
    return [entry.truth() for entry in data.entries if entry.truth is not None]


def windows(info: Any, people: Sequence[int], seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """MEG, and the same without noise: `[person, window, 102, time]` float32, tesla."""
    noisy, clean = [], []
    for person, sources in zip(people, heads(people, seconds), strict=True):
        field = gains(info, sources) @ sources.time_courses
        noise = np.random.default_rng([1, person]).standard_normal(field.shape)
        for kept, meg in ((clean, field), (noisy, field + NOISE * np.sqrt(SFREQ / 2) * noise)):
            whole = meg[:, : meg.shape[1] // WINDOW * WINDOW].astype(np.float32)
            kept.append(whole.reshape(len(meg), -1, WINDOW).swapaxes(0, 1))
    return np.stack(noisy), np.stack(clean)


# ------------------------------------------------------------------------------------ comparison


def by_mne(info: Any, given: Sequence[str], meg: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """`[window, 102, time]` by MNE's `interpolate_bads`, which knows coils and sphere."""
    import mne

    with mne.utils.use_log_level("error"):
        raw = mne.io.RawArray(meg.swapaxes(0, 1).reshape(meg.shape[1], -1), info.copy())
        raw.info["bads"] = [name for name in info["ch_names"] if name not in given]
        raw.interpolate_bads(reset_bads=False, origin=centre)
    return raw.get_data().reshape(meg.shape[1], len(meg), -1).swapaxes(0, 1)


def scores(
    truth: np.ndarray, mean: np.ndarray, missing: np.ndarray, std: np.ndarray | None = None
) -> dict[str, float]:
    """Of one person: error, correlation, cover, and the power of the estimate over the true one."""
    kept = Scores(missing, SFREQ)
    kept.add(truth, mean, np.full_like(truth, np.inf) if std is None else std)
    found = kept.summary()
    power, true_power = (np.mean(np.square(x[:, missing], dtype=float)) for x in (mean, truth))
    chosen = {k: found[k] for k in ("nmse_missing", "pcc_missing", "coverage_90")}
    return chosen | {"power_db": float(10 * np.log10(power / true_power))}


def compare(
    info: Any, centre: np.ndarray, noisy: dict, clean: np.ndarray, count: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """What each method makes of `count` given magnetometers: rows of scores, person by person.

    `noisy` has the windows of each part of `PEOPLE`, `clean` those of "test".
    """
    table = positions(info)
    given = layouts.layout(f"spread:{count}", list(table), positions=np.stack(list(table.values())))
    where = geometry.make_geometry(given, list(table), table)
    missing = np.array([name not in given for name in table])

    parts = [np.concatenate(noisy[name]) for name in ("train", "validate")]
    meg, part = np.concatenate(parts), np.repeat([0, 1], [len(x) for x in parts])
    data = [{"eeg": meg[i : i + 32], "part": part[i : i + 32]} for i in range(0, len(meg), 32)]

    rows: dict[str, list] = {BY_MNE: [], BOUND: []}
    fitting = {}
    for truth, field in zip(noisy["test"], clean, strict=True):
        rows[BY_MNE].append(scores(truth, by_mne(info, given, truth, centre), missing))
        rows[BOUND].append(scores(truth, field, missing))
    for text, method in methods.parse(",".join(METHODS)).items():
        draws = rows.setdefault(f"{method.name}, one draw", []) if method.draw else []
        own = rows.setdefault(text, [])
        for seed in seeds if method.draw else (0,):
            begin, key = time.perf_counter(), jax.random.key(seed)
            params = fit(method, where, lambda: data, key=key)
            plan = jax.block_until_ready(jitted(method.plan)(params, nameless(where)))
            fitting[f"{text}, seed {seed}"] = time.perf_counter() - begin
            for truth in noisy["test"]:
                observed = truth[:, np.asarray(where.observed_index)]
                mean, std = map(np.asarray, jitted(method.apply)(plan, observed, key))
                own.append(scores(truth, mean, missing, std))
                if method.draw:
                    drawn = np.asarray(jitted(method.draw)(plan, observed, key))
                    draws.append(scores(truth, drawn, missing))
    return {"given": count, "names": given, "rows": rows, "fit_seconds": fitting}


def as_markdown(found: dict[str, Any], people: int) -> str:
    """A table: of the means over seeds, the median (lowest–highest) over people."""
    lines = [
        f"| {found['given']} of 102 given | NMSE | r | 90 % bars cover, % | power, dB |",
        "|---|---|---|---|---|",
    ]
    columns = {
        "nmse_missing": lambda x: f"{x:.4f}",
        "pcc_missing": lambda x: f"{x:.3f}",
        "coverage_90": lambda x: f"{100 * x:.1f}",
        "power_db": lambda x: f"{x:+.2f}",
    }
    for name, row in found["rows"].items():
        cells = [f"`{name}`" if name in METHODS else name]
        for key, written in columns.items():
            each = np.reshape([one[key] for one in row], (-1, people)).mean(0)
            middle, low, high = (written(f(each)) for f in (np.median, np.min, np.max))
            cells.append("none" if np.isnan(each).any() else f"{middle} ({low} to {high})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    parser.add_argument("--quick", action="store_true")
    flags = parser.parse_args(arguments)
    people, given, seeds, seconds = PEOPLE, GIVEN, SEEDS, 30.0
    if flags.quick:
        people = {name: persons[:2] for name, persons in PEOPLE.items()}
        given, seeds, seconds = GIVEN[:1], SEEDS[:1], 16.0
    begin = time.perf_counter()
    centre = heads([1], 2.0)[0].centre  # all have the same head
    info = magnetometers(centre)
    meg = {name: windows(info, persons, seconds) for name, persons in people.items()}
    noisy, clean = {name: both[0] for name, both in meg.items()}, meg["test"][1]
    rms = 1e15 * float(np.sqrt(np.mean(np.square(clean, dtype=float))))
    print(f"{rms:.0f} fT rms, noise {1e15 * NOISE * np.sqrt(SFREQ / 2):.0f} fT")
    found = []
    for count in given:
        found.append(compare(info, centre, noisy, clean, count, seeds))
        print("\n" + as_markdown(found[-1], len(people["test"])), flush=True)
    head = {
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {n: version(n) for n in ("jax", "jaxlib", "flax", "optax", "numpy", "mne")},
        "seconds": time.perf_counter() - begin,
    }
    print(json.dumps(head))
    if flags.json:
        with open(flags.json, "w") as file:
            json.dump(head | {"rms_ft": rms, "found": found}, file, indent=1)


if __name__ == "__main__":
    main()
