"""Partitions that a member wins while it reads others are read from where it asked for, without a gap."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from smartscale.clock import monotonic_s
from smartscale.log.kafka import KafkaLog, KafkaWorker
from smartscale.log.port import Message, Position, TopicPartition, TopicSpec
from smartscale.testing.kafka_broker import KafkaBroker

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(180)]

ROUNDS = 8
TURN_S = 1.5
"""Real. Long enough for what the client does half a second after an assignment."""


class Follower:
    """Reads with a worker and notes where an offset is not the one that follows."""

    def __init__(self, log: KafkaLog, slot: str) -> None:
        self.worker = log.worker("followers", ["t"], slot)
        self.gaps: list[str] = []
        self.assignments = 0
        self._next: dict[TopicPartition, int] = {}

    def read(self, seconds: float) -> None:
        until_s = monotonic_s() + seconds
        while monotonic_s() < until_s:
            polled = self.worker.poll(0.1)
            for at in polled.revoked:
                del self._next[at]
            for at in polled.assigned:
                self._next[at] = 0
                self.assignments += 1
            for record in polled.records:
                if record.offset != self._next[record.at]:
                    self.gaps.append(f"{record.at}: {record.offset} after {self._next[record.at] - 1}")
                self._next[record.at] = record.offset + 1


@contextmanager
def steady_writes(log: KafkaLog) -> Iterator[None]:
    """A record to every partition ten times a second, so that there is always something to skip."""
    stop = threading.Event()

    def write() -> None:
        publisher = log.publisher()
        while not stop.wait(0.1):
            publisher.append([Message("t", p, b"x") for p in range(4)])
        publisher.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_won_partition_is_read_without_a_gap_however_soon_its_position_is_known(
    kafka_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second member comes and goes; the first one's fetches delay whatever else the client asks the broker. Positions are
    told at once here: the earliest moment at which a seek can come."""
    monkeypatch.setattr(KafkaWorker, "_positions", lambda self, _: {at: Position(0) for at in self._unplaced})
    log = KafkaLog(kafka_broker.address)
    log.create([TopicSpec("t", 4)])
    with steady_writes(log):
        first = Follower(log, "first")
        first.read(3.0)
        for _ in range(ROUNDS):
            second = Follower(log, "second")
            beside = threading.Thread(target=second.read, args=(TURN_S,))
            beside.start()
            first.read(TURN_S)
            beside.join()
            second.worker.close()
            first.gaps += second.gaps
            first.read(TURN_S)
        first.worker.close()
    assert first.assignments > 4 + ROUNDS
    assert not first.gaps
