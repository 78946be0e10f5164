"""What passes from the plan of a load to its sender: events ready to be sent, and when each is due.

``plan.planned(load, run, worker, workers)`` and ``replay.Recording.chunks`` give an iterator of ``Chunk``; a sender needs
nothing else. Worker k of n gets the events whose number modulo n is k: together the workers send the whole.

Columns become JSON in one compiled pass, so that the generator is not the limit of what it measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.producer.rates import Micros
from smartscale.records.events_json import EventIn

Bytes = npt.NDArray[np.uint8]

NONE: Final = -1
"""In a column of whole numbers: the event has no such field."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Events of a stretch of world time.

    ``due_us``, shape (n,), ascending: world time (us) at which each is to be sent. ``text``: their JSON objects one
    after the other, each followed by a comma; ``ends``, shape (n,): where each ends in it, its comma included.
    Every event has an id, so one that is sent twice is counted once."""

    due_us: Micros
    text: bytes
    ends: Micros

    def __len__(self) -> int:
        return len(self.due_us)

    def body(self, start: int, stop: int) -> bytes:
        """The events ``[start, stop)``, at least one, as a JSON array.

        >>> Chunk(np.array([0, 1]), b'{"a":1},{"b":2},', np.array([8, 16])).body(0, 2)
        b'[{"a":1},{"b":2}]'
        """
        return b"[" + self.text[self._begin(start) : int(self.ends[stop - 1]) - 1] + b"]"

    def size(self, start: int, stop: int) -> int:
        """Bytes of the events ``[start, stop)``, commas included."""
        return int(self.ends[stop - 1]) - self._begin(start)

    def event(self, index: int) -> bytes:
        """One event as a JSON object."""
        return self.text[self._begin(index) : int(self.ends[index]) - 1]

    def events(self) -> list[EventIn]:
        """All events, decoded: for tests and for whoever needs them one by one."""
        return _decode(self.body(0, len(self))) if len(self) else []

    def _begin(self, index: int) -> int:
        return int(self.ends[index - 1]) if index else 0


def of_events(due_us: Micros, events: Sequence[EventIn]) -> Chunk:
    """A chunk of single events that have their time and id already."""
    texts = [_encode(event) for event in events]
    ends = np.cumsum(np.array([len(text) + 1 for text in texts], dtype=np.int64))
    return Chunk(due_us, b"".join(text + b"," for text in texts), ends)


_decode = msgspec.json.Decoder(list[EventIn]).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Columns:
    """Planned events as columns, each of shape (n,).

    ``head`` is the place of what many events share (service, kind, name, severity) in a ``Heads``. ``NONE`` in
    ``status``, ``latency_us`` and ``user`` and NaN in ``value`` leave the field out. ``number`` makes the id: a
    repeated event has the number of the first."""

    due_us: Micros
    time_us: Micros
    head: Micros
    status: Micros
    latency_us: Micros
    value: npt.NDArray[np.float64]
    user: Micros
    number: Micros

    def __len__(self) -> int:
        return len(self.due_us)

    def take(self, which: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice) -> Columns:
        """Some of the events: by place, by mask or by slice."""
        return Columns(*(column[which] for column in self.all()))

    def all(self) -> tuple[npt.NDArray[Any], ...]:
        """Every column, in the order of the fields."""
        return (
            self.due_us, self.time_us, self.head, self.status, self.latency_us, self.value, self.user, self.number,
        )  # fmt: skip


def concatenated(parts: Sequence[Columns]) -> Columns:
    """All events of the parts, one part after the other, in arrays of their own."""
    return Columns(
        *(np.concatenate(columns) for columns in zip(*(part.all() for part in parts), strict=True))
    )


def in_order(columns: Columns) -> Columns:
    """The events in the order of ``due_us``; those due together stay as they are."""
    return columns.take(np.argsort(columns.due_us, kind="stable"))


class Heads:
    """The beginnings of events' JSON, each for one service, kind, name and severity."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str, str, str | None], int] = {}
        self._texts: list[bytes] = []

    def place(self, service: str, kind: str, name: str, severity: str | None = None) -> int:
        """Where the head is; added if it is new."""
        key = (service, kind, name, severity)
        if key not in self._places:
            event = {"service": service, "kind": kind, "name": name, "severity": severity}
            told = {field: text for field, text in event.items() if text and text != "interaction"}
            self._places[key] = len(self._texts)
            self._texts.append(_encode(told)[:-1])
        return self._places[key]

    def keys(self) -> list[tuple[str, str, str, str | None]]:
        """Service, kind, name and severity of each place."""
        return list(self._places)

    def encode(self, columns: Columns, run: str) -> Chunk:
        """The events as JSON, with the ids ``RUN-NUMBER``. Latencies are written in ms with three decimals, values
        with four significant decimals after the point (0.0001)."""
        heads = np.frombuffer(b"".join(self._texts), dtype=np.uint8)
        bounds = np.concatenate([[0], np.cumsum([len(text) for text in self._texts], dtype=np.int64)])
        middle = np.frombuffer(b',"id":' + _encode(run)[:-1] + b"-", dtype=np.uint8)
        longest = int(np.diff(bounds).max(initial=0)) + len(middle) + _REST_BYTES
        buffer = np.empty(len(columns) * longest, dtype=np.uint8)
        ends = np.empty(len(columns), dtype=np.int64)
        _write(
            buffer, ends, heads, bounds, middle, columns.head, columns.time_us, columns.status,
            columns.latency_us, columns.value, columns.user, columns.number,
        )  # fmt: skip
        return Chunk(columns.due_us, buffer[: ends[-1] if len(ends) else 0].tobytes(), ends)


