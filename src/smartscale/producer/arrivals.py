"""When requests arrive: seeded, open-loop point processes whose rate follows a load.

Open loop: arrivals do not wait for answers, so a slow service does not hide its own slowness by being asked less
(coordinated omission). Every process has the rate that it is given on average, and no arrival where that is 0; they
differ in how much arrivals crowd:

- **Poisson**: independent arrivals. Counts have a dispersion (variance / mean) of 1.
- **Constant**: evenly spaced; dispersion 0.
- **Hawkes**: each arrival provokes others, ``branching`` of them on average, after delays that are exponential with
  mean ``decay``. Exact, by clusters (Hawkes and Oakes 1974): spontaneous arrivals at (1 - branching) of the rate,
  each with its descendants, generation by generation. Over spans long beside ``decay / (1 - branching)`` the dispersion
  is 1 / (1 - branching)^2. A change of the rate shows with a delay of that length.
- **Self-similar**: Poisson whose rate follows the number of sessions that are open in an M/G/infinity queue with Pareto
  durations (Cox 1984; Paxson and Floyd 1995, section 7.1): asymptotically self-similar with Hurst parameter
  (3 - alpha) / 2 for durations of tail index alpha. Sessions start stationary.

A stream gives arrivals block by block; what a block holds depends on the seed and on the blocks before it, never on how
they are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Final, Protocol

import numpy as np
from msgspec import Meta

from smartscale.clock import MICROS
from smartscale.producer.parts import Part, Positive, Seconds, lasting
from smartscale.producer.rates import Micros, Rates

CELL_US: Final = MICROS // 10
"""Rates are constant over cells of 0.1 s, chosen because windows of seconds cannot tell arrivals within it apart."""


class Poisson(Part, frozen=True, tag_field="process", tag="poisson"):
    """Independent arrivals."""


class Constant(Part, frozen=True, tag_field="process", tag="constant"):
    """Evenly spaced arrivals."""


class Hawkes(Part, frozen=True, tag_field="process", tag="hawkes"):
    """Arrivals that provoke ``branching`` others each, ``decay`` later on average."""

    branching: Annotated[float, Meta(ge=0, le=0.95)] = 0.5
    decay: Seconds = lasting(1)


class SelfSimilar(Part, frozen=True, tag_field="process", tag="self_similar"):
    """Bursts on every time scale, by ``sessions`` open on average, the shortest of which last ``shortest``.

    The rate's relative deviation is 1 / sqrt(sessions)."""

    hurst: Annotated[float, Meta(gt=0.5, lt=1)] = 0.8
    sessions: Positive = 50.0
    shortest: Seconds = lasting(1)


Process = Poisson | Constant | Hawkes | SelfSimilar


class Stream(Protocol):
    """The arrivals of one process, block after block without a gap."""

    def block(self, start_us: int, rates: Rates, cell_us: int) -> Micros:
        """Sorted arrivals in the block that begins at ``start_us`` and has ``rates[i]`` (1/s) over its cell i."""
        ...


def stream(process: Process, chance: np.random.Generator) -> Stream:
    """The arrivals of a process, drawn from ``chance``."""
    match process:
        case Poisson():
            return _PoissonStream(chance)
        case Constant():
            return _ConstantStream(chance)
        case Hawkes():
            return _HawkesStream(process, chance)
        case SelfSimilar():
            return _SelfSimilarStream(process, chance)


