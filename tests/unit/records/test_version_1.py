"""A stage reads records of its own version and of the one before."""

from __future__ import annotations

import pyarrow as pa
import pytest

from smartscale.config import Settings, Topics, Windows
from smartscale.errors import SchemaError
from smartscale.log.port import Message
from smartscale.records import metrics, partials, schema, topics
from smartscale.testing import START_US, Pipeline, Sent
from smartscale.testing.old_stages import as_version_1

S = 1_000_000
SETTINGS = Settings(
    topics=Topics(events=1, partials=1),
    windows=Windows(aggregates=["requests", "latency", "values", "users"]),
)


def written(run: Pipeline, topic: str) -> list[Message]:
    return [Message(r.topic, r.partition, r.value, r.key, r.headers) for r in run.log.records(topic)]


def some() -> list[Sent]:
    return [
        Sent("a", START_US + i * S, latency_us=1000 * i, value=None if i % 2 else 1.5 * i, user=str(i))
        for i in range(30)
    ]


def test_partials_of_version_1_are_read_with_what_they_have() -> None:
    """Group and width of the pane are supplied; the rest is as it was."""
    run = Pipeline(SETTINGS)
    run.send(*some())
    run.combine()
    run.combine()
    (message,) = [m for m in written(run, topics.PARTIALS) if partials.decode(m.value)[1].num_rows]
    old = as_version_1(message)
    assert old.headers == schema.headers("partials/1")
    assert schema.schema_of(old.headers) == schema.PARTIALS
    with pa.ipc.open_stream(old.value) as reader:
        names = reader.schema.names
    assert not {"group", "pane_us", "users", "value_slots"} & set(names)
    envelope, batch = partials.decode(old.value)
    now_envelope, now_batch = partials.decode(message.value)
    assert envelope == now_envelope
    for name in (*names, "group", "pane_us"):
        assert repr(batch.column(name).to_pylist()) == repr(now_batch.column(name).to_pylist()), name


def test_windows_of_mixed_versions_count_exactly_and_say_only_what_they_know() -> None:
    """Old and new combiners at once: counts, errors, latency and sums are whole; percentiles and users would speak for a
    part, so percentiles of values are left out where a part has none."""
    run, mixed = Pipeline(SETTINGS), Pipeline(SETTINGS)
    sent = some()
    for i in range(0, 30, 3):
        run.send(*sent[i : i + 3])
        while run.combine():
            pass
    run.run_to_end()
    mixed.clock.set_us(run.clock.now_us())
    for i, message in enumerate(written(run, topics.PARTIALS)):
        mixed.append_raw(as_version_1(message) if i % 2 else message)
    while mixed.window():
        pass
    wanted = {(r.kind, r.name, r.window, r.end_us): r for r in run.finals()}
    found = {(r.kind, r.name, r.window, r.end_us): r for r in mixed.finals()}
    assert found.keys() == wanted.keys()
    for key, row in found.items():
        for name in (
            "count",
            "errors",
            "latency_p99_ms",
            "value_count",
            "value_sum",
            "value_max",
            "complete",
            "revision",
        ):
            assert getattr(row, name) == getattr(wanted[key], name), (key, name)
        assert row.value_p50 in (None, wanted[key].value_p50)


def test_metric_rows_of_version_1_are_read() -> None:
    """By all who read them: the schema tells them as rows of this version."""
    run = Pipeline(SETTINGS)
    run.send(*some())
    run.run_to_end()
    (message, *_) = [
        m for m in written(run, topics.METRICS) if (m.headers or {}) == schema.headers(schema.METRIC)
    ]
    old = as_version_1(message)
    assert schema.schema_of(old.headers or {}) == schema.METRIC
    assert metrics.decode_row(old.value).count == metrics.decode_row(message.value).count


def test_a_version_that_is_not_known_is_refused_with_what_to_do() -> None:
    """Upgrade the reader first."""
    with pytest.raises(SchemaError, match="upgrade this stage first"):
        schema.schema_of(schema.headers("partials/3"))
