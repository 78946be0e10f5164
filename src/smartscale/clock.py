"""The only readers of system time.

Two kinds of time, never mixed:

- **World time** (``Clock.now_us``): microseconds since the Unix epoch, the time base of events, windows,
  lateness, start-up delays and cooldowns. A replay may run it faster than real time.
- **Monotonic time** (``monotonic_s``): real seconds for durations about outside systems: polls, leases,
  back-off, HTTP time-outs. It is never scaled.

>>> clock = ManualClock(now_us=1_000_000)
>>> clock.advance(2.5)
>>> clock.now_us()
3500000
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Protocol

import msgspec

MICROS = 1_000_000
"""Microseconds in a second."""


class Clock(Protocol):
    """World time. Implementations are cheap to call and safe to share between threads."""

    def now_us(self) -> int:
        """World time now, in microseconds since the Unix epoch."""
        ...

    def to_real_s(self, world_s: float) -> float:
        """How many real seconds ``world_s`` seconds of world time take (for waiting with a time-out)."""
        ...


class WallClock:
    """World time is the system's wall clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def to_real_s(self, world_s: float) -> float:
        return world_s


class Anchor(msgspec.Struct, frozen=True):
    """Ties scaled world time to the wall clock; written once in the log so that every process agrees.

    At wall time ``wall_us`` the world time is ``origin_us``; from then on it runs ``speed`` times as fast.
    """

    origin_us: int
    speed: float
    wall_us: int


class ScaledClock:
    """World time runs ``speed`` times as fast as the wall clock, from an anchor."""

    def __init__(self, anchor: Anchor) -> None:
        if not anchor.speed > 0:
            raise ValueError(f"clock speed must be greater than 0, not {anchor.speed}")
        self.anchor = anchor

    def now_us(self) -> int:
        elapsed = time.time_ns() // 1000 - self.anchor.wall_us
        return self.anchor.origin_us + int(elapsed * self.anchor.speed)

    def to_real_s(self, world_s: float) -> float:
        return world_s / self.anchor.speed


class ManualClock:
    """World time moves only when told to: for tests, simulations and backtests."""

    def __init__(self, now_us: int = 0) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us

    def to_real_s(self, world_s: float) -> float:
        return world_s

    def advance(self, seconds: float) -> None:
        """Move forward by ``seconds`` (world time). Raises ValueError on a negative step."""
        if seconds < 0:
            raise ValueError("a clock never goes back")
        self._now_us += round(seconds * MICROS)

    def set_us(self, now_us: int) -> None:
        """Move forward to ``now_us``. Raises ValueError if that lies in the past."""
        if now_us < self._now_us:
            raise ValueError("a clock never goes back")
        self._now_us = now_us


def monotonic_s() -> float:
    """Real seconds from an arbitrary start; the same start for every process since boot."""
    return time.monotonic()


def thread_cpu_s() -> float:
    """Seconds of processor time that the calling thread has used."""
    return time.thread_time()


def wall_ms() -> int:
    """Wall-clock milliseconds since the Unix epoch: the timestamp of log records, which retention goes by."""
    return time.time_ns() // 1_000_000


def http_date() -> str:
    """The wall clock as HTTP writes it (RFC 9110, section 5.6.7), such as ``Tue, 15 Nov 1994 08:12:31 GMT``."""
    return formatdate(time.time(), usegmt=True)


def iso(us: int) -> str:
    """ISO 8601 in UTC for world time ``us``.

    >>> iso(0)
    '1970-01-01T00:00:00Z'
    >>> iso(1_500_000)
    '1970-01-01T00:00:01.500000Z'
    """
    return (
        datetime.fromtimestamp(us // MICROS, UTC)
        .replace(microsecond=us % MICROS)
        .isoformat()
        .replace("+00:00", "Z")
    )


def parse_iso_us(text: str) -> int:
    """World time for an ISO 8601 instant; one without a zone is taken as UTC. Raises ValueError.

    >>> parse_iso_us("1970-01-01T00:00:01.5Z")
    1500000
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    whole = moment.replace(microsecond=0)
    return int(whole.timestamp()) * MICROS + moment.microsecond


def span_text(us: int) -> str:
    """A duration for people, in at most two units.

    >>> [span_text(us * MICROS) for us in (0, 40, 119, 180, 310, 7_200, 93_000, 200_000)]
    ['0 s', '40 s', '119 s', '3 min', '5 min', '2 h', '25 h 50 min', '2 d 7 h']
    """
    seconds = us // MICROS
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    if minutes < 120:
        return f"{minutes} min"
    big, small, names = (minutes // 60, minutes % 60, ("h", "min"))
    if big >= 48:
        big, small, names = big // 24, big % 24, ("d", "h")
    return f"{big} {names[0]} {small} {names[1]}" if small else f"{big} {names[0]}"
