"""Simple methods without a season, each good at one thing; the weighting finds out which.

Constants are round numbers that span the useful range, not fits to any data: the weighting does the fitting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.ml.forecast.protocol import Array, Method, Rung
from smartscale.ml.series.history import Past

CLIP: Final = 2.5
"""Mean absolute errors that a slope learns from at most: Huber's k = 2 in standard deviations."""


@dataclass(frozen=True)
class Naive(Method):
    """The last value seen. Memory: that value. Always in the pool: nothing is worse than it for long."""

    name: str = "naive"
    width: int = 1

    def fresh(self, n_series: int) -> Array:
        return np.full((n_series, 1), np.nan)

    def learn(self, memory: Array, values: Array, _past: Past) -> None:
        known = ~np.isnan(values)
        memory[known, 0] = values[known]

    def forecast(self, memory: Array, _past: Past, horizon: int) -> Array:
        return np.repeat(memory, horizon, axis=1)

    def rung(self, memory: Array) -> npt.NDArray[np.int8]:
        return np.full(len(memory), Rung.NAIVE, np.int8)


@dataclass(frozen=True)
class Drift(Method):
    """The last value moved on by the mean change a step of the last ``1 / alpha`` steps or so (Hyndman and Athanasopoulos
    2021, section 5.2, with a memory that fades). Memory: last value, its step, mean change, values seen."""

    name: str = "drift"
    alpha: float = 0.02
    width: int = 4

    def fresh(self, n_series: int) -> Array:
        return np.tile([np.nan, 0.0, 0.0, 0.0], (n_series, 1))

    def learn(self, memory: Array, values: Array, past: Past) -> None:
        _drift(memory, values, past.origin, self.alpha)

    def forecast(self, memory: Array, past: Past, horizon: int) -> Array:
        ahead = np.arange(1, horizon + 1)
        since = past.origin - memory[:, 1:2]
        return np.where(memory[:, 3:] > 1, memory[:, :1] + memory[:, 2:3] * (ahead + since), np.nan)


@dataclass(frozen=True)
class Mean(Method):
    """Exponentially weighted mean: good where noise hides the level. Memory: level, values seen.

    While fewer than 1/alpha values were seen it is their plain mean, so that the first value has no privilege."""

    name: str
    alpha: float
    width: int = 2

    def fresh(self, n_series: int) -> Array:
        return np.tile([np.nan, 0.0], (n_series, 1))

    def learn(self, memory: Array, values: Array, _past: Past) -> None:
        _mean(memory, values, self.alpha)

    def forecast(self, memory: Array, _past: Past, horizon: int) -> Array:
        return np.repeat(memory[:, :1], horizon, axis=1)

    def rung(self, memory: Array) -> npt.NDArray[np.int8]:
        return np.full(len(memory), Rung.NAIVE, np.int8)


@dataclass(frozen=True)
class Trend(Method):
    """Holt's linear trend, damped (Gardner and McKenzie 1985): level + (phi + ... + phi^h) * slope.

    The slope learns from an error clipped at ``CLIP`` mean errors (after Gelper, Fried and Croux 2010): a jump
    is a new level, not a slope. Memory: level, slope, values seen, mean absolute error. Over a gap it moves
    along its own forecast."""

    name: str
    alpha: float
    beta: float
    phi: float
    width: int = 4

    def fresh(self, n_series: int) -> Array:
        return np.tile([np.nan, 0.0, 0.0, 0.0], (n_series, 1))

    def learn(self, memory: Array, values: Array, _past: Past) -> None:
        _trend(memory, values, self.alpha, self.beta, self.phi)

    def forecast(self, memory: Array, _past: Past, horizon: int) -> Array:
        reach = np.cumsum(self.phi ** np.arange(1, horizon + 1))
        return memory[:, :1] + memory[:, 1:2] * reach


@njit(cache=True, nogil=True, error_model="numpy")
def _drift(memory: Array, values: Array, step: int, alpha: float) -> None:
    for i in range(len(values)):
        if np.isnan(values[i]):
            continue
        seen = memory[i, 3]
        if seen > 0:
            change = (values[i] - memory[i, 0]) / max(step - memory[i, 1], 1)
            memory[i, 2] += max(alpha, 1 / seen) * (change - memory[i, 2])
        memory[i, 0], memory[i, 1], memory[i, 3] = values[i], step, seen + 1


@njit(cache=True, nogil=True, error_model="numpy")
def _mean(memory: Array, values: Array, alpha: float) -> None:
    for i in range(len(values)):
        if np.isnan(values[i]):
            continue
        seen = memory[i, 1]
        level = values[i] if seen == 0 else memory[i, 0]
        memory[i, 0] = level + max(alpha, 1 / (seen + 1)) * (values[i] - level)
        memory[i, 1] = seen + 1


@njit(cache=True, nogil=True, error_model="numpy")
def _trend(memory: Array, values: Array, alpha: float, beta: float, phi: float) -> None:
    for i in range(len(values)):
        memory[i, 0], memory[i, 1], memory[i, 2], memory[i, 3] = holt(
            memory[i, 0], memory[i, 1], memory[i, 2], memory[i, 3], values[i], alpha, beta, phi
        )


@njit(cache=True, nogil=True, error_model="numpy")
def holt(
    level: float, slope: float, seen: float, size: float, value: float, alpha: float, beta: float, phi: float
) -> tuple[float, float, float, float]:
    """One step of ``Trend``: level, slope, values seen and mean absolute error after ``value``."""
    if seen == 0:
        return (level, slope, 0.0, size) if np.isnan(value) else (value, 0.0, 1.0, 0.0)
    level += phi * slope
    slope *= phi
    if np.isnan(value):
        return level, slope, seen, size
    error = value - level
    bound = CLIP * size if seen > 2 and size > 0 else np.inf
    level += max(alpha, 1 / (seen + 1)) * error
    slope += alpha * beta * min(max(error, -bound), bound)
    size += max(0.1, 1 / seen) * (min(abs(error), 2 * bound) - size)
    return level, slope, seen + 1, size
