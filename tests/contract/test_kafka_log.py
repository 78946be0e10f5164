"""What the log on Kafka gives beyond the port's contract (``test_log.py``): settings, topics, errors, fallback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from uuid import uuid4

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package re-exports without saying so
    AdminClient,
    ConfigResource,
    ResourceType,
)

from smartscale import clock
from smartscale.errors import ConfigError, LogUnavailable, PermanentError, TopicMismatch
from smartscale.log import open_log
from smartscale.log.kafka import MAX_RECORD_BYTES, KafkaLog
from smartscale.log.port import Message, Position, TopicPartition, TopicSpec
from smartscale.testing.kafka_broker import KafkaBroker, free_port
from smartscale.testing.log_harness import first_records, until_assigned

pytestmark = pytest.mark.kafka


@pytest.fixture
def log(kafka_url: str) -> Iterator[KafkaLog]:
    with closing(KafkaLog(kafka_url.removeprefix("kafka://"))) as log:
        yield log


def name() -> str:
    return f"t-{uuid4().hex[:12]}"


class TestTopics:
    def test_topics_are_made_as_the_guarantees_need_them(self, kafka_url: str, log: KafkaLog) -> None:
        """Retention by bytes and at least a day, room for the largest record, the broker's time of writing."""
        plain, compacted, endless = name(), name(), name()
        log.create(
            [
                TopicSpec(plain, 2, retention_bytes=64 << 20),
                TopicSpec(compacted, 1, compacted=True),
                TopicSpec(endless, 1),
            ]
        )
        topics = log.topics()
        assert topics[plain] == TopicSpec(plain, 2, retention_bytes=64 << 20)
        assert topics[compacted] == TopicSpec(compacted, 1, compacted=True)
        assert topics[endless] == TopicSpec(endless, 1)
        configs = {topic: described(kafka_url, topic) for topic in (plain, compacted, endless)}
        assert {config["message.timestamp.type"] for config in configs.values()} == {"LogAppendTime"}
        assert all(int(config["max.message.bytes"]) > MAX_RECORD_BYTES for config in configs.values())
        assert int(configs[plain]["retention.ms"]) >= 86_400_000
        assert int(configs[plain]["segment.bytes"]) <= (64 << 20) / 4
        assert configs[endless]["retention.ms"] == "-1"
        assert configs[compacted]["cleanup.policy"] == "compact"

    def test_a_mismatch_says_what_is_and_what_was_asked(self, log: KafkaLog) -> None:
        topic = name()
        log.create([TopicSpec(topic, 3)])
        with pytest.raises(TopicMismatch, match=rf"{topic} has partitions 3, asked for is 2"):
            log.create([TopicSpec(topic, 2)])

    def test_internal_topics_are_left_out(self, log: KafkaLog) -> None:
        """Kafka keeps positions and transactions in topics of its own."""
        topic = name()
        log.create([TopicSpec(topic, 1)])
        with closing(log.worker(name(), [topic], "0")) as worker:
            until_assigned(worker, 1)
            assert not [t for t in log.topics() if t.startswith("__")]


def described(url: str, topic: str) -> dict[str, str]:
    admin = AdminClient({"bootstrap.servers": url.removeprefix("kafka://")})
    [answer] = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    return {key: entry.value for key, entry in answer.result(10).items()}


