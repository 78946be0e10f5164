"""Reads the log beside the stages: what the view shows, what the summary tells, and whether all is drained."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from smartscale import app, clock
from smartscale.clock import MICROS, Clock, ScaledClock
from smartscale.config import Settings
from smartscale.errors import SmartScaleError
from smartscale.log.port import Log, Reader, Record, TopicPartition, lag
from smartscale.records import metrics, schema, topics
from smartscale.records.decisions import Decision, decode_decision
from smartscale.records.forecasts import Incident, decode_incident
from smartscale.view.model import MAX_SERVICES, Latencies, Model
from smartscale.view.terminal import Books

log = logging.getLogger(__name__)

EVERY_S: Final = 0.5
"""Real seconds between two readings: a view is looked at, not measured by."""
LOOK_BACK_S: Final = 120
"""World seconds of an existing log that are read at the start, so that the view is not empty."""
TOPICS: Final = (topics.METRICS, topics.FORECASTS, topics.INCIDENTS, topics.DECISIONS)
GROUPS: Final = {
    "combine": (topics.EVENTS,),
    "window": (topics.PARTIALS,),
    "ml": (topics.METRICS,),
    "control": (topics.METRICS,),
}


class Ledger(Protocol):
    """``smartscale.ledger.reader.LedgerReader``."""

    def update(self) -> Books: ...

    def store(self) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Seen:
    """Everything seen so far. ``scale_outs`` and ``scale_ins`` are the decisions that asked for a change."""

    model: Model
    books: Books | None = None
    lags: Mapping[str, int] = field(default_factory=dict)
    latencies: Latencies = field(default_factory=Latencies)
    scale_outs: int = 0
    scale_ins: int = 0
    trouble: str | None = None
    since_us: int = 0
    """World time of the start: results of windows that ended before had to wait for it."""
    newest: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """End of the newest window of each (tenant, service, kind)."""
    told: deque[Incident] = field(default_factory=lambda: deque(maxlen=10_000))
    """Every state of every incident, as it was told."""
    rounds: int = 0
    """Complete readings so far."""

    def apply(self, records: list[Record], world: Clock) -> None:
        """Take records in, with the clock they were written under."""
        self.model.apply(records)
        for record in records:
            match schema.known(record.headers):
                case schema.METRIC:
                    self._published(record, world)
                case schema.DECISION:
                    self._decided(decode_decision(record.value))
                case schema.INCIDENT:
                    self.told.append(decode_incident(record.value))

    def _published(self, record: Record, world: Clock) -> None:
        row = metrics.decode_row(record.value)
        if row.window != self.model.window or not row.is_rollup:
            return
        key = (row.tenant, row.service, row.kind)
        newest = self.newest.get(key)
        if newest is None and len(self.newest) >= MAX_SERVICES:
            return
        first_result = newest is not None and row.end_us > newest
        if first_result and row.end_us > self.since_us:
            self.latencies.add(record.timestamp_ms - wall_ms(world, row.end_us))
        self.newest[key] = max(row.end_us, newest or row.end_us)

    def _decided(self, decision: Decision) -> None:
        if decision.act and decision.desired > decision.current:
            self.scale_outs += 1
        elif decision.act and decision.desired < decision.current:
            self.scale_ins += 1


def wall_ms(world: Clock, us: int) -> int:
    """The wall-clock milliseconds at which world time is ``us``."""
    if isinstance(world, ScaledClock):
        anchor = world.anchor
        return round((anchor.wall_us + (us - anchor.origin_us) / anchor.speed) / 1000)
    return us // 1000


class Observer:
    """A thread that keeps ``Seen`` up to date for the length of a ``with`` block; ``look`` gives it, locked.

    ``window`` is the label of the window that is shown. ``ledger`` may be left out.
    """

    def __init__(self, settings: Settings, window: str) -> None:
        self._settings = settings
        self._seen = Seen(Model(window))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Read what is there once more, then end."""
        self._stop.set()
        self._thread.join(30.0)

    def look(self) -> tuple[Seen, threading.Lock]:
        """What was seen, and the lock to hold while reading it."""
        return self._seen, self._lock

    def _run(self) -> None:
        while True:
            try:
                self._observe()
                return
            except SmartScaleError as error:
                log.warning("the view cannot read the log: %s", error)
                with self._lock:
                    self._seen.trouble = str(error)
                if self._stop.wait(2.0):
                    return
            except Exception as error:
                log.exception("the view failed: this is a bug; the stages run on")
                with self._lock:
                    self._seen.trouble = f"{type(error).__name__}: {error}"
                return

    def _observe(self) -> None:
        event_log = app.opened(self._settings)
        try:
            world = app.open_clock(event_log)
            with self._lock:
                self._seen.since_us = self._seen.since_us or world.now_us()
            ledger = _ledger(event_log, self._settings)
            reader = event_log.reader()
            try:
                reader.assign(_recent(event_log, world))
                last = False
                while True:
                    self._read(reader, world)
                    books = ledger.update()
                    lags = {
                        group: sum(lag(event_log, group, names).values()) for group, names in GROUPS.items()
                    }
                    with self._lock:
                        self._seen.books, self._seen.lags, self._seen.trouble = books, lags, None
                        self._seen.rounds += 1
                    if last:
                        ledger.store()
                        return
                    last = self._stop.wait(EVERY_S)
            finally:
                reader.close()
                ledger.close()
        finally:
            event_log.close()

    def _read(self, reader: Reader, world: Clock) -> None:
        """Everything up to the present end, a bounded piece at a time."""
        deadline = clock.monotonic_s() + EVERY_S * 4
        while clock.monotonic_s() < deadline:
            polled = reader.poll(0.05)
            with self._lock:
                self._seen.apply(list(polled.records), world)
            if not polled.records:
                return


def _ledger(event_log: Log, settings: Settings) -> Ledger:
    from smartscale.ledger.reader import LedgerReader

    return LedgerReader(event_log, settings)


def _recent(event_log: Log, world: Clock) -> dict[TopicPartition, int]:
    """Where to begin: a little before now."""
    since_ms = wall_ms(world, world.now_us() - LOOK_BACK_S * MICROS)
    specs = event_log.topics()
    partitions = [TopicPartition(name, p) for name in TOPICS for p in range(specs[name].partitions)]
    return {at: event_log.offset_at(at, since_ms) for at in partitions}
