"""The front of the sample service: seeded arrivals, balanced over replicas that are real processes.

``run`` plays a load to its end. For each service of the load:

- requests arrive by its rate curve, whoever can serve them (open loop); replicas are found by their sockets in
  ``<sample.directory>/replicas/<service>/`` (the process actuator's registry of the target of that name);
- each finished request is sent as an event at its end, with latency from arrival to end;
- each second of world time three metric events are sent: ``arrivals`` (in that second), ``queue_length`` (at its
  end, waiting or in a replica) and ``rejections``;
- the load's faults happen: a failing share of requests, slower service times, retries in a storm (surges and silences
  are part of the rate). How long requests take is the replicas' affair, so the scenario's latency models are not used;
  faults of a sender (``NOT_PLAYED``) cannot be played here.

At the end ``<sample.directory>/summary.json`` tells what happened, with the faults as ground truth.
"""

from __future__ import annotations

import heapq
import logging
import os
import select
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Protocol

import msgspec
import numpy as np

from smartscale.client.address import read_token
from smartscale.client.sender import Sender
from smartscale.clock import MICROS, Clock, iso, monotonic_s
from smartscale.errors import ConfigError
from smartscale.producer.faults import ClockSkew, DataGap, Duplicates, LateEvents, kind
from smartscale.producer.labels import TrueFault, true_faults
from smartscale.producer.load import Course, Load
from smartscale.records import histogram
from smartscale.records.events_json import EventIn
from smartscale.sample.balancer import Balancer, Finished
from smartscale.sample.protocol import (
    OK,
    REJECTED,
    SERVER_ERROR,
    TIMED_OUT,
    Answers,
    Connection,
    Draining,
    Hello,
    connect,
)
from smartscale.stage import Context

log = logging.getLogger(__name__)

TICK_S: Final = 0.02
"""Real. Requests are handed out this often; chosen because a tick costs under a millisecond."""
LOOK_S: Final = 0.1
"""Real. How often new replicas are looked for."""
START_S: Final = 0.3
"""Real. The load begins this much later, so that its first requests meet replicas that are connected."""
CLOSE_S: Final = 30.0
"""Real. How long the last events may take to be answered by the edge."""
LAST_S: Final = 10.0
"""Real. How long after the load's end, or a stop, requests may take to end; then they count as lost."""

NOT_PLAYED: Final = (ClockSkew, DataGap, Duplicates, LateEvents)
"""Faults of a sender."""

_OUTCOMES: Final = 5
"""Purpose of random numbers (``Source.chance``)."""
_RECENT: Final = 600
"""Seconds of overload that are remembered, longer than any request lives."""


def check(load: Load) -> None:
    """Raise ``ConfigError`` if the load has a fault that cannot be played against replicas."""
    for fault in load.faults:
        if isinstance(fault, NOT_PLAYED):
            raise ConfigError(
                f"fault {kind(fault)} is one of the sender, which the closed loop does not play; remove it, or send the "
                "scenario with `smartscale produce`"
            )


class Sink(Protocol):
    """Takes events to the edge; may wait while too many have no answer. ``client.sender.Sender`` is one."""

    def offer(self, events: Sequence[EventIn]) -> None: ...


class ServiceSummary(msgspec.Struct, frozen=True):
    """What happened to one service. ``statuses`` counts requests by status; ``overload_s`` counts world seconds
    with more arrivals than ready capacity, or with a time-out or rejection; replica seconds count from start.
    Latency is that of all requests, failed ones too, within the error of ``records.histogram``."""

    service: str
    requests: int
    statuses: dict[int, int]
    events: int
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    overload_s: int
    replica_s: float
    ready_replica_s: float
    most_ready: int


class Summary(msgspec.Struct, frozen=True):
    """The run, in world time. ``complete`` is False if it was stopped before the load's end."""

    start_us: int
    end_us: int
    complete: bool
    services: list[ServiceSummary]
    faults: list[TrueFault]


