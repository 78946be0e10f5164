"""A load: what every service is offered at each instant, with all shapes and faults taken into account.

A pure function of a scenario and the time. ``plan`` draws single events from it, ``windows`` rows of metrics, ``labels``
writes it down as the truth, and the sample service plays it against real replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
from msgspec import structs

from smartscale.clock import MICROS
from smartscale.producer import arrivals, faults, models, shapes
from smartscale.producer.arrivals import CELL_US, Taken
from smartscale.producer.faults import AnyFault, RetryStorm
from smartscale.producer.models import Quantiles
from smartscale.producer.rates import RateCurve, Rates
from smartscale.producer.services import Service
from smartscale.producer.shapes import Curve, Shape

CELL_S: Final = CELL_US / MICROS


@dataclass(frozen=True, slots=True)
class Course:
    """What holds for one service at some instants; every array has their shape.

    ``demand`` and ``rate`` (1/s): arrivals without and with retries. ``load``: rate / capacity, 0 without a capacity.
    ``added``: what faults and overload add to the probability of failing. ``stretch``: the factor on latency."""

    demand: Rates
    rate: Rates
    load: Rates
    added: Rates
    stretch: Rates


@dataclass(frozen=True)
class Source:
    """One service of a load, its ``number`` in it, and all that acts on it. Times are seconds from the load's start."""

    number: int
    spec: Service
    shapes: Sequence[Callable[[Rates], Rates]]
    faults: Sequence[AnyFault]
    seed: int

    @property
    def name(self) -> str:
        return self.spec.name

    def chance(self, purpose: int) -> np.random.Generator:
        """Random numbers of this service's own, others for each purpose."""
        return np.random.default_rng([self.seed, self.number, purpose])

    def demand(self, since_s: Rates) -> Rates:
        """Requests a second that people want served, before any retry. Where it is 0, nothing arrives at all."""
        rate = np.full_like(since_s, self.spec.rate)
        for factor in self.shapes:
            rate = rate * factor(since_s)
        for fault in self.faults:
            rate = rate * faults.demand_factor(fault, since_s)
        return rate

    def course(self, since_s: Rates) -> Course:
        """All that holds at these instants."""
        demand = self.demand(since_s)
        added = sum((faults.failing_points(fault, since_s) for fault in self.faults), np.zeros_like(since_s))
        stretch = np.ones_like(since_s)
        for fault in self.faults:
            stretch = stretch * faults.latency_factor(fault, since_s)
        rate, load, added = self._with_retries(demand, added, since_s)
        return Course(demand, rate, load, added, stretch)

    def failing(self, course: Course, route: int | None = None) -> Rates:
        """The probability that a request fails, of one route or of all."""
        if route is not None:
            one: Rates = np.minimum(self.error_rates[route] + course.added, 1.0)
            return one
        each = [share * self.failing(course, n) for n, share in enumerate(self.route_shares.tolist())]
        return sum(each, np.zeros_like(course.added))

    @cached_property
    def route_shares(self) -> Rates:
        """How often each route is asked for; they sum to 1."""
        weights = np.array([route.weight for route in self.spec.routes])
        shares: Rates = weights / weights.sum()
        return shares

    @cached_property
    def error_rates(self) -> Rates:
        """The probability of failing of each route, without faults and overload."""
        return np.array(
            [self.spec.error_rate if r.error_rate is None else r.error_rate for r in self.spec.routes]
        )

    @cached_property
    def latencies(self) -> tuple[models.Latency, ...]:
        """The latency model of each route."""
        return tuple(route.latency or self.spec.latency for route in self.spec.routes)

    @cached_property
    def quantiles(self) -> Quantiles:
        """The quantile function of latency over all routes, before ``Course.stretch``."""
        return Quantiles.of(self.latencies, tuple(self.route_shares.tolist()), self.spec.capacity)

    def storms(self, since_s: Rates) -> Sequence[tuple[RetryStorm, Rates]]:
        """The retry storms of this service and where they are in effect."""
        return [(fault, fault.active(since_s)) for fault in self.faults if isinstance(fault, RetryStorm)]

    def _with_retries(self, demand: Rates, added: Rates, since_s: Rates) -> tuple[Rates, Rates, Rates]:
        """Rate with retries, load, and failures with those of overload: each depends on the others, so from the demand up
        to the least rate that they agree on."""
        capacity, overload = self.spec.capacity, self.spec.overload
        storms = self.storms(since_s)
        rate, failing = demand, added
        for _ in range(_ROUNDS if storms else 1):
            load = rate / capacity.per_s if capacity else np.zeros_like(rate)
            failing = np.minimum(added + (overload.failing(load) if overload else 0.0), 1.0)
            before, rate = rate, demand
            if storms:
                course = Course(demand, rate, load, failing, demand)
                for route, share in enumerate(self.route_shares.tolist()):
                    missed = self.failing(course, route)
                    for storm, active in storms:
                        tries = sum((missed**k for k in range(1, storm.retries + 1)), np.zeros_like(missed))
                        rate = rate + demand * share * tries * active
            if np.allclose(before, rate, rtol=1e-9, atol=0):
                break
        load = rate / capacity.per_s if capacity else np.zeros_like(rate)
        return rate, load, failing


