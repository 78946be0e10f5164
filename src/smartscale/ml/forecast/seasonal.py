"""Methods that look back whole periods: the season of a day, of a week, or of a period found in the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.ml.forecast.baselines import holt
from smartscale.ml.forecast.protocol import Array, Method, Rung
from smartscale.ml.series import season
from smartscale.ml.series.history import Codes, Past

FADE: Final = 8
"""Today's difference from the season fades over an eighth of the period: three hours of a day, as disturbances seldom last
longer."""
DAYS: Final = 4
"""Periods that the mean season looks back over."""


@dataclass(frozen=True)
class Seasonal(Method):
    """What was seen a period ago, smoothed over ``half`` steps to either side. Needs no memory beside the past.

    With ``follow`` it is moved by the difference of the last steps from those a period before, a difference
    that fades. A horizon beyond the period looks back as many whole periods as it takes to stay behind the origin."""

    name: str
    period: int
    half: int
    moved: bool
    on: Rung
    width: int = 0

    def fresh(self, n_series: int) -> Array:
        return np.empty((n_series, 0))

    def learn(self, memory: Array, values: Array, past: Past) -> None:
        """Nothing to learn: the past is all it needs."""

    def forecast(self, _memory: Array, past: Past, horizon: int) -> Array:
        path = np.empty((len(past.ring), horizon))
        _seasonal(past.ring, past.origin, self.period, self.half, self.moved, path)
        return path

    def rung(self, memory: Array) -> npt.NDArray[np.int8]:
        return np.full(len(memory), self.on, np.int8)


@njit(cache=True, nogil=True, error_model="numpy")
def _seasonal(ring: Codes, origin: int, period: int, half: int, moved: bool, path: Array) -> None:
    for i in range(path.shape[0]):
        seasonal(ring[i], origin, period, half, moved, path[i])


@njit(cache=True, nogil=True, error_model="numpy")
def seasonal(row: Codes, origin: int, period: int, half: int, moved: bool, path: Array) -> None:
    """``Seasonal.forecast`` of one series, into ``path``."""
    season.likes(row, origin + 1, origin, period, 1, half, path)
    if not moved:
        return
    total, known, span = 0.0, 0, 2 * half + 3
    for step in range(origin - span + 1, origin + 1):
        now = season.value(row, step, origin)
        change = now - season.value(row, step - period, origin)
        if not np.isnan(change):
            total += change
            known += 1
    move = total / known if 2 * known >= span else np.nan
    for j in range(len(path)):
        path[j] += move * np.exp(-(j + 1) * FADE / period)


@dataclass(frozen=True)
class SeasonalTrend(Method):
    """Season, level and trend: the mean of the last ``DAYS`` periods at that time, plus a damped Holt trend of what is left
    (additive Holt-Winters, Winters 1960, on the square-root scale, with the season read from the past instead of smoothed
    in place, so that a bad day is gone after ``DAYS`` days). The level fades as in ``Seasonal``.

    Memory: level, slope, values seen, mean absolute error, each of what the season leaves."""

    name: str
    period: int
    half: int
    on: Rung
    alpha: float = 0.2
    beta: float = 0.1
    phi: float = 0.95
    width: int = 4

    def fresh(self, n_series: int) -> Array:
        return np.tile([np.nan, 0.0, 0.0, 0.0], (n_series, 1))

    def learn(self, memory: Array, values: Array, past: Past) -> None:
        _deseason(
            past.ring, past.origin, self.period, self.half, self.alpha, self.beta, self.phi, values, memory
        )

    def forecast(self, memory: Array, past: Past, horizon: int) -> Array:
        path = np.empty((len(past.ring), horizon))
        _reseason(past.ring, past.origin, self.period, self.half, self.phi, memory, path)
        return path

    def rung(self, memory: Array) -> npt.NDArray[np.int8]:
        return np.full(len(memory), self.on, np.int8)


@njit(cache=True, nogil=True, error_model="numpy")
def _deseason(
    ring: Codes,
    origin: int,
    period: int,
    half: int,
    alpha: float,
    beta: float,
    phi: float,
    values: Array,
    memory: Array,
) -> None:
    for i in range(len(values)):
        usual = mean_like(ring[i], origin, origin - 1, period, half)
        memory[i, 0], memory[i, 1], memory[i, 2], memory[i, 3] = holt(
            memory[i, 0], memory[i, 1], memory[i, 2], memory[i, 3], values[i] - usual, alpha, beta, phi
        )


@njit(cache=True, nogil=True, error_model="numpy")
def _reseason(
    ring: Codes, origin: int, period: int, half: int, phi: float, memory: Array, path: Array
) -> None:
    horizon = path.shape[1]
    one = np.empty(horizon)
    known = np.empty(horizon)
    for i in range(path.shape[0]):
        mean_likes(ring[i], origin + 1, origin, period, half, one, known, path[i])
        level, slope = memory[i, 0], memory[i, 1]
        fade, reach, damped = np.exp(-FADE / period), 0.0, 1.0
        for j in range(horizon):
            damped *= phi
            reach += damped
            path[i, j] += (level + slope * reach) * fade ** (j + 1)


@njit(cache=True, nogil=True, error_model="numpy")
def mean_like(row: Codes, step: int, origin: int, period: int, half: int) -> float:
    """Mean of ``season.like`` over the last ``DAYS`` periods that are known, NaN if none is."""
    total, known = 0.0, 0
    for back in range(1, DAYS + 1):
        value = season.like(row, step, origin, period, back, half)
        if not np.isnan(value):
            total += value
            known += 1
    return total / known if known > 0 else np.nan


@njit(cache=True, nogil=True, error_model="numpy")
def mean_likes(
    row: Codes, first: int, origin: int, period: int, half: int, one: Array, known: Array, found: Array
) -> None:
    """``mean_like`` of the ``len(found)`` steps from ``first``; ``one`` and ``known`` are room to work in."""
    found[:] = 0.0
    known[:] = 0.0
    for back in range(1, DAYS + 1):
        season.likes(row, first, origin, period, back, half, one)
        for j in range(len(found)):
            if not np.isnan(one[j]):
                found[j] += one[j]
                known[j] += 1
    for j in range(len(found)):
        found[j] = found[j] / known[j] if known[j] > 0 else np.nan
