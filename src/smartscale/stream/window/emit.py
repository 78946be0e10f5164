"""Merged aggregates to metric rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import numpy as np
import numpy.typing as npt

from smartscale.clock import MICROS
from smartscale.records import histogram
from smartscale.records.metrics import Histogram, MetricRow
from smartscale.stream.window.keys import Key
from smartscale.stream.window.merge import (
    COUNT,
    ERRORS,
    LATENCY_COUNT,
    LATENCY_MAX,
    LATENCY_SUM,
    MERGED,
    VALUE_COUNT,
    VALUE_MAX,
    VALUE_MIN,
    VALUE_SUM,
    Rows,
    quantiles_us,
)
from smartscale.stream.windows import Window

LEVELS = np.array([0.5, 0.9, 0.95, 0.99, 0.999])
"""The latency percentiles of a row."""

INCOMPLETE, COMPLETE, FINAL = range(3)
"""Stages of a window's life. ``revision = 3 * partials merged + stage`` rises with every change and never falls, and a
restart, which merges the same partials, derives the same numbers from the log."""


def rows(
    names: list[Key],
    wanted: npt.NDArray[np.int64],
    merged: Rows,
    window: Window,
    end_us: int,
    stage: int,
    watermark_us: int,
    with_histogram: bool,
) -> Iterator[MetricRow]:
    """A row for each wanted key (ascending numbers), in that order; count zero where ``merged`` has none.

    Rates are per second of the window's size. Latencies leave as milliseconds. A percentile is never above the greatest
    latency seen, nor below the least: the histogram's midpoint is held between them. Everything is computed by columns;
    rows are made one at a time, because a hundred thousand of them held at once cost more than making them."""
    size_s, start_us, label = window.size_us / MICROS, end_us - window.size_us, window.label
    final, complete = stage == FINAL, stage != INCOMPLETE
    at = np.searchsorted(merged.key, wanted)
    found = np.append(merged.key, -1)[at] == wanted
    at = at[found]
    has, count, timed, valued = found.tolist(), *merged.sums[[COUNT, LATENCY_COUNT, VALUE_COUNT]][:, at]
    percentile = np.clip(quantiles_us(merged, LEVELS), merged.latency[0][:, None], merged.latency[1][:, None])
    mean = merged.sums[LATENCY_SUM][at] / np.maximum(timed, 1)
    latencies = np.vstack([mean, percentile.T[:, at], merged.latency[LATENCY_MAX][at]]) / 1000
    columns = zip(
        count.tolist(),
        merged.sums[ERRORS][at].tolist(),
        (count / size_s).tolist(),
        (merged.sums[ERRORS][at] / np.maximum(count, 1)).tolist(),
        (merged.sums[MERGED][at] * 3 + stage).tolist(),
        timed.tolist(),
        *latencies.tolist(),
        valued.tolist(),
        *merged.value[[VALUE_SUM, VALUE_MIN, VALUE_MAX]][:, at].tolist(),
        _histograms(merged, at) if with_histogram else repeat(None),
        strict=False,
    )
    for number, is_there in zip(wanted.tolist(), has, strict=True):
        tenant, service, kind, name = names[number]
        if not is_there:
            yield MetricRow(
                tenant, service, kind, name, label, start_us, end_us, 0, 0, 0.0, 0.0, stage, final, complete, watermark_us
            )  # fmt: skip
            continue
        (
            n, errors, rate, share, revision, has_latency, mean_ms, p50, p90, p95, p99, p999, longest,
            has_value, total, least, most, filled,
        ) = next(columns)  # fmt: skip
        if not has_latency:
            mean_ms = p50 = p90 = p95 = p99 = p999 = longest = filled = None
        average = total / has_value if has_value else None
        if not has_value:
            total = least = most = None
        yield MetricRow(
            tenant, service, kind, name, label, start_us, end_us, n, errors, rate, share, revision, final, complete,
            watermark_us, mean_ms, p50, p90, p95, p99, p999, longest, has_value, total, average, least, most, filled,
        )  # fmt: skip


def _histograms(merged: Rows, at: npt.NDArray[np.int64]) -> Iterator[Histogram]:
    slots, counts = merged.slot.tolist(), merged.slot_count.tolist()
    for first, end in zip(merged.offsets[at].tolist(), merged.offsets[at + 1].tolist(), strict=True):
        yield Histogram(histogram.SCALE, slots[first:end], counts[first:end])
