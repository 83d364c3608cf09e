"""Simulated EEG with known sources: dipoles in a layered sphere, any montage, seeded.

Current dipoles lie in the brain shell of MNE's four-layer sphere (brain, fluid, skull, scalp);
their time courses are 1/f background, an occipital alpha rhythm and central beta bursts; the
potential is against infinity and every electrode adds white sensor noise.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from eegsr_jax import geometry
from eegsr_jax.data import recording
from eegsr_jax.data.datasets.base import Dataset, Entry
from eegsr_jax.data.datasets.selection import Selection, choose, refuse_root
from eegsr_jax.errors import DatasetError

NAME = "simulated"
# Radii of brain, fluid, skull and scalp as parts of the head's, and their conductivities (S/m):
# MNE's defaults.
RADII = (0.90, 0.92, 0.97, 1.0)
CONDUCTIVITIES = (0.33, 1.0, 0.004, 0.33)
AMPLITUDE = 15e-6  # volts, root mean square over channels and time without noise
ALPHA, BETA = 10.0, 20.0  # Hz
_LEAST_WHOLE = {"num_subjects": 1, "num_runs": 1, "num_sources": 1, "seed": 0}
_LEAST_REAL = {"seconds": 2.0, "sfreq": 64.0}  # the beta rhythm needs the latter


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What made a simulated recording; `noiseless` is `leadfield @ time_courses`.

    Attributes:
      positions: `[source, 3]` metres, MNE head frame.
      orientations: `[source, 3]` unit vectors.
      time_courses: `[source, time]` float32, dipole moments in A m.
      leadfield: `[channel, source]` V/(A m), against infinity.
      noiseless: `[channel, time]` float32, volts.
      noise_std: standard deviation of the sensor noise, volts.
      centre: `[3]` metres, centre of the spheres.
      radius: metres, of the scalp.
    """

    positions: np.ndarray
    orientations: np.ndarray
    time_courses: np.ndarray
    leadfield: np.ndarray
    noiseless: np.ndarray
    noise_std: float
    centre: np.ndarray
    radius: float


def open_dataset(
    root: str | Path | None = None,
    *,
    subjects: Selection = None,
    sessions: Selection = None,
    runs: Selection = None,
    montage: str | Sequence[str] = "biosemi64",
    num_subjects: int = 4,
    num_runs: int = 1,
    seconds: float = 60.0,
    sfreq: float = 160.0,
    num_sources: int = 200,
    snr_db: float = 20.0,
    seed: int = 0,
) -> Dataset:
    """Simulated subjects: each has its own sources, each run its own time courses.

    Args:
      root: None; nothing is read.
      subjects: 1..`num_subjects`; None takes all.
      sessions: there is one, "1".
      runs: 1..`num_runs`; None takes all.
      montage: a montage name (see `geometry.montage`), or names of 10-05 electrodes.
      num_subjects: subjects that exist.
      num_runs: runs of each subject.
      seconds: length of a run.
      sfreq: sampling rate, Hz.
      num_sources: dipoles in each head.
      snr_db: mean power of the channels over that of the noise; `inf` for no noise.
      seed: together with subject and run it fixes every sample.

    Returns:
      Entries whose `truth()` gives the `Sources` of the recording that `read()` gives.

    Raises:
      DatasetError: a root, an unknown subject or run, or an option of the wrong type or out of
        range.
      ChannelError: an unknown montage or electrode.
    """
    refuse_root(root, NAME)
    _check_montage(montage)
    _check_numbers(
        num_subjects=num_subjects,
        num_runs=num_runs,
        seconds=seconds,
        sfreq=sfreq,
        num_sources=num_sources,
        seed=seed,
    )
    if not (_is_number(snr_db) and snr_db > -np.inf):
        raise DatasetError(f"{NAME}: snr_db is {snr_db!r}; expected decibels, or inf for no noise")
    names, electrodes = _electrodes(montage)
    choose(["1"], sessions, "session", NAME)
    entries = []
    for subject in choose(_numbers(num_subjects), subjects, "subject", NAME):
        for run in choose(_numbers(num_runs), runs, "run", NAME):
            make = functools.partial(
                _simulate,
                electrodes,
                seeds=(seed, int(subject), int(run)),
                samples=round(seconds * sfreq),
                sfreq=sfreq,
                num_sources=num_sources,
                snr_db=snr_db,
            )
            read = functools.partial(_read, make, electrodes, sfreq, names, subject, run)
            entries.append(
                Entry(subject=subject, run=run, read=read, truth=functools.partial(_truth, make))
            )
    return Dataset(
        name=NAME,
        entries=tuple(entries),
        citation="simulated by eegsr_jax with MNE-Python's sphere model",
        licence="CC0-1.0",
        options={
            "montage": montage if isinstance(montage, str) else list(montage),
            "seconds": float(seconds),
            "sfreq": float(sfreq),
            "num_sources": int(num_sources),
            "snr_db": float(snr_db) if np.isfinite(snr_db) else "inf",
            "seed": int(seed),
        },
    )


