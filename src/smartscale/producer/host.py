"""System metrics of this host as events: processor, memory, disks, network, load. On Linux, without root.

Names follow OpenTelemetry's conventions for system metrics (utilization is a share from 0 to 1); counters become rates a
second between two looks. What the machine does not tell (a container without disks) is left out.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

import msgspec
import psutil

from smartscale.client.sender import Sender, SenderFull, Totals
from smartscale.clock import Clock, iso, monotonic_s
from smartscale.records import topics
from smartscale.records.events_json import EventIn

_CLOSE_S: Final = 30.0
"""Real. How long the last events may take to be answered."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the host said at an instant: gauges by name, and counters that only grow, by the name of their rate."""

    at_s: float
    gauges: dict[str, float]
    counters: dict[str, float]


def look() -> Look:
    """Ask the host now; costs about a millisecond."""
    processor = psutil.cpu_times()
    idle_s = processor.idle + getattr(processor, "iowait", 0.0)
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    disks, network = psutil.disk_io_counters(), psutil.net_io_counters()
    gauges = {
        "system.cpu.load_average.1m": psutil.getloadavg()[0],
        "system.memory.utilization": 1 - memory.available / memory.total,
        "system.memory.used_bytes": float(memory.total - memory.available),
        "system.paging.utilization": swap.percent / 100,
        "system.filesystem.utilization": psutil.disk_usage("/").percent / 100,
        "system.process.count": float(len(psutil.pids())),
    }
    counters = {_IDLE: idle_s / (psutil.cpu_count() or 1)}
    if disks is not None:
        counters["system.disk.read_bytes_per_s"] = disks.read_bytes
        counters["system.disk.write_bytes_per_s"] = disks.write_bytes
    if network is not None:
        counters["system.network.receive_bytes_per_s"] = network.bytes_recv
        counters["system.network.transmit_bytes_per_s"] = network.bytes_sent
        counters["system.network.errors_per_s"] = (
            network.errin + network.errout + network.dropin + network.dropout
        )
    return Look(monotonic_s(), gauges, counters)


_IDLE: Final = "idle seconds of a processor"


def readings(before: Look, now: Look) -> dict[str, float]:
    """Metrics of the time between two looks. A counter that has gone back (it began anew) gives none.

    >>> readings(Look(0.0, {}, {"x_per_s": 10, _IDLE: 0.0}), Look(2.0, {"y": 1.0}, {"x_per_s": 30, _IDLE: 1.5}))
    {'y': 1.0, 'x_per_s': 10.0, 'system.cpu.utilization': 0.25}
    """
    seconds = now.at_s - before.at_s
    rates = {
        name: (value - before.counters[name]) / seconds
        for name, value in now.counters.items()
        if value >= before.counters.get(name, value + 1)
    }
    found = now.gauges | rates
    if _IDLE in found:
        found["system.cpu.utilization"] = min(max(1 - found.pop(_IDLE), 0.0), 1.0)
    return found


class HostSummary(msgspec.Struct, frozen=True):
    """What was sent. ``dropped``: events that found no room, because too many had no answer."""

    totals: Totals
    dropped: int


def run(
    sender: Sender, clock: Clock, service: str, interval_s: float, for_s: float | None, stop: threading.Event
) -> HostSummary:
    """Send a reading every ``interval_s`` (real) as metric events of ``service``, until ``stop`` or for ``for_s``.

    Closes the sender."""
    began_s = monotonic_s()
    before, dropped, number = look(), 0, 0
    while True:
        number += 1
        next_s = began_s + number * interval_s
        if for_s is not None and number * interval_s > for_s + 1e-9:
            break
        if stop.wait(max(0.0, next_s - monotonic_s())):
            break
        now = look()
        time = iso(clock.now_us())
        events = [
            EventIn(service=service, kind=topics.METRIC, name=name, value=value, time=time)
            for name, value in sorted(readings(before, now).items())
        ]
        before = now
        try:
            sender.offer(events, timeout_s=0.0)
        except SenderFull:
            dropped += len(events)
    return HostSummary(sender.close(_CLOSE_S), dropped)
