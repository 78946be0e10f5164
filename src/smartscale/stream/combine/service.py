"""The combine process: reads ``events``, writes ``partials``, one transaction at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import groupby

from prometheus_client import Counter, Gauge

from smartscale.clock import monotonic_s, wall_ms
from smartscale.log.gaps import committed_offsets, gaps, refuse
from smartscale.log.port import Log, Poll, Record, TopicPartition, Worker
from smartscale.records import schema, topics
from smartscale.stage import Context, keep_working
from smartscale.stream.combine.core import Combiner, Resume
from smartscale.stream.combine.growth import ids_before
from smartscale.stream.combine.third_party import decoder

LOG = logging.getLogger(__name__)

_COUNT_SOURCES_EVERY_S = 2.0
"""Real seconds between two looks at how many input partitions there are: ``events`` may grow."""

_AT_ONCE = 10_000
"""Records of a third party taken together: few enough that their events, as objects, stay a few megabytes."""


def run(context: Context) -> None:
    """Work until ``context.stop``. Raises ``PermanentError`` when it cannot go on."""
    log, settings = context.log, context.settings
    inputs = [topics.EVENTS, *settings.combine.json_topics]
    combiner = Combiner(settings, log.topics()[topics.PARTIALS].partitions, decoder(settings))
    telemetry = _Telemetry(context)
    sources, counted_s = 0, float("-inf")

    def turn(worker: Worker) -> None:
        nonlocal sources, counted_s
        gathered = _gather(context, worker, combiner)
        await_moved(log, combiner)
        if gathered and combiner.has_news:
            # Behind the mark of a growth events come to the new partitions: window must wait for these from here on.
            if combiner.has_grown or monotonic_s() - counted_s > _COUNT_SOURCES_EVERY_S:
                known = log.topics()
                sources = sum(known[topic].partitions for topic in inputs if topic in known)
                counted_s = monotonic_s()
            step = combiner.finish(sources)
            with worker.transaction() as transaction:
                transaction.publish(step.messages)
                transaction.commit_positions(step.positions)
            telemetry.committed(combiner)

    def start_over() -> None:
        combiner.drop(combiner.owned)
        combiner.abandon()

    keep_working(context, "combine", inputs, turn, start_over)


def _gather(context: Context, worker: Worker, combiner: Combiner) -> bool:
    """Read for one transaction: as long as the settings allow, or until enough has been read. False if there is nothing to
    commit because the assignment has just changed."""
    settings = context.settings.combine
    deadline_s = monotonic_s() + settings.transaction_s
    while not context.stop.is_set():
        left_s = deadline_s - monotonic_s()
        left_bytes = settings.transaction_bytes - combiner.pending_bytes
        if left_s <= 0 or left_bytes <= 0:
            break
        polled = worker.poll(left_s, left_bytes)
        if polled.revoked or polled.assigned:
            reassign(context, worker, combiner, polled)
            return False
        now_us = context.clock.now_us()
        take_all(context, combiner, polled.records, now_us)
        combiner.at_end(polled.ends, now_us, wall_ms())
    return bool(combiner.owned)


def take_all(context: Context, combiner: Combiner, records: Iterable[Record], now_us: int) -> None:
    """Read records into the open transaction; those of a third party that come in a row at once."""
    for plain, run in groupby(records, _of_third_party):
        if plain is not None:
            several = list(run)
            for first in range(0, len(several), _AT_ONCE):
                combiner.take_json(several[first : first + _AT_ONCE], now_us)
            continue
        for record in run:
            if combiner.take(record, now_us):
                _learn(context, combiner, record.at)


def _of_third_party(record: Record) -> tuple[str, int] | None:
    """The partition of a record without a schema."""
    return None if schema.SCHEMA in record.headers else (record.topic, record.partition)


def _learn(context: Context, combiner: Combiner, at: TopicPartition) -> None:
    """Where ``events`` has grown: tell the partition which ids came to others before, within the deduplication window."""
    if (asked := combiner.knows_from(at)) is None:
        return
    growth, since_ms = asked
    for p in range(growth.before):
        other = TopicPartition(at.topic, p)
        if other != at:
            for identities, written_ms in ids_before(context.log, other, growth, since_ms):
                combiner.know(at, identities, written_ms)


def await_moved(log: Log, combiner: Combiner) -> None:
    """See whether the events that were moved to other partitions have been read there; to be called before ``finish``.

    What the open transaction moves is not in the log yet: ``finish`` holds the watermark, the next call looks for it. (On
    Kafka an end lies behind the transaction's own mark; the next heartbeat takes the position there.)"""
    if combiner.has_moved or not (places := combiner.moved_to):
        return
    if combiner.awaited is None:
        combiner.awaited = {at: bounds.end for at, bounds in log.bounds(places).items()}
    read = log.committed("combine")
    if all(at in read and read[at].offset >= end for at, end in combiner.awaited.items()):
        combiner.arrived()


def reassign(context: Context, worker: Worker, combiner: Combiner, polled: Poll) -> None:
    """Drop what was lost, build what was won. What the open transaction had read of others is read again, and so are the
    records of others that came with this very poll (Kafka may tell both at once)."""
    unfinished = combiner.has_read or bool(polled.records)
    combiner.drop(polled.revoked)
    if unfinished:
        combiner.drop(combiner.owned)
        combiner.abandon()
        worker.rewind()
        return
    lost = gaps(context.log, committed_offsets(polled.assigned))
    if not context.settings.topics.accept_loss:
        refuse("combine", lost)
    for at, committed in polled.assigned.items():
        resume = combiner.assign(at, committed)
        if (gap := lost.get(at)) is not None:
            LOG.warning("goes on without %s", gap)
            combiner.lose(at, gap.end, _event_time_us(gap.after, context.clock.now_us()))
            worker.seek(at, gap.end)
        elif committed is not None and resume is not None:
            worker.seek(at, _replay_from(context, at, committed.offset, resume))
            _learn(context, combiner, at)
        LOG.info("owns %s from %s", at, committed.offset if committed else "the beginning")


def _event_time_us(record: Record | None, now_us: int) -> int:
    """About when the events of this record happened: when the edge wrote it, where it says so."""
    if record is not None and "ingest_us" in record.headers:
        return schema.int_header(record.headers, "ingest_us")
    return now_us


def _replay_from(context: Context, at: TopicPartition, committed: int, resume: Resume) -> int:
    """Where the deduplication window before the committed position begins, or earlier, so that every edge process that still
    counts is known again, and when the last events came."""
    time = context.settings.time
    span_s = max(context.settings.dedup.window_s, time.heartbeat_timeout_s, time.idle_after_s)
    first_ms = resume.written_ms - round(span_s * 1000)
    return min(context.log.offset_at(at, first_ms), committed)


class _Telemetry:
    """Prometheus metrics of this process."""

    def __init__(self, context: Context) -> None:
        registry = context.health.registry
        self._events = Counter("smartscale_combine_events", "Events read", registry=registry)
        self._duplicates = Counter("smartscale_combine_duplicates", "Repeats found by id", registry=registry)
        self._dead = Counter("smartscale_combine_dead_letters", "Events set aside", registry=registry)
        self._forgotten = Counter(
            "smartscale_combine_ids_forgotten",
            "Ids forgotten early to stay within dedup.max_ids",
            registry=registry,
        )
        self._reread = Counter(
            "smartscale_combine_reread_records",
            "Records read again for their ids after an assignment",
            registry=registry,
        )
        self._reread_bytes = Counter(
            "smartscale_combine_reread_bytes", "Bytes of these records", registry=registry
        )
        self._owned = Gauge("smartscale_combine_partitions", "Input partitions owned", registry=registry)
        self._told = (0, 0, 0, 0, 0, 0)

    def committed(self, combiner: Combiner) -> None:
        totals = combiner.counters
        now = (
            totals.events,
            totals.duplicates,
            totals.dead,
            totals.forgotten,
            totals.reread_records,
            totals.reread_bytes,
        )
        counters = (
            self._events,
            self._duplicates,
            self._dead,
            self._forgotten,
            self._reread,
            self._reread_bytes,
        )
        for counter, value, before in zip(counters, now, self._told, strict=True):
            counter.inc(value - before)
        self._told = now
        self._owned.set(len(combiner.owned))
