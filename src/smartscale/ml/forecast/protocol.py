"""What a forecasting method is, and the scale all methods work on.

Methods forecast the **square root** of the rate, which makes the noise of counts the same size at every level
(Anscombe 1948: for a Poisson count N, sqrt(N + 3/8) has variance near 1/4) and turns a product of seasons
nearly into a sum. A rate of r events a second over a step of s seconds is the count r * s, so
``to_root(r) = sqrt(r + 3 / (8 s))`` has the standard deviation ``0.5 / sqrt(s)`` from chance alone.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from smartscale.ml.series.history import Past

Floats = npt.NDArray[np.floating]


class Method(Protocol):
    """One way to forecast all series at once. Pure: no method changes its arguments, or keeps anything.

    ``memory`` is the method's own state, shape (n_series, width). All values are on the square-root scale."""

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int: ...

    def fresh(self, n_series: int) -> npt.NDArray[np.float64]:
        """Memory before the first value."""
        ...

    def learn(self, memory: npt.NDArray[np.float64], values: Floats, /) -> npt.NDArray[np.float64]:
        """Memory after one more step with ``values``, shape (n_series,), NaN for a gap."""
        ...

    def forecast(
        self, memory: npt.NDArray[np.float64], past: Past, horizon: int, /
    ) -> npt.NDArray[np.float64]:
        """Medians of steps 1 to ``horizon`` after ``past.origin``, shape (n_series, horizon).

        NaN where the method has nothing to say yet: it then sleeps and the others carry its weight."""
        ...


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
