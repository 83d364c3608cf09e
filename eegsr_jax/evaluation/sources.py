"""Where an estimate says the sources are: minimum-norm inverses of MNE, and EMAG's own field.

An inverse is a fixed linear map from a topography to dipoles on a grid, so it is asked of MNE once
for each set of electrodes and applied to all trials. The parameters are the same for every method,
set of electrodes and head: MNE's own defaults (depth 0.8, free orientation, λ² = 1/9), white noise
of equal variance at every electrode, average reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.data.datasets import simulated
from eegsr_jax.evaluation.sources_simulation import LOWEST
from eegsr_jax.gaussians import precision
from eegsr_jax.gaussians.mixture import Mixture

MINIMUM_NORM = ("MNE", "dSPM", "sLORETA", "eLORETA")
GAUSSIAN = ("Gaussians", "Gaussians, standardised")
INVERSES = MINIMUM_NORM + GAUSSIAN
READINGS = ("field", "change", "seen")
LAMBDA2 = 1 / 9
SIZE = 0.035  # metres, standard deviation of a Gaussian: of seven, 10 to 100 mm, the best here
NOISE = 1e-6  # volts; of no consequence but for numbers of a usual size
INSIDE = 0.86  # head radii that the grid of the inverses fills
BRAIN = simulated.RADII[0]


class Head(NamedTuple):
    """The spheres of a forward model: centre `[3]` and scalp radius in metres, conductivities."""

    centre: np.ndarray
    radius: float
    conductivities: tuple[float, ...] = simulated.CONDUCTIVITIES


class Inverse(NamedTuple):
    """Points `[S, 3]` in metres, and the kernel `[S, 3 or 1, M]` from volts to what is there."""

    points: np.ndarray
    kernel: np.ndarray


def other(head: Head) -> Head:
    """A wrong model of the same head: centre 5 mm off, skull 1.7 times as conductive."""
    brain, fluid, skull, scalp = head.conductivities
    shift = np.array([0.0, -0.003, -0.004])
    return Head(head.centre + shift, head.radius, (brain, fluid, 1.7 * skull, scalp))


def grid(head: Head, spacing: float) -> np.ndarray:
    """`[S, 3]` points of a cubic grid, `spacing` metres apart, in the brain above the neck."""
    reach = np.ceil(head.radius / spacing)
    steps = np.arange(-reach, reach) + 0.5  # no dipole in the centre: it has no potential there
    points = spacing * np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    distance = np.linalg.norm(points, axis=1)
    keep = (distance <= INSIDE * head.radius) & (points[:, 2] >= LOWEST * INSIDE * head.radius)
    return head.centre + points[keep]


def forward(names: Sequence[str], electrodes: np.ndarray, points: np.ndarray, head: Head) -> Any:
    """MNE's forward solution of free dipoles at `points`, for electrodes `[M, 3]` in metres."""
    import mne

    info = information(names, electrodes)
    with mne.utils.use_log_level("error"):
        sphere = mne.make_sphere_model(
            r0=head.centre,
            head_radius=head.radius,
            relative_radii=simulated.RADII,
            sigmas=head.conductivities,
        )
        outwards = points - head.centre
        normals = outwards / np.linalg.norm(outwards, axis=1, keepdims=True)
        space = mne.setup_volume_source_space(
            pos={"rr": points, "nn": normals}, sphere=sphere, mindist=0.0
        )
        return mne.make_forward_solution(
            info, trans=None, src=space, bem=sphere, meg=False, eeg=True
        )


def information(names: Sequence[str], electrodes: np.ndarray) -> Any:
    """MNE's `Info` of EEG electrodes at `[M, 3]` metres in the head frame."""
    import mne

    info = mne.create_info(list(names), 1000.0, "eeg")
    where = dict(zip(names, electrodes, strict=True))
    info.set_montage(mne.channels.make_dig_montage(where, coord_frame="head"))
    return info


