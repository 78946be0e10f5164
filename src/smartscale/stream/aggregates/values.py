"""Values of metric events: last, sum, mean, least, greatest and percentiles.

- **last** is the value of the greatest event time; of several at that time, the greatest value (so it depends on no order).
- **percentiles** come from an exponential histogram with sign (``records.value_histogram``), which merges exactly.
- Sums are float64, added in any order: they agree to 1e-9 of the sum of magnitudes.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.records import value_histogram
from smartscale.stream.aggregates import histograms
from smartscale.stream.aggregates.latency import LEVELS
from smartscale.stream.aggregates.protocol import Aggregation, Events, Groups
from smartscale.stream.columns import Array, Floats, Ints, State, empty_lists

_NEVER = np.iinfo(np.int64).min


@njit(cache=True, nogil=True)
def _merge(
    group: Groups,
    count: Ints,
    total: Floats,
    least: Floats,
    most: Floats,
    last_us: Ints,
    last: Floats,
    out_count: Ints,
    out_total: Floats,
    out_least: Floats,
    out_most: Floats,
    out_last_us: Ints,
    out_last: Floats,
) -> None:
    for i in range(len(group)):
        g = group[i]
        if g < 0 or count[i] == 0:
            continue
        if out_count[g] == 0 or least[i] < out_least[g]:
            out_least[g] = least[i]
        if out_count[g] == 0 or most[i] > out_most[g]:
            out_most[g] = most[i]
        newer = last_us[i] > out_last_us[g]
        if newer or (last_us[i] == out_last_us[g] and not last[i] <= out_last[g]):
            out_last_us[g] = last_us[i]
            out_last[g] = last[i]
        out_count[g] += count[i]
        out_total[g] += total[i]


_NUMBERS = ("value_count", "value_sum", "value_min", "value_max", "value_last_us", "value_last")


class Values(Aggregation):
    """Least, greatest and last are NaN where there is no value."""

    name = "values"
    reads = ("value",)
    needs_no_gaps: ClassVar[bool] = False

    def zero(self, n: int) -> State:
        return {
            "value_count": np.zeros(n, np.int64),
            "value_sum": np.zeros(n),
            "value_min": np.full(n, np.nan),
            "value_max": np.full(n, np.nan),
            "value_last_us": np.full(n, _NEVER),
            "value_last": np.full(n, np.nan),
            "value_slots": empty_lists(n, np.int16),
            "value_slot_counts": empty_lists(n, np.int64),
        }

    def add(self, state: State, group: Groups, events: Events) -> None:
        if not events.has("value"):
            return
        value = events.value
        there = ~np.isnan(value)
        # An event is a row of one: its value is sum, least, greatest and last.
        _merge(
            group,
            there.astype(np.int64),
            value,
            value,
            value,
            events.time,
            value,
            *(state[name] for name in _NUMBERS),
        )
        slots: npt.NDArray[np.int16] = np.where(there, value_histogram.slots(value), np.int16(-1))
        n = len(state["value_slots"])
        state["value_slots"], state["value_slot_counts"] = histograms.fill(
            group, slots, n, value_histogram.SLOTS
        )

    def merge(self, state: State, group: Groups, other: State) -> None:
        if not other["value_count"].any():
            return
        _merge(group, *(other[name] for name in _NUMBERS), *(state[name] for name in _NUMBERS))
        state["value_slots"], state["value_slot_counts"] = histograms.merge(
            group,
            other["value_slots"],
            other["value_slot_counts"],
            len(state["value_slots"]),
            value_histogram.SLOTS,
        )

    def result(self, state: State, _size_s: float, /) -> dict[str, Array]:
        count, total, least, most, _, last = (state[name] for name in _NUMBERS)
        if not count.any():
            nothing = np.full(len(count), np.nan)
            return {"value_count": count, **dict.fromkeys(_FIELDS, nothing)}
        slots, counts = state["value_slots"], state["value_slot_counts"]
        found = histograms.quantiles(slots, counts, LEVELS, value_histogram.MIDPOINT)
        percentile = np.clip(found, least[:, None], most[:, None])
        # Partials of a version before have no histogram: then percentiles would speak for a part of the values only.
        told = np.diff(np.append(0, np.cumsum(counts.values))[counts.offsets])
        percentile[told != count] = np.nan
        sums = np.where(count == 0, np.nan, total)
        fields = (sums, sums / np.maximum(count, 1), least, most, last, *percentile.T)
        return {"value_count": count, **dict(zip(_FIELDS, fields, strict=True))}


_FIELDS = (
    "value_sum", "value_mean", "value_min", "value_max", "value_last",
    "value_p50", "value_p90", "value_p95", "value_p99", "value_p999",
)  # fmt: skip
