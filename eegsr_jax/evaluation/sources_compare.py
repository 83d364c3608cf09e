"""Reconstruction and localisation of known sources: every method, one row for each condition."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax import layouts as ly
from eegsr_jax.errors import ChannelError
from eegsr_jax.evaluation import sources as so
from eegsr_jax.evaluation.sources_simulation import Simulation, Subject, Trials, simulate
from eegsr_jax.geometry import Geometry, make_geometry
from eegsr_jax.methods import moments as mo
from eegsr_jax.methods.base import Method
from eegsr_jax.training.loop import check_binding, fit, jitted, nameless
from eegsr_jax.typing import PyTree

Row = dict[str, Any]
Maps = dict[str, tuple[np.ndarray, np.ndarray]]  # estimator -> activity [N, S], points [S, 3]

OBSERVED, TRUTH, CONTROL = "low_density", "full_cap", "control"  # rows of no method
BATCH = 16  # windows; a batch of EMAG's modulation is [16, time, P]
_CONTROL_STEPS = np.arange(0.0, 0.86, 0.05)  # head radii
_VALIDATE = 0.2


def compare(
    simulation: Simulation,
    methods: Mapping[str, Method],
    layouts: Sequence[str],
    *,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Rows of every subject, layout and method (see docs/sources.md).

    Args:
      simulation: what is simulated.
      methods: by the text of their rows.
      layouts: observed electrodes, see `layouts.layout`.
      say: called with one line of progress after each method.

    Raises:
      EEGSRError: a layout or method that does not fit.
    """
    for method in methods.values():
        check_binding(method, simulation.sfreq, simulation.samples)
    rows: list[Row] = []
    known: dict[tuple, dict[str, so.Inverse]] = {}  # the cap is the same for all subjects
    for number in range(1, simulation.num_subjects + 1):
        subject = simulate(simulation, number)
        study = _Study(simulation, subject, known)
        geometries = {spec: study.geometry(spec) for spec in layouts}  # all, before hours of work
        full = study.inverse_maps(subject.names, study.peak(subject.test.eeg))
        for spec, geometry in geometries.items():
            index = np.asarray(geometry.observed_index)
            low = study.peak(subject.test.eeg[:, index])
            where = {"subject": subject.name, "layout": spec, "observed": len(index)}
            rows += study.score(where | {"method": TRUTH}, full)
            rows += study.score(
                where | {"method": OBSERVED}, study.inverse_maps(geometry.observed_names, low)
            )
            rows += study.score(where | {"method": CONTROL}, {"known": study.controls(index)})
            for label, method in methods.items():
                made = study.method(method, geometry)
                rows += [where | {"method": label} | row for row in made]
                say(_line(rows[-len(made) :], subject.name, spec, label))
    return rows


