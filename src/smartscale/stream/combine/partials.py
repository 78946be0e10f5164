"""Events to partials: one compiled pass that groups, then each aggregation over the groups.

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

from smartscale.records import events as records_events
from smartscale.records import partials as records
from smartscale.records.forecasts import ARRIVALS
from smartscale.records.topics import METRIC
from smartscale.stream import attributes
from smartscale.stream.aggregates.protocol import Aggregation, Events
from smartscale.stream.columns import Ints, State, chosen, to_arrow
from smartscale.stream.windows import Families

LABELS = ("tenant", "service", "kind", "name")


@dataclass(frozen=True, slots=True)
class Columns:
    """Events of one transaction as arrays of one length n. ``labels[c]`` are codes into ``values[c]``, in the order of
    ``LABELS``; a code of the last stands for a name and a group: ``groups`` runs beside ``values[3]``. Rows with ``keep``
    False are left out."""

    labels: npt.NDArray[np.int32]  # (4, n)
    values: tuple[list[str], ...]
    groups: list[str]
    pane: Ints
    pane_us: Ints  # (services,): width of the panes of each service
    keep: npt.NDArray[np.bool_]
    events: Events


@dataclass(frozen=True, slots=True)
class Partials:
    """Aggregates of g groups; ``group_of`` maps each event to its group, -1 where it was left out."""

    labels: npt.NDArray[np.int32]  # (4, g)
    pane: Ints
    pane_us: Ints
    state: State
    group_of: npt.NDArray[np.int32]


def event_columns(aggregations: Sequence[Aggregation], families: Families) -> tuple[str, ...]:
    """The columns of events that these need; the others are never decompressed."""
    reads = {name for one in aggregations for name in one.reads}
    reads |= {"attributes"} if any(family.group_by for family in families) else set()
    needed = {"time", "tenant", "service", "kind", "name", "error", "identity", *reads}
    return tuple(name for name in records_events.SCHEMA.names if name in needed)


def columns(batches: Sequence[pa.RecordBatch], keep: npt.NDArray[np.bool_], families: Families) -> Columns:
    """The arrays of several ``events`` batches, one after the other, with common dictionaries."""
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    labels, values = [], []
    for name in LABELS:
        column = table.column(name).chunk(0)
        labels.append(column.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False))
        values.append(column.dictionary.to_pylist())
    of_service = np.array([families.of(service) for service in values[1]], np.int64)
    labels[3], values[3], groups = _grouped(table, labels, values, of_service, families)
    pane_us = np.array([family.pane_us for family in families])[of_service]
    events = Events(table)
    pane = np.empty(len(events), np.int64)
    _panes(events.time, labels[1], pane_us, pane)
    return Columns(
        labels=np.stack(labels),
        values=tuple(values),
        groups=groups,
        pane=pane,
        pane_us=pane_us,
        keep=keep,
        events=events,
    )


def _grouped(
    table: pa.Table,
    labels: Sequence[npt.NDArray[np.int32]],
    values: Sequence[list[str]],
    of_service: Ints,
    families: Families,
) -> tuple[npt.NDArray[np.int32], list[str], list[str]]:
    """Codes of (name, group) for each event, and what they stand for. The metric of demand, which forecasts and scaling
    read, is one series a service: it has no groups."""
    _, _, kinds, names = values
    group, groups = np.zeros(len(labels[3]), np.int64), [""]
    for number, family in enumerate(families):
        if not family.group_by:
            continue
        demand = _is(kinds, METRIC)[labels[2]] & _is(names, ARRIVALS)[labels[3]]
        concerned = np.flatnonzero((of_service[labels[1]] == number) & ~demand)
        if len(concerned):
            found, texts = attributes.groups(
                table.column("attributes").chunk(0).take(pa.array(concerned)), family.group_by
            )
            group[concerned] = found + len(groups)
            groups += texts
    if len(groups) == 1:
        return labels[3], names, [""] * len(names)
    pairs = pc.dictionary_encode(pa.array(labels[3] * np.int64(len(groups)) + group))
    name_of, group_of = np.divmod(pairs.dictionary.to_numpy(), len(groups))
    return (
        pairs.indices.to_numpy().astype(np.int32, copy=False),
        [names[i] for i in name_of.tolist()],
        [groups[i] for i in group_of.tolist()],
    )


def _is(values: list[str], wanted: str) -> npt.NDArray[np.bool_]:
    return np.array([value == wanted for value in values], np.bool_)


@njit(cache=True, nogil=True)
def _panes(time: Ints, service: npt.NDArray[np.int32], pane_us: Ints, out: Ints) -> None:
    """Start of each event's pane. Events come roughly in order, so most are in the pane of the one before: no division."""
    start, width = np.int64(0), np.int64(0)
    for i in range(len(time)):
        own = pane_us[service[i]]
        if own != width or time[i] < start or time[i] >= start + width:
            start, width = time[i] // own * own, own
        out[i] = start


