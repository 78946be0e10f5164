"""A season whose period is found in the data: a job every ten minutes, a cache that expires each hour, three shifts a day.

The period is the lag at which a series is most like itself: a peak of its autocorrelation over the last ``SPAN`` values
(Box and Jenkins 1970, chapter 2) that is high enough and stands out from the trough before it, as the slow decay of a random
walk does not. Of peaks nearly as high the first counts, since the multiples of a period are as good as the period.

It is looked for again after each doubling of what was seen, and then every ``EVERY`` steps, at a phase that follows from the
series' first value: so not all series are due at the same step, and what a series does depends on no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.ml.forecast.baselines import holt
from smartscale.ml.forecast.protocol import Array, Method, Rung
from smartscale.ml.forecast.seasonal import FADE, mean_like, mean_likes
from smartscale.ml.series import season
from smartscale.ml.series.history import Codes, Past, encode

SPAN: Final = 2048
CYCLES: Final = 3
"""Periods that must have been seen: two could be chance."""
EVERY: Final = 512
SHORTEST: Final = 4
HIGH: Final = 0.2
"""Least autocorrelation of a period: four standard deviations of chance in 400 values."""
STANDS_OUT: Final = 0.2
"""Least height over the trough before."""
NEARLY: Final = 0.9
CLOSE: Final = 0.03
"""A period this near to a known one, as a share of it, is that one."""

_PERIOD, _PHASE, _COUNT, _HOLT, _WIDTH = 0, 1, 2, 3, 7


@dataclass(frozen=True)
class Periodic(Method):
    """Season, level and trend as ``SeasonalTrend``, for the period of each series; asleep while it has none.

    ``known`` are periods in steps that other methods have already. Memory: period (0: none), phase, values seen; and
    those of ``Trend``."""

    known: tuple[int, ...] = ()
    alpha: float = 0.2
    beta: float = 0.1
    phi: float = 0.95
    name: str = "period"
    width: int = _WIDTH

    def fresh(self, n_series: int) -> Array:
        return np.tile([0.0, 0.0, 0.0, np.nan, 0.0, 0.0, 0.0], (n_series, 1))

    def learn(self, memory: Array, values: Array, past: Past, /) -> None:
        known = np.array(self.known, np.int64)
        _learn(past.ring, past.origin, known, self.alpha, self.beta, self.phi, values, encode(values), memory)

    def forecast(self, memory: Array, past: Past, horizon: int, /) -> Array:
        path = np.full((len(past.ring), horizon), np.nan)
        _forecast(past.ring, past.origin, self.phi, memory, path)
        return path

    def rung(self, memory: Array) -> npt.NDArray[np.int8]:
        return np.full(len(memory), Rung.PERIOD, np.int8)


@njit(cache=True, nogil=True, error_model="numpy")
def _learn(
    ring: Codes,
    step: int,
    known: npt.NDArray[np.int64],
    alpha: float,
    beta: float,
    phi: float,
    values: Array,
    codes: Codes,
    memory: Array,
) -> None:
    room = np.empty(SPAN, np.float32)
    for i in range(len(values)):
        own = memory[i]
        if np.isnan(values[i]) and own[_COUNT] == 0:
            continue
        if own[_COUNT] == 0:
            own[_PHASE] = (codes[i] * 40503) % EVERY
        period = int(own[_PERIOD])
        if period > 0:
            rest = values[i] - mean_like(ring[i], step, step - 1, period, 0)
            own[3], own[4], own[5], own[6] = holt(own[3], own[4], own[5], own[6], rest, alpha, beta, phi)
        if np.isnan(values[i]):
            continue
        own[_COUNT] += 1
        count = int(own[_COUNT])
        doubled = count >= 32 and count & (count - 1) == 0 and count < SPAN
        if doubled or (count >= SPAN and (step + int(own[_PHASE])) % EVERY == 0):
            found = find(ring[i], step, min(SPAN, ring.shape[1]), room)
            for other in known:
                if abs(found - other) <= CLOSE * other:
                    found = 0
            if found != period:
                own[_PERIOD] = found
                own[3], own[4], own[5], own[6] = np.nan, 0.0, 0.0, 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _forecast(ring: Codes, origin: int, phi: float, memory: Array, path: Array) -> None:
    horizon = path.shape[1]
    one, counts = np.empty(horizon), np.empty(horizon)
    for i in range(path.shape[0]):
        period = int(memory[i, _PERIOD])
        if period == 0 or memory[i, 5] == 0:
            continue
        mean_likes(ring[i], origin + 1, origin, period, 0, one, counts, path[i])
        fade, reach, damped = np.exp(-FADE / period), 0.0, 1.0
        for j in range(horizon):
            damped *= phi
            reach += damped
            path[i, j] += (memory[i, 3] + memory[i, 4] * reach) * fade ** (j + 1)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _dot(x: npt.NDArray[np.float32], lag: int, size: int) -> float:
    total = np.float32(0.0)
    for t in range(size - lag):
        total += x[t] * x[t + lag]
    return float(total)


@njit(cache=True, nogil=True, error_model="numpy")
def find(row: Codes, origin: int, span: int, room: npt.NDArray[np.float32]) -> int:
    """The period of one series in steps, 0 if it has none. ``room`` (>= span,) is space to work in."""
    first = origin - span + 1
    while first < origin and np.isnan(season.value(row, first, origin)):
        first += 1
    size = origin - first + 1
    total, known = 0.0, 0
    for t in range(size):
        value = season.value(row, first + t, origin)
        room[t] = value
        if not np.isnan(value):
            total += value
            known += 1
    longest = size // CYCLES
    if longest < SHORTEST or 2 * known < size:
        return 0
    mean = total / known
    for t in range(size):
        room[t] = 0.0 if np.isnan(room[t]) else room[t] - mean
    power = _dot(room, 0, size) / size
    if power <= 1e-9 * mean * mean:
        return 0
    peaks = np.zeros(longest + 1)
    best, trough = 0.0, 1.0
    before, here = 1.0, _dot(room, 1, size) / (size - 1) / power
    for lag in range(2, longest + 2):
        after = _dot(room, lag, size) / (size - lag) / power
        at = lag - 1
        trough = min(trough, here)
        if (
            at >= SHORTEST
            and here > before
            and here >= after
            and here >= HIGH
            and here - trough >= STANDS_OUT
        ):
            peaks[at] = here
            best = max(best, here)
        before, here = here, after
    for lag in range(SHORTEST, longest + 1):
        if peaks[lag] > 0 and peaks[lag] >= NEARLY * best:
            return lag
    return 0
