"""Count and rate, errors and error rate."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.stream.aggregates.protocol import Aggregation, Events, Groups
from smartscale.stream.columns import Array, Ints, State


@njit(cache=True, nogil=True)
def _count(group: Groups, error: npt.NDArray[np.bool_], count: Ints, errors: Ints) -> None:
    for i in range(len(group)):
        g = group[i]
        if g >= 0:
            count[g] += 1
            errors[g] += error[i]


@njit(cache=True, nogil=True)
def add_up(group: Groups, values: Ints, out: Ints) -> None:
    """``out[group[i]] += values[i]``."""
    for i in range(len(group)):
        out[group[i]] += values[i]


class Requests(Aggregation):
    """Needed by everything else: rows without ``count`` mean nothing."""

    name = "requests"
    needs_no_gaps: ClassVar[bool] = False

    def zero(self, n: int) -> State:
        return {"count": np.zeros(n, np.int64), "errors": np.zeros(n, np.int64)}

    def add(self, state: State, group: Groups, events: Events) -> None:
        _count(group, events.error, state["count"], state["errors"])

    def merge(self, state: State, group: Groups, other: State) -> None:
        for name, column in state.items():
            add_up(group, other[name], column)

    def result(self, state: State, size_s: float, /) -> dict[str, Array]:
        count, errors = state["count"], state["errors"]
        return {
            "count": count,
            "errors": errors,
            "rate_per_s": np.divide(count, size_s),
            "error_rate": np.divide(errors, np.maximum(count, 1)),
        }
