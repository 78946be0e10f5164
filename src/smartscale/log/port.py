"""The event log: the one port through which stages talk.

Guarantees every adapter gives (``tests/contract/test_log.py`` holds each of them to it):

1. **Order.** Records of one partition are read in the order of their offsets; offsets only rise. Offsets may
   have gaps (Kafka's control records), so nothing may do arithmetic on them: the position after a record is
   ``record.offset + 1``, and "the end" is told by ``Poll.ends``.
2. **Durability.** When ``Publisher.append`` returns an offset, that record survives the death of any process
   and, on the embedded log, loss of power.
3. **Atomicity.** A transaction publishes its messages and moves its positions in one step, or does nothing.
   Readers never see a part of it, nor anything of one that was aborted.
4. **Fencing.** A transaction that speaks for a partition which has another owner by now fails with ``Fenced``
   and changes nothing. A transaction must send a position for every partition it speaks for, even if
   unchanged: fencing happens there.
5. **Recovery.** On every assignment the committed position (offset and metadata) is told, and reading starts
   there unless ``seek`` moves it first. No position committed yet: reading starts at the beginning.
6. **Gaps are told.** A position that retention has removed raises ``OffsetOutOfRange``; nothing is skipped.
7. **Bounded.** ``poll`` returns at most ``max_bytes`` of values (but at least one record, if there is one) and
   waits at most ``timeout_s``, real time.

Objects made by a ``Log`` belong to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import msgspec

Headers = Mapping[str, bytes]


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be. ``retention_bytes`` is per topic on the embedded log and per partition on Kafka;
    0 means keep all. ``compacted`` keeps at least the last record of each key instead (an empty value removes
    the key)."""

    name: str
    partitions: int
    retention_bytes: int = 0
    compacted: bool = False


