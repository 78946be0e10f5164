"""Watermarks of input partitions.

A source is one partition of an input topic. Its watermark is a promise by evidence: no event before it is
expected. It rises in two ways and never falls:

- by events: greatest event time seen (capped at its record's ingest time) less the out-of-orderness bound;
- by heartbeats, when the source is **idle**: every live edge process has beaten for ``settle_s`` and no event has
  come for ``idle_after_s``. Then it is the least ``oldest_us`` of the live processes less the bound.

Without a live edge process the source is **missing**: its watermark holds, and after ``missing_after_s`` the
provisional watermark follows the clock, so that windows are emitted, marked incomplete. The topic of a third party
has no heartbeats: at its confirmed end, quiet for ``idle_after_s``, the clock serves.

What a process is and when it counts as gone is judged by the log's own timestamps, so the verdict is the same
however late the records are read; only ``missing`` and the third party's clock look at the present.

Timeline of an idle source (bound 2, idle_after 1.5, settle 5; e: event, h: heartbeat)::

    wall    0   1   2   3   4   5   6   7
            h   he  h   h   h   h   h   h
    by          e-2                 4   5     first advance by heartbeat at 6: beating since 0, quiet since 1
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from smartscale.clock import MICROS
from smartscale.config import Time
from smartscale.records.events import Heartbeat
from smartscale.records.partials import IDLE, LIVE, MISSING


@dataclass(frozen=True, slots=True)
class Beat:
    """The last heartbeat of one edge process; times of writing in wall-clock ms."""

    first_ms: int
    last_ms: int
    oldest_us: int


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of one input partition. ``beats`` False: a third party's topic, which has no heartbeats."""

    beats: bool = True
    watermark_us: int = 0
    provisional_us: int = 0
    state: str = MISSING
    event_ms: int = 0
    """When the last events record was written."""
    heard_ms: int = 0
    """When the last record of any kind was written, or this source was first looked at: silence counts from here."""
    processes: dict[str, Beat] = field(default_factory=dict)


def bound_us(limits: Time) -> int:
    return round(limits.out_of_orderness_s * MICROS)


def on_events(source: Source, greatest_us: int, written_ms: int, limits: Time) -> Source:
    """Events were read; ``greatest_us`` is their greatest event time, capped at the record's ingest time."""
    watermark = max(source.watermark_us, greatest_us - bound_us(limits))
    return replace(
        source,
        watermark_us=watermark,
        provisional_us=max(watermark, source.provisional_us),
        event_ms=max(written_ms, source.event_ms),
        heard_ms=max(written_ms, source.heard_ms),
        state=LIVE,
    )


def on_heartbeat(source: Source, beat: Heartbeat, written_ms: int, limits: Time) -> Source:
    """A heartbeat was read."""
    source = replace(source, heard_ms=max(written_ms, source.heard_ms))
    processes = {
        name: known
        for name, known in source.processes.items()
        if written_ms - known.last_ms <= limits.heartbeat_timeout_s * 1000
    }
    if beat.leaving:
        processes.pop(beat.process, None)
        return replace(source, processes=processes)
    first_ms = processes[beat.process].first_ms if beat.process in processes else written_ms
    processes[beat.process] = Beat(first_ms, written_ms, min(beat.clock_us, beat.oldest_us))
    source = replace(source, processes=processes)
    settled_ms = max(known.first_ms for known in processes.values()) + limits.settle_s * 1000
    quiet_ms = source.event_ms + limits.idle_after_s * 1000
    if written_ms < max(settled_ms, quiet_ms):
        return replace(source, state=LIVE)
    watermark = max(
        source.watermark_us, min(known.oldest_us for known in processes.values()) - bound_us(limits)
    )
    return replace(
        source, state=IDLE, watermark_us=watermark, provisional_us=max(watermark, source.provisional_us)
    )


def replayed(source: Source, after: Source) -> Source:
    """What reading a record **again** adds to ``source``, where ``after`` is what reading it afresh would make of it: who
    beats, when the last events came. The watermarks stay what was committed."""
    return replace(
        after, watermark_us=source.watermark_us, provisional_us=source.provisional_us, state=source.state
    )


def at_end(source: Source, now_us: int, now_ms: int, limits: Time) -> Source:
    """The partition has been read to its present end: judge what is missing."""
    if not source.beats:
        if now_ms - source.event_ms < limits.idle_after_s * 1000:
            return source
        watermark = max(source.watermark_us, now_us - bound_us(limits))
        return replace(source, state=IDLE, watermark_us=watermark, provisional_us=watermark)
    if not source.heard_ms:
        return replace(source, heard_ms=now_ms)
    silent_ms = now_ms - source.heard_ms
    if silent_ms <= limits.heartbeat_timeout_s * 1000:
        return source
    provisional = source.provisional_us
    if silent_ms > limits.missing_after_s * 1000:
        provisional = max(provisional, now_us - bound_us(limits))
    return replace(source, state=MISSING, provisional_us=provisional)
