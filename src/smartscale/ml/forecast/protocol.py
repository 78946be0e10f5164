"""What a forecasting method is, and the scale all methods work on.

Methods forecast the **square root** of the rate, which makes the noise of counts the same size at every level
(Anscombe 1948: for a Poisson count N, sqrt(N + 3/8) has variance near 1/4) and turns a product of seasons
nearly into a sum. A rate of r events a second over a step of s seconds is the count r * s, so
``to_root(r) = sqrt(r + 3 / (8 s))`` has the standard deviation ``0.5 / sqrt(s)`` from chance alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from smartscale.ml.series.history import Past

Floats = npt.NDArray[np.floating]
Array = npt.NDArray[np.float64]


class Rung(IntEnum):
    """Steps of the cold-start ladder: what a forecast rests on."""

    NAIVE = 0
    """The last values alone."""
    TREND = 1
    """How values have followed each other so far."""
    PERIOD = 2
    """A period found in the data."""
    DAILY = 3
    """Earlier days."""
    WEEKLY = 4
    """Earlier weeks."""


class Method(ABC):
    """One way to forecast all series at once. Holds no data: ``memory`` is all that it knows.

    ``memory`` is float64, shape (n_series, width); row i belongs to series i and depends on nothing else. All
    values are on the square-root scale (``to_root``). ``past`` is what is known at ``past.origin``, the step
    that is learned or forecast from. ``checks.check`` puts a class to this contract."""

    name: str
    """How settings and weights name it."""
    width: int
    """Floats of memory a series."""
    prior: float = 1.0
    """What its weight is multiplied by: above 1 for a method to be trusted before the others."""

    @abstractmethod
    def fresh(self, n_series: int) -> Array:
        """Memory before the first value."""

    @abstractmethod
    def learn(self, memory: Array, values: Array, past: Past, /) -> None:
        """Take in the final values of step ``past.origin``, shape (n_series,), NaN for a gap: changes ``memory`` in
        place. Steps come in order; ``past`` holds the values already."""

    def follow(self, memory: Array, values: Array, past: Past, /) -> None:
        """As ``learn``, of values that may still change, on a copy of the memory that is thrown away afterwards: only
        what moves the origin matters. A method that is dear to teach skips the teaching here."""
        self.learn(memory, values, past)

    @abstractmethod
    def forecast(self, memory: Array, past: Past, horizon: int, /) -> Array:
        """Medians of steps 1 to ``horizon`` after ``past.origin``, shape (n_series, horizon); changes nothing.

        NaN where the method has nothing to say (yet): it then sleeps and the others carry its weight."""

    def rung(self, memory: Array) -> npt.NDArray[np.int8]:
        """What its forecasts rest on, a ``Rung`` a series, shape (n_series,)."""
        return np.full(len(memory), Rung.TREND, np.int8)


def to_root(rate: Floats, step_s: float) -> npt.NDArray[np.float64]:
    """Rates a second to the square-root scale; NaN stays NaN.

    >>> to_root(np.array([4.0]), 1.0).round(3).tolist()
    [2.092]
    """
    return np.sqrt(np.asarray(rate, np.float64) + 0.375 / step_s)


def to_rate(root: Floats, step_s: float) -> npt.NDArray[np.float64]:
    """The inverse of ``to_root``; never below zero.

    >>> to_rate(to_root(np.array([4.0, 0.0]), 10.0), 10.0).round(9).tolist()
    [4.0, 0.0]
    """
    positive = np.maximum(np.asarray(root, np.float64), 0.0)
    return np.maximum(positive * positive - 0.375 / step_s, 0.0)


def count_noise(step_s: float) -> float:
    """Standard deviation that chance alone gives a Poisson count, on the square-root scale."""
    return float(0.5 / np.sqrt(step_s))


def anchors(horizon: int) -> list[int]:
    """Up to four horizons, geometric from 1 to the last: what is learned per horizon is learned at these.

    >>> anchors(30), anchors(1)
    ([1, 3, 10, 30], [1])
    """
    return sorted({round(horizon ** (i / 3)) for i in range(4)})


def interpolation(at: list[int], horizon: int) -> Array:
    """Matrix (horizon, A): each step's shares of the anchors, linear in the square root of the horizon, as errors of a
    random walk grow."""
    steps, roots = np.sqrt(np.arange(1, horizon + 1)), np.sqrt(at)
    return np.stack([np.interp(steps, roots, unit) for unit in np.eye(len(at))], axis=1)