class Taken:
    """Arrivals taken up to any instants, the same however these are chosen.

    ``rates_at(start_us, cells)`` gives the rates over the ``CELL_US`` cells from an instant on."""

    def __init__(
        self, source: Stream, rates_at: Callable[[int, int], Rates], start_us: int, end_us: int
    ) -> None:
        self._blocks = self._drawn(source, rates_at, start_us, end_us)
        self._drawn_us = start_us
        self._left = np.empty(0, dtype=np.int64)

    def until(self, end_us: int) -> Micros:
        """Sorted arrivals before ``end_us`` that have not been taken yet."""
        parts = [self._left]
        while self._drawn_us < end_us and (drawn := next(self._blocks, None)) is not None:
            self._drawn_us, points = drawn
            parts.append(points)
        points = np.concatenate(parts)
        cut = int(np.searchsorted(points, end_us))
        self._left = points[cut:]
        return points[:cut]

    @staticmethod
    def _drawn(
        source: Stream, rates_at: Callable[[int, int], Rates], start_us: int, end_us: int
    ) -> Iterator[tuple[int, Micros]]:
        for at_us in range(start_us, end_us, MICROS):
            points = source.block(at_us, rates_at(at_us, MICROS // CELL_US), CELL_US)
            yield at_us + MICROS, points[: np.searchsorted(points, end_us)]


class _PoissonStream:
    def __init__(self, chance: np.random.Generator) -> None:
        self._chance = chance

    def block(self, start_us: int, rates: Rates, cell_us: int) -> Micros:
        return _scattered(self._chance, start_us, rates, cell_us)


def _scattered(chance: np.random.Generator, start_us: int, rates: Rates, cell_us: int) -> Micros:
    """Poisson: counts of each cell, then places within it, uniform."""
    counts = chance.poisson(rates * (cell_us / MICROS))
    points = np.repeat(start_us + np.arange(len(rates)) * cell_us, counts)
    points += chance.integers(0, cell_us, len(points))
    points.sort()
    return points


class _ConstantStream:
    """An arrival whenever the integral of the rate passes a whole number; the seed says where it begins."""

    def __init__(self, chance: np.random.Generator) -> None:
        self._passed = float(chance.random())

    def block(self, start_us: int, rates: Rates, cell_us: int) -> Micros:
        passed = self._passed + np.concatenate([[0.0], np.cumsum(rates * (cell_us / MICROS))])
        whole = np.arange(math.floor(passed[0]) + 1, math.floor(passed[-1]) + 1)
        self._passed = float(passed[-1]) % 1.0
        cell = np.searchsorted(passed, whole, side="left") - 1
        within = (whole - passed[cell]) / (passed[cell + 1] - passed[cell])
        points = start_us + np.rint((cell + within) * cell_us).astype(np.int64)
        return np.minimum(points, start_us + len(rates) * cell_us - 1)


class _HawkesStream:
    def __init__(self, process: Hawkes, chance: np.random.Generator) -> None:
        self._process, self._chance = process, chance
        self._later: Micros | None = None
        """Descendants that fall into later blocks; None before the first block."""

    def block(self, start_us: int, rates: Rates, cell_us: int) -> Micros:
        end_us = start_us + len(rates) * cell_us
        if self._later is None:
            self._later = self._before(start_us, float(rates[0]))
        spontaneous = _scattered(self._chance, start_us, rates * (1 - self._process.branching), cell_us)
        points = np.concatenate([self._later, self._families(spontaneous)])
        points.sort()
        cut = np.searchsorted(points, end_us)
        self._later = points[cut:]
        here: Micros = points[:cut]
        heard: Micros = here[rates[(here - start_us) // cell_us] > 0]
        return heard

    def _before(self, start_us: int, rate: float) -> Micros:
        """Descendants, from ``start_us`` on, of a long past at the first rate: the process starts stationary. Of a family
        less than a millionth is left after 14 times the mean lifetime."""
        past_us = round(14 * self._process.decay / (1 - self._process.branching) * MICROS)
        spontaneous = _scattered(
            self._chance,
            start_us - past_us,
            np.array([rate * (1 - self._process.branching)]),
            max(past_us, 1),
        )
        points = self._families(spontaneous)
        return points[points >= start_us]

    def _families(self, parents: Micros) -> Micros:
        """The arrivals and all their descendants, not sorted."""
        family = [parents]
        while len(parents):
            parents = np.repeat(parents, self._chance.poisson(self._process.branching, len(parents)))
            delays = self._chance.standard_exponential(len(parents)) * (self._process.decay * MICROS)
            parents = parents + np.rint(delays).astype(np.int64)
            family.append(parents)
        return np.concatenate(family)


class _SelfSimilarStream:
    def __init__(self, process: SelfSimilar, chance: np.random.Generator) -> None:
        self._sessions = Sessions(process, chance)
        self._chance = chance

    def block(self, start_us: int, rates: Rates, cell_us: int) -> Micros:
        factor = self._sessions.factor(start_us / MICROS, len(rates), cell_us / MICROS)
        return _scattered(self._chance, start_us, rates * factor, cell_us)


class Sessions:
    """The open sessions of a self-similar process, relative to their mean."""

    def __init__(self, process: SelfSimilar, chance: np.random.Generator) -> None:
        self._process, self._chance = process, chance
        self._alpha = 3 - 2 * process.hurst
        self._mean_s = process.shortest * self._alpha / (self._alpha - 1)
        self._ends: Rates | None = None
        """When the open sessions end, sorted; None before the first span."""

    def factor(self, start_s: float, cells: int, cell_s: float) -> Rates:
        """How many are open in the middle of each cell, over the mean; spans follow each other without a gap."""
        end_s = start_s + cells * cell_s
        if self._ends is None:
            open_now = self._chance.poisson(self._process.sessions)
            self._ends = np.sort(start_s + self._residual(self._chance.random(open_now)))
        count = self._chance.poisson(self._process.sessions / self._mean_s * (end_s - start_s))
        begins = np.sort(start_s + self._chance.random(count) * (end_s - start_s))
        ends = begins + self._process.shortest * self._chance.random(count) ** (-1 / self._alpha)
        middles = start_s + (np.arange(cells) + 0.5) * cell_s
        ends = np.sort(np.concatenate([self._ends, ends]))
        opened = len(self._ends) + np.searchsorted(begins, middles, side="right")
        closed = np.searchsorted(ends, middles, side="right")
        self._ends = ends[np.searchsorted(ends, end_s, side="right") :]
        factor: Rates = (opened - closed) / self._process.sessions
        return factor

    def _residual(self, share: Rates) -> Rates:
        """How long a session that is open at a given instant still lasts: quantiles of the Pareto law's equilibrium
        distribution."""
        shortest, alpha = self._process.shortest, self._alpha
        area = share * self._mean_s  # under the survival function, which is 1 up to the shortest
        tail = np.maximum(1 - (area - shortest) * (alpha - 1) / shortest, 1e-300)
        return np.where(area <= shortest, area, shortest * tail ** (-1 / (alpha - 1)))
