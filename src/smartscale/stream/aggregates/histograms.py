"""Sparse histograms of many keys in compiled code: filling, merging, quantiles. Slots are whole numbers from 0."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.stream.aggregates.protocol import Groups
from smartscale.stream.columns import Floats, Ints, Lists

Slots = npt.NDArray[np.int16]


@njit(cache=True, nogil=True)
def _fill(
    group: Groups, slots: Slots, groups: int, slot_count: int
) -> tuple[Ints, npt.NDArray[np.int16], Ints]:
    """Offsets of each group and its filled slots with their counts: the events' slots are laid out group by group, then
    counted in one dense histogram after the other."""
    start = np.zeros(groups + 1, np.int64)
    for i in range(len(group)):
        if group[i] >= 0 and slots[i] >= 0:
            start[group[i] + 1] += 1
    for g in range(groups):
        start[g + 1] += start[g]
    place = start[:groups].copy()
    laid_out = np.empty(start[groups], np.int16)
    for i in range(len(group)):
        if group[i] >= 0 and slots[i] >= 0:
            laid_out[place[group[i]]] = slots[i]
            place[group[i]] += 1
    offsets = np.zeros(groups + 1, np.int64)
    out_slot = np.empty(start[groups], np.int16)
    out_count = np.empty(start[groups], np.int64)
    dense = np.zeros(slot_count, np.int64)
    filled = 0
    for g in range(groups):
        low, high = slot_count, -1
        for at in range(start[g], start[g + 1]):
            dense[laid_out[at]] += 1
            low = min(low, laid_out[at])
            high = max(high, laid_out[at])
        for slot in range(low, high + 1):
            if dense[slot] > 0:
                out_slot[filled], out_count[filled] = slot, dense[slot]
                dense[slot] = 0
                filled += 1
        offsets[g + 1] = filled
    return offsets, out_slot[:filled], out_count[:filled]


def fill(group: Groups, slots: Slots, groups: int, slot_count: int) -> tuple[Lists, Lists]:
    """The filled slots of each group, ascending, and how many events each holds. Events of slot or group -1 are left out."""
    offsets, slot, count = _fill(group, slots, groups, slot_count)
    return Lists(offsets, slot), Lists(offsets, count)


@njit(cache=True, nogil=True)
def _merge(
    group: Groups,
    offsets: Ints,
    slot: Slots,
    count: Ints,
    groups: int,
    out_offsets: Ints,
    out_slot: Slots,
    out_count: Ints,
    slots: int,
) -> int:
    """Counting sort of the rows by group, then one dense histogram at a time; slots come out ascending."""
    start = np.zeros(groups + 1, np.int64)
    for i in range(len(group)):
        start[group[i] + 1] += 1
    for g in range(groups):
        start[g + 1] += start[g]
    place = start[:groups].copy()
    order = np.empty(len(group), np.int64)
    for i in range(len(group)):
        order[place[group[i]]] = i
        place[group[i]] += 1
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


def merge(group: Groups, slots: Lists, counts: Lists, groups: int, slot_count: int) -> tuple[Lists, Lists]:
    """Histograms added up: row i of (slots, counts) goes to ``group[i]``. Exact, in any order."""
    offsets = np.zeros(groups + 1, np.int64)
    out_slot, out_count = np.empty_like(slots.values), np.empty_like(counts.values)
    filled = _merge(
        group, slots.offsets, slots.values, counts.values, groups, offsets, out_slot, out_count, slot_count
    )
    return Lists(offsets, out_slot[:filled]), Lists(offsets, out_count[:filled])


@njit(cache=True, nogil=True)
def _quantiles(offsets: Ints, slot: Slots, count: Ints, levels: Floats, middle: Floats, out: Floats) -> None:
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
            out[r, q] = middle[slot[e]]


def quantiles(slots: Lists, counts: Lists, levels: Floats, middle: Floats) -> Floats:
    """Shape (n, q); NaN where the histogram is empty. ``levels`` ascending in (0, 1]; the rank of a level is
    ``ceil(level * total)``; ``middle`` is what each slot is answered with."""
    out = np.full((len(slots), len(levels)), np.nan)
    _quantiles(slots.offsets, slots.values, counts.values, levels, middle, out)
    return out