class _Study:
    """One subject: its trials, and what is asked of them."""

    def __init__(self, simulation: Simulation, subject: Subject, known: dict):
        self.simulation, self.subject, self.known = simulation, subject, known
        self.spacing = simulation.spacing_mm / 1e3  # metres
        head = so.Head(subject.centre, subject.radius)
        self.heads = {"known": head, "wrong": so.other(head)}
        self.place = dict(zip(subject.names, subject.electrodes, strict=True))

    def geometry(self, spec: str) -> Geometry:
        names = self.subject.names
        observed = ly.layout(spec, names, positions=self.subject.electrodes)
        if len(observed) == len(names):
            raise ChannelError(f"layout {spec!r} observes every channel: nothing is missing")
        return make_geometry(observed, names, self.place)

    def peak(self, eeg: np.ndarray) -> np.ndarray:
        """`[N, channel]` float64: the sample of the peak, against the baseline."""
        before = eeg[..., self.simulation.baseline].mean(-1, dtype=np.float64)
        return eeg[..., self.simulation.peak].astype(np.float64) - before

    def inverses(self, names: tuple[str, ...], head: str) -> dict[str, so.Inverse]:
        if (names, head) not in self.known:
            electrodes = np.stack([self.place[name] for name in names])
            self.known[names, head] = so.inverses(names, electrodes, self.heads[head], self.spacing)
        return self.known[names, head]

    def inverse_maps(self, names: tuple[str, ...], peaks: np.ndarray) -> dict[str, Maps]:
        """By head, then by inverse."""
        return {
            head: {
                name: (so.activity(inverse, peaks), inverse.points)
                for name, inverse in self.inverses(names, head).items()
            }
            for head in self.heads
        }

    def score(self, row: Row, maps: Mapping[str, Maps], extra: Row | None = None) -> list[Row]:
        """Rows of maps: means over the trials of a condition."""
        test, rows = self.subject.test, []
        for head, estimators in maps.items():
            for name, (activity, points) in estimators.items():
                found = so.scores(activity, points, test.positions)
                for condition, chosen in _conditions(test):
                    means = {key: float(v[chosen].mean()) for key, v in found.items()}
                    rows.append(row | {"estimator": name, "head": head} | condition | means)
                    rows[-1] |= extra or {}
        return rows

    def controls(self, index: np.ndarray) -> Maps:
        """What needs no inverse: the best constant, a point under the strongest electrode, any.

        How deep under, and which constant, is chosen on the training trials.
        """
        train, test = self.subject.train, self.subject.test
        points = so.grid(self.heads["known"], self.spacing)
        distance = np.linalg.norm(points[:, None, None] - train.positions[None], axis=-1).min(-1)
        constant = np.zeros((len(test.eeg), len(points)), np.float32)
        constant[:, distance.mean(1).argmin()] = 1.0
        seen = [self._strongest(trials, index) for trials in (train, test)]
        centre, radius = self.subject.centre, self.subject.radius
        under = [centre + radius * step * seen[0] for step in _CONTROL_STEPS]
        errors = [
            np.linalg.norm(p[:, None] - train.positions, axis=-1).min(1).mean() for p in under
        ]
        guess = centre + radius * _CONTROL_STEPS[int(np.argmin(errors))] * seen[1]
        nearest = np.linalg.norm(points[None] - guess[:, None], axis=-1).argmin(1)
        electrode = np.zeros_like(constant)
        electrode[np.arange(len(nearest)), nearest] = 1.0
        rng = np.random.default_rng([self.simulation.seed, 9])
        anywhere = rng.random(constant.shape, np.float32)
        return {
            "any point": (anywhere, points),
            "best constant": (constant, points),
            "under the strongest electrode": (electrode, points),
        }

    def _strongest(self, trials: Trials, index: np.ndarray) -> np.ndarray:
        """`[N, 3]` directions of the observed electrodes that are strongest at the peak."""
        peaks = self.peak(trials.eeg[:, index])
        place = np.abs(peaks - peaks.mean(1, keepdims=True)).argmax(1)
        offset = self.subject.electrodes[index][place] - self.subject.centre
        return offset / np.linalg.norm(offset, axis=1, keepdims=True)

    # ------------------------------------------------------------------------------------ methods

    def method(self, method: Method, geometry: Geometry) -> list[Row]:
        """Train, reconstruct, localise; and read the method's field where it has one."""
        key = jax.random.key(self.simulation.seed)
        params = fit(method, geometry, self._training, key=key)
        mean = self._reconstructed(method, params, geometry)
        rows = self._errors(mean, np.asarray(geometry.observed_index))
        rows += self.score({}, self.inverse_maps(geometry.target_names, self.peak(mean)))
        if method.mixture is not None:
            rows += self._field(method, params, geometry, mean)
        return rows

    def _training(self) -> Iterator[dict[str, np.ndarray]]:
        eeg = self.subject.train.eeg
        part = np.zeros(len(eeg), np.int32)
        part[-max(1, round(_VALIDATE * len(eeg))) :] = mo.VALIDATE
        for start in range(0, len(eeg), 32):
            rows = slice(start, start + 32)
            yield {"eeg": eeg[rows], "part": part[rows]}

    def _batches(self, geometry: Geometry) -> Iterator[tuple[jax.Array, int]]:
        """Observed channels of the test trials, and how many of a batch are no padding."""
        observed = self.subject.test.eeg[:, np.asarray(geometry.observed_index)]
        for start in range(0, len(observed), BATCH):
            batch = observed[start : start + BATCH]
            padded = np.zeros((BATCH, *batch.shape[1:]), np.float32)
            padded[: len(batch)] = batch
            yield jnp.asarray(padded), len(batch)

    def _reconstructed(self, method: Method, params: PyTree, geometry: Geometry) -> np.ndarray:
        plan = jitted(method.plan)(params, nameless(geometry))
        made = []
        for number, (observed, count) in enumerate(self._batches(geometry)):
            key = jax.random.fold_in(jax.random.key(self.simulation.seed), number)
            made.append(np.asarray(jitted(method.apply)(plan, observed, key).mean)[:count])
        return np.concatenate(made)

    def _errors(self, mean: np.ndarray, index: np.ndarray) -> list[Row]:
        """Rows of the reconstruction: all of the trials, and the evoked wave in them alone."""
        test, rows = self.subject.test, []
        missing = np.setdiff1d(np.arange(mean.shape[1]), index)
        for condition, chosen in _conditions(test):
            truth = test.eeg[chosen][:, missing].astype(np.float64)
            wrong = mean[chosen][:, missing] - truth
            rows.append(condition)
            for name, part in (("missing", slice(None)), ("evoked", self.simulation.evoked)):
                rows[-1][f"nmse_{name}"] = float(
                    (wrong[..., part] ** 2).sum() / (truth[..., part] ** 2).sum()
                )
        return rows

    def _field(
        self, method: Method, params: PyTree, geometry: Geometry, mean: np.ndarray
    ) -> list[Row]:
        """Rows of what the method's field says, its points outside the brain left out."""
        assert method.mixture is not None
        simulation, head = self.simulation, self.heads["known"]
        made = jitted(method.mixture)
        skips: list[np.ndarray] = []

        def mixtures():
            for observed, count in self._batches(geometry):
                mixture = made(params, nameless(geometry), observed)
                skips.append(np.asarray(mixture.skip[:count, :, simulation.evoked]))
                yield mixture._replace(beta=mixture.beta[:count])

        target = np.asarray(geometry.target)
        reading = so.read_field(mixtures(), target, simulation.peak, simulation.baseline)
        inside = so.in_brain(reading.points, head)
        missing = np.setdiff1d(np.arange(mean.shape[1]), np.asarray(geometry.observed_index))
        wave = mean[:, missing][..., simulation.evoked]
        own = wave - np.concatenate(skips)[:, missing]
        share = float(np.sqrt((own.astype(np.float64) ** 2).sum() / (wave**2).sum()))
        rows = []
        for name in so.READINGS:
            activity = getattr(reading, name)
            outside = float((~inside[activity.argmax(1)]).mean())
            maps = {"known": {f"field: {name}": (activity[:, inside], reading.points[inside])}}
            extra = {"outside": outside, "silent": reading.silent, "field_share": share}
            rows += self.score({}, maps, extra)
        return rows


