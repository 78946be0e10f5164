"""The window process: reads ``partials``, writes ``metrics``, one transaction at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from smartscale.clock import MICROS
from smartscale.errors import RetryableError
from smartscale.log.port import Position, TopicPartition, Worker, read_all
from smartscale.records import metrics, topics
from smartscale.stage import Context
from smartscale.stream.window.core import Partition, Step

LOG = logging.getLogger(__name__)

_POLL_S = 0.2
"""Real. How long to wait for partials; combine sends them several times a second."""


def run(context: Context) -> None:
    """Work until ``context.stop``. Raises ``PermanentError`` when it cannot go on."""
    telemetry = _Telemetry(context)
    owned: dict[TopicPartition, Partition] = {}
    worker = context.log.worker("window", [topics.PARTIALS], context.slot)
    try:
        while not context.stop.is_set():
            try:
                _turn(context, worker, owned, telemetry)
                context.health.ready()
            except RetryableError as error:
                LOG.warning("window waits and starts over from the committed positions: %s", error)
                context.health.not_ready(str(error))
                owned.clear()
                context.stop.wait(error.retry_after_s)
                worker.rewind()
    finally:
        worker.close()


def _turn(
    context: Context, worker: Worker, owned: dict[TopicPartition, Partition], telemetry: _Telemetry
) -> None:
    """Read what there is and commit what follows from it."""
    polled = worker.poll(_POLL_S)
    for at in polled.revoked:
        owned.pop(at, None)
    for at, committed in polled.assigned.items():
        owned[at] = _assign(context, worker, at, committed)
    now_us = context.clock.now_us()
    for record in polled.records:
        owned[record.at].take(record, now_us)
    changed = {record.at for record in polled.records} | {at for at, left in polled.assigned.items() if left}
    changed = {at for at in changed if owned[at].caught_up}
    while changed:
        steps = {at: owned[at].finish(now_us) for at in sorted(changed)}
        with worker.transaction() as transaction:
            for step in steps.values():
                transaction.publish(step.messages)
            transaction.commit_positions({at: step.position for at, step in steps.items()})
        telemetry.committed(steps.values(), owned, now_us)
        changed = {at for at, step in steps.items() if step.more}


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
        worker.seek(at, first)
    LOG.info(
        "owns %s: %d live keys, reading from %s", at, len(live), "the beginning" if first is None else first
    )
    return partition


class _Telemetry:
    """Prometheus metrics of this process."""

    def __init__(self, context: Context) -> None:
        registry = context.health.registry
        self._rows = Counter("smartscale_window_rows", "Metric rows emitted", registry=registry)
        self._late = Counter("smartscale_window_late_events", "Events later than allowed", registry=registry)
        self._keys = Gauge("smartscale_window_keys", "Keys known", registry=registry)
        self._delay = Gauge(
            "smartscale_window_watermark_delay_seconds",
            "World time now less the watermark",
            registry=registry,
        )

    def committed(self, steps: Iterable[Step], owned: dict[TopicPartition, Partition], now_us: int) -> None:
        for step in steps:
            self._rows.inc(step.rows)
            self._late.inc(step.late)
        self._keys.set(sum(len(partition.keys) for partition in owned.values()))
        oldest = min((partition.sources.watermark_us for partition in owned.values()), default=now_us)
        self._delay.set((now_us - oldest) / MICROS)
