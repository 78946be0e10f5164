"""Longer windows from the log: rows of ``metrics`` that carry their histograms, merged.

Histograms merge exactly, so the percentiles of a day are those of one histogram of the whole day: within
``records.histogram.RELATIVE_ERROR`` (2.17 %) of the exact ones, however many rows went in (averaged percentiles have no such
bound). Distinct users merge likewise, within the error of one sketch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import msgspec
import numpy as np
from datasketches import compact_theta_sketch

from smartscale import app
from smartscale.clock import MICROS
from smartscale.config import Settings
from smartscale.errors import UserError
from smartscale.log.partitioner import service_key, service_partition
from smartscale.log.port import Log, TopicPartition, read_all
from smartscale.records import histogram, metrics, schema, topics, value_histogram
from smartscale.records.metrics import Histogram, MetricRow
from smartscale.stream.aggregates import histograms, users
from smartscale.stream.aggregates.latency import LEVELS
from smartscale.stream.columns import Lists
from smartscale.stream.windows import Families, Window

_NAMES = ("p50", "p90", "p95", "p99", "p999")


class Merged(msgspec.Struct, frozen=True, omit_defaults=True):
    """One long window ``[start_us, end_us)`` of one key. Percentiles by ``p50`` … ``p999``.

    ``rows`` windows with events were merged; ``final`` and ``complete`` are True if all of them are. ``reached``: the
    watermark has passed the end. ``users_low`` and ``users_high`` bound the distinct users with 95 % confidence."""

    tenant: str
    service: str
    kind: str
    name: str
    group: str
    start_us: int
    end_us: int
    rows: int
    count: int
    errors: int
    rate_per_s: float
    error_rate: float
    final: bool
    complete: bool
    reached: bool
    latency_count: int = 0
    latency_mean_ms: float | None = None
    latency_max_ms: float | None = None
    latency_ms: dict[str, float] | None = None
    value_count: int = 0
    value_sum: float | None = None
    value_mean: float | None = None
    value_min: float | None = None
    value_max: float | None = None
    value_last: float | None = None
    value: dict[str, float] | None = None
    users: float | None = None
    users_low: float | None = None
    users_high: float | None = None
    relative_error: float = histogram.RELATIVE_ERROR
    """Of every percentile, at most."""


def merged(
    log: Log,
    settings: Settings,
    service: str,
    from_us: int,
    to_us: int,
    *,
    tenant: str = topics.DEFAULT_TENANT,
    kind: str = topics.INTERACTION,
    name: str = topics.ALL_NAMES,
    group: str = "",
) -> Merged:
    """The window from ``from_us`` to ``to_us``, each moved outwards to the next end of a row, merged from the log.

    Reads the service's partition of ``metrics`` from ``from_us`` on (under a scaled clock, all of it). A range that begins
    before what the log still has is not complete. Raises ``UserError`` if the range is empty or the settings let no row
    carry histograms."""
    window = mergeable(settings, service)
    start_us = from_us // window.size_us * window.size_us
    end_us = -(-to_us // window.size_us) * window.size_us
    if end_us <= start_us:
        raise UserError("the range is empty: give a --from before --to")
    at = TopicPartition(
        topics.METRICS,
        service_partition(tenant, service, log.topics()[topics.METRICS].partitions),
    )
    begin = log.bounds([at])[at].begin
    scaled = app.read_anchor(log) is not None
    first = begin if scaled else log.offset_at(at, start_us // 1000)
    key = service_key(tenant, service)
    wanted = (tenant, service, kind, name, group, window.label)
    latest: dict[int, MetricRow] = {}
    progress: metrics.Progress | None = None
    for record in read_all(log, at, first):
        what = schema.schema_of(record.headers)
        if what == schema.PROGRESS:
            progress = metrics.decode_progress(record.value)
        elif what == schema.METRIC and record.key == key:
            row = metrics.decode_row(record.value)
            identity = (row.tenant, row.service, row.kind, row.name, row.group, row.window)
            if identity == wanted and start_us < row.end_us <= end_us:
                latest[row.end_us] = row
    found = merge(wanted[:5], start_us, end_us, latest.values())
    return msgspec.structs.replace(
        found,
        reached=progress is not None and progress.watermark_us >= end_us,
        final=found.final and progress is not None and progress.closed_us >= end_us,
        complete=found.complete and (begin == 0 or first > begin),
    )


def mergeable(settings: Settings, service: str) -> Window:
    """The shortest tumbling window of the service whose rows carry histograms. Raises ``UserError`` if there is none."""
    families = Families(settings.windows)
    for window in families[families.of(service)].windows:
        if window.tumbling and window.size_us >= settings.windows.histogram_from_s * MICROS:
            return window
    raise UserError(
        f"no rows of {service!r} carry histograms: give it a tumbling window of at least windows.histogram_from_s "
        f"({settings.windows.histogram_from_s:g} s), or lower that"
    )


def merge(key: tuple[str, ...], start_us: int, end_us: int, rows: Iterable[MetricRow]) -> Merged:
    """Rows of one key that do not overlap, as one window."""
    tenant, service, kind, name, group = key
    held = sorted((row for row in rows if row.count), key=lambda row: row.end_us)
    count, errors = sum(row.count for row in held), sum(row.errors for row in held)
    timed = [row for row in held if row.histogram is not None]
    valued = [row for row in held if row.value_count]
    latencies = _joined(row.histogram for row in timed)
    latency_max = max((row.latency_max_ms or 0.0 for row in timed), default=math.inf)
    latency_ms = _percentiles(latencies, histogram.MIDPOINT_US / 1000, 0.0, latency_max)
    in_all = [(sum(row.histogram.counts), row.latency_mean_ms or 0.0) for row in timed if row.histogram]
    latency_count = sum(n for n, _ in in_all)
    value_count = sum(row.value_count for row in valued)
    least = min((row.value_min for row in valued if row.value_min is not None), default=None)
    most = max((row.value_max for row in valued if row.value_max is not None), default=None)
    sums = math.fsum(row.value_sum for row in valued if row.value_sum is not None)
    values = _joined(row.value_histogram for row in valued)
    told = sum(values.values()) == value_count and least is not None and most is not None
    people = _people(row.users_sketch for row in held)
    return Merged(
        tenant=tenant,
        service=service,
        kind=kind,
        name=name,
        group=group,
        start_us=start_us,
        end_us=end_us,
        rows=len(held),
        count=count,
        errors=errors,
        rate_per_s=count * MICROS / (end_us - start_us),
        error_rate=errors / max(count, 1),
        final=all(row.final for row in held),
        complete=all(row.complete for row in held),
        reached=True,
        latency_count=latency_count,
        latency_mean_ms=math.fsum(n * mean for n, mean in in_all) / latency_count if latency_count else None,
        latency_max_ms=latency_max if timed else None,
        latency_ms=latency_ms,
        value_count=value_count,
        value_sum=sums if valued else None,
        value_mean=sums / value_count if valued else None,
        value_min=least,
        value_max=most,
        value_last=valued[-1].value_last if valued else None,
        value=_percentiles(values, value_histogram.MIDPOINT, least or 0.0, most or 0.0) if told else None,
        users=people and people.get_estimate(),
        users_low=people and people.get_lower_bound(2),
        users_high=people and people.get_upper_bound(2),
    )


def _joined(found: Iterable[Histogram | None]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for one in found:
        if one is not None:
            counts.update(dict(zip(one.slots, one.counts, strict=True)))
    return counts


def _percentiles(
    counts: Counter[int], middle: np.ndarray, least: float, most: float
) -> dict[str, float] | None:
    if not counts:
        return None
    slots = sorted(counts)
    ends = np.array([0, len(slots)])
    held = Lists(ends, np.array(slots, np.int16)), Lists(ends, np.array([counts[s] for s in slots], np.int64))
    found = np.clip(histograms.quantiles(*held, LEVELS, middle)[0], least, most)
    return dict(zip(_NAMES, found.tolist(), strict=True))


def _people(sketches: Iterable[bytes | None]) -> compact_theta_sketch | None:
    held = [users.deserialized(sketch) for sketch in sketches if sketch is not None]
    if not held:
        return None
    return compact_theta_sketch.deserialize(users.serialized(np.unique(np.concatenate(held))[: users.K + 1]))
