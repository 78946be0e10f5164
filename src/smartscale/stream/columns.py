"""Columns of aggregates: arrays of one entry a key, and arrays of lists; to Arrow and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Lists:
    """A list for each of n keys: the one of key i is ``values[offsets[i]:offsets[i + 1]]``."""

    offsets: Ints  # (n + 1,)
    values: Array  # (m,)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def chosen(self, rows: Ints) -> Lists:
        """The lists of these keys, in this order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        entries = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Lists(offsets, self.values[entries])


Column = Array | Lists

State = dict[str, Any]
"""Named columns of one length, each an array of shape (n,) or ``Lists``. Which, the aggregation knows."""


def empty_lists(n: int, dtype: npt.DTypeLike) -> Lists:
    return Lists(np.zeros(n + 1, np.int64), np.zeros(0, dtype))


def chosen(state: State, rows: Ints) -> State:
    """The state of these keys alone, in this order."""
    return {
        name: column.chosen(rows) if isinstance(column, Lists) else column[rows]
        for name, column in state.items()
    }


def joined(parts: Sequence[Column]) -> Column:
    """Columns one after the other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if not isinstance(first, Lists):
        return np.concatenate([part for part in parts if not isinstance(part, Lists)])
    held = [part for part in parts if isinstance(part, Lists)]
    shifts = np.cumsum([0, *(len(part.values) for part in held)])
    offsets = [part.offsets[:-1] + shift for part, shift in zip(held, shifts, strict=False)]
    return Lists(np.concatenate([*offsets, shifts[-1:]]), np.concatenate([part.values for part in held]))


def to_arrow(column: Column) -> pa.Array:
    if isinstance(column, Lists):
        return pa.ListArray.from_arrays(pa.array(column.offsets.astype(np.int32)), pa.array(column.values))
    return pa.array(column)


def from_arrow(column: pa.Array) -> Column:
    """The column without a copy where Arrow allows it. Arrays must have no nulls."""
    if pa.types.is_list(column.type):
        return Lists(column.offsets.to_numpy().astype(np.int64), column.values.to_numpy())
    return np.asarray(column.to_numpy(zero_copy_only=False))
