"""A series' past in local time: the season of a day follows the clock on the wall, and holidays are like each other.

Methods look back whole periods: a day, a week, in steps. Where people live by a clock that is put forward and back, the
like of 08:00 is then an hour off, and where today is a holiday, yesterday and the same day of last week are no guide. So
the past itself is moved, a few times a year, and no method needs to know::

    the clock is put forward by d steps    ─▶  everything before moves back by d: 08:00 lies whole days before 08:00 again
    the clock is put back                  ─▶  the same with d below zero
    a holiday begins                       ─▶  the days that methods look back to (``LOOKED_AT``) change places with the
                                               last Sundays and holidays, until the day is over
    a day after a holiday begins           ─▶  where they would find the holiday, they find an ordinary day

The last hour stays where it is, so that the most recent steps are what was just seen. Everything follows from the step
and the settings, so a replay does the same; a past that does not hold the days asked for is left as it is.

Steps are numbered by their end, in steps since the epoch, as everywhere in ml. A moved past has **labels** for numbers:
each local day before has as many as a day has steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from smartscale import calendars
from smartscale.clock import MICROS
from smartscale.config import CalendarRule
from smartscale.ml.series.history import GAP, Codes

HOUR_S: Final = 3600
DAY_S: Final = 86_400
_QUARTER_US: Final = 900 * MICROS
LOOKED_AT: Final = (1, 7, 2, 3, 4)
"""Days back that methods look at, those that matter most first."""


class Swap(NamedTuple):
    """Steps ``[first, first + length)`` and as many from ``second`` change places."""

    first: int
    second: int
    length: int


class LocalTime:
    """The calendars of the settings for series of steps of ``step_us``, remembered for ``width`` steps."""

    def __init__(self, rules: Sequence[CalendarRule], step_us: int, width: int) -> None:
        self._rules = tuple(rules)
        self._step_us = step_us
        self._hour = HOUR_S * MICROS // step_us
        self._day = DAY_S * MICROS // step_us
        self._days_held = (width - self._hour) // max(self._day, 1) - 1
        self._of: dict[str, int | None] = {}

    def __bool__(self) -> bool:
        return bool(self._rules)

    def rule_of(self, service: str) -> int | None:
        """The first rule that fits a service, None if there is none."""
        if service not in self._of:
            fits = (i for i, rule in enumerate(self._rules) if fnmatchcase(service, rule.services))
            self._of[service] = next(fits, None)
        return self._of[service]

    def begin(self, step: int) -> Iterator[tuple[int, int, list[Swap]]]:
        """What has to be done to the past of a rule's series before step ``step``: the rule, the steps by which its clock
        was put forward, and what changes places."""
        quarter, before = ((at - 1) * self._step_us // _QUARTER_US for at in (step, step - 1))
        if quarter == before:
            return  # days begin and clocks change at quarters of an hour of UTC alone
        for number in range(len(self._rules)):
            moved = self._offset(number, step) - self._offset(number, step - 1)
            swaps = self._swaps(number, step)
            if moved or swaps:
                yield number, moved, swaps

    def moved(
        self, rule: int, steps: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """The values of ``steps``, one after the other, as a past holds them that was moved until the last of them; NaN
        where it has none. Of an hour that was there twice the second counts."""
        first, last = int(steps[0]), int(steps[-1])
        offsets = np.array([self._offset(rule, step) for step in steps.tolist()], np.int64)
        labels = steps + offsets - offsets[-1]
        held = (labels >= first) & (labels <= last)
        found = np.full(len(steps), np.nan)
        found[labels[held] - first] = values[held]
        begun = self._start(rule, last)
        since = begun.hour * HOUR_S + begun.minute * 60 + begun.second
        midnight = last - since * MICROS // self._step_us
        for one in self._of_day(rule, begun.date(), midnight) if self._rules[rule].country else ():
            if min(one.first, one.second) >= first:
                a, b = (slice(at - first, at - first + one.length) for at in (one.first, one.second))
                found[a], found[b] = found[b].copy(), found[a].copy()
        return found

    def _start(self, rule: int, step: int) -> datetime:
        """Local time at the beginning of a step."""
        start_s = (step - 1) * self._step_us / MICROS
        return datetime.fromtimestamp(start_s, UTC).astimezone(calendars.zone(self._rules[rule].zone))

    def _offset(self, rule: int, step: int) -> int:
        """What the local clock is ahead of UTC, in steps."""
        ahead = self._start(rule, step).utcoffset() or timedelta()
        return round(ahead.total_seconds() * MICROS / self._step_us)

    def _swaps(self, rule: int, step: int) -> list[Swap]:
        """If a local day begins with this step: yesterday's swaps undone, then those of the day."""
        if not self._rules[rule].country:
            return []
        today = self._start(rule, step).date()
        if today == self._start(rule, step - 1).date():
            return []
        yesterday = [*self._of_day(rule, today - timedelta(1), step - self._day)]
        return [*yesterday[::-1], *self._of_day(rule, today, step)]

    def _of_day(self, rule: int, day: date, step: int) -> Iterator[Swap]:
        for back, instead in exchanges(day, self._rules[rule].country, self._days_held):
            yield Swap(step - back * self._day, step - instead * self._day, self._day - self._hour)


