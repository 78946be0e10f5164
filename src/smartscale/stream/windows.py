"""Windows and panes as formulas.

A window is ``[start, start + size)`` with ``start`` a multiple of ``slide`` since the epoch; tumbling is
``slide == size``. A pane is ``[k * pane, (k + 1) * pane)`` with ``pane`` the greatest common divisor of all sizes and
slides, so that every window is a whole number of panes and a pane is in a window wholly or not at all.

Services may have windows of their own (``[[windows.for]]``). Services with the same windows are a **family**, with panes of
its own, so that a long window of some costs the others nothing.

Sliding 6 every 2, pane 2 (an instant is in size / slide windows)::

    time   0   2   4   6   8
    w0     [-----------)
    w1         [-----------)
    w2             [-----------)
    t=5              ^ in w0, w1, w2
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from smartscale.clock import MICROS
from smartscale.config import Windows


@dataclass(frozen=True, slots=True)
class Window:
    """One kind of window; size and slide in microseconds.

    >>> Window(60_000_000, 5_000_000).label
    '60s/5s'
    >>> Window(10_000_000, 10_000_000).label
    '10s'
    """

    size_us: int
    slide_us: int

    @property
    def label(self) -> str:
        size = f"{self.size_us / MICROS:g}s"
        return size if self.size_us == self.slide_us else f"{size}/{self.slide_us / MICROS:g}s"

    @property
    def tumbling(self) -> bool:
        return self.size_us == self.slide_us

    def first_end_after(self, us: int) -> int:
        """The least end of a window that is greater than ``us``.

        >>> Window(6, 2).first_end_after(6), Window(6, 2).first_end_after(7)
        (8, 8)
        """
        return self.size_us + self.slide_us * ((us - self.size_us) // self.slide_us + 1)

    def ends_containing(self, us: int) -> Iterator[int]:
        """Ends of the windows that contain the instant, ascending.

        >>> list(Window(6, 2).ends_containing(5))
        [6, 8, 10]
        """
        end = self.first_end_after(us)
        while end - self.size_us <= us:
            yield end
            end += self.slide_us


def windows_of(tumbling_s: Sequence[float], sliding_s: Sequence[Sequence[float]]) -> list[Window]:
    """Windows of these sizes (and slides), the shortest tumbling one first, none twice."""
    tumbling = sorted({round(size * MICROS) for size in tumbling_s})
    sliding = sorted({(round(size * MICROS), round(slide * MICROS)) for size, slide in sliding_s})
    return [Window(size, size) for size in tumbling] + [
        Window(size, slide) for size, slide in sliding if size != slide or size not in tumbling
    ]


def pane_us(windows: Sequence[Window]) -> int:
    """The pane that all windows share.

    >>> pane_us([Window(10, 10), Window(60, 5)])
    5
    """
    return math.gcd(*(length for window in windows for length in (window.size_us, window.slide_us)))


@dataclass(frozen=True, slots=True)
class Family:
    """What services of one pattern have in common. ``name`` is the pattern, "" for the services that none fits."""

    name: str
    windows: tuple[Window, ...]
    group_by: tuple[str, ...]

    @property
    def pane_us(self) -> int:
        return pane_us(self.windows)

    @property
    def base(self) -> Window:
        """The shortest tumbling window: each event is in one of its windows, so the ledger counts in it."""
        return self.windows[0]


class Families:
    """Which family a service belongs to: the first rule that fits it, else the general settings.

    >>> from smartscale.config import WindowRule
    >>> families = Families(Windows(rules=[WindowRule(services="batch-*", tumbling_s=[300], sliding_s=[])]))
    >>> [families[families.of(service)].base.label for service in ("batch-mail", "shop")]
    ['300s', '10s']
    """

    def __init__(self, settings: Windows) -> None:
        self._families = [
            Family("", tuple(windows_of(settings.tumbling_s, settings.sliding_s)), tuple(settings.group_by))
        ]
        self._patterns: list[tuple[str, int]] = []
        for rule in settings.rules:
            tumbling = settings.tumbling_s if rule.tumbling_s is None else rule.tumbling_s
            sliding = settings.sliding_s if rule.sliding_s is None else rule.sliding_s
            group_by = settings.group_by if rule.group_by is None else rule.group_by
            self._patterns.append((rule.services, len(self._families)))
            self._families.append(
                Family(rule.services, tuple(windows_of(tumbling, sliding)), tuple(group_by))
            )
        self._known: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._families)

    def __iter__(self) -> Iterator[Family]:
        return iter(self._families)

    def __getitem__(self, number: int) -> Family:
        return self._families[number]

    def of(self, service: str) -> int:
        """The number of the service's family; 0 is the general one."""
        if not self._patterns:
            return 0
        found = self._known.get(service)
        if found is None:
            fits = (number for pattern, number in self._patterns if fnmatchcase(service, pattern))
            found = next(fits, 0)
            if len(self._known) >= _MEMORY_OF_SERVICES:
                self._known.clear()
            self._known[service] = found
        return found


_MEMORY_OF_SERVICES = 1_000_000
"""Services whose family is remembered, about 100 bytes each."""
