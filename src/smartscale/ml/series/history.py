"""The past of all series as one ring of columns.

Column ``step % width`` of ``ring`` holds the values of ``step``; NaN is a gap. A ``Past`` is the ring seen from
an origin: it answers nothing later than the origin, so a method cannot look ahead even by mistake.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Past:
    """What is known at ``origin`` (a step's number). ``ring`` has shape (n_series, width)."""

    ring: Floats
    origin: int

    def between(self, first: int, last: int) -> Floats:
        """Values of steps ``first`` to ``last`` inclusive, shape (n_series, last - first + 1), a copy.

        NaN for steps after the origin and for those the ring no longer holds."""
        width = self.ring.shape[1]
        steps = np.arange(first, last + 1)
        columns = self.ring[:, steps % width]
        columns[:, (steps > self.origin) | (steps <= self.origin - width)] = np.nan
        return columns


def put(ring: Floats, step: int, values: npt.NDArray[np.floating]) -> None:
    """Write the column of ``step``, in place."""
    ring[:, step % ring.shape[1]] = values
