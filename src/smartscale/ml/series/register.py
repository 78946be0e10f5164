"""Who holds which row: services and their series, each with a row of its own for as long as it is known.

A row that is given up keeps its place, free, until a newcomer takes it: so the rows of all others stay where they
are, in memory and in snapshots.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

Name = tuple[str, str]
"""Tenant and service."""
Key = tuple[str, str, str]
"""Tenant, service and series."""
Places = npt.NDArray[np.int64]
T = TypeVar("T")
NOBODY: Final[Name] = ("", "")
NOTHING: Final[Key] = ("", "", "")
"""Holders of free rows."""


class Register:
    """``services[i]`` holds row i of everything known of services, ``series[i]`` row i of everything known of series."""

    def __init__(self, services: Iterable[Name] = (), series: Iterable[Key] = ()) -> None:
        self.services = list(services)
        self.series = list(series)
        self._place = {name: i for i, name in enumerate(self.services) if name != NOBODY}
        self._row = {key: i for i, key in enumerate(self.series) if key != NOTHING}
        self._owner = [self._place.get(key[:2], -1) for key in self.series]
        self._of: dict[str, list[int]] = {}
        for key, row in self._row.items():
            self._column(key[2])[self._place[key[:2]]] = row
        self._free_places = [i for i, name in enumerate(self.services) if name == NOBODY]
        self._free_rows = [i for i, key in enumerate(self.series) if key == NOTHING]

    def row(self, key: Key) -> int:
        """The row of a series, a new one (the lowest that is free) for a newcomer."""
        row = self._row.get(key)
        return self._enrol(key) if row is None else row

    def find(self, key: Key) -> int | None:
        """The row of a series, None if it is not known."""
        return self._row.get(key)

    def place(self, name: Name) -> int | None:
        """The row of a service, None if it is not known."""
        return self._place.get(name)

    @property
    def owners(self) -> Places:
        """The service's row of every series, -1 for free rows."""
        return np.array(self._owner, np.int64)

    def rows_of(self, series: str) -> Places:
        """The row of every service's series of that name, -1 where there is none."""
        return np.array(self._column(series), np.int64)

    def known(self) -> Iterator[tuple[int, Key]]:
        """Rows and series that are not free, by row."""
        return ((i, key) for i, key in enumerate(self.series) if key != NOTHING)

    def forget(self, place: int) -> list[int]:
        """Free a service's row and those of its series, which are returned."""
        name = self.services[place]
        self.services[place] = NOBODY
        del self._place[name]
        heapq.heappush(self._free_places, place)
        freed = [column[place] for column in self._of.values() if column[place] >= 0]
        for column in self._of.values():
            column[place] = -1
        for row in freed:
            del self._row[self.series[row]]
            self.series[row], self._owner[row] = NOTHING, -1
            heapq.heappush(self._free_rows, row)
        return freed

    def _enrol(self, key: Key) -> int:
        name = key[:2]
        if name not in self._place:
            self._place[name] = _take(self._free_places, self.services, name)
            for column in self._of.values():
                column += [-1] * (len(self.services) - len(column))
        row = self._row[key] = _take(self._free_rows, self.series, key)
        self._owner += [-1] * (len(self.series) - len(self._owner))
        self._owner[row] = self._place[name]
        self._column(key[2])[self._place[name]] = row
        return row

    def _column(self, series: str) -> list[int]:
        return self._of.setdefault(series, [-1] * len(self.services))


def _take(free: list[int], held: list[T], newcomer: T) -> int:
    if free:
        place = heapq.heappop(free)
        held[place] = newcomer
        return place
    held.append(newcomer)
    return len(held) - 1
