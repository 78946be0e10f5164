"""How rare a number is against all that its series has shown before, in bounded memory.

A **tail** is a histogram of past numbers >= 0 in bins of equal ratio (relative error bounded as in DDSketch: Masson, Rim
and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", PVLDB 12(12), 2019), each
bin with its count and its sum. The bins are laid out around the first number above zero, so a change of units moves numbers
and bins alike and changes nothing.

The **surprise** of a number is -ln p, with p the chance of one at least as large:

- up to the upper ``SHARE`` of the past, p is the rank (r + 1) / (n + 1), as in conformal prediction (Vovk, Gammerman and
  Shafer, "Algorithmic Learning in a Random World", 2005);
- beyond it, the excess over that quantile u is taken as exponential with the mean excess seen, the peaks-over-threshold
  form with shape 0 (Pickands, "Statistical inference using extreme order statistics", Ann. Stat. 3, 1975):
  -ln p = -ln((k + 1) / (n + 1)) + (v - u) / mean excess, k the numbers above u.

A first number above zero after nothing but zeros has no unit to be measured in: its rank alone counts.

Row kernels: they work on the arrays of one tail.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]

BINS: Final = 112
"""The first holds zeros; the others span 18 octaves on either side of the first number above zero."""
PER_OCTAVE: Final = 3.0
_MIDDLE: Final = 55.5  # the half keeps round ratios (a count and its double) away from the edges of bins
SHARE: Final = 0.05
"""Share of the past that the exponential is fitted to. From 3 % to 7 % the figures move by 1.5 points of 75."""
LEAST: Final = 20.0
"""Numbers it is fitted to at least; with fewer, the tail has nothing to say."""
LARGEST: Final = 40.0
"""Cap of a surprise: p = 4e-18. Beyond it nothing is learned from a larger one."""


@njit(cache=True)
def minus_log_p(value: float, counts: Floats, sums: Floats, unit: float, total: float) -> float:
    """-ln p of ``value`` >= 0 against the tail, from 0 to ``LARGEST``. ``total``: the sum of ``counts``."""
    if value <= 0.0 or total < LEAST:
        return 0.0
    if unit <= 0.0:
        return float(np.log(total + 1.0))
    at = _bin(value, unit)
    fitted = max(LEAST, SHARE * total)
    above = 0.0  # numbers in the bins above the present one
    excess = 0.0  # their sum
    for i in range(BINS - 1, 0, -1):
        if above + counts[i] >= fitted:  # the quantile lies in this bin: its lower edge is taken for u
            if at <= i:
                return _rank(value, at, above, i, counts, unit, total)
            fitted, excess, u = above + counts[i], excess + sums[i], _edge(i, unit)
            break
        above += counts[i]
        excess += sums[i]
    else:  # so many zeros that some are among the largest numbers
        u = 0.0
    mean = max(excess / fitted - u, 1e-9 * value)
    return float(min((value - u) / mean - np.log((fitted + 1.0) / (total + 1.0)), LARGEST))


@njit(cache=True)
def learn(value: float, counts: Floats, sums: Floats, unit: float) -> float:
    """Put ``value`` into the tail, in place. Gives its unit, which the first number above zero sets."""
    if unit <= 0.0:
        unit = value
    at = _bin(value, unit)
    counts[at] += 1.0
    sums[at] += value
    return unit


@njit(cache=True)
def _bin(value: float, unit: float) -> int:
    if value <= 0.0 or unit <= 0.0:
        return 0
    place = PER_OCTAVE * np.log2(value / unit) + _MIDDLE
    return 1 + int(min(max(place, 0.0), BINS - 2.0))


@njit(cache=True)
def _edge(i: int, unit: float) -> float:
    """Lower edge of bin ``i``."""
    return float(unit * 2.0 ** ((i - 1 - _MIDDLE) / PER_OCTAVE)) if i > 1 else 0.0


@njit(cache=True)
def _rank(
    value: float, at: int, above: float, start: int, counts: Floats, unit: float, total: float
) -> float:
    """-ln of the rank of ``value``, which lies in bin ``at`` <= ``start``; ``above``: the numbers above ``start``."""
    if at == 0:
        return 0.0
    for i in range(start, at, -1):
        above += counts[i]
    low, high = _edge(at, unit), _edge(at + 1, unit)
    within = min(max((high - value) / (high - low), 0.0), 1.0)
    return float(-np.log(min((above + counts[at] * within + 1.0) / (total + 1.0), 1.0)))
