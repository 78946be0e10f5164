"""What is to be sent and when: the events of a load, drawn ahead of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from smartscale.clock import MICROS
from smartscale.producer.arrivals import CELL_US, arrivals
from smartscale.producer.profiles import Load, Service
from smartscale.producer.rates import Micros
from smartscale.records.events_json import EventIn


@dataclass(frozen=True, slots=True)
class Chunk:
    """Events and the world times, ascending, at which each is due to be sent."""

    due_us: Micros
    events: Sequence[EventIn]


def planned(load: Load) -> Iterator[Chunk]:
    """The events of a load, a second of world time a chunk, each due when its request ends.

    A request that arrives at t and takes d is one event with time t + d. The same seed gives the same events. Requests
    that end after the load does are part of it: the last chunks reach beyond its end."""
    curves = [load.curve(service.name) for service in load.services]
    held = Chunk(np.empty(0, dtype=np.int64), [])
    for start_us in range(load.start_us, load.end_us, CELL_US):
        end_us = min(start_us + CELL_US, load.end_us)
        drawn = [
            _requests(load, number, arrivals(curve, _seed(load, number), start_us, end_us), start_us)
            for number, curve in enumerate(curves)
        ]
        ready, held = _split(_merged([held, *drawn]), end_us)
        yield ready
    if len(held.due_us):
        yield held


def times(us: Micros) -> list[str]:
    """RFC 3339 texts, in UTC."""
    texts: list[str] = np.strings.add(np.datetime_as_string(us.astype("datetime64[us]")), "Z").tolist()
    return texts


def _seed(load: Load, number: int) -> int:
    """A seed for each service, so that they do not share their arrivals."""
    return (load.seed + 7919 * number) % 2**62


def _requests(load: Load, number: int, arrived_us: Micros, cell_us: int) -> Chunk:
    """The events of the requests to one service that arrive in one cell."""
    service = load.services[number]
    cell = (cell_us - load.start_us) // CELL_US
    chance = np.random.default_rng([load.seed, number, cell])
    since_s = (arrived_us - load.start_us) / MICROS
    route = _routes(service, chance, len(arrived_us))
    median_ms = np.array([(each.latency or service.latency).median_ms for each in service.routes])[route]
    sigma = np.array([(each.latency or service.latency).sigma for each in service.routes])[route]
    latency_ms = median_ms * np.exp(sigma * chance.standard_normal(len(route)))
    failing = np.full(len(route), service.error_rate)
    for fault in load.faults:
        if fault.service != service.name:
            continue
        active = (since_s >= fault.start_s) & (since_s < fault.start_s + fault.duration_s)
        if fault.kind == "latency_step":
            latency_ms = np.where(active, latency_ms * fault.size, latency_ms)
        elif fault.kind == "error_spike":
            failing = np.where(active, np.maximum(failing, fault.size), failing)
    failed = chance.random(len(route)) < failing
    ended_us = arrived_us + np.rint(latency_ms * 1000).astype(np.int64)
    names = [each.name for each in service.routes]
    events = [
        EventIn(service=service.name, time=time, name=names[r], status=500 if bad else 200, latency_ms=ms)
        for time, r, bad, ms in zip(
            times(ended_us), route.tolist(), failed.tolist(), np.round(latency_ms, 3).tolist(), strict=True
        )
    ]
    return Chunk(ended_us, events)


def _routes(service: Service, chance: np.random.Generator, count: int) -> Micros:
    weights = np.array([route.weight for route in service.routes])
    return chance.choice(len(weights), size=count, p=weights / weights.sum()).astype(np.int64)


def _merged(chunks: Sequence[Chunk]) -> Chunk:
    due_us = np.concatenate([chunk.due_us for chunk in chunks])
    events = [event for chunk in chunks for event in chunk.events]
    order = np.argsort(due_us, kind="stable")
    return Chunk(due_us[order], [events[i] for i in order.tolist()])


def _split(chunk: Chunk, end_us: int) -> tuple[Chunk, Chunk]:
    """What is due before ``end_us``, and the rest."""
    cut = int(np.searchsorted(chunk.due_us, end_us))
    return Chunk(chunk.due_us[:cut], chunk.events[:cut]), Chunk(chunk.due_us[cut:], chunk.events[cut:])
