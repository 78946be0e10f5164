"""What the edge holds in memory: how much may still come in, how old the oldest of it is, and how fast it drains."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Final

RETRY_AFTER_S: Final = 1
"""Told to a client that is pushed back; chosen because a full queue drains within a second."""
REQUEST_BYTES: Final = 2 << 10
"""What a request costs beside its body: its objects, its answer."""


@dataclass(slots=True)
class Admission:
    """Bounds memory by bytes: of each request and its body, from before the body is read until it is answered.

    A body is not decoded before the writer takes it up, so how many events wait is not known, only how many bytes do, and
    how many bytes an event had lately. Not thread-safe: it belongs to the event loop."""

    max_bytes: int
    closed: bool = False
    """True once the process is stopping: nothing more is let in."""
    bytes: int = 0
    _received: dict[int, int] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def reserve(self, size: int) -> bool:
        """Make room for ``size`` bytes; False if there is none. Give it back with ``free``."""
        if self.bytes + size > self.max_bytes:
            return False
        self.bytes += size
        return True

    def free(self, size: int) -> None:
        self.bytes -= size

    def admit(self, received_us: int) -> int:
        """A body has been read, at this world time: its ticket, to be given back with ``settle``."""
        number = next(self._numbers)
        self._received[number] = received_us
        return number

    def settle(self, ticket: int) -> None:
        """The events of this body are in the log, or were given back."""
        del self._received[ticket]

    @property
    def requests(self) -> int:
        """How many wait to become durable."""
        return len(self._received)

    def oldest_us(self, clock_us: int) -> int:
        """When the oldest body was received whose events are not in the log yet, at most ``clock_us``, which must have been
        read before: then whatever is admitted later was received after that instant."""
        return min(clock_us, min(self._received.values(), default=clock_us))


@dataclass(slots=True)
class Drain:
    """How much becomes durable a second (real), smoothed over the last ``SPAN_S`` or so.

    Each amount counts with weight exp(-age / span) / span, so a steady rate is told as it is.

    >>> drain = Drain()
    >>> for tenth in range(1000):
    ...     drain.add(tenth / 10, 50, 5)
    >>> round(drain.bytes_per_s(99.9) / 500, 1), round(drain.events_per_s(99.9) / 50, 1)
    (1.0, 1.0)
    >>> drain.stalled_s(102.4)
    2.5
    """

    last_s: float = -math.inf
    """When something last became durable."""
    _bytes: float = 0.0
    _events: float = 0.0

    def add(self, now_s: float, size: int, events: int) -> None:
        """``size`` bytes of bodies with ``events`` events became durable."""
        keep = self._kept(now_s)
        self._bytes = self._bytes * keep + size / SPAN_S
        self._events = self._events * keep + events / SPAN_S
        self.last_s = now_s

    def bytes_per_s(self, now_s: float) -> float:
        return self._bytes * self._kept(now_s)

    def events_per_s(self, now_s: float) -> float:
        return self._events * self._kept(now_s)

    def stalled_s(self, now_s: float) -> float:
        """Since when nothing has become durable; infinite if nothing ever has."""
        return now_s - self.last_s

    def events_in(self, size: int) -> float:
        """How many events so many bytes hold, by what came lately."""
        return size * self._events / self._bytes if self._bytes else 0.0

    def _kept(self, now_s: float) -> float:
        return math.exp(min(0.0, (self.last_s - now_s) / SPAN_S))


SPAN_S: Final = 5.0
"""Chosen as long beside a round (milliseconds to half a second), short beside an outage."""