class Message(msgspec.Struct, frozen=True, gc=False):
    """A record to be written. A struct without garbage collection, because a transaction may hold a hundred thousand."""

    topic: str
    partition: int
    value: bytes
    key: bytes | None = None
    headers: Headers = {}


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record that was read. ``timestamp_ms`` is the wall-clock time of writing. A struct, because a third party's topic
    brings hundreds of thousands a second: made in a tenth of a frozen dataclass's time."""

    topic: str
    partition: int
    offset: int
    value: bytes
    key: bytes | None
    headers: Headers
    timestamp_ms: int

    @property
    def at(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a group resumes: the next offset to read, and up to 4,000 bytes of the stage's own metadata."""

    offset: int
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class Poll:
    """What one call of ``Worker.poll`` saw.

    ``revoked`` partitions are no longer owned: drop their state. ``assigned`` partitions are owned from now on,
    with their committed position (None: nothing committed yet, reading starts at the beginning). A call that
    reports an assignment returns no records of it, so the stage may ``seek`` before the first one. A partition
    may be in both (after ``rewind``, or lost and won again): drop first, then build. ``ends`` are the owned
    partitions that have been read to their present end with this call.
    """

    records: Sequence[Record] = ()
    assigned: Mapping[TopicPartition, Position | None] = field(default_factory=dict)
    revoked: frozenset[TopicPartition] = frozenset()
    ends: frozenset[TopicPartition] = frozenset()


class Bounds(NamedTuple):
    """Offsets that exist now: ``begin`` is the first that can be read, ``end`` the one the next record gets at
    the earliest (only committed records count)."""

    begin: int
    end: int


class Transaction(AbstractContextManager["Transaction"], Protocol):
    """One atomic step. Leaving the ``with`` block commits; leaving it by an exception aborts.

    Raises on commit: ``Fenced`` (nothing happened: call ``Worker.rewind``), ``RetryableError`` (nothing
    happened, or the outcome was rolled back: call ``Worker.rewind``), ``FatalLogError`` (end the process).
    """

    def publish(self, messages: Iterable[Message]) -> None:
        """Add messages. May be called many times; large transactions may be sent as they grow."""
        ...

    def commit_positions(self, positions: Mapping[TopicPartition, Position]) -> None:
        """Set the group's positions, one for every partition this transaction speaks for."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Worker(Protocol):
    """A member of a group: reads its share of the partitions and writes in transactions."""

    def poll(self, timeout_s: float, max_bytes: int = 16 << 20) -> Poll:
        """Read on. Also keeps the membership alive, so call it at least every few seconds.

        Raises ``OffsetOutOfRange`` (guarantee 6), ``LogUnavailable``, ``FatalLogError``."""
        ...

    def seek(self, at: TopicPartition, offset: int) -> None:
        """The next record of this owned partition will be the first at or after ``offset``."""
        ...

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Return no records of these owned partitions until ``resume``."""
        ...

    def resume(self, partitions: Iterable[TopicPartition]) -> None: ...

    def transaction(self) -> Transaction: ...

    def rewind(self) -> None:
        """After a failed transaction: the next poll reports everything still owned as revoked and assigned
        again at its committed position."""
        ...

    def close(self) -> None:
        """Leave the group at once (others need not wait for a time-out). Never commits."""
        ...


class Reader(Protocol):
    """A free-standing reader: any partitions, any positions, no group, no lasting effect."""

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from these offsets (replaces what was assigned before). An offset before
        ``begin`` raises ``OffsetOutOfRange`` on the next poll."""
        ...

    def poll(self, timeout_s: float, max_bytes: int = 16 << 20) -> Poll:
        """As ``Worker.poll``; ``assigned`` and ``revoked`` stay empty."""
        ...

    def close(self) -> None: ...


class Publisher(Protocol):
    """Durable appends outside a transaction."""

    def append(self, messages: Sequence[Message]) -> list[int | Exception]:
        """Write all, wait until they are durable, and return each one's offset or the error that kept it out.

        One call is one group commit: gather what has come in since the last call. The embedded log writes
        all or none; Kafka may write some. A message whose answer is an error may still have been written
        (its acknowledgement was lost): a retry must carry the same event ids."""
        ...

    def close(self) -> None: ...


class Log(Protocol):
    """An event log."""

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """Create what is missing and verify the rest. Safe to call at the same time from several processes.

        Raises ``TopicMismatch`` naming topic and setting; only a larger partition count is ever applied to an
        existing topic, and only where the spec's topic is not compacted."""
        ...

    def topics(self) -> Mapping[str, TopicSpec]:
        """The topics that exist now (internal ones left out)."""
        ...

    def publisher(self) -> Publisher: ...

    def reader(self) -> Reader: ...

    def worker(self, group: str, topics: Sequence[str], slot: str) -> Worker:
        """Join ``group`` to share the partitions of ``topics``. ``slot`` is stable for this member: a
        successor with the same group and slot fences its predecessor at once."""
        ...

    def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """Raises ``UnknownTopic``."""
        ...

    def offset_at(self, at: TopicPartition, wall_ms: int) -> int:
        """The first offset written at or after this wall-clock time; the end if there is none."""
        ...

    def committed(self, group: str) -> Mapping[TopicPartition, Position]:
        """The group's committed positions."""
        ...

    def close(self) -> None: ...


def lag(log: Log, group: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
    """Records not yet consumed by ``group``, per partition (on Kafka an upper bound: control records count)."""
    specs = log.topics()
    partitions = [TopicPartition(t, p) for t in topics if t in specs for p in range(specs[t].partitions)]
    committed = log.committed(group)
    return {
        at: bounds.end - max(bounds.begin, committed[at].offset if at in committed else bounds.begin)
        for at, bounds in log.bounds(partitions).items()
    }


def append_all(log: Log, messages: Sequence[Message]) -> None:
    """Append durably, for those who write now and then. Raises the first message's error that was kept out."""
    publisher = log.publisher()
    try:
        for answer in publisher.append(messages):
            if isinstance(answer, Exception):
                raise answer
    finally:
        publisher.close()


def read_all(log: Log, at: TopicPartition, first: int | None = None) -> Iterator[Record]:
    """Every record of a partition from ``first`` (default: the beginning) to its end as it is now found.

    Raises ``OffsetOutOfRange`` if ``first`` was removed by retention."""
    reader = log.reader()
    try:
        reader.assign({at: log.bounds([at])[at].begin if first is None else first})
        at_end = False
        while not at_end:
            polled = reader.poll(1.0)
            yield from polled.records
            at_end = at in polled.ends
    finally:
        reader.close()
