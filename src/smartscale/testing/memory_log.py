"""The event log in memory: the plain reference of the port, for tests.

One lock, lists and dictionaries; nothing is clever. Workers, readers and publishers of one ``MemoryLog`` see each
other, from any thread. Memberships do not run out by themselves: ``expire`` ends one. It keeps the guarantees of
``smartscale.log.port`` except surviving its process.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from smartscale import clock
from smartscale.errors import (
    FatalLogError,
    Fenced,
    OffsetOutOfRange,
    SmartScaleError,
    UnknownTopic,
)
from smartscale.log.assignment import moves
from smartscale.log.port import Bounds, Message, Poll, Position, Record, TopicPartition, TopicSpec
from smartscale.log.rules import check_message, check_positions, check_spec, record_bytes, unknown


@dataclass(slots=True)
class _Partition:
    records: list[Record] = field(default_factory=list)
    begin: int = 0
    end: int = 0
    last_ms: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Group:
    slots: dict[int, str] = field(default_factory=dict)
    """Live members."""
    topics: dict[int, frozenset[str]] = field(default_factory=dict)
    owners: dict[TopicPartition, int] = field(default_factory=dict)
    epochs: dict[TopicPartition, int] = field(default_factory=dict)
    """How often a partition has been given to somebody."""
    positions: dict[TopicPartition, Position] = field(default_factory=dict)

    def remove(self, member: int) -> None:
        self.slots.pop(member, None)
        self.topics.pop(member, None)
        self.owners = {at: owner for at, owner in self.owners.items() if owner != member}

    def give(self, at: TopicPartition, member: int) -> None:
        self.owners[at] = member
        self.epochs[at] = self.epochs.get(at, 0) + 1


class MemoryLog:
    """A ``Log`` in this process. ``wall_ms`` gives the records' timestamps."""

    def __init__(self, wall_ms: Callable[[], int] = clock.wall_ms) -> None:
        self._wall_ms = wall_ms
        self._specs: dict[str, TopicSpec] = {}
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._groups: dict[str, _Group] = {}
        self._members = 0
        self._commit_failure: SmartScaleError | None = None
        self._commit_answer_lost = False
        self._before_commit: Callable[[], None] | None = None
        self._append_failure: SmartScaleError | None = None
        self._changed = threading.Condition()

    # Switches for tests.

    def fail_next_commit(self, error: SmartScaleError, answer_lost: bool = False) -> None:
        """The next transaction fails with ``error`` and changes nothing; with ``answer_lost`` it is carried out
        all the same, if it may be, so that the writer does not know."""
        with self._changed:
            self._commit_failure, self._commit_answer_lost = error, answer_lost

    def before_next_commit(self, call: Callable[[], None] | None) -> None:
        """The next writer of a transaction stops just before its commit for as long as ``call`` takes, which may step
        others; None takes that back."""
        with self._changed:
            self._before_commit = call

    def fail_next_append(self, error: SmartScaleError) -> None:
        """The next ``Publisher.append`` answers ``error`` for every message and writes none."""
        with self._changed:
            self._append_failure = error

    def expire(self, group: str, slot: str) -> None:
        """End the membership of ``slot`` as if it had not polled for too long: its transactions are ``Fenced``,
        its partitions go to the others; its next poll joins again."""
        with self._changed:
            state = self._group(group)
            for member in [m for m, s in state.slots.items() if s == slot]:
                state.remove(member)
            self._changed.notify_all()

    def records(self, topic: str) -> list[Record]:
        """All records of a topic, by partition and offset."""
        with self._changed:
            return [
                record
                for at, partition in sorted(self._partitions.items(), key=lambda item: item[0])
                if at.topic == topic
                for record in partition.records
            ]

    def restore(self, records: Iterable[Record]) -> None:
        """Append records read elsewhere, each at its own offset and time of writing; gaps between offsets stay."""
        with self._changed:
            for record in records:
                partition = self._partition(record.at)
                partition.records.append(record)
                partition.end, partition.last_ms = record.offset + 1, record.timestamp_ms
                partition.bytes += record_bytes(record)
            self._changed.notify_all()

    # The port.

    def create(self, specs: Sequence[TopicSpec]) -> None:
        with self._changed:
            for spec in specs:
                have = self._specs.get(spec.name)
                if have is not None:
                    check_spec(have, spec)
                self._specs[spec.name] = spec
                for p in range(spec.partitions):
                    self._partitions.setdefault(TopicPartition(spec.name, p), _Partition())
            self._changed.notify_all()

    def topics(self) -> Mapping[str, TopicSpec]:
        with self._changed:
            return dict(self._specs)

    def publisher(self) -> MemoryPublisher:
        return MemoryPublisher(self)

    def reader(self) -> MemoryReader:
        return MemoryReader(self)

    def worker(self, group: str, topics: Sequence[str], slot: str) -> MemoryWorker:
        return MemoryWorker(self, group, topics, slot)

    def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        with self._changed:
            found = {at: self._partition(at) for at in partitions}
            return {at: Bounds(partition.begin, partition.end) for at, partition in found.items()}

    def offset_at(self, at: TopicPartition, wall_ms: int) -> int:
        with self._changed:
            partition = self._partition(at)
            later = (r.offset for r in partition.records if r.timestamp_ms >= wall_ms)
            return next(later, partition.end)

    def committed(self, group: str) -> Mapping[TopicPartition, Position]:
        with self._changed:
            return dict(self._groups[group].positions) if group in self._groups else {}

    def close(self) -> None:
        """Nothing to let go of."""

    # What the objects below share; the lock is held.

    def _group(self, name: str) -> _Group:
        return self._groups.setdefault(name, _Group())

    def _partition(self, at: TopicPartition) -> _Partition:
        if at not in self._partitions:
            raise unknown(at)
        return self._partitions[at]

    def _join(self, group: str, topics: Sequence[str], slot: str) -> int:
        state = self._group(group)
        self._members += 1
        member = self._members
        for before in [m for m, s in state.slots.items() if s == slot]:
            inherited = [at for at, owner in state.owners.items() if owner == before]
            state.remove(before)
            for at in inherited:
                state.give(at, member)
        state.slots[member] = slot
        state.topics[member] = frozenset(topics)
        self._changed.notify_all()
        return member

    def _write(self, messages: Sequence[Message]) -> list[int]:
        """All or nothing: ``messages`` have been checked."""
        offsets = []
        for message in messages:
            at = TopicPartition(message.topic, message.partition)
            partition = self._partition(at)
            offsets.append(partition.end)
            partition.last_ms = max(partition.last_ms, self._wall_ms())
            record = Record(
                message.topic,
                message.partition,
                partition.end,
                message.value,
                message.key,
                dict(message.headers),
                partition.last_ms,
            )
            partition.end += 1
            if self._specs[message.topic].compacted:
                partition.records = [r for r in partition.records if r.key != message.key]
                if not message.value:
                    continue
            partition.records.append(record)
            partition.bytes += record_bytes(record)
        for topic in {message.topic for message in messages}:
            self._retain(self._specs[topic])
        self._changed.notify_all()
        return offsets

    def _retain(self, spec: TopicSpec) -> None:
        """Drop the oldest records beyond the topic's bytes; its newest always stays."""
        if spec.compacted or not spec.retention_bytes:
            return
        of_topic = [p for at, p in self._partitions.items() if at.topic == spec.name]
        total = sum(p.bytes for p in of_topic)
        if total <= spec.retention_bytes:
            return
        oldest_first = sorted(
            (r for p in of_topic for r in p.records), key=lambda r: (r.timestamp_ms, r.partition, r.offset)
        )
        for record in oldest_first[:-1]:
            if total <= spec.retention_bytes:
                return
            total -= record_bytes(record)
            partition = self._partitions[record.at]
            partition.records.remove(record)
            partition.begin = record.offset + 1
            partition.bytes -= record_bytes(record)

    def _check(self, messages: Sequence[Message]) -> None:
        for message in messages:
            check_message(self._specs.get(message.topic), message)


