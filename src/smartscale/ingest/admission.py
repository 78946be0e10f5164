"""What the edge holds in memory: how much may still come in, and how old the oldest of it is."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Final

RETRY_AFTER_S: Final = 1
"""Told to a client that is pushed back; chosen because a full queue drains within a second."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """Events that were let in and are not in the log yet."""

    number: int
    events: int
    oldest_us: int


@dataclass(slots=True)
class Admission:
    """Bounds memory by counting events from admission until they are durable or given back, and bytes of bodies
    from before they are read until they are answered. Not thread-safe: it belongs to the event loop."""

    max_events: int
    max_bytes: int
    closed: bool = False
    """True once the process is stopping: nothing more is let in."""
    events: int = 0
    bytes: int = 0
    _tickets: dict[int, Ticket] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def reserve(self, size: int) -> bool:
        """Make room for a body of ``size`` bytes; False if there is none. Give it back with ``free``."""
        if self.bytes + size > self.max_bytes:
            return False
        self.bytes += size
        return True

    def free(self, size: int) -> None:
        self.bytes -= size

    def admit(self, events: int, oldest_us: int) -> Ticket | None:
        """Let events in, or None if the queue is full or closed."""
        if self.closed or self.events + events > self.max_events:
            return None
        ticket = Ticket(next(self._numbers), events, oldest_us)
        self._tickets[ticket.number] = ticket
        self.events += events
        return ticket

    def settle(self, ticket: Ticket) -> None:
        """These events are in the log, or were given back."""
        del self._tickets[ticket.number]
        self.events -= ticket.events

    def oldest_us(self, clock_us: int) -> int:
        """Event time of the oldest event that is not in the log yet, at most ``clock_us``, which must have been read
        before: then whatever is admitted later was received after that instant."""
        return min([clock_us, *(ticket.oldest_us for ticket in self._tickets.values())])
