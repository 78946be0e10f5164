"""The embedded event log: one SQLite file, shared by the processes of one machine.

Invariants
- A record's row id is ``partition id << 40 | offset``, so the rows of a partition lie together in the order of their
  offsets, and reading a range is reading the file forwards. Offsets of a partition are given out under the write
  lock, one after the other: no committed offset lies before another's that readers could have seen already.
- Timestamps never fall within a partition (the wall clock may): ``offset_at`` is a binary search.
- The write lock is held from ``BEGIN IMMEDIATE`` to ``COMMIT``, with everything prepared before. No read transaction
  outlives a call, so the write-ahead log can always be started anew and stays bounded.
- ``begin`` of a partition rises in the transaction that deletes the records below it: a reader either sees them
  or gets ``OffsetOutOfRange``.
- Membership. A member is a row with a lease; an owner is a member and an epoch, which rises with every new owner.
  Only a transaction that finds its own member and epoch still in place commits; leases merely decide when
  others may take over, so a late process is fenced, whatever its clock says. Leases are monotonic time, which all
  processes since one boot share; one of another boot counts as expired.
- A member lets go of a partition at its own poll; the next owner takes it at a later one. Members find out by the
  group's ``generation``, which rises with every join, leave, expiry and letting go.

Layout: ``topics`` and ``partitions`` (begin, end, bytes), ``records``, ``latest`` (compacted topics: where each key's only
record is; an empty value leaves nothing), ``groups``, ``members``, ``owners``, ``positions``.

What a crash leaves. Before ``COMMIT`` has written its last frame to the write-ahead log: nothing. After: everything,
since ``synchronous=FULL`` has it on disk before ``COMMIT`` returns; if the crash came before the answer, the writer
does not know, and its retry must carry the same event ids. While checkpointing (copying frames into the
file): the frames are still in the write-ahead log and are copied again. A dead member: its lease runs out, or its
successor in the same slot takes its place at once.

SQLite before 3.51.3 can corrupt a file that several processes write and checkpoint (the WAL-reset bug), and is
refused.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import apsw
import msgspec
import psutil

from smartscale import clock
from smartscale.errors import (
    ConfigError,
    FatalLogError,
    Fenced,
    LogFull,
    LogUnavailable,
    OffsetOutOfRange,
    UnknownTopic,
)
from smartscale.log.assignment import moves
from smartscale.log.port import Bounds, Message, Poll, Position, Record, TopicPartition, TopicSpec
from smartscale.log.rules import check_message, check_positions, check_spec, record_bytes, unknown

MIN_SQLITE: Final = (3, 51, 3)
"""The first release without the WAL-reset bug."""
APPLICATION_ID: Final = 0x534C4F47
"""Marks the file as ours ("SLOG"), so that another program's database is never written to."""
FORMAT: Final = 1
"""Of the tables below; kept in ``user_version``."""
PAGE_BYTES: Final = 16 << 10
"""Chosen because records are hundreds of kilobytes, yet each commit writes a few small rows too: measured, 16 KiB
appends as fast as 64 KiB and faster than 4 KiB."""
CHECKPOINT_PAGES: Final = (4 << 20) // PAGE_BYTES
"""The write-ahead log is copied into the file at 4 MiB: a publisher among five workers then waits 10 to 15 ms at the 99th
percentile, at 16 MiB up to 90; alone it appends as fast at either."""
RESTART_PAGES: Final = 16 * CHECKPOINT_PAGES
"""Beyond this, writers wait until the write-ahead log can be started anew: its bound, 64 MiB."""
BUSY_S: Final = 10.0
"""How long to wait for the write lock. Transactions hold it for milliseconds; a slow disk for seconds."""
LEASE_S: Final = 5.0
"""A member that has not polled or committed for this long has lost its partitions."""
RENEW_S: Final = 1.0
"""Leases are renewed this often: four renewals may fail."""
MAX_WAIT_S: Final = 0.01
"""Longest pause between two looks for news: 10 ms of latency against 100 looks of a few microseconds a second."""
OFFSET_BITS: Final = 40
"""2^40 records a partition: 34 years at a thousand a second."""

