"""Simple methods, each good at one thing; the weighting finds out which.

Constants are round numbers that span the useful range, not fits to any data: the weighting does the fitting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from smartscale.ml.forecast.protocol import Floats, Method
from smartscale.ml.series.history import Past

Memory = npt.NDArray[np.float64]

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
CLIP = 2.5
"""Mean absolute errors that a slope learns from at most: Huber's k = 2 in standard deviations."""


@dataclass(frozen=True, slots=True)
class Naive:
    """The last value seen. Memory: that value. Always in the pool: nothing is worse than it for long."""

    name: str = "naive"
    width: int = 1

    def fresh(self, n_series: int) -> Memory:
        return np.full((n_series, 1), np.nan)

    def learn(self, memory: Memory, values: Floats) -> Memory:
        return np.where(np.isnan(values), memory[:, 0], values)[:, None]

    def forecast(self, memory: Memory, _past: Past, horizon: int) -> Memory:
        return np.repeat(memory, horizon, axis=1)


@dataclass(frozen=True, slots=True)
class Mean:
    """Exponentially weighted mean: good where noise hides the level. Memory: level, values seen.

    While fewer than 1/alpha values were seen it is their plain mean, so that the first value has no privilege."""

    name: str
    alpha: float
    width: int = 2

    def fresh(self, n_series: int) -> Memory:
        return np.tile([np.nan, 0.0], (n_series, 1))

    def learn(self, memory: Memory, values: Floats) -> Memory:
        level, seen = memory.T
        known = ~np.isnan(values)
        gain = np.maximum(self.alpha, 1 / (seen + 1))
        learned = np.where(seen == 0, values, level + gain * (values - level))
        return np.stack([np.where(known, learned, level), seen + known], axis=1)

    def forecast(self, memory: Memory, _past: Past, horizon: int) -> Memory:
        return np.repeat(memory[:, :1], horizon, axis=1)


@dataclass(frozen=True, slots=True)
class Trend:
    """Holt's linear trend, damped (Gardner and McKenzie 1985): level + (phi + ... + phi^h) * slope.

    The slope learns from an error clipped at ``CLIP`` mean errors (after Gelper, Fried and Croux 2010): a jump
    is a new level, not a slope. Memory: level, slope, values seen, mean absolute error. Over a gap it moves
    along its own forecast."""

    name: str
    alpha: float
    beta: float
    phi: float
    width: int = 4

    def fresh(self, n_series: int) -> Memory:
        return np.tile([np.nan, 0.0, 0.0, 0.0], (n_series, 1))

    def learn(self, memory: Memory, values: Floats) -> Memory:
        level, slope, seen, size = memory.T
        known = ~np.isnan(values)
        expected = level + self.phi * slope
        error = np.where(known & (seen > 0), values - expected, 0.0)
        bound = np.where(seen > 2, CLIP * size, np.inf)
        gain = np.maximum(0.1, 1 / np.maximum(seen, 1))
        new_size = np.where(
            known & (seen > 0), size + gain * (np.minimum(np.abs(error), 2 * bound) - size), size
        )
        new_level = expected + np.maximum(self.alpha, 1 / (seen + 1)) * error
        new_slope = self.phi * slope + self.alpha * self.beta * np.clip(error, -bound, bound)
        first = known & (seen == 0)
        return np.stack([np.where(first, values, new_level), new_slope, seen + known, new_size], axis=1)

    def forecast(self, memory: Memory, _past: Past, horizon: int) -> Memory:
        reach = np.cumsum(self.phi ** np.arange(1, horizon + 1))
        return memory[:, :1] + memory[:, 1:2] * reach


@dataclass(frozen=True, slots=True)
class Seasonal:
    """What was seen a period ago, smoothed over the neighbouring steps. Needs no memory beside the past.

    With ``follow`` it is moved by today's difference from the last period, a difference that fades over an
    eighth of the period (three hours of a day: chosen because disturbances seldom last longer).
    A horizon beyond the period looks back as many whole periods as it takes to stay behind the origin."""

    name: str
    period: int
    follow: bool
    width: int = 0

    def fresh(self, n_series: int) -> Memory:
        return np.empty((n_series, 0))

    def learn(self, memory: Memory, _values: Floats) -> Memory:
        return memory

    def forecast(self, _memory: Memory, past: Past, horizon: int) -> Memory:
        distinct = min(horizon, self.period)
        half = self.period // 288  # five minutes of a day to either side: the smoothing of the season
        first = past.origin + 1 - self.period
        season = _moving_mean(past.between(first - half, first + distinct - 1 + half), half)
        steps = np.arange(horizon)
        season = season[:, steps % self.period]
        if not self.follow:
            return season
        span = 2 * half + 3
        now = past.between(past.origin - span + 1, past.origin)
        then = past.between(past.origin - span + 1 - self.period, past.origin - self.period)
        moved = _mean(np.asarray(now - then, np.float64))
        return season + moved[:, None] * np.exp(-(steps + 1) * 8 / self.period)


def _mean(values: Memory) -> Memory:
    """Mean over axis 1 without gaps; NaN where fewer than half are known."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.where(2 * count >= values.shape[1], total / np.maximum(count, 1), np.nan)


def _moving_mean(values: npt.NDArray[np.float32], half: int) -> Memory:
    """Centred means over ``2 * half + 1`` columns, shape (n, columns - 2 * half); NaN as ``_mean``."""
    size = 2 * half + 1
    known = ~np.isnan(values)
    padded = np.pad(np.where(known, values, 0.0).astype(np.float64), ((0, 0), (1, 0))).cumsum(axis=1)
    counts = np.pad(known, ((0, 0), (1, 0))).cumsum(axis=1)
    total, count = padded[:, size:] - padded[:, :-size], counts[:, size:] - counts[:, :-size]
    return np.where(2 * count >= size, total / np.maximum(count, 1), np.nan)


def pool(step_s: float, history_steps: int) -> tuple[Method, ...]:
    """The methods for series of this step: a season joins where the history is long enough to hold it."""
    seasons = [("day", DAY_S / step_s), ("week", WEEK_S / step_s)]
    seasonal = [
        Seasonal(name + suffix, int(period), follow)
        for name, period in seasons
        if period == int(period) and 4 <= period <= history_steps
        for suffix, follow in (("", False), ("-level", True))
    ]
    return (
        Naive(),
        Mean("mean-fast", 0.5),
        Mean("mean", 0.2),
        Mean("mean-slow", 0.05),
        Trend("trend-fast", alpha=0.5, beta=0.3, phi=0.95),
        Trend("trend", alpha=0.3, beta=0.1, phi=0.98),
        *seasonal,
    )
