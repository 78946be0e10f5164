"""What one service of a scenario is like: how much load it gets, how it answers, what it tells."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from smartscale.producer.arrivals import Poisson, Process
from smartscale.producer.models import Capacity, Latency, Lognormal, Overload
from smartscale.producer.parts import Label, NotNegative, Part, Positive, Seconds, Share, lasting
from smartscale.producer.shapes import Shape


class Route(Part, frozen=True):
    """A share of the service's requests, by weight. ``latency`` and ``error_rate`` None: the service's."""

    name: Label
    weight: Positive = 1.0
    latency: Latency | None = None
    error_rate: Share | None = None


class Users(Part, frozen=True):
    """Who asks: the k-th most active of ``population`` users with a probability proportional to 1 / k^zipf."""

    population: Annotated[int, Meta(ge=1, le=10_000_000)]
    zipf: NotNegative = 1.0


class Logs(Part, frozen=True):
    """Log events: ``per_request`` for each request, on average, at its end.

    Those of a request that failed are errors; of the others ``warnings`` are warnings, the rest info."""

    per_request: Annotated[float, Meta(gt=0, le=100)]
    loggers: Annotated[tuple[Label, ...], Meta(min_length=1)] = ("app",)
    warnings: Share = 0.01


class Metrics(Part, frozen=True):
    """System metrics that follow the load: ``cpu_percent``, ``memory_mb`` and ``queue_depth``, every ``interval``.

    CPU goes from ``idle_percent`` without load to 100 at capacity; memory from ``memory_mb`` up by ``memory_mb_per_load``
    at capacity; ``noise`` is their relative deviation. The queue is the mean of M/M/c. They need a ``capacity``."""

    interval: Seconds = lasting(10)
    idle_percent: Annotated[float, Meta(ge=0, le=100)] = 5.0
    memory_mb: NotNegative = 500.0
    memory_mb_per_load: NotNegative = 500.0
    noise: Annotated[float, Meta(ge=0, lt=1)] = 0.02


class Service(Part, frozen=True):
    """A service, or ``count`` alike ones with ``{n}`` in the name for their numbers, from 1.

    ``rate`` is in requests a second, before shapes and faults. The rates of alike services are ``rate`` times a log-normal
    factor of median 1 whose logarithm has the deviation ``spread``. ``shapes`` multiply each other and the scenario's."""

    name: Label
    rate: Annotated[float, Meta(ge=0, le=1_000_000)]
    count: Annotated[int, Meta(ge=1, le=10_000)] = 1
    spread: NotNegative = 0.0
    arrivals: Process = Poisson()
    shapes: tuple[Shape, ...] = ()
    routes: Annotated[tuple[Route, ...], Meta(min_length=1)] = (Route(name="GET /"),)
    latency: Latency = Lognormal()
    error_rate: Share = 0.001
    capacity: Capacity | None = None
    overload: Overload | None = None
    users: Users | None = None
    logs: Logs | None = None
    metrics: Metrics | None = None