def leadfield(
    electrodes: np.ndarray,
    positions: np.ndarray,
    orientations: np.ndarray,
    centre: np.ndarray,
    radius: float,
) -> np.ndarray:
    """Potentials of unit dipoles at electrodes on the layered sphere, by MNE.

    Args:
      electrodes: `[channel, 3]` metres, on the scalp sphere.
      positions: `[source, 3]` metres, inside the brain shell.
      orientations: `[source, 3]` unit vectors.
      centre: `[3]` metres.
      radius: metres, of the scalp.

    Returns:
      `[channel, source]` float64, V/(A m), against infinity.
    """
    import mne

    names = [f"E{i}" for i in range(len(electrodes))]
    info = mne.create_info(names, 1000.0, "eeg")
    where = dict(zip(names, electrodes, strict=True))
    with mne.utils.use_log_level("error"):
        info.set_montage(mne.channels.make_dig_montage(where, coord_frame="head"))
        sphere = mne.make_sphere_model(
            r0=centre, head_radius=radius, relative_radii=RADII, sigmas=CONDUCTIVITIES
        )
        space = mne.setup_volume_source_space(
            pos={"rr": positions, "nn": orientations}, sphere=sphere, mindist=0.0
        )
        forward = mne.make_forward_solution(
            info, trans=None, src=space, bem=sphere, meg=False, eeg=True
        )
    free = forward["sol"]["data"].reshape(len(electrodes), len(positions), 3)
    return np.einsum("csx,sx->cs", free, orientations)


# --------------------------------------------------------------------------------------- one head


def _simulate(
    electrodes: np.ndarray,
    *,
    seeds: tuple[int, int, int],
    samples: int,
    sfreq: float,
    num_sources: int,
    snr_db: float,
) -> tuple[Sources, np.ndarray]:
    """The sources and the noisy data `[channel, time]` float32, volts."""
    seed, subject, run = seeds
    centre, radius = geometry.fit_sphere(electrodes)
    head = np.random.default_rng([seed, subject])
    unit, normals = _dipoles(head, num_sources)
    positions = centre + radius * unit
    gains = leadfield(electrodes, positions, normals, centre, radius)

    time = np.random.default_rng([seed, subject, run])
    moments = _time_courses(time, unit, samples, sfreq)
    clean = gains @ moments
    scale = AMPLITUDE / np.sqrt(np.mean(clean**2))
    noise_std = AMPLITUDE * 10 ** (-snr_db / 20)
    noisy = scale * clean + noise_std * time.standard_normal(clean.shape)
    sources = Sources(
        positions=positions,
        orientations=normals,
        time_courses=(scale * moments).astype(np.float32),
        leadfield=gains,
        noiseless=(scale * clean).astype(np.float32),
        noise_std=noise_std,
        centre=centre,
        radius=radius,
    )
    return sources, noisy.astype(np.float32)


def _truth(make: functools.partial) -> Sources:
    return make()[0]


def _read(
    make: functools.partial,
    electrodes: np.ndarray,
    sfreq: float,
    names: tuple[str, ...],
    subject: str,
    run: str,
) -> recording.Recording:
    source = f"{NAME} subject {subject} run {run}"
    return recording.from_array(
        make()[1], sfreq, names, electrodes, subject=subject, run=run, source=source
    )


