"""The window process: reads ``partials``, writes ``metrics``, one transaction at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client import Counter, Gauge

from smartscale.clock import MICROS
from smartscale.log.gaps import gaps, refuse
from smartscale.log.port import Position, Record, TopicPartition, Worker, read_all
from smartscale.records import metrics, partials, topics
from smartscale.stage import Context, keep_working
from smartscale.stream.window.core import ROWS_PER_STEP, Partition, Step

LOG = logging.getLogger(__name__)

_POLL_S = 0.2
"""Real. How long to wait for partials; combine sends them several times a second."""


@dataclass(slots=True)
class Held:
    """What this process owns. ``due`` are partitions with more to emit than one transaction takes: paused meanwhile."""

    partitions: dict[TopicPartition, Partition] = field(default_factory=dict)
    due: frozenset[TopicPartition] = frozenset()
    reread_records: int = 0
    """Since the start: records read again because their panes were open when a partition was assigned."""
    reread_bytes: int = 0

    def clear(self) -> None:
        self.partitions.clear()
        self.due = frozenset()


def run(context: Context) -> None:
    """Work until ``context.stop``. Raises ``PermanentError`` when it cannot go on."""
    telemetry = _Telemetry(context)
    held = Held()

    def one(worker: Worker) -> None:
        steps = turn(context, worker, held, _POLL_S)
        telemetry.committed(steps, held, context.clock.now_us())

    keep_working(context, "window", [topics.PARTIALS], one, held.clear)


def turn(
    context: Context,
    worker: Worker,
    held: Held,
    poll_s: float,
    max_bytes: int = 16 << 20,
    rows_limit: int = ROWS_PER_STEP,
) -> list[Step]:
    """Read what there is and commit one transaction of what follows from it; its steps, one per partition. Waits
    ``poll_s`` real seconds at most if there is nothing to do."""
    polled = worker.poll(0 if held.due else poll_s, max_bytes)
    for at in polled.revoked:
        held.partitions.pop(at, None)
        held.due -= {at}
    for at, committed in polled.assigned.items():
        held.partitions[at] = _assign(context, worker, at, committed)
    now_us = context.clock.now_us()
    for record in polled.records:
        partition = held.partitions[record.at]
        if not partition.caught_up:
            held.reread_records += 1
            held.reread_bytes += len(record.value)
        partition.take(record, now_us)
    resumed = {at for at, committed in polled.assigned.items() if committed is not None}
    changed = {record.at for record in polled.records} | resumed | held.due
    steps = {
        at: held.partitions[at].finish(now_us, rows_limit)
        for at in sorted(changed)
        if held.partitions[at].caught_up
    }
    if steps:
        with worker.transaction() as transaction:
            for step in steps.values():
                transaction.publish(step.messages)
            transaction.commit_positions({at: step.position for at, step in steps.items()})
    due = frozenset(at for at, step in steps.items() if step.more)
    worker.pause(due - held.due)
    worker.resume(held.due - due)
    held.due = due
    return list(steps.values())


def _assign(context: Context, worker: Worker, at: TopicPartition, committed: Position | None) -> Partition:
    """Rebuild a partition's state: live keys from their topic, panes by reading on from where they begin."""
    partition = Partition(context.settings, at.partition)
    live: dict[bytes | None, metrics.LiveKey] = {}
    for record in read_all(context.log, TopicPartition(topics.LIVE_KEYS, at.partition)):
        if record.value:
            live[record.key] = metrics.decode_live_key(record.value)
        else:
            live.pop(record.key, None)
    first = partition.assign(committed, live.values())
    if first is not None:
        lost = gaps(context.log, {at: first})
        if not context.settings.topics.accept_loss:
            refuse("window", lost)
        if (gap := lost.get(at)) is not None:
            LOG.warning("goes on without %s", gap)
            bound_us = round(context.settings.time.out_of_orderness_s * MICROS)
            partition.lose(gap.end, _watermark_us(gap.after, context.clock.now_us()) + bound_us)
            first = gap.end
        worker.seek(at, first)
    LOG.info(
        "owns %s: %d live keys, reading from %s", at, len(live), "the beginning" if first is None else first
    )
    return partition


def _watermark_us(record: Record | None, now_us: int) -> int:
    """How far event time had come when this record of partials was written."""
    if record is None:
        return now_us
    envelope, _ = partials.decode(record.value)
    return max((source.provisional_us for source in envelope.watermarks), default=now_us)


class _Telemetry:
    """Prometheus metrics of this process."""

    def __init__(self, context: Context) -> None:
        registry = context.health.registry
        self._warned = False
        self._rows = Counter("smartscale_window_rows", "Metric rows emitted", registry=registry)
        self._late = Counter("smartscale_window_late_events", "Events later than allowed", registry=registry)
        self._overflow = Counter(
            "smartscale_window_overflow_events",
            "Events put into the group __other__ (windows.max_groups)",
            registry=registry,
        )
        self._reread = Counter(
            "smartscale_window_reread_records",
            "Records read again for open panes after an assignment",
            registry=registry,
        )
        self._reread_bytes = Counter(
            "smartscale_window_reread_bytes", "Bytes of these records", registry=registry
        )
        self._told = (0, 0)
        self._keys = Gauge("smartscale_window_keys", "Keys known", registry=registry)
        self._delay = Gauge(
            "smartscale_window_watermark_delay_seconds",
            "World time now less the watermark",
            registry=registry,
        )

    def committed(self, steps: Iterable[Step], held: Held, now_us: int) -> None:
        owned = held.partitions.values()
        self._reread.inc(held.reread_records - self._told[0])
        self._reread_bytes.inc(held.reread_bytes - self._told[1])
        self._told = held.reread_records, held.reread_bytes
        for step in steps:
            self._rows.inc(step.rows)
            self._late.inc(step.late)
            self._overflow.inc(step.overflow)
            if step.overflow and not self._warned:
                self._warned = True
                LOG.warning(
                    "a service has more than windows.max_groups groups: the others are counted in the group __other__ (see "
                    "smartscale_window_overflow_events)"
                )
        self._keys.set(sum(len(partition.keys) for partition in owned))
        oldest = min((partition.sources.watermark_us for partition in owned), default=now_us)
        self._delay.set((now_us - oldest) / MICROS)
