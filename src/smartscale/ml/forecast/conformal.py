"""Adaptive conformal inference: levels that keep their promise whatever the data do.

Asked for the quantile at a level, the forecast gives that at an adapted level, which moves up when the truth was above
and down when it was below (Gibbs and Candes 2021, "Adaptive Conformal Inference Under Distribution Shift", equation 2)::

    adapted += STEP * (level - hit)

so that in the long run the share of hits is the level. A fast step pays for its coverage with wide and narrow bands in
turn (their figure 2; Angelopoulos, Candes and Tibshirani 2023 keep it slow as the integrator of a controller), so this
one is slow: residuals and scale follow the data, the levels remove what is left.

It is done at a few ``LEVELS``; in between the adjustment is interpolated.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[np.float64]
Small = npt.NDArray[np.float32]

LEVELS: Final = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
STEP: Final = 0.002
"""Gibbs and Candes use 0.005; chosen slower on the tuning half."""
MARGIN: Final = 0.002
"""Adapted levels stay this far inside (0, 1)."""


@njit(cache=True)
def adapt(adapted: Small, issued: Small, truth: float, weight: float) -> None:
    """Adapted levels after one more truth, in place; ``issued`` are the quantiles that were given, same shape (7,).
    ``weight`` is the truth's share of an independent observation."""
    for i in range(len(LEVELS)):
        hit = 1.0 if truth <= issued[i] else 0.0
        adapted[i] = min(max(adapted[i] + STEP * weight * (LEVELS[i] - hit), MARGIN), 1 - MARGIN)


@njit(cache=True)
def asked(adapted: Small, grid: Array, found: Array) -> None:
    """What to ask for at each level of ``grid`` (ascending, 0.05 to 0.95), ascending, into ``found``."""
    i = 0
    for g in range(len(grid)):
        while i < len(LEVELS) - 2 and grid[g] > LEVELS[i + 1]:
            i += 1
        share = (grid[g] - LEVELS[i]) / (LEVELS[i + 1] - LEVELS[i])
        moved = (adapted[i] - LEVELS[i]) * (1 - share) + (adapted[i + 1] - LEVELS[i + 1]) * share
        found[g] = min(max(grid[g] + moved, MARGIN), 1 - MARGIN)
        if g > 0:
            found[g] = max(found[g], found[g - 1])
