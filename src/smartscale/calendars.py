"""Calendars: days of a time zone, holidays of a country, and the windows in which people want to hear nothing.

Local times follow the clock on the wall. Where that clock is put forward or back, a window is taken in its **widest
reading**: it begins at the first instant and ends at the last one that its times may mean. So a window of 02:15 to 02:45
covers both passes of that quarter on the day the clock goes back, and the hour around the gap on the day it goes forward;
nothing is told while a job that the window is for may be running.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from smartscale.clock import MICROS
from smartscale.errors import UserError
from smartscale.records.forecasts import CLASSES, KINDS, Incident
from smartscale.records.people import Mute

if TYPE_CHECKING:
    from holidays import HolidayBase

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAYS: Final = (*WEEKDAYS, "weekdays", "weekends", "holidays", "workdays")
FOREVER: Final = 1 << 62
"""End, in microseconds, of what has none."""
_AT: Final = re.compile(r"([01]\d|2[0-4]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")
_DAY_MINUTES: Final = 1440


@lru_cache
def zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name. Raises ``UserError``.

    >>> zone("Europe/Berlin").key
    'Europe/Berlin'
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UserError(
            f"no time zone {name!r}: give an IANA name such as Europe/Berlin, America/New_York or UTC"
        ) from None


@lru_cache
def holidays_of(country: str) -> HolidayBase:
    """Public holidays of a country (``DE``) or a part of it (``DE-BY``), from the library ``holidays``. Raises
    ``UserError``."""
    import holidays  # a third of a second: only where a calendar asks for it

    code, _, region = country.partition("-")
    try:
        return holidays.country_holidays(code, subdiv=region or None)
    except (NotImplementedError, ValueError, KeyError):
        raise UserError(
            f"no holidays are known of {country!r}: give an ISO 3166 code such as DE, US or GB, with a region DE-BY or US-CA"
        ) from None


def local_day(at_us: int, name: str) -> date:
    """The date on the calendar of a zone at an instant.

    >>> local_day(0, "America/New_York").isoformat()
    '1969-12-31'
    """
    return datetime.fromtimestamp(at_us / MICROS, UTC).astimezone(zone(name)).date()


class Span(NamedTuple):
    """``[start_us, end_us)``."""

    start_us: int
    end_us: int


def muted_until(mute: Mute, at_us: int) -> int | None:
    """The end of the mute's window that holds this instant, ``FOREVER`` without one; None outside of it.

    ``mute`` must have no ``problem``."""
    bounds = _bounds(mute)
    if not bounds.start_us <= at_us < bounds.end_us:
        return None
    if not (mute.days or mute.at):
        return bounds.end_us
    found = [span.end_us for span in _windows(mute, at_us) if span.start_us <= at_us < span.end_us]
    return min(max(found), bounds.end_us) if found else None


def is_over(mute: Mute, at_us: int) -> bool:
    """Whether it ended for good before this instant."""
    return _bounds(mute).end_us <= at_us


def means(mute: Mute, incident: Incident) -> bool:
    """Whether the mute is about such an incident, whenever."""
    return (
        fnmatchcase(incident.service, mute.services)
        and fnmatchcase(incident.tenant, mute.tenants)
        and (not mute.classes or incident.class_ in mute.classes)
        and (not mute.kinds or set(incident.kinds) <= set(mute.kinds))
    )


def problem(mute: Mute) -> str | None:
    """What is wrong with a mute, and the remedy; None if nothing is.

    >>> problem(Mute(name="backup", days=("mo",)))
    "days: no day 'mo'; use mon, tue, wed, thu, fri, sat, sun, weekdays, weekends, holidays or workdays"
    """
    unknown = next((day for day in mute.days if day not in DAYS), None)
    wrong_class = next((name for name in mute.classes if name not in CLASSES), None)
    wrong_kind = next((name for name in mute.kinds if name not in KINDS), None)
    needs_country = {"holidays", "workdays"} & set(mute.days)
    rules = [
        (not mute.name, "name: give it one, to tell it by and to lift it with"),
        (unknown is not None, f"days: no day {unknown!r}; use {', '.join(DAYS[:-1])} or {DAYS[-1]}"),
        (wrong_class is not None, f"classes: no class {wrong_class!r}; use {', '.join(CLASSES)}"),
        (wrong_kind is not None, f"kinds: no kind of evidence {wrong_kind!r}; use {', '.join(KINDS)}"),
        (
            bool(mute.at) and (not _AT.fullmatch(mute.at) or max(_minutes(mute.at)) > _DAY_MINUTES),
            f"at: {mute.at!r} is no span of a day; give HH:MM-HH:MM such as 22:00-06:00",
        ),
        (
            bool(needs_country) and not mute.country,
            f"country: days = {', '.join(sorted(needs_country))} needs one, such as DE or US-CA",
        ),
        (
            not (mute.days or mute.at or mute.to),
            "to: give its end (an ISO 8601 time), or days or at for a window that recurs",
        ),
    ]
    wrong = next((text for is_wrong, text in rules if is_wrong), None)
    if wrong is not None:
        return wrong
    try:
        zone(mute.zone or "UTC")
        bounds = _bounds(mute)
        if mute.country:
            holidays_of(mute.country)
    except UserError as error:
        return str(error)
    return None if bounds.start_us < bounds.end_us else "to: must be later than from"


@lru_cache(maxsize=1000)
def _bounds(mute: Mute) -> Span:
    return Span(
        _instant("from", mute.from_, mute.zone) if mute.from_ else 0,
        _instant("to", mute.to, mute.zone) if mute.to else FOREVER,
    )


def _instant(field: str, text: str, name: str) -> int:
    tz = zone(name or "UTC")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"{field}: {text!r} is no ISO 8601 time such as 2026-12-24T18:00") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=tz)
    return round(moment.timestamp() * MICROS)


def _windows(mute: Mute, at_us: int) -> Iterator[Span]:
    """The windows of the days around an instant."""
    tz = zone(mute.zone or "UTC")
    first, last = _minutes(mute.at or "00:00-24:00")
    if last <= first:
        last += _DAY_MINUTES
    today = local_day(at_us, mute.zone or "UTC")
    # Yesterday's may last past midnight, and a widest reading may begin before it.
    for day in (today - timedelta(1), today, today + timedelta(1)):
        if not mute.days or any(_is(day, word, mute.country) for word in mute.days):
            yield Span(min(_instants(day, first, tz)), max(_instants(day, last, tz)))


def _minutes(at: str) -> tuple[int, int]:
    """Begin and end in minutes of the day.

    >>> _minutes("22:00-06:30")
    (1320, 390)
    """
    a, b, c, d = (int(text) for text in re.split("[:-]", at))
    return 60 * a + b, 60 * c + d


def _instants(day: date, minutes: int, tz: ZoneInfo) -> list[int]:
    """The instants that a local time may mean: two where the clock is put back or forward, else twice the same."""
    local = datetime.combine(day, time()) + timedelta(minutes=minutes)
    return [int(local.replace(tzinfo=tz, fold=fold).timestamp()) * MICROS for fold in (0, 1)]


def _is(day: date, word: str, country: str) -> bool:
    match word:
        case "weekdays":
            return day.weekday() < 5
        case "weekends":
            return day.weekday() >= 5
        case "holidays":
            return day in holidays_of(country)
        case "workdays":
            return day.weekday() < 5 and day not in holidays_of(country)
        case _:
            return day.weekday() == WEEKDAYS.index(word)
