"""The distribution of one target's residuals, in little memory: a histogram that fades.

A residual is kept in units of its target's own mean absolute residual, so that bins can be fixed: ``BINS`` of equal
width in ``asinh(z)``, fine in the middle and coarse outside (the inverse hyperbolic sine is a logarithm that
passes through 0; Johnson 1949). Within a bin they count as evenly spread; old ones fade. The bins start with a
prior of ``PRIOR_WEIGHT`` residuals, Student's t with 5 degrees of freedom (heavier than normal, as operations data is),
so quantiles are smooth from the first residual and evidence takes over at its own pace.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy import special

Array = npt.NDArray[np.float64]
Small = npt.NDArray[np.float32]

BINS: Final = 32
REACH: Final = 4.5
"""``asinh`` of the largest residual told apart: 45 mean absolute residuals."""
WIDTH: Final = 2 * REACH / BINS
PRIOR_WEIGHT: Final = 50.0
"""Residuals that the prior counts for: as many as give a 5 % quantile by themselves, and a few."""


def prior(draws: int) -> tuple[Array, float]:
    """Weights of the bins, shape (BINS,), summing to ``PRIOR_WEIGHT``: of the greatest of so many independent
    draws; and its mean absolute value in units of a single draw's.

    >>> round(prior(1)[1], 6), round(prior(30)[1], 1)
    (1.0, 3.1)
    """
    levels = (np.arange(20_000) + 0.5) / 20_000
    one = np.abs(special.stdtrit(5, levels)).mean()
    lift = float(np.abs(special.stdtrit(5, levels ** (1 / draws))).mean() / one)
    edges = np.sinh(np.linspace(-REACH, REACH, BINS + 1)) * one * lift
    shares = special.stdtr(5, edges) ** draws
    shares[0], shares[-1] = 0.0, 1.0
    return PRIOR_WEIGHT * np.diff(shares), lift


@njit(cache=True)
def add(bins: Small, z: float, fade: float, weight: float) -> None:
    """One more residual ``z`` of this weight, after all before have faded, in place."""
    for b in range(BINS):
        bins[b] *= fade
    bins[int(min(max((math.asinh(z) + REACH) / WIDTH, 0.0), BINS - 1.0))] += weight


@njit(cache=True)
def quantiles(bins: Small, levels: Array, found: Array) -> None:
    """Quantiles at ascending ``levels``, written into ``found`` of the same shape."""
    total = 0.0
    for b in range(BINS):
        total += bins[b]
    below, b = 0.0, 0
    for i in range(len(levels)):
        wanted = levels[i] * total
        while b < BINS - 1 and below + bins[b] < wanted:
            below += bins[b]
            b += 1
        inside = (wanted - below) / bins[b] if bins[b] > 0 else 0.5
        found[i] = math.sinh(-REACH + (b + min(max(inside, 0.0), 1.0)) * WIDTH)
