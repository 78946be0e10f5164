"""Merged aggregates to metric rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from smartscale.clock import MICROS
from smartscale.records import histogram
from smartscale.records.metrics import Histogram, MetricRow
from smartscale.stream.aggregates import users
from smartscale.stream.aggregates.protocol import Aggregation
from smartscale.stream.columns import Array, Ints, State
from smartscale.stream.window.keys import Key
from smartscale.stream.window.merge import Rows
from smartscale.stream.windows import Window

INCOMPLETE, COMPLETE, FINAL = range(3)
"""Stages of a window's life. ``revision = 3 * partials merged + stage`` rises with every change and never falls, and a
restart, which merges the same partials, derives the same numbers from the log."""

_FIELDS = MetricRow.__struct_fields__
_OWN = frozenset(_FIELDS[: _FIELDS.index("count")]) | {
    "revision",
    "final",
    "complete",
    "watermark_us",
    "group",
    "extra",
}
_RESULTS = tuple(name for name in _FIELDS if name not in _OWN)
"""Fields that aggregations fill, in the order of ``MetricRow``."""
_COUNTS = 2 + _RESULTS.index("latency_mean_ms")
_BEFORE_GROUP = 2 + _RESULTS.index("value_last")
"""Where ``MetricRow`` has fields of its own between results, which come after revision and extra."""
_HISTOGRAMS = {"histogram": ("slots", "slot_counts"), "value_histogram": ("value_slots", "value_slot_counts")}
_ZERO = {"count": 0, "errors": 0, "rate_per_s": 0.0, "error_rate": 0.0, "value_count": 0}
"""What a window without events says; every other result is None."""


def rows(
    names: Sequence[Key],
    wanted: Ints,
    merged: Rows,
    window: Window,
    end_us: int,
    stage: int,
    watermark_us: int,
    aggregations: Sequence[Aggregation],
    with_sketches: bool,
    has_lost: bool,
) -> Iterator[MetricRow]:
    """A row for each wanted key (ascending numbers), in that order; count zero where ``merged`` has none.

    Rates are per second of the window's size. ``with_sketches``: the row carries what longer windows can be merged from.
    ``has_lost``: something of the window could not be read, so its rows are never complete.
    Everything is computed by columns; rows are made one at a time, because a hundred thousand of them held at once cost more
    than making them."""
    start_us, label = end_us - window.size_us, window.label
    final, complete = stage == FINAL, stage != INCOMPLETE and not has_lost
    at = np.searchsorted(merged.key, wanted)
    found = np.append(merged.key, -1)[at] == wanted
    at = at[found]
    results = _results(merged, at, window.size_us / MICROS, aggregations, with_sketches)
    revision = (merged.merged[at] * 3 + stage).tolist()
    known = zip(revision, _extra(results), *_fields(results), strict=False)
    nothing = (stage, None, *(_ZERO.get(name) for name in _RESULTS))
    for number, is_there in zip(wanted.tolist(), found.tolist(), strict=True):
        tenant, service, kind, name, group = names[number]
        told: Sequence[Any] = next(known) if is_there else nothing
        row: tuple[Any, ...] = (
            tenant, service, kind, name, label, start_us, end_us, *told[2:_COUNTS], told[0], final, complete, watermark_us,
            *told[_COUNTS:_BEFORE_GROUP], group, *told[_BEFORE_GROUP:], told[1],
        )  # fmt: skip
        yield MetricRow(*row)


def _results(
    merged: Rows, at: Ints, size_s: float, aggregations: Sequence[Aggregation], with_sketches: bool
) -> dict[str, Iterable[Any]]:
    """Every result by name, for the rows ``at``."""
    results: dict[str, Iterable[Any]] = {}
    for one in aggregations:
        results |= {name: _listed(column[at]) for name, column in one.result(merged.state, size_s).items()}
    if with_sketches:
        for name, (slots, counts) in _HISTOGRAMS.items():
            if slots in merged.state:
                results[name] = _histograms(merged.state, slots, counts, at)
        if "users" in merged.state:
            results["users_sketch"] = _sketches(merged.state, at)
    return results


def _fields(results: dict[str, Iterable[Any]]) -> list[Iterable[Any]]:
    return [results.get(name, repeat(_ZERO.get(name))) for name in _RESULTS]


def _extra(results: dict[str, Iterable[Any]]) -> Iterator[dict[str, Any] | None]:
    """What is in no field of its own, row by row."""
    names = [name for name in results if name not in _RESULTS]
    if not names:
        yield from repeat(None)
    for values in zip(*(results[name] for name in names), strict=True):
        yield {name: value for name, value in zip(names, values, strict=True) if value is not None}


def _listed(column: Array) -> list[Any]:
    """As plain values, None for NaN."""
    values: list[Any] = column.tolist()
    if column.dtype.kind == "f":
        for i in np.flatnonzero(np.isnan(column)).tolist():
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
