"""Tables of arrays that share their first axis (a row a series or service): grow, change rows, look at a part.

A state is a dataclass whose array fields all have one row per member. It grows by joining a fresh state, so
the values a newcomer starts with are written in one place only: its ``fresh``.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from dataclasses import Field


class Table(Protocol):
    """A dataclass of arrays with a common first axis."""

    __dataclass_fields__: ClassVar[dict[str, Field[object]]]


T = TypeVar("T", bound=Table)


def join(state: Table, fresh: Table) -> None:
    """Append the rows of ``fresh`` to every array of ``state``, in place.

    An array that nothing else refers to grows where it is: with weeks of history a copy would double the memory."""
    for field in fields(state):
        setattr(state, field.name, _grown(_take(state, field.name), getattr(fresh, field.name)))


def put(state: Table, rows: npt.NDArray[np.int64], fresh: Table) -> None:
    """Write the rows of ``fresh`` over ``rows`` of every array of ``state``, in place."""
    for field in fields(state):
        getattr(state, field.name)[rows] = getattr(fresh, field.name)


def part(state: T, rows: slice) -> T:
    """A state of these rows alone, as views."""
    return type(state)(**{field.name: getattr(state, field.name)[rows] for field in fields(state)})


def put_back(state: T, rows: slice, changed: T) -> None:
    """Write the arrays of a ``part`` that were replaced, not changed in place, back into ``state``."""
    for field in fields(state):
        whole, now = getattr(state, field.name), getattr(changed, field.name)
        if not np.may_share_memory(whole, now):
            whole[rows] = now


def _take(state: Table, name: str) -> npt.NDArray[np.generic]:
    """The array, which ``state`` then no longer refers to."""
    array: npt.NDArray[np.generic] = getattr(state, name)
    setattr(state, name, None)
    return array


def _grown(array: npt.NDArray[np.generic], more: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    known = len(array)
    try:
        array.resize((known + len(more), *array.shape[1:]))
    except ValueError:  # somebody else looks at it, or it is a view itself
        return np.concatenate([array, more])
    array[known:] = more
    return array