_SCHEMA: Final = f"""
CREATE TABLE topics (name TEXT PRIMARY KEY, partitions INTEGER, retention_bytes INTEGER, compacted INTEGER)
    STRICT, WITHOUT ROWID;
CREATE TABLE partitions (id INTEGER PRIMARY KEY, topic TEXT, partition INTEGER, begin INTEGER DEFAULT 0,
    end INTEGER DEFAULT 0, bytes INTEGER DEFAULT 0, last_ms INTEGER DEFAULT 0, UNIQUE (topic, partition)) STRICT;
CREATE TABLE records (id INTEGER PRIMARY KEY, timestamp_ms INTEGER, key BLOB, headers BLOB, value BLOB) STRICT;
CREATE TABLE latest (partition INTEGER, key BLOB, id INTEGER, PRIMARY KEY (partition, key)) STRICT, WITHOUT ROWID;
CREATE TABLE groups (name TEXT PRIMARY KEY, generation INTEGER) STRICT, WITHOUT ROWID;
CREATE TABLE members (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, slot TEXT, topics TEXT, boot TEXT,
    lease_until REAL, UNIQUE (name, slot)) STRICT;
CREATE TABLE owners (name TEXT, partition INTEGER, member INTEGER, epoch INTEGER, PRIMARY KEY (name, partition))
    STRICT, WITHOUT ROWID;
CREATE TABLE positions (name TEXT, partition INTEGER, position INTEGER, metadata TEXT,
    PRIMARY KEY (name, partition)) STRICT, WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""

_headers = msgspec.msgpack.Decoder(dict[str, bytes])


def boot_id() -> str:
    """What tells this boot of the machine from others: monotonic time starts anew with each."""
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.exists() else str(round(psutil.boot_time()))


class SqliteLog:
    """A ``Log`` in the file ``path``, which is created if it does not exist (its folder must).

    ``lease_s``, ``monotonic_s`` and ``wall_ms`` are real time; tests pass their own. Raises ``ConfigError`` if the
    file is no log, cannot be written, or SQLite is too old."""

    def __init__(
        self,
        path: str,
        *,
        lease_s: float = LEASE_S,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
        wall_ms: Callable[[], int] = clock.wall_ms,
    ) -> None:
        self._path = path
        self._lease_s = lease_s
        self._monotonic_s = monotonic_s
        self._wall_ms = wall_ms
        self._file = _File(path, wall_ms)
        self._lock = threading.Lock()

    def create(self, specs: Sequence[TopicSpec]) -> None:
        with self._lock, self._file.write() as db:
            for spec in specs:
                have = self._file.read_topics().get(spec.name)
                if have is not None:
                    check_spec(have, spec)
                if have == spec:
                    continue
                db.execute(
                    "INSERT OR REPLACE INTO topics VALUES (?, ?, ?, ?)",
                    (spec.name, spec.partitions, spec.retention_bytes, spec.compacted),
                )
                db.executemany(
                    "INSERT INTO partitions (topic, partition) VALUES (?, ?)",
                    ((spec.name, p) for p in range(have.partitions if have else 0, spec.partitions)),
                )
                db.execute("UPDATE groups SET generation = generation + 1")

    def topics(self) -> Mapping[str, TopicSpec]:
        with self._lock, self._file.read():
            return self._file.read_topics()

    def publisher(self) -> SqlitePublisher:
        return SqlitePublisher(_File(self._path, self._wall_ms))

    def reader(self) -> SqliteReader:
        return SqliteReader(_File(self._path, self._wall_ms), self._monotonic_s)

    def worker(self, group: str, topics: Sequence[str], slot: str) -> SqliteWorker:
        """Raises ``UnknownTopic``."""
        file = _File(self._path, self._wall_ms)
        return SqliteWorker(file, group, frozenset(topics), slot, self._lease_s, self._monotonic_s)

    def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        with self._lock, self._file.read():
            return {at: self._file.bounds(self._file.id_of(at)) for at in partitions}

    def offset_at(self, at: TopicPartition, wall_ms: int) -> int:
        with self._lock, self._file.read() as db:
            partition = self._file.id_of(at)
            low, high = self._file.bounds(partition)
            while low < high:
                middle = (low + high) // 2
                rows: list[tuple[int, int]] = list(
                    db.execute(
                        "SELECT id, timestamp_ms FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT 1",
                        (_row(partition, middle), _row(partition, high)),
                    )
                )
                if rows and rows[0][1] < wall_ms:
                    low = _offset(rows[0][0]) + 1
                else:
                    high = middle
            rows = list(
                db.execute(
                    "SELECT id, timestamp_ms FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT 1",
                    (_row(partition, low), _row(partition + 1, 0)),
                )
            )
            return _offset(rows[0][0]) if rows else self._file.bounds(partition).end

    def committed(self, group: str) -> Mapping[TopicPartition, Position]:
        with self._lock, self._file.read():
            return self._file.positions(group)

    def close(self) -> None:
        """The objects made by this log stay open: each has its own connection."""
        with self._lock:
            self._file.close()


class SqlitePublisher:
    """A ``Publisher``: one call is one transaction."""

    def __init__(self, file: _File) -> None:
        self._file = file

    def append(self, messages: Sequence[Message]) -> list[int | Exception]:
        """All or none: if one message cannot be written, that error is every message's answer."""
        try:
            batch = self._file.prepare(messages)
            with self._file.write():
                return list(self._file.insert(batch))
        except (LogFull, LogUnavailable, UnknownTopic) as error:
            return [error] * len(messages)

    def close(self) -> None:
        self._file.close()


