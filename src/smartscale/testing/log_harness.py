"""What the log's contract suite needs of an adapter, so that each guarantee is one test for all of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field

from smartscale import clock
from smartscale.log.port import (
    Log,
    Message,
    Poll,
    Publisher,
    Reader,
    Record,
    TopicPartition,
    TopicSpec,
    Worker,
)

PATIENCE_S = 60.0
"""Real. How long a test waits for what must come: longer than a Kafka group takes to form on a busy machine."""


RETENTION_BYTES = 1000
"""Ten records of 200 bytes exceed it. Kafka removes whole segments, so none of these by itself."""


@dataclass(slots=True)
class LogHarness:
    """One adapter under test, with names no other test uses (one Kafka broker serves all)."""

    log: Log
    cut: Callable[[TopicPartition], int]
    """Removes the oldest of ten records in a topic of ``RETENTION_BYTES``, as retention does; the new beginning."""
    closing: ExitStack
    unique: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def name(self, name: str) -> str:
        return f"{name}-{self.unique}"

    @property
    def group(self) -> str:
        return self.name("group")

    def topic(
        self, name: str = "in", partitions: int = 1, retention_bytes: int = 0, compacted: bool = False
    ) -> str:
        """Create a topic; its full name."""
        self.log.create([TopicSpec(self.name(name), partitions, retention_bytes, compacted)])
        return self.name(name)

    def publisher(self) -> Publisher:
        return self.closing.enter_context(closing(self.log.publisher()))

    def reader(self) -> Reader:
        return self.closing.enter_context(closing(self.log.reader()))

    def worker(self, *topics: str, slot: str = "0") -> Worker:
        """Closed at the end of the test, unless ``leaving`` did before."""
        return self.log.worker(self.group, topics, slot)

    def append(self, topic: str, *values: bytes, partition: int = 0, key: bytes | None = None) -> list[int]:
        """Append values to one partition; their offsets."""
        with closing(self.log.publisher()) as publisher:
            answers = publisher.append([Message(topic, partition, value, key) for value in values])
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return [answer for answer in answers if isinstance(answer, int)]

    def read_all(self, *partitions: TopicPartition) -> list[Record]:
        """Everything in these partitions, from their beginnings to their present ends."""
        with closing(self.log.reader()) as reader:
            reader.assign({at: bounds.begin for at, bounds in self.log.bounds(partitions).items()})
            records: list[Record] = []
            missing = set(partitions)
            for poll in polls(reader):
                records += poll.records
                missing -= poll.ends
                if not missing:
                    return records
        raise AssertionError("unreachable: polls() fails first")


def polls(source: Worker | Reader, max_bytes: int = 16 << 20) -> Iterator[Poll]:
    """Polls until the caller breaks off; fails after ``PATIENCE_S``."""
    deadline = clock.monotonic_s() + PATIENCE_S
    while clock.monotonic_s() < deadline:
        yield source.poll(0.1, max_bytes)
    raise AssertionError(f"what was waited for did not come within {PATIENCE_S:g} s")


def first_records(source: Worker | Reader, count: int) -> list[Record]:
    """The next ``count`` records or more (with those of the same poll)."""
    records: list[Record] = []
    for poll in polls(source):
        records += poll.records
        if len(records) >= count:
            return records
    raise AssertionError("unreachable: polls() fails first")


def until_assigned(worker: Worker, count: int) -> Poll:
    """Poll until ``count`` partitions are owned; the last poll. Records on the way fail the test."""
    owned: set[TopicPartition] = set()
    for poll in polls(worker):
        owned = (owned - poll.revoked) | poll.assigned.keys()
        assert not poll.records, "records came before all partitions were assigned"
        if len(owned) == count:
            return poll
    raise AssertionError("unreachable: polls() fails first")


@contextmanager
def leaving(worker: Worker) -> Iterator[Worker]:
    """Closes the worker in any case."""
    with closing(worker):
        yield worker
