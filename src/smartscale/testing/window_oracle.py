"""What the windows must hold, by plain loops over the raw events: the oracle of the stream processor's tests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from smartscale.clock import MICROS
from smartscale.config import Windows
from smartscale.records import histogram, topics
from smartscale.records.metrics import MetricRow
from smartscale.stream.windows import Window, pane_us, windows_of
from smartscale.testing.pipeline import Sent

RowKey = tuple[str, str, str, str, int]
"""(service, kind, name, window, end)."""


@dataclass(slots=True)
class Want:
    """What one window of one key must say."""

    count: int = 0
    errors: int = 0
    latencies: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, one: Sent) -> None:
        self.count += 1
        self.errors += one.error
        self.latencies += [] if one.latency_us is None else [one.latency_us]
        self.values += [] if one.value is None else [one.value]


def row_key(row: MetricRow) -> RowKey:
    return row.service, row.kind, row.name, row.window, row.end_us


def final_windows(sent: Iterable[Sent], settings: Windows, until_us: int) -> dict[RowKey, Want]:
    """Every window that ends at or before ``until_us`` of every key that these events (each counted once) make alive:
    from a key's first pane until the time to live after its last, which is rounded up to a quarter of it."""
    kinds = windows_of(settings.tumbling_s, settings.sliding_s)
    pane = pane_us(kinds)
    ttl = round(settings.key_ttl_s * MICROS)
    of_key: dict[tuple[str, str, str], list[Sent]] = {}
    for one in sent:
        kind = topics.METRIC if one.value is not None else topics.INTERACTION
        for name in (one.name, topics.ALL_NAMES):
            of_key.setdefault((one.service, kind, name), []).append(one)
    found: dict[RowKey, Want] = {}
    for key, events in of_key.items():
        first = min(one.time_us for one in events) // pane * pane
        last = max(one.time_us for one in events) // pane * pane + pane
        until_alive = math.ceil(last / (ttl // 4)) * (ttl // 4) + ttl
        for window in kinds:
            for end in _ends(window, first, min(until_alive, until_us)):
                if end <= until_us:
                    found[*key, window.label, end] = Want()
            for one in events:
                for end in _ends(window, one.time_us, one.time_us + 1):
                    if end <= until_us:
                        found[*key, window.label, end].add(one)
    return found


def _ends(window: Window, from_us: int, to_us: int) -> list[int]:
    """Ends of every window that shares an instant with [from, to)."""
    earliest = (from_us - window.size_us) // window.slide_us * window.slide_us
    starts = range(earliest, to_us, window.slide_us)
    return [start + window.size_us for start in starts if start + window.size_us > from_us]


def check_row(row: MetricRow, want: Want, settings: Windows) -> None:
    """The row says what it must. Raises ``AssertionError``."""
    size_s = (row.end_us - row.start_us) / MICROS
    assert (row.count, row.errors) == (want.count, want.errors), (row, want)
    assert math.isclose(row.rate_per_s, want.count / size_s), row
    assert math.isclose(row.error_rate, want.errors / max(want.count, 1)), row
    _check_latency(row, want.latencies)
    assert row.value_count == len(want.values), row
    if want.values:
        assert row.value_sum is not None
        assert row.value_mean is not None
        assert math.isclose(row.value_sum, math.fsum(want.values), rel_tol=1e-9, abs_tol=1e-9), row
        assert math.isclose(row.value_mean * len(want.values), row.value_sum, abs_tol=1e-9), row
        assert (row.value_min, row.value_max) == (min(want.values), max(want.values)), row
    tumbling = "/" not in row.window
    slots = Counter(histogram.slots(np.array(want.latencies, np.int64)).tolist())
    if tumbling and size_s >= settings.histogram_from_s and slots:
        assert row.histogram is not None, row
        assert dict(zip(row.histogram.slots, row.histogram.counts, strict=True)) == slots, row
        assert row.histogram.slots == sorted(slots), row
    else:
        assert row.histogram is None, row


def _check_latency(row: MetricRow, latencies: list[int]) -> None:
    levels = (0.5, 0.9, 0.95, 0.99, 0.999)
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
    ordered = sorted(latencies)
    for level, percentile in zip(levels, percentiles, strict=True):
        exact = ordered[max(math.ceil(level * len(ordered)), 1) - 1]
        assert percentile is not None
        error_us = max(exact * histogram.RELATIVE_ERROR, 1) * (1 + 1e-9)
        assert exact > 2**32 or abs(percentile * 1000 - exact) <= error_us, (row, exact)


def check_finals(rows: Sequence[MetricRow], expected: dict[RowKey, Want], settings: Windows) -> None:
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
    latest: dict[RowKey, MetricRow] = {}
    for row in rows:
        before = latest.get(row_key(row))
        assert before is None or not before.final, (before, row)
        assert before is None or row.revision > before.revision, (before, row)
        assert before is None or row.complete >= before.complete, (before, row)
        latest[row_key(row)] = row