class SqliteReader:
    """A ``Reader``."""

    def __init__(self, file: _File, monotonic_s: Callable[[], float]) -> None:
        self._file = file
        self._monotonic_s = monotonic_s
        self._cursor = _Cursor(file)

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Raises ``UnknownTopic``."""
        self._cursor = _Cursor(self._file)
        with self._file.read():
            for at, offset in positions.items():
                self._cursor.place(at, self._file.id_of(at), offset)

    def poll(self, timeout_s: float, max_bytes: int = 16 << 20) -> Poll:
        deadline = self._monotonic_s() + timeout_s
        while True:
            version = self._file.version()
            with self._file.read():
                poll, news = self._cursor.fetch(max_bytes)
            if news or self._monotonic_s() >= deadline:
                return poll
            self._file.wait(version, deadline, self._monotonic_s)

    def close(self) -> None:
        self._file.close()


class SqliteWorker:
    """A ``Worker``.

    A slot that has been taken over by a successor gets ``FatalLogError`` from ``poll``: the process must end."""

    def __init__(
        self,
        file: _File,
        group: str,
        topics: frozenset[str],
        slot: str,
        lease_s: float,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._file = file
        self._group = group
        self._topics = topics
        self._slot = slot
        self._lease_s = lease_s
        self._monotonic_s = monotonic_s
        self._boot = boot_id()
        self._cursor = _Cursor(file)
        self._epochs: dict[int, int] = {}
        """What this worker believes it owns: partition id to epoch."""
        self._generation = -1
        """Of the group, when this worker last looked at its members."""
        self._renew_at = 0.0
        self._rewind = False
        with file.write(durable=False) as db:
            for topic in topics:
                file.id_of(TopicPartition(topic, 0))
            db.execute("INSERT OR IGNORE INTO groups VALUES (?, 0)", (group,))
            self._member = self._join()

    def poll(self, timeout_s: float, max_bytes: int = 16 << 20) -> Poll:
        deadline = self._monotonic_s() + timeout_s
        while True:
            version = self._file.version()
            if self._must_balance():
                change = self._balance()
                if change.assigned or change.revoked:
                    return change
            with self._file.read():
                poll, news = self._cursor.fetch(max_bytes)
            if news or self._monotonic_s() >= deadline:
                return poll
            self._file.wait(version, min(deadline, self._renew_at), self._monotonic_s)

    def seek(self, at: TopicPartition, offset: int) -> None:
        """Raises ``ValueError`` if the partition is not assigned to this worker."""
        self._cursor.place(at, self._owned(at), offset)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Raises ``ValueError`` if one is not assigned to this worker."""
        self._cursor.paused |= {self._owned(at) for at in partitions}

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._cursor.paused -= {self._file.ids[at] for at in partitions if at in self._file.ids}

    def _owned(self, at: TopicPartition) -> int:
        partition = self._file.ids.get(at)
        if partition is None or partition not in self._epochs:
            raise ValueError(f"{at} is not assigned to this worker")
        return partition

    def transaction(self) -> SqliteTransaction:
        return SqliteTransaction(self)

    def rewind(self) -> None:
        self._rewind = True

    def close(self) -> None:
        try:
            with self._file.write(durable=False):
                self._remove(self._member)
                self._announce()
        finally:
            self._file.close()

    # The group. Everything below runs under the write lock, but for ``_must_balance``.

    def _must_balance(self) -> bool:
        if self._rewind or self._monotonic_s() >= self._renew_at:
            return True
        with self._file.read() as db:
            return list(db.execute("SELECT generation FROM groups WHERE name = ?", (self._group,))) != [
                (self._generation,)
            ]

    def _balance(self) -> Poll:
        """Renew the lease, bury the dead, give up and take partitions."""
        now = self._monotonic_s()
        with self._file.write(durable=False) as db:
            if not self._renew(now):
                self._member = self._rejoin()
            self._expire(now)
            members: dict[int, set[str]] = {
                member: set(topics.split("\n"))
                for member, topics in db.execute(
                    "SELECT id, topics FROM members WHERE name = ?", (self._group,)
                )
            }
            owners: dict[TopicPartition, int] = {
                TopicPartition(topic, p): member
                for topic, p, member in db.execute(
                    "SELECT topic, partition, member FROM partitions JOIN "
                    "(SELECT partition AS id, member FROM owners WHERE name = ?) USING (id)",
                    (self._group,),
                )
            }
            self._file.refresh()
            todo = moves(self._member, self._file.ids, members, owners)
            self._give(todo.give_up, nobody=True)
            self._give(todo.take)
            if todo.give_up:
                self._announce()
            owned = self._owned_epochs()
            committed = self._file.positions(self._group)
            [(generation,)] = db.execute("SELECT generation FROM groups WHERE name = ?", (self._group,))
        self._renew_at = now + RENEW_S
        self._generation = generation
        stays = set() if self._rewind else {i for i, epoch in owned.items() if self._epochs.get(i) == epoch}
        revoked = self._epochs.keys() - stays
        names = {i: at for at, i in self._file.ids.items()}
        assigned = {names[i]: committed.get(names[i]) for i in sorted(owned.keys() - stays)}
        self._rewind, self._epochs = False, owned
        for i in revoked:
            self._cursor.drop(i)
        for at, position in assigned.items():
            self._cursor.place(at, self._file.ids[at], position.offset if position else None)
        return Poll(assigned=assigned, revoked=frozenset(names[i] for i in revoked))

    def _join(self) -> int:
        """A new member, who inherits what a predecessor in this slot owned. The group must exist."""
        db = self._file.db
        predecessor = list(
            db.execute("SELECT id FROM members WHERE name = ? AND slot = ?", (self._group, self._slot))
        )
        db.execute("DELETE FROM members WHERE name = ? AND slot = ?", (self._group, self._slot))
        db.execute(
            "INSERT INTO members (name, slot, topics, boot, lease_until) VALUES (?, ?, ?, ?, ?)",
            (
                self._group,
                self._slot,
                "\n".join(sorted(self._topics)),
                self._boot,
                self._monotonic_s() + self._lease_s,
            ),
        )
        member = db.last_insert_rowid()
        for (before,) in predecessor:
            db.execute(
                "UPDATE owners SET member = ?, epoch = epoch + 1 WHERE name = ? AND member = ?",
                (member, self._group, before),
            )
        self._announce()
        return member

    def _rejoin(self) -> int:
        """After this worker's lease had run out and it was buried."""
        rows = list(
            self._file.db.execute(
                "SELECT 1 FROM members WHERE name = ? AND slot = ?", (self._group, self._slot)
            )
        )
        if rows:
            raise FatalLogError(
                f"slot {self._slot} of group {self._group} has a successor; end this process (two processes "
                "must not be started with the same slot)"
            )
        return self._join()

    def _renew(self, now: float) -> bool:
        """False if this worker is no member any more."""
        db = self._file.db
        db.execute(
            "UPDATE members SET lease_until = ?, boot = ? WHERE id = ?",
            (now + self._lease_s, self._boot, self._member),
        )
        return bool(db.changes())

    def _expire(self, now: float) -> None:
        dead: list[tuple[int]] = list(
            self._file.db.execute(
                "SELECT id FROM members WHERE name = ? AND (boot <> ? OR lease_until < ?)",
                (self._group, self._boot, now),
            )
        )
        for (member,) in dead:
            self._remove(member)
        if dead:
            self._announce()

    def _remove(self, member: int) -> None:
        db = self._file.db
        db.execute("DELETE FROM members WHERE id = ?", (member,))
        db.execute("UPDATE owners SET member = 0 WHERE name = ? AND member = ?", (self._group, member))

    def _give(self, partitions: Iterable[TopicPartition], nobody: bool = False) -> None:
        """To this worker, or to nobody."""
        self._file.db.executemany(
            "INSERT INTO owners VALUES (?1, ?2, ?3, 1) ON CONFLICT DO UPDATE SET member = ?3, epoch = epoch + 1",
            [(self._group, self._file.ids[at], 0 if nobody else self._member) for at in partitions],
        )

    def _announce(self) -> None:
        self._file.db.execute("UPDATE groups SET generation = generation + 1 WHERE name = ?", (self._group,))

    def _owned_epochs(self) -> dict[int, int]:
        return dict(
            self._file.db.execute(
                "SELECT partition, epoch FROM owners WHERE name = ? AND member = ?",
                (self._group, self._member),
            )
        )

    def commit(self, messages: Sequence[Message], positions: Mapping[TopicPartition, Position]) -> None:
        """All of it, or an error and nothing of it. For ``SqliteTransaction``."""
        batch = self._file.prepare(messages)
        now = self._monotonic_s()
        with self._file.write() as db:
            if not self._renew(now):
                raise Fenced(f"slot {self._slot} is no longer a member of group {self._group}")
            owned = self._owned_epochs()
            for at in positions:
                partition = self._file.id_of(at)
                if partition not in owned or owned[partition] != self._epochs.get(partition):
                    raise Fenced(f"{at} is no longer owned by slot {self._slot} of group {self._group}")
            self._file.insert(batch)
            db.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?)",
                (
                    (self._group, self._file.ids[at], position.offset, position.metadata)
                    for at, position in positions.items()
                ),
            )
        self._renew_at = now + RENEW_S


