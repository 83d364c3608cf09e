"""The Gaussians behind an estimate as things that move and glow: what a picture of a field shows.

A Gaussian of `gaussians.precision` weighs space and time together. With L = [[S, 0], [cᵀ, l]],
S 3×3, d the offset from its point and τ the time since its own,

    ‖Lᵀ (d, τ)‖² = ‖Sᵀ d + c τ‖² + (l τ)² = (d - v τ)ᵀ S Sᵀ (d - v τ) + (l τ)²,   v = -S⁻ᵀ c.

So at any instant it is a Gaussian in space of covariance (S Sᵀ)⁻¹, whose centre passes its point at
the velocity v, which is the coupling of space and time, and whose activity is

    a(t) = (amplitude + β(t)) exp(-½ (l τ)²).

Nothing is approximated: Σ a(t) exp(-½ (d - v τ)ᵀ S Sᵀ (d - v τ)) at an electrode is the field.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.errors import MethodError
from eegsr_jax.evaluation.example import Example
from eegsr_jax.gaussians import precision
from eegsr_jax.gaussians.mixture import Mixture
from eegsr_jax.gaussians.render import render
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import Method
from eegsr_jax.typing import PyTree

_INSTANTS = 16  # at which the contributions of the Gaussians are compared
_SAME = 1e-3  # of the largest; single precision of a sum of thousands


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """One stretch of a recording: its estimate, and the N Gaussians behind it.

    Those that give most to the electrodes come first. Time is that of the recording.

    Attributes:
      example: truth and the one estimate, `[M, T]` volts.
      field: `[M, T]` volts, what all Gaussians give at the electrodes, before `skip` is added.
      skip: whether the estimate has a part that is no field.
      volts: `[M]` what one unit of the Gaussians is at each electrode: 1 where they are in volts,
        and a channel's standard deviation where they are of standardised signals (`emag_paper`).
      seconds: `[T]`.
      centres: `[N, 3]` metres, head frame, where each Gaussian is at its own time.
      velocity: `[N, 3]` metres per second.
      covariance: `[N, 3, 3]` square metres.
      time: `[N]` seconds.
      rate: `[N]` l², per square second.
      amplitude: `[N]` in the Gaussians' unit.
      point: `[N]` which column of `beta` is added to the amplitude.
      beta: `[T, P]`, as `amplitude`.
      count: Gaussians of the model, of which N are here.
    """

    example: Example
    field: np.ndarray
    skip: bool
    volts: np.ndarray
    seconds: np.ndarray
    centres: np.ndarray
    velocity: np.ndarray
    covariance: np.ndarray
    time: np.ndarray
    rate: np.ndarray
    amplitude: np.ndarray
    point: np.ndarray
    beta: np.ndarray
    count: int

    @property
    def method(self) -> str:
        """The name of the estimate."""
        return next(iter(self.example.mean))

    @property
    def unit(self) -> tuple[str, float]:
        """What the activity of the Gaussians is shown in, and how many of it their unit is."""
        return ("µV", 1e6) if (self.volts == 1).all() else ("σ", 1.0)

    def activity(self, samples: np.ndarray) -> np.ndarray:
        """`[samples, N]`: a(t) of every Gaussian, in their unit."""
        taken = self.amplitude + self.beta[samples][:, self.point]
        return taken * np.exp(-0.5 * self._since(samples) ** 2 * self.rate)

    def places(self, samples: np.ndarray) -> np.ndarray:
        """`[samples, N, 3]` metres: where every Gaussian is."""
        return self.centres + self._since(samples)[..., None] * self.velocity

    def at(self, positions: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """`[samples, M]`: the field at `[M, 3]` positions, from what is drawn; slow and obvious."""
        return np.stack([part.sum(1) for part in self._parts(positions, samples)])

    def brightest(self, count: int) -> Scene:
        """The scene of the first `count` Gaussians."""
        used, point = np.unique(self.point[:count], return_inverse=True)
        every = ("centres", "velocity", "covariance", "time", "rate", "amplitude")
        own = {name: getattr(self, name)[:count] for name in every}
        return dataclasses.replace(self, **own, point=point, beta=self.beta[:, used])

    def share(self) -> float:
        """Power of the field over that of the estimate, in missing channels."""
        missing, mean = self.example.missing, self.example.mean[self.method]
        power = np.square(mean[missing]).sum()
        return float(np.square(self.field[missing]).sum() / max(power, 1e-300))

    def limit(self) -> float:
        """Volts at the ends of the one colour scale of truth, estimate and field, at all times."""
        seen = [self.example.mean[self.method]]
        seen += [] if self.example.truth is None else [self.example.truth]
        return _end(np.concatenate(seen))

    def brightness(self) -> float:
        """The activity that is drawn in full colour."""
        return _end(self.activity(_instants(len(self.seconds))))

    def _since(self, samples: np.ndarray) -> np.ndarray:
        return self.seconds[samples, None] - self.time

    def _parts(self, positions: np.ndarray, samples: np.ndarray):
        """`[M, N]` that each Gaussian gives each electrode, sample by sample."""
        precision_matrix = np.linalg.inv(self.covariance)
        for active, place in zip(self.activity(samples), self.places(samples), strict=True):
            way = np.asarray(positions, float)[:, None] - place
            square = np.einsum("mni,nij,mnj->mn", way, precision_matrix, way, optimize=True)
            yield active * np.exp(-0.5 * square)


def make_scene(
    method: Method,
    params: PyTree,
    geometry: Geometry,
    observed: np.ndarray,
    truth: np.ndarray,
    *,
    title: str,
    sfreq: float,
    start: float = 0.0,
    keep: slice = slice(None),
) -> Scene:
    """Estimate a stretch and lay out the Gaussians behind it.

    Args:
      method: as `eegsr_jax.load` returns it.
      params: likewise.
      geometry: likewise; L observed and M target electrodes.
      observed: `[L, T]` volts.
      truth: `[M, T]` volts, NaN in channels that were not recorded. Of the targets, those that were
        are shown; all, and no truth, where no missing channel was.
      title: which recording.
      sfreq: Hz.
      start: seconds of the first sample in the recording.
      keep: which samples are shown; the others are context.

    Raises:
      MethodError: the method has no Gaussians, they do not add up to its estimate, or all channels
        are given.
    """
    if method.mixture is None:
        raise MethodError(
            f"{method.name} has no Gaussians to show; a field is behind EMAG's estimates only"
        )
    batch = jnp.asarray(observed, jnp.float32)[None]
    mean, std = jax.jit(_estimate, static_argnums=0)(method, params, geometry, batch)
    mixture = jax.jit(method.mixture)(params, geometry, batch)
    field = jax.jit(field_at)(mixture, geometry.target).swapaxes(1, 2)
    field = field * mixture.unit[..., None]
    estimate = [np.asarray(a[0], float)[:, keep] for a in (mean, std, field, mixture.skip)]
    rows, known = _shown(geometry, truth)
    mean, std, field, skip = (a[rows] for a in estimate)
    example = Example(
        title=title,
        names=tuple(geometry.target_names[i] for i in rows),
        positions=np.asarray(geometry.target, float)[rows],
        sfreq=sfreq,
        observed=geometry.observed_names,
        truth=np.asarray(truth, float)[rows, keep] if known else None,
        mean={method.name: mean},
        std={method.name: std},
    )
    _refuse_other(method.name, (mean - field - skip)[example.missing], mean[example.missing])
    gaussians = _gaussians(mixture, start)
    scene = Scene(
        example=example,
        field=field,
        skip=bool(np.abs(skip[example.missing]).max() > 0),
        volts=np.asarray(mixture.unit[0], float)[rows],
        # Of a stationary field, the times of a mixture need not be seconds.
        seconds=start + np.arange(batch.shape[2])[keep] / sfreq,
        beta=np.asarray(mixture.beta[0], float)[keep],
        count=len(gaussians["time"]),
        **gaussians,
    )
    order = np.argsort(-_contribution(scene), kind="stable")
    return dataclasses.replace(scene, **{name: a[order] for name, a in gaussians.items()})


def field_at(mixture: Mixture, positions: jax.Array) -> jax.Array:
    """`[batch, time, M]`: the field of a mixture at `[M, 3]` positions, without its skip."""
    seen = precision.field(
        positions,
        mixture.centres,
        mixture.diagonal,
        mixture.off_diagonal,
        mixture.time,
        mixture.amplitude,
    )
    own = {"point": jnp.arange(mixture.centres.shape[0])}
    return render(seen, mixture.times, mixture.beta, own, modulate=_as_given)


def _as_given(beta: jax.Array, weights: dict[str, jax.Array]) -> jax.Array:
    return beta[..., weights["point"]]


def _estimate(method: Method, params: PyTree, geometry: Geometry, observed: jax.Array):
    return method.apply(method.plan(params, geometry), observed, jax.random.key(0))


def _shown(geometry: Geometry, truth: np.ndarray) -> tuple[np.ndarray, bool]:
    """Rows of the targets that are shown, and whether there is a truth."""
    recorded = np.isfinite(truth.sum(1))
    given = np.zeros(len(recorded), bool)
    given[[i for i in np.asarray(geometry.observed_index) if i >= 0]] = True
    if (recorded & ~given).any():
        return np.flatnonzero(recorded), True
    return np.arange(len(recorded)), False


def _refuse_other(name: str, wrong: np.ndarray, mean: np.ndarray) -> None:
    if np.abs(wrong).max() > _SAME * np.abs(mean).max():
        raise MethodError(
            f"{name}: its Gaussians do not add up to its estimate; this is a fault of it"
        )


def _gaussians(mixture: Mixture, start: float) -> dict[str, np.ndarray]:
    """The Gaussians one after another, those of a point together."""
    diagonal, below, time, amplitude = (
        np.asarray(a, float).swapaxes(0, 1)
        for a in (mixture.diagonal, mixture.off_diagonal, mixture.time, mixture.amplitude)
    )
    points, groups = time.shape
    lower = np.zeros((points, groups, 3, 3))
    lower[..., [0, 1, 2], [0, 1, 2]] = diagonal[..., :3]
    lower[..., [1, 2, 2], [0, 0, 1]] = below[..., :3]
    upright = lower.swapaxes(-1, -2)
    velocity = -np.linalg.solve(upright, below[..., 3:, None])[..., 0]
    covariance = np.linalg.inv(lower @ upright)
    return {
        "centres": np.repeat(np.asarray(mixture.centres, float), groups, axis=0),
        "velocity": velocity.reshape(-1, 3),
        "covariance": covariance.reshape(-1, 3, 3),
        "time": start + time.reshape(-1),
        "rate": diagonal[..., 3].reshape(-1) ** 2,
        "amplitude": amplitude.reshape(-1),
        "point": np.repeat(np.arange(points), groups),
    }


def _contribution(scene: Scene) -> np.ndarray:
    """`[N]` mean squared volts that each Gaussian gives the electrodes."""
    parts = scene._parts(scene.example.positions, _instants(len(scene.seconds)))
    return np.sum([np.square(scene.volts[:, None] * part).mean(0) for part in parts], 0)


def _instants(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, _INSTANTS).round().astype(int))


def _end(values: np.ndarray) -> float:
    """End of a symmetric scale that a few broken samples cannot take."""
    return float(np.percentile(np.abs(values), 99.9)) or 1e-6
