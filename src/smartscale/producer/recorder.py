"""What a load generator measured: latencies in histograms that can be merged, and counts over time.

The histogram is that of HdrHistogram (G. Tene, hdrhistogram.org): linear within each power of two, so the relative
error is the same at every size. It is our own forty lines because the package ``hdrhistogram`` takes one value a call
(a fifth of a microsecond and more each), and we have arrays of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from smartscale.clock import MICROS

Whole = npt.NDArray[np.int64]

LEVELS: Final = {
    "p50": 0.5,
    "p75": 0.75,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p99.9": 0.999,
    "p99.99": 0.9999,
}
"""The percentiles that are reported, beside the mean and the exact maximum."""

LONGEST_US: Final = 2**37
"""Longer durations (38 hours) count as this one."""


class Latencies:
    """Counts of durations in whole microseconds, from 0 to ``LONGEST_US``.

    Values below ``2**bits`` are exact; a larger one is known to the upper end of its slot, which is too large by less
    than ``2**(1 - bits)`` of it: 0.1 % at the default of 11 bits (three significant digits, 28,673 slots). Count, sum,
    least and greatest are exact. Merging adds counts, so any order and any split give the same.

    >>> some = Latencies()
    >>> some.add(np.array([1_000, 2_000, 1_000_000]))
    >>> some.count, some.max_us, some.quantile_us(0.5)
    (3, 1000000, 2000)
    """

    __slots__ = ("bits", "counts", "max_us", "min_us", "sum_us")

    def __init__(self, bits: int = 11) -> None:
        self.bits = bits
        self.counts: Whole = np.zeros((LONGEST_US.bit_length() - bits + 1) << (bits - 1) | 1, dtype=np.int64)
        self.sum_us = 0
        self.min_us = LONGEST_US
        self.max_us = 0

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    @property
    def mean_us(self) -> float:
        """0 without values."""
        return self.sum_us / max(1, self.count)

    def add(self, durations_us: Whole) -> None:
        """Count these durations; negative ones count as 0."""
        if not len(durations_us):
            return
        values = np.clip(durations_us, 0, LONGEST_US)
        slots = _slots(values, self.bits)
        self.counts += np.bincount(slots, minlength=len(self.counts))
        self.sum_us += int(values.sum())
        self.min_us = min(self.min_us, int(values.min()))
        self.max_us = max(self.max_us, int(values.max()))

    def merge(self, other: Latencies) -> None:
        """Add what the other has. Raises ValueError if its slots are others."""
        if other.bits != self.bits:
            raise ValueError(f"histograms of {self.bits} and {other.bits} bits do not merge")
        self.counts += other.counts
        self.sum_us += other.sum_us
        self.min_us = min(self.min_us, other.min_us)
        self.max_us = max(self.max_us, other.max_us)

    def quantile_us(self, level: float) -> int:
        """The least value that at least ``level`` (0 to 1) of all values do not exceed; 0 without values."""
        return int(self.quantiles_us([level])[0])

    def quantiles_us(self, levels: Sequence[float]) -> Whole:
        """As ``quantile_us``, for many at once."""
        reached = np.cumsum(self.counts)
        total = int(reached[-1])
        if not total:
            return np.zeros(len(levels), dtype=np.int64)
        # Rounded first: 0.9999 of 10,000 values are 9,999, though the product is a hair above.
        wanted = np.maximum(np.ceil(np.round(np.asarray(levels) * total, 6)), 1)
        found = np.searchsorted(reached, wanted)
        return np.clip(_tops(found, self.bits), self.min_us, self.max_us)

    def sparse(self) -> Sparse:
        """As a value that travels between processes."""
        slots = np.flatnonzero(self.counts)
        return Sparse(
            self.bits, self.sum_us, self.min_us, self.max_us, slots.tolist(), self.counts[slots].tolist()
        )


class Sparse(msgspec.Struct, frozen=True, array_like=True):
    """The slots of a ``Latencies`` that are not empty."""

    bits: int
    sum_us: int
    min_us: int
    max_us: int
    slots: list[int]
    counts: list[int]

    def latencies(self) -> Latencies:
        """The histogram again."""
        whole = Latencies(self.bits)
        whole.counts[self.slots] = self.counts
        whole.sum_us, whole.min_us, whole.max_us = self.sum_us, self.min_us, self.max_us
        return whole


def _slots(values: Whole, bits: int) -> Whole:
    """The slot of each value: below ``2**bits`` its own, then ``2**(bits - 1)`` for each power of two."""
    shift = np.maximum(np.frexp(values.astype(np.float64))[1] - bits, 0)
    slots: Whole = (shift << (bits - 1)) + (values >> shift)
    return slots


def _tops(slots: Whole, bits: int) -> Whole:
    """The greatest value of each slot."""
    half = 1 << (bits - 1)
    shift = np.maximum(slots // half - 1, 0)
    tops: Whole = ((slots - shift * half + 1) << shift) - 1
    return tops


COUNTS: Final = ("planned", "sent", "accepted", "duplicate", "refused", "unanswered", "trouble")
"""What is counted over time. All are events, but ``trouble``: attempts that were answered by 429 or 5xx, or not at all."""

_SLICES: Final = 600
"""At most so many slices: a few for each pixel of a plot, and a bound on memory however long the run."""
_SLICE_BITS: Final = 6
"""A slice's latencies are known to 3 %: enough for a plot."""


