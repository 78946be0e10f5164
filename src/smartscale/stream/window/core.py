"""The window stage's thinking for one partition: records of partials in, metric rows out.

Invariants

- **Lateness is judged per pane**, record by record: a row whose pane ended at or before the watermark (of the records
  before it) less the allowed lateness is late, goes to ``dead-letters``, and is in no window. Every other row is in all
  the windows of its pane.
- The watermark never falls; a window end is emitted once per stage of its life, in order: incomplete, complete, final. In
  between, a row that changes an emitted window gives that key (and its roll-up) a new revision.
- A pane is kept until every window that contains it is final.
- Everything but the order of float additions follows from the log alone: a restart goes on where the commit was.

A transaction emits a bounded number of rows; what is left over is emitted by the next (``Step.more``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from smartscale.clock import MICROS
from smartscale.config import Settings
from smartscale.errors import SchemaError
from smartscale.log.port import Message, Position, Record, TopicPartition
from smartscale.records import dead_letters, histogram, metrics, schema, topics
from smartscale.records import partials as records
from smartscale.records.partials import MISSING
from smartscale.stream.aggregates import Aggregation, named
from smartscale.stream.attributes import OTHER
from smartscale.stream.columns import State, from_arrow
from smartscale.stream.window import emit, recovery
from smartscale.stream.window.keys import Key, Keys
from smartscale.stream.window.merge import Merged, Rows, merge, nothing, with_rollups
from smartscale.stream.window.recovery import Pointers, Resume, Sources
from smartscale.stream.windows import Families, Family, Window

ROWS_PER_STEP = 60_000
"""Rows emitted in one transaction, about 25 MB: it stays well within a transaction's ten seconds."""

_WORTH_FORGETTING = 1000
"""Dead keys below this number are not worth the renumbering."""


