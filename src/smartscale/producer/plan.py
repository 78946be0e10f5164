"""What is to be sent and when: the events of a load, drawn ahead of time, columns at a time.

A request that arrives at t and takes d is one event with time t + d, due then. Its log events carry the same time. System
metrics are due at the end of each interval. Faults of the sender come last: a wrong clock changes only the time an
event carries, a gap drops it, a late event is due later, and a duplicate is one more event with the same number.

Arrivals and retries stop at the load's end; requests that end, and events that are held back, after it are part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from smartscale.clock import MICROS
from smartscale.producer import arrivals, models
from smartscale.producer.arrivals import CELL_US
from smartscale.producer.chunk import NONE, Chunk, Columns, Heads, concatenated, in_order
from smartscale.producer.faults import ClockSkew, DataGap, Duplicates, LateEvents
from smartscale.producer.load import ARRIVALS, Course, Load, Source
from smartscale.producer.rates import Micros, Rates
from smartscale.producer.services import Logs, Metrics, Users

Places = npt.NDArray[np.intp]

OK: Final = 200
FAILED: Final = 500

_CHUNK_EVENTS: Final = 10_000
"""Events written at once: the copy of their bytes keeps other threads from running for half a millisecond, not twenty."""
_BLOCK_EVENTS, _SERVICE_EVENTS = 20_000, 400
"""Requests that a block is meant to hold, and so many more for each service: enough that the cost of a block's calls is
shared, few enough for caches."""
_LONGEST_BLOCK_S: Final = 60
_REQUESTS, _SENDING = 3, 4
"""Purposes of random numbers (``Source.chance``), beside those of ``load``."""


def planned(load: Load, run: str, worker: int = 0, workers: int = 1) -> Iterator[Chunk]:
    """The events of a load, with ids that start with ``run``, ready to be sent, a stretch of world time a chunk.

    The same load and run give the same events. Worker k of n (k < n) gets those whose number modulo n is k."""
    heads = Heads()
    for columns in columns_of(load, heads, worker, workers):
        for first in range(0, len(columns), _CHUNK_EVENTS):
            yield heads.encode(columns.take(slice(first, first + _CHUNK_EVENTS)), run)


def columns_of(load: Load, heads: Heads, worker: int = 0, workers: int = 1) -> Iterator[Columns]:
    """As ``planned``, before the events are written as JSON; ``heads`` is filled."""
    services = [_Service(load, source, heads) for source in load.sources]
    span_us = block_s(load) * MICROS
    held = EMPTY
    first = 0
    for start_us in range(load.start_us, load.end_us, span_us):
        end_us = min(start_us + span_us, load.end_us)
        parts = [held]
        for service in services:
            drawn = service.block(start_us, end_us, first)
            first += service.drawn
            parts.append(drawn.take(drawn.number % workers == worker) if workers > 1 else drawn)
        whole = in_order(concatenated(parts))
        cut = int(np.searchsorted(whole.due_us, end_us))
        yield whole.take(slice(0, cut))
        held = whole.take(slice(cut, None))
    yield held


def block_s(load: Load) -> int:
    """Whole seconds of world time that are drawn at once."""
    busiest = sum(float(rates.max()) for rates in (_sampled(source, load) for source in load.sources))
    wanted = _BLOCK_EVENTS + _SERVICE_EVENTS * len(load.sources)
    return int(np.clip(wanted / max(busiest, 1e-9), 1, _LONGEST_BLOCK_S))


def _sampled(source: Source, load: Load) -> Rates:
    """Demand at a thousand instants of the load."""
    return source.demand(load.middles(1000))


_NO: Final = np.empty(0, dtype=np.int64)
EMPTY: Final = Columns(_NO, _NO, _NO, _NO, _NO, np.empty(0), _NO, _NO)


@dataclass(frozen=True, slots=True)
class _Arrivals:
    """Requests as they arrive, each column of shape (n,): when, by whom, for which route, and how many times before."""

    us: Micros
    user: Micros
    route: Micros
    tries: Micros

    def take(self, which: Places | npt.NDArray[np.bool_] | slice) -> _Arrivals:
        return _Arrivals(self.us[which], self.user[which], self.route[which], self.tries[which])


def _together(parts: Sequence[_Arrivals]) -> _Arrivals:
    return _Arrivals(
        np.concatenate([part.us for part in parts]),
        np.concatenate([part.user for part in parts]),
        np.concatenate([part.route for part in parts]),
        np.concatenate([part.tries for part in parts]),
    )


class _Service:
    """The events of one service, block after block."""

    def __init__(self, load: Load, source: Source, heads: Heads) -> None:
        spec = source.spec
        self._load, self._source, self._spec = load, source, spec
        self._stream = arrivals.stream(spec.arrivals, source.chance(ARRIVALS))
        self._chance = source.chance(_REQUESTS)
        self._sending = source.chance(_SENDING)
        self._routes = np.array([heads.place(spec.name, "interaction", route.name) for route in spec.routes])
        self._route_edges = np.cumsum(source.route_shares)[:-1]
        self._users = _UserChoice(spec.users) if spec.users else None
        self._logs = _LogHeads(spec.logs, spec.name, heads) if spec.logs else None
        self._metrics = [heads.place(spec.name, "metric", name) for name in METRICS] if spec.metrics else []
        self._retries = _Arrivals(_NO, _NO, _NO, _NO)
        """Retries that are still to arrive."""
        self.drawn = 0
        """Numbers used by the latest block."""

    def block(self, start_us: int, end_us: int, first: int) -> Columns:
        """The events of the requests that arrive in the block, numbered from ``first``, in no order."""
        cells = -((start_us - end_us) // CELL_US)
        since_s = self._load.since_s(start_us, cells)
        course = self._source.course(since_s)
        new = self._new(self._stream.block(start_us, course.demand, CELL_US))
        coming = _together([self._retries, new.take(new.us < end_us)])
        parts = [EMPTY]
        while True:
            here = coming.us < end_us
            now, coming = coming.take(here), coming.take(~here)
            now = now.take(course.demand[(now.us - start_us) // CELL_US] > 0)
            if not len(now.us):
                break
            events, retries = self._requests(now, course, start_us, since_s)
            parts += events
            coming = _together([coming, retries])
        self._retries = coming
        if self._spec.metrics:
            parts.append(self._system(self._spec.metrics, start_us, end_us))
        columns = concatenated(parts)
        self.drawn = len(columns)
        columns.number[:] = np.arange(first, first + len(columns))
        return self._sent(columns)

    def _new(self, us: Micros) -> _Arrivals:
        route = np.searchsorted(self._route_edges, self._chance.random(len(us)), side="right")
        user = self._users.draw(self._chance, len(us)) if self._users else np.full(len(us), NONE)
        return _Arrivals(us, user, route, np.zeros(len(us), dtype=np.int64))

    def _requests(
        self, now: _Arrivals, course: Course, start_us: int, since_s: Rates
    ) -> tuple[list[Columns], _Arrivals]:
        """The events of requests that arrive in this block, and their retries."""
        cell = (now.us - start_us) // CELL_US
        latency_us = np.maximum(np.rint(self._latency_ms(now, course, cell) * 1000), 1).astype(np.int64)
        chance_to_fail = np.minimum(self._source.error_rates[now.route] + course.added[cell], 1.0)
        failed = self._chance.random(len(cell)) < chance_to_fail
        ended_us = now.us + latency_us
        events = Columns(
            ended_us,
            ended_us,
            self._routes[now.route],
            np.where(failed, FAILED, OK),
            latency_us,
            np.full(len(cell), np.nan),
            now.user,
            np.zeros(len(cell), dtype=np.int64),
        )
        parts = [events]
        if self._logs:
            parts.append(self._logs.events(events, failed, self._chance))
        return parts, self._again(now, failed, ended_us, cell, since_s)

    def _latency_ms(self, now: _Arrivals, course: Course, cell: Micros) -> Rates:
        latency_ms = np.empty(len(cell))
        for number, model in enumerate(self._source.latencies):
            chosen = np.flatnonzero(now.route == number) if len(self._routes) > 1 else slice(None)
            count = len(latency_ms[chosen])
            latency_ms[chosen] = models.sample(model, self._chance, count)
        if self._spec.capacity:
            waits = models.waiting(course.load, self._spec.capacity.servers)[cell]
            waiting = np.flatnonzero(self._chance.random(len(cell)) < waits)
            mean_s = models.mean_wait_s(course.load, self._spec.capacity.per_s)[cell[waiting]]
            latency_ms[waiting] += self._chance.standard_exponential(len(waiting)) * mean_s * 1000
        return latency_ms * course.stretch[cell]

    def _again(
        self, now: _Arrivals, failed: npt.NDArray[np.bool_], ended_us: Micros, cell: Micros, since_s: Rates
    ) -> _Arrivals:
        """The retries of requests that failed in a retry storm. The delay is exponential, so that clients who failed
        together do not come back together."""
        parts = []
        for storm, active in self._source.storms(since_s):
            which = np.flatnonzero(failed & (active[cell] > 0) & (now.tries < storm.retries))
            delays = self._chance.standard_exponential(len(which)) * (storm.delay * MICROS)
            again = now.take(which)
            us = ended_us[which] + np.rint(delays).astype(np.int64)
            parts.append(_Arrivals(us, again.user, again.route, again.tries + 1))
        return _together(parts) if parts else now.take(slice(0, 0))

    def _system(self, metrics: Metrics, start_us: int, end_us: int) -> Columns:
        """The system metrics of the intervals that end in ``(start, end]``; they carry the interval's last microsecond, so
        that they are in the window they tell of."""
        step_us = round(metrics.interval * MICROS)
        first = (start_us - self._load.start_us) // step_us + 1
        last = (end_us - self._load.start_us) // step_us
        ends_us = self._load.start_us + np.arange(first, last + 1) * step_us
        course = self._source.course((ends_us - step_us / 2 - self._load.start_us) / MICROS)
        values = system_metrics(self._source, course, self._chance)
        count = len(ends_us)
        due_us = np.tile(ends_us - 1, len(METRICS))
        none = np.full(len(due_us), NONE)
        return Columns(
            due_us,
            due_us,
            np.repeat(self._metrics, count),
            none,
            none,
            values.reshape(-1),
            none,
            np.zeros_like(none),
        )

    def _sent(self, columns: Columns) -> Columns:
        """What the sender makes of the events: faults of its clock and its connection."""
        for fault in self._source.faults:
            if not isinstance(fault, ClockSkew | DataGap | LateEvents | Duplicates):
                continue
            active = fault.active((columns.due_us - self._load.start_us) / MICROS) > 0
            match fault:
                case ClockSkew():
                    columns.time_us[active] += round(fault.size * MICROS)
                case DataGap():
                    gone = active & np.isin(columns.head, self._metrics) if fault.of == "metrics" else active
                    columns = columns.take(~gone)
                case LateEvents():
                    held = active & (self._sending.random(len(active)) < fault.size)
                    columns.due_us[held] += round(fault.delay * MICROS)
                case Duplicates():
                    again = columns.take(active & (self._sending.random(len(active)) < fault.size))
                    again.due_us[:] += round(fault.delay * MICROS)
                    columns = concatenated([columns, again])
        return columns


METRICS: Final = ("cpu_percent", "memory_mb", "queue_depth")


def system_metrics(source: Source, course: Course, chance: np.random.Generator) -> Rates:
    """The system metrics at some instants, shape (metrics, instants), never below 0."""
    metrics, capacity = source.spec.metrics, source.spec.capacity
    if metrics is None or capacity is None:
        raise ValueError(f"service {source.name!r} has no metrics or no capacity")
    load = np.minimum(course.load, 1.0)
    means = np.array(
        [
            metrics.idle_percent + (100 - metrics.idle_percent) * load,
            metrics.memory_mb + metrics.memory_mb_per_load * load,
            models.queued(course.load, capacity.servers),
        ]
    )
    noisy = np.maximum(means * (1 + metrics.noise * chance.standard_normal(means.shape)), 0.0)
    noisy[0] = np.minimum(noisy[0], 100.0)
    return noisy


class _UserChoice:
    """Users by rank, from 1, with probabilities as Zipf's law has them."""

    def __init__(self, users: Users) -> None:
        shares = np.arange(1, users.population + 1, dtype=np.float64) ** -users.zipf
        self._edges = np.cumsum(shares) / shares.sum()

    def draw(self, chance: np.random.Generator, count: int) -> Micros:
        last = len(self._edges) - 1
        return np.minimum(np.searchsorted(self._edges, chance.random(count), side="right"), last) + 1


class _LogHeads:
    """Log events beside requests."""

    def __init__(self, logs: Logs, service: str, heads: Heads) -> None:
        self._logs = logs
        self._heads = np.array(
            [
                [heads.place(service, "log", logger, severity) for logger in logs.loggers]
                for severity in ("info", "warn", "error")
            ]
        )

    def events(
        self, requests: Columns, failed: npt.NDArray[np.bool_], chance: np.random.Generator
    ) -> Columns:
        """The log events of requests: how many each has is Poisson-distributed, which logger, by chance."""
        of = np.repeat(np.arange(len(requests)), chance.poisson(self._logs.per_request, len(requests)))
        severity = np.where(failed[of], 2, (chance.random(len(of)) < self._logs.warnings).astype(np.int64))
        logger = chance.integers(0, self._heads.shape[1], len(of))
        logs = requests.take(of)
        none = np.full(len(of), NONE)
        return Columns(
            logs.due_us,
            logs.time_us,
            self._heads[severity, logger],
            none,
            none,
            logs.value,
            logs.user,
            logs.number,
        )