class Timeline:
    """Counts and latencies over the time of a run, in slices of ``step_s`` (real seconds, a power of two times the first).

    When a run outgrows its slices, neighbours are merged and the step doubles. Requests are placed by their planned
    time, so a stall shows where it was, not where it ended."""

    def __init__(self, step_s: float = 1.0) -> None:
        self.step_s = step_s
        self.counts: dict[str, Whole] = {name: np.zeros(0, dtype=np.int64) for name in COUNTS}
        self.latencies: list[Latencies] = []

    def __len__(self) -> int:
        return len(self.latencies)

    def add(self, name: str, at_s: npt.NDArray[np.float64], events: Whole) -> None:
        """Count events at seconds since the start (negative: at 0)."""
        if len(at_s):
            places = self._places(at_s)
            self.counts[name] += np.bincount(places, events, len(self)).astype(np.int64)

    def add_latencies(self, planned_s: npt.NDArray[np.float64], durations_us: Whole) -> None:
        """Count requests' latencies at their planned times."""
        if not len(planned_s):
            return
        places = self._places(planned_s)
        for place in np.unique(places).tolist():
            self.latencies[place].add(durations_us[places == place])

    def merge(self, other: Timeline) -> None:
        """Add what the other has; the step becomes the wider of the two."""
        while self.step_s < other.step_s:
            self._widen()
        while other.step_s < self.step_s:
            other._widen()
        self._reach(len(other))
        for name, counts in other.counts.items():
            self.counts[name][: len(counts)] += counts
        for mine, theirs in zip(self.latencies, other.latencies, strict=False):
            mine.merge(theirs)

    def _places(self, at_s: npt.NDArray[np.float64]) -> Whole:
        last_s = float(at_s.max())
        while last_s >= _SLICES * self.step_s:
            self._widen()
        places = np.maximum(at_s / self.step_s, 0).astype(np.int64)
        self._reach(int(places.max()) + 1)
        return places

    def _reach(self, length: int) -> None:
        more = length - len(self)
        if more > 0:
            self.counts = {name: np.pad(counts, (0, more)) for name, counts in self.counts.items()}
            self.latencies += [Latencies(_SLICE_BITS) for _ in range(more)]

    def _widen(self) -> None:
        self._reach(len(self) + len(self) % 2)
        self.counts = {name: counts.reshape(-1, 2).sum(axis=1) for name, counts in self.counts.items()}
        for first, second in zip(self.latencies[::2], self.latencies[1::2], strict=True):
            first.merge(second)
        self.latencies = self.latencies[::2]
        self.step_s *= 2

    def wire(self) -> TimelineWire:
        """As a value that travels between processes."""
        counts = {name: values.tolist() for name, values in self.counts.items()}
        return TimelineWire(self.step_s, counts, [slice_.sparse() for slice_ in self.latencies])


