"""Time grids: the levels that a sampler visits, noise first, as values.

A grid is a `Level` with a leading axis of steps + 1 entries, in NumPy's float64 here; any other, a
learned one too, is as good. Of the last level, which is clean in all grids made here, no denoiser
is asked anything; its `t` is 0. For what a denoiser computes from the time alone, put that in place
of the times: `grid._replace(t=embed(grid.t))`.
"""

from __future__ import annotations

import numpy as np

from eegsr_jax.diffusion.schedule import Level, NoiseSchedule
from eegsr_jax.errors import ConfigError


def grid_at(schedule: NoiseSchedule, times: np.ndarray) -> Level:
    """The levels at falling integer times, and the clean one.

    Raises:
      ConfigError: the times are outside the schedule, do not fall, or one of them has no noise.
    """
    times, last = np.asarray(times, np.int32), len(schedule.sigma) - 1
    if not times.size:
        raise ConfigError("a time grid has no steps; give at least one")
    if times.max() > last or times.min() < 0:
        raise ConfigError(
            f"time grid from {times[0]} to {times[-1]}: the schedule has times 0 to {last}; fewer "
            "steps or another spacing fit"
        )
    stuck = times[:-1][np.diff(times) >= 0]
    if stuck.size:
        raise ConfigError(
            f"time grid of {times.size} steps: after {stuck[0]} comes no earlier time; take fewer "
            "steps or another spacing"
        )
    alpha, sigma = np.asarray(schedule.alpha)[times], np.asarray(schedule.sigma)[times]
    if not sigma.all():
        raise ConfigError(f"time {times[-1]} of a time grid has no noise; end at a later time")
    return Level(np.append(times, np.int32(0)), np.append(alpha, 1.0), np.append(sigma, 0.0))


def even_grid(schedule: NoiseSchedule, steps: int) -> Level:
    """Times evenly spaced from the last of the schedule to the first that has noise."""
    return grid_at(schedule, np.rint(np.linspace(*_range(schedule), steps)))


def leading_grid(schedule: NoiseSchedule, steps: int, offset: int = 1) -> Level:
    """Times `offset`, `offset` + stride, … with the stride that divides the schedule, rounded down.

    SRGDiff's and the default of many: it begins below the last time, though samples begin as noise.
    """
    times = len(schedule.sigma)
    return grid_at(schedule, np.arange(steps)[::-1] * (times // max(steps, 1)) + offset)


def karras_grid(schedule: NoiseSchedule, steps: int, rho: float = 7.0) -> Level:
    """(sigma / alpha)^(1/rho) evenly spaced: shorter steps where there is less noise.

    At the nearest times of the schedule; where its times are too coarse for this, at all of them.

    Source: Karras et al., arXiv 2206.00364, eq. 5.
    """
    last, first = _range(schedule)
    ratio = (schedule.sigma[first:] / schedule.alpha[first:]) ** (1 / rho)
    wanted = np.linspace(ratio[-1], ratio[0], steps)
    times = np.rint(np.interp(wanted, ratio, np.arange(first, last + 1)))
    index = np.arange(steps)
    times = np.minimum.accumulate(times + index) - index  # each at least one below the one before
    return grid_at(schedule, np.maximum(times, first + index[::-1]))


def angle_grid(steps: int) -> Level:
    """Angles evenly spaced from pure noise to clean: alpha is the cosine, sigma the sine, t itself.

    Predictions of the noise cannot be read at its first level, where there is nothing else.
    """
    if steps < 1:
        raise ConfigError("a time grid has no steps; give at least one")
    angle = np.linspace(np.pi / 2, 0, steps + 1)
    alpha, sigma = np.cos(angle), np.sin(angle)
    alpha[0], sigma[-1] = 0.0, 0.0
    return Level(angle, alpha, sigma)


def _range(schedule: NoiseSchedule) -> tuple[int, int]:
    return len(schedule.sigma) - 1, int(np.flatnonzero(schedule.sigma)[0])
