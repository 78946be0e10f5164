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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from smartscale.clock import MICROS, ManualClock
from smartscale.config import Settings
from smartscale.errors import RetryableError
from smartscale.log import topics as log_topics
from smartscale.log.partitioner import event_hash, event_partition
from smartscale.log.port import Log, Message, Worker, lag
from smartscale.records import dead_letters, events, events_json, metrics, schema, topics
from smartscale.records.metrics import MetricRow, Progress
from smartscale.stage import Context
from smartscale.stream.combine import service as combine_service
from smartscale.stream.combine.core import Combiner
from smartscale.stream.combine.third_party import decoder
from smartscale.stream.window import service as window_service
from smartscale.stream.window.core import ROWS_PER_STEP
from smartscale.stream.windows import Families
from smartscale.telemetry.health import Health
from smartscale.testing import old_stages
from smartscale.testing.memory_log import MemoryLog

START_US = 1_700_000_000_000_000
"""Where the clock starts: 2023-11-14T22:13:20Z, a multiple of 10 s but not of 60 s."""


@dataclass(frozen=True, slots=True)
class Sent:
    """An event as a test sends it; latency in microseconds. One with a value is a metric event, else an interaction."""

    service: str
    time_us: int
    name: str = "/"
    id: str | None = None
    latency_us: int | None = None
    error: bool = False
    value: float | None = None
    user: str | None = None
    attributes: Mapping[str, object] | None = None

    @property
    def kind(self) -> str:
        return topics.INTERACTION if self.value is None else topics.METRIC

    @property
    def is_error(self) -> bool:
        return self.error


def events_value(sent: Sequence[Sent]) -> bytes:
    """The value of an ``events`` record that holds these."""
    decoded = [
        events_json.EventIn(
            service=one.service,
            name=one.name,
            kind="interaction" if one.value is None else "metric",
            id=one.id,
            error=one.error,
            latency_ms=None if one.latency_us is None else one.latency_us / 1000,
            value=one.value,
            user=one.user,
            attributes=msgspec.Raw(msgspec.json.encode(one.attributes) if one.attributes else b""),
        )
        for one in sent
    ]
    identities = [
        None if one.id is None else event_hash(topics.DEFAULT_TENANT, one.service, one.id) for one in sent
    ]
    times_us = np.array([one.time_us for one in sent], np.int64)
    return events.encode(events_json.to_batch(decoded, times_us, identities, hash_user=_HASH_USER))


_HASH_USER = events_json.user_hasher(b"")


@dataclass(slots=True)
class _Combine:
    worker: Worker
    combiner: Combiner


@dataclass(slots=True)
class _Window:
    worker: Worker
    held: window_service.Held