class _Cursor:
    """Positions in some partitions and reading on from there. The log's lock is held."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.positions: dict[TopicPartition, int | None] = {}
        """None: at the beginning, wherever that is at the next fetch."""
        self.paused: set[TopicPartition] = set()
        self.told: set[TopicPartition] = set()
        """Partitions whose end has been reported and that have not moved since."""
        self._turn = 0

    def place(self, at: TopicPartition, offset: int | None) -> None:
        self.positions[at] = offset
        self.told.discard(at)

    def drop(self, at: TopicPartition) -> None:
        self.positions.pop(at, None)
        self.paused.discard(at)
        self.told.discard(at)

    def fetch(self, max_bytes: int) -> tuple[Poll, bool]:
        """What can be read now, and whether that is any news."""
        active = [at for at in sorted(self.positions) if at not in self.paused]
        for at in active:
            partition, offset = self._log._partition(at), self.positions[at]
            if offset is None:
                self.positions[at] = partition.begin
            elif not partition.begin <= offset <= partition.end:
                raise OffsetOutOfRange(
                    f"{at}: offset {offset} is outside the log, which holds {partition.begin} to {partition.end}"
                )
        self._turn += 1
        turn = self._turn % len(active) if active else 0
        records: list[Record] = []
        left = max_bytes
        for done, at in enumerate(active[turn:] + active[:turn]):
            if left > 0 or not records:
                left -= self._fetch_one(at, left // (len(active) - done), left, records)
        ends = frozenset(at for at in active if self.positions[at] == self._log._partition(at).end)
        news = bool(records) or not ends <= self.told
        self.told = set(ends)
        return Poll(records=records, ends=ends), news

    def _fetch_one(self, at: TopicPartition, share: int, left: int, records: list[Record]) -> int:
        """Read ``at`` until its share is used; the bytes read."""
        partition = self._log._partition(at)
        used = 0
        first = bisect_left(partition.records, self.positions[at] or 0, key=lambda r: r.offset)
        for record in partition.records[first:]:
            if records and used + len(record.value) > left:
                return used
            records.append(record)
            self.positions[at] = record.offset + 1
            used += len(record.value)
            if used >= share:
                return used
        self.positions[at] = partition.end
        return used


class MemoryPublisher:
    """A ``Publisher``."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def append(self, messages: Sequence[Message]) -> list[int | Exception]:
        with self._log._changed:
            failure, self._log._append_failure = self._log._append_failure, None
            if failure is not None:
                return [failure] * len(messages)
            try:
                self._log._check(messages)
            except UnknownTopic as error:
                return [error] * len(messages)
            return list(self._log._write(messages))

    def close(self) -> None:
        """Nothing to let go of."""


