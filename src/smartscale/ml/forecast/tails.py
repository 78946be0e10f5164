"""Quantiles beyond 0.95: the excesses over it and a generalised Pareto tail through them.

Peaks over threshold (Pickands 1975; Balkema and de Haan 1974): far out, the excesses of any usual distribution over a high
threshold are generalised Pareto, with a scale and a shape. The threshold is the 0.95 quantile as it was issued, so
that what is fitted are the excesses that the forecast really had. They are kept in units of the target's scale, in
``BINS`` bins that fade, beside a prior of ``PRIOR_WEIGHT`` exponential excesses.

- The scale makes the tail pass through the 0.8 quantile of the excesses, the 0.99 quantile of the target.
- The shape comes from the ratio of the 0.95 to the 0.5 quantile of the excesses (quantile ratios, as Pickands', do not
  run away with a single burst as moments do), shrunk to ``SHAPE`` by ``SHAPE_WEIGHT`` excesses and bounded: a shape is
  the most uncertain thing about a tail (Martins and Stedinger 2000 use a prior of mean 0.1 in this sign).

A lower tail is the upper tail of the negated target.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

Small = npt.NDArray[np.float32]

FROM: Final = 0.95
BINS: Final = 12
UNIT: Final = 0.2
"""Bins have equal width in ``asinh(excess / UNIT)``."""
REACH: Final = math.asinh(20 / UNIT)
WIDTH: Final = REACH / BINS
PRIOR_WEIGHT: Final = 10.0
PRIOR_MEAN: Final = 0.6
"""Mean excess over the 0.95 quantile in mean absolute deviations, between the normal's 0.53 and t(5)'s 0.93."""
SHAPE: Final = 0.0
SHAPE_WEIGHT: Final = 40.0
LEAST_SHAPE: Final = -0.2
MOST_SHAPE: Final = 0.3
MEMORY: Final = 200.0
"""Excesses remembered: 4,000 truths."""
_MIDDLE: Final = math.log(math.log(0.05) / math.log(0.5))
"""Logarithm of that ratio for an exponential tail."""
_BEND: Final = 1.15
"""What a unit of shape adds to it, near 0: half the difference of log 20 and log 2."""


def prior() -> npt.NDArray[np.float64]:
    """Weights of the bins, shape (BINS,)."""
    beyond = np.exp(-UNIT * np.sinh(np.arange(BINS + 1) * WIDTH) / PRIOR_MEAN)
    beyond[-1] = 0.0
    bins: npt.NDArray[np.float64] = -PRIOR_WEIGHT * np.diff(beyond)
    return bins


@njit(cache=True)
def add(bins: Small, excess: float, weight: float) -> None:
    """One more excess (> 0), after all before have faded, in place."""
    fade = 1 - weight / MEMORY
    for b in range(BINS):
        bins[b] *= fade
    bins[int(min(math.asinh(excess / UNIT) / WIDTH, BINS - 1.0))] += weight


@njit(cache=True)
def fit(bins: Small) -> tuple[float, float]:
    """Scale and shape."""
    total = 0.0
    for b in range(BINS):
        total += bins[b]
    middle, outer, far = (
        _quantile(bins, total, 0.5),
        _quantile(bins, total, 0.8),
        _quantile(bins, total, 0.95),
    )
    raw = (math.log(far / middle) - _MIDDLE) / _BEND
    shape = (total * raw + SHAPE_WEIGHT * SHAPE) / (total + SHAPE_WEIGHT)
    shape = min(max(shape, LEAST_SHAPE), MOST_SHAPE)
    return outer / reach(0.99, shape), shape


@njit(cache=True)
def reach(level: float, shape: float) -> float:
    """How far the quantile at ``level`` lies beyond the threshold, in scales."""
    odds = math.log((1 - FROM) / (1 - level))
    return odds if abs(shape) < 1e-6 else math.expm1(shape * odds) / shape


@njit(cache=True)
def chance(excess: float, scale: float, shape: float) -> float:
    """Chance of an excess (>= 0) at least that far beyond the threshold; ``reach`` the other way round."""
    if abs(shape) < 1e-6:
        return (1 - FROM) * math.exp(-excess / scale)
    beyond: float = max(1 + shape * excess / scale, 1e-12) ** (-1 / shape)
    return (1 - FROM) * beyond


@njit(cache=True)
def _quantile(bins: Small, total: float, level: float) -> float:
    """Within a bin the chance of more falls exponentially, as it does from bin to bin."""
    beyond, wanted, b = total, (1 - level) * total, 0
    while b < BINS - 1 and beyond - bins[b] > wanted:
        beyond -= bins[b]
        b += 1
    begin, end = UNIT * math.sinh(b * WIDTH), UNIT * math.sinh((b + 1) * WIDTH)
    after = max(beyond - bins[b], 1e-3 * total)
    return begin + (end - begin) * min(math.log(beyond / wanted) / max(math.log(beyond / after), 1e-9), 1.0)
