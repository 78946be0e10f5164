"""The combine stage's thinking: records in, one transaction's messages and positions out.

Invariants

- Apart from the identities of the deduplication window and the watermarks, nothing is held over a transaction.
- Every event read is in exactly one place: a row of partials, a duplicate, dead, or moved. ``InputRange`` says how many of
  each, per input partition, and the ranges of consecutive transactions touch.
- A source's watermark never falls: it is committed with its position, and resumed from there.
- Where ``events`` has grown, an id belongs to another partition behind the mark (``events.Growth``) than before it. Ids that
  came before it are then known at both; an event that an edge wrote to its old partition behind the mark is moved to the new
  one, in the same transaction. Until it has been read there, the old one's watermark holds, so that it is not late.
- A partition that was just assigned is first **replayed**: the deduplication window before its committed position is read
  again (identities and heartbeats only), nothing is counted.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from smartscale.config import Settings
from smartscale.errors import SchemaError
from smartscale.log.partitioner import service_partition
from smartscale.log.port import Message, Position, Record, TopicPartition
from smartscale.records import dead_letters, events, histogram, schema, topics
from smartscale.records import partials as records
from smartscale.stream.aggregates import named
from smartscale.stream.combine import partials, watermark
from smartscale.stream.combine.dedup import RepeatFilter
from smartscale.stream.windows import Families


class Resume(msgspec.Struct, frozen=True):
    """Metadata of a committed position."""

    watermark_us: int = 0
    provisional_us: int = 0
    written_ms: int = 0
    """Wall-clock time of the last record before the position: the deduplication window is counted back from it."""
    growth: events.Growth | None = None
    """The last mark before the position: over how many partitions ids are spread from there on."""
    grown_ms: int = 0
    """When that mark was written."""
    moved_to: frozenset[int] = frozenset()
    """Partitions that events were moved to and may not have been read of; the watermark holds until they have."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A third party's JSON values: the good events as columns, and why the others are none.

    ``len(places) + len(refused)`` is how many values there were."""

    batch: pa.RecordBatch
    """Of ``events.SCHEMA``."""
    places: npt.NDArray[np.int64]
    """Each good event's place among the values, ascending."""
    refused: Sequence[tuple[int, str, str]]
    """Place, reason and detail."""


JsonDecoder = Callable[[Sequence[bytes], int], Decoded]
"""(values, now_us) -> the verdicts, the same for each value whatever the others are."""


@dataclass(slots=True)
class _Account:
    """What this transaction has read of one partition."""

    first: int
    end: int
    read: int = 0
    duplicates: int = 0
    dead: int = 0
    moved: int = 0
    lost: int = 0


