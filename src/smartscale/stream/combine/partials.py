"""Events to partials: one pass that groups, sums and fills histograms, in compiled code.

Sums of latencies are whole microseconds and exact; sums of values are float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from smartscale.records import histogram
from smartscale.records import partials as records

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LABELS = ("tenant", "service", "kind", "name")


@dataclass(frozen=True, slots=True)
class Columns:
    """Events of one transaction as arrays of one length n. ``labels[c]`` are codes into ``values[c]``, in the order of
    ``LABELS``; ``latency`` is -1 and ``value`` NaN where there is none; rows with ``keep`` False are left out."""

    labels: npt.NDArray[np.int32]  # (4, n)
    values: tuple[list[str], ...]
    time: Ints
    error: npt.NDArray[np.bool_]
    latency: Ints
    value: Floats
    keep: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Partials:
    """Aggregates of g groups; ``group_of`` maps each event to its group, -1 where it was left out. The histogram has one
    entry per filled (group, slot), sorted by both."""

    labels: npt.NDArray[np.int32]  # (4, g)
    pane: Ints
    integers: Ints  # (6, g): count, errors, latency_count, latency_sum, latency_min, latency_max
    value_count: Ints
    value: Floats  # (3, g): sum, min, max
    slot_group: Ints
    slot: npt.NDArray[np.int16]
    slot_count: Ints
    group_of: npt.NDArray[np.int32]


def columns(batches: Sequence[pa.RecordBatch], keep: npt.NDArray[np.bool_]) -> Columns:
    """The arrays of several ``events`` batches, one after the other, with common dictionaries."""
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    labels, values = [], []
    for name in LABELS:
        column = table.column(name).chunk(0)
        labels.append(column.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False))
        values.append(column.dictionary.to_pylist())
    return Columns(
        labels=np.stack(labels),
        values=tuple(values),
        time=table.column("time").to_numpy(),
        error=table.column("error").to_numpy(),
        latency=_filled(table.column("latency"), -1).astype(np.int64, copy=False),
        value=_filled(table.column("value"), np.nan).astype(np.float64, copy=False),
        keep=keep,
    )


def _filled(column: pa.ChunkedArray, missing: float) -> npt.NDArray[np.generic]:
    if column.null_count == len(column):
        return np.full(len(column), missing)
    return np.asarray(pc.fill_null(column, pa.scalar(missing, column.type)).to_numpy())


@njit(cache=True, nogil=True)
def _group(
    labels: npt.NDArray[np.int32],
    pane: Ints,
    keep: npt.NDArray[np.bool_],
    table: npt.NDArray[np.int32],
    group_of: npt.NDArray[np.int32],
    first_row: Ints,
) -> int:
    """Number the distinct (labels, pane); ``table`` is an open-addressing hash table of group numbers + 1.

    Returns how many there are, -1 if they fill more than half of the table."""
    mask = len(table) - 1
    groups = 0
    for i in range(len(pane)):
        if 2 * groups > len(table):
            return -1
        if not keep[i]:
            group_of[i] = -1
            continue
        mixed = np.uint64(pane[i])
        for c in range(4):
            mixed = (mixed ^ np.uint64(labels[c, i])) * np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio
            mixed ^= mixed >> np.uint64(29)
        slot = np.int64(mixed >> np.uint64(20)) & mask
        while True:
            found = table[slot] - 1
            if found < 0:
                table[slot] = groups + 1
                first_row[groups] = i
                group_of[i] = groups
                groups += 1
                break
            row = first_row[found]
            if (
                pane[row] == pane[i]
                and labels[1, row] == labels[1, i]
                and labels[3, row] == labels[3, i]
                and labels[2, row] == labels[2, i]
                and labels[0, row] == labels[0, i]
            ):
                group_of[i] = found
                break
            slot = (slot + 1) & mask
    return groups


@njit(cache=True, nogil=True)
def _accumulate(
    group_of: npt.NDArray[np.int32],
    error: npt.NDArray[np.bool_],
    latency: Ints,
    value: Floats,
    integers: Ints,
    value_count: Ints,
    values: Floats,
) -> None:
    for i in range(len(group_of)):
        g = group_of[i]
        if g < 0:
            continue
        integers[g, 0] += 1
        integers[g, 1] += error[i]
        if latency[i] >= 0:
            if integers[g, 2] == 0 or latency[i] < integers[g, 4]:
                integers[g, 4] = latency[i]
            if latency[i] > integers[g, 5]:
                integers[g, 5] = latency[i]
            integers[g, 2] += 1
            integers[g, 3] += latency[i]
        if not np.isnan(value[i]):
            if value_count[g] == 0 or value[i] < values[g, 1]:
                values[g, 1] = value[i]
            if value_count[g] == 0 or value[i] > values[g, 2]:
                values[g, 2] = value[i]
            value_count[g] += 1
            values[g, 0] += value[i]


@njit(cache=True, nogil=True)
def _histograms(
    group_of: npt.NDArray[np.int32],
    latency: Ints,
    slots: npt.NDArray[np.int16],
    groups: int,
    slot_count: int,
) -> tuple[Ints, npt.NDArray[np.int16], Ints]:
    """Filled (group, slot) pairs in order, and how many events each holds: the events' slots are laid out group by group,
    then counted in one dense histogram after the other."""
    start = np.zeros(groups + 1, np.int64)
    for i in range(len(group_of)):
        if group_of[i] >= 0 and latency[i] >= 0:
            start[group_of[i] + 1] += 1
    for g in range(groups):
        start[g + 1] += start[g]
    place = start[:groups].copy()
    laid_out = np.empty(start[groups], np.int16)
    for i in range(len(group_of)):
        if group_of[i] >= 0 and latency[i] >= 0:
            laid_out[place[group_of[i]]] = slots[i]
            place[group_of[i]] += 1
    out_group = np.empty(start[groups], np.int64)
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
                out_group[filled], out_slot[filled], out_count[filled] = g, slot, dense[slot]
                dense[slot] = 0
                filled += 1
    return out_group[:filled], out_slot[:filled], out_count[:filled]


_SMALLEST_TABLE = 1 << 12
"""Entries of the first hash table tried: it stays in the core's own cache, which is what makes the pass fast."""


