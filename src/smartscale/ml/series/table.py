"""Tables of arrays that share their first axis (a row a series or service): grow, shrink, pack, unpack.

A state is a dataclass whose array fields all have one row per member. It grows by joining a fresh state, so
the values a newcomer starts with are written in one place only: its ``fresh``.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from dataclasses import Field


class Table(Protocol):
    """A dataclass of arrays with a common first axis."""

    __dataclass_fields__: ClassVar[dict[str, Field[object]]]


class PackedArray(msgspec.Struct, frozen=True):
    """An array as bytes: little-endian dtype, shape, C order."""

    dtype: str
    shape: list[int]
    data: bytes


def join(state: Table, fresh: Table) -> None:
    """Append the rows of ``fresh`` to every array of ``state``, in place."""
    for field in fields(state):
        joined = np.concatenate([getattr(state, field.name), getattr(fresh, field.name)])
        setattr(state, field.name, joined)


def keep(state: Table, rows: npt.NDArray[np.bool_]) -> None:
    """Keep only the rows where ``rows`` is True, in place."""
    for field in fields(state):
        setattr(state, field.name, getattr(state, field.name)[rows])


def pack(state: Table, leave_out: frozenset[str] = frozenset()) -> dict[str, PackedArray]:
    """Every array by field name, without those left out."""
    return {
        field.name: pack_array(getattr(state, field.name))
        for field in fields(state)
        if field.name not in leave_out
    }


def unpack(state: Table, packed: dict[str, PackedArray]) -> None:
    """Set the arrays named in ``packed``, in place. Raises ValueError if one is not a field of ``state``."""
    known = {field.name for field in fields(state)}
    if not packed.keys() <= known:
        raise ValueError(
            f"a snapshot holds arrays this version does not know: {sorted(packed.keys() - known)}"
        )
    for name, array in packed.items():
        setattr(state, name, unpack_array(array))


def pack_array(array: npt.NDArray[np.generic]) -> PackedArray:
    return PackedArray(array.dtype.str, list(array.shape), np.ascontiguousarray(array).tobytes())


def unpack_array(packed: PackedArray) -> npt.NDArray[np.generic]:
    return np.frombuffer(packed.data, dtype=np.dtype(packed.dtype)).reshape(packed.shape).copy()