class SqliteTransaction:
    """A ``Transaction``: kept in memory until it is committed, so keep it to tens of megabytes."""

    def __init__(self, worker: SqliteWorker) -> None:
        self._worker = worker
        self._messages: list[Message] = []
        self._positions: dict[TopicPartition, Position] = {}

    def publish(self, messages: Iterable[Message]) -> None:
        self._messages += messages

    def commit_positions(self, positions: Mapping[TopicPartition, Position]) -> None:
        """Raises ``ValueError`` if metadata is too long."""
        check_positions(positions)
        self._positions.update(positions)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._worker.commit(self._messages, self._positions)


def _row(partition: int, offset: int) -> int:
    return partition << OFFSET_BITS | offset


def _offset(row: int) -> int:
    return row & ((1 << OFFSET_BITS) - 1)


@dataclass(slots=True)
class _Batch:
    """Messages made ready before the lock is taken: per partition id, their place in the call, and their row but
    for its id and timestamp."""

    count: int = 0
    rows: dict[int, list[tuple[int, tuple[bytes | None, bytes | None, bytes]]]] = field(default_factory=dict)
    bytes: dict[int, int] = field(default_factory=dict)
    """That retention counts."""
    topics: dict[int, TopicSpec] = field(default_factory=dict)


class _File:
    """One connection, and what the classes above share of the tables. For one thread at a time."""

    def __init__(self, path: str, wall_ms: Callable[[], int]) -> None:
        self._path = path
        self._wall_ms = wall_ms
        self.db = _open(path)
        self.ids: dict[TopicPartition, int] = {}
        """Partitions known so far. They are never removed."""
        self._topics: dict[str, TopicSpec] = {}

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def write(self, durable: bool = True) -> Iterator[apsw.Connection]:
        """The write lock: all that happens inside is committed, or nothing. Without ``durable`` a loss of power may
        take it back (never a part; nor does it matter for leases, which do not outlive it)."""
        with _translated(self._path):
            self.db.pragma("synchronous", "FULL" if durable else "NORMAL")
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:  # SQLite has rolled back by itself after some errors
                    self.db.execute("ROLLBACK")
                raise

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """One snapshot for several statements."""
        with _translated(self._path):
            self.db.execute("BEGIN")
            try:
                yield self.db
            finally:
                self.db.execute("COMMIT")

    def version(self) -> int:
        """Changes when another connection has committed."""
        with _translated(self._path):
            version: int = self.db.pragma("data_version")
        return version

    def wait(self, version: int, deadline: float, monotonic_s: Callable[[], float]) -> None:
        """Until another connection has committed since ``version`` was read, or the deadline.

        SQLite tells other processes nothing, so this looks, at growing intervals; a look is a read of shared memory."""
        pause = MAX_WAIT_S / 16
        while (left := deadline - monotonic_s()) > 0 and self.version() == version:
            time.sleep(min(pause, left))
            pause = min(2 * pause, MAX_WAIT_S)

    def read_topics(self) -> dict[str, TopicSpec]:
        return {
            name: TopicSpec(name, partitions, retention, bool(compacted))
            for name, partitions, retention, compacted in self.db.execute(
                "SELECT name, partitions, retention_bytes, compacted FROM topics"
            )
        }

    def refresh(self) -> None:
        """Topics are added, and grow."""
        self._topics = self.read_topics()
        self.ids = {
            TopicPartition(topic, p): i
            for i, topic, p in self.db.execute("SELECT id, topic, partition FROM partitions")
        }

    def id_of(self, at: TopicPartition) -> int:
        """Raises ``UnknownTopic``."""
        if at not in self.ids:
            self.refresh()
        if at not in self.ids:
            raise unknown(at)
        return self.ids[at]

    def bounds(self, partition: int) -> Bounds:
        [(begin, end)] = self.db.execute("SELECT begin, end FROM partitions WHERE id = ?", (partition,))
        return Bounds(begin, end)

    def positions(self, group: str) -> dict[TopicPartition, Position]:
        return {
            TopicPartition(topic, p): Position(offset, metadata)
            for topic, p, offset, metadata in self.db.execute(
                "SELECT topic, partitions.partition, position, metadata FROM positions "
                "JOIN partitions ON id = positions.partition WHERE name = ?",
                (group,),
            )
        }

    def prepare(self, messages: Sequence[Message]) -> _Batch:
        """Raises ``UnknownTopic``, or ``ValueError`` for a message without the key it needs."""
        if any(TopicPartition(m.topic, m.partition) not in self.ids for m in messages):
            with self.read():
                self.refresh()
        batch = _Batch(count=len(messages))
        for place, message in enumerate(messages):
            spec = self._topics.get(message.topic)
            check_message(spec, message)
            partition = self.ids[TopicPartition(message.topic, message.partition)]
            headers = msgspec.msgpack.encode(message.headers) if message.headers else None
            batch.rows.setdefault(partition, []).append((place, (message.key, headers, message.value)))
            batch.bytes[partition] = batch.bytes.get(partition, 0) + record_bytes(message)
            assert spec is not None
            batch.topics[partition] = spec
        return batch

    def insert(self, batch: _Batch) -> list[int]:
        """The offset of each message. Inside ``write``."""
        offsets = [0] * batch.count
        now = self._wall_ms()
        for partition, rows in batch.rows.items():
            [(end, last_ms)] = self.db.execute(
                "SELECT end, last_ms FROM partitions WHERE id = ?", (partition,)
            )
            stamp = max(now, last_ms)
            for offset, (place, _) in enumerate(rows, end):
                offsets[place] = offset
            whole = [(_row(partition, offset), stamp, *row) for offset, (_, row) in enumerate(rows, end)]
            if batch.topics[partition].compacted:
                whole = self._compact(partition, whole)
            self.db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", whole)
            self.db.execute(
                "UPDATE partitions SET end = ?, bytes = bytes + ?, last_ms = ? WHERE id = ?",
                (end + len(rows), batch.bytes[partition], stamp, partition),
            )
        for spec in {spec.name: spec for spec in batch.topics.values()}.values():
            if spec.retention_bytes and not spec.compacted:
                self._retain(spec)
        return offsets

    def _compact(
        self, partition: int, rows: Sequence[tuple[int, int, bytes | None, bytes | None, bytes]]
    ) -> list[tuple[int, int, bytes | None, bytes | None, bytes]]:
        """Delete what these rows replace; of themselves, those to be kept."""
        last = {row[2]: row for row in rows}
        keys = [(partition, key) for key in last]
        self.db.executemany(
            "DELETE FROM records WHERE id = (SELECT id FROM latest WHERE partition = ? AND key = ?)", keys
        )
        self.db.executemany("DELETE FROM latest WHERE partition = ? AND key = ?", keys)
        kept = [row for row in last.values() if row[4]]
        self.db.executemany("INSERT INTO latest VALUES (?, ?, ?)", ((partition, r[2], r[0]) for r in kept))
        return kept

    def _retain(self, spec: TopicSpec) -> None:
        """Delete a topic's oldest records beyond its bytes; its newest always stays."""
        state: list[tuple[int, int, int]] = list(
            self.db.execute("SELECT id, begin, bytes FROM partitions WHERE topic = ?", (spec.name,))
        )
        excess = sum(size for _, _, size in state) - spec.retention_bytes
        if excess <= 0:
            return
        heads = [head for partition, begin, _ in state if (head := self._head(partition, begin))]
        heapq.heapify(heads)
        cut: dict[int, tuple[int, int]] = {}
        while excess > 0:
            _, partition, offset, size = heads[0]
            after = self._head(partition, offset + 1)
            if after is not None:
                heapq.heapreplace(heads, after)
            elif len(heads) > 1:
                heapq.heappop(heads)
            else:
                break
            excess -= size
            cut[partition] = (offset + 1, cut.get(partition, (0, 0))[1] + size)
        for partition, (begin, size) in cut.items():
            self.db.execute(
                "DELETE FROM records WHERE id >= ? AND id < ?", (_row(partition, 0), _row(partition, begin))
            )
            self.db.execute(
                "UPDATE partitions SET begin = ?, bytes = bytes - ? WHERE id = ?", (begin, size, partition)
            )

    def _head(self, partition: int, offset: int) -> tuple[int, int, int, int] | None:
        """Timestamp, partition, offset and size of the first record at or after ``offset``."""
        rows: list[tuple[int, int, int]] = list(
            self.db.execute(
                "SELECT id, timestamp_ms, length(value) + ifnull(length(key), 0) FROM records "
                "WHERE id >= ? AND id < ? ORDER BY id LIMIT 1",
                (_row(partition, offset), _row(partition + 1, 0)),
            )
        )
        return (rows[0][1], partition, _offset(rows[0][0]), rows[0][2]) if rows else None


