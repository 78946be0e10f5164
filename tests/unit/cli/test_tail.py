"""`smartscale tail` tells every record of every schema in one line, and never fails on a bad one."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.cli import tail
from smartscale.config import Settings
from smartscale.errors import UserError
from smartscale.log.port import Message, Record, TopicSpec
from smartscale.records import events, forecasts, metrics, schema, topics
from smartscale.testing.memory_log import MemoryLog

ROW = metrics.MetricRow(
    "default", "shop", "interaction", "*", "10s", 0, 10_000_000, 50, 5, 5.0, 0.1, 0, True, True, 10_000_000,
    latency_p99_ms=120.4,
)  # fmt: skip


def record(value: bytes, name: str | None, topic: str = "metrics") -> Record:
    return Record(topic, 0, 7, value, b"default\x1fshop", schema.headers(name) if name else {}, 0)


def test_a_metric_is_told_with_its_window_rate_errors_and_p99() -> None:
    """One line, for people."""
    assert tail.line(record(metrics.encode(ROW), schema.METRIC)) == (
        "metrics/0@7  shop interaction * [1970-01-01T00:00:00Z, 10s): 50 events, 5.0/s, 10.0% errors, "
        "p99 120 ms, final"
    )


def test_events_are_told_by_their_number_services_and_span() -> None:
    """Their columns are decoded."""
    row = {
        "time": 1_000_000, "tenant": "default", "service": "shop", "kind": "interaction", "name": "GET /",
        "error": True,
    }  # fmt: skip
    batch = pa.RecordBatch.from_pylist([row, {**row, "time": 3_000_000}], schema=events.SCHEMA)
    text = tail.line(record(events.encode(batch), schema.EVENTS, topics.EVENTS))
    assert text.endswith("2 events of shop, 1970-01-01T00:00:01Z to 1970-01-01T00:00:03Z, 2 errors")


def test_an_incident_is_told_with_its_class_and_words() -> None:
    """Open ones as such."""
    incident = forecasts.Incident(
        "i1", "default", "shop", "fault", 0, None, 0, 0.9, "error_rate", 0.0, 0.01, 0.3, "errors are at 30 %"
    )
    text = tail.line(record(forecasts.encode(incident), schema.INCIDENT))
    assert text == (
        "metrics/0@7  i1 fault of shop, severity 0.90: errors are at 30 %, from 1970-01-01T00:00:00Z, open"
    )


def test_a_third_partys_json_is_printed_as_it_is() -> None:
    """No schema header."""
    assert tail.line(record(b'{"a":1}', None)) == 'metrics/0@7  {"a":1}'


@given(st.binary(max_size=200), st.sampled_from([*sorted(schema.READABLE), "nonsense/9"]))
def test_no_record_whatever_breaks_the_command(value: bytes, name: str) -> None:
    """What cannot be read is told as such, for people and for machines."""
    broken = record(value, name)
    assert tail.line(broken).startswith("metrics/0@7  ")
    msgspec.json.encode(tail.describe(broken))


def test_reading_from_the_beginning_ends_at_the_end() -> None:
    """Without --follow the command comes back by itself."""
    log = MemoryLog()
    log.create([TopicSpec("metrics", 2)])
    log.publisher().append([Message("metrics", p, metrics.encode(ROW)) for p in (0, 1)])
    found = [r for r in tail.follow(log, "metrics", Settings(), True, False) if r is not None]
    assert len(found) == 2


def test_an_unknown_topic_is_told_with_those_that_exist() -> None:
    """What, where, and the next step."""
    log = MemoryLog()
    log.create([TopicSpec("metrics", 1)])
    with pytest.raises(UserError, match=r"no topic 'metric'.*topics: metrics"):
        list(tail.follow(log, "metric", Settings(), True, False))
