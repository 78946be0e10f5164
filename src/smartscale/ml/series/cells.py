"""The rows of one step, all series together: a structured array with one cell a series.

A cell that no row has reached has rank -1 and NaN in its numbers; so columns (``cells["value"]``) can be used
as they are.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from smartscale.ml.series.rows import Row

Cells = npt.NDArray[Any]
"""Shape (capacity,), dtype ``CELL``; the capacity may exceed the number of series."""
Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

CELL: Final = np.dtype(
    [
        ("rank", "<i8"),  # twice the revision, plus one if final; -1: no row
        ("value", "<f8"),  # events a second
        ("count", "<f8"),
        ("errors", "<f8"),
        ("p50_ms", "<f8"),
        ("p99_ms", "<f8"),
        ("final", "?"),
        ("complete", "?"),
    ]
)
_EMPTY: Final = np.array([(-1, np.nan, np.nan, np.nan, np.nan, np.nan, False, False)], CELL)


def fresh(capacity: int) -> Cells:
    """Cells without rows."""
    return np.repeat(_EMPTY, capacity)


def put(cells: Cells, place: int, row: Row) -> Cells:
    """Keep ``row`` at ``place`` unless a later revision is there, in place; grown cells if there was no room."""
    if place >= len(cells):
        cells = np.concatenate([cells, fresh(max(place + 1 - len(cells), len(cells)))])
    rank = 2 * row.revision + row.final
    if rank >= cells["rank"][place]:
        p50_ms, p99_ms = (np.nan if ms is None else ms for ms in (row.latency_p50_ms, row.latency_p99_ms))
        cells[place] = rank, row.value, row.count, row.errors, p50_ms, p99_ms, row.final, row.complete
    return cells


def fit(cells: Cells | None, size: int) -> Cells:
    """Cells for exactly ``size`` series; None is a step without rows."""
    if cells is None:
        return fresh(size)
    return cells[:size] if len(cells) >= size else np.concatenate([cells, fresh(size - len(cells))])


def rates(cells: Cells, certain: Mask) -> Array:
    """Values where ``certain``, NaN elsewhere."""
    return np.where(certain, cells["value"], np.nan)