_ROUNDS: Final = 100
"""The rate with retries rises from round to round to a bound; far fewer are needed unless it is at a cliff's edge."""


@dataclass(frozen=True)
class Load:
    """What is to be produced from ``start_us`` on (world time), for ``duration_s``.

    ``digest`` names the scenario with all that belongs to it (SHA-256)."""

    sources: Sequence[Source]
    faults: Sequence[AnyFault]
    start_us: int
    duration_s: float
    seed: int
    digest: str = ""
    about: str = field(default="", compare=False)

    @property
    def end_us(self) -> int:
        return self.start_us + round(self.duration_s * MICROS)

    def starting_at(self, start_us: int) -> Load:
        """The same load, moved in world time. Its own times of day stay as they are."""
        return replace(self, start_us=start_us)

    def source(self, service: str) -> Source:
        """The service of that name. Raises KeyError if there is none."""
        return {source.name: source for source in self.sources}[service]

    def since_s(self, start_us: int, cells: int, cell_us: int = CELL_US) -> Rates:
        """The middles of cells from ``start_us`` on, in seconds from the load's start."""
        return (start_us - self.start_us + (np.arange(cells) + 0.5) * cell_us) / MICROS

    def arrivals(self, source: Source) -> Taken:
        """The requests to one service, without retries, from the load's start to its end."""
        return Taken(
            arrivals.stream(source.spec.arrivals, source.chance(ARRIVALS)),
            lambda at_us, cells: source.demand(self.since_s(at_us, cells)),
            self.start_us,
            self.end_us,
        )

    def middles(self, steps: int) -> Rates:
        """The middles of so many equal steps of the load, in seconds from its start."""
        seconds: Rates = (np.arange(steps, dtype=np.float64) + 0.5) * (self.duration_s / steps)
        return seconds


ARRIVALS: Final = 1
"""Purpose of random numbers: when requests arrive. The others are beside what they are for."""


def of_curve(curve: RateCurve, service: Service, seed: int = 1) -> Load:
    """A load of one service that has the rates of a curve, and starts and ends with it."""
    spec = structs.replace(service, rate=1.0)

    def rate(since_s: Rates) -> Rates:
        return curve.rate_at(curve.start_us + np.rint(since_s * MICROS).astype(np.int64))

    source = Source(0, spec, [rate], [], seed)
    return Load([source], [], curve.start_us, (curve.end_us - curve.start_us) / MICROS, seed)


def sources(
    specs: Sequence[Service],
    common: Sequence[Shape],
    all_faults: Sequence[AnyFault],
    start_us: int,
    seed: int,
    curves: Mapping[Curve, RateCurve],
) -> list[Source]:
    """The services of a scenario, those with a ``count`` written out."""
    found: list[Source] = []
    for spec in specs:
        factors = [shapes.factor(shape, start_us, curves) for shape in [*common, *spec.shapes]]
        spreads = np.random.default_rng([seed, len(found), SPREAD]).standard_normal(spec.count) * spec.spread
        for n, spread in enumerate(spreads.tolist(), 1):
            name = spec.name.replace("{n}", str(n))
            alone = structs.replace(spec, name=name, count=1, rate=spec.rate * float(np.exp(spread)))
            concerned = [fault for fault in all_faults if fault.concerns(name)]
            found.append(Source(len(found), alone, factors, concerned, seed))
    return found


SPREAD: Final = 2
