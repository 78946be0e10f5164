"""The writer thread against the log in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from smartscale import config
from smartscale.clock import ManualClock
from smartscale.errors import FatalLogError, LogUnavailable
from smartscale.ingest.admission import Ticket
from smartscale.ingest.batching import Packing, Parcel
from smartscale.ingest.identities import Identities
from smartscale.ingest.writer import Job, Outcome, Writer
from smartscale.log.port import Message, Record, TopicPartition
from smartscale.log.topics import specs
from smartscale.records import events, schema, topics
from smartscale.records.events import Heartbeat
from smartscale.records.events_json import EventIn, user_hasher
from smartscale.telemetry.health import Health
from smartscale.testing.memory_log import MemoryLog, MemoryPublisher

DEADLINE_S = 10.0


class FaultyLog(MemoryLog):
    """Answers every append with ``error`` while it is set, and can be held up."""

    error: Exception | None = None

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()

    def publisher(self) -> FaultyPublisher:
        return FaultyPublisher(self)


class FaultyPublisher(MemoryPublisher):
    def __init__(self, log: FaultyLog) -> None:
        super().__init__(log)
        self._faulty = log

    def append(self, messages: Sequence[Message]) -> list[int | Exception]:
        self._faulty.entered.set()
        assert self._faulty.free.wait(DEADLINE_S)
        if self._faulty.error is not None:
            return [self._faulty.error] * len(messages)
        return super().append(messages)


class Bench:
    """A writer on a faulty log; outcomes are collected as they are reported."""

    def __init__(self, partitions: int = 2) -> None:
        self.log = FaultyLog()
        settings = config.load(environment={}, flags={"topics.events": partitions})
        self.log.create(specs(settings))
        self.health = Health("ingest")
        self.outcomes: list[Outcome] = []
        self.changed = threading.Condition()
        self.ended = threading.Event()
        packing = Packing("edge-1", user_hasher(b""), 100, "lz4")
        self.writer = Writer(
            self.log, ManualClock(5_000_000), self.health, packing, 0.001, self.report, self.ended.set
        )
        self.loop = asyncio.new_event_loop()

    def report(self, outcomes: Sequence[Outcome]) -> None:
        with self.changed:
            self.outcomes.extend(outcomes)
            self.changed.notify_all()

    def put(self, *ids: str) -> None:
        made = [EventIn(service="shop", id=each) for each in ids]
        parcel = Parcel(made, np.arange(len(ids), dtype=np.int64), Identities.of([None] * len(ids)))
        self.writer.put(Job(parcel, Ticket(0, len(ids), 0), self.loop.create_future()))

    def wait(self, outcomes: int) -> list[Exception | None]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.outcomes) >= outcomes, DEADLINE_S)
            return [error for _, error in self.outcomes]

    def records(self) -> list[Record]:
        reader = self.log.reader()
        partitions = self.log.topics()[topics.EVENTS].partitions
        reader.assign({TopicPartition(topics.EVENTS, p): 0 for p in range(partitions)})
        return list(reader.poll(0.0).records)

    def ids(self) -> list[str]:
        found = [
            row["id"]
            for record in self.records()
            if schema.schema_of(record.headers) == schema.EVENTS
            for row in events.decode(record.value).to_pylist()
        ]
        return sorted(found)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    bench.writer.start()
    yield bench
    bench.log.free.set()
    bench.writer.close()
    bench.writer.join(DEADLINE_S)
    bench.loop.close()
    assert not bench.writer.is_alive()


def test_a_job_is_reported_once_it_is_in_the_log(bench: Bench) -> None:
    bench.put("a", "b")
    assert bench.wait(1) == [None]
    assert bench.ids() == ["a", "b"]
    assert bench.health.is_ready[0]


def test_what_comes_in_during_an_append_is_written_together(bench: Bench) -> None:
    """The first append is held up; three more requests become one round."""
    bench.log.free.clear()
    bench.put("a")
    assert bench.log.entered.wait(DEADLINE_S)
    for each in "bcd":
        bench.put(each)
    bench.log.free.set()
    bench.wait(4)
    assert bench.ids() == ["a", "b", "c", "d"]
    assert len(bench.records()) == 2


def test_a_heartbeat_reaches_every_partition(bench: Bench) -> None:
    bench.writer.beat(Heartbeat("edge-1", 7, 5))
    with bench.changed:
        assert bench.changed.wait_for(lambda: len(bench.records()) == 2, DEADLINE_S)
    assert {record.partition for record in bench.records()} == {0, 1}
    assert all(schema.schema_of(record.headers) == schema.HEARTBEAT for record in bench.records())


def test_an_unavailable_log_fails_the_round_and_recovers_by_itself(bench: Bench) -> None:
    """The process is not ready meanwhile, and says why."""
    bench.log.error = LogUnavailable("the broker is away")
    bench.put("a")
    assert bench.wait(1) == [bench.log.error]
    assert bench.health.is_ready == (False, "the broker is away")
    bench.log.error = None
    bench.put("a")
    assert bench.wait(2)[1] is None
    assert bench.health.is_ready[0]


def test_a_missing_topic_says_how_to_make_it() -> None:
    bench = Bench()
    bench.writer._log = MemoryLog()  # a log without topics
    bench.writer.start()
    bench.put("a")
    (error,) = bench.wait(1)
    assert "smartscale topics" in str(error)
    bench.writer.close()
    bench.writer.join(DEADLINE_S)
    bench.loop.close()


def test_a_broken_client_ends_the_writer_and_every_job_is_told() -> None:
    bench = Bench()
    bench.log.error = FatalLogError("fenced for good")
    bench.writer.start()
    bench.put("a")
    assert bench.ended.wait(DEADLINE_S)
    bench.put("b")
    errors = bench.wait(2)
    assert all(isinstance(error, FatalLogError) for error in errors)
    assert bench.writer.failure is bench.log.error
    bench.loop.close()


def test_closing_writes_what_is_there_and_the_farewell_last() -> None:
    """More jobs than fit into one round; the leaving heartbeat comes after all of them."""
    bench = Bench(partitions=1)
    for number in range(5):
        bench.put(*(f"{number}-{i}" for i in range(60)))
    bench.writer.beat(Heartbeat("edge-1", 7, 7, leaving=True))
    bench.writer.close()
    bench.writer.start()
    bench.writer.join(DEADLINE_S)
    assert bench.wait(5) == [None] * 5
    assert len(bench.ids()) == 300
    assert schema.schema_of(bench.records()[-1].headers) == schema.HEARTBEAT
    bench.loop.close()
