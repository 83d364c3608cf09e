"""Claim: the same methods reconstruct MEG: magnetometers that are not there, from some that are.

    python benchmarks/meg.py [--json FILE] [--quick]

The 102 magnetometers of a Vectorview helmet, as in MNE's sample data, with the positions, directions
and coils that MNE-Python ships. Brain activity is that of the simulated EEG: 200 dipoles in a sphere
with 1/f background, alpha and beta bursts; MNE's forward model says what the coils see; each has
white noise of 3 fT/√Hz. Everybody has dipoles of their own: those whom a method trains on, those
who validate and those who are tested share no source. 26 or 13 magnetometers are given, the others
are missing. Everything is in tesla.
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
TRAIN, VALIDATE, TEST = range(1, 17), range(17, 21), range(21, 29)  # persons
GIVEN, SEEDS = (26, 13), (0, 1, 2)
MNE_ROW, BOUND = "MNE's field interpolation", "the field without the sensors' noise"
SMALL = "features=32,mean_epochs=12,hidden=24,epochs=12"  # a fraction of the usual network
METHODS = (
    *("spherical_spline", "spherical_spline(tune=True)", "gaussian", "lagged_ridge", "emag"),
    f"srgdiff({SMALL})",
)

# ------------------------------------------------------------------------------------ simulation


def magnetometers(centre: np.ndarray) -> Any:
    """MNE's `Info` of the 102 magnetometers, the helmet's sphere about the head's `centre`."""
    import mne

    if not hasattr(mne.channels, "read_meg_canonical_info"):
        raise SystemExit(f"MNE {mne.__version__} ships no MEG sensors; 1.12 or newer does")
    info = mne.channels.read_meg_canonical_info("neuromag")
    info = mne.pick_info(info, mne.pick_types(info, meg="mag"))
    helmet, _ = geometry.fit_sphere(np.stack([channel["loc"][:3] for channel in info["chs"]]))
    shift = mne.transforms.translation(*(centre - helmet))
    info["dev_head_t"] = mne.Transform("meg", "head", shift)
    return info


def positions(info: Any) -> dict[str, np.ndarray]:
    """Centres of the coils: `[3]` metres in the head frame, by name."""
    import mne

    move = info["dev_head_t"]
    return {c["ch_name"]: mne.transforms.apply_trans(move, c["loc"][:3]) for c in info["chs"]}


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


