"""When each request arrives: an open-loop Poisson process that a seed fixes.

Open loop: arrivals do not wait for answers, so a slow service does not hide its own slowness by being asked less
(coordinated omission).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from smartscale.clock import MICROS
from smartscale.producer.rates import Micros, RateCurve

CELL_US = MICROS
"""Arrivals are drawn per cell of one second of world time: a cell's draw depends on the seed and the cell alone."""


def arrivals(curve: RateCurve, seed: int, start_us: int, end_us: int) -> Micros:
    """Sorted arrival instants in ``[start_us, end_us)``.

    The same for the same curve and seed, however the time is cut into calls; a curve moved in time has the same
    arrivals, moved. Inhomogeneous Poisson by thinning (Lewis and Shedler 1979): a homogeneous process at the cell's
    peak rate, of which each point is kept with probability rate / peak.
    """
    start_us, end_us = max(start_us, curve.start_us), min(end_us, curve.end_us)
    if start_us >= end_us:
        return np.empty(0, dtype=np.int64)
    first, last = (start_us - curve.start_us) // CELL_US, (end_us - 1 - curve.start_us) // CELL_US
    points = np.concatenate([_cell(curve, seed, cell) for cell in range(first, last + 1)])
    return points[np.searchsorted(points, start_us) : np.searchsorted(points, end_us)]


def _cell(curve: RateCurve, seed: int, cell: int) -> Micros:
    start_us = curve.start_us + cell * CELL_US
    peak = curve.peak_in(start_us, start_us + CELL_US)
    chance = np.random.Generator(np.random.Philox(key=np.array([seed, cell], dtype=np.uint64)))
    count = chance.poisson(peak * CELL_US / MICROS)
    points = start_us + np.sort(chance.integers(0, CELL_US, count))
    return points[chance.random(count) * peak < curve.rate_at(points)]


def by_cell(curve: RateCurve, seed: int) -> Iterator[Micros]:
    """All arrivals of the curve, one second at a time, so that a long load is never held in memory."""
    for start_us in range(curve.start_us, curve.end_us, CELL_US):
        yield arrivals(curve, seed, start_us, start_us + CELL_US)
