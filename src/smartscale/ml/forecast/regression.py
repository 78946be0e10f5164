"""Ridge autoregression: one linear model a series and anchor horizon, learned recursively.

For each anchor h the target is the change ``y(t + h) - y(t)``, and every feature is a difference from ``y(t)`` or from
its own value at t, so that a ridge, which shrinks towards zero, shrinks towards the naive forecast:

====================  ====================================================================================
means                 of the last 3, 10, 30 and 100 steps, minus y(t)
lags                  y(t - 1) and y(t - 2), minus y(t)
constant              0.1 times the mean of the last 100 steps
each season           its like of t + h, minus its like of t; and minus y(t)
mean of the days      mean of the last days at that time of day, minus y(t)
Fourier               two harmonics of the day, times 0.1 of the level
====================  ====================================================================================

A feature that cannot be told (yet) is 0. Learning is weighted recursive least squares with exponential forgetting (Ljung
1999, section 11.2) in the form of its normal equations: their packed lower triangle is kept, and solved by Cholesky's
method, since the ridge changes with what was seen. Weights are Huber's (1964) for large errors, and Mallows' for points far
out in the features (Krasker and Welsch 1982), so one absurd value teaches about as much as an ordinary one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.ml.forecast.protocol import Array, Method, Rung, anchors, interpolation
from smartscale.ml.forecast.seasonal import mean_like, mean_likes
from smartscale.ml.series import season
from smartscale.ml.series.history import GAP, Codes, Past, value_of

WINDOWS: Final = np.array([3, 10, 30, 100])
LOCAL: Final = len(WINDOWS) + 3
"""Features that are the same for every horizon: means, lags, constant."""
SEASONAL: Final = 9
"""Features of the horizon: two each of day and week, the mean of the days, four of Fourier."""
FEATURES: Final = LOCAL + SEASONAL
TRIANGLE: Final = FEATURES * (FEATURES + 1) // 2
LEVEL_SHARE: Final = 0.1

FORGET: Final = 0.9995
"""2,000 steps of memory."""
RIDGE: Final = 6.0
"""Ridge in average observations, times the horizon: errors of neighbouring origins share all but a horizon-th of their
way, so h of them are worth one."""
HUBER: Final = 1.5
"""In mean absolute errors."""
LEVERAGE: Final = 10.0
"""In mean squared lengths of the features."""
PATIENCE: Final = 4.0
"""Asleep until it has seen this many values a feature."""

PRIOR: Final = 3.0
"""It shrinks towards the naive forecast by itself: evidence for it can be trusted sooner."""

_SEEN, _SIZE, _WEIGHT, _REACH, _HEAD = 0, 1, 2, 3, 4
_WIDTH: Final = _HEAD + 2 * FEATURES + TRIANGLE
"""Of one anchor: values seen, mean absolute error, sum of weights, largest change; coefficients, right side, triangle."""


@dataclass(frozen=True)
class Regression(Method):
    """See the module. ``day`` and ``week`` are periods in steps, 0 where the history cannot hold one."""

    horizon: int
    day: int
    week: int
    half: int
    name: str = "regression"
    forget: float = FORGET
    ridge: float = RIDGE
    prior: float = PRIOR

    @property
    def width(self) -> int:  # type: ignore[override]
        return _WIDTH * len(anchors(self.horizon))

    def fresh(self, n_series: int) -> Array:
        return np.zeros((n_series, self.width))

    def learn(self, memory: Array, values: Array, past: Past) -> None:
        at = np.array(anchors(self.horizon))
        forget, ridge = self.forget, self.ridge
        _learn(past.ring, past.origin, at, self.day, self.week, self.half, forget, ridge, values, memory)

    def follow(self, memory: Array, values: Array, past: Past) -> None:
        """Nothing: the past is all that moves its origin."""

    def forecast(self, memory: Array, past: Past, horizon: int) -> Array:
        at = anchors(self.horizon)
        between = interpolation(at, self.horizon)
        path = np.full((len(past.ring), horizon), np.nan)
        steps = min(horizon, self.horizon)
        _forecast(
            past.ring, past.origin, len(at), between, self.day, self.week, self.half, memory, path[:, :steps]
        )
        return path

    def rung(self, memory: Array) -> npt.NDArray[np.int8]:
        """Weekly or daily once that season's features have varied."""
        diagonal = memory[:, _HEAD + 2 * FEATURES : _WIDTH][:, _diagonal()]
        on = np.full(len(memory), Rung.TREND, np.int8)
        on[diagonal[:, LOCAL] > 0] = Rung.DAILY
        on[diagonal[:, LOCAL + 2] > 0] = Rung.WEEKLY
        return on


