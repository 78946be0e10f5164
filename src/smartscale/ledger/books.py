"""The ledger's arithmetic: records of four topics in, one balance out.

accepted = windowed + late + dead + duplicates + lost + in flight, and the log proves it. No term comes from a process's
counter, and *in flight* is not what is left over but is counted:

- **accepted**: events stated by the records of the input topics.
- Each combine transaction writes a copy of its accounts to every partition of ``partials``; it is *settled* once all
  copies have been read (or a later transaction of the same input is: then a copy is missing, and shows). Settled
  transactions cover a prefix of each input partition.
- Each window transaction ends with its progress, which says up to where it has read; a row is *open* until its window is
  final.
- **in flight** = events after the prefixes + rows settled but not yet read by window + open.

Three checks, each of which must miss nothing:

1. per input partition: events stated in the prefix = events that the settled transactions say they read;
2. per settled transaction: what it read = rows + duplicates + dead + moved, and each copy holds the rows stated for it, once
   (moved: written on to the partition of their id, where they are read again; accepted leaves them out);
3. per partition of ``partials``: events in the rows that window has read = counts in final rows of the shortest tumbling
   window (roll-ups left out) + late + open.

**lost** is what retention removed before it was read, where a person said to go on: records of inputs (``InputRange.lost``)
and of partials (``Progress.lost``) that were booked before they were removed, and what open windows lack because it could
not be read again (``Progress.lost_us``). What was removed even before it was booked is **unbooked**, a number of offsets:
how many events it held nobody can say any more, so the first check believes the transactions that read some of it.

**difference** is the sum of what they miss, each taken as positive, so that a loss here never makes up for a surplus there.
It is 0 at every cut, however far each stage has come, if the topics are read downstream first: ``metrics``,
``dead-letters``, ``partials``, inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

import msgspec
import numpy as np
import pyarrow as pa

from smartscale.errors import SchemaError
from smartscale.log.port import Record
from smartscale.records import dead_letters, metrics, partials, schema
from smartscale.records.events import event_count
from smartscale.records.topics import ALL_NAMES
from smartscale.stream.windows import Families, Window


@dataclass(frozen=True, slots=True)
class Balance:
    """Numbers of events at one cut of the log. ``in_flight`` = ``unread`` + ``between`` + ``open``."""

    accepted: int
    windowed: int
    late: int
    dead: int
    duplicates: int
    lost: int
    """Removed by retention before combine or window had read them, or could read them again for windows still open."""
    unbooked: int
    """Offsets (not events) that retention removed before the ledger had read them; 0 unless nothing kept the books."""
    unread: int
    """Not yet read by combine."""
    between: int
    """In partials not yet read by window."""
    open: int
    """In windows that are not final yet."""
    difference: int

    @property
    def in_flight(self) -> int:
        return self.unread + self.between + self.open


class _Open(msgspec.Struct):
    """A combine transaction of which not all copies have been read."""

    inputs: list[partials.InputRange]
    """Those it moved in."""
    found: dict[int, int] = {}
    """Events in the rows of each copy read so far, by partition of ``partials``."""


class _Input(msgspec.Struct):
    """One input partition: events by record, from the settled prefix on."""

    accepted: int = 0
    read: int = 0
    """By settled transactions, as they say."""
    settled_end: int = 0
    unread: dict[int, int] = {}
    gap: tuple[int, int] = (0, 0)
    """Offsets ``[first, end)`` that were removed before they were booked."""
    believed_end: int = 0
    """Up to here ``accepted`` is what transactions say that read some of the gap."""


class _Partition(msgspec.Struct):
    """One partition of ``partials`` and ``metrics``."""

    position: int = 0
    final_us: int = 0
    read_rows: int = 0
    emitted: dict[int, int] = {}
    """By end of the base window, in final rows that no progress has covered yet."""
    windowed: int = 0
    late: int = 0
    waiting_rows: dict[int, list[tuple[int, int]]] = {}
    """By offset, of records that window has not read: (end of the base window, events)."""
    waiting_late: dict[int, list[tuple[int, int]]] = {}
    open: dict[int, int] = {}
    """By end of the base window, of records that window has read: events in rows less late ones."""
    lost: int = 0
    """In records of partials that window never read."""
    gaps_us: list[tuple[int, int]] = []
    """Event time of which window lacks something."""
    lacking: dict[int, int] = {}
    """By end of the base windows that overlap these: events read less those in final rows."""

    def overlaps(self, end: int, size: int) -> bool:
        return any(since < end and end - size < until for since, until in self.gaps_us)

    @property
    def short(self) -> int:
        """Events that were read, but could not be read again for the final rows."""
        return sum(n for end, n in self.lacking.items() if end <= self.final_us)


class Books(msgspec.Struct):
    """The running state; plain data, so that it can be stored and resumed."""

    copies: int
    bases: tuple[tuple[str, Window], ...]
    """The shortest tumbling window of the services that each pattern fits; the first that does counts, the last fits all."""
    inputs: dict[str, _Input] = {}
    partitions: dict[int, _Partition] = {}
    transactions: dict[str, _Open] = {}
    ending: dict[str, str] = {}
    """Open transaction by where it ends in an input (``topic/partition@offset``): the next one begins there."""
    settled_rows: int = 0
    missed: int = 0
    """By the second check."""
    duplicates: int = 0
    dead: int = 0
    moved: int = 0
    lost: int = 0
    unbooked: int = 0
    next: dict[str, int] = {}
    """Offset to read next, by ``topic/partition``."""

    def take_metric(self, record: Record) -> None:
        """A record of ``metrics``."""
        one = self.partitions.setdefault(record.partition, _Partition())
        kind = schema.schema_of(record.headers)
        if kind == schema.METRIC:
            row = _decode_row(record.value)
            if row.final and row.name != ALL_NAMES and row.window == _base(self.bases, row.service).label:
                one.emitted[row.end_us] = one.emitted.get(row.end_us, 0) + row.count
        elif kind == schema.PROGRESS:
            progress = metrics.decode_progress(record.value)
            self._lose(one, progress)
            one.position, one.final_us = progress.position, progress.final_us
            for end in [end for end in one.emitted if end <= progress.final_us]:
                n = one.emitted.pop(end)
                one.windowed += n
                self._lack(one, end, -n)
            self._read(one)

    def take_dead_letter(self, record: Record) -> None:
        """A record of ``dead-letters``: only what window found late is booked from here."""
        letter = dead_letters.decode(record.value)
        if letter.stage == "window" and letter.reason == dead_letters.LATE:
            partition = int(letter.source.rpartition("/")[2])
            one = self.partitions.setdefault(partition, _Partition())
            one.waiting_late.setdefault(letter.offset, []).append(
                (_base_end(self.bases, letter.service, letter.pane_us), letter.count)
            )
            self._read(one)

    def take_partials(self, record: Record) -> None:
        """A record of ``partials``. One that cannot be read counts as missing, so its events show in the difference."""
        one = self.partitions.setdefault(record.partition, _Partition())
        try:
            envelope, batch = partials.decode(record.value)
        except SchemaError:
            return
        rows = _by_base_end(batch, self.bases)
        one.waiting_rows.setdefault(record.offset, []).extend(rows)
        self._read(one)
        moved = [part for part in envelope.inputs if part.end > part.first]
        if not moved:  # tells watermarks only
            return
        events = sum(n for _, n in rows)
        if all(part.end <= self._input(part).settled_end for part in moved):  # doubled: settled before
            self.missed += events
            return
        identity = ";".join(f"{part.topic}/{part.partition}:{part.first}-{part.end}" for part in moved)
        known = self.transactions.setdefault(identity, _Open(moved))
        self.ending |= {_place(part, part.end): identity for part in moved}
        known.found[record.partition] = known.found.get(record.partition, 0) + events
        if len(known.found) == self.copies:
            self._settle(identity)

    def take_input(self, record: Record) -> None:
        """A record of an input topic."""
        one = self.inputs.setdefault(str(record.at), _Input())
        n = event_count(record.headers)
        one.accepted += n if record.offset >= one.believed_end else 0
        if n and record.offset >= one.settled_end:
            one.unread[record.offset] = n

    def skip(self, at: str, begin: int) -> None:
        """Everything of an input before ``begin`` that was not booked has been removed."""
        first = self.next.get(at, 0)
        one = self.inputs.setdefault(at, _Input())
        one.gap, self.next[at] = (first, begin), begin
        self.unbooked += begin - first

    def balance(self) -> Balance:
        """The balance at the cut up to which records have been taken."""
        accepted = sum(one.accepted for one in self.inputs.values())
        unread = sum(sum(one.unread.values()) for one in self.inputs.values())
        read_rows = sum(one.read_rows for one in self.partitions.values())
        windowed = sum(one.windowed for one in self.partitions.values())
        late = sum(one.late for one in self.partitions.values())
        open_ = sum(sum(one.open.values()) for one in self.partitions.values())
        lost = self.lost + sum(one.lost + one.short for one in self.partitions.values())
        between = self.settled_rows - read_rows
        difference = (
            sum(abs(one.accepted - sum(one.unread.values()) - one.read) for one in self.inputs.values())
            + self.missed
            + sum(
                abs(one.read_rows - one.windowed - one.late - one.lost - one.short - sum(one.open.values()))
                for one in self.partitions.values()
            )
        )
        return Balance(
            accepted - self.moved,
            windowed,
            late,
            self.dead,
            self.duplicates,
            lost,
            self.unbooked,
            unread,
            between,
            open_,
            difference,
        )

    def _settle(self, identity: str) -> None:
        """Book a transaction, and before it every earlier one of the same inputs that still misses a copy."""
        due = [identity]
        for later in due:
            for part in self.transactions[later].inputs:
                earlier = self.ending.get(_place(part, part.first))
                if earlier is not None and earlier not in due:
                    due.append(earlier)
        for transaction in due:
            self._book(self.transactions.pop(transaction))

    def _book(self, one: _Open) -> None:
        self.settled_rows += sum(one.found.values())
        for p in range(self.copies):
            self.missed += abs(sum(part.rows[p] for part in one.inputs) - one.found.get(p, 0))
        for part in one.inputs:
            self.missed += abs(part.read - sum(part.rows) - part.duplicates - part.dead - part.moved)
            self.moved += part.moved
            self.duplicates += part.duplicates
            self.dead += part.dead
            self.ending.pop(_place(part, part.end), None)
            known = self._input(part)
            lost = sum(n for o, n in known.unread.items() if part.first <= o < part.first + part.lost)
            self.lost += lost
            known.read += part.read + lost
            if part.first < known.gap[1] and part.end > known.gap[0]:  # as it says: it cannot be checked
                booked = sum(n for o, n in known.unread.items() if part.first <= o < part.end)
                known.accepted += part.read + lost - booked
                known.believed_end = part.end
            known.settled_end = max(known.settled_end, part.end)
            known.unread = {offset: n for offset, n in known.unread.items() if offset >= known.settled_end}

    def _input(self, part: partials.InputRange) -> _Input:
        return self.inputs.setdefault(f"{part.topic}/{part.partition}", _Input())

    def _lose(self, one: _Partition, progress: metrics.Progress) -> None:
        """What window says that it could not read."""
        if progress.lost_us == (0, 0):
            return
        one.gaps_us = [*one.gaps_us, progress.lost_us]
        for end, n in one.open.items():
            if end not in one.lacking:
                self._lack(one, end, n)
        first, end = progress.lost
        for offset in [offset for offset in one.waiting_rows if first <= offset < end]:
            n = sum(n for _, n in one.waiting_rows.pop(offset))
            one.read_rows += n
            one.lost += n

    def _lack(self, one: _Partition, end: int, n: int) -> None:
        if one.gaps_us and one.overlaps(end, max(base.size_us for _, base in self.bases)):
            one.lacking[end] = one.lacking.get(end, 0) + n

    def _read(self, one: _Partition) -> None:
        """Move what window has read by now from waiting to open, and what is final out of open."""
        for waiting, sign in ((one.waiting_rows, 1), (one.waiting_late, -1)):
            for offset in [offset for offset in waiting if offset < one.position]:
                for end, n in waiting.pop(offset):
                    if sign > 0:
                        one.read_rows += n
                    else:
                        one.late += n
                    one.open[end] = one.open.get(end, 0) + sign * n
                    self._lack(one, end, sign * n)
        one.open = {end: n for end, n in one.open.items() if end > one.final_us}


def _place(part: partials.InputRange, offset: int) -> str:
    return f"{part.topic}/{part.partition}@{offset}"


class _Row(msgspec.Struct):
    """What the ledger reads of a metric row."""

    service: str
    name: str
    window: str
    end_us: int
    count: int
    final: bool


_decode_row = msgspec.json.Decoder(_Row).decode


def bases_of(families: Families) -> tuple[tuple[str, Window], ...]:
    """For ``Books``."""
    general, *special = families
    return (*((family.name, family.base) for family in special), ("*", general.base))


@lru_cache(maxsize=100_000)
def _base(bases: tuple[tuple[str, Window], ...], service: str) -> Window:
    return next(base for pattern, base in bases if fnmatchcase(service, pattern))


def _base_end(bases: tuple[tuple[str, Window], ...], service: str, pane: int) -> int:
    return next(_base(bases, service).ends_containing(pane))


def _by_base_end(batch: pa.RecordBatch, bases: tuple[tuple[str, Window], ...]) -> list[tuple[int, int]]:
    """(end of the base window, events) of a batch of partials."""
    if not batch.num_rows:
        return []
    services = batch.column("service")
    sizes = np.array([_base(bases, service).size_us for service in services.dictionary.to_pylist()])
    size = sizes[services.indices.to_numpy()]
    ends, place = np.unique(batch.column("pane").to_numpy() // size * size + size, return_inverse=True)
    counts = np.zeros(len(ends), np.int64)
    np.add.at(counts, place, batch.column("count").to_numpy())
    return list(zip(ends.tolist(), counts.tolist(), strict=True))