def run(context: Context, load: Load, url: str, sink: Sink | None = None) -> Summary:
    """Play ``load`` from now (world time) to its end or until ``context.stop``, events going to ``url``.

    Raises ``ConfigError`` if a service's name cannot be a folder's, or if a fault cannot be played."""
    check(load)
    root = Path(context.settings.sample.directory)
    start_us = context.clock.now_us() + round(START_S * MICROS / context.clock.to_real_s(1.0))
    load = load.starting_at(start_us)
    with ExitStack() as cleanup:
        if sink is None:
            sender = Sender(url, context.clock, token=read_token(None))
            cleanup.callback(lambda: log.info("events: %s", sender.close(CLOSE_S)))
            sink = sender
        fronts = [
            _Front(context, load, number, root / "replicas", sink) for number in range(len(load.sources))
        ]
        context.health.ready()
        _play(context, load, fronts)
    end_us = context.clock.now_us()
    summary = Summary(
        load.start_us, end_us, end_us >= load.end_us, [front.summary() for front in fronts], true_faults(load)
    )
    root.mkdir(parents=True, exist_ok=True)
    (root / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary)))
    return summary


def _play(context: Context, load: Load, fronts: Sequence[_Front]) -> None:
    deadline_s: float | None = None
    while True:
        began_s = monotonic_s()
        now_us = context.clock.now_us()
        over = context.stop.is_set() or now_us >= load.end_us
        for front in fronts:
            front.tick(min(now_us, load.end_us) if not context.stop.is_set() else None, now_us)
        if over:
            deadline_s = began_s + LAST_S if deadline_s is None else deadline_s
            if began_s > deadline_s or not any(front.outstanding for front in fronts):
                break
        rest_s = max(0.0, TICK_S - (monotonic_s() - began_s))
        if over:
            fronts[0].wait(rest_s)
        else:
            context.stop.wait(rest_s)
    for front in fronts:
        front.finish(context.clock.now_us())


