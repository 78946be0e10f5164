"""Combine, transaction by transaction: every event read is in one place, and a restart changes nothing."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.clock import MICROS
from smartscale.config import Combine, Dedup, Settings, Time, Topics
from smartscale.errors import Fenced, LogUnavailable, RetryableError
from smartscale.log.partitioner import service_partition
from smartscale.log.port import Message, TopicPartition, TopicSpec
from smartscale.records import dead_letters, events, partials, schema, topics
from smartscale.records.events_json import EventIn
from smartscale.testing.pipeline import Pipeline, Sent, events_value

SETTINGS = Settings(
    topics=Topics(events=2, partials=3),
    time=Time(out_of_orderness_s=2, settle_s=2),
    dedup=Dedup(window_s=20),
    combine=Combine(json_topics=["orders"]),
)


def pipeline(settings: Settings = SETTINGS) -> Pipeline:
    made = Pipeline(settings)
    made.log.create([TopicSpec(topic, 1) for topic in settings.combine.json_topics])
    return made


def drain(run: Pipeline) -> None:
    while run.combine():
        pass


def written(run: Pipeline) -> list[tuple[partials.Envelope, pa.RecordBatch]]:
    """Accounts and rows of each record of partials, by partition and offset."""
    return [partials.decode(record.value) for record in run.log.records(topics.PARTIALS)]


def accounts(run: Pipeline) -> list[partials.InputRange]:
    """What each transaction that read anything has read, in order (every partition tells the same)."""
    first = [r for r in run.log.records(topics.PARTIALS) if r.partition == 0]
    return [
        part for record in first for part in partials.decode(record.value)[0].inputs if part.end > part.first
    ]


def counted(run: Pipeline) -> dict[str, int]:
    """Events in rows, by service."""
    found: dict[str, int] = {}
    for _, batch in written(run):
        for row in batch.to_pylist():
            found[row["service"]] = found.get(row["service"], 0) + row["count"]
    return found


def test_each_transaction_tells_every_partition_what_it_read_and_where_it_went() -> None:
    """Three partitions of partials get the same accounts, and the rows of their own services."""
    run = pipeline()
    now = run.clock.now_us()
    run.append(0, [Sent("a", now, id="1"), Sent("a", now, id="1"), Sent("b", now)])
    drain(run)
    tell = [envelope for envelope, _ in written(run)]
    assert len({msgspec.json.encode(one) for one in tell}) == 1
    part = next(one for one in tell[0].inputs if one.end > one.first)
    rows = [0, 0, 0]
    for service in ("a", "b"):
        rows[service_partition("default", service, 3)] += 1
    assert part == partials.InputRange("events", 0, 0, 1, 3, 1, 0, rows)
    for p, (_, batch) in enumerate(written(run)):
        assert {service_partition("default", s, 3) for s in batch.column("service").to_pylist()} <= {p}


def test_the_ranges_of_consecutive_transactions_touch() -> None:
    """Heartbeats and events alike move the position."""
    run = pipeline()
    for _ in range(4):
        run.append(0, [Sent("a", run.clock.now_us())])
        run.beat()
        run.clock.advance(1)
        drain(run)
    of_zero = [part for part in accounts(run) if (part.topic, part.partition) == ("events", 0)]
    assert [part.first for part in of_zero] == [0, *(part.end for part in of_zero[:-1])]
    assert all(part.read == sum(part.rows) + part.duplicates + part.dead for part in accounts(run))


@pytest.mark.parametrize(
    ("value", "headers", "count"),
    [
        (b"not Arrow", schema.headers(schema.EVENTS, n=7, ingest_us=0), 7),
        (events_value([Sent("a", 0)])[:-40], schema.headers(schema.EVENTS, n=1, ingest_us=0), 1),
        (events_value([Sent("a", 0)]), schema.headers(schema.EVENTS, n=1), 1),
        (events_value([Sent("a", 0)]), schema.headers("events/99", n=1, ingest_us=0), 1),
        (b"{}", schema.headers(schema.HEARTBEAT), 0),
        (b"{", {}, 1),
        (b"", {}, 1),
        (b"[]", {}, 1),
        (b'{"service": ""}', {}, 1),
    ],
)
def test_a_record_that_cannot_be_read_is_set_aside_and_stops_nothing(
    value: bytes, headers: dict[str, bytes], count: int
) -> None:
    """It is in the accounts as dead, in ``dead-letters`` with the reason, and what follows it is counted."""
    run = pipeline()
    run.append_raw(Message(topics.EVENTS, 0, value, headers=headers))
    run.append(0, [Sent("a", run.clock.now_us())])
    drain(run)
    (letter,) = run.letters()
    assert (letter.stage, letter.count, letter.source, letter.offset) == ("combine", count, "events/0", 0)
    assert letter.reason
    assert letter.detail
    assert sum(part.dead for part in accounts(run)) == count
    assert counted(run) == {"a": 1}


def test_an_arrow_record_of_other_columns_is_unreadable() -> None:
    """The columns are checked by name and type, not by place."""
    run = pipeline()
    sink = pa.BufferOutputStream()
    other = pa.schema([*list(events.SCHEMA)[1:], pa.field("time", pa.int64())])
    with pa.ipc.new_stream(sink, other) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist([], schema=other))
    headers = schema.headers(schema.EVENTS, n=2, ingest_us=0)
    run.append_raw(Message(topics.EVENTS, 0, bytes(sink.getvalue()), headers=headers))
    drain(run)
    assert [letter.reason for letter in run.letters()] == [dead_letters.UNREADABLE]


def test_a_record_of_no_events_is_no_trouble() -> None:
    """Nothing to count, and the position moves on."""
    run = pipeline()
    run.append(0, [])
    drain(run)
    assert [(part.end, part.read) for part in accounts(run)] == [(1, 0)]


def test_third_parties_json_and_columns_meet_in_one_transaction() -> None:
    """A JSON topic is counted by the same rules, repeats included."""
    run = pipeline()
    order = msgspec.json.encode(EventIn(service="shop", id="7", latency_ms=3))
    for _ in range(2):
        run.append_raw(Message("orders", 0, order))
    run.append(0, [Sent("a", run.clock.now_us(), id="7")])
    drain(run)
    assert counted(run) == {"shop": 1, "a": 1}
    assert sum(part.duplicates for part in accounts(run)) == 1


def test_a_third_partys_silent_topic_does_not_hold_windows_up_and_a_restart_does_not_hurry_it() -> None:
    """Its watermark follows the clock 1.5 s after its last event, not at once because the process is new."""
    run = pipeline()
    drain(run)
    run.clock.advance(10)
    start = run.clock.now_us()
    run.append_raw(Message("orders", 0, msgspec.json.encode(EventIn(service="shop"))))
    drain(run)
    run.clock.advance(1)
    run.crash_combine()
    drain(run)
    assert _orders(run) == start - 2 * MICROS
    run.clock.advance(1)
    drain(run)
    run.append(0, [])
    drain(run)
    assert _orders(run) == start


def _orders(run: Pipeline) -> int:
    envelope, _ = written(run)[-1]
    return next(source.watermark_us for source in envelope.watermarks if source.topic == "orders")


def test_repeats_are_found_across_a_restart() -> None:
    """The deduplication window before the committed position is read again, its identities only."""
    run = pipeline()
    run.append(0, [Sent("a", run.clock.now_us(), id="1")])
    drain(run)
    run.clock.advance(19)
    run.crash_combine()
    run.append(0, [Sent("a", run.clock.now_us(), id="1"), Sent("a", run.clock.now_us(), id="2")])
    drain(run)
    assert counted(run) == {"a": 2}


def test_watermarks_are_kept_across_a_restart() -> None:
    """The first transaction after it tells the committed ones, whatever the heartbeats read again would say."""
    run = pipeline()
    for _ in range(5):
        run.append(0, [Sent("a", run.clock.now_us() - 7 * MICROS)])
        run.beat()
        run.clock.advance(1)
        drain(run)
    before = {(s.topic, s.partition): s.watermark_us for s in written(run)[-1][0].watermarks}
    run.crash_combine()
    drain(run)
    after = {(s.topic, s.partition): s.watermark_us for s in written(run)[-1][0].watermarks}
    del before["orders", 0], after["orders", 0]  # has no heartbeats: follows the clock
    assert after == before


def test_a_process_that_holds_events_back_is_known_after_a_restart() -> None:
    """However short the deduplication window is: its last heartbeat is read again while it still counts.

    ::

        second          0     1     2     3     4
        slow holds      -9
        fast beats      h     h     h     h     h
        combine                           dies  starts: the watermark is still held at -9 - 2
    """
    limits = Time(out_of_orderness_s=2, settle_s=0, idle_after_s=0, heartbeat_timeout_s=5)
    run = pipeline(msgspec.structs.replace(SETTINGS, time=limits, dedup=Dedup(window_s=0.5)))
    held_us = run.clock.now_us() - 9 * MICROS
    slow = msgspec.json.encode(events.Heartbeat("slow", run.clock.now_us(), held_us))
    run.append_raw(Message(topics.EVENTS, 0, slow, headers=schema.headers(schema.HEARTBEAT)))
    for second in range(5):
        run.beat("fast")
        if second == 3:
            run.crash_combine()
        drain(run)
        run.clock.advance(1)
    told = {(s.topic, s.partition): s.watermark_us for s in written(run)[-1][0].watermarks}
    assert told["events", 0] == held_us - 2 * MICROS
    run.clock.advance(5)
    run.beat("fast")
    drain(run)
    told = {(s.topic, s.partition): s.watermark_us for s in written(run)[-1][0].watermarks}
    assert told["events", 0] == run.clock.now_us() - 2 * MICROS


@pytest.mark.parametrize("error", [Fenced("lost"), LogUnavailable("down")])
def test_a_failed_transaction_counts_nothing_and_is_done_again(error: RetryableError) -> None:
    """State in memory is dropped and built again; identities of the failed attempt do not make it a repeat."""
    run = pipeline()
    drain(run)
    run.append(0, [Sent("a", run.clock.now_us(), id="1")])
    run.log.fail_next_commit(error)
    drain(run)
    assert counted(run) == {"a": 1}
    assert sum(part.duplicates for part in accounts(run)) == 0


def test_ids_beyond_the_bound_are_forgotten_oldest_first() -> None:
    """Memory stays bounded, and telemetry says what it costs."""
    run = pipeline(msgspec.structs.replace(SETTINGS, dedup=Dedup(window_s=20, max_ids=150)))
    for i in range(4):
        run.append(0, [Sent("a", run.clock.now_us(), id=f"{i}-{k}") for k in range(100)])
        drain(run)
        run.clock.advance(11)
    run.append(0, [Sent("a", run.clock.now_us(), id="3-0"), Sent("a", run.clock.now_us(), id="2-0")])
    drain(run)
    assert counted(run) == {"a": 401}


EVENTS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30)), max_size=40)


@settings(max_examples=40)
@given(EVENTS, st.data())
def test_any_split_into_transactions_and_any_restarts_count_each_identity_once(
    sent: list[tuple[int, int]], data: st.DataObject
) -> None:
    """(partition, id) pairs; the sum over all rows is the number of distinct ones."""
    run = pipeline()
    for partition, identity in sent:
        run.append(partition, [Sent("a", run.clock.now_us(), id=str(identity))])
        step = data.draw(st.sampled_from(["nothing", "combine", "crash", "fail"]), label="step")
        if step == "crash":
            run.crash_combine()
        elif step == "fail":
            run.log.fail_next_commit(Fenced("drawn"))
        if step != "nothing":
            run.combine(max_bytes=data.draw(st.integers(1, 10_000), label="max_bytes"))
    drain(run)
    assert counted(run).get("a", 0) == len(set(sent))
    assert sum(part.read for part in accounts(run)) == len(sent)


def test_the_committed_position_says_where_it_stands() -> None:
    """A successor can be asked without reading anything."""
    run = pipeline()
    run.append(1, [Sent("a", run.clock.now_us())])
    drain(run)
    assert run.log.committed("combine")[TopicPartition("events", 1)].offset == 1