def _dipoles(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions `[count, 3]` in head radii from the centre, and orientations `[count, 3]`.

    The shell 0.60-0.85 holds the cortex of a sphere with a brain of 0.9; nothing lies in the neck.
    Orientations lean outwards, as on gyri, with a large tangential part, as in sulci.
    """
    directions = np.empty((0, 3))
    while len(directions) < count:
        drawn = _unit(rng.standard_normal((2 * count, 3)))
        directions = np.concatenate([directions, drawn[drawn[:, 2] > -0.3]])
    directions = directions[:count]
    depth = rng.uniform(0.60, 0.85, (count, 1))
    return depth * directions, _unit(directions + 1.5 * _unit(rng.standard_normal((count, 3))))


def _time_courses(
    rng: np.random.Generator, unit: np.ndarray, samples: int, sfreq: float
) -> np.ndarray:
    """Dipole moments `[source, samples]` in units of the background's standard deviation."""
    count = len(unit)
    frequency = np.fft.rfftfreq(samples, 1 / sfreq)
    exponent = rng.uniform(1.0, 1.6, (count, 1))  # of the power spectrum; flat below 0.5 Hz
    background = np.maximum(frequency, 0.5)[None] ** (-exponent / 2) * (frequency > 0)
    direction = _unit(unit)
    occipital = np.exp(4 * (direction @ _unit(np.array([0.0, -1.0, 0.1])) - 1))
    sides = _unit(np.array([[0.7, 0.0, 0.7], [-0.7, 0.0, 0.7]]))
    central = np.exp(8 * ((direction @ sides.T).max(1) - 1))
    alpha = _coloured(rng, _peak(frequency, rng.normal(ALPHA, 0.4, (count, 1)), 0.8), samples)
    beta = _coloured(rng, _peak(frequency, rng.normal(BETA, 1.0, (count, 1)), 1.5), samples)
    # Bursts: the rhythm passes while a slow noise stands above its own standard deviation.
    gate = np.maximum(_coloured(rng, (frequency < 1.0)[None] * np.ones((count, 1)), samples) - 1, 0)
    return (
        _coloured(rng, background, samples)
        + 1.5 * occipital[:, None] * alpha
        + 3.0 * central[:, None] * gate * beta
    )


def _coloured(rng: np.random.Generator, amplitude: np.ndarray, samples: int) -> np.ndarray:
    """Gaussian noise `[source, samples]` of unit variance with this amplitude spectrum."""
    spectrum = np.fft.rfft(rng.standard_normal((len(amplitude), samples))) * amplitude
    noise = np.fft.irfft(spectrum, samples)
    return noise / noise.std(1, keepdims=True)


def _peak(frequency: np.ndarray, centre: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((frequency[None] - centre) / width) ** 2)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# --------------------------------------------------------------------------------------- electrodes


def _electrodes(montage: str | Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names, and positions `[channel, 3]` moved along the radius onto the fitted head sphere."""
    if isinstance(montage, str):
        table = geometry.montage(montage)
        # Templates list some electrodes under two names (T3 and T7): the standard one stays.
        ordered = sorted(table, key=lambda name: geometry.standard_name(name) != name)
        kept: list[str] = []
        for name in ordered:
            if all(np.linalg.norm(table[name] - table[k]) > 1e-3 for k in kept):
                kept.append(name)
        names = tuple(name for name in table if name in kept)
    else:
        table = geometry.montage("standard_1005")
        found = geometry.find_channels(montage, list(table))
        names = tuple(list(table)[i] for i in found)
    positions = np.stack([table[name] for name in names])
    centre, radius = geometry.fit_sphere(positions)
    return names, centre + radius * _unit(positions - centre)


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(1, count + 1)]


def _check_montage(montage: Any) -> None:
    names = [montage] if isinstance(montage, str) else montage
    if not isinstance(names, Sequence) or not names or not all(isinstance(n, str) for n in names):
        raise DatasetError(
            f"{NAME}: montage is {montage!r}; expected a montage's name, or names of electrodes"
        )


def _check_numbers(**options: Any) -> None:
    for name, value in options.items():
        whole = name in _LEAST_WHOLE
        least = (_LEAST_WHOLE | _LEAST_REAL)[name]
        if not (_is_number(value, whole=whole) and least <= value < np.inf):
            what = "whole number" if whole else "number"
            raise DatasetError(
                f"{NAME}: {name} is {value!r}; expected a {what}, at least {least:g}"
            )


def _is_number(value: Any, *, whole: bool = False) -> bool:
    return isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
