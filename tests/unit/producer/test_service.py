"""A load is played against a small edge: to its end, on time, or with its delay told."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from smartscale.clock import ManualClock
from smartscale.producer.scenario import load_of
from smartscale.producer.service import Progress, run
from smartscale.testing.fake_edge import FakeEdge


@pytest.fixture
def edge() -> Iterator[FakeEdge]:
    with FakeEdge() as edge:
        yield edge


LOAD = load_of("{duration: 2s, services: [{name: shop, rate: 100}]}")


class SteppingClock(ManualClock):
    """Every look at the clock takes five milliseconds of world time, so that nobody has to wait."""

    def now_us(self) -> int:
        self.advance(0.005)
        return super().now_us()

    def to_real_s(self, world_s: float) -> float:
        return 0.0


def test_a_load_is_played_to_its_end(edge: FakeEdge) -> None:
    """Two seconds of load at 100 a second: everything planned is sent and answered, on time."""
    summary = run(LOAD, edge.url, SteppingClock(10**15), threading.Event(), lambda progress: None)
    assert summary.complete
    assert summary.totals.sent == summary.totals.accepted == len(edge.received)
    assert 150 < summary.totals.sent < 250
    assert len({event["id"] for event in edge.received}) == summary.totals.sent
    assert all("2001-09-09T01:46:4" in str(event["time"]) for event in edge.received)


def test_a_stop_ends_it_before_its_end(edge: FakeEdge) -> None:
    stop = threading.Event()
    stop.set()
    summary = run(LOAD, edge.url, ManualClock(0), stop, lambda progress: None)
    assert not summary.complete
    assert summary.totals.sent == 0


def test_falling_behind_is_told(edge: FakeEdge) -> None:
    """The clock leaps by a minute: what was due is sent at once, and the delay is in the summary."""
    clock = ManualClock(10**15)
    seen: list[Progress] = []
    clock_leaps = threading.Timer(0.1, lambda: clock.advance(60))
    clock_leaps.start()
    summary = run(LOAD, edge.url, clock, threading.Event(), seen.append)
    assert summary.complete
    assert 50 < summary.greatest_behind_s <= 60