_REST_BYTES: Final = 200
"""No event's fields are longer than this without head and run: ten names of at most 15 bytes and their digits, of which
the longest numbers have 20."""


def _ascii(text: str) -> Bytes:
    return np.frombuffer(text.encode(), dtype=np.uint8)


_TIME: Final = _ascii(',"time":"')
_STATUS: Final = _ascii(',"status":')
_LATENCY: Final = _ascii(',"latency_ms":')
_VALUE: Final = _ascii(',"value":')
_USER: Final = _ascii(',"user":"u')


@njit(cache=True)
def _text(buffer: Bytes, at: int, text: Bytes) -> int:
    for i in range(len(text)):
        buffer[at + i] = text[i]
    return at + len(text)


@njit(cache=True)
def _padded(buffer: Bytes, at: int, number: int, digits: int) -> int:
    """A whole number, not negative, with leading zeros."""
    rest = np.uint64(number)
    for i in range(digits):
        tenth = rest // np.uint64(10)
        buffer[at + digits - 1 - i] = np.uint8(np.uint64(48) + rest - tenth * np.uint64(10))
        rest = tenth
    return at + digits


@njit(cache=True)
def _number(buffer: Bytes, at: int, number: int) -> int:
    """A whole number, not negative."""
    digits, limit = 1, np.uint64(10)
    while digits < 19 and np.uint64(number) >= limit:
        digits, limit = digits + 1, limit * np.uint64(10)
    return _padded(buffer, at, number, digits)


@njit(cache=True)
def _second(buffer: Bytes, at: int, us: int) -> int:
    """RFC 3339 in UTC up to the whole second. The date: civil_from_days of Hinnant, "chrono-compatible low-level
    date algorithms"."""
    days, of_day = us // 86_400_000_000, us % 86_400_000_000
    shifted = days + 719_468
    era = shifted // 146_097
    of_era = shifted - era * 146_097
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    year += era * 400 + (1 if month <= 2 else 0)
    at = _padded(buffer, at, year, 4)
    buffer[at] = 45
    at = _padded(buffer, at + 1, month, 2)
    buffer[at] = 45
    at = _padded(buffer, at + 1, day, 2)
    buffer[at] = 84
    at = _padded(buffer, at + 1, of_day // 3_600_000_000, 2)
    buffer[at] = 58
    at = _padded(buffer, at + 1, of_day // 60_000_000 % 60, 2)
    buffer[at] = 58
    return _padded(buffer, at + 1, of_day // 1_000_000 % 60, 2)


@njit(cache=True, nogil=True)
def _write(
    buffer: Bytes,
    ends: Micros,
    heads: Bytes,
    bounds: Micros,
    middle: Bytes,
    head: Micros,
    time_us: Micros,
    status: Micros,
    latency_us: Micros,
    value: npt.NDArray[np.float64],
    user: Micros,
    number: Micros,
) -> None:
    """Each event's JSON object and a comma, one after the other; ``ends`` is filled."""
    at = 0
    second, written = np.int64(-1), 0
    for i in range(len(ends)):
        for j in range(bounds[head[i]], bounds[head[i] + 1]):
            buffer[at] = heads[j]
            at += 1
        at = _text(buffer, at, _TIME)
        if time_us[i] // 1_000_000 == second:  # as the event before: its text is copied
            for j in range(19):
                buffer[at + j] = buffer[written + j]
            written, at = at, at + 19
        else:
            second, written = time_us[i] // 1_000_000, at
            at = _second(buffer, at, time_us[i])
        buffer[at] = 46
        at = _padded(buffer, at + 1, time_us[i] % 1_000_000, 6)
        buffer[at] = 90
        buffer[at + 1] = 34
        at += 2
        if status[i] != NONE:
            at = _number(buffer, _text(buffer, at, _STATUS), int(status[i]))
        if latency_us[i] != NONE:
            at = _number(buffer, _text(buffer, at, _LATENCY), int(latency_us[i]) // 1000)
            buffer[at] = 46
            at = _padded(buffer, at + 1, int(latency_us[i]) % 1000, 3)
        if not np.isnan(value[i]):
            at = _text(buffer, at, _VALUE)
            if value[i] < 0:
                buffer[at] = 45
                at += 1
            tenths = np.int64(np.rint(abs(value[i]) * 10_000))
            at = _number(buffer, at, int(tenths) // 10_000)
            buffer[at] = 46
            at = _padded(buffer, at + 1, int(tenths) % 10_000, 4)
        if user[i] != NONE:
            at = _number(buffer, _text(buffer, at, _USER), int(user[i]))
            buffer[at] = 34
            at += 1
        at = _number(buffer, _text(buffer, at, middle), int(number[i]))
        buffer[at] = 34
        buffer[at + 1] = 125
        buffer[at + 2] = 44
        at += 3
        ends[i] = at
