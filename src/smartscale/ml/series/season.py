"""Where in the past the like of a step is found: the one place where a series' season index is computed.

A season is a period in steps. The like of step u, as seen from an origin, is ``reference(u, origin, period)``: as many
whole periods back as it takes to be at the origin or before it, so a daily season with a horizon beyond a day does not look
ahead. ``position`` is where in the period a step lies. All seasonal methods and features go through these two. Calendars
do not come in here: ``local_time`` moves the past itself, so that the like of a step still lies whole periods before it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.ml.series.history import GAP, Codes, mean_between, value_of

Array = npt.NDArray[np.float64]


@njit(cache=True, nogil=True, error_model="numpy")
def reference(step: int, origin: int, period: int) -> int:
    """The latest step at or before ``origin`` that is whole periods, at least one, before ``step``."""
    ahead = step - origin
    return step - period * max(1, -(-ahead // period))


@njit(cache=True, nogil=True, error_model="numpy")
def position(step: int, period: int) -> float:
    """Where in the period a step lies, in [0, 1)."""
    return (step % period) / period


@njit(cache=True, nogil=True, error_model="numpy")
def like(row: Codes, step: int, origin: int, period: int, back: int, half: int) -> float:
    """What was seen ``back`` (1, 2, ...) periods before ``step``: mean over ``half`` steps to either side; NaN where fewer
    than half of them are known. ``row`` is one series of a ring."""
    center = reference(step, origin, period) - (back - 1) * period
    mean, known = mean_between(row, center - half, center + half, origin)
    return mean if 2 * known >= 2 * half + 1 else np.nan


@njit(cache=True, nogil=True, error_model="numpy")
def likes(row: Codes, first: int, origin: int, period: int, back: int, half: int, found: Array) -> None:
    """``like`` of the ``len(found)`` steps from ``first``, into ``found``: sums slide along, so wide means are cheap."""
    size, before = 2 * half + 1, 0
    total, known = 0.0, 0
    for j in range(len(found)):
        center = reference(first + j, origin, period) - (back - 1) * period
        if j > 0 and center == before + 1:
            gone, new = _code(row, center - half - 1, origin), _code(row, center + half, origin)
            if gone != GAP:
                total -= value_of(gone)
                known -= 1
            if new != GAP:
                total += value_of(new)
                known += 1
        else:
            mean, known = mean_between(row, center - half, center + half, origin)
            total = mean * known if known > 0 else 0.0
        found[j] = total / known if 2 * known >= size else np.nan
        before = center


@njit(cache=True, nogil=True, error_model="numpy")
def _code(row: Codes, step: int, origin: int) -> int:
    width = row.shape[0]
    return row[step % width] if origin - width < step <= origin else GAP


@njit(cache=True, nogil=True, error_model="numpy")
def value(row: Codes, step: int, origin: int) -> float:
    """The value of ``step``, NaN where it is not known at ``origin``."""
    code = _code(row, step, origin)
    return np.nan if code == GAP else value_of(code)
