"""The sample service with real replicas: it slows down, fails, recovers, and loses no request."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from smartscale.actuators.port import Target
from smartscale.actuators.processes import ProcessActuator, stop_all
from smartscale.clock import MICROS, Anchor, ScaledClock, parse_iso_us, wall_ms
from smartscale.config import Sample, Settings
from smartscale.errors import ConfigError
from smartscale.producer.scenario import load_of
from smartscale.records.events_json import EventIn
from smartscale.sample import replica, service
from smartscale.stage import Context
from smartscale.telemetry.health import Health
from smartscale.testing.fleets import decision, until
from smartscale.testing.memory_log import MemoryLog

pytestmark = pytest.mark.e2e

SPEED = 20.0
SHOP = Target("shop")


class Collected:
    """Takes events like the sender; remembers them."""

    def __init__(self) -> None:
        self.events: list[EventIn] = []

    def offer(self, events: Sequence[EventIn]) -> None:
        self.events += events

    def requests(self) -> list[EventIn]:
        return [event for event in self.events if event.kind == "interaction"]

    def total(self, name: str) -> float:
        return sum(event.value or 0 for event in self.events if event.name == name)


class Stage:
    """A fleet, a clock and one run of the sample service. World time runs twenty times as fast."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "replicas"
        self.clock = ScaledClock(Anchor(1_700_000_000_000_000, SPEED, wall_ms() * 1000))
        sample = Sample(directory=str(folder), capacity_per_s=50.0, startup_s=10.0, timeout_s=5.0)
        self.actuator = ProcessActuator(self.root, self.clock, replica.command(sample, self.clock))
        self.collected = Collected()
        self.context = Context(
            MemoryLog(), self.clock, Settings(sample=sample), threading.Event(), Health("sample")
        )
        self.changes = 0

    def scale(self, count: int) -> None:
        self.changes += 1
        self.actuator.apply(SHOP, decision(count, time_us=self.changes))

    def ready(self, count: int) -> None:
        until(lambda: self.actuator.observe(SHOP).ready == count, f"{count} replicas ready")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    yield Stage(tmp_path)
    stop_all(tmp_path / "replicas", drain_s=1.0)


def load(per_s: float, duration_s: float, faults: str = "") -> str:
    return f"{{duration: {duration_s}, services: [{{name: shop, rate: {per_s}, error_rate: 0}}], faults: [{faults}]}}"


def played(
    stage: Stage, scenario: str, meanwhile: Callable[[], None] = lambda: None
) -> service.ServiceSummary:
    """Play a scenario to its end; ``meanwhile`` runs beside it."""
    beside = threading.Thread(target=meanwhile)
    beside.start()
    summary = service.run(stage.context, load_of(scenario), "", stage.collected)
    beside.join(20)
    assert not beside.is_alive()
    written = json.loads((stage.root.parent / "summary.json").read_bytes())
    assert written["services"][0]["requests"] == summary.services[0].requests
    return summary.services[0]


def after(stage: Stage, requests: int, act: Callable[[], None]) -> Callable[[], None]:
    """Do something once this many requests have ended."""

    def wait_and_act() -> None:
        until(lambda: len(stage.collected.events) >= requests, f"{requests} events")
        act()

    return wait_and_act


def books_balance(stage: Stage, told: service.ServiceSummary) -> None:
    """Every request that arrived ended in exactly one event, and the metric events count the same."""
    requests = stage.collected.requests()
    assert len({event.id for event in requests}) == len(requests) == told.requests
    assert dict(sorted(Counter(event.status for event in requests).items())) == told.statuses
    assert stage.collected.total("arrivals") == told.requests
    assert stage.collected.total("rejections") == told.statuses.get(503, 0)


def test_enough_replicas_serve_quickly_and_without_error(stage: Stage) -> None:
    """60/s on 3 x 50/s: every request is answered, the median within a tenth of a second of world time."""
    stage.scale(3)
    stage.ready(3)
    told = played(stage, load(60, 30))
    books_balance(stage, told)
    assert set(told.statuses) == {200}
    assert told.latency_p50_ms is not None
    assert told.latency_p50_ms < 100
    assert (told.overload_s, told.most_ready) == (0, 3)


