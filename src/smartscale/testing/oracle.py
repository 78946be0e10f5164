"""What the windows must hold, by plain loops over the raw events: the one oracle of all tests.

Nothing here is shared with the pipeline: windows are found by division, services fit patterns by a loop over the rules,
percentiles are those of the sorted values, and histogram slots come from whole numbers (a latency v is in the first slot i
with v**16 <= 2**i, which is v <= 2**(i/16) without rounding).
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, NamedTuple, Protocol

from datasketches import compact_theta_sketch

from smartscale.clock import MICROS, iso
from smartscale.config import Windows
from smartscale.records.metrics import MetricRow
from smartscale.records.topics import ALL_NAMES


class Fact(Protocol):
    """What the oracle asks of an event, whoever made it."""

    @property
    def time_us(self) -> int: ...
    @property
    def service(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def is_error(self) -> bool: ...
    @property
    def latency_us(self) -> int | None: ...
    @property
    def value(self) -> float | None: ...
    @property
    def user(self) -> str | None: ...
    @property
    def attributes(self) -> Mapping[str, object] | None: ...


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
    user: str | None = None
    attributes: Mapping[str, object] | None = None

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
            "user": self.user,
            "attributes": self.attributes,
        }
        return {name: value for name, value in fields.items() if value is not None}


class Key(NamedTuple):
    """A row's identity; ``name`` is ``*`` on the roll-up."""

    service: str
    kind: str
    name: str
    window: str
    end_us: int
    group: str = ""

    def __str__(self) -> str:
        name = " ".join(part for part in (self.name or "-", self.group) if part)
        return f"{self.service} {self.kind} {name} {self.window} to {iso(self.end_us)}"


def row_key(row: MetricRow) -> Key:
    return Key(row.service, row.kind, row.name, row.window, row.end_us, row.group)


@dataclass(slots=True)
class Want:
    """What one window of one key must say."""

    count: int = 0
    errors: int = 0
    latencies: list[int] = field(default_factory=list)
    values: list[tuple[int, float]] = field(default_factory=list)
    """Event time and value."""
    users: set[str] = field(default_factory=set)

    def add(self, one: Fact) -> None:
        self.count += 1
        self.errors += one.is_error
        self.latencies += [] if one.latency_us is None else [one.latency_us]
        self.values += [] if one.value is None else [(one.time_us, one.value)]
        self.users |= set() if one.user is None else {one.user}

    @property
    def slots(self) -> Counter[int]:
        """Latencies by histogram slot."""
        return Counter(map(slot, self.latencies))


_LAST_SLOT: Final = 513
_BOUNDARIES: Final = [2**i for i in range(_LAST_SLOT)]
_RELATIVE_ERROR: Final = (2 ** (1 / 16) - 1) / (2 ** (1 / 16) + 1)
LEVELS: Final = (0.5, 0.9, 0.95, 0.99, 0.999)


def slot(latency_us: int) -> int:
    """The histogram slot of a latency, by whole numbers alone.

    >>> [slot(v) for v in (0, 1, 2, 1_000_000, 2**32, 2**32 + 1)]
    [0, 0, 16, 319, 512, 513]
    """
    return bisect_left(_BOUNDARIES, latency_us**16)


# Tumbling windows of events with ids, as a list of differences: for runs of real processes.