def _conditions(trials: Trials) -> Iterator[tuple[Row, np.ndarray]]:
    """Every number of sources, eccentricity and signal-to-noise ratio, and its trials."""
    axes = ("sources", "eccentricity", "snr_db")
    found = [getattr(trials, name) for name in axes]
    for values in itertools.product(*map(np.unique, found)):
        chosen = np.all([f == v for f, v in zip(found, values, strict=True)], 0)
        plain = [v.item() for v in values]
        yield dict(zip(axes, plain, strict=True)) | {"trials": int(chosen.sum())}, chosen


def _line(rows: Sequence[Row], subject: str, layout: str, label: str) -> str:
    def mean(key: str, estimator: str | None) -> float:
        found = [r for r in rows if r.get("estimator") == estimator and r["sources"] == 1]
        return float(np.mean([r[key] for r in found if r.get("head", "known") == "known"]))

    text = f"{subject:>3} {layout:<12} {label:<26} missing NMSE {mean('nmse_missing', None):.4f}"
    text += f"  eLORETA {mean('error_mm', 'eLORETA'):.1f} mm"
    if any(r.get("estimator") == "field: change" for r in rows):
        error = mean("error_mm", "field: change")
        text += f"  its field {error:.1f} mm" if np.isfinite(error) else "  its field is zero"
    return text
