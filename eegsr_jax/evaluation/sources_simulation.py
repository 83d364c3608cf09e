"""Trials with known focal sources, for asking what a reconstruction tells about sources.

A trial is a window of `simulated` EEG (background, rhythms, sensor noise) plus one or two dipoles
that fire together at its middle. Learned methods train on trials of the same kind with other
sources, over another run of the same head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from eegsr_jax import geometry
from eegsr_jax.data import datasets
from eegsr_jax.data.datasets import simulated
from eegsr_jax.errors import ConfigError

# The 64 electrodes of EEGMMIDB, so that its published layouts fit.
CAP = tuple(
    "Fp1 Fpz Fp2 AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 "
    "FT8 T9 T7 C5 C3 C1 Cz C2 C4 C6 T8 T10 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 P7 P5 P3 P1 Pz P2 "
    "P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2 Iz".split()
)
LOWEST = -0.3  # of a direction's z: no source lies in the neck
WIDTH, WAVE = 0.04, 5.0  # of the evoked wave: s of its Gaussian envelope, Hz of its cosine
BASELINE = 0.3  # s before the peak at which the baseline ends
APART = 0.4  # head radii between two sources, at least


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What is simulated; every number below is fixed by `seed` and the subject's number.

    Attributes:
      num_subjects: heads, each with background sources of its own.
      train_seconds: of the run that methods learn from; a fifth of its windows validates.
      seconds: of a window.
      sfreq: Hz.
      positions: test sources at each eccentricity.
      eccentricities: of the test sources, in head radii; the brain ends at 0.9.
      snr_db: of the test trials: root mean square over the channels (average reference) of the
        evoked potential at its peak, over that of everything else.
      spacing_mm: between the points at which inverses look for sources.
      montage: names of the electrodes of the full cap.
      seed: of everything.
    """

    num_subjects: int = 5
    train_seconds: float = 300.0
    seconds: float = 2.0
    sfreq: float = 80.0
    positions: int = 12
    eccentricities: tuple[float, ...] = (0.3, 0.5, 0.65, 0.8)
    snr_db: tuple[float, ...] = (0.0, 10.0, 20.0)
    spacing_mm: float = 8.0
    montage: tuple[str, ...] = CAP
    seed: int = 0

    def __post_init__(self):
        for name in ("num_subjects", "positions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if not self.eccentricities or not all(0 < e <= 0.85 for e in self.eccentricities):
            raise ConfigError(
                f"eccentricities are {self.eccentricities}; expected head radii above 0 and up to "
                "0.85, inside the brain"
            )
        if not self.snr_db or not np.isfinite(self.snr_db).all():
            raise ConfigError(f"snr_db is {self.snr_db}; expected decibels")
        if not 2.0 <= self.spacing_mm <= 30.0:
            raise ConfigError(f"spacing_mm is {self.spacing_mm:g}; expected 2 to 30")
        if not self.seconds >= 1.0:
            raise ConfigError(
                f"seconds is {self.seconds:g}; expected 1 or more: a baseline and a wave"
            )
        if not self.train_seconds >= 5 * self.seconds:
            raise ConfigError(
                f"train_seconds is {self.train_seconds:g}; expected 5 windows of "
                f"{self.seconds:g} s or more, one of which validates"
            )

    @property
    def samples(self) -> int:
        """Of a window."""
        return round(self.seconds * self.sfreq)

    @property
    def peak(self) -> int:
        """The sample of a window at which its sources are strongest."""
        return self.samples // 2

    @property
    def baseline(self) -> slice:
        """The samples before the evoked wave."""
        return slice(0, self.peak - round(BASELINE * self.sfreq))

    @property
    def evoked(self) -> slice:
        """The samples of the evoked wave."""
        reach = round(2.5 * WIDTH * self.sfreq)
        return slice(self.peak - reach, self.peak + reach + 1)


@dataclass(frozen=True, kw_only=True)
class Trials:
    """N windows and what is in them.

    Attributes:
      eeg: `[N, M, time]` float32 volts, against infinity.
      positions: `[N, 2, 3]` metres, head frame; of one source, twice the same.
      sources: `[N]` 1 or 2.
      eccentricity: `[N]` head radii.
      snr_db: `[N]`.
    """

    eeg: np.ndarray
    positions: np.ndarray
    sources: np.ndarray
    eccentricity: np.ndarray
    snr_db: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A head, its full cap and its trials.

    Attributes:
      name: "1", "2", …
      names: M electrodes.
      electrodes: `[M, 3]` metres, on the scalp sphere.
      centre, radius: of the scalp sphere, metres.
      train, test: trials of two runs.
    """

    name: str
    names: tuple[str, ...]
    electrodes: np.ndarray
    centre: np.ndarray
    radius: float
    train: Trials
    test: Trials


def simulate(simulation: Simulation, number: int) -> Subject:
    """Subject `number` (from 1).

    Raises:
      EEGSRError: an electrode, rate or length that `simulated` refuses.
    """
    pool = simulation.positions * len(simulation.eccentricities)
    train = _background(simulation, number, 1, simulation.train_seconds)
    test = _background(simulation, number, 2, pool * simulation.seconds)
    electrodes = train.positions
    centre, radius = geometry.fit_sphere(electrodes)
    windows, rest = (_windows(run.data, simulation.samples) for run in (train, test))

    rng, count = np.random.default_rng([simulation.seed, number, 1]), len(windows)
    low, high = min(simulation.eccentricities), max(simulation.eccentricities)
    training = {
        "background": windows,
        "sources": rng.integers(1, 3, count),
        "eccentricity": rng.uniform(low, high, count),
        "snr_db": rng.uniform(min(simulation.snr_db), max(simulation.snr_db), count),
    }
    training |= _sources(rng, training["eccentricity"])

    # The same sources and background in every condition: only what is compared differs.
    rng = np.random.default_rng([simulation.seed, number, 2])
    eccentricity = np.repeat(simulation.eccentricities, simulation.positions)
    places = _sources(rng, eccentricity)
    conditions = np.meshgrid(np.arange(pool), simulation.snr_db, (1, 2), indexing="ij")
    which, snr_db, sources = (a.ravel() for a in conditions)
    testing = {
        "background": rest[which],
        "sources": sources,
        "eccentricity": eccentricity[which],
        "snr_db": snr_db,
    } | {name: values[which] for name, values in places.items()}

    level = _gfp(windows.transpose(1, 0, 2).reshape(len(electrodes), -1))
    head = {"electrodes": electrodes, "centre": centre, "radius": radius}
    made = [_trials(simulation, head, level, **part) for part in (training, testing)]
    return Subject(name=str(number), names=train.names, **head, train=made[0], test=made[1])


def _background(simulation: Simulation, number: int, run: int, seconds: float) -> Any:
    opened = datasets.load(
        "simulated",
        subjects=number,
        runs=run,
        montage=list(simulation.montage),
        num_subjects=simulation.num_subjects,
        num_runs=2,
        seconds=seconds,
        sfreq=simulation.sfreq,
        seed=simulation.seed,
    )
    return opened.entries[0].read()


def _trials(
    simulation: Simulation,
    head: dict[str, Any],
    level: float,
    *,
    background: np.ndarray,
    sources: np.ndarray,
    eccentricity: np.ndarray,
    snr_db: np.ndarray,
    directions: np.ndarray,
    orientations: np.ndarray,
) -> Trials:
    """The background with its sources added; `level` is the background's rms over channels."""
    positions = head["centre"] + head["radius"] * eccentricity[:, None, None] * directions
    gains = simulated.leadfield(
        head["electrodes"],
        positions.reshape(-1, 3),
        orientations.reshape(-1, 3),
        head["centre"],
        head["radius"],
    )
    maps = gains.T.reshape(len(sources), 2, -1)
    maps /= np.sqrt(np.mean((maps - maps.mean(-1, keepdims=True)) ** 2, -1, keepdims=True))
    maps[sources == 1, 1] = 0.0
    both = maps.sum(1)  # two sources are equally strong on the scalp
    strength = level * 10 ** (snr_db / 20) / _each_gfp(both)
    time = (np.arange(simulation.samples) - simulation.peak) / simulation.sfreq
    wave = np.exp(-0.5 * (time / WIDTH) ** 2) * np.cos(2 * np.pi * WAVE * time)
    eeg = background + (strength[:, None] * both)[:, :, None] * wave
    positions[sources == 1, 1] = positions[sources == 1, 0]
    return Trials(
        eeg=eeg.astype(np.float32),
        positions=positions,
        sources=sources,
        eccentricity=eccentricity,
        snr_db=snr_db,
    )


def _windows(data: np.ndarray, samples: int) -> np.ndarray:
    """`[windows, M, samples]` that lie side by side."""
    count = data.shape[1] // samples
    return data[:, : count * samples].reshape(len(data), count, samples).transpose(1, 0, 2)


def _sources(rng: np.random.Generator, eccentricity: np.ndarray) -> dict[str, np.ndarray]:
    """Directions and orientations `[N, 2, 3]` of pairs above the neck, `APART` if they can."""
    directions = np.empty((len(eccentricity), 2, 3))
    for pair, reach in zip(directions, eccentricity, strict=True):
        while True:
            pair[:] = _unit(rng.standard_normal((2, 3)))
            apart = reach * np.linalg.norm(pair[0] - pair[1])
            if (pair[:, 2] > LOWEST).all() and apart >= min(APART, reach):
                break
    return {
        "directions": directions,
        "orientations": _unit(rng.standard_normal(directions.shape)),
    }


def _gfp(data: np.ndarray) -> float:
    """Root mean square over channels and time of `[M, time]` on its average reference."""
    return float(np.sqrt(np.mean((data - data.mean(0)) ** 2)))


def _each_gfp(maps: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean((maps - maps.mean(-1, keepdims=True)) ** 2, -1))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
