"""This host's metrics: plausible, complete, sent as metric events, and never more than there is room for."""

from __future__ import annotations

import threading

import psutil
import pytest

from smartscale.client.sender import Sender
from smartscale.clock import ManualClock
from smartscale.producer import host
from smartscale.producer.host import Look, look, readings
from smartscale.testing.fake_edge import FakeEdge


def test_readings_of_this_machine_are_plausible() -> None:
    before = look()
    threading.Event().wait(0.05)
    found = readings(before, look())
    assert {
        "system.cpu.utilization",
        "system.cpu.load_average.1m",
        "system.memory.utilization",
        "system.network.receive_bytes_per_s",
        "system.filesystem.utilization",
    } <= set(found)
    assert all(0 <= value <= 1 for name, value in found.items() if name.endswith("utilization"))
    assert all(value >= 0 for value in found.values())
    assert 0 < found["system.memory.used_bytes"] <= psutil.virtual_memory().total


def test_a_counter_that_began_anew_or_is_new_gives_no_rate() -> None:
    before = Look(0.0, {}, {"a_per_s": 100.0})
    assert readings(before, Look(1.0, {}, {"a_per_s": 5.0, "b_per_s": 5.0})) == {}


def test_a_host_without_disks_or_network_tells_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    monkeypatch.setattr(psutil, "net_io_counters", lambda: None)
    assert not any("disk" in name or "network" in name for name in look().counters)


def test_readings_are_sent_as_metric_events_until_the_end() -> None:
    with FakeEdge() as edge:
        clock = ManualClock(10**15)
        done = host.run(Sender(edge.url, clock), clock, "db-1", 0.05, 0.1, threading.Event())
    assert done.totals.accepted == done.totals.sent == len(edge.received) > 10
    assert done.dropped == 0
    assert {(event["service"], event["kind"]) for event in edge.received} == {("db-1", "metric")}
    assert len({event["id"] for event in edge.received}) == len(edge.received)
    names = [event["name"] for event in edge.received]
    assert names.count("system.cpu.utilization") == 2
    assert all(isinstance(event["value"], int | float) for event in edge.received)


def test_what_finds_no_room_is_dropped_and_told() -> None:
    """An edge that is away does not fill the memory."""
    sender = Sender("http://127.0.0.1:9", ManualClock(0), queue_events=15, give_up_s=0.2)
    done = host.run(sender, ManualClock(0), "db-1", 0.02, 0.06, threading.Event())
    assert done.dropped > 0
    assert done.totals.unanswered == done.totals.sent <= 15


def test_a_stop_ends_it() -> None:
    stop = threading.Event()
    stop.set()
    with FakeEdge() as edge:
        done = host.run(Sender(edge.url, ManualClock(0)), ManualClock(0), "db-1", 60, None, stop)
    assert done.totals.sent == 0
