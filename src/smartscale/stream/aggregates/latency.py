"""Latencies: mean, maximum and percentiles, from an exponential histogram that merges exactly (``records.histogram``)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numba import njit

from smartscale.records import histogram
from smartscale.stream.aggregates import histograms
from smartscale.stream.aggregates.protocol import Aggregation, Events, Groups
from smartscale.stream.columns import Array, Ints, State, empty_lists

LEVELS = np.array([0.5, 0.9, 0.95, 0.99, 0.999])
"""The percentiles of a row, of latencies and of values."""


@njit(cache=True, nogil=True)
def _add(group: Groups, latency: Ints, count: Ints, total: Ints, least: Ints, most: Ints) -> None:
    for i in range(len(group)):
        g = group[i]
        if g < 0 or latency[i] < 0:
            continue
        if count[g] == 0 or latency[i] < least[g]:
            least[g] = latency[i]
        if latency[i] > most[g]:
            most[g] = latency[i]
        count[g] += 1
        total[g] += latency[i]


@njit(cache=True, nogil=True)
def _merge(
    group: Groups,
    count: Ints,
    total: Ints,
    least: Ints,
    most: Ints,
    out_count: Ints,
    out_total: Ints,
    out_least: Ints,
    out_most: Ints,
) -> None:
    for i in range(len(group)):
        if count[i] == 0:
            continue
        g = group[i]
        if out_count[g] == 0 or least[i] < out_least[g]:
            out_least[g] = least[i]
        out_most[g] = max(out_most[g], most[i])
        out_count[g] += count[i]
        out_total[g] += total[i]


_NUMBERS = ("latency_count", "latency_sum", "latency_min", "latency_max")


class Latency(Aggregation):
    """Sums are whole microseconds and exact; a percentile is off by at most ``histogram.RELATIVE_ERROR`` (2.17 %) and lies
    between the least and the greatest latency seen."""

    name = "latency"
    reads = ("latency",)
    needs_no_gaps: ClassVar[bool] = False

    def zero(self, n: int) -> State:
        return {
            **{name: np.zeros(n, np.int64) for name in _NUMBERS},
            "slots": empty_lists(n, np.int16),
            "slot_counts": empty_lists(n, np.int64),
        }

    def add(self, state: State, group: Groups, events: Events) -> None:
        if not events.has("latency"):
            return
        latency = events.latency
        _add(group, latency, *(state[name] for name in _NUMBERS))
        slots = histogram.slots(latency)
        slots[latency < 0] = -1
        n = len(state["slots"])
        state["slots"], state["slot_counts"] = histograms.fill(group, slots, n, histogram.SLOTS)

    def merge(self, state: State, group: Groups, other: State) -> None:
        _merge(group, *(other[name] for name in _NUMBERS), *(state[name] for name in _NUMBERS))
        state["slots"], state["slot_counts"] = histograms.merge(
            group,
            other["slots"],
            other["slot_counts"],
            len(state["slots"]),
            histogram.SLOTS,
        )

    def result(self, state: State, _size_s: float, /) -> dict[str, Array]:
        count, total, least, most = (state[name] for name in _NUMBERS)
        found = histograms.quantiles(state["slots"], state["slot_counts"], LEVELS, histogram.MIDPOINT_US)
        percentile = np.clip(found, least[:, None], most[:, None]) / 1000
        none = count == 0
        return {
            "latency_mean_ms": _unless(none, np.divide(total, np.maximum(count, 1)) / 1000),
            "latency_p50_ms": percentile[:, 0],
            "latency_p90_ms": percentile[:, 1],
            "latency_p95_ms": percentile[:, 2],
            "latency_p99_ms": percentile[:, 3],
            "latency_p999_ms": percentile[:, 4],
            "latency_max_ms": _unless(none, np.divide(most, 1000)),
        }


def _unless(none: Array, values: Array) -> Array:
    return np.where(none, np.nan, values)