def exchanges(day: date, country: str, days_held: int) -> list[tuple[int, int]]:
    """Which days back change places on a day, in order: on a holiday with the last Sundays and holidays, after a holiday
    with the same weekday of an earlier week.

    >>> exchanges(date(2026, 12, 25), "DE", 28)  # a Friday: the last Sundays were 5, 12, 19 and 26 days before
    [(1, 5), (7, 12), (2, 19), (3, 26)]
    >>> exchanges(date(2027, 1, 2), "DE", 28)  # the day after New Year, a week after Boxing Day
    [(1, 15), (7, 14)]
    >>> exchanges(date(2026, 12, 24), "DE", 28), exchanges(date(2026, 12, 27), "DE", 28)
    ([], [])
    """
    free = calendars.holidays_of(country)

    def is_feast(back: int) -> bool:
        """A holiday that is no Sunday: what makes a day unlike the usual one."""
        return (there := day - timedelta(back)) in free and there.weekday() != 6

    def rests(back: int) -> bool:
        return is_feast(back) or (day - timedelta(back)).weekday() == 6

    found: list[tuple[int, int]] = []
    if rests(0) and not is_feast(0):
        return found
    taken: set[int] = set()
    for back in LOOKED_AT:
        if is_feast(0):
            like = [] if rests(back) else [d for d in range(1, days_held + 1) if rests(d)]
        else:
            like = [d for d in range(back + 7, days_held + 1, 7) if is_feast(back) and not rests(d)]
        instead = next((d for d in like if d not in taken), None)
        if instead is not None:
            found.append((back, instead))
            taken |= {back, instead}
        elif rests(back) == is_feast(0):
            taken.add(back)
    return found


def shift(past: Codes, rows: npt.NDArray[np.int64], newest: int, step: int, moved: int) -> None:
    """Before ``step`` the clock was put forward by ``moved`` steps: the past of ``rows`` follows, in place. ``newest`` is
    the last step that the ring holds."""
    width = past.shape[1]
    oldest, last = newest - width + 1, step - 1 - abs(moved)
    there = np.arange(max(oldest, oldest - moved), last + 1)
    past[np.ix_(rows, there % width)] = past[np.ix_(rows, (there + moved) % width)]
    past[np.ix_(rows, np.arange(oldest, oldest + max(0, -moved)) % width)] = GAP


def swap(past: Codes, rows: npt.NDArray[np.int64], newest: int, one: Swap) -> None:
    """Let two days change places in the past of ``rows``, in place, if the ring holds both."""
    width = past.shape[1]
    if min(one.first, one.second) <= newest - width:
        return
    a = np.ix_(rows, np.arange(one.first, one.first + one.length) % width)
    b = np.ix_(rows, np.arange(one.second, one.second + one.length) % width)
    past[a], past[b] = past[b], past[a].copy()