@dataclass(slots=True)
class _Pane:
    """One pane's rows so far. ``first`` is the offset of the first record with rows for it, ``before`` what was known of
    the sources just before that record."""

    first: int
    before: Sources
    parts: list[Rows] = field(default_factory=list)

    def rows(self, keys: int, aggregations: Sequence[Aggregation]) -> Rows:
        if len(self.parts) > 1:
            self.parts = [merge(self.parts, keys, aggregations)]
        return self.parts[0]


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of window of one family of services."""

    number: int
    """Of the family."""
    family: Family
    window: Window

    @property
    def name(self) -> str:
        """As the commit's metadata names it."""
        return f"{self.family.name}:{self.window.label}" if self.family.name else self.window.label


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction of one partition. ``more``: call ``finish`` again, there are further rows due."""

    messages: list[Message]
    position: Position
    rows: int
    late: int
    more: bool
    overflow: int
    """Events that went to the group ``__other__`` because their service has too many groups."""


@dataclass(frozen=True, slots=True)
class _Found:
    """For each row of a record: the number of its family, the start and the width of its pane."""

    family: npt.NDArray[np.int64]
    pane: npt.NDArray[np.int64]
    pane_us: npt.NDArray[np.int64]


class Partition:
    """The state of one owned partition of ``partials``."""

    def __init__(self, settings: Settings, partition: int) -> None:
        self.partition = partition
        self.families = Families(settings.windows)
        self.kinds = [
            _Kind(number, family, window)
            for number, family in enumerate(self.families)
            for window in family.windows
        ]
        self.aggregations = named(settings.windows)
        self._lateness_us = round(settings.time.allowed_lateness_s * MICROS)
        self._histogram_from_us = round(settings.windows.histogram_from_s * MICROS)
        ttl_us = round(settings.windows.key_ttl_s * MICROS)
        self.keys = Keys(ttl_us, self.families, settings.windows.max_groups)
        self.sources = self._now = Sources()
        self._nothing = nothing(self.aggregations)
        self._resume_at = 0
        self._read_to = 0
        self._position = 0
        self._panes: list[dict[int, _Pane]] = [{} for _ in self.families]
        """By family and start."""
        self._pointers = {kind.name: Pointers() for kind in self.kinds}
        self._touched: dict[tuple[str, int], set[int]] = {}
        self._whole: dict[tuple[int, int, int], Merged] = {}
        """Merged in this transaction: a tumbling and a sliding window may share their panes."""
        self._dirty: set[int] = set()
        self._letters: list[dead_letters.DeadLetter] = []
        self._late = 0
        self._overflow = 0
        self._lost = self._lost_us = (0, 0)

    def assign(self, committed: Position | None, live: Iterable[metrics.LiveKey]) -> int | None:
        """Start from a committed position and the live keys of that moment. Returns the offset to read from, None to
        start at the beginning."""
        if committed is None:
            return None
        resume = recovery.read(committed)
        self._resume_at = self._position = committed.offset
        self._read_to = resume.first
        self.sources, self._now = resume.before, resume.now
        for kind in self.kinds:
            new = Pointers(resume.now.provisional_us, resume.now.watermark_us, resume.now.watermark_us)
            self._pointers[kind.name] = resume.pointers.get(kind.name, new)
        for key in live:
            self.keys.restore(key)
        return resume.first

    def lose(self, end: int, until_us: int) -> None:
        """After ``assign``: offsets before ``end`` cannot be read any more, and hold events of up to ``until_us``.

        Reading goes on at ``end``: panes that were open lack what was in there, and what is closed by now stays so."""
        resumed = self._pointers.values()
        longest_us = max(kind.window.size_us for kind in self.kinds)
        since_us = max(0, min(pointers.final_us for pointers in resumed) - longest_us)
        unread_end = max(end, self._resume_at)
        self._lost, self._lost_us = (self._resume_at, unread_end), (since_us, until_us)
        self._resume_at = self._position = unread_end
        self._read_to = end
        self.sources = self._now.heard([], 0, [self._lost_us])

    @property
    def caught_up(self) -> bool:
        """Whether all has been read again that the committed position stands for. Until then ``finish`` must wait."""
        return self._read_to >= self._resume_at

    @property
    def closed_us(self) -> int:
        """Panes that ended at or before this take no more rows."""
        return self.sources.watermark_us - self._lateness_us

    def take(self, record: Record, now_us: int) -> None:
        """Read one record of partials. A record that is damaged is set aside, not skipped silently.

        Raises ``SchemaError`` for one of a later version: a process of that version can read it, so nothing is set aside."""
        schema.schema_of(record.headers)
        replay = record.offset < self._resume_at
        self._read_to = record.offset + 1
        self._position = max(self._position, self._read_to)
        before = self.sources
        try:
            envelope, batch = records.decode(record.value)
            found = self._found(envelope, batch)
        except SchemaError as error:
            if not replay:
                self._letters.append(_unreadable(record, error, now_us))
            return
        if len(found.pane):
            late = found.pane + found.pane_us <= self.closed_us
            if late.any() and not replay:
                self._bury(record, batch, late, now_us)
            self._add(batch, found, np.flatnonzero(~late), record.offset, before, replay)
        self.sources = self.sources.heard(envelope.watermarks, envelope.sources, envelope.lost)

    def _found(self, envelope: records.Envelope, batch: pa.RecordBatch) -> _Found:
        """The families and panes of a record's rows. Raises ``SchemaError`` if its panes do not fit into the windows."""
        services = batch.column("service")
        of_service = [self.families.of(name) for name in services.dictionary.to_pylist()]
        family = np.array(of_service, np.int64)[services.indices.to_numpy()]
        found = _Found(family, batch.column("pane").to_numpy(), batch.column("pane_us").to_numpy())
        widths = np.array([family.pane_us for family in self.families])
        if envelope.histogram_scale != histogram.SCALE or (widths[family] % found.pane_us).any():
            raise SchemaError(
                f"histograms of scale {envelope.histogram_scale} in panes of {envelope.pane_us} us, expected scale "
                f"{histogram.SCALE} and panes that divide {widths.tolist()} us: combine and window need the same settings"
            )
        return found

    def _state(self, batch: pa.RecordBatch) -> State:
        """The columns of every aggregation; as if it had seen nothing where the record does not have them."""
        there = set(batch.schema.names)
        return {
            name: from_arrow(batch.column(name)) if name in there else column
            for one in self.aggregations
            for name, column in one.zero(batch.num_rows).items()
        }

    def _numbers(self, batch: pa.RecordBatch, replay: bool) -> npt.NDArray[np.int64]:
        """The number of each row's key; a group beyond the bound is ``__other__``."""
        if not any(batch.column("group").dictionary.to_pylist()):
            return self.keys.numbers(batch)
        labels = [batch.column(name).to_pylist() for name in ("tenant", "service", "kind", "name", "group")]
        numbers = np.empty(batch.num_rows, np.int64)
        for i, key in enumerate(zip(*labels, strict=True)):
            numbers[i] = self.keys.number(self._admitted(key, batch, i, replay))
        return numbers

    def _admitted(self, key: Key, batch: pa.RecordBatch, row: int, replay: bool) -> Key:
        admitted = self.keys.admitted(key, replay)
        if admitted[4] == OTHER and not replay:
            self._overflow += batch.column("count")[row].as_py()
        return admitted

    def _add(
        self,
        batch: pa.RecordBatch,
        found: _Found,
        kept: npt.NDArray[np.int64],
        offset: int,
        before: Sources,
        replay: bool,
    ) -> None:
        """Put the kept rows of a record into their panes."""
        if len(kept) < batch.num_rows:
            batch = batch.take(pa.array(kept))
        family, pane = found.family[kept], found.pane[kept]
        rows = Rows(self._numbers(batch, replay), np.ones(len(kept), np.int64), self._state(batch))
        for number in np.unique(family).tolist():
            own = self.families[number].pane_us
            for start in np.unique(pane[family == number] // own * own).tolist():
                index = np.flatnonzero((family == number) & (pane // own * own == start))
                part = rows if len(index) == len(kept) else rows.chosen(index)
                self._panes[number].setdefault(start, _Pane(offset, before)).parts.append(part)
                if not replay:
                    self._note(number, start, part.key)

    def _note(self, family: int, start: int, keys: npt.NDArray[np.int64]) -> None:
        """A pane of the family has got rows of these keys: they live, and windows already emitted have changed."""
        end = start + self.families[family].pane_us
        self._dirty.update(self.keys.saw(keys, start, end).tolist())
        for kind in self.kinds:
            if kind.number == family:
                pointers = self._pointers[kind.name]
                for closing in kind.window.ends_containing(start):
                    if pointers.final_us < closing <= pointers.emitted_us:
                        touched = self._touched.setdefault((kind.name, closing), set())
                        touched.update(keys.tolist(), self.keys.rollup[keys].tolist())

    def _bury(self, record: Record, batch: pa.RecordBatch, late: npt.NDArray[np.bool_], now_us: int) -> None:
        for row in batch.filter(pa.array(late)).to_pylist():
            self._late += row["count"]
            self._letters.append(
                dead_letters.DeadLetter(
                    reason=dead_letters.LATE,
                    stage="window",
                    detail=f"{(self.closed_us - row['pane'] - row['pane_us']) / MICROS:g} s beyond the allowed lateness: "
                    "raise time.allowed_lateness_s if this is usual",
                    count=row["count"],
                    time_us=now_us,
                    source=str(record.at),
                    offset=record.offset,
                    tenant=row["tenant"],
                    service=row["service"],
                    pane_us=row["pane"],
                    payload=msgspec.json.encode(row).decode(),
                )
            )

    def finish(self, now_us: int, rows_limit: int = ROWS_PER_STEP) -> Step:
        """Everything that is due now, as one transaction's messages and position. Needs ``caught_up``."""
        messages: list[Message] = []
        done: set[tuple[str, int]] = set()
        more = False
        for kind in self.kinds:
            for end, stage in self._due(kind):
                if len(messages) >= rows_limit:
                    more = True
                    break
                messages += self._emit(kind, end, stage, None)
                done.add((kind.name, end))
                self._advance(kind, end, stage)
            else:
                self._advance(kind, self.closed_us, emit.FINAL)
                self._advance(kind, self.sources.watermark_us, emit.COMPLETE)
                self._advance(kind, self.sources.provisional_us, emit.INCOMPLETE)
        messages += self._revisions(done)
        self._whole = {}
        rows = len(messages)
        messages += self._life_messages()
        self._drop_panes()
        if not more:
            messages += self._forget_keys()
        messages += [
            Message(
                topics.DEAD_LETTERS,
                self.partition,
                dead_letters.encode(letter),
                headers=schema.headers(schema.DEAD_LETTER),
            )
            for letter in self._letters
        ]
        messages.append(self._progress(now_us))
        longest_us = max(kind.window.size_us for kind in self.kinds)
        final_us = min(pointers.final_us for pointers in self._pointers.values())
        self.sources = self.sources.without_lost_before(final_us - longest_us)
        late, self._late, self._letters = self._late, 0, []
        overflow, self._overflow = self._overflow, 0
        return Step(messages, self._commit(), rows, late, more, overflow)

    def _due(self, kind: _Kind) -> Iterator[tuple[int, int]]:
        """Ends to be emitted whole, with the stage they are in now, in an order that keeps each pointer's promise."""
        pointers = self._pointers[kind.name]
        watermark, provisional, closed = (
            self.sources.watermark_us,
            self.sources.provisional_us,
            self.closed_us,
        )
        for end in self._ends(kind, pointers.final_us, min(closed, pointers.emitted_us)):
            yield end, emit.FINAL
        for end in self._ends(kind, max(pointers.complete_us, closed), min(watermark, pointers.emitted_us)):
            yield end, emit.COMPLETE
        for end in self._ends(kind, pointers.emitted_us, provisional):
            yield end, emit.FINAL if end <= closed else emit.COMPLETE if end <= watermark else emit.INCOMPLETE

    def _advance(self, kind: _Kind, end: int, stage: int) -> None:
        now = self._pointers[kind.name]
        self._pointers[kind.name] = Pointers(
            max(now.emitted_us, end),
            max(now.complete_us, end if stage >= emit.COMPLETE else 0),
            max(now.final_us, end if stage == emit.FINAL else 0),
        )

    def _ends(self, kind: _Kind, after_us: int, until_us: int) -> Iterator[int]:
        """Ends in (after, until] of windows with events or live keys, ascending; stretches without any are jumped over."""
        window, panes = kind.window, self._panes[kind.number]
        end = window.first_end_after(after_us)
        while end <= until_us:
            start = end - window.size_us
            if self.keys.alive(start, end, kind.number).any() or any(start <= pane < end for pane in panes):
                yield end
                end += window.slide_us
                continue
            beginnings = [pane for pane in panes if pane >= end]
            life = self.keys.next_life_us(end - 1, kind.number)
            beginnings += [] if life is None else [life]
            if not beginnings:
                return
            end = window.first_end_after(min(beginnings))

    def _emit(self, kind: _Kind, end: int, stage: int, only: set[int] | None) -> Iterator[Message]:
        """The rows of a window, of these keys or (None) of all that live or have events in it."""
        window = kind.window
        start = end - window.size_us
        merged = self._merge(kind.number, start, end, only)
        if only is None:
            wanted = np.flatnonzero(self.keys.alive(start, end, kind.number) | (merged.row_of >= 0))
        else:
            wanted = np.array(sorted(only), np.int64)
        with_sketches = window.tumbling and window.size_us >= self._histogram_from_us
        found = emit.values(
            self.keys,
            wanted,
            merged,
            window,
            end,
            stage,
            self.sources.watermark_us,
            self.aggregations,
            with_sketches,
            self.sources.has_lost(start, end),
        )
        record_keys = self.keys.record_keys
        for number, value in zip(wanted.tolist(), found, strict=True):
            yield Message(topics.METRICS, self.partition, value, record_keys[number], _METRIC)

    def _merge(self, family: int, start: int, end: int, only: set[int] | None) -> Merged:
        """Everything in [start, end), with the roll-ups; of these keys and the names of these roll-ups alone if given."""
        if only is None and (family, start, end) in self._whole:
            return self._whole[family, start, end]
        count, rollup = len(self.keys), self.keys.rollup
        panes = [
            pane.rows(count, self.aggregations)
            for at, pane in sorted(self._panes[family].items())
            if start <= at < end
        ]
        if only is not None:
            concerned = np.zeros(count, np.bool_)
            concerned[list(only)] = True
            panes = [
                rows.chosen(np.flatnonzero(concerned[rows.key] | concerned[rollup[rows.key]]))
                for rows in panes
            ]
        merged = with_rollups(panes or [self._nothing], rollup, self.keys.ungrouped, self.aggregations)
        if only is None:
            self._whole[family, start, end] = merged
        return merged

    def _revisions(self, done: set[tuple[str, int]]) -> Iterator[Message]:
        """New revisions of keys whose emitted windows have changed, unless the whole window was just emitted."""
        named_ = {kind.name: kind for kind in self.kinds}
        for (name, end), keys in sorted(self._touched.items()):
            pointers = self._pointers[name]
            if (name, end) not in done and pointers.final_us < end <= pointers.emitted_us:
                stage = emit.COMPLETE if end <= pointers.complete_us else emit.INCOMPLETE
                yield from self._emit(named_[name], end, stage, keys)
        self._touched = {}

    def _life_messages(self) -> list[Message]:
        messages = [self._life(key, metrics.encode(self.keys.record(key))) for key in sorted(self._dirty)]
        self._dirty = set()
        return messages

    def _life(self, key: int, value: bytes) -> Message:
        parts = self.keys.names[key]
        name = "\x1f".join(parts if parts[4] else parts[:4]).encode()
        return Message(topics.LIVE_KEYS, self.partition, value, key=name, headers=_LIVE_KEY)

    def _forget_keys(self) -> list[Message]:
        """Give the memory of dead keys back, here and in ``live-keys``, once they are many and no pane refers to them."""
        horizon = min(pointers.final_us for pointers in self._pointers.values())
        dead = self.keys.expired(horizon - max(kind.window.size_us for kind in self.kinds))
        if len(dead) < max(_WORTH_FORGETTING, len(self.keys) // 2):
            return []
        used = np.zeros(len(self.keys), np.bool_)
        for pane in self._all_panes():
            for rows in pane.parts:
                used[rows.key] = True
        forget = [key for key in dead.tolist() if not used[key]]
        buried = [
            self._life(key, b"") for key in forget if self.keys.rollup[key] != key and self.keys.lives(key)
        ]
        moved = self.keys.compact(forget)
        for pane in self._all_panes():
            pane.parts = [rows.relabelled(moved[rows.key]) for rows in pane.parts]
        return buried

    def _all_panes(self) -> Iterator[_Pane]:
        return (pane for panes in self._panes for pane in panes.values())

    def _drop_panes(self) -> None:
        for number, panes in enumerate(self._panes):
            for start in [at for at in panes if self._settled(number, at)]:
                del panes[start]

    def _settled(self, family: int, pane: int) -> bool:
        """Whether every window that contains the pane is final."""
        return all(
            kind.window.size_us + pane // kind.window.slide_us * kind.window.slide_us
            <= self._pointers[kind.name].final_us
            for kind in self.kinds
            if kind.number == family
        )

    def _progress(self, now_us: int) -> Message:
        emitted = min(pointers.complete_us for pointers in self._pointers.values())
        provisional = min(pointers.emitted_us for pointers in self._pointers.values())
        progress = metrics.Progress(
            partition=self.partition,
            position=self._position,
            watermark_us=emitted,
            provisional_us=max(emitted, provisional),
            closed_us=self.closed_us,
            final_us=min(
                self._pointers[kind.name].final_us for kind in self.kinds if kind.window == kind.family.base
            ),
            written_us=now_us,
            missing=[f"{one.topic}/{one.partition}" for one in self.sources.known if one.state == MISSING],
            lost=self._lost,
            lost_us=self._lost_us,
        )
        self._lost = self._lost_us = (0, 0)
        return Message(topics.METRICS, self.partition, metrics.encode(progress), headers=_PROGRESS)

    def _commit(self) -> Position:
        oldest = min(self._all_panes(), key=lambda pane: pane.first, default=None)
        first, before = (oldest.first, oldest.before) if oldest else (self._position, self.sources)
        return recovery.write(self._position, Resume(first, before, self.sources, dict(self._pointers)))

    @property
    def at(self) -> TopicPartition:
        return TopicPartition(topics.PARTIALS, self.partition)


_METRIC = schema.headers(schema.METRIC)
_PROGRESS = schema.headers(schema.PROGRESS)
_LIVE_KEY = schema.headers(schema.LIVE_KEY)


def _unreadable(record: Record, error: SchemaError, now_us: int) -> dead_letters.DeadLetter:
    return dead_letters.DeadLetter(
        reason=dead_letters.UNREADABLE,
        stage="window",
        detail=str(error),
        count=0,
        time_us=now_us,
        source=str(record.at),
        offset=record.offset,
        payload=dead_letters.payload(record.value),
    )