class MemoryReader:
    """A ``Reader``."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._cursor = _Cursor(log)

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        with self._log._changed:
            self._cursor = _Cursor(self._log)
            for at, offset in positions.items():
                self._log._partition(at)
                self._cursor.place(at, offset)

    def poll(self, timeout_s: float, max_bytes: int = 16 << 20) -> Poll:
        deadline = clock.monotonic_s() + timeout_s
        with self._log._changed:
            while True:
                poll, news = self._cursor.fetch(max_bytes)
                left_s = deadline - clock.monotonic_s()
                if news or left_s <= 0:
                    return poll
                self._log._changed.wait(left_s)

    def close(self) -> None:
        """Nothing to let go of."""


class MemoryWorker:
    """A ``Worker``."""

    def __init__(self, log: MemoryLog, group: str, topics: Sequence[str], slot: str) -> None:
        self._log = log
        self._group = group
        self._topics = topics
        self._slot = slot
        self._cursor = _Cursor(log)
        self._epochs: dict[TopicPartition, int] = {}
        """What this worker believes it owns."""
        self._rewind = False
        with log._changed:
            for topic in topics:
                log._partition(TopicPartition(topic, 0))
            self._member = log._join(group, topics, slot)

    def poll(self, timeout_s: float, max_bytes: int = 16 << 20) -> Poll:
        deadline = clock.monotonic_s() + timeout_s
        with self._log._changed:
            while True:
                change = self._balance()
                if change is not None:
                    return change
                poll, news = self._cursor.fetch(max_bytes)
                left_s = deadline - clock.monotonic_s()
                if news or left_s <= 0:
                    return poll
                self._log._changed.wait(left_s)

    def _balance(self) -> Poll | None:
        """Give up and take partitions; None if nothing has changed."""
        log, state = self._log, self._log._group(self._group)
        if self._member not in state.slots:
            if self._slot in state.slots.values():
                raise FatalLogError(
                    f"slot {self._slot} of group {self._group} has a successor; end this process"
                )
            self._member = log._join(self._group, self._topics, self._slot)
        todo = moves(self._member, log._partitions, state.topics, state.owners)
        for at in todo.give_up:
            del state.owners[at]
        for at in todo.take:
            state.give(at, self._member)
        if todo.give_up or todo.take:
            log._changed.notify_all()
        owned = {at: state.epochs[at] for at, owner in state.owners.items() if owner == self._member}
        stays = {} if self._rewind else {at: e for at, e in owned.items() if self._epochs.get(at) == e}
        revoked = frozenset(self._epochs.keys() - stays.keys())
        assigned = {at: state.positions.get(at) for at in sorted(owned.keys() - stays.keys())}
        self._rewind, self._epochs = False, owned
        for at in revoked:
            self._cursor.drop(at)
        for at, position in assigned.items():
            self._cursor.place(at, position.offset if position else None)
        return Poll(assigned=assigned, revoked=revoked) if assigned or revoked else None

    def seek(self, at: TopicPartition, offset: int) -> None:
        with self._log._changed:
            self._owned(at)
            self._cursor.place(at, offset)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        with self._log._changed:
            for at in partitions:
                self._owned(at)
                self._cursor.paused.add(at)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        with self._log._changed:
            self._cursor.paused -= set(partitions)

    def _owned(self, at: TopicPartition) -> None:
        if at not in self._epochs:
            raise ValueError(f"{at} is not assigned to this worker")

    def transaction(self) -> MemoryTransaction:
        return MemoryTransaction(self)

    def rewind(self) -> None:
        self._rewind = True

    def close(self) -> None:
        with self._log._changed:
            self._log._group(self._group).remove(self._member)
            self._log._changed.notify_all()

    def _commit(self, messages: Sequence[Message], positions: Mapping[TopicPartition, Position]) -> None:
        with self._log._changed:
            stop, self._log._before_commit = self._log._before_commit, None
        if stop is not None:
            stop()
        with self._log._changed:
            failure, self._log._commit_failure = self._log._commit_failure, None
            if failure is not None and not self._log._commit_answer_lost:
                raise failure
            if self._is_fenced(positions):
                raise Fenced(
                    f"slot {self._slot} no longer owns all of {sorted(positions)} in group {self._group}"
                )
            self._log._write(messages)
            self._log._group(self._group).positions.update(positions)
            if failure is not None:
                raise failure

    def _is_fenced(self, partitions: Iterable[TopicPartition]) -> bool:
        state = self._log._group(self._group)
        return self._member not in state.slots or any(
            state.owners.get(at) != self._member or state.epochs[at] != self._epochs.get(at)
            for at in partitions
        )


class MemoryTransaction:
    """A ``Transaction``."""

    def __init__(self, worker: MemoryWorker) -> None:
        self._worker = worker
        self._messages: list[Message] = []
        self._positions: dict[TopicPartition, Position] = {}

    def publish(self, messages: Iterable[Message]) -> None:
        new = list(messages)
        with self._worker._log._changed:
            self._worker._log._check(new)
        self._messages += new

    def commit_positions(self, positions: Mapping[TopicPartition, Position]) -> None:
        check_positions(positions)
        self._positions.update(positions)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._worker._commit(self._messages, self._positions)
