"""The writer thread against the log in memory."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Sequence

import msgspec
import pytest

from smartscale import config
from smartscale.clock import ManualClock
from smartscale.errors import FatalLogError, LogUnavailable
from smartscale.ingest.batching import Packing
from smartscale.ingest.cardinality import Guard
from smartscale.ingest.cardinality import Limits as Labels
from smartscale.ingest.decode import Job, Outcome, Rules
from smartscale.ingest.formats import JSON, Format
from smartscale.ingest.limits import Limits, Screen
from smartscale.ingest.refused import Letters
from smartscale.ingest.writer import Writer
from smartscale.log.port import Message, Record, TopicPartition
from smartscale.log.topics import specs
from smartscale.records import dead_letters, events, schema, topics
from smartscale.records.dead_letters import DeadLetter
from smartscale.records.events import Heartbeat
from smartscale.records.events_json import Decoded, user_hasher
from smartscale.telemetry.health import Health
from smartscale.testing.memory_log import MemoryLog, MemoryPublisher

DEADLINE_S = 10.0


class FaultyLog(MemoryLog):
    """Answers every append with ``error`` while it is set, and can be held up."""

    error: Exception | None = None

    def __init__(self) -> None:
        super().__init__()
        self.appends = 0
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
        self._faulty.appends += 1
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
        self.writer = Writer(
            self.log,
            ManualClock(5_000_000),
            self.health,
            Rules(0, 1 << 16, 20_000, 1 << 20, user_hasher(b"")),
            Packing("edge-1", 100, "lz4"),
            Screen(Limits(256, 10, 3, 1000), Guard(Labels(services=2, names=0, ttl_s=60))),
            Letters(5),
            0.001,
            self.report,
            self.ended.set,
        )

    def report(self, outcomes: Sequence[Outcome]) -> None:
        with self.changed:
            self.outcomes.extend(outcomes)
            self.changed.notify_all()

    def put(self, *ids: str) -> None:
        self.put_body(msgspec.json.encode([{"service": "shop", "id": each} for each in ids]))

    def put_body(self, body: bytes) -> None:
        self.writer.put(Job(JSON, {}, body, received_us=5_000_000))

    def wait(self, outcomes: int) -> list[Exception | None]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.outcomes) >= outcomes, DEADLINE_S)
            return [outcome.error for outcome in self.outcomes]

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
    assert bench.log.appends == 2


def test_each_body_gets_its_own_verdicts(bench: Bench) -> None:
    """One round of a good body, one that is no JSON, one with a refused event and a repeat."""
    bench.put("a")
    bench.wait(1)
    bench.log.free.clear()
    bench.put("b")
    assert bench.log.entered.wait(DEADLINE_S)
    bench.put("c", "d")
    bench.put_body(b"no JSON")
    bench.put_body(b'[{"service":"shop","id":"e"},{"service":""},{"service":"shop","id":"a"}]')
    bench.log.free.set()
    assert bench.wait(5) == [None] * 5
    good, malformed, mixed = bench.outcomes[2:]
    assert (good.count, good.accepted) == (2, 2)
    assert malformed.problem is not None
    assert "not valid JSON" in malformed.problem.detail
    assert (mixed.count, mixed.accepted, list(mixed.repeats)) == (3, 1, [2])
    assert [refusal.index for refusal in mixed.refused] == [1]
    assert bench.ids() == ["a", "b", "c", "d", "e"]


def test_bodies_that_are_large_once_unpacked_are_left_to_later_rounds(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of 60,000 bytes, each packed into some 100: a round takes up twice 50,000 at most."""
    monkeypatch.setattr("smartscale.ingest.writer.ROUND_BYTES", 50_000)
    bench.log.free.clear()
    bench.put("a")
    assert bench.log.entered.wait(DEADLINE_S)
    for each in "bcd":
        body = gzip.compress(b'[{"service":"shop","id":"%b"}%b]' % (each.encode(), b" " * 60_000))
        bench.writer.put(Job(JSON, {"content-encoding": "gzip"}, body, received_us=5_000_000))
    bench.log.free.set()
    assert bench.wait(4) == [None] * 4
    assert bench.ids() == ["a", "b", "c", "d"]
    assert bench.log.appends == 3


def test_a_decoder_that_breaks_takes_nobody_with_it(bench: Bench) -> None:
    def broken(*_: object) -> Decoded:
        raise RuntimeError("a mistake of ours")

    bench.writer.put(Job(Format("broken", broken), {}, b"x", received_us=5_000_000))
    bench.put("a")
    errors = bench.wait(2)
    assert sorted(repr(error) for error in errors) == ["None", "RuntimeError('a mistake of ours')"]
    assert bench.ids() == ["a"]


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


def test_closing_writes_what_is_there_and_the_farewell_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """More jobs than fit into one round; the leaving heartbeat comes after all of them."""
    monkeypatch.setattr("smartscale.ingest.writer.ROUND_BYTES", 5000)
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


def letters(bench: Bench) -> list[DeadLetter]:
    return [dead_letters.decode(record.value) for record in bench.log.records(topics.DEAD_LETTERS)]


def test_refused_events_are_told_in_dead_letters_beside_the_round() -> None:
    """Refused by the decoder, by a limit, and for a service too many; each with the event, the good one is written."""
    bench = Bench()
    body = [
        {"service": "shop", "id": "good"},
        {"service": ""},
        {"service": "shop", "id": "x" * 11, "attributes": {"a": 1}},
        {"service": "second"},
        {"service": "third", "name": "GET /"},
    ]
    bench.put_body(msgspec.json.encode(body))
    bench.writer.start()
    bench.wait(1)
    bench.writer.close()
    bench.writer.join()
    (outcome,) = bench.outcomes
    assert (outcome.accepted, sorted(refusal.index for refusal in outcome.refused)) == (2, [1, 2, 4])
    assert {letter.reason: (letter.service, letter.tenant) for letter in letters(bench)} == {
        "invalid-service": ("", "default"),
        "long-id": ("shop", "default"),
        "too-many-services": ("third", "default"),
    }
    kept = {letter.reason: msgspec.json.decode(letter.payload) for letter in letters(bench)}
    assert kept["invalid-service"] == {"service": ""}
    assert kept["long-id"]["attributes"] == {"a": 1}
    assert kept["too-many-services"]["name"] == "GET /"


def test_a_round_of_nothing_but_refusals_is_told_too_and_the_last_numbers_when_leaving() -> None:
    """Letters(5) keeps 25 at once; the rest is one number, written at the latest with the last heartbeat."""
    bench = Bench()
    bench.put_body(msgspec.json.encode([{"service": ""}] * 100))
    bench.writer.beat(Heartbeat("edge-1", 1, 1, leaving=True))
    bench.writer.start()
    bench.wait(1)
    bench.writer.close()
    bench.writer.join()
    assert sum(letter.count for letter in letters(bench)) == 100
    assert len(letters(bench)) == 26


def test_letters_that_cannot_be_written_keep_no_verdict_back() -> None:
    bench = Bench()
    bench.log.error = LogUnavailable("away")
    bench.put_body(msgspec.json.encode([{"service": ""}]))
    bench.writer.start()
    assert bench.wait(1) == [None]
    assert bench.outcomes[0].accepted == 0
    bench.writer.close()
    bench.writer.join()
