"""How far a value is from the nearest one ever seen, in bounded memory.

The nearest-neighbour distance is the plainest measure of an outlier (Ramaswamy, Rastogi and Shim, "Efficient algorithms for
mining outliers from large data sets", SIGMOD 2000), and it needs no idea of what the values look like: a value between two
modes is as new as one beyond the largest. ::

    seen      o oo ooo   o            o oo
    value                       x                 distance to the nearest o

At most ``KNOWN`` values are kept, sorted. When there is no room, what has not come back for ``FORGET`` steps goes first;
else the closest two become one, so that sparse regions, which decide what is new, stay exact and dense ones get coarser.

Row kernels: they work on the arrays of one series.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int32]

KNOWN: Final = 256
"""Values kept. From 128 to all of them the figures move by one point of 75."""
FORGET: Final = 20_000
"""Steps: two weeks of minutes. From 5,000 steps to never the figures stay the same."""
_TIE: Final = 1.0 + 1e-9
"""Gaps that differ by rounding are equal: values on a grid of steps then meet the same fate in any unit."""


@njit(cache=True)
def novelty(
    value: float, now: int, known: Floats, known_at: Steps, n_known: int, same: float
) -> tuple[float, int]:
    """(distance to the nearest known value, values known now); ``value`` becomes known.

    ``known`` (KNOWN,) is sorted up to ``n_known``; ``known_at`` holds the step at which each was last seen. Closer than
    ``same`` is no distance at all. The first value of a series has none either."""
    at = np.searchsorted(known[:n_known], value)
    below = value - known[at - 1] if at > 0 else np.inf
    over = known[at] - value if at < n_known else np.inf
    distance = min(below, over)
    nearest = at if over * _TIE < below else at - 1
    if n_known > 0 and distance <= same:
        known_at[nearest] = now
        return 0.0, n_known
    if n_known == len(known):
        drop = _to_drop(now, known, known_at, distance)
        if drop < 0:
            known_at[nearest] = now
            return distance, n_known
        n_known -= 1
        for i in range(drop, n_known):
            known[i] = known[i + 1]
            known_at[i] = known_at[i + 1]
        at -= drop < at
    for i in range(n_known, at, -1):
        known[i] = known[i - 1]
        known_at[i] = known_at[i - 1]
    known[at] = value
    known_at[at] = now
    return (distance if n_known > 0 else 0.0), n_known + 1


@njit(cache=True)
def _to_drop(now: int, known: Floats, known_at: Steps, distance: float) -> int:
    """Which known value makes room; -1: the new one is as close to a known one as any two are to each other."""
    oldest, closest, gap = 0, 0, np.inf
    for i in range(len(known)):
        if known_at[i] < known_at[oldest]:
            oldest = i
        if i > 0 and (known[i] - known[i - 1]) * _TIE < gap:
            gap = known[i] - known[i - 1]
            closest = i - 1
    if now - known_at[oldest] > FORGET:
        return oldest
    if distance <= gap * _TIE:
        return -1
    latest = max(known_at[closest], known_at[closest + 1])
    drop = closest if known_at[closest] < known_at[closest + 1] else closest + 1
    known_at[closest] = latest
    known_at[closest + 1] = latest
    return drop