@njit(cache=True, nogil=True)
def _group(
    labels: npt.NDArray[np.int32],
    sizes: Ints,
    pane: Ints,
    keep: npt.NDArray[np.bool_],
    table: npt.NDArray[np.int32],
    key: Ints,
    group_of: npt.NDArray[np.int32],
    first_row: Ints,
) -> int:
    """Number the distinct (labels, pane); ``table`` is an open-addressing hash table of group numbers + 1, ``key`` has room
    for (labels as one number, pane) of each group: what a look-up compares lies together.

    Returns how many there are, -1 if they fill more than half of the table."""
    mask = len(table) - 1
    groups = 0
    for i in range(len(pane)):
        if not keep[i]:
            group_of[i] = -1
            continue
        code = ((labels[0, i] * sizes[1] + labels[1, i]) * sizes[2] + labels[2, i]) * sizes[3] + labels[3, i]
        mixed = np.uint64(pane[i]) ^ (np.uint64(code) * np.uint64(0x9E3779B97F4A7C15))  # 2**64 / golden ratio
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
        slot = np.int64(mixed >> np.uint64(32)) & mask
        while True:
            found = table[slot] - 1
            if found < 0:
                if 2 * groups >= len(table):
                    return -1
                table[slot] = groups + 1
                key[groups, 0], key[groups, 1] = code, pane[i]
                first_row[groups] = i
                group_of[i] = groups
                groups += 1
                break
            if key[found, 0] == code and key[found, 1] == pane[i]:
                group_of[i] = found
                break
            slot = (slot + 1) & mask
    return groups


_SMALLEST_TABLE = 1 << 12
"""Entries of the first hash table tried: it stays in the core's own cache, which is what makes the pass fast."""


def aggregate(events: Columns, aggregations: Sequence[Aggregation]) -> Partials:
    """Group events by (tenant, service, kind, name, group, pane).

    One pass over the events; a table that turns out too small is replaced by one eight times as large."""
    n = len(events.pane)
    group_of = np.empty(n, np.int32)
    sizes = np.array([len(values) for values in events.values], np.int64)
    capacity, groups = _SMALLEST_TABLE, -1
    while groups < 0:
        table = np.zeros(capacity, np.int32)
        key, first_row = np.empty((capacity // 2, 2), np.int64), np.empty(capacity // 2, np.int64)
        groups = _group(events.labels, sizes, events.pane, events.keep, table, key, group_of, first_row)
        capacity *= 8
    first_row = first_row[:groups]
    labels = events.labels[:, first_row]
    return Partials(
        labels=labels,
        pane=events.pane[first_row],
        pane_us=events.pane_us[labels[1]],
        state=_state(events, aggregations, group_of, groups),
        group_of=group_of,
    )


def _state(
    events: Columns, aggregations: Sequence[Aggregation], group_of: npt.NDArray[np.int32], groups: int
) -> State:
    state: State = {}
    counted, counted_groups = events.events, group_of
    if not events.keep.all() and any(one.needs_no_gaps for one in aggregations):
        counted, counted_groups = counted.chosen(events.keep), group_of[events.keep]
    for one in aggregations:
        of_one = one.zero(groups)
        if one.needs_no_gaps:
            one.add(of_one, counted_groups, counted)
        else:
            one.add(of_one, group_of, events.events)
        state |= of_one
    return state


def rows(partials: Partials, columns: Columns, wanted: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    """The wanted groups (shape (g,)) as a batch of partials."""
    index = np.flatnonzero(wanted)
    codes = partials.labels[:, index]
    labels = [_label(code, names) for code, names in zip(codes, columns.values, strict=True)]
    arrays = {
        **dict(zip(LABELS, labels, strict=True)),
        "group": _label(codes[3], columns.groups),
        "pane": pa.array(partials.pane[index]),
        "pane_us": pa.array(partials.pane_us[index]),
        **{name: to_arrow(column) for name, column in chosen(partials.state, index).items()},
    }
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def _label(codes: npt.NDArray[np.int32], names: list[str]) -> pa.DictionaryArray:
    used, inverse = np.unique(codes, return_inverse=True)
    texts = [names[code] for code in used.tolist()]
    if len(set(texts)) < len(texts):  # a name with several groups, or a group with several names
        number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        inverse = np.array([number[text] for text in texts])[inverse]
        texts = list(number)
    return pa.DictionaryArray.from_arrays(pa.array(inverse.astype(np.int32)), pa.array(texts, pa.string()))


def empty(aggregations: Sequence[Aggregation]) -> pa.RecordBatch:
    """A batch without rows."""
    keys = {name: pa.array([], records.SCHEMA.field(name).type) for name in records.KEY}
    state = {name: to_arrow(column) for one in aggregations for name, column in one.zero(0).items()}
    arrays = {**keys, **state}
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
