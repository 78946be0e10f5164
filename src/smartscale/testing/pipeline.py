"""The stream processor in one thread under virtual time: what simulations and property tests drive.

Combine and window run over a ``MemoryLog`` and a ``ManualClock``, one transaction at a time, each through its core and
the assignment code of its service. Wall-clock time is world time, so one clock moves everything.

>>> pipeline = Pipeline(Settings())
>>> pipeline.append(0, [Sent("checkout", pipeline.clock.now_us())])
>>> pipeline.combine()
True
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from smartscale.clock import ManualClock
from smartscale.config import Settings
from smartscale.errors import RetryableError
from smartscale.log import topics as log_topics
from smartscale.log.partitioner import event_hash
from smartscale.log.port import Message, Worker, lag
from smartscale.records import dead_letters, events, events_json, metrics, schema, topics
from smartscale.records.metrics import MetricRow, Progress
from smartscale.stage import Context
from smartscale.stream.combine import service as combine_service
from smartscale.stream.combine.core import Combiner
from smartscale.stream.combine.third_party import decoder
from smartscale.stream.window import service as window_service
from smartscale.stream.window.core import ROWS_PER_STEP
from smartscale.telemetry.health import Health
from smartscale.testing.memory_log import MemoryLog

START_US = 1_700_000_000_000_000
"""Where the clock starts: 2023-11-14T22:13:20Z, a multiple of 10 s but not of 60 s."""


@dataclass(frozen=True, slots=True)
class Sent:
    """An event as a test sends it; latency in microseconds."""

    service: str
    time_us: int
    name: str = "/"
    id: str | None = None
    latency_us: int | None = None
    error: bool = False
    value: float | None = None


def events_value(sent: Sequence[Sent]) -> bytes:
    """The value of an ``events`` record that holds these."""
    decoded = [
        events_json.EventIn(
            service=one.service,
            name=one.name,
            kind="metric" if one.value is not None else "interaction",
            id=one.id,
            error=one.error,
            latency_ms=None if one.latency_us is None else one.latency_us / 1000,
            value=one.value,
        )
        for one in sent
    ]
    identities = [
        None if one.id is None else event_hash(topics.DEFAULT_TENANT, one.service, one.id) for one in sent
    ]
    times_us = np.array([one.time_us for one in sent], np.int64)
    return events.encode(events_json.to_batch(decoded, times_us, identities, hash_user=lambda _: 0))


class Pipeline:
    """A log with one combine and one window process, which the caller steps, crashes, starts and fences."""

    def __init__(
        self, settings: Settings, rows_per_step: int = ROWS_PER_STEP, start_us: int = START_US
    ) -> None:
        self.settings = settings
        self.clock = ManualClock(start_us)
        self.log = MemoryLog(self.wall_ms)
        self.log.create(log_topics.specs(settings))
        self.rows_per_step = rows_per_step
        self._publisher = self.log.publisher()
        self._combiner: Combiner | None = None
        self._combine_worker: Worker | None = None
        self._window = window_service.Held()
        self._window_worker: Worker | None = None

    def wall_ms(self) -> int:
        """Wall-clock time: the same as world time."""
        return self.clock.now_us() // 1000

    def _context(self, stage: str) -> Context:
        return Context(self.log, self.clock, self.settings, threading.Event(), Health(stage))

    # What comes in.

    def append(self, partition: int, sent: Sequence[Sent], topic: str = topics.EVENTS) -> None:
        """One ``events`` record, written now."""
        headers = schema.headers(schema.EVENTS, n=len(sent), ingest_us=self.clock.now_us())
        self.append_raw(Message(topic, partition, events_value(sent), headers=headers))

    def append_raw(self, message: Message) -> None:
        """Any record, written now."""
        for answer in self._publisher.append([message]):
            if isinstance(answer, Exception):
                raise answer

    def beat(
        self, process: str = "edge", partitions: Sequence[int] | None = None, leaving: bool = False
    ) -> None:
        """A heartbeat of an edge process that holds nothing back, to these partitions (default: all)."""
        now_us = self.clock.now_us()
        value = msgspec.json.encode(events.Heartbeat(process, now_us, now_us, leaving))
        for p in range(self.settings.topics.events) if partitions is None else partitions:
            self.append_raw(Message(topics.EVENTS, p, value, headers=schema.headers(schema.HEARTBEAT)))

    # What is done with it.

    def combine(self, max_bytes: int = 16 << 20) -> bool:
        """One turn of combine: an assignment, or a transaction of at most ``max_bytes``; False if there was no news.

        A failed transaction is handled as the service does: everything is dropped and read again."""
        if self._combiner is None or self._combine_worker is None:
            inputs = [topics.EVENTS, *self.settings.combine.json_topics]
            self._combiner = Combiner(self.settings, self.settings.topics.partials, decoder(self.settings))
            self._combine_worker = self.log.worker("combine", inputs, "0")
        combiner, worker = self._combiner, self._combine_worker
        try:
            polled = worker.poll(0, max_bytes)
            if polled.assigned or polled.revoked:
                combine_service.reassign(self._context("combine"), worker, combiner, polled)
                return True
            for record in polled.records:
                combiner.take(record, self.clock.now_us())
            combiner.at_end(polled.ends, self.clock.now_us(), self.wall_ms())
            if not combiner.has_news:
                return bool(polled.records)
            known = self.log.topics()
            step = combiner.finish(
                sum(known[t].partitions for t in [topics.EVENTS, *self.settings.combine.json_topics])
            )
            with worker.transaction() as transaction:
                transaction.publish(step.messages)
                transaction.commit_positions(step.positions)
        except RetryableError:
            combiner.drop(combiner.owned)
            combiner.abandon()
            worker.rewind()
        return True

    def window(self, max_bytes: int = 16 << 20) -> bool:
        """One turn of window: an assignment, or what was read and one transaction that follows from it; False if there is
        nothing left to do."""
        if self._window_worker is None:
            self._window = window_service.Held()
            self._window_worker = self.log.worker("window", [topics.PARTIALS], "0")
        try:
            steps = window_service.turn(
                self._context("window"),
                self._window_worker,
                self._window,
                poll_s=0,
                max_bytes=max_bytes,
                rows_limit=self.rows_per_step,
            )
            return bool(steps) or not self._window_is_idle()
        except RetryableError:
            self._window.clear()
            self._window_worker.rewind()
        return True

    def _window_is_idle(self) -> bool:
        held = self._window.partitions
        return (
            len(held) == self.settings.topics.partials
            and all(partition.caught_up for partition in held.values())
            and not any(lag(self.log, "window", [topics.PARTIALS]).values())
        )

    def crash_combine(self) -> None:
        """The process is gone with all it had in memory; the next turn starts another one in its slot."""
        self._combiner = None
        self._combine_worker = None

    def crash_window(self) -> None:
        """As ``crash_combine``."""
        self._window_worker = None

    def expire(self, group: str) -> None:
        """The member has not polled for too long: its transaction under way will be fenced."""
        self.log.expire(group, "0")

    def settle(self) -> None:
        """Step both until nothing is new."""
        while self.combine():
            pass
        while self.window():
            pass

    # What came of it.

    def rows(self) -> list[MetricRow]:
        """Every metric row so far, by partition and offset."""
        return [
            metrics.decode_row(record.value)
            for record in self.log.records(topics.METRICS)
            if record.headers[schema.SCHEMA] == schema.METRIC.encode()
        ]

    def progress(self) -> dict[int, list[Progress]]:
        """Every progress so far, by partition."""
        found: dict[int, list[Progress]] = {p: [] for p in range(self.settings.topics.partials)}
        for record in self.log.records(topics.METRICS):
            if record.headers[schema.SCHEMA] == schema.PROGRESS.encode():
                found[record.partition].append(metrics.decode_progress(record.value))
        return found

    def letters(self) -> list[dead_letters.DeadLetter]:
        """Every dead letter so far."""
        return [dead_letters.decode(record.value) for record in self.log.records(topics.DEAD_LETTERS)]
