"""What a streaming detector is: series by series it judges each value as it comes, with no look ahead.

Two scores, both in [0, 1], higher is stranger:

- the **alert score** says *when to tell*: it is silenced after a told alert, so that a person is told once;
- the **state score** says *is it still strange*: it stays high for as long as the series is.

A detector keeps nothing of its own besides its settings: all it has learned is in the state, a dataclass of arrays
whose first axis is the series. So a state can be packed, stored and taken up again, and rows can be moved between
processes. ``tests/contract/test_detectors.py`` holds every detector to the promises below.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
S = TypeVar("S")


class Detector(Protocol[S]):
    """Judges ``n_series`` series at once, each by itself. Made by ``Detector(step_s)``: the spacing of the values in
    seconds, or None where it is not known and times must tell it.

    - Causal: the scores of a step depend on the values up to that step alone.
    - Rows are independent: n series together give, bit for bit, what each gives alone; NaN, an infinity or any size of value
      in one row changes no other.
    - A change of units changes nothing: ``a * values + b`` with a > 0 gives the same scores up to rounding.
    """

    def fresh(self, n_series: int, /) -> S:
        """State before the first value."""
        ...

    def step(self, state: S, times_us: Times, values: Floats, /) -> tuple[Floats, Floats]:
        """(alert scores, state scores), each of shape (n_series,), after one more value of each series.

        ``times_us`` are the values' event times in microseconds since the epoch, never falling within a series. NaN is a
        gap: its alert score is 0 and its state score that of the step before. ``state`` is changed in place."""
        ...


def pack(state: object) -> dict[str, npt.NDArray[Any]]:
    """The state's arrays by name, copied. Raises ``TypeError`` if it is no dataclass of arrays."""
    if not is_dataclass(state) or isinstance(state, type):
        raise TypeError(f"{type(state).__name__} is no dataclass of arrays")
    arrays = {field.name: getattr(state, field.name) for field in fields(state)}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{type(state).__name__}.{name} is a {type(array).__name__}, not an array")
    return {name: array.copy() for name, array in arrays.items()}


def unpack(state: S, arrays: dict[str, npt.NDArray[Any]]) -> S:
    """Put what ``pack`` gave into a fresh state of the same number of series, and return it."""
    for name, array in arrays.items():
        getattr(state, name)[...] = array
    return state
