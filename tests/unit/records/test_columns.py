"""Columnar records: what was written is read, and what is no such record is told apart."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.errors import SchemaError
from smartscale.records import events, histogram, partials, schema
from smartscale.testing.pipeline import Sent, events_value

SENT = [Sent("a", 5, id="1", latency_us=7), Sent("b", 6, "/x", error=True), Sent("b", 7, value=1.5)]
ENVELOPE = partials.Envelope(5, histogram.SCALE, 1, [], [])
PARTIALS = partials.encode(pa.RecordBatch.from_pylist([], schema=partials.SCHEMA), ENVELOPE)


def test_all_columns_come_back() -> None:
    """Types and order are those of the schema."""
    batch = events.decode(events_value(SENT))
    assert batch.schema.equals(events.SCHEMA)
    rows = batch.select(["time", "service", "name", "error", "latency", "value", "id"]).to_pylist()
    assert [list(row.values()) for row in rows] == [
        [5, "a", "/", False, 7, None, "1"],
        [6, "b", "/x", True, None, None, None],
        [7, "b", "/", False, None, 1.5, None],
    ]


@given(st.lists(st.sampled_from(events.SCHEMA.names), min_size=1, unique=True))
def test_only_the_columns_asked_for_are_read(names: list[str]) -> None:
    """In the schema's order, whatever order was asked."""
    batch = events.decode(events_value(SENT), names)
    assert batch.schema.names == [name for name in events.SCHEMA.names if name in names]
    assert batch.num_rows == len(SENT)


@pytest.mark.parametrize("compression", ["lz4", "zstd", None])
def test_every_compression_is_read(compression: str | None) -> None:
    """The reader need not be told which."""
    batch = events.decode(events_value(SENT))
    again = events.encode(batch, compression)  # type: ignore[arg-type]  # a parameter of a test is no literal
    assert events.decode(again).equals(batch)


@given(st.binary(max_size=200))
def test_other_bytes_are_no_events(value: bytes) -> None:
    """Never another error, never a crash."""
    with pytest.raises(SchemaError):
        events.decode(value)
    with pytest.raises(SchemaError):
        partials.decode(value)


@given(st.data())
def test_a_record_cut_short_is_unreadable(data: st.DataObject) -> None:
    """As a torn write would leave it (the last 8 bytes only mark the end of the stream)."""
    for value, decode in ((events_value(SENT), events.decode), (PARTIALS, partials.decode)):
        length = data.draw(st.integers(0, len(value) - 9))
        with pytest.raises(SchemaError):
            decode(value[:length])


def test_records_of_each_other_are_told_apart() -> None:
    """An events record among partials, and the other way round."""
    with pytest.raises(SchemaError, match="columns"):
        events.decode(PARTIALS)
    with pytest.raises(SchemaError):
        partials.decode(events_value(SENT))


@pytest.mark.parametrize(
    ("headers", "count"),
    [
        (schema.headers(schema.EVENTS, n=7), 7),
        (schema.headers(schema.HEARTBEAT), 0),
        (schema.headers(schema.EVENTS), 1),
        (schema.headers(schema.EVENTS, n="many"), 1),
        ({}, 1),
    ],
)
def test_a_record_stands_for_what_it_states(headers: dict[str, bytes], count: int) -> None:
    """A heartbeat for nothing, a third party's for one."""
    assert events.event_count(headers) == count