def inverses(
    names: Sequence[str], electrodes: np.ndarray, head: Head, spacing: float
) -> dict[str, Inverse]:
    """`INVERSES` for electrodes `[M, 3]` in metres: MNE's by its names, and `gaussians`."""
    import mne
    import mne.minimum_norm as norm

    solution = forward(names, electrodes, grid(head, spacing), head)
    with mne.utils.use_log_level("error"):
        unit = mne.EvokedArray(np.eye(len(names)), information(names, electrodes))
        unit.set_eeg_reference(projection=True)  # part of the operator, as MNE requires
        noise = mne.make_ad_hoc_cov(unit.info, std={"eeg": NOISE})
        operator: Any = norm.make_inverse_operator(unit.info, solution, noise, loose=1.0, depth=0.8)
        found = {}
        for name in MINIMUM_NORM:
            dipoles = norm.apply_inverse(unit, operator, LAMBDA2, name, pick_ori="vector")
            found[name] = Inverse(solution["source_rr"].copy(), dipoles.data.astype(np.float32))
    return found | gaussians(electrodes, grid(head, spacing))


def gaussians(electrodes: np.ndarray, points: np.ndarray) -> dict[str, Inverse]:
    """The field of Gaussians that fits a topography best, no learning between: EMAG at its best.

    What MNE's inverses do with a lead field is done here with the kernel of EMAG's renderer: one
    Gaussian of `SIZE` at each point, its values at the electrodes in place of a dipole's potential,
    average reference, the same λ². "Gaussians" is the amplitude of least norm; "standardised"
    divides it by the root of its own resolution, as sLORETA does.
    """
    distance = np.linalg.norm(electrodes[:, None] - points[None], axis=-1)
    gains = np.exp(-0.5 * (distance / SIZE) ** 2)
    gains -= gains.mean(0)
    gram = gains @ gains.T
    # One eigenvalue is 0: the average reference's.
    load = LAMBDA2 * np.trace(gram) / (len(gram) - 1)
    kernel = np.linalg.solve(gram + load * np.eye(len(gram)), gains).T
    resolution = np.sqrt((kernel * gains.T).sum(1))
    both = kernel, kernel / resolution[:, None]
    return {
        name: Inverse(points, made[:, None].astype(np.float32))
        for name, made in zip(GAUSSIAN, both, strict=True)
    }


def activity(inverse: Inverse, topographies: np.ndarray) -> np.ndarray:
    """`[N, S]` strength of what is at every point, for topographies `[N, M]` in volts."""
    points, parts, channels = inverse.kernel.shape
    found = topographies @ inverse.kernel.reshape(parts * points, channels).T
    return np.linalg.norm(found.reshape(len(topographies), points, parts), axis=-1)


# ------------------------------------------------------------------------------------ EMAG's field


class Reading(NamedTuple):
    """What a field says of N trials at its P points in metres: each `[N, P]`, 0 or more.

    Attributes:
      points: `[P, 3]`.
      field: the absolute sum of what stands at a point at the peak, Σ_g (amplitude + beta).
      change: its change since the baseline, in standard deviations of the baseline at that point.
      seen: the field of least norm that changes the potential of all electrodes as this one does:
        what is left of it when all that no electrode can see is taken away.
      silent: share of the energy of its change that is so taken away.
    """

    points: np.ndarray
    field: np.ndarray
    change: np.ndarray
    seen: np.ndarray
    silent: float


