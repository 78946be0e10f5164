"""What the final tumbling windows must hold, worked out in plain Python from a list of events.

Nothing here is shared with the pipeline: windows are found by division, errors by the documented rule, and histogram
slots by whole numbers (a latency v is in the first slot i with v**16 <= 2**i, which is v <= 2**(i/16) without rounding).
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from smartscale.clock import MICROS, iso
from smartscale.records.metrics import MetricRow


class Event(NamedTuple):
    """An event as its sender knows it. ``time_us`` is event time, ``latency_us`` whole microseconds."""

    id: str
    time_us: int
    service: str
    kind: str = "interaction"
    name: str = ""
    status: int | None = None
    severity: str | None = None
    latency_us: int | None = None
    value: float | None = None

    @property
    def is_error(self) -> bool:
        """A status of 500 or more, or a severity of error or worse (design, section 2)."""
        return (self.status or 0) >= 500 or self.severity in ("error", "critical", "fatal")

    def to_json(self) -> dict[str, object]:
        """The event as the edge takes it."""
        fields: dict[str, object] = {
            "id": self.id,
            "time": iso(self.time_us),
            "service": self.service,
            "kind": self.kind,
            "name": self.name,
            "status": self.status,
            "severity": self.severity,
            "latency_ms": None if self.latency_us is None else self.latency_us / 1000,
            "value": self.value,
        }
        return {name: value for name, value in fields.items() if value is not None}


class Key(NamedTuple):
    """A row's identity; ``name`` is ``*`` on the roll-up."""

    service: str
    kind: str
    name: str
    window: str
    end_us: int

    def __str__(self) -> str:
        return f"{self.service} {self.kind} {self.name or '-'} {self.window} to {iso(self.end_us)}"


@dataclass(slots=True)
class Totals:
    """What a window holds. ``slots`` counts latencies by histogram slot."""

    count: int = 0
    errors: int = 0
    slots: Counter[int] = field(default_factory=Counter)


_LAST_SLOT: Final = 513
_BOUNDARIES: Final = [2**i for i in range(_LAST_SLOT)]


def slot(latency_us: int) -> int:
    """The histogram slot of a latency, by whole numbers alone.

    >>> [slot(v) for v in (0, 1, 2, 1_000_000, 2**32, 2**32 + 1)]
    [0, 0, 16, 319, 512, 513]
    """
    return bisect_left(_BOUNDARIES, latency_us**16)


def expected(events: Iterable[Event], sizes_s: Iterable[float]) -> dict[Key, Totals]:
    """The tumbling windows of these sizes, each distinct event id counted once, roll-ups included."""
    windows: dict[Key, Totals] = {}
    sizes_us = [(f"{size:g}s", round(size * MICROS)) for size in sizes_s]
    for event in {event.id: event for event in events}.values():
        for (label, size_us), name in itertools.product(sizes_us, (event.name, "*")):
            end_us = (event.time_us // size_us + 1) * size_us
            totals = windows.setdefault(Key(event.service, event.kind, name, label, end_us), Totals())
            totals.count += 1
            totals.errors += event.is_error
            if event.latency_us is not None:
                totals.slots[slot(event.latency_us)] += 1
    return windows


@dataclass(slots=True)
class Found:
    """The final tumbling rows of a run, and whatever was said about a window after or beside its final row."""

    rows: dict[Key, MetricRow] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def finals(rows: Iterable[MetricRow]) -> Found:
    """The final rows of tumbling windows, from all rows in the order of the log. A window is final once, in the row of
    its highest revision, and nothing follows."""
    found = Found()
    for row in rows:
        if "/" in row.window:
            continue
        key = Key(row.service, row.kind, row.name, row.window, row.end_us)
        if key in found.rows:
            found.problems.append(
                f"{key}: a {'final' if row.final else 'provisional'} row after the final one"
            )
        if row.final:
            found.rows[key] = row
    return found


def differences(wanted: dict[Key, Totals], found: Found) -> list[str]:
    """Every way in which the final rows are not as wanted; empty if they are. A row of a window without events (its key
    is alive and silent) must count zero."""
    problems = list(found.problems)
    for key, totals in wanted.items():
        row = found.rows.get(key)
        if row is None:
            problems.append(f"{key}: no final row, {totals.count} events wanted")
        elif (row.count, row.errors) != (totals.count, totals.errors):
            problems.append(
                f"{key}: {row.count} events with {row.errors} errors, wanted {totals.count} with {totals.errors}"
            )
        elif row.histogram is not None:
            counted = dict(zip(row.histogram.slots, row.histogram.counts, strict=True))
            if counted != dict(totals.slots):
                problems.append(f"{key}: histogram {counted}, wanted {dict(sorted(totals.slots.items()))}")
        elif row.window == "60s" and totals.slots:
            problems.append(f"{key}: no histogram")
    problems += [
        f"{key}: {row.count} events, wanted none"
        for key, row in found.rows.items()
        if row.count and key not in wanted
    ]
    return problems