def _diagonal() -> npt.NDArray[np.int64]:
    rows = np.arange(FEATURES)
    return rows * (rows + 1) // 2 + rows


@njit(cache=True, nogil=True, error_model="numpy")
def _learn(
    ring: Codes,
    step: int,
    at: npt.NDArray[np.int64],
    day: int,
    week: int,
    half: int,
    forget: float,
    ridge: float,
    values: Array,
    memory: Array,
) -> None:
    x = np.empty(FEATURES)
    factor = np.empty(TRIANGLE)
    for i in range(len(values)):
        if np.isnan(values[i]):
            continue
        for a in range(len(at)):
            origin = step - at[a]
            now = season.value(ring[i], origin, origin)
            if np.isnan(now):
                continue
            _local(ring[i], origin, ring.shape[1] - at[a], now, x)
            _ahead(ring[i], origin, at[a], now, day, week, half, x)
            part = memory[i, a * _WIDTH : (a + 1) * _WIDTH]
            _teach(part, x, values[i] - now, forget, ridge * at[a], factor)


@njit(cache=True, nogil=True, error_model="numpy")
def _local(row: Codes, origin: int, held: int, now: float, x: Array) -> None:
    """The first ``LOCAL`` features; ``held`` steps until ``origin`` are in the ring."""
    total, known, done, at = 0.0, 0, 0, origin % len(row)
    for w in range(len(WINDOWS)):
        while done < min(WINDOWS[w], held):
            if row[at] != GAP:
                total += value_of(row[at])
                known += 1
            at = at - 1 if at > 0 else len(row) - 1
            done += 1
        x[w] = total / known - now
    for lag in range(1, 3):
        value = season.value(row, origin - lag, origin)
        x[len(WINDOWS) + lag - 1] = 0.0 if np.isnan(value) else value - now
    x[LOCAL - 1] = LEVEL_SHARE * total / known


@njit(cache=True, nogil=True, error_model="numpy")
def _ahead(row: Codes, origin: int, h: int, now: float, day: int, week: int, half: int, x: Array) -> None:
    """The features of the horizon; the level is read from the local ones."""
    x[LOCAL:] = 0.0
    if day > 0:
        then = season.like(row, origin + h, origin, day, 1, half)
        here = season.like(row, origin, origin, day, 1, half)
        mean = mean_like(row, origin + h, origin, day, half)
        _seasonal(x, then, here, now, mean, season.position(origin + h, day))
    if week > 0:
        then = season.like(row, origin + h, origin, week, 1, half)
        here = season.like(row, origin, origin, week, 1, half)
        _pair(x, LOCAL + 2, then, here, now)


@njit(cache=True, nogil=True, error_model="numpy")
def _pair(x: Array, at: int, then: float, here: float, now: float) -> None:
    x[at] = 0.0 if np.isnan(then - here) else then - here
    x[at + 1] = 0.0 if np.isnan(then) else then - now


@njit(cache=True, nogil=True, error_model="numpy")
def _seasonal(x: Array, then: float, here: float, now: float, mean: float, position: float) -> None:
    _pair(x, LOCAL, then, here, now)
    if np.isnan(mean):
        return
    x[LOCAL + 4] = mean - now
    angle, level = 2 * np.pi * position, x[LOCAL - 1]
    x[LOCAL + 5], x[LOCAL + 6] = level * np.cos(angle), level * np.sin(angle)
    x[LOCAL + 7], x[LOCAL + 8] = level * np.cos(2 * angle), level * np.sin(2 * angle)