def read_field(
    mixtures: Iterable[Mixture], target: np.ndarray, peak: int, baseline: slice
) -> Reading:
    """The readings of a field.

    Args:
      mixtures: of batches of trials, from one fitted model.
      target: `[M, 3]` electrodes, metres.
      peak: the sample that is read.
      baseline: the samples of the baseline.
    """
    read = jax.jit(partial(_read, peak=peak, baseline=baseline))
    parts, points, kernels = [], np.zeros((0, 3)), np.zeros((0, 0))
    for mixture in mixtures:
        *part, kernels = (np.asarray(a) for a in read(mixture, jnp.asarray(target, jnp.float32)))
        parts.append(part)
        points = np.asarray(mixture.centres, np.float64)
    now, mean, variance, moved = (np.concatenate(a) for a in zip(*parts, strict=True))
    spread = np.sqrt(variance.mean(0))
    # A point that never moves says nothing, whatever the rounding of its zero.
    still = spread <= 1e-6 * max(float(spread.max()), np.finfo(np.float32).tiny)
    change = np.where(still, 0.0, np.abs(now - mean) / np.where(still, 1.0, spread))
    _, size, rows = np.linalg.svd(kernels.astype(np.float64), full_matrices=False)
    rows = rows[size > 1e-6 * size.max()]
    seen = (moved @ rows.T) @ rows
    energy = float((moved.astype(np.float64) ** 2).sum())
    silent = 1 - float((seen**2).sum()) / energy if energy > 0 else float("nan")
    return Reading(points, np.abs(now), change, np.abs(seen), silent)


def _read(mixture: Mixture, target: jax.Array, *, peak: int, baseline: slice):
    """At each point: the sum at the peak, its mean and variance in the baseline, beta's change."""
    rate = precision.rate(mixture.diagonal, mixture.off_diagonal)
    since = mixture.times[:, None, None] - mixture.time[None]
    own = jnp.exp(-0.5 * rate[None] * since**2)  # [time, G, P] of a Gaussian at its own centre
    still = jnp.sum(mixture.amplitude[None] * own, 1)
    total = still[None] + mixture.beta * jnp.sum(own, 1)[None]
    before = total[:, baseline]
    moved = mixture.beta[:, peak] - mixture.beta[:, baseline].mean(1)
    return total[:, peak], before.mean(1), before.var(1), moved, _kernels(mixture, target, peak)


def _kernels(mixture: Mixture, target: jax.Array, peak: int) -> jax.Array:
    """`[M, P]`: how much of beta reaches each electrode at the peak, all G Gaussians together."""
    field = precision.field(
        target,
        mixture.centres,
        mixture.diagonal,
        mixture.off_diagonal,
        mixture.time,
        mixture.amplitude,
    )
    since = mixture.times[peak] - mixture.time
    late = field.coupling * since[None] + 0.5 * (field.rate * since**2)[None]
    return jnp.sum(jnp.exp(-0.5 * field.distance - late), 1)


# ----------------------------------------------------------------------------------------- scores


def scores(activity: np.ndarray, points: np.ndarray, sources: np.ndarray) -> dict[str, np.ndarray]:
    """How well maps `[N, S]` over points `[S, 3]` show sources `[N, 2, 3]` (metres): each `[N]` mm.

    Returns:
      `error_mm` from the strongest point to the nearer source; `dispersion_mm`, the root of the
      mean squared distance of all points to the nearer source, weighed by squared activity;
      `floor_mm` from the nearest of all points, the least error that these points allow. A map
      that is zero everywhere has no strongest point: nan.
    """
    distance = 1e3 * np.linalg.norm(points[None, None] - sources[:, :, None], axis=-1).min(1)
    peak = activity.argmax(1)
    some = np.where(activity.max(1) > 0, activity.max(1), np.nan)
    weight = (activity / some[:, None]) ** 2
    error = np.take_along_axis(distance, peak[:, None], 1)[:, 0]
    return {
        "error_mm": np.where(np.isnan(some), np.nan, error),
        "dispersion_mm": np.sqrt((weight * distance**2).sum(1) / weight.sum(1)),
        "floor_mm": distance.min(1),
    }


def in_brain(points: np.ndarray, head: Head) -> np.ndarray:
    """`[P]` bool: which points lie in the brain and not in the neck."""
    offset = points - head.centre
    inside = np.linalg.norm(offset, axis=1) <= BRAIN * head.radius
    return inside & (offset[:, 2] >= LOWEST * BRAIN * head.radius)