class _Cursor:
    """Positions in some partitions, and reading on from there."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._names: dict[int, TopicPartition] = {}
        self._positions: dict[int, int | None] = {}
        """None: at the beginning, wherever that is at the next fetch."""
        self.paused: set[int] = set()
        self._told: set[int] = set()
        """Partitions whose end has been reported and that have not moved since."""
        self._turn = 0

    def place(self, at: TopicPartition, partition: int, offset: int | None) -> None:
        self._names[partition] = at
        self._positions[partition] = offset
        self._told.discard(partition)

    def drop(self, partition: int) -> None:
        del self._names[partition], self._positions[partition]
        self.paused.discard(partition)
        self._told.discard(partition)

    def fetch(self, max_bytes: int) -> tuple[Poll, bool]:
        """What can be read now, and whether that is any news. Inside ``_File.read``.

        Every partition gets an equal share of ``max_bytes`` at first sight; each is first in its turn, so a record
        larger than the share is read then."""
        active = sorted(self._positions.keys() - self.paused, key=self._names.__getitem__)
        bounds = {i: self._file.bounds(i) for i in active}
        for i in active:
            position = self._positions[i]
            if position is None:
                self._positions[i] = bounds[i].begin
            elif not bounds[i].begin <= position <= bounds[i].end:
                raise OffsetOutOfRange(
                    f"{self._names[i]}: offset {position} is outside the log, which holds {bounds[i].begin} to "
                    f"{bounds[i].end}: retention has removed it, or the log is another one; seek to go on"
                )
        self._turn += 1
        turn = self._turn % len(active) if active else 0
        records: list[Record] = []
        ends: set[int] = set()
        left = max_bytes
        for done, i in enumerate(active[turn:] + active[:turn]):
            if self._positions[i] != bounds[i].end and (left > 0 or not records):
                left -= self._fetch_one(i, bounds[i].end, left // (len(active) - done), left, records)
            if self._positions[i] == bounds[i].end:
                ends.add(i)
        news = bool(records) or not ends <= self._told
        self._told = ends
        return Poll(records=records, ends=frozenset(self._names[i] for i in ends)), news

    def _fetch_one(self, i: int, end: int, share: int, left: int, records: list[Record]) -> int:
        """Read partition ``i`` until it has used its share; the bytes read."""
        topic, p = self._names[i]
        used = 0
        rows = self._file.db.execute(
            "SELECT id, timestamp_ms, key, headers, value FROM records WHERE id >= ? AND id < ? ORDER BY id",
            (_row(i, self._positions[i] or 0), _row(i, end)),
        )
        for row, stamp, key, headers, value in rows:
            if records and used + len(value) > left:
                break
            offset = _offset(row)
            records.append(
                Record(topic, p, offset, value, key, _headers.decode(headers) if headers else {}, stamp)
            )
            self._positions[i] = offset + 1
            used += len(value)
            if used >= share:
                break
        else:
            self._positions[i] = end  # past what compaction has removed at the end
        rows.close()
        return used


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except apsw.FullError as error:
        raise LogFull(f"log {path}: no room on the disk; free some, nothing was written", 5.0) from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise LogUnavailable(f"log {path}: locked by another process for more than {BUSY_S:g} s") from error
    except apsw.IOError as error:
        raise LogUnavailable(f"log {path}: the disk reports an error: {error}") from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise FatalLogError(
            f"log {path}: damaged ({error}); stop SmartScale, move the file away and restore a copy"
        ) from error
    except (apsw.ReadOnlyError, apsw.CantOpenError) as error:
        raise FatalLogError(
            f"log {path}: can no longer be written ({error}); check its permissions"
        ) from error


def _open(path: str) -> apsw.Connection:
    """A connection to the log at ``path``, which is made if it is not there. Raises ``ConfigError``."""
    version = apsw.sqlite_lib_version()
    if tuple(map(int, version.split("."))) < MIN_SQLITE:
        raise ConfigError(
            f"SQLite {version} can damage a log that several processes write; needed is "
            f"{'.'.join(map(str, MIN_SQLITE))} or later: upgrade the package apsw"
        )
    folder = Path(path).parent
    if not folder.is_dir():
        raise ConfigError(f"log {path}: the folder {folder} does not exist; create it or name another file")
    try:
        db = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        if db.readonly("main"):
            raise ConfigError(f"log {path}: may not be written; change its permissions or name another file")
        db.set_busy_handler(_BusyHandler())
        _set_up(db, path)
    except apsw.CantOpenError as error:
        raise ConfigError(
            f"log {path}: cannot be opened; it must be a file in a folder that may be written ({error})"
        ) from error
    except apsw.NotADBError as error:
        raise ConfigError(
            f"log {path}: is no SmartScale log; name another file, or move this one away"
        ) from error
    except apsw.Error:
        with _translated(path):
            raise
    return db


def _set_up(db: apsw.Connection, path: str) -> None:
    deadline = clock.monotonic_s() + BUSY_S
    while True:
        try:
            if not _identify(db, path):
                db.pragma("page_size", PAGE_BYTES)
            mode = db.pragma("journal_mode", "wal")
            break
        except apsw.BusyError:  # another process is doing the same; SQLite does not wait here by itself
            if clock.monotonic_s() > deadline:
                raise
            time.sleep(MAX_WAIT_S)
    if mode != "wal":
        raise ConfigError(
            f"log {path}: needs a file on a local disk (write-ahead logging is not possible here)"
        )
    db.pragma("journal_size_limit", RESTART_PAGES * PAGE_BYTES)
    db.pragma("synchronous", "FULL")
    db.set_wal_hook(_checkpoint)
    if not _identify(db, path):
        db.execute("BEGIN IMMEDIATE")
        if not _identify(db, path):
            db.execute(_SCHEMA)
        db.execute("COMMIT")


def _identify(db: apsw.Connection, path: str) -> bool:
    """True if the file is a log of this format, False if it is empty. Raises ``ConfigError`` if it is anything else."""
    [(tables,)] = db.execute("SELECT count(*) FROM sqlite_schema")
    if not tables:
        return False
    if db.pragma("application_id") != APPLICATION_ID:
        raise ConfigError(f"log {path}: is another program's database; name another file")
    if (found := db.pragma("user_version")) != FORMAT:
        raise ConfigError(
            f"log {path}: has format {found}, this version reads {FORMAT}; use a new file, or the version that wrote it"
        )
    return True


class _BusyHandler:
    """Waits for the write lock: a millisecond at a time, since it is held for milliseconds, and ``BUSY_S`` at most."""

    def __init__(self) -> None:
        self._deadline = 0.0

    def __call__(self, tries: int) -> bool:
        now = clock.monotonic_s()
        if tries == 0:
            self._deadline = now + BUSY_S
        time.sleep(0.001)
        return now < self._deadline


def _checkpoint(db: apsw.Connection, schema: str, pages: int) -> int:
    """After a commit: copy the write-ahead log into the file once it has grown, and bound it."""
    if pages >= CHECKPOINT_PAGES:
        mode = apsw.SQLITE_CHECKPOINT_RESTART if pages >= RESTART_PAGES else apsw.SQLITE_CHECKPOINT_PASSIVE
        try:
            db.wal_checkpoint(schema, mode)
        except (apsw.BusyError, apsw.FullError, apsw.IOError):
            # The commit stands: it is in the write-ahead log. The next one tries again; if the disk stays full, the
            # write-ahead log cannot grow either, and that commit is refused.
            return apsw.SQLITE_OK
    return apsw.SQLITE_OK