@njit(cache=True, nogil=True, error_model="numpy")
def _teach(memory: Array, x: Array, target: float, forget: float, ridge: float, factor: Array) -> None:
    """One observation for one anchor's model; ``memory`` has shape (_WIDTH,)."""
    coef = memory[_HEAD : _HEAD + FEATURES]
    right = memory[_HEAD + FEATURES : _HEAD + 2 * FEATURES]
    triangle = memory[_HEAD + 2 * FEATURES :]
    expected, length, usual, k = 0.0, 0.0, 0.0, 0
    for j in range(FEATURES):
        expected += coef[j] * x[j]
        length += x[j] * x[j]
        k += j
        usual += triangle[k + j]
    error = abs(target - expected)
    seen, size, weight = memory[_SEEN], memory[_SIZE], memory[_WEIGHT]
    w = 1.0
    if seen >= FEATURES:
        if error > HUBER * size:
            w = HUBER * size / error
        if length * weight > LEVERAGE * usual:
            w *= LEVERAGE * usual / (length * weight)
        error = min(error, 4 * size) if size > 0 else error
    memory[_SEEN] = seen + 1
    memory[_SIZE] = size + max(0.01, 1 / (seen + 1)) * (error - size)
    memory[_WEIGHT] = forget * weight + w
    memory[_REACH] = max(forget * memory[_REACH], w * abs(target))
    k = 0
    for j in range(FEATURES):
        right[j] = forget * right[j] + w * x[j] * target
        for m in range(j + 1):
            triangle[k] = forget * triangle[k] + w * x[j] * x[m]
            k += 1
    _solve(triangle, right, ridge / memory[_WEIGHT], factor, coef)


@njit(cache=True, nogil=True, error_model="numpy")
def _solve(triangle: Array, right: Array, ridge: float, factor: Array, coef: Array) -> None:
    """(triangle + ridge * its diagonal) coef = right, by Cholesky's method; features never seen get 0."""
    row = 0
    for j in range(FEATURES):
        row += j
        other = 0
        for m in range(j + 1):
            other += m
            total = triangle[row + m]
            if m == j:
                total += ridge * total
            for q in range(m):
                total -= factor[row + q] * factor[other + q]
            if m == j:
                factor[row + j] = np.sqrt(total) if total > 1e-12 * triangle[row + j] else 0.0
            else:
                factor[row + m] = total / factor[other + m] if factor[other + m] > 0 else 0.0
    row = 0
    for j in range(FEATURES):
        row += j
        total = right[j]
        for m in range(j):
            total -= factor[row + m] * coef[m]
        coef[j] = total / factor[row + j] if factor[row + j] > 0 else 0.0
    for j in range(FEATURES - 1, -1, -1):
        total = coef[j]
        for m in range(j + 1, FEATURES):
            total -= factor[m * (m + 1) // 2 + j] * coef[m]
        pivot = factor[j * (j + 1) // 2 + j]
        coef[j] = total / pivot if pivot > 0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _forecast(
    ring: Codes,
    origin: int,
    n_anchors: int,
    between: Array,
    day: int,
    week: int,
    half: int,
    memory: Array,
    path: Array,
) -> None:
    horizon = path.shape[1]
    x = np.empty(FEATURES)
    days, weeks, means = np.full(horizon, np.nan), np.full(horizon, np.nan), np.full(horizon, np.nan)
    one, known = np.empty(horizon), np.empty(horizon)
    awake = np.empty(n_anchors, np.bool_)
    for i in range(path.shape[0]):
        now = season.value(ring[i], origin, origin)
        for a in range(n_anchors):
            awake[a] = _awake(memory[i, a * _WIDTH : (a + 1) * _WIDTH])
        if np.isnan(now) or not awake[0]:
            continue
        _local(ring[i], origin, ring.shape[1], now, x)
        x[LOCAL:] = 0.0
        day_here = week_here = np.nan
        if day > 0:
            day_here = season.like(ring[i], origin, origin, day, 1, half)
            season.likes(ring[i], origin + 1, origin, day, 1, half, days)
            mean_likes(ring[i], origin + 1, origin, day, half, one, known, means)
        if week > 0:
            week_here = season.like(ring[i], origin, origin, week, 1, half)
            season.likes(ring[i], origin + 1, origin, week, 1, half, weeks)
        for j in range(horizon):
            if day > 0:
                _seasonal(x, days[j], day_here, now, means[j], season.position(origin + 1 + j, day))
            if week > 0:
                _pair(x, LOCAL + 2, weeks[j], week_here, now)
            change, reach = 0.0, 0.0
            for a in range(n_anchors):
                share = between[j, a]
                if share == 0.0:
                    continue
                if not awake[a]:
                    change = np.nan
                    break
                base = a * _WIDTH
                part = 0.0
                for f in range(FEATURES):
                    part += x[f] * memory[i, base + _HEAD + f]
                change += share * part
                reach += share * memory[i, base + _REACH]
            path[i, j] = now + min(max(change, -reach), reach)


@njit(cache=True, nogil=True, error_model="numpy")
def _awake(memory: Array) -> bool:
    used, k = 0, _HEAD + 2 * FEATURES
    for j in range(FEATURES):
        k += j
        used += memory[k + j] > 0
    return memory[_SEEN] >= PATIENCE * used and used > 0