def expected(events: Iterable[Event], sizes_s: Iterable[float]) -> dict[Key, Want]:
    """The tumbling windows of these sizes, each distinct event id counted once, roll-ups included."""
    windows: dict[Key, Want] = {}
    sizes_us = [(f"{size:g}s", round(size * MICROS)) for size in sizes_s]
    for event in {event.id: event for event in events}.values():
        for (label, size_us), name in itertools.product(sizes_us, (event.name, ALL_NAMES)):
            end_us = (event.time_us // size_us + 1) * size_us
            windows.setdefault(Key(event.service, event.kind, name, label, end_us), Want()).add(event)
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
        key = row_key(row)
        if key in found.rows:
            found.problems.append(
                f"{key}: a {'final' if row.final else 'provisional'} row after the final one"
            )
        if row.final:
            found.rows[key] = row
    return found


def differences(wanted: dict[Key, Want], found: Found) -> list[str]:
    """Every way in which the final rows are not as wanted; empty if they are. A row of a window without events (its key
    is alive and silent) must count zero."""
    problems = list(found.problems)
    for key, want in wanted.items():
        row = found.rows.get(key)
        if row is None:
            problems.append(f"{key}: no final row, {want.count} events wanted")
        elif (row.count, row.errors) != (want.count, want.errors):
            problems.append(
                f"{key}: {row.count} events with {row.errors} errors, wanted {want.count} with {want.errors}"
            )
        elif row.histogram is not None:
            counted = dict(zip(row.histogram.slots, row.histogram.counts, strict=True))
            if counted != dict(want.slots):
                problems.append(f"{key}: histogram {counted}, wanted {dict(sorted(want.slots.items()))}")
        elif row.window == "60s" and want.slots:
            problems.append(f"{key}: no histogram")
    problems += [
        f"{key}: {row.count} events, wanted none"
        for key, row in found.rows.items()
        if row.count and key not in wanted
    ]
    return problems


# Every window under the settings, zeros of silent keys included: for tests that drive the stages.


def final_windows(events: Iterable[Fact], settings: Windows, until_us: int) -> dict[Key, Want]:
    """Every window that ends at or before ``until_us`` of every key that these events (each counted once) make alive:
    from a key's first pane until the time to live after its last, which is rounded up to a quarter of it."""
    ttl = round(settings.key_ttl_s * MICROS)
    of_key: dict[tuple[str, str, str, str], list[Fact]] = {}
    for one in events:
        group = _group(one, _rule(one.service, settings)[2])
        for name, its_group in ((one.name, group), (ALL_NAMES, "")):
            of_key.setdefault((one.service, one.kind, name, its_group), []).append(one)
    found: dict[Key, Want] = {}
    for (service, kind, name, group), its_events in of_key.items():
        tumbling, sliding, _ = _rule(service, settings)
        windows = [(size, size) for size in tumbling] + sliding
        pane = math.gcd(*itertools.chain(*windows))
        first = min(one.time_us for one in its_events) // pane * pane
        last = max(one.time_us for one in its_events) // pane * pane + pane
        until_alive = math.ceil(last / (ttl // 4)) * (ttl // 4) + ttl
        for size, slide in windows:
            label = f"{size / MICROS:g}s" if size == slide else f"{size / MICROS:g}s/{slide / MICROS:g}s"
            for end in _ends(size, slide, first, min(until_alive, until_us)):
                if end <= until_us:
                    found[Key(service, kind, name, label, end, group)] = Want()
            for one in its_events:
                for end in _ends(size, slide, one.time_us, one.time_us + 1):
                    if end <= until_us:
                        found[Key(service, kind, name, label, end, group)].add(one)
    return found


def _rule(service: str, settings: Windows) -> tuple[list[int], list[tuple[int, int]], list[str]]:
    """Tumbling sizes, sliding sizes and slides in microseconds, and the attributes grouped by."""
    tumbling, sliding, group_by = settings.tumbling_s, settings.sliding_s, settings.group_by
    for rule in settings.rules:
        if fnmatchcase(service, rule.services):
            tumbling = tumbling if rule.tumbling_s is None else rule.tumbling_s
            sliding = sliding if rule.sliding_s is None else rule.sliding_s
            group_by = group_by if rule.group_by is None else rule.group_by
            break
    pairs = [(round(size * MICROS), round(slide * MICROS)) for size, slide in sliding]
    return [round(size * MICROS) for size in tumbling], pairs, group_by


def _group(one: Fact, group_by: Sequence[str]) -> str:
    attributes = one.attributes or {}
    return ",".join(f"{name}={attributes.get(name, '')}" for name in group_by)


def _ends(size_us: int, slide_us: int, from_us: int, to_us: int) -> list[int]:
    """Ends of every window that shares an instant with [from, to)."""
    earliest = (from_us - size_us) // slide_us * slide_us
    return [start + size_us for start in range(earliest, to_us, slide_us) if start + size_us > from_us]


def check_row(row: MetricRow, want: Want, settings: Windows) -> None:
    """The row says what it must. Raises ``AssertionError``."""
    size_s = (row.end_us - row.start_us) / MICROS
    assert (row.count, row.errors) == (want.count, want.errors), (row, want)
    assert math.isclose(row.rate_per_s, want.count / size_s), row
    assert math.isclose(row.error_rate, want.errors / max(want.count, 1)), row
    _check_latency(row, want.latencies)
    _check_values(row, want.values)
    with_sketches = "/" not in row.window and size_s >= settings.histogram_from_s
    if with_sketches and want.latencies:
        assert row.histogram is not None, row
        assert dict(zip(row.histogram.slots, row.histogram.counts, strict=True)) == want.slots, row
        assert row.histogram.slots == sorted(want.slots), row
    else:
        assert row.histogram is None, row
    if with_sketches and want.values:
        assert row.value_histogram is not None, row
        assert sum(row.value_histogram.counts) == len(want.values), row
    users = len(want.users) if "users" in settings.aggregates else 0
    assert row.users == (users or None), (row, want)
    assert (row.users_sketch is not None) == bool(with_sketches and users), row
    if row.users_sketch is not None:
        assert compact_theta_sketch.deserialize(row.users_sketch).get_estimate() == users, row


def _check_latency(row: MetricRow, latencies: list[int]) -> None:
    percentiles = (
        row.latency_p50_ms,
        row.latency_p90_ms,
        row.latency_p95_ms,
        row.latency_p99_ms,
        row.latency_p999_ms,
    )
    if not latencies:
        assert (row.latency_mean_ms, row.latency_max_ms, *percentiles) == (None,) * 7, row
        return
    assert row.latency_mean_ms is not None
    assert math.isclose(row.latency_mean_ms * 1000, sum(latencies) / len(latencies)), row
    assert row.latency_max_ms == max(latencies) / 1000, row
    for level, percentile in zip(LEVELS, percentiles, strict=True):
        exact = _percentile(latencies, level)
        assert percentile is not None
        error_us = max(exact * _RELATIVE_ERROR, 1) * (1 + 1e-9)
        assert exact > 2**32 or abs(percentile * 1000 - exact) <= error_us, (row, exact)


def _check_values(row: MetricRow, timed: list[tuple[int, float]]) -> None:
    percentiles = row.value_p50, row.value_p90, row.value_p95, row.value_p99, row.value_p999
    assert row.value_count == len(timed), row
    if not timed:
        told = row.value_sum, row.value_mean, row.value_min, row.value_max, row.value_last, *percentiles
        assert told == (None,) * 10, row
        return
    values = [value for _, value in timed]
    assert row.value_sum is not None
    assert row.value_mean is not None
    assert math.isclose(row.value_sum, math.fsum(values), rel_tol=1e-9, abs_tol=1e-9), row
    assert math.isclose(row.value_mean * len(values), row.value_sum, abs_tol=1e-9), row
    assert (row.value_min, row.value_max) == (min(values), max(values)), row
    assert row.value_last == max(timed)[1], (row, timed)
    for level, percentile in zip(LEVELS, percentiles, strict=True):
        exact = _percentile(values, level)
        assert percentile is not None
        error = max(abs(exact) * _RELATIVE_ERROR, 2.0**-128) * (1 + 1e-9)
        assert abs(exact) > 2.0**128 or abs(percentile - exact) <= error, (row, exact)


def _percentile(values: Sequence[float], level: float) -> float:
    return sorted(values)[max(math.ceil(level * len(values)), 1) - 1]


def check_finals(rows: Sequence[MetricRow], expected: dict[Key, Want], settings: Windows) -> None:
    """The final rows are exactly those expected, each once, each right. Raises ``AssertionError``."""
    finals = [row for row in rows if row.final]
    found = {row_key(row): row for row in finals}
    twice = [key for key, n in Counter(map(row_key, finals)).items() if n > 1]
    assert not twice, f"final twice: {twice[:5]}"
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    assert not missing, f"{len(missing)} final rows missing: {sorted(missing)[:5]}"
    assert not extra, f"{len(extra)} final rows too many: {sorted(extra)[:5]}"
    for key, row in found.items():
        assert row.complete, row
        check_row(row, expected[key], settings)


def check_revisions(rows: Iterable[MetricRow]) -> None:
    """Revisions of a row only grow, and nothing follows its final one. Raises ``AssertionError``."""
    latest: dict[Key, MetricRow] = {}
    for row in rows:
        before = latest.get(row_key(row))
        assert before is None or not before.final, (before, row)
        assert before is None or row.revision > before.revision, (before, row)
        assert before is None or row.complete >= before.complete, (before, row)
        latest[row_key(row)] = row
