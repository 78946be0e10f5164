"""Merged aggregates to metric rows."""

from __future__ import annotations

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
) -> list[MetricRow]:
    """A row for each wanted key (ascending numbers); count zero where ``merged`` has none.

    Rates are per second of the window's size. Latencies leave as milliseconds. A percentile is never above the greatest
    latency seen, nor below the least: the histogram's midpoint is held between them."""
    size_s, start_us, label = window.size_us / MICROS, end_us - window.size_us, window.label
    final, complete = stage == FINAL, stage != INCOMPLETE

    def silent(number: int) -> MetricRow:
        tenant, service, kind, name = names[number]
        return MetricRow(
            tenant,
            service,
            kind,
            name,
            label,
            start_us,
            end_us,
            0,
            0,
            0.0,
            0.0,
            stage,
            final,
            complete,
            watermark_us,
        )

    if not len(merged.key):
        return [silent(number) for number in wanted.tolist()]
    at = np.searchsorted(merged.key, wanted)
    at[at == len(merged.key)] = 0
    found = merged.key[at] == wanted
    count = merged.sums[COUNT]
    percentile = np.clip(quantiles_us(merged, LEVELS), merged.latency[0][:, None], merged.latency[1][:, None])
    mean = merged.sums[LATENCY_SUM] / np.maximum(merged.sums[LATENCY_COUNT], 1)
    latencies = np.column_stack([mean, percentile, merged.latency[LATENCY_MAX]]) / 1000
    columns = zip(
        wanted.tolist(),
        found.tolist(),
        at.tolist(),
        count[at].tolist(),
        merged.sums[ERRORS][at].tolist(),
        (count / size_s)[at].tolist(),
        (merged.sums[ERRORS] / np.maximum(count, 1))[at].tolist(),
        (merged.sums[MERGED] * 3 + stage)[at].tolist(),
        merged.sums[LATENCY_COUNT][at].tolist(),
        latencies[at].tolist(),
        merged.sums[VALUE_COUNT][at].tolist(),
        merged.value.T[at].tolist(),
        strict=True,
    )
    result = []
    for number, has, row, n, errors, rate, share, revision, timed, latency, valued, value in columns:
        if not has:
            result.append(silent(number))
            continue
        tenant, service, kind, name = names[number]
        mean_ms, p50, p90, p95, p99, p999, most = latency if timed else _UNTIMED
        result.append(
            MetricRow(
                tenant, service, kind, name, label, start_us, end_us, n, errors, rate, share, revision, final, complete,
                watermark_us, mean_ms, p50, p90, p95, p99, p999, most,
                valued,
                value[VALUE_SUM] if valued else None,
                value[VALUE_SUM] / valued if valued else None,
                value[VALUE_MIN] if valued else None,
                value[VALUE_MAX] if valued else None,
                _histogram(merged, row) if with_histogram and timed else None,
            )
        )  # fmt: skip
    return result


_UNTIMED = (None,) * 7


def _histogram(merged: Rows, row: int) -> Histogram:
    entries = slice(merged.offsets[row], merged.offsets[row + 1])
    return Histogram(histogram.SCALE, merged.slot[entries].tolist(), merged.slot_count[entries].tolist())
