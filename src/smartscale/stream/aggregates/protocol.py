"""The contract of an aggregation, what it is given, and the register of names."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from smartscale.config import Windows
from smartscale.errors import ConfigError
from smartscale.stream import attributes
from smartscale.stream.columns import Array, Floats, Ints, State

Groups = npt.NDArray[np.int32] | Ints
"""For each event or row, the number of the key it belongs to."""


class Events:
    """n events, column by column, each of shape (n,) and made when first asked for."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def chosen(self, keep: npt.NDArray[np.bool_]) -> Events:
        """Only the events where ``keep`` is True."""
        return Events(self.table.filter(pa.array(keep)))

    @cached_property
    def time(self) -> Ints:
        """Event time in microseconds since the epoch."""
        return np.asarray(self.table.column("time").to_numpy())

    @cached_property
    def error(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.table.column("error").to_numpy())

    @cached_property
    def latency(self) -> Ints:
        """Whole microseconds; -1 where there is none."""
        return _filled(self.table.column("latency"), -1).astype(np.int64, copy=False)

    @cached_property
    def value(self) -> Floats:
        """NaN where there is none."""
        return _filled(self.table.column("value"), np.nan).astype(np.float64, copy=False)

    @cached_property
    def status(self) -> Ints:
        """0 where there is none."""
        return _filled(self.table.column("status"), 0).astype(np.int64, copy=False)

    @cached_property
    def user(self) -> npt.NDArray[np.uint64]:
        """Keyed hash of the user; anything where ``has_user`` is False."""
        return _filled(self.table.column("user"), 0).astype(np.uint64, copy=False)

    @cached_property
    def has_user(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.table.column("user").is_valid().to_numpy())

    def has(self, column: str) -> bool:
        """Whether any event has something in this column."""
        found = self.table.column(column)
        return bool(found.null_count < len(found))

    def attribute(self, name: str) -> Floats:
        """An attribute as a number; NaN where there is none, or it is no number."""
        return attributes.numbers(self.table.column("attributes").combine_chunks(), name)


def _filled(column: pa.ChunkedArray, missing: float) -> Array:
    if column.null_count == len(column):
        return np.full(len(column), missing)
    return np.asarray(pc.fill_null(column, pa.scalar(missing, column.type)).to_numpy())


class Aggregation:
    """Base of every aggregation: override ``name``, ``reads`` and the four methods."""

    name: ClassVar[str]
    """How settings name it; also the prefix of its columns in ``partials`` unless it is built in."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Columns of events that ``add`` asks for, beside ``time`` and ``error``; the others may not be there."""
    needs_no_gaps: ClassVar[bool] = True
    """True: ``add`` is given only the events that count. False: repeats are among them, with group -1."""

    def zero(self, n: int) -> State:
        """The state of n keys without events."""
        raise NotImplementedError

    def add(self, state: State, group: Groups, events: Events) -> None:
        """Put event i into key ``group[i]``; changes ``state`` in place (a column may be replaced)."""
        raise NotImplementedError

    def merge(self, state: State, group: Groups, other: State) -> None:
        """Put row i of ``other`` into key ``group[i]``; called once on a fresh ``zero``."""
        raise NotImplementedError

    def result(self, state: State, size_s: float, /) -> dict[str, Array]:
        """Fields of metric rows, each of shape (n,); NaN becomes null. ``size_s`` is the window's size. Names of
        ``MetricRow`` fill those fields, others go to ``extra``."""
        raise NotImplementedError


_REGISTER: dict[str, Aggregation] = {}


def register(aggregation: Aggregation) -> None:
    """Let settings name it. Raises ``ConfigError`` if another class has the name."""
    known = _REGISTER.get(aggregation.name)
    if known is not None and type(known) is not type(aggregation):
        raise ConfigError(f"aggregation {aggregation.name!r} is registered twice: choose another name")
    _REGISTER[aggregation.name] = aggregation


def named(settings: Windows) -> Sequence[Aggregation]:
    """The aggregations that the settings ask for, in that order; imports ``windows.modules`` first.

    Raises ``ConfigError`` for a module that cannot be imported or a name that nothing registered."""
    for module in settings.modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(
                f"windows.modules: {module!r} cannot be imported: {error}; is it on PYTHONPATH?"
            ) from error
    missing = [name for name in settings.aggregates if name not in _REGISTER]
    if missing:
        raise ConfigError(
            f"windows.aggregates: no aggregation {', '.join(map(repr, missing))}; known: {', '.join(_REGISTER)}; "
            "name the module that registers it in windows.modules"
        )
    return [_REGISTER[name] for name in dict.fromkeys(settings.aggregates)]