def test_overload_raises_latency_and_errors_until_replicas_arrive(stage: Stage) -> None:
    """90/s on 1 x 50/s: time-outs and rejections; from world second 20 there are 3: the last seconds are clean."""
    stage.scale(1)
    stage.ready(1)
    end_us = stage.clock.now_us() + 70_000_000
    told = played(stage, load(90, 70), after(stage, 1500, lambda: stage.scale(3)))
    books_balance(stage, told)
    assert told.statuses.get(503, 0) + told.statuses.get(504, 0) > 100
    assert told.overload_s > 10
    assert told.most_ready == 3
    last = [e for e in stage.collected.requests() if e.time and parse_iso_us(e.time) > end_us - 10_000_000]
    assert {event.status for event in last} == {200}


def test_without_replicas_requests_wait_and_then_fail(stage: Stage) -> None:
    """Nobody is there: 5 s of queue, then time-outs, and rejections once the queue is full."""
    told = played(stage, load(100, 15))
    books_balance(stage, told)
    assert set(told.statuses) <= {502, 503, 504}
    assert told.statuses[503] > 0
    assert told.statuses[504] > 0
    assert told.overload_s >= 14


def test_a_killed_replica_loses_no_request_silently(stage: Stage) -> None:
    """kill -9 of one of two under more load than they can serve, so that both always have requests outstanding:
    what the dead one had ends with 502 and is counted; the other goes on."""
    stage.scale(2)
    stage.ready(2)

    def kill_one() -> None:
        records = [
            json.loads(p.read_bytes()) for p in (stage.root / "shop").glob("*.json") if p.name != "fleet.json"
        ]
        os.kill(records[0]["pid"], signal.SIGKILL)

    told = played(stage, load(120, 60), after(stage, 1000, kill_one))
    books_balance(stage, told)
    assert told.statuses[502] > 0
    assert told.statuses[200] > told.requests * 0.3


def test_scaling_in_under_load_fails_no_request(stage: Stage) -> None:
    """A replica drains: it takes no more, finishes what it has, and ends."""
    stage.scale(3)
    stage.ready(3)
    told = played(stage, load(30, 30), after(stage, 300, lambda: stage.scale(1)))
    books_balance(stage, told)
    assert set(told.statuses) == {200}
    until(lambda: stage.actuator.observe(SHOP).draining == 0, "the draining replicas have ended")


def test_injected_faults_happen_when_the_scenario_says(stage: Stage) -> None:
    """World seconds 10 to 20: half of the requests fail. Errors lie there and nowhere else; the truth is written."""
    stage.scale(2)
    stage.ready(2)
    fault = "{kind: error_spike, start: 10s, duration: 10s, size: 0.5}"
    told = played(stage, load(50, 30, fault))
    truth = json.loads((stage.root.parent / "summary.json").read_bytes())["faults"][0]
    failed = [parse_iso_us(event.time or "") for event in stage.collected.requests() if event.status == 500]
    assert all(truth["start_us"] <= time < truth["end_us"] for time in failed)
    assert 150 < len(failed) < 350
    books_balance(stage, told)


def test_a_retry_storm_brings_failed_requests_back(stage: Stage) -> None:
    """World seconds 10 to 20: half fail and come back up to twice, so about 1.75 times the 20/s of before; after the storm
    it is over."""
    stage.scale(3)
    stage.ready(3)
    fault = "{kind: retry_storm, start: 10s, duration: 10s, size: 0.5, retries: 2, delay: 500ms}"
    told = played(stage, load(20, 30, fault))
    books_balance(stage, told)
    began = json.loads((stage.root.parent / "summary.json").read_bytes())["start_us"]
    ended_s = [(parse_iso_us(event.time or "") - began) / MICROS for event in stage.collected.requests()]
    before, during, after = (
        sum(a <= s < b for s in ended_s) / (b - a) for a, b in ((0, 10), (12, 20), (23, 30))
    )
    assert 14 < before < 27
    assert 27 < during < 45
    assert 14 < after < 27


@pytest.mark.parametrize("kind", ["clock_skew", "data_gap", "duplicates", "late_events"])
def test_a_fault_of_a_sender_is_refused(stage: Stage, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"fault {kind} .* `smartscale produce`"):
        service.run(stage.context, load_of(load(1, 10, f"{{kind: {kind}, start: 1s}}")), "", stage.collected)


def test_a_stop_ends_the_run_early_and_says_so(stage: Stage) -> None:
    """What had arrived still ends; the summary is not complete."""
    stage.scale(2)
    stage.ready(2)
    told = played(stage, load(50, 600), after(stage, 300, stage.context.stop.set))
    assert json.loads((stage.root.parent / "summary.json").read_bytes())["complete"] is False
    requests = stage.collected.requests()
    assert len(requests) == told.requests