class TestErrors:
    def test_a_record_too_large_keeps_no_other_out(self, log: KafkaLog) -> None:
        topic = name()
        log.create([TopicSpec(topic, 1)])
        with closing(log.publisher()) as publisher:
            large, small = publisher.append(
                [Message(topic, 0, bytes(MAX_RECORD_BYTES + 1)), Message(topic, 0, b"small")]
            )
        assert isinstance(large, PermanentError)
        assert "4,194,304 bytes" in str(large)
        assert small == 0

    def test_the_largest_record_passes(self, log: KafkaLog) -> None:
        topic = name()
        log.create([TopicSpec(topic, 1)])
        value = bytes(MAX_RECORD_BYTES - 1024)
        with closing(log.publisher()) as publisher:
            assert publisher.append([Message(topic, 0, value)]) == [0]
        with closing(log.reader()) as reader:
            reader.assign({TopicPartition(topic, 0): 0})
            assert first_records(reader, 1)[0].value == value

    def test_an_unknown_setting_is_told(self, kafka_url: str) -> None:
        log = open_log(kafka_url, {"sasl.usrname": "me"})
        with pytest.raises(ConfigError, match=r"sasl.usrname.*\[kafka\]"):
            log.topics()

    def test_no_setting_weakens_a_guarantee(self, kafka_url: str) -> None:
        """Dirty reads and skipped gaps cannot be asked for; tunables can."""
        topic = name()
        log = open_log(kafka_url, {"isolation.level": "read_uncommitted", "fetch.wait.max.ms": "50"})
        log.create([TopicSpec(topic, 1)])
        with closing(log.worker(name(), [topic], "0")) as worker, closing(log.reader()) as reader:
            until_assigned(worker, 1)
            with pytest.raises(ZeroDivisionError):
                with worker.transaction() as transaction:
                    transaction.publish([Message(topic, 0, b"dirty")])
                    raise ZeroDivisionError
            with worker.transaction() as transaction:
                transaction.publish([Message(topic, 0, b"clean")])
                transaction.commit_positions({TopicPartition(topic, 0): Position(0)})
            reader.assign({TopicPartition(topic, 0): 0})
            assert [record.value for record in first_records(reader, 1)] == [b"clean"]

    def test_an_unreachable_broker_is_told_within_ten_seconds(self) -> None:
        """By every call, with the address and the remedy; nothing hangs."""
        address = f"127.0.0.1:{free_port()}"
        at = TopicPartition("events", 0)
        calls: dict[str, Callable[[KafkaLog], object]] = {
            "create": lambda log: log.create([TopicSpec("events", 1)]),
            "topics": lambda log: log.topics(),
            "bounds": lambda log: log.bounds([at]),
            "offset_at": lambda log: log.offset_at(at, 0),
            "committed": lambda log: log.committed("group"),
            "reader": lambda log: log.reader().assign({at: 0}),
            "worker": lambda log: log.worker("group", ["events"], "0"),
            "publisher": lambda log: raised(log.publisher().append([Message("events", 0, b"x")] * 100)),
        }
        took: dict[str, float] = {}
        told: dict[str, str] = {}

        def call(what: str) -> None:
            start = clock.monotonic_s()
            try:
                calls[what](KafkaLog(address))
            except LogUnavailable as error:
                told[what] = str(error)
            took[what] = clock.monotonic_s() - start

        threads = [threading.Thread(target=call, args=(what,)) for what in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told.keys() == calls.keys()
        assert all(address in message and "make kafka" in message for message in told.values())
        assert max(took.values()) < 12, "10 s, and room for a busy machine"


def raised(answers: list[int | Exception]) -> None:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


class TestGroupProtocols:
    def test_a_broker_without_the_new_protocol_gets_the_old_one(self) -> None:
        """And `classic` members share, hand over and commit just the same."""
        with KafkaBroker(settings={"group.coordinator.rebalance.protocols": "classic"}) as broker:
            shares_and_hands_over(KafkaLog(broker.address))

    def test_the_protocol_can_be_chosen(self, kafka_url: str) -> None:
        shares_and_hands_over(KafkaLog(kafka_url.removeprefix("kafka://"), {"group.protocol": "classic"}))


def shares_and_hands_over(log: KafkaLog) -> None:
    topic, group = name(), name()
    every = {TopicPartition(topic, 0), TopicPartition(topic, 1)}
    log.create([TopicSpec(topic, 2)])
    one = log.worker(group, [topic], "0")
    until_assigned(one, 2)
    with one.transaction() as transaction:
        transaction.commit_positions({at: Position(0, str(at.partition)) for at in every})
    with closing(log.worker(group, [topic], "1")) as two:
        owned_one, owned_two = set(every), set[TopicPartition]()
        deadline = clock.monotonic_s() + 30
        while len(owned_one) != 1 or len(owned_two) != 1:
            assert clock.monotonic_s() < deadline, f"not shared: {owned_one}, {owned_two}"
            for worker, owned in ((one, owned_one), (two, owned_two)):
                poll = worker.poll(0.1)
                owned.difference_update(poll.revoked)
                owned.update(poll.assigned)
                assert {poll.assigned[at] for at in poll.assigned} <= {Position(0, "0"), Position(0, "1")}
            assert not owned_one & owned_two
        one.close()
        while owned_two != every:
            assert clock.monotonic_s() < deadline, f"not handed over: {owned_two}"
            poll = two.poll(0.1)
            owned_two = (owned_two - poll.revoked) | poll.assigned.keys()
