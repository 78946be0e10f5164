"""Merging partials: exact, commutative, in compiled code.

``Rows`` holds aggregates of some keys as arrays, each row with its latency histogram in compressed sparse row form:
row r has the filled slots ``slot[offsets[r]:offsets[r + 1]]``. Keys are small dense numbers (see ``keys``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.records import histogram

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

COUNT, ERRORS, LATENCY_COUNT, LATENCY_SUM, VALUE_COUNT, MERGED = range(6)
"""Rows of ``Rows.sums``. ``MERGED`` counts the partials merged into the row: it only grows, and says how often a result
has been revised."""
LATENCY_MIN, LATENCY_MAX = range(2)
VALUE_SUM, VALUE_MIN, VALUE_MAX = range(3)


@dataclass(frozen=True, slots=True)
class Rows:
    """Aggregates of n (key) rows with m filled histogram slots in all."""

    key: npt.NDArray[np.int64]  # (n,)
    sums: Ints  # (6, n)
    latency: Ints  # (2, n): min and max in us, meaningless where LATENCY_COUNT is 0
    value: Floats  # (3, n): sum, min, max; the latter two meaningless where VALUE_COUNT is 0
    offsets: Ints  # (n + 1,)
    slot: npt.NDArray[np.int16]  # (m,)
    slot_count: Ints  # (m,)

    def relabelled(self, key: npt.NDArray[np.int64]) -> Rows:
        """The same aggregates under other keys (of a roll-up, say); keys may repeat."""
        return Rows(key, self.sums, self.latency, self.value, self.offsets, self.slot, self.slot_count)

    def chosen(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Only these rows, in this order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        entries = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Rows(
            self.key[rows],
            self.sums[:, rows],
            self.latency[:, rows],
            self.value[:, rows],
            offsets,
            self.slot[entries],
            self.slot_count[entries],
        )


@njit(cache=True, nogil=True)
def _add(
    rank: Ints,
    sums: Ints,
    latency: Ints,
    value: Floats,
    out_sums: Ints,
    out_latency: Ints,
    out_value: Floats,
) -> None:
    for i in range(len(rank)):
        r = rank[i]
        if sums[LATENCY_COUNT, i] > 0:
            if out_sums[LATENCY_COUNT, r] == 0 or latency[0, i] < out_latency[0, r]:
                out_latency[0, r] = latency[0, i]
            if out_sums[LATENCY_COUNT, r] == 0 or latency[1, i] > out_latency[1, r]:
                out_latency[1, r] = latency[1, i]
        if sums[VALUE_COUNT, i] > 0:
            if out_sums[VALUE_COUNT, r] == 0 or value[1, i] < out_value[1, r]:
                out_value[1, r] = value[1, i]
            if out_sums[VALUE_COUNT, r] == 0 or value[2, i] > out_value[2, r]:
                out_value[2, r] = value[2, i]
            out_value[0, r] += value[0, i]
        for c in range(out_sums.shape[0]):
            out_sums[c, r] += sums[c, i]


@njit(cache=True, nogil=True)
def _merge_histograms(
    rank: Ints,
    offsets: Ints,
    slot: npt.NDArray[np.int16],
    count: Ints,
    groups: int,
    out_offsets: Ints,
    out_slot: npt.NDArray[np.int16],
    out_count: Ints,
    slots: int,
) -> int:
    """Counting sort of the rows by rank, then one dense histogram at a time; slots come out ascending."""
    start = np.zeros(groups + 1, np.int64)
    for i in range(len(rank)):
        start[rank[i] + 1] += 1
    for g in range(groups):
        start[g + 1] += start[g]
    place = start[:groups].copy()
    order = np.empty(len(rank), np.int64)
    for i in range(len(rank)):
        order[place[rank[i]]] = i
        place[rank[i]] += 1
    dense = np.zeros(slots, np.int64)
    filled = 0
    for g in range(groups):
        out_offsets[g] = filled
        low, high = slots, -1
        for at in range(start[g], start[g + 1]):
            i = order[at]
            for e in range(offsets[i], offsets[i + 1]):
                dense[slot[e]] += count[e]
                low = min(low, slot[e])
                high = max(high, slot[e])
        for s in range(low, high + 1):
            if dense[s] > 0:
                out_slot[filled] = s
                out_count[filled] = dense[s]
                dense[s] = 0
                filled += 1
    out_offsets[groups] = filled
    return filled


@njit(cache=True, nogil=True)
def _quantiles(
    offsets: Ints, slot: npt.NDArray[np.int16], count: Ints, levels: Floats, mid: Floats, out: Floats
) -> None:
    for r in range(len(offsets) - 1):
        total = 0
        for e in range(offsets[r], offsets[r + 1]):
            total += count[e]
        if total == 0:
            continue
        e, seen = offsets[r] - 1, 0
        for q in range(len(levels)):
            rank = max(np.ceil(levels[q] * total), 1.0)
            while seen < rank:
                e += 1
                seen += count[e]
            out[r, q] = mid[slot[e]]


def merge(parts: Sequence[Rows], keys: int) -> Rows:
    """One row per key that occurs, ascending by key; ``keys`` is above every key. Order of parts does not matter
    (but for the last bits of float sums)."""
    key = np.concatenate([part.key for part in parts])
    present = np.zeros(keys, np.bool_)
    present[key] = True
    rank = (np.cumsum(present) - 1)[key]
    groups = int(np.count_nonzero(present))
    sums = np.zeros((6, groups), np.int64)
    latency = np.zeros((2, groups), np.int64)
    value = np.zeros((3, groups), np.float64)
    start = 0
    for part in parts:
        part_rank = rank[start : start + len(part.key)]
        _add(part_rank, part.sums, part.latency, part.value, sums, latency, value)
        start += len(part.key)
    shifts = np.cumsum([0, *(len(part.slot) for part in parts)])
    offsets = np.concatenate(
        [part.offsets[:-1] + shift for part, shift in zip(parts, shifts, strict=False)] + [shifts[-1:]]
    )
    slot = np.concatenate([part.slot for part in parts])
    count = np.concatenate([part.slot_count for part in parts])
    out_offsets = np.zeros(groups + 1, np.int64)
    out_slot, out_count = np.empty_like(slot), np.empty_like(count)
    filled = _merge_histograms(
        rank, offsets, slot, count, groups, out_offsets, out_slot, out_count, histogram.SLOTS
    )
    return Rows(
        np.flatnonzero(present), sums, latency, value, out_offsets, out_slot[:filled], out_count[:filled]
    )


def quantiles_us(rows: Rows, levels: Floats) -> Floats:
    """Latency quantiles in microseconds, shape (n, q); NaN where nothing was measured. ``levels`` ascending in (0, 1];
    the rank of a level is ``ceil(level * total)``, as in ``records.histogram.quantiles``."""
    out = np.full((len(rows.key), len(levels)), np.nan)
    _quantiles(rows.offsets, rows.slot, rows.slot_count, levels, histogram.MIDPOINT_US, out)
    return out