class TimelineWire(msgspec.Struct, frozen=True):
    """A ``Timeline`` as it travels."""

    step_s: float
    counts: Mapping[str, list[int]]
    latencies: list[Sparse]

    def timeline(self) -> Timeline:
        """The timeline again."""
        whole = Timeline(self.step_s)
        whole.counts = {name: np.array(self.counts[name], dtype=np.int64) for name in COUNTS}
        whole.latencies = [sparse.latencies() for sparse in self.latencies]
        return whole


def micros(seconds: npt.NDArray[np.float64]) -> Whole:
    """Whole microseconds."""
    return np.rint(seconds * MICROS).astype(np.int64)


_FLUSH: Final = 4096
"""Observations gathered before they are counted: a third of a millisecond of work at a time, so that nothing is late."""


class Recorder:
    """What one process of a load generator sees, counted. All instants are monotonic seconds.

    ``latency``: from when a request was planned to be sent to its final answer; one that was given up counts with the time
    until then, for its latency was at least that. ``service``: from the last attempt's first byte to its answer.
    ``delay``: from planned to first sent; ``lag``, the part of it before the generator noticed that the request was due.
    ``loop``: how much later than asked the event loop woke up."""

    def __init__(self, start_s: float) -> None:
        self.start_s = start_s
        self.latency, self.service = Latencies(), Latencies()
        self.delay, self.lag, self.loop = Latencies(), Latencies(), Latencies()
        self.timeline = Timeline()
        self._given = array("d")
        self._settled = array("d")
        self._trouble = array("d")
        self._woke = array("d")

    def given(self, due_s: float, lag_s: float, events: int) -> None:
        """A request was due, and the generator noticed ``lag_s`` later."""
        self._given.extend((due_s, lag_s, events))
        if len(self._given) >= 3 * _FLUSH:
            self._flush_given()

    def settled(
        self, due_s: float, first_s: float, last_s: float, now_s: float, fates: tuple[int, int, int, int]
    ) -> None:
        """A request has its end: accepted, duplicate, refused and unanswered events. ``first_s``: 0 if never sent."""
        self._settled.extend((due_s, first_s, last_s, now_s, *fates))
        if len(self._settled) >= 8 * _FLUSH:
            self._flush_settled()

    def troubled(self, now_s: float) -> None:
        """An attempt failed."""
        self._trouble.append(now_s)

    def woke(self, late_s: float) -> None:
        """The event loop woke up this much later than asked."""
        self._woke.append(late_s)
        if len(self._woke) >= _FLUSH:
            self._flush_woke()

    def flush(self) -> None:
        """Count all that was seen so far."""
        self._flush_given()
        self._flush_settled()
        self._flush_woke()
        troubles = np.array(self._trouble)
        self._trouble = array("d")
        self.timeline.add("trouble", troubles - self.start_s, np.ones(len(troubles), dtype=np.int64))

    def _flush_given(self) -> None:
        due_s, lag_s, events = np.array(self._given).reshape(-1, 3).T
        self._given = array("d")
        self.lag.add(micros(lag_s))
        self.timeline.add("planned", due_s - self.start_s, events.astype(np.int64))

    def _flush_settled(self) -> None:
        rows = np.array(self._settled).reshape(-1, 8)
        self._settled = array("d")
        due_s, first_s, last_s, now_s = rows[:, :4].T
        fates = rows[:, 4:].astype(np.int64)
        latency_us = micros(now_s - due_s)
        self.latency.add(latency_us)
        self.timeline.add_latencies(due_s - self.start_s, latency_us)
        answered, sent = fates[:, 3] == 0, first_s > 0
        self.service.add(micros((now_s - last_s)[answered]))
        self.delay.add(micros((first_s - due_s)[sent]))
        self.timeline.add("sent", first_s[sent] - self.start_s, fates[sent].sum(axis=1))
        for name, events in zip(("accepted", "duplicate", "refused", "unanswered"), fates.T, strict=True):
            self.timeline.add(name, now_s - self.start_s, events)

    def _flush_woke(self) -> None:
        self.loop.add(micros(np.array(self._woke)))
        self._woke = array("d")
