"""Windows of a load without its events: the rows of metrics that aggregating them would give, drawn directly.

A row's count, errors and latency quantiles have the distribution that they have when every event of a load is drawn and
aggregated, at the cost of a few random numbers a row: weeks of many services take seconds, so detectors and forecasts
can be scored on them. How:

- A request is counted in the step in which it ends: the expected number of arrivals is that between the step's edges
  less the mean latency at each. Poisson arrivals that are moved independently of each other are Poisson again.
- Of Hawkes and constant arrivals the points themselves are drawn (``arrivals``), of self-similar ones the sessions.
- In a retry storm, first tries are drawn; of each round those that fail are drawn, and come again after the delay.
- The order statistics that the quantiles ask for are drawn together, from gamma-distributed spacings (Devroye, Non-Uniform
  Random Variate Generation, 1986, section V.2), put through the quantile function of the service's latency at the
  load of the step, and told as the midpoint of their histogram slot, as the pipeline tells them.
- In a step within which latency changes, where a fault begins for example, the latency of each request is drawn.

Not drawn: late events and duplicates, which change no final result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from smartscale.clock import MICROS
from smartscale.producer import arrivals
from smartscale.producer.arrivals import Poisson, SelfSimilar, Sessions, Stream
from smartscale.producer.faults import AnyFault, ClockSkew, DataGap, RetryStorm
from smartscale.producer.labels import steps_of
from smartscale.producer.load import ARRIVALS, Load, Source
from smartscale.producer.rates import Rates
from smartscale.records import histogram
from smartscale.records.metrics import MetricRow
from smartscale.records.topics import ALL_NAMES, DEFAULT_TENANT

Counts = npt.NDArray[np.int64]

LEVELS: Final = (0.5, 0.9, 0.95, 0.99, 0.999)
CELLS: Final = 10
"""Cells of a step, over which rates are constant."""
_STEADY: Final = 0.02
"""A change of latency within a step that is not told apart; chosen as the error of the histogram."""
_BLOCK_CELLS: Final = 3600
"""Cells whose single arrivals are drawn at once, where they have to be."""
_ROWS: Final = 6
"""Purpose of random numbers (``Source.chance``)."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Tumbling windows of the interactions of each service, over all routes.

    Step i is ``[start_us + i * step_us, start_us + (i + 1) * step_us)``. ``count`` and ``errors`` have the shape (services,
    steps), ``latency_ms`` (services, steps, ``LEVELS``), ``mean_ms`` and ``max_ms`` (services, steps); NaN where nothing
    ended. ``told`` is False where the sender was silent for the whole step: a pipeline has a zero there, or nothing."""

    services: list[str]
    start_us: int
    step_us: int
    count: Counts
    errors: Counts
    latency_ms: Rates
    mean_ms: Rates
    max_ms: Rates
    told: npt.NDArray[np.bool_]

    def write_csv(self, path: Path, service: str | None = None) -> None:
        """Write all services, by time, or one of them without a column for it. Columns: ``timestamp`` (start of the window),
        ``service``, ``requests``, ``errors``, ``latency_mean_ms``, ``latency_p50_ms`` to ``latency_p999_ms``,
        ``latency_max_ms``; a cell is empty where nothing was measured."""
        chosen = [self.services.index(service)] if service is not None else list(range(len(self.services)))
        steps = self.count.shape[1]
        starts_us = self.start_us + np.arange(steps) * self.step_us
        times = np.strings.add(np.datetime_as_string(starts_us.astype("datetime64[us]"), unit="s"), "Z")
        columns: dict[str, object] = {"timestamp": np.repeat(times, len(chosen))}
        if service is None:
            columns["service"] = np.tile(np.array(self.services), steps)
        values = {"requests": self.count, "errors": self.errors, "latency_mean_ms": self.mean_ms}
        levels = zip(("p50", "p90", "p95", "p99", "p999"), np.moveaxis(self.latency_ms, 2, 0), strict=True)
        values |= {f"latency_{level}_ms": value for level, value in levels}
        values["latency_max_ms"] = self.max_ms
        columns |= {name: value[chosen].T.reshape(-1) for name, value in values.items()}
        pd.DataFrame(columns).round(3).to_csv(path, index=False)

    def rows(self, service: int) -> Iterator[MetricRow]:
        """The windows of one service as the final rows that the window stage writes."""
        step_s = self.step_us / MICROS
        for i, (count, errors) in enumerate(
            zip(self.count[service].tolist(), self.errors[service].tolist(), strict=True)
        ):
            end_us = self.start_us + (i + 1) * self.step_us
            p50, p90, p95, p99, p999 = self.latency_ms[service, i].tolist() if count else [None] * 5
            yield MetricRow(
                tenant=DEFAULT_TENANT,
                service=self.services[service],
                kind="interaction",
                name=ALL_NAMES,
                window=f"{step_s:g}s",
                start_us=end_us - self.step_us,
                end_us=end_us,
                count=count,
                errors=errors,
                rate_per_s=count / step_s,
                error_rate=errors / count if count else 0.0,
                revision=1,
                final=True,
                complete=bool(self.told[service, i]),
                watermark_us=end_us,
                latency_mean_ms=float(self.mean_ms[service, i]) if count else None,
                latency_p50_ms=p50,
                latency_p90_ms=p90,
                latency_p95_ms=p95,
                latency_p99_ms=p99,
                latency_p999_ms=p999,
                latency_max_ms=float(self.max_ms[service, i]) if count else None,
            )


def windows(load: Load, step_s: float = 10.0) -> Windows:
    """The windows of every service of a load, those that are cut by its end included. The same load gives the same
    windows. Takes a second or two and 100 MB for 20 services over a week, and memory for one service at a time beside."""
    drawn = [_Drawn(load, source, step_s).all() for source in load.sources]
    count, errors, latency_ms, mean_ms, max_ms, told = (
        np.array(column) for column in zip(*drawn, strict=True)
    )
    return Windows(
        [source.name for source in load.sources],
        load.start_us,
        round(step_s * MICROS),
        count,
        errors,
        latency_ms,
        mean_ms,
        max_ms,
        told,
    )


class _Drawn:
    """The rows of one service; "by cell" is an array of shape (steps, ``CELLS``)."""

    def __init__(self, load: Load, source: Source, step_s: float) -> None:
        self._source, self._step_s, self._load = source, step_s, load
        self._chance = source.chance(_ROWS)
        self._steps = steps_of(load, step_s)
        self._middles = (np.arange(self._steps * CELLS, dtype=np.float64) + 0.5) * (step_s / CELLS)
        self._course = source.course(self._middles)

    def all(self) -> tuple[Counts, Counts, Rates, Rates, Rates, npt.NDArray[np.bool_]]:
        """Counts, errors, latencies at ``LEVELS``, mean, maximum, and whether anything was told, of each step."""
        count, errors = self._requests(self._first_tries())
        good, bad = self._as_dated(count - errors), self._as_dated(errors)
        gap = self._share([f for f in self._source.faults if isinstance(f, DataGap) and f.of == "all"])
        good, bad = (self._chance.binomial(each, 1 - gap) for each in (good, bad))
        return good + bad, bad, *self._latencies(good + bad), gap < 1

    def _by_step(self, by_cell: Rates) -> Rates:
        """Means over the cells of each step."""
        means: Rates = by_cell.reshape(self._steps, CELLS).mean(axis=1)
        return means

    def _share(self, faults: Sequence[AnyFault]) -> Rates:
        """The share of each step in which one of the faults is in effect."""
        active = np.zeros_like(self._middles)
        for fault in faults:
            active = np.maximum(active, fault.active(self._middles))
        return self._by_step(active)

    def _first_tries(self) -> Counts:
        """Requests that are no retries, by the step in which they end."""
        process = self._source.spec.arrivals
        cell_s = self._step_s / CELLS
        expected = self._course.demand * cell_s * (self._middles < self._load.duration_s)
        arriving = self._source.chance(ARRIVALS)
        match process:
            case Poisson():
                return self._chance.poisson(np.diff(self._at_ends(expected)))
            case SelfSimilar():
                open_now = Sessions(process, arriving).factor(0.0, len(expected), cell_s)
                return self._chance.poisson(np.diff(self._at_ends(expected * open_now)))
            case _:
                counts = self._points(arrivals.stream(process, arriving), round(cell_s * MICROS))
                ended = np.floor(self._at_ends(counts)).astype(np.int64)
                return ended[1:] - ended[:-1]

    def _points(self, stream: Stream, cell_us: int) -> Rates:
        """How many arrivals of a process each cell has."""
        counts = np.zeros(len(self._middles))
        demand = self._course.demand * (self._middles < self._load.duration_s)
        for at in range(0, len(counts), _BLOCK_CELLS):
            rates = demand[at : at + _BLOCK_CELLS]
            points = stream.block(at * cell_us, rates, cell_us)
            counts[at : at + len(rates)] = np.bincount(points // cell_us - at, minlength=len(rates))
        return counts

    def _at_ends(self, by_cell: Rates) -> Rates:
        """How many of the requests that arrive in each cell have ended at the edges of the steps, shape (steps + 1,)."""
        edges = np.arange(len(by_cell) + 1) * (self._step_s / CELLS)
        total = np.concatenate([[0.0], np.cumsum(by_cell)])
        mean_ms, _ = self._source.quantiles.moments(self._course.load)
        latency_s = (mean_ms * self._course.stretch / 1000)[CELLS - 1 :: CELLS]
        ended = np.concatenate([[0.0], edges[CELLS::CELLS] - latency_s])
        arrived: Rates = np.interp(np.maximum.accumulate(ended), edges, total)
        return arrived

    def _requests(self, first: Counts) -> tuple[Counts, Counts]:
        """All requests and the failed ones of each step, retries included."""
        rate = self._course.rate
        failing = self._source.failing(self._course)
        weight = np.maximum(self._by_step(rate), 1e-12)
        share = np.clip(self._by_step(failing * rate) / weight, 0.0, 1.0)
        count, errors = np.zeros_like(first), np.zeros_like(first)
        storms = [fault for fault in self._source.faults if isinstance(fault, RetryStorm)]
        for number in range(1 + max((storm.retries for storm in storms), default=0)):
            failed = self._chance.binomial(first, share)
            count, errors = count + first, errors + failed
            first = sum((self._again(storm, failed, number) for storm in storms), np.zeros_like(first))
        return count, errors

    def _again(self, storm: RetryStorm, failed: Counts, number: int) -> Counts:
        """Of requests that have failed for the n-th time, those that are tried again, in the steps that these end in. In a
        silence no try arrives."""
        if number >= storm.retries:
            return np.zeros_like(failed)
        trying = self._chance.binomial(failed, self._share([storm]))
        ratio = max(storm.delay / self._step_s, 1e-9)
        crossing = ratio * -np.expm1(-1 / ratio)  # of exponential delays from anywhere in the step
        heard = self._by_step((self._course.demand > 0).astype(np.float64))
        return self._chance.binomial(_moved(trying, crossing, self._chance), heard)

    def _as_dated(self, values: Counts) -> Counts:
        """Counts by the step that the events' own times say: those of a wrong clock are in another one."""
        for fault in self._source.faults:
            if isinstance(fault, ClockSkew):
                skewed = self._chance.binomial(values, self._share([fault]))
                values = values - skewed + _moved(skewed, fault.size / self._step_s, self._chance)
        return values

    def _latencies(self, count: Counts) -> tuple[Rates, Rates, Rates]:
        """Latencies at ``LEVELS``, mean and maximum in ms; NaN where nothing ended."""
        load, stretch = self._by_step(self._course.load), self._by_step(self._course.stretch)
        quantiles, none = self._source.quantiles, count == 0
        ended = np.maximum(count, 1)
        ranks = np.column_stack([np.ceil(np.array(LEVELS) * ended[:, None]), ended])
        spacings = np.diff(ranks, axis=1, prepend=0.0, append=ended[:, None] + 1)
        drawn = np.cumsum(self._chance.standard_gamma(spacings), axis=1)
        shares = np.clip(drawn[:, :-1] / drawn[:, -1:], 1e-12, 1 - 1e-12)
        ms = quantiles.at(shares, load[:, None]) * stretch[:, None]
        mean, deviation = quantiles.moments(load)
        shape = ended * (mean / np.maximum(deviation, 1e-9 * mean)) ** 2
        means = self._chance.standard_gamma(shape) / shape * mean * stretch
        for step in self._unsteady(count):
            single = self._single_latencies(step, int(count[step]))
            ms[step], means[step] = single[ranks[step].astype(np.int64) - 1], single.mean()
        slots = histogram.slots(np.rint(ms[:, :-1] * 1000).astype(np.int64).ravel())
        told = histogram.MIDPOINT_US[slots].reshape(len(count), len(LEVELS)) / 1000
        told[none], means[none], ms[none, -1] = np.nan, np.nan, np.nan
        return told, means, ms[:, -1]

    def _unsteady(self, count: Counts) -> list[int]:
        """The steps within which the mean latency changes by more than ``_STEADY``."""
        typical = self._source.quantiles.moments(self._course.load)[0] * self._course.stretch
        by_cell = typical.reshape(self._steps, CELLS)
        changing = by_cell.max(axis=1) > (1 + _STEADY) * by_cell.min(axis=1)
        steps: list[int] = np.flatnonzero(changing & (count > 0)).tolist()
        return steps

    def _single_latencies(self, step: int, count: int) -> Rates:
        """The latencies of each request of a step in ms, ascending."""
        cells = slice(step * CELLS, (step + 1) * CELLS)
        rate = self._course.rate[cells] + 1e-12  # what ends in a silence came from anywhere
        cell = self._chance.choice(CELLS, count, p=rate / rate.sum())
        shares = np.clip(self._chance.random(count), 1e-12, 1 - 1e-12)
        ms = (
            self._source.quantiles.at(shares, self._course.load[cells][cell])
            * self._course.stretch[cells][cell]
        )
        return np.sort(ms)


def _moved(values: Counts, steps: float, chance: np.random.Generator) -> Counts:
    """The values that many steps later (earlier, if negative), each wholly, so that it is so on average. What leaves the
    load is gone."""
    whole = int(np.floor(steps))
    further = chance.binomial(values, steps - whole)
    return _shifted(values - further, whole) + _shifted(further, whole + 1)


def _shifted(values: Counts, steps: int) -> Counts:
    moved = np.zeros_like(values)
    if steps >= 0:
        moved[steps:] = values[: max(len(values) - steps, 0)]
    else:
        moved[:steps] = values[-steps:]
    return moved
