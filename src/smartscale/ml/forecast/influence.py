"""How much a forecast should count for, from how it has done lately.

Two straight lines between stated bounds, multiplied: a forecast counts in full while its 90 % band covers at least
``COVERED`` of the truths and its loss exceeds the naive method's by at most ``EQUAL``; it counts for nothing once the band
covers ``UNCOVERED`` or the loss is half as much again as the naive's. In between every point of coverage or skill
moves it by the same little amount: nothing jumps. Bands that cover too much are no reason for doubt here: they cost
replicas, and calibration narrows them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

COVERED: Final = 0.8
"""Chosen because a calibrated band stays above it: 300 forecasts cover 0.9 with a standard deviation of 0.03 where
neighbours share half of their errors."""
UNCOVERED: Final = 0.5
EQUAL: Final = -0.1
"""Skill, 1 - loss / loss of the naive method."""
USELESS: Final = -0.5
FEW: Final = 50.0
ENOUGH: Final = 150.0
"""Settled forecasts below which nothing is held against a forecast, and from which on what they say counts in full."""


def influence(coverage: Array, skill: Array, settled: Array) -> Array:
    """What a forecast counts for, in [0, 1]. All of shape (n,); NaN where nothing is known, which is no doubt.

    >>> influence(np.array([0.9, 0.65, 0.9, 0.4]), np.array([0.2, 0.0, -0.3, 0.0]), np.full(4, 200.0)).round(2).tolist()
    [1.0, 0.5, 0.5, 0.0]
    """
    covers = _line(coverage, UNCOVERED, COVERED)
    helps = _line(skill, USELESS, EQUAL)
    doubt = 1 - covers * helps
    return np.asarray(1 - doubt * _line(settled, FEW, ENOUGH), np.float64)


def _line(value: Array, zero: float, one: float) -> Array:
    """0 up to ``zero``, 1 from ``one`` on; unknown is 1."""
    return np.clip(np.nan_to_num((value - zero) / (one - zero), nan=1.0), 0.0, 1.0)
