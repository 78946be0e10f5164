"""Merged aggregates to the JSON of metric rows.

A slide of a hundred thousand services is two hundred thousand rows, so nothing is done row by row that can be done once:
what a row says beside its labels is encoded once for all keys that share it (a name and its roll-up, all keys without
events), a thousand structs at a time, from columns, and put behind the labels, which are encoded once in a key's life.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import Any

import numpy as np

from smartscale.clock import MICROS
from smartscale.records import histogram, metrics
from smartscale.records.metrics import Histogram
from smartscale.stream.aggregates import users
from smartscale.stream.aggregates.protocol import Aggregation
from smartscale.stream.columns import Array, Ints, State
from smartscale.stream.window.keys import Keys
from smartscale.stream.window.merge import Merged, Rows
from smartscale.stream.windows import Window

INCOMPLETE, COMPLETE, FINAL = range(3)
"""Stages of a window's life. ``revision = 3 * partials merged + stage`` rises with every change and never falls, and a
restart, which merges the same partials, derives the same numbers from the log."""

_FIELDS = metrics.MetricRow.__struct_fields__
_HISTOGRAMS = {"histogram": ("slots", "slot_counts"), "value_histogram": ("value_slots", "value_slot_counts")}
_ZERO = {"count": 0, "errors": 0, "rate_per_s": 0.0, "error_rate": 0.0}
"""What a window without events says; every other result has its default, which is not written."""

_AT_ONCE = 1000
"""Structs made and encoded together: few enough to stay in the core's cache."""


def values(
    keys: Keys,
    wanted: Ints,
    merged: Merged,
    window: Window,
    end_us: int,
    stage: int,
    watermark_us: int,
    aggregations: Sequence[Aggregation],
    with_sketches: bool,
    has_lost: bool,
) -> Iterator[bytes]:
    """The JSON of a row for each wanted key (ascending numbers), in that order; count zero where ``merged`` has none.

    Rates are per second of the window's size. ``with_sketches``: the row carries what longer windows can be merged from.
    ``has_lost``: something of the window could not be read, so its rows are never complete."""
    same = _ZERO | {
        "window": window.label,
        "start_us": end_us - window.size_us,
        "end_us": end_us,
        "final": stage == FINAL,
        "complete": stage != INCOMPLETE and not has_lost,
        "watermark_us": watermark_us,
    }
    row_of = merged.row_of[wanted]
    needed, place = np.unique(row_of[row_of >= 0], return_inverse=True)
    results = _results(merged.rows, needed, window.size_us / MICROS, aggregations, with_sketches)
    results["revision"] = (merged.rows.merged[needed] * 3 + stage).tolist()
    groups = [keys.names[number][4] for number in merged.rows.key[needed].tolist()]
    if any(groups):
        results["group"] = groups
    known = list(_rests(len(needed), same, results))
    places = iter(place.tolist())
    heads, names = keys.heads, keys.names
    silent: dict[str, bytes] = {}
    for number, row in zip(wanted.tolist(), row_of.tolist(), strict=True):
        if row >= 0:
            yield heads[number] + known[next(places)]
            continue
        group = names[number][4]
        if group not in silent:
            (silent[group],) = _rests(1, same, {"revision": [stage], "group": [group]})
        yield heads[number] + silent[group]


def _rests(n: int, same: dict[str, Any], results: dict[str, Iterable[Any]]) -> Iterator[bytes]:
    """What n rows say beside their labels: ``same`` in each, and ``results`` by row."""
    fields = tuple(name for name in _FIELDS if name in same or name in results)
    make = metrics.rest_of(fields)
    structs = map(make, *(results[name] if name in results else repeat(same[name], n) for name in fields))
    for _ in range(0, n, _AT_ONCE):
        yield from metrics.encode_rests(list(islice(structs, _AT_ONCE)))


def _results(
    rows: Rows, at: Ints, size_s: float, aggregations: Sequence[Aggregation], with_sketches: bool
) -> dict[str, Iterable[Any]]:
    """Every result by name, for the rows ``at``; without those that are nowhere."""
    results: dict[str, Iterable[Any]] = {}
    extra: dict[str, list[Any]] = {}
    for one in aggregations:
        for name, column in one.result(rows.state, size_s).items():
            if (listed := _listed(column[at])) is not None:
                (results if name in _FIELDS else extra)[name] = listed
    if extra:
        results["extra"] = [
            {name: value for name, value in zip(extra, row, strict=True) if value is not None}
            for row in zip(*extra.values(), strict=True)
        ]
    if with_sketches:
        for name, (slots, counts) in _HISTOGRAMS.items():
            if slots in rows.state and len(rows.state[slots].values):
                results[name] = _histograms(rows.state, slots, counts, at)
        if "users" in rows.state and len(rows.state["users"].values):
            results["users_sketch"] = _sketches(rows.state, at)
    return results


def _listed(column: Array) -> list[Any] | None:
    """As plain values, None for NaN; None if all are."""
    if column.dtype.kind != "f":
        values: list[Any] = column.tolist()
        return values
    missing = np.isnan(column)
    if missing.all():
        return None
    values = column.tolist()
    for i in np.flatnonzero(missing).tolist():
        values[i] = None
    return values


def _histograms(state: State, slots: str, counts: str, at: Ints) -> Iterator[Histogram | None]:
    """None where the histogram is empty."""
    held = state[slots]
    slot, count = held.values.tolist(), state[counts].values.tolist()
    for first, end in zip(held.offsets[at].tolist(), held.offsets[at + 1].tolist(), strict=True):
        yield Histogram(histogram.SCALE, slot[first:end], count[first:end]) if end > first else None


def _sketches(state: State, at: Ints) -> Iterator[bytes | None]:
    held = state["users"]
    for first, end in zip(held.offsets[at].tolist(), held.offsets[at + 1].tolist(), strict=True):
        yield users.serialized(held.values[first:end].astype(np.uint64)) if end > first else None
