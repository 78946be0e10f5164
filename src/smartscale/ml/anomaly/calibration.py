"""From p-values to a probability that means what it says.

The **strength** of a piece of evidence is the logarithm of the Bayes factor that its p-value allows against "as usual", by
the bound of Sellke, Bayarri and Berger (2001): at most ``1 / (-e p ln p)``, and none for p above 1/e. Strengths of
kinds that see different things add up. What probability a sum stands for was measured: ``KNOTS``.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

STRONGEST: Final = 40.0
"""A p-value of 1e-19: nothing is surer than that."""
KNOTS: Final = (
    (0.0, -6.3),
    (1.5, -5.4),
    (2.5, -4.2),
    (4.2, -2.1),
    (5.75, 0.0),
    (6.75, 1.9),
    (7.5, 3.2),
    (9.0, 3.8),
    (20.0, 4.5),
)
"""Strength and the logarithm of the odds it stands for, in a straight line between: fitted to how often steps of that
strength were within a fault (``benchmarks/models/anomalies.py``, seed 1: faults on 2 % of all service-steps). Faults
that are rarer or more frequent shift all odds alike."""


def strength(p: Array) -> Array:
    """Of evidence with that p-value, 0 to ``STRONGEST``; NaN (nothing known) has none.

    >>> strength(np.array([1.0, 0.01, 1e-5, np.nan])).round(1).tolist()
    [0.0, 2.1, 8.1, 0.0]
    """
    small = np.clip(np.nan_to_num(p, nan=1.0), 1e-300, np.exp(-1))
    return np.asarray(np.clip(-np.log(-np.e * small * np.log(small)), 0.0, STRONGEST) + 0.0, np.float64)


def probability(strength: Array) -> Array:
    """That a step is out of the ordinary, from the strength of all its evidence."""
    knots, odds = np.array(KNOTS).T
    return np.asarray(1 / (1 + np.exp(-np.interp(strength, knots, odds))), np.float64)