def aggregate(events: Columns, pane_us: int) -> Partials:
    """Group events by (tenant, service, kind, name, pane).

    One pass over the events; a table that turns out too small is replaced by one eight times as large."""
    n = len(events.time)
    pane = events.time // pane_us * pane_us
    group_of = np.empty(n, np.int32)
    first_row = np.empty(n, np.int64)
    capacity, groups = _SMALLEST_TABLE, -1
    while groups < 0:
        groups = _group(events.labels, pane, events.keep, np.zeros(capacity, np.int32), group_of, first_row)
        capacity *= 8
    first_row = first_row[:groups]
    integers = np.zeros((groups, 6), np.int64)
    value_count = np.zeros(groups, np.int64)
    value = np.zeros((groups, 3), np.float64)
    _accumulate(group_of, events.error, events.latency, events.value, integers, value_count, value)
    value[value_count == 0, 1:] = np.nan
    slots = histogram.slots(events.latency)
    slot_group, slot, slot_count = _histograms(group_of, events.latency, slots, groups, histogram.SLOTS)
    return Partials(
        labels=events.labels[:, first_row],
        pane=pane[first_row],
        integers=integers.T,
        value_count=value_count,
        value=value.T,
        slot_group=slot_group,
        slot=slot,
        slot_count=slot_count,
        group_of=group_of,
    )


def rows(partials: Partials, values: tuple[list[str], ...], chosen: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    """The chosen groups (shape (g,)) as a batch of ``records.partials.SCHEMA``."""
    index = np.flatnonzero(chosen)
    labels = []
    for codes, names in zip(partials.labels, values, strict=True):
        used, inverse = np.unique(codes[index], return_inverse=True)
        labels.append(
            pa.DictionaryArray.from_arrays(
                pa.array(inverse.astype(np.int32)), pa.array([names[code] for code in used], pa.string())
            )
        )
    entries = chosen[partials.slot_group]
    per_group = np.bincount(partials.slot_group[entries], minlength=len(chosen))[index]
    offsets = pa.array(np.concatenate(([0], np.cumsum(per_group))).astype(np.int32))
    return pa.RecordBatch.from_arrays(
        [
            *labels,
            pa.array(partials.pane[index]),
            *(pa.array(column[index]) for column in partials.integers),
            pa.array(partials.value_count[index]),
            *(pa.array(column[index]) for column in partials.value),
            pa.ListArray.from_arrays(offsets, pa.array(partials.slot[entries])),
            pa.ListArray.from_arrays(offsets, pa.array(partials.slot_count[entries])),
        ],
        schema=records.SCHEMA,
    )
