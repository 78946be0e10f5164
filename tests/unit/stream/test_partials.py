"""Events to partials, against a dictionary filled by a plain loop."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from smartscale.config import Windows
from smartscale.records import events, histogram
from smartscale.records import partials as records
from smartscale.stream.aggregates import named
from smartscale.stream.combine import partials
from smartscale.stream.windows import Families
from smartscale.testing.pipeline import Sent, events_value

PANE_US = 1000
WINDOWS = Windows(tumbling_s=[0.001], sliding_s=[], aggregates=["requests", "latency", "values", "users"])
FAMILIES = Families(WINDOWS)
AGGREGATIONS = named(WINDOWS)
SENT = st.builds(
    Sent,
    service=st.sampled_from(["a", "b", "checkout"]),
    time_us=st.integers(0, 5 * PANE_US),
    name=st.sampled_from(["", "/", "/x"]),
    latency_us=st.none() | st.integers(0, 10**6) | st.integers(0, 2**40),
    error=st.booleans(),
    value=st.none() | st.floats(-1e6, 1e6),
)
BATCH = st.lists(SENT, min_size=1, max_size=30)


@dataclass
class Oracle:
    """One key's pane, by a plain loop."""

    count: int = 0
    errors: int = 0
    latencies: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


Key = tuple[str, str, str, int]


def oracle(sent: list[Sent]) -> dict[Key, Oracle]:
    found: dict[Key, Oracle] = {}
    for one in sent:
        kind = "metric" if one.value is not None else "interaction"
        pane = found.setdefault((one.service, kind, one.name, one.time_us // PANE_US * PANE_US), Oracle())
        pane.count += 1
        pane.errors += one.error
        pane.latencies += [] if one.latency_us is None else [one.latency_us]
        pane.values += [] if one.value is None else [one.value]
    return found


def aggregated(batches: list[list[Sent]], keep: list[bool] | None = None) -> list[dict[str, object]]:
    """Rows of partials of the batches together."""
    decoded = [events.decode(events_value(batch)) for batch in batches]
    n = sum(map(len, batches))
    columns = partials.columns(decoded, np.array([True] * n if keep is None else keep, np.bool_), FAMILIES)
    result = partials.aggregate(columns, AGGREGATIONS)
    rows = partials.rows(result, columns, np.ones(len(result.pane), np.bool_))
    assert {field.name: field.type for field in rows.schema} == {
        field.name: field.type for field in records.SCHEMA
    }
    return list(rows.to_pylist())


def check(rows: list[dict[str, object]], expected: dict[Key, Oracle]) -> None:
    """Every row agrees with the oracle; none is missing, none is there twice."""
    found = {(row["service"], row["kind"], row["name"], row["pane"]): row for row in rows}
    assert len(found) == len(rows)
    assert found.keys() == expected.keys()
    for key, want in expected.items():
        row = found[key]
        assert (row["count"], row["errors"]) == (want.count, want.errors)
        assert row["latency_count"] == len(want.latencies)
        assert row["latency_sum"] == sum(want.latencies)
        assert (row["latency_min"], row["latency_max"]) == (
            min(want.latencies, default=0),
            max(want.latencies, default=0),
        )
        assert row["value_count"] == len(want.values)
        assert math.isclose(row["value_sum"], math.fsum(want.values), rel_tol=1e-9, abs_tol=1e-6)  # type: ignore[arg-type]
        if want.values:
            assert (row["value_min"], row["value_max"]) == (min(want.values), max(want.values))
        else:
            assert math.isnan(row["value_min"])  # type: ignore[arg-type]
        slots = Counter(histogram.slots(np.array(want.latencies, np.int64)).tolist())
        assert (row["slots"], row["slot_counts"]) == (sorted(slots), [slots[slot] for slot in sorted(slots)])


@given(st.lists(BATCH, min_size=1, max_size=4))
def test_aggregates_are_those_of_a_plain_loop(batches: list[list[Sent]]) -> None:
    """Counts, errors, sums, extremes and histogram, per service, kind, name and pane."""
    check(aggregated(batches), oracle([one for batch in batches for one in batch]))


@given(BATCH, st.data())
def test_what_is_not_kept_is_not_counted(sent: list[Sent], data: st.DataObject) -> None:
    """Repeats are left out before anything is summed."""
    keep = data.draw(st.lists(st.booleans(), min_size=len(sent), max_size=len(sent)))
    check(aggregated([sent], keep), oracle([one for one, kept in zip(sent, keep, strict=True) if kept]))


def test_more_groups_than_the_first_table_holds() -> None:
    """Ten thousand names: the tables grow, the result is the same."""
    sent = [
        Sent("a", i % 7 * PANE_US, name=f"/{i % 10_000}", latency_us=i * i % 10**7) for i in range(30_000)
    ]
    check(aggregated([sent[:100], sent[100:]]), oracle(sent))


def test_rows_of_one_destination_carry_only_its_labels() -> None:
    """A batch for one partition holds the names of the others neither as rows nor in its dictionaries."""
    columns = partials.columns(
        [events.decode(events_value([Sent("a", 0), Sent("b", 0)]))], np.ones(2, np.bool_), FAMILIES
    )
    result = partials.aggregate(columns, AGGREGATIONS)
    batch = partials.rows(result, columns, np.array([False, True]))
    assert batch.column("service").to_pylist() == ["b"]
    assert batch.column("service").dictionary.to_pylist() == ["b"]


def test_an_envelope_and_its_rows_survive_the_wire() -> None:
    """What was encoded is decoded, rows or none."""
    envelope = records.Envelope(
        PANE_US,
        histogram.SCALE,
        2,
        [records.InputRange("events", 0, 3, 9, 5, 1, 0, [4])],
        [records.SourceWatermark("events", 0, 7, 8, records.IDLE)],
    )
    empty = pa.RecordBatch.from_pylist([], schema=records.SCHEMA)
    assert records.decode(records.encode(empty, envelope)) == (envelope, empty)
