"""Bernstein online aggregation: weights for averaging forecasts, learned on line.

Wintenberger (2017, "Optimal learning with Bernstein Online Aggregation", Machine Learning 106): the weight of expert k is
proportional to ``prior_k * exp(rate_k * R_k)``, where R_k sums its regrets r less ``rate_k * r**2``, and rate_k falls as
``sqrt(log K / sum of r**2)``, at most half over the largest |r| so far, an own rate for each expert. With r the linearised
loss at the average (loss gradient there, times average less expert), the average's loss stays within O(sqrt(T log K)) of
the best *fixed average* of the experts, and within O(log K) of it where losses are well behaved (Gaillard and Wintenberger
2018). For whole quantile forecasts with the pinball loss this is CRPS learning (Berrisch and Ziel 2023, Journal of
Econometrics 237).

Regrets fade, so the comparison is with the best average lately. An expert without a forecast sleeps: no weight, no regret.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[np.float64]
Small = npt.NDArray[np.float32]

MOST: Final = 3.0
"""A single regret counts for so many typical losses at most: one burst's say."""
MEMORY: Final = 2000.0
"""Steps in which a regret fades to 1/e."""
SOFTNESS: Final = 0.5
"""Share of the rate of the theorem that is used: averaging near equals beats picking one of them."""
TINY: Final = 1e-12
"""Regrets below it are rounding errors."""
FIELDS: Final = 3
"""Numbers kept an expert: corrected regret, sum of squared regrets, greatest regret."""


@njit(cache=True)
def weigh(kept: Small, prior: Array, awake: npt.NDArray[np.bool_], found: Array) -> None:
    """Weights that sum to 1 over the experts ``awake``, into ``found`` (K,); all 0 if none is. ``kept`` (K, FIELDS)."""
    best = -np.inf
    for k in range(len(prior)):
        if awake[k]:
            found[k] = math.log(prior[k]) + SOFTNESS * _rate(kept[k]) * kept[k, 0]
            best = max(best, found[k])
    total = 0.0
    for k in range(len(prior)):
        found[k] = math.exp(found[k] - best) if awake[k] else 0.0
        total += found[k]
    for k in range(len(prior)):
        found[k] = found[k] / total if total > 0 else 0.0


@njit(cache=True)
def charge(kept: Small, regret: float, weight: float) -> None:
    """One more ``regret`` (loss of the average less the expert's, in typical losses) of an expert's ``kept`` (FIELDS,), in
    place. ``weight`` is its share of an independent observation."""
    fade = 1 - 1 / MEMORY
    bounded = weight * min(max(regret, -MOST), MOST)
    kept[2] = max(kept[2], abs(bounded))
    kept[1] = fade * kept[1] + bounded * bounded
    kept[0] = fade * kept[0] + bounded - _rate(kept) * bounded * bounded


@njit(cache=True)
def _rate(kept: Small) -> float:
    most: float = 0.5 / max(kept[2], TINY)
    return min(most, math.sqrt(1.4 / max(kept[1], TINY)))