class Pipeline:
    """A log with combine and window processes, which the caller steps, crashes, starts and fences.

    Each process has a slot; it starts with its first turn."""

    def __init__(
        self, settings: Settings, rows_per_step: int = ROWS_PER_STEP, start_us: int = START_US
    ) -> None:
        self.settings = settings
        self.start_us = start_us
        self.clock = ManualClock(start_us)
        self.log = MemoryLog(self.wall_ms)
        self.log.create(log_topics.specs(settings))
        self.rows_per_step = rows_per_step
        self._inputs = [topics.EVENTS, *settings.combine.json_topics]
        self._publisher = self.log.publisher()
        self._next = -1
        self._combines: dict[str, _Combine] = {}
        self._windows: dict[str, _Window] = {}
        self.old: set[tuple[str, str]] = set()
        """(stage, slot) of processes that write as the version before did, from their next start on."""

    def _log_of(self, stage: str, slot: str) -> Log:
        return old_stages.old(self.log) if (stage, slot) in self.old else self.log

    def wall_ms(self) -> int:
        """Wall-clock time: the same as world time."""
        return self.clock.now_us() // 1000

    def _context(self, stage: str) -> Context:
        return Context(self.log, self.clock, self.settings, threading.Event(), Health(stage))

    # What comes in.

    def send(self, *sent: Sent) -> None:
        """One ``events`` record for each partition that these belong to. The clock moves on to the latest of them."""
        width = self.settings.topics.events
        self.clock.set_us(max(self.clock.now_us(), *(one.time_us for one in sent)))
        of_partition: dict[int, list[Sent]] = {}
        for one in sent:
            if one.id is None:
                partition = self._next = (self._next + 1) % width
            else:
                partition = event_partition(event_hash(topics.DEFAULT_TENANT, one.service, one.id), width)
            of_partition.setdefault(partition, []).append(one)
        for partition, its_own in of_partition.items():
            self.append(partition, its_own)

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

    def combine(self, max_bytes: int = 16 << 20, slot: str = "0") -> bool:
        """One turn of combine: an assignment, or a transaction of at most ``max_bytes``; False if there was no news.

        A failed transaction is handled as the service does: everything is dropped and read again."""
        if slot not in self._combines:
            made = Combiner(self.settings, self.settings.topics.partials, decoder(self.settings))
            self._combines[slot] = _Combine(
                self._log_of("combine", slot).worker("combine", self._inputs, slot), made
            )
        worker, combiner = self._combines[slot].worker, self._combines[slot].combiner
        try:
            polled = worker.poll(0, max_bytes)
            if polled.assigned or polled.revoked:
                combine_service.reassign(self._context("combine"), worker, combiner, polled)
                return True
            context = self._context("combine")
            combine_service.take_all(context, combiner, polled.records, self.clock.now_us())
            combiner.at_end(polled.ends, self.clock.now_us(), self.wall_ms())
            combine_service.await_moved(self.log, combiner)
            if not combiner.has_news:
                return bool(polled.records)
            known = self.log.topics()
            step = combiner.finish(sum(known[topic].partitions for topic in self._inputs))
            with worker.transaction() as transaction:
                transaction.publish(step.messages)
                transaction.commit_positions(step.positions)
        except RetryableError:
            combiner.drop(combiner.owned)
            combiner.abandon()
            worker.rewind()
        return True

    def window(self, max_bytes: int = 16 << 20, slot: str = "0") -> bool:
        """One turn of window: an assignment, or what was read and one transaction that follows from it; False if the stage
        has nothing left to do."""
        if slot not in self._windows:
            worker = self._log_of("window", slot).worker("window", [topics.PARTIALS], slot)
            self._windows[slot] = _Window(worker, window_service.Held())
        one = self._windows[slot]
        try:
            steps = window_service.turn(
                self._context("window"),
                one.worker,
                one.held,
                poll_s=0,
                max_bytes=max_bytes,
                rows_limit=self.rows_per_step,
            )
        except RetryableError:
            one.held.clear()
            one.worker.rewind()
            return True
        return bool(steps) or not self._window_is_idle()

    def _window_is_idle(self) -> bool:
        held = [partition for one in self._windows.values() for partition in one.held.partitions.values()]
        return (
            len(held) == self.settings.topics.partials
            and all(partition.caught_up for partition in held)
            and not any(lag(self.log, "window", [topics.PARTIALS]).values())
        )

    def crash_combine(self, slot: str = "0") -> None:
        """The process is gone with all it had in memory; its next turn starts another one in its slot. Until then nobody
        else gets its partitions, unless its membership expires."""
        self._combines.pop(slot, None)

    def crash_window(self, slot: str = "0") -> None:
        """As ``crash_combine``."""
        self._windows.pop(slot, None)

    def leave(self, group: str, slot: str = "0") -> None:
        """The process stops cleanly: others get its partitions at once. Its next turn starts another one."""
        processes: dict[str, _Combine] | dict[str, _Window] = (
            self._combines if group == "combine" else self._windows
        )
        if (one := processes.pop(slot, None)) is not None:
            one.worker.close()

    def expire(self, group: str, slot: str = "0") -> None:
        """The member has not polled for too long: others may get its partitions."""
        self.log.expire(group, slot)

    def settle(self, slots: Sequence[str] = ("0",)) -> None:
        """Step these slots of both stages until nothing is new."""
        for turn in (self.combine, self.window):
            while sum(turn(slot=slot) for slot in slots):
                pass

    def run_to_end(self, slots: Sequence[str] = ("0",)) -> None:
        """Let time pass, heartbeats coming every second, until every window of what was sent is final."""
        time = self.settings.time
        longest_us = max(
            window.size_us for family in Families(self.settings.windows) for window in family.windows
        )
        until_us = (
            self.clock.now_us()
            + longest_us
            + round((time.out_of_orderness_s + time.allowed_lateness_s) * MICROS)
        )
        quiet_us = round((max(time.settle_s, time.idle_after_s) + time.heartbeat_s) * MICROS)
        while self.clock.now_us() < until_us + quiet_us:
            self.beat()
            self.clock.advance(time.heartbeat_s)
        self.beat()
        self.settle(slots)

    # What came of it.

    def rows(self) -> list[MetricRow]:
        """Every metric row so far, by partition and offset."""
        return [
            metrics.decode_row(record.value)
            for record in self.log.records(topics.METRICS)
            if schema.schema_of(record.headers) == schema.METRIC
        ]

    def finals(self, **fields: object) -> list[MetricRow]:
        """The final rows whose fields have these values (``service="shop", window="10s"``), by end."""
        found = [row for row in self.rows() if row.final]
        for name, wanted in fields.items():
            found = [row for row in found if getattr(row, name) == wanted]
        return sorted(found, key=lambda row: row.end_us)

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
