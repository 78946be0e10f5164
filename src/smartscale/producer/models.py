"""How long requests take, and how many of them fail: latency and error models, alone and under load.

Waiting for capacity follows M/M/c: Poisson arrivals, exponential service, ``servers`` servers of a total ``per_s``
requests a second (Erlang's C formula; Kleinrock, Queueing Systems I). It is taken as stationary at the load of the
moment, which is true as long as the load changes slowly beside the wait; loads above ``HIGHEST_LOAD`` wait as at it, for a
queue without end has no distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from msgspec import Meta
from scipy import special

from smartscale.producer.parts import NotNegative, Part, Positive, Share
from smartscale.producer.rates import Rates

HIGHEST_LOAD: Final = 0.98


class Lognormal(Part, frozen=True, tag_field="model", tag="lognormal"):
    """The usual shape of response times. ``sigma`` is the standard deviation of the logarithm."""

    median_ms: Positive = 20.0
    sigma: NotNegative = 0.5


class Gamma(Part, frozen=True, tag_field="model", tag="gamma"):
    """A sum of exponential parts: ``shape`` 1 is exponential, larger is narrower."""

    mean_ms: Positive
    shape: Positive = 2.0


class Mixture(Part, frozen=True, tag_field="model", tag="mixture"):
    """Most requests take as long as ``body`` says, a share ``tail_share`` as long as ``tail`` says."""

    body: Lognormal | Gamma
    tail: Lognormal | Gamma
    tail_share: Share = 0.01


Latency = Lognormal | Gamma | Mixture


class Capacity(Part, frozen=True):
    """What the service can do: ``per_s`` requests a second, by ``servers`` at a time. Requests then wait as in M/M/c."""

    per_s: Positive
    servers: Annotated[int, Meta(ge=1, le=1000)] = 8


class Overload(Part, frozen=True):
    """Failures under load: from none at ``start`` of the capacity to ``rate`` of all requests at ``full`` and above."""

    start: NotNegative = 0.9
    full: Positive = 1.2
    rate: Share = 0.3

    def failing(self, load: Rates) -> Rates:
        """The share of requests that fail because of the load."""
        return self.rate * np.clip((load - self.start) / (self.full - self.start), 0.0, 1.0)


def sample(model: Latency, chance: np.random.Generator, count: int) -> Rates:
    """Latencies in ms, shape (count,)."""
    match model:
        case Lognormal():
            return model.median_ms * np.exp(model.sigma * chance.standard_normal(count))
        case Gamma():
            return chance.standard_gamma(model.shape, count) * (model.mean_ms / model.shape)
        case Mixture():
            in_tail = chance.random(count) < model.tail_share
            drawn = sample(model.body, chance, count)
            drawn[in_tail] = sample(model.tail, chance, int(in_tail.sum()))
            return drawn


def distribution(model: Latency, ms: Rates) -> Rates:
    """The share of latencies up to each ``ms`` (> 0), same shape."""
    match model:
        case Lognormal():
            if model.sigma == 0:
                return (ms >= model.median_ms).astype(np.float64)
            return np.asarray(special.ndtr(np.log(ms / model.median_ms) / model.sigma), dtype=np.float64)
        case Gamma():
            return np.asarray(
                special.gammainc(model.shape, ms * (model.shape / model.mean_ms)), dtype=np.float64
            )
        case Mixture():
            tail = distribution(model.tail, ms)
            return (1 - model.tail_share) * distribution(model.body, ms) + model.tail_share * tail


def waiting(load: Rates, servers: int) -> Rates:
    """The share of requests that wait at each load (rate / capacity), by Erlang's C formula.

    >>> waiting(np.array([0.0, 0.5, 2.0]), 1).round(9).tolist()
    [0.0, 0.5, 0.98]
    """
    load = np.minimum(load, HIGHEST_LOAD)
    offered, blocked = load * servers, np.ones_like(load)
    for server in range(1, servers + 1):  # Erlang's B formula, by its recursion
        blocked = offered * blocked / (server + offered * blocked)
    answer: Rates = blocked / (1 - load * (1 - blocked))
    return answer


def mean_wait_s(load: Rates, per_s: float) -> Rates:
    """How long those that wait do so on average, exponentially distributed."""
    return 1 / (per_s * (1 - np.minimum(load, HIGHEST_LOAD)))


def queued(load: Rates, servers: int) -> Rates:
    """Requests that wait at a time, on average."""
    load = np.minimum(load, HIGHEST_LOAD)
    return waiting(load, servers) * load / (1 - load)


_LOADS: Final = np.concatenate([np.linspace(0.0, 0.8, 17), np.linspace(0.82, HIGHEST_LOAD, 17)])
_LOGITS: Final = np.linspace(-16.0, 16.0, 513)
"""Places at which quantile functions are kept, as log(u / (1 - u)): from 1e-7 to 1 - 1e-7."""
_WAIT_EDGES: Final = special.expit(np.concatenate([[-np.inf], np.linspace(-6.0, 14.0, 80), [np.inf]]))
_WAIT_SHARES: Final = np.diff(_WAIT_EDGES)
_WAITS: Final = -np.log1p(-(_WAIT_EDGES[1:] + _WAIT_EDGES[:-1]) / 2)
"""An exponential distribution of mean 1 as values with shares, dense where it ends: the longest is 14 times the mean."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """The quantile function of a service's latency at every load: log of ms, shape (loads, ``_LOGITS``)."""

    table: npt.NDArray[np.float64]
    loads: Rates
    mean_ms: Rates
    """Shape (loads,)."""
    deviation_ms: Rates

    @classmethod
    @lru_cache(maxsize=256)
    def of(
        cls, models: tuple[Latency, ...], weights: tuple[float, ...], capacity: Capacity | None
    ) -> Quantiles:
        """Of requests that take as long as the models say, mixed by weight, and wait for capacity before."""
        share = np.array(weights) / sum(weights)
        points = np.exp(np.linspace(np.log(1e-3), np.log(1e8), 2500))  # ms: a microsecond to a day

        alone = share @ [distribution(model, points) for model in models]
        loads = _LOADS if capacity else np.zeros(1)
        rows = []
        for load in loads:
            below = alone
            if capacity and load > 0:
                waits_ms = _WAITS * 1000 * mean_wait_s(np.array([load]), capacity.per_s)[0]
                late = _WAIT_SHARES @ [np.interp(points - wait, points, alone, left=0.0) for wait in waits_ms]
                share_waiting = waiting(np.array([load]), capacity.servers)[0]
                below = (1 - share_waiting) * alone + share_waiting * late
            rows.append(_inverted(points, below))
        table = np.array(rows)
        width = np.diff(
            special.expit(np.concatenate([[-np.inf], (_LOGITS[1:] + _LOGITS[:-1]) / 2, [np.inf]]))
        )
        mean = (np.exp(table) * width).sum(axis=1)
        variance = ((np.exp(table) - mean[:, None]) ** 2 * width).sum(axis=1)
        return cls(table, loads, mean, np.sqrt(variance))

    def at(self, shares: Rates, load: Rates) -> Rates:
        """The quantiles in ms of ``shares`` (in (0, 1)) at each load (broadcast against them)."""
        place = np.clip(
            (special.logit(shares) - _LOGITS[0]) / (_LOGITS[1] - _LOGITS[0]), 0, len(_LOGITS) - 1.000001
        )
        column = place.astype(np.int64)
        within = place - column
        row, between = self._row(np.broadcast_to(load, place.shape))
        table = self.table
        low = table[row, column] * (1 - within) + table[row, column + 1] * within
        if len(self.loads) == 1:
            return _exp(low)
        high = table[row + 1, column] * (1 - within) + table[row + 1, column + 1] * within
        return _exp(low * (1 - between) + high * between)

    def moments(self, load: Rates) -> tuple[Rates, Rates]:
        """Mean and standard deviation in ms at each load."""
        return np.interp(load, self.loads, self.mean_ms), np.interp(load, self.loads, self.deviation_ms)

    def _row(self, load: Rates) -> tuple[npt.NDArray[np.int64], Rates]:
        """Between which two rows each load lies, and how far from the first to the second."""
        if len(self.loads) == 1:
            return np.zeros(load.shape, dtype=np.int64), np.zeros(load.shape)
        load = np.clip(load, 0.0, self.loads[-1])
        row = np.clip(np.searchsorted(self.loads, load, side="right") - 1, 0, len(self.loads) - 2)
        return row, (load - self.loads[row]) / (self.loads[row + 1] - self.loads[row])


def _exp(logs: Rates) -> Rates:
    answer: Rates = np.exp(logs)
    return answer


def _inverted(points: Rates, below: Rates) -> Rates:
    """The log of the quantile function at ``_LOGITS`` of a distribution given at ``points``."""
    logits = special.logit(np.clip(below, 1e-12, 1 - 1e-12))
    rising = np.concatenate([[True], np.diff(logits) > 1e-12])
    answer: Rates = np.interp(_LOGITS, logits[rising], np.log(points)[rising])
    return answer