class _Front:
    """One service: its arrivals, balancer, connections and events."""

    def __init__(self, context: Context, load: Load, number: int, replicas: Path, sink: Sink) -> None:
        self._source = load.sources[number]
        service = self._source.name
        if "/" in service or service.startswith("."):
            raise ConfigError(f"service {service!r} cannot be a folder's name; rename it in the scenario")
        self._clock: Clock = context.clock
        self._settings = context.settings.sample
        self._load = load
        self._spec = self._source.spec
        self._arrivals = load.arrivals(self._source)
        self._retries: list[tuple[int, int]] = []
        """A heap of requests to be tried again: when, and how many tries there were."""
        self._tries: dict[int, int] = {}
        """Tries before, of the requests that are retries and have no end yet."""
        self._directory = replicas / service
        self._sink = sink
        self._speed = 1 / self._clock.to_real_s(1.0)
        # Answers come back a tick or two late: an idle replica must not look busy.
        allowance_s = 0.5 + 4 * TICK_S * self._speed
        self._balancer = Balancer(self._settings.capacity_per_s, self._settings.timeout_s, allowance_s)
        self._connections: dict[str, Connection] = {}
        self._looked_s = -LOOK_S
        self._planned_us = load.start_us
        self._second_us = load.start_us // MICROS * MICROS
        self._chance = self._source.chance(_OUTCOMES)
        self._route_edges = np.cumsum(self._source.route_shares)[:-1]
        self._run = f"{service}-{load.start_us:x}"
        self._arrived: Counter[int] = Counter()
        """Arrivals by second of world time, of seconds not yet closed."""
        self._overloaded: set[int] = set()
        """Recent seconds that count as overload."""
        self._rejected = 0
        self._statuses: Counter[int] = Counter()
        self._latencies = np.zeros(histogram.SLOTS, dtype=np.int64)
        self._requests = 0
        self._events = 0
        self._overload_s = 0
        self._replica_s = 0.0
        self._ready_s = 0.0
        self._most_ready = 0
        self._started = 0

    @property
    def outstanding(self) -> int:
        return self._balancer.outstanding

    def tick(self, until_us: int | None, now_us: int) -> None:
        """Everything due: answers, arrivals up to ``until_us`` (None: no more), time-outs, dispatch, events."""
        self._look()
        finished = self._receive(now_us)
        if until_us is not None and until_us > self._planned_us:
            times = self._arriving(until_us)
            self._planned_us = until_us
            self._arrived.update(us // MICROS for us in times)
            finished += self._balancer.arrive(times)
        finished += self._balancer.expire(now_us)
        for name, batch in self._balancer.dispatch(float(self._course([now_us]).stretch[0])).items():
            if not self._connections[name].send(batch):
                finished += self._drop(name, now_us)
        self._tell(finished)
        self._close_seconds(min(now_us, self._planned_us))

    def wait(self, seconds: float) -> None:
        """Wait for answers, at most this long (real)."""
        sockets = [connection.socket for connection in self._connections.values()]
        select.select(sockets, [], [], seconds)

    def finish(self, now_us: int) -> None:
        """Whatever has no end yet is lost; say so, and close."""
        self._close_seconds(self._planned_us, final=True)
        for name in list(self._connections):
            self._tell(self._drop(name, now_us))
        self._tell(self._balancer.abandon(now_us))

    def _look(self) -> None:
        """Connect to replicas whose socket has appeared."""
        now_s = monotonic_s()
        if now_s - self._looked_s < LOOK_S:
            for connection in self._connections.values():
                connection.flush()
            return
        self._looked_s = now_s
        names = os.listdir(self._directory) if self._directory.is_dir() else []
        self._started = sum(name.endswith(".json") and name != "fleet.json" for name in names)
        for name in names:
            if name.endswith(".sock") and name not in self._connections:
                found = connect(self._directory / name)
                if found is not None:
                    self._connections[name] = found

    def _receive(self, now_us: int) -> list[Finished]:
        finished: list[Finished] = []
        for name, connection in list(self._connections.items()):
            frames, is_open = connection.receive()
            for frame in frames:
                match frame:
                    case Hello(capacity_per_s):
                        self._balancer.added(name, capacity_per_s)
                    case Answers(answers):
                        finished += self._balancer.answered(name, answers)
                    case Draining():
                        self._balancer.draining(name)
                        connection.finish()
                    case _:
                        raise ValueError(f"a replica does not send {frame!r}")
            if not is_open:
                finished += self._drop(name, now_us)
        return finished

    def _drop(self, name: str, now_us: int) -> list[Finished]:
        self._connections.pop(name).close()
        return self._balancer.removed(name, now_us)

    def _arriving(self, until_us: int) -> list[int]:
        """When the next requests arrive, first tries and retries; their tries are noted under the numbers that the
        balancer will give them."""
        new = [(us, 0) for us in self._arrivals.until(until_us).tolist()]
        again = []
        while self._retries and self._retries[0][0] < until_us:
            retry = heapq.heappop(self._retries)
            if self._course([retry[0]]).demand[0] > 0:  # in a silence nothing arrives
                again.append(retry)
        requests = sorted([*new, *again])
        self._tries.update({self._requests + n: tries for n, (_, tries) in enumerate(requests, 1) if tries})
        self._requests += len(requests)
        return [us for us, _ in requests]

    def _course(self, us: Sequence[int]) -> Course:
        """What holds at some instants."""
        return self._source.course((np.array(us) - self._load.start_us) / MICROS)

    def _try_again(self, failed: Sequence[Finished]) -> None:
        """Plan the retries of requests that failed in a storm."""
        ends_s = (np.array([request.end_us for request in failed]) - self._load.start_us) / MICROS
        for storm, active in self._source.storms(ends_s):
            delays_us = self._chance.standard_exponential(len(failed)) * storm.delay * MICROS
            for request, on, delay_us in zip(failed, active.tolist(), delays_us.tolist(), strict=True):
                tries = self._tries.get(request.request, 0)
                if on and tries < storm.retries:
                    # Answers come a tick late: what is before now has been counted already.
                    again_us = max(request.end_us + round(delay_us), self._planned_us)
                    heapq.heappush(self._retries, (again_us, tries + 1))

    def _tell(self, finished: Sequence[Finished]) -> None:
        """Send finished requests as events; those served fail with the probability in effect at their end."""
        if not finished:
            return
        draws = self._chance.random((len(finished), 2))
        routes = np.searchsorted(self._route_edges, draws[:, 0], side="right")
        chances = (
            self._source.error_rates[routes] + self._course([request.end_us for request in finished]).added
        )
        fails = (draws[:, 1] < chances).tolist()
        events, failed = [], []
        for request, route, fail in zip(finished, routes.tolist(), fails, strict=True):
            status = SERVER_ERROR if request.status == OK and fail else request.status
            if status != OK:
                failed.append(request)
            latency_ms = (request.end_us - request.arrival_us) / 1000
            self._statuses[status] += 1
            self._rejected += status == REJECTED
            if status in (REJECTED, TIMED_OUT):
                self._overload(request.end_us // MICROS)
            events.append(
                EventIn(
                    service=self._spec.name,
                    time=iso(request.end_us),
                    name=self._spec.routes[route].name,
                    status=status,
                    latency_ms=latency_ms,
                    id=f"{self._run}-{request.request}",
                )
            )
        lasted = np.array([request.end_us - request.arrival_us for request in finished], dtype=np.int64)
        self._latencies += np.bincount(histogram.slots(lasted), minlength=histogram.SLOTS)
        self._try_again(failed)
        for request in finished:
            self._tries.pop(request.request, None)
        self._send(events)

    def _overload(self, second: int) -> None:
        """Count a second of overload once, also when it is found out a little later."""
        if second not in self._overloaded:
            self._overloaded.add(second)
            self._overload_s += 1
            if len(self._overloaded) > _RECENT:
                self._overloaded.remove(min(self._overloaded))

    def _close_seconds(self, until_us: int, *, final: bool = False) -> None:
        """Account for, and report, every second of world time that is over; at the end also the last, cut short."""
        while self._second_us + MICROS <= until_us or (final and self._second_us < until_us):
            second = self._second_us // MICROS
            arrived, ready = self._arrived.pop(second, 0), self._balancer.ready
            if arrived > self._balancer.ready_capacity_per_s:
                self._overload(second)
            self._replica_s += self._started
            self._ready_s += ready
            self._most_ready = max(self._most_ready, ready)
            # The last microsecond of the second: in the same window as the requests it counts.
            time = iso(min(self._second_us + MICROS, until_us) - 1)
            values = {
                "arrivals": arrived,
                "queue_length": self._balancer.outstanding,
                "rejections": self._rejected,
            }
            self._rejected = 0
            self._send(
                [
                    EventIn(
                        service=self._spec.name,
                        time=time,
                        kind="metric",
                        name=name,
                        value=float(value),
                        id=f"{self._run}-{name}-{second}",
                    )
                    for name, value in values.items()
                ]
            )
            self._second_us += MICROS

    def _send(self, events: list[EventIn]) -> None:
        self._events += len(events)
        self._sink.offer(events)

    def summary(self) -> ServiceSummary:
        levels = np.array([0.5, 0.99])
        p50_us, p99_us = histogram.quantiles(self._latencies[None, :], levels)[0].tolist()
        any_ended = bool(self._statuses)
        return ServiceSummary(
            service=self._spec.name,
            requests=self._requests,
            statuses=dict(sorted(self._statuses.items())),
            events=self._events,
            latency_p50_ms=p50_us / 1000 if any_ended else None,
            latency_p99_ms=p99_us / 1000 if any_ended else None,
            overload_s=self._overload_s,
            replica_s=self._replica_s,
            ready_replica_s=self._ready_s,
            most_ready=self._most_ready,
        )
