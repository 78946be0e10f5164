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

from collections.abc import Iterable, Iterator
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
from smartscale.stream.window import emit, recovery
from smartscale.stream.window.keys import Keys
from smartscale.stream.window.merge import Rows, merge
from smartscale.stream.window.recovery import Pointers, Resume, Sources
from smartscale.stream.windows import Window, pane_us, windows_of

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

    def rows(self, keys: int) -> Rows:
        if len(self.parts) > 1:
            self.parts = [merge(self.parts, keys)]
        return self.parts[0]


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction of one partition. ``more``: call ``finish`` again, there are further rows due."""

    messages: list[Message]
    position: Position
    rows: int
    late: int
    more: bool


class Partition:
    """The state of one owned partition of ``partials``."""

    def __init__(self, settings: Settings, partition: int) -> None:
        self.partition = partition
        self.windows = windows_of(settings.windows)
        self._lateness_us = round(settings.time.allowed_lateness_s * MICROS)
        self._histogram_from_us = round(settings.windows.histogram_from_s * MICROS)
        self.keys = Keys(round(settings.windows.key_ttl_s * MICROS))
        self.sources = Sources()
        self._pane_us = pane_us(self.windows)
        self._resume_at = 0
        self._read_to = 0
        self._position = 0
        self._panes: dict[int, _Pane] = {}
        self._pointers = {window.label: Pointers() for window in self.windows}
        self._touched: dict[tuple[str, int], set[int]] = {}
        self._whole: dict[tuple[int, int], Rows] = {}
        """Merged in this transaction: a tumbling and a sliding window may share their panes."""
        self._dirty: set[int] = set()
        self._letters: list[dead_letters.DeadLetter] = []
        self._late = 0

    def assign(self, committed: Position | None, live: Iterable[metrics.LiveKey]) -> int | None:
        """Start from a committed position and the live keys of that moment. Returns the offset to read from, None to
        start at the beginning."""
        if committed is None:
            return None
        resume = recovery.read(committed)
        self._resume_at = self._position = committed.offset
        self._read_to = resume.first
        self.sources = resume.before
        for window in self.windows:
            new = Pointers(resume.now.provisional_us, resume.now.watermark_us, resume.now.watermark_us)
            self._pointers[window.label] = resume.pointers.get(window.label, new)
        for key in live:
            self.keys.restore(key)
        return resume.first

    @property
    def caught_up(self) -> bool:
        """Whether all has been read again that the committed position stands for. Until then ``finish`` must wait."""
        return self._read_to >= self._resume_at

    @property
    def closed_us(self) -> int:
        """Panes that ended at or before this take no more rows."""
        return self.sources.watermark_us - self._lateness_us

    def take(self, record: Record, now_us: int) -> None:
        """Read one record of partials. A record that cannot be read is set aside, not skipped silently."""
        replay = record.offset < self._resume_at
        self._read_to = record.offset + 1
        self._position = max(self._position, self._read_to)
        before = self.sources
        try:
            envelope, batch = records.decode(record.value)
            if envelope.histogram_scale != histogram.SCALE or self._pane_us % envelope.pane_us:
                raise SchemaError(
                    f"histograms of scale {envelope.histogram_scale} in panes of {envelope.pane_us} us, expected scale "
                    f"{histogram.SCALE} and panes that divide {self._pane_us} us: combine and window need the same settings"
                )
        except SchemaError as error:
            if not replay:
                self._letters.append(_unreadable(record, error, now_us))
            return
        if batch.num_rows:
            rows, pane = self._rows(batch)
            late = pane + envelope.pane_us <= self.closed_us
            if late.any() and not replay:
                self._bury(record, batch, late, envelope.pane_us, now_us)
            for start in np.unique(pane[~late]).tolist():
                index = np.flatnonzero(pane == start)
                self._add(start, envelope.pane_us, rows.chosen(index), record.offset, before, replay)
        self.sources = self.sources.heard(envelope.watermarks, envelope.sources)

    def _rows(self, batch: pa.RecordBatch) -> tuple[Rows, npt.NDArray[np.int64]]:
        labels = [batch.column(name) for name in ("tenant", "service", "kind", "name")]
        codes = [column.indices.to_numpy().tolist() for column in labels]
        values = [column.dictionary.to_pylist() for column in labels]
        tenants, services, kinds, names = values
        number = self.keys.number
        key = np.fromiter(
            (
                number((tenants[t], services[s], kinds[k], names[n]))
                for t, s, k, n in zip(*codes, strict=True)
            ),
            np.int64,
            batch.num_rows,
        )

        def column(name: str) -> npt.NDArray[np.int64]:
            return np.asarray(batch.column(name).to_numpy())

        slots = batch.column("slots")
        rows = Rows(
            key=key,
            sums=np.stack(
                [
                    *(
                        column(name)
                        for name in ("count", "errors", "latency_count", "latency_sum", "value_count")
                    ),
                    np.ones(batch.num_rows, np.int64),
                ]
            ),
            latency=np.stack([column("latency_min"), column("latency_max")]),
            value=np.stack([column(name) for name in ("value_sum", "value_min", "value_max")]).astype(
                np.float64
            ),
            offsets=slots.offsets.to_numpy().astype(np.int64),
            slot=slots.values.to_numpy(),
            slot_count=batch.column("slot_counts").values.to_numpy(),
        )
        return rows, column("pane")

    def _add(self, start: int, length: int, rows: Rows, offset: int, before: Sources, replay: bool) -> None:
        self._panes.setdefault(start, _Pane(offset, before)).parts.append(rows)
        if not replay:
            self._dirty.update(self.keys.saw(rows.key, start, start + length).tolist())
            for window in self.windows:
                pointers = self._pointers[window.label]
                for end in window.ends_containing(start):
                    if pointers.final_us < end <= pointers.emitted_us:
                        touched = self._touched.setdefault((window.label, end), set())
                        touched.update(rows.key.tolist(), self.keys.rollup[rows.key].tolist())

    def _bury(
        self, record: Record, batch: pa.RecordBatch, late: npt.NDArray[np.bool_], length: int, now_us: int
    ) -> None:
        for row in batch.filter(pa.array(late)).to_pylist():
            self._late += row["count"]
            self._letters.append(
                dead_letters.DeadLetter(
                    reason=dead_letters.LATE,
                    stage="window",
                    detail=f"{(self.closed_us - row['pane'] - length) / MICROS:g} s beyond the allowed lateness: raise "
                    "time.allowed_lateness_s if this is usual",
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
        for window in self.windows:
            for end, stage in self._due(window):
                if len(messages) >= rows_limit:
                    more = True
                    break
                messages += self._emit(window, end, stage, None)
                done.add((window.label, end))
                self._advance(window, end, stage)
            else:
                self._advance(window, self.closed_us, emit.FINAL)
                self._advance(window, self.sources.watermark_us, emit.COMPLETE)
                self._advance(window, self.sources.provisional_us, emit.INCOMPLETE)
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
        late, self._late, self._letters = self._late, 0, []
        return Step(messages, self._commit(), rows, late, more)

    def _due(self, window: Window) -> Iterator[tuple[int, int]]:
        """Ends to be emitted whole, with the stage they are in now, in an order that keeps each pointer's promise."""
        pointers = self._pointers[window.label]
        watermark, provisional, closed = (
            self.sources.watermark_us,
            self.sources.provisional_us,
            self.closed_us,
        )
        for end in self._ends(window, pointers.final_us, min(closed, pointers.emitted_us)):
            yield end, emit.FINAL
        for end in self._ends(window, max(pointers.complete_us, closed), min(watermark, pointers.emitted_us)):
            yield end, emit.COMPLETE
        for end in self._ends(window, pointers.emitted_us, provisional):
            yield end, emit.FINAL if end <= closed else emit.COMPLETE if end <= watermark else emit.INCOMPLETE

    def _advance(self, window: Window, end: int, stage: int) -> None:
        now = self._pointers[window.label]
        self._pointers[window.label] = Pointers(
            max(now.emitted_us, end),
            max(now.complete_us, end if stage >= emit.COMPLETE else 0),
            max(now.final_us, end if stage == emit.FINAL else 0),
        )

    def _ends(self, window: Window, after_us: int, until_us: int) -> Iterator[int]:
        """Ends in (after, until] of windows with events or live keys, ascending; stretches without any are jumped over."""
        end = window.first_end_after(after_us)
        while end <= until_us:
            start = end - window.size_us
            if self.keys.alive(start, end).any() or any(start <= pane < end for pane in self._panes):
                yield end
                end += window.slide_us
                continue
            beginnings = [pane for pane in self._panes if pane >= end]
            life = self.keys.next_life_us(end - 1)
            beginnings += [] if life is None else [life]
            if not beginnings:
                return
            end = window.first_end_after(min(beginnings))

    def _emit(self, window: Window, end: int, stage: int, only: set[int] | None) -> Iterator[Message]:
        """The rows of a window, of these keys or (None) of all that live or have events in it."""
        start = end - window.size_us
        merged = self._merge(start, end, only)
        if only is None:
            alive = self.keys.alive(start, end)
            alive[merged.key] = True
            wanted = np.flatnonzero(alive)
        else:
            wanted = np.array(sorted(only), np.int64)
        with_histogram = window.tumbling and window.size_us >= self._histogram_from_us
        rows = emit.rows(
            self.keys.names, wanted, merged, window, end, stage, self.sources.watermark_us, with_histogram
        )
        record_keys = self.keys.record_keys
        for number, row in zip(wanted.tolist(), rows, strict=True):
            yield Message(topics.METRICS, self.partition, metrics.encode(row), record_keys[number], _METRIC)

    def _merge(self, start: int, end: int, only: set[int] | None) -> Rows:
        """Everything in [start, end), with the roll-ups; of these keys and the names of these roll-ups alone if given."""
        if only is None and (start, end) in self._whole:
            return self._whole[start, end]
        count, rollup = len(self.keys), self.keys.rollup
        panes = [pane.rows(count) for at, pane in sorted(self._panes.items()) if start <= at < end]
        if only is not None:
            concerned = np.zeros(count, np.bool_)
            concerned[list(only)] = True
            panes = [
                rows.chosen(np.flatnonzero(concerned[rows.key] | concerned[rollup[rows.key]]))
                for rows in panes
            ]
        if not panes:
            return _NOTHING
        merged = merge([*panes, *(rows.relabelled(rollup[rows.key]) for rows in panes)], count)
        if only is None:
            self._whole[start, end] = merged
        return merged

    def _revisions(self, done: set[tuple[str, int]]) -> Iterator[Message]:
        """New revisions of keys whose emitted windows have changed, unless the whole window was just emitted."""
        for (label, end), keys in sorted(self._touched.items()):
            pointers = self._pointers[label]
            if (label, end) not in done and pointers.final_us < end <= pointers.emitted_us:
                window = next(window for window in self.windows if window.label == label)
                stage = emit.COMPLETE if end <= pointers.complete_us else emit.INCOMPLETE
                yield from self._emit(window, end, stage, keys)
        self._touched = {}

    def _life_messages(self) -> list[Message]:
        messages = [self._life(key, metrics.encode(self.keys.record(key))) for key in sorted(self._dirty)]
        self._dirty = set()
        return messages

    def _life(self, key: int, value: bytes) -> Message:
        name = "\x1f".join(self.keys.names[key]).encode()
        return Message(topics.LIVE_KEYS, self.partition, value, key=name, headers=_LIVE_KEY)

    def _forget_keys(self) -> list[Message]:
        """Give the memory of dead keys back, here and in ``live-keys``, once they are many and no pane refers to them."""
        horizon = min(pointers.final_us for pointers in self._pointers.values())
        dead = self.keys.expired(horizon - max(window.size_us for window in self.windows))
        if len(dead) < max(_WORTH_FORGETTING, len(self.keys) // 2):
            return []
        used = np.zeros(len(self.keys), np.bool_)
        for pane in self._panes.values():
            for rows in pane.parts:
                used[rows.key] = True
        forget = [key for key in dead.tolist() if not used[key]]
        buried = [
            self._life(key, b"") for key in forget if self.keys.rollup[key] != key and self.keys.lives(key)
        ]
        moved = self.keys.compact(forget)
        for pane in self._panes.values():
            pane.parts = [rows.relabelled(moved[rows.key]) for rows in pane.parts]
        return buried

    def _drop_panes(self) -> None:
        for start in [at for at in self._panes if self._settled(at)]:
            del self._panes[start]

    def _settled(self, pane: int) -> bool:
        """Whether every window that contains the pane is final."""
        return all(
            window.size_us + pane // window.slide_us * window.slide_us
            <= self._pointers[window.label].final_us
            for window in self.windows
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
            final_us=self._pointers[self.windows[0].label].final_us,
            written_us=now_us,
            missing=[f"{one.topic}/{one.partition}" for one in self.sources.known if one.state == MISSING],
        )
        return Message(topics.METRICS, self.partition, metrics.encode(progress), headers=_PROGRESS)

    def _commit(self) -> Position:
        oldest = min(self._panes.values(), key=lambda pane: pane.first, default=None)
        first, before = (oldest.first, oldest.before) if oldest else (self._position, self.sources)
        return recovery.write(self._position, Resume(first, before, self.sources, dict(self._pointers)))

    @property
    def at(self) -> TopicPartition:
        return TopicPartition(topics.PARTIALS, self.partition)


_METRIC = schema.headers(schema.METRIC)
_PROGRESS = schema.headers(schema.PROGRESS)
_LIVE_KEY = schema.headers(schema.LIVE_KEY)

_NOTHING = Rows(
    np.zeros(0, np.int64),
    np.zeros((6, 0), np.int64),
    np.zeros((2, 0), np.int64),
    np.zeros((3, 0)),
    np.zeros(1, np.int64),
    np.zeros(0, np.int16),
    np.zeros(0, np.int64),
)


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