def windows(persons: Sequence[int], seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """MEG, and the same without noise: `[person, window, 102, time]` float32, tesla."""
    # As many exist always, so that the seeds of a person do not hang on how many are simulated.
    people = load(
        "simulated", num_subjects=TEST[-1], subjects=list(persons), seconds=seconds, sfreq=SFREQ
    )
    found = []
    for person, entry in zip(persons, people.entries, strict=True):
        sources = entry.truth()
        clean = gains(magnetometers(sources.centre), sources) @ sources.time_courses
        noise = np.random.default_rng([1, person]).standard_normal(clean.shape)
        both = np.stack([clean + NOISE * np.sqrt(SFREQ / 2) * noise, clean])
        count = both.shape[2] // WINDOW
        both = both[:, :, : count * WINDOW].reshape(2, len(clean), count, WINDOW)
        found.append(both.swapaxes(1, 2).astype(np.float32))
    noisy, clean = np.stack(found, 1)
    return noisy, clean


# ------------------------------------------------------------------------------------ comparison


def trained(text: str, where: geometry.Geometry, data: list[dict], seed: int) -> tuple[Any, Any]:
    """A method, fitted and planned."""
    (method,) = methods.parse(text).values()
    params = fit(method, where, lambda: data, key=jax.random.key(seed))
    return method, jax.block_until_ready(jitted(method.plan)(params, nameless(where)))


def by_mne(info: Any, given: Sequence[str], eeg: np.ndarray) -> np.ndarray:
    """`[window, 102, time]` by MNE's `interpolate_bads`, which knows coils and sphere."""
    import mne

    with mne.utils.use_log_level("error"):
        raw = mne.io.RawArray(eeg.swapaxes(0, 1).reshape(len(info["chs"]), -1), info.copy())
        raw.info["bads"] = [name for name in info["ch_names"] if name not in given]
        origin = info["dev_head_t"]["trans"][:3, 3] + geometry.fit_sphere(
            np.stack([c["loc"][:3] for c in info["chs"]])
        )[0]
        raw.interpolate_bads(reset_bads=False, origin=origin)
    return raw.get_data().reshape(len(info["chs"]), len(eeg), -1).swapaxes(0, 1)


def scores(truth: np.ndarray, mean: np.ndarray, std: np.ndarray, missing: np.ndarray) -> dict:
    """Of one person: error, correlation, cover, and the power of the estimate over the true one."""
    kept = Scores(missing, SFREQ)
    kept.add(truth, mean, std)
    found = kept.summary()
    ratio = np.mean(mean[:, missing].astype(float) ** 2) / np.mean(
        truth[:, missing].astype(float) ** 2
    )
    return {k: found[k] for k in ("nmse_missing", "pcc_missing", "coverage_90")} | {
        "power_db": float(10 * np.log10(ratio))
    }


def compare(
    count: int, seconds: float, people: dict[str, Sequence[int]], seeds: Sequence[int]
) -> dict:
    """Rows: what each method makes of `count` given magnetometers, person by person."""
    noisy, clean = {}, {}
    for part, persons in people.items():
        noisy[part], clean[part] = windows(persons, seconds)
    centre = load("simulated", num_subjects=1, seconds=2.0).entries[0].truth().centre
    info = magnetometers(centre)
    table = positions(info)
    names = list(table)
    given = layouts.layout(f"spread:{count}", names, positions=np.stack(list(table.values())))
    where = geometry.make_geometry(given, names, table)
    missing = np.array([name not in given for name in names])
    training = np.concatenate([np.concatenate(noisy[part]) for part in ("train", "validate")])
    part = np.repeat([0, 1], [noisy[p].shape[0] * noisy[p].shape[1] for p in ("train", "validate")])
    data = [{"eeg": training[i : i + 32], "part": part[i : i + 32]} for i in range(0, len(part), 32)]
    blank = np.full_like(noisy["test"][0], np.inf)
    rows: dict[str, list] = {MNE_ROW: [], BOUND: []}
    for truth, field in zip(noisy["test"], clean["test"], strict=True):
        rows[MNE_ROW].append(scores(truth, by_mne(info, given, truth), blank, missing))
        rows[BOUND].append(scores(truth, field, blank, missing))
    fitting = {}
    for text in METHODS:
        random = text.startswith(("emag", "srgdiff"))
        for seed in seeds if random else (0,):
            begin = time.perf_counter()
            method, plan = trained(text, where, data, seed)
            fitting[f"{text} {seed}"] = time.perf_counter() - begin
            for truth in noisy["test"]:
                observed = truth[:, where.observed_index]
                key = jax.random.key(0)
                mean, std = map(np.asarray, jitted(method.apply)(plan, observed, key))
                rows.setdefault(text, []).append(scores(truth, mean, std, missing))
                if method.draw is not None:
                    drawn = np.asarray(jitted(method.draw)(plan, observed, key))
                    rows.setdefault("its draw", []).append(scores(truth, drawn, blank, missing))
    return {"given": count, "rows": rows, "fit_seconds": fitting}


# ----------------------------------------------------------------------------------------- pages


def as_markdown(found: dict, persons: int) -> str:
    """A table: the median (lowest–highest) over persons, of the mean over seeds."""
    lines = [
        f"| {found['given']} of 102 given | NMSE | r | 90 % bars cover | power, dB |",
        "|---|---|---|---|---|",
    ]
    for name, row in found["rows"].items():
        cells = [f"`{name}`" if name in METHODS else name]
        for key, form in (
            ("nmse_missing", "{:.4f}"),
            ("pcc_missing", "{:.3f}"),
            ("coverage_90", "{:.1%}"),
            ("power_db", "{:+.2f}"),
        ):
            each = np.reshape([one[key] for one in row], (-1, persons)).mean(0)
            middle, low, high = (form.format(f(each)) for f in (np.median, np.min, np.max))
            whole = f"{middle} ({low}–{high})" if key == "nmse_missing" else middle
            cells.append("none" if np.isnan(each).any() else whole.replace("%", " %"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    """Measure and print; write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    parser.add_argument("--quick", action="store_true")
    flags = parser.parse_args(arguments)
    people = {"train": TRAIN, "validate": VALIDATE, "test": TEST}
    given, seeds, seconds = GIVEN, SEEDS, 30.0
    if flags.quick:
        people = {name: persons[:2] for name, persons in people.items()}
        given, seeds, seconds = GIVEN[:1], SEEDS[:1], 16.0
    begin, found = time.perf_counter(), []
    for count in given:
        found.append(compare(count, seconds, people, seeds))
        print(as_markdown(found[-1], len(people["test"])), flush=True)
    head = {
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {n: version(n) for n in ("jax", "jaxlib", "flax", "optax", "numpy", "mne")},
        "seconds": time.perf_counter() - begin,
    }
    print(head)
    if flags.json:
        with open(flags.json, "w") as file:
            json.dump(head | {"found": found}, file, indent=1)
    return found


if __name__ == "__main__":
    main()
