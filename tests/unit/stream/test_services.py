"""The two processes' own loops, as threads on the log in memory: they start, carry on after failures, and stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest

from smartscale import clock
from smartscale.clock import MICROS, WallClock
from smartscale.config import Combine, Settings, Time, Topics, Windows
from smartscale.errors import Fenced, LogUnavailable
from smartscale.ledger.reader import LedgerReader
from smartscale.log import topics as log_topics
from smartscale.log.port import Message
from smartscale.records import events, metrics, schema, topics
from smartscale.stage import Context
from smartscale.stream.combine import service as combine
from smartscale.stream.window import service as window
from smartscale.telemetry.health import Health
from smartscale.testing.memory_log import MemoryLog
from smartscale.testing.pipeline import Sent, events_value

SETTINGS = Settings(
    topics=Topics(events=2, partials=2),
    time=Time(out_of_orderness_s=0.2, allowed_lateness_s=0.2, settle_s=0.1, idle_after_s=0.1),
    windows=Windows(tumbling_s=[0.5], sliding_s=[]),
    combine=Combine(transaction_s=0.02),
)
PATIENCE_S = 30.0


class World:
    """A log, the wall clock, and the healths of the stages that ran last."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.log.create(log_topics.specs(SETTINGS))
        self.clock = WallClock()
        self.healths: list[Health] = []
        self._publisher = self.log.publisher()

    def send(self, *sent: Sent) -> None:
        headers = schema.headers(schema.EVENTS, n=len(sent), ingest_us=self.clock.now_us())
        self._publisher.append([Message(topics.EVENTS, 0, events_value(sent), headers=headers)])

    def beat(self) -> None:
        now_us = self.clock.now_us()
        value = msgspec.json.encode(events.Heartbeat("edge", now_us, now_us))
        headers = schema.headers(schema.HEARTBEAT)
        self._publisher.append([Message(topics.EVENTS, p, value, headers=headers) for p in range(2)])

    def finals(self) -> int:
        """Events in final rows."""
        rows = [
            metrics.decode_row(record.value)
            for record in self.log.records(topics.METRICS)
            if schema.schema_of(record.headers) == schema.METRIC
        ]
        return sum(row.count for row in rows if row.final and not row.is_rollup)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Beat until the condition holds; fails after ``PATIENCE_S``."""
        deadline = clock.monotonic_s() + PATIENCE_S
        pause = threading.Event()
        while not condition():
            assert clock.monotonic_s() < deadline, "what was waited for did not come"
            self.beat()
            pause.wait(0.05)

    @contextmanager
    def stages(self) -> Iterator[None]:
        """Both run inside the block, and have ended after it."""
        stop = threading.Event()
        self.healths = [Health("combine"), Health("window")]
        threads = [
            threading.Thread(target=run, args=(Context(self.log, self.clock, SETTINGS, stop, health),))
            for run, health in zip((combine.run, window.run), self.healths, strict=True)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE_S)
                assert not thread.is_alive()


def test_events_become_final_rows_and_a_later_process_goes_on() -> None:
    """Both stages stop when told to, and their successors count what came meanwhile, once."""
    world = World()
    now = world.clock.now_us()
    with world.stages():
        world.send(Sent("a", now, id="1"), Sent("a", now, id="2"), Sent("a", now, id="1"))
        world.wait(lambda: world.finals() == 2)
        assert [health.is_ready for health in world.healths] == [(True, "ready")] * 2
    world.send(Sent("a", world.clock.now_us(), id="3"), Sent("a", now, id="2"))
    with world.stages():
        world.wait(lambda: world.finals() == 3)
    balance = LedgerReader(world.log, SETTINGS).update()
    assert (balance.difference, balance.duplicates) == (0, 2)


@pytest.mark.parametrize("error", [Fenced("lost", 0.01), LogUnavailable("down", 0.01)])
def test_a_failed_commit_is_no_end(error: Fenced | LogUnavailable) -> None:
    """Whichever stage it hits starts over from its committed positions; nothing is counted twice."""
    world = World()
    with world.stages():
        for i in range(5):
            world.log.fail_next_commit(error)
            world.send(Sent("a", world.clock.now_us(), id=str(i)))
            world.beat()
        world.wait(lambda: world.finals() == 5)
    assert LedgerReader(world.log, SETTINGS).update().difference == 0


def test_what_is_late_is_told_with_the_reason() -> None:
    """Not counted, not lost: a dead letter of the window stage."""
    world = World()
    with world.stages():
        world.send(Sent("a", world.clock.now_us()))
        world.wait(lambda: world.finals() == 1)
        world.send(Sent("a", world.clock.now_us() - 60 * MICROS))
        world.wait(lambda: bool(world.log.records(topics.DEAD_LETTERS)))
    balance = LedgerReader(world.log, SETTINGS).update()
    assert (balance.late, balance.difference) == (1, 0)