@dataclass(slots=True)
class _Input:
    """One owned partition."""

    resume_at: int
    seen: RepeatFilter
    source: watermark.Source
    account: _Account
    written_ms: int = 0
    growth: events.Growth | None = None
    grown_ms: int = 0
    moved_to: frozenset[int] = frozenset()
    held: tuple[int, int] = (0, 0)
    """The watermark and the provisional one committed last: told again while moved events have not been read."""
    replayed: list[tuple[np.ndarray, int]] = field(default_factory=list)
    """Where ``events`` has grown: identities read again, and when they were written, until it is known over how many
    partitions ids were spread when that was."""
    told: watermark.Source | None = None

    def know_replayed(self, partition: int, spread: int) -> None:
        """Remember those that belonged to this partition; the others were moved on, and may have come back since."""
        for words, written_ms in self.replayed:
            self.seen.know(words[words[:, 0] % np.uint64(spread) == partition], written_ms)
        self.replayed = []

    def telling(self) -> watermark.Source:
        """The source as others may know it."""
        if not self.moved_to:
            return self.source
        return replace(self.source, watermark_us=self.held[0], provisional_us=self.held[1])


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction. ``positions`` covers every owned partition."""

    messages: list[Message]
    positions: dict[TopicPartition, Position]
    events: int


@dataclass(slots=True)
class Counters:
    """Totals since the start, for telemetry only (the ledger reads the log)."""

    events: int = 0
    duplicates: int = 0
    dead: int = 0
    forgotten: int = 0
    reread_records: int = 0
    reread_bytes: int = 0
    by_state: dict[str, int] = field(default_factory=dict)


class Combiner:
    """The state of one combine process."""

    def __init__(self, settings: Settings, partitions: int, decode_json: JsonDecoder) -> None:
        """``partitions``: those of the ``partials`` topic."""
        self.settings = settings
        self.partitions = partitions
        self.families = Families(settings.windows)
        self.pane_us = math.gcd(*(family.pane_us for family in self.families))
        self._aggregations = named(settings.windows)
        self._columns = partials.event_columns(self._aggregations, self.families)
        self._empty = partials.empty(self._aggregations)
        self.counters = Counters()
        self._decode_json = decode_json
        self._inputs: dict[TopicPartition, _Input] = {}
        self._batches: list[pa.RecordBatch] = []
        self._keep: list[np.ndarray] = []
        self._origin: list[TopicPartition] = []
        self._dead: list[dead_letters.DeadLetter] = []
        self._moved: list[Message] = []
        self._lost: list[tuple[int, int]] = []
        self._partition_of: dict[tuple[str, str], int] = {}
        self.pending_bytes = 0
        self.has_grown = False
        """Whether the open transaction has read the mark of a growth."""
        self.awaited: dict[TopicPartition, int] | None = None
        """How far partitions must have been read for moved events to be counted; None: the caller has to find out."""

    def assign(self, at: TopicPartition, committed: Position | None) -> Resume | None:
        """Own a partition from now on. Returns where it stood, None if nobody has read it yet."""
        resume = (
            msgspec.json.decode(committed.metadata, type=Resume) if committed and committed.metadata else None
        )
        start = committed.offset if committed else 0
        source = watermark.Source(beats=at.topic == topics.EVENTS)
        if resume is not None:
            source = watermark.Source(
                beats=source.beats, watermark_us=resume.watermark_us, provisional_us=resume.provisional_us
            )
        self._inputs[at] = _Input(
            resume_at=start,
            seen=RepeatFilter(round(self.settings.dedup.window_s * 1000)),
            source=source,
            account=_Account(start, start),
            written_ms=resume.written_ms if resume else 0,
            growth=resume.growth if resume else None,
            grown_ms=resume.grown_ms if resume else 0,
            moved_to=resume.moved_to if resume else frozenset(),
            held=(source.watermark_us, source.provisional_us),
        )
        if self._inputs[at].moved_to:
            self.awaited = None
        return resume

    def lose(self, at: TopicPartition, end: int, until_us: int) -> None:
        """The offsets from the committed position to ``end`` cannot be read any more; the record behind them is of about
        ``until_us`` (event time)."""
        one = self._inputs[at]
        one.account.lost, one.account.end, one.resume_at = end - one.account.first, end, end
        self._lost.append((one.source.watermark_us, until_us))

    def knows_from(self, at: TopicPartition) -> tuple[events.Growth, int] | None:
        """The growth, and since when in wall-clock ms, whose ids from before this partition must know (``know``): its mark
        has been read and the deduplication window has not passed since. None if there is none."""
        one, window_ms = self._inputs[at], round(self.settings.dedup.window_s * 1000)
        if one.growth is None or one.written_ms > one.grown_ms + _MEMORY * window_ms:
            return None
        return one.growth, one.grown_ms - window_ms

    def know(self, at: TopicPartition, identities: np.ndarray, written_ms: int) -> None:
        """Identities, shape (n, 2), that came to another partition before ``events`` grew; those that belong to the owned
        partition ``at`` now are repeats there from now on."""
        one = self._inputs[at]
        assert one.growth is not None
        one.seen.know(
            identities[identities[:, 0] % np.uint64(one.growth.partitions) == at.partition], written_ms
        )

    def drop(self, lost: Iterable[TopicPartition]) -> None:
        """Forget partitions, and with them whatever of the open transaction was read: it must be rewound."""
        for at in lost:
            self._inputs.pop(at, None)

    @property
    def owned(self) -> frozenset[TopicPartition]:
        return frozenset(self._inputs)

    @property
    def has_moved(self) -> bool:
        """Whether the open transaction moves events to other partitions."""
        return bool(self._moved)

    @property
    def moved_to(self) -> frozenset[TopicPartition]:
        """Where events were moved to in committed transactions and have not been seen to be read."""
        return frozenset(
            TopicPartition(at.topic, p) for at, one in self._inputs.items() for p in one.moved_to
        )

    def arrived(self) -> None:
        """All that was moved has been read where it went to."""
        for one in self._inputs.values():
            one.moved_to = frozenset()

    def take(self, record: Record, now_us: int) -> bool:
        """Read one record into the open transaction. True: it was the mark of a growth; before the next record of that
        partition is taken, it must be told what ``knows_from`` asks for."""
        one = self._inputs[record.at]
        replay = record.offset < one.resume_at
        limits = self.settings.time
        if schema.SCHEMA not in record.headers:
            self.take_json([record], now_us)
            return False
        if not replay:
            one.account.end = record.offset + 1
            self.pending_bytes += len(record.value)
        else:
            self.counters.reread_records += 1
            self.counters.reread_bytes += len(record.value)
        one.written_ms = max(one.written_ms, record.timestamp_ms)
        try:
            kind = schema.schema_of(record.headers)
            if kind == schema.HEARTBEAT:
                beat = msgspec.json.decode(record.value, type=events.Heartbeat)
                heard = watermark.on_heartbeat(one.source, beat, record.timestamp_ms, limits)
                one.source = watermark.replayed(one.source, heard) if replay else heard
                return False
            if kind == schema.GROWTH:
                mark = msgspec.json.decode(record.value, type=events.Growth)
                one.know_replayed(record.partition, mark.before)
                if not replay:
                    one.growth, one.grown_ms, self.has_grown = mark, record.timestamp_ms, True
                return not replay
            if kind == schema.EVENTS:
                ingest_us = schema.int_header(record.headers, "ingest_us")
                batch = events.decode(record.value, ("identity",) if replay else self._columns)
            else:
                raise SchemaError(f"a record of schema {kind} does not belong on {record.topic}")
        except (SchemaError, msgspec.MsgspecError) as error:
            if not replay:
                self._bury(
                    one,
                    record,
                    dead_letters.UNREADABLE,
                    str(error),
                    events.event_count(record.headers),
                    now_us,
                )
            return False
        if not batch.num_rows:
            return False
        if replay and one.growth is not None:
            one.replayed.append((words_of(batch.column("identity"))[1], record.timestamp_ms))
            batch = batch.slice(0, 0)
        elif one.growth is not None:
            one.know_replayed(record.partition, one.growth.partitions)
            batch = self._move(one, record, batch, one.growth)
            if not batch.num_rows:
                return False
        keep = self._first_seen(one, batch.column("identity"), record.timestamp_ms)
        if replay:
            heard = watermark.on_events(one.source, 0, record.timestamp_ms, limits)
            one.source = watermark.replayed(one.source, heard)
            return False
        self._count(one, record.at, batch, keep)
        greatest = min(int(batch.column("time").to_numpy().max()), ingest_us)
        one.source = watermark.on_events(one.source, greatest, record.timestamp_ms, limits)
        return False

    def take_json(self, records: Sequence[Record], now_us: int) -> None:
        """Read a third party's records (without a schema) into the open transaction: of one partition, in their order. As
        if each was taken alone, at a small part of the cost."""
        one = self._inputs[records[0].at]
        fresh = bisect_left(records, one.resume_at, key=lambda record: record.offset)
        for part, replay in ((records[:fresh], True), (records[fresh:], False)):
            if part:
                self._take_json(one, part, now_us, replay)

    def _take_json(self, one: _Input, records: Sequence[Record], now_us: int, replay: bool) -> None:
        decoded = self._decode_json([record.value for record in records], now_us)
        written_ms = np.fromiter((record.timestamp_ms for record in records), np.int64, len(records))
        one.written_ms = max(one.written_ms, int(written_ms.max()))
        if not replay:
            one.account.end = records[-1].offset + 1
            self.pending_bytes += sum(len(record.value) for record in records)
            for place, reason, detail in decoded.refused:
                self._bury(one, records[place], reason, detail, 1, now_us)
        if not len(decoded.places):
            return
        batch, limits = decoded.batch, self.settings.time
        written_ms = written_ms[decoded.places]
        keep = np.ones(batch.num_rows, np.bool_)
        identity = batch.column("identity")
        if identity.null_count < len(identity):
            for start, end in one.seen.spans(written_ms):
                part = identity.slice(start, end - start)
                keep[start:end] = self._first_seen(one, part, int(written_ms[start]))
        if replay:
            heard = watermark.on_events(one.source, 0, int(written_ms.max()), limits)
            one.source = watermark.replayed(one.source, heard)
        else:
            greatest = min(int(batch.column("time").to_numpy().max()), now_us)
            one.source = watermark.on_events(one.source, greatest, int(written_ms.max()), limits)
            self._count(one, records[0].at, batch.select(self._columns), keep)

    def _count(self, one: _Input, at: TopicPartition, batch: pa.RecordBatch, keep: np.ndarray) -> None:
        """These events belong to the open transaction; those with ``keep`` False are repeats."""
        one.account.read += batch.num_rows
        one.account.duplicates += int(batch.num_rows - np.count_nonzero(keep))
        self._batches.append(batch)
        self._keep.append(keep)
        self._origin.append(at)

    def _move(
        self, one: _Input, record: Record, batch: pa.RecordBatch, growth: events.Growth
    ) -> pa.RecordBatch:
        """The events that belong here; the others, written by an edge that did not know of the growth yet, are written on to
        where their ids belong, as they are."""
        has_one, words = words_of(batch.column("identity"))
        home = (words[:, 0] % np.uint64(growth.partitions)).astype(np.int64)
        away = np.zeros(batch.num_rows, np.bool_)
        away[slice(None) if has_one is None else has_one] = home != record.partition
        if not away.any():
            return batch
        whole = events.decode(record.value)
        target = np.full(batch.num_rows, record.partition)
        target[slice(None) if has_one is None else has_one] = home
        for p in np.unique(target[away]).tolist():
            part = whole.filter(pa.array(target == p))
            headers = {**record.headers, "n": str(part.num_rows).encode()}
            self._moved.append(Message(record.topic, p, events.encode(part), headers=headers))
        one.moved_to, self.awaited = one.moved_to | set(target[away].tolist()), None
        moved = int(np.count_nonzero(away))
        one.account.read += moved
        one.account.moved += moved
        return batch.filter(pa.array(~away))

    def _first_seen(self, one: _Input, identity: pa.Array, written_ms: int) -> np.ndarray:
        keep = np.ones(len(identity), np.bool_)
        has_one, words = words_of(identity)
        if has_one is None:
            keep = ~one.seen.repeats(words, written_ms)
        elif len(words):
            keep[has_one] = ~one.seen.repeats(words, written_ms)
        return keep

    def _bury(self, one: _Input, record: Record, reason: str, detail: str, count: int, now_us: int) -> None:
        one.account.read += count
        one.account.dead += count
        self._dead.append(
            dead_letters.DeadLetter(
                reason=reason,
                stage="combine",
                detail=detail,
                count=count,
                time_us=now_us,
                source=str(record.at),
                offset=record.offset,
                payload=dead_letters.payload(record.value),
            )
        )

    def at_end(self, ends: Iterable[TopicPartition], now_us: int, now_ms: int) -> None:
        """These partitions have been read to their present end."""
        for at in ends:
            if (one := self._inputs.get(at)) is not None:
                one.source = watermark.at_end(one.source, now_us, now_ms, self.settings.time)

    @property
    def has_read(self) -> bool:
        """Whether the open transaction has read anything that is to be counted."""
        return any(one.account.end > one.account.first for one in self._inputs.values())

    @property
    def has_news(self) -> bool:
        """Whether a transaction would tell anything that the last one did not."""
        return any(
            one.account.end > one.account.first
            or one.told is None
            or _tells(one.telling()) != _tells(one.told)
            for one in self._inputs.values()
        )

    def finish(self, sources: int) -> Step:
        """Close the open transaction. ``sources``: partitions of all subscribed inputs now."""
        origins = list(self._inputs)
        rows = {at: [0] * self.partitions for at in origins}
        batches = self._aggregate(rows)
        envelope = records.Envelope(
            pane_us=self.pane_us,
            histogram_scale=histogram.SCALE,
            sources=sources,
            inputs=[_range(at, self._inputs[at].account, rows[at]) for at in origins],
            watermarks=[
                records.SourceWatermark(at.topic, at.partition, *_tells(self._inputs[at].telling()))
                for at in origins
            ],
            lost=self._lost,
        )
        messages = [
            Message(
                topics.PARTIALS, p, records.encode(batch, envelope), headers=schema.headers(schema.PARTIALS)
            )
            for p, batch in enumerate(batches)
        ]
        messages += [
            Message(
                topics.DEAD_LETTERS,
                letter.offset % self.partitions,
                dead_letters.encode(letter),
                headers=schema.headers(schema.DEAD_LETTER),
            )
            for letter in self._dead
        ]
        messages += self._moved
        positions = {}
        read = 0
        for at, one in self._inputs.items():
            source = one.telling()
            one.held = source.watermark_us, source.provisional_us
            metadata = Resume(*one.held, one.written_ms, one.growth, one.grown_ms, one.moved_to)
            positions[at] = Position(one.account.end, msgspec.json.encode(metadata).decode())
            read += one.account.read
            self.counters.duplicates += one.account.duplicates
            self.counters.dead += one.account.dead
            one.account = _Account(one.account.end, one.account.end)
            one.told = source
        self.counters.events += read
        self.abandon()
        self._bound_memory()
        return Step(messages, positions, read)

    def abandon(self) -> None:
        """Empty the open transaction (after it was committed, or together with ``drop`` of every partition)."""
        self._batches, self._keep, self._origin, self._dead = [], [], [], []
        self._moved, self._lost = [], []
        self.pending_bytes = 0
        self.has_grown = False

    def _aggregate(self, rows: Mapping[TopicPartition, list[int]]) -> list[pa.RecordBatch]:
        """Partials of the open transaction per partition of ``partials``; adds to ``rows`` how many events of each input
        went where."""
        if not self._batches:
            return [self._empty] * self.partitions
        columns = partials.columns(self._batches, np.concatenate(self._keep), self.families)
        result = partials.aggregate(columns, self._aggregations)
        home = self._homes(result.labels, columns.values[0], columns.values[1])
        start = 0
        for at, batch in zip(self._origin, self._batches, strict=True):
            groups = result.group_of[start : start + batch.num_rows]
            start += batch.num_rows
            counts = np.bincount(home[groups[groups >= 0]], minlength=self.partitions)
            for p in range(self.partitions):
                rows[at][p] += int(counts[p])
        return [partials.rows(result, columns, home == p) for p in range(self.partitions)]

    def _homes(self, labels: npt.NDArray[np.int32], tenants: list[str], services: list[str]) -> np.ndarray:
        """The partition of ``partials`` of each group, looked up once for each service."""
        service = labels[0].astype(np.int64) * len(services) + labels[1]
        used = np.zeros(len(tenants) * len(services), np.bool_)
        used[service] = True
        home = np.zeros(len(used), np.int64)
        for i in np.flatnonzero(used).tolist():
            tenant, name = divmod(i, len(services))
            home[i] = self._home(tenants[tenant], services[name])
        found: np.ndarray = home[service]
        return found

    def _home(self, tenant: str, service: str) -> int:
        key = (tenant, service)
        if key not in self._partition_of:
            if len(self._partition_of) >= _MEMORY_OF_HOMES:
                self._partition_of.clear()
            self._partition_of[key] = service_partition(tenant, service, self.partitions)
        return self._partition_of[key]

    def _bound_memory(self) -> None:
        while sum(len(one.seen) for one in self._inputs.values()) > self.settings.dedup.max_ids:
            fullest = max(self._inputs.values(), key=lambda one: len(one.seen))
            self.counters.forgotten += fullest.seen.forget_oldest()


def words_of(identity: pa.Array) -> tuple[np.ndarray | None, np.ndarray]:
    """Identities as words, shape (n, 2), of the events that have one, and which those are (None: all)."""
    n = len(identity)
    if identity.null_count == n:
        return np.zeros(n, np.bool_), np.zeros((0, 2), np.uint64)
    words = np.frombuffer(identity.buffers()[1], np.uint64, 2 * (identity.offset + n)).reshape(-1, 2)
    words = words[identity.offset :]
    if not identity.null_count:
        return None, words
    has_one = identity.is_valid().to_numpy(zero_copy_only=False)
    return has_one, words[has_one]


_MEMORY = 1.5
"""For how many deduplication windows a ``RepeatFilter`` remembers, at most."""

_MEMORY_OF_HOMES = 1_000_000
"""Services whose partition is remembered, about 200 bytes each."""


def _tells(source: watermark.Source) -> tuple[int, int, str]:
    return source.watermark_us, source.provisional_us, source.state


def _range(at: TopicPartition, account: _Account, rows: list[int]) -> records.InputRange:
    return records.InputRange(
        at.topic,
        at.partition,
        account.first,
        account.end,
        account.read,
        account.duplicates,
        account.dead,
        rows,
        account.moved,
        account.lost,
    )
