"""Mute windows on the calendar: days, holidays, nights, and the two changes of the clock."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale import calendars, config
from smartscale.clock import MICROS, iso, parse_iso_us
from smartscale.errors import ConfigError, UserError
from smartscale.records.people import Mute

BERLIN = "Europe/Berlin"
"""Its clock went back at 2026-10-25T03:00+02:00 and goes forward at 2027-03-28T02:00+01:00."""


def mute(**fields: object) -> Mute:
    made = Mute(name="m", zone=BERLIN, **fields)  # type: ignore[arg-type]
    assert calendars.problem(made) is None
    return made


def until(muted: Mute, at: str) -> str | None:
    end_us = calendars.muted_until(muted, parse_iso_us(at))
    return None if end_us is None else "for ever" if end_us == calendars.FOREVER else iso(end_us)


NIGHT = mute(days=("fri",), at="22:00-06:00")
XMAS = mute(days=("holidays",), country="DE")
WORK = mute(days=("workdays",), at="09:00-17:00", country="DE")
ONCE = mute(from_="2026-12-01T02:00", to="2026-12-01T04:00")
BOUNDED = mute(days=("mon",), at="10:00-12:00", from_="2026-12-01T00:00", to="2026-12-14T11:00")


@pytest.mark.parametrize(
    ("muted", "at", "end"),
    [
        (ONCE, "2026-12-01T00:59:59Z", None),
        (ONCE, "2026-12-01T01:00:00Z", "2026-12-01T03:00:00Z"),
        (ONCE, "2026-12-01T03:00:00Z", None),  # half-open
        (NIGHT, "2026-12-04T20:59:00Z", None),
        (NIGHT, "2026-12-04T21:00:00Z", "2026-12-05T05:00:00Z"),
        (NIGHT, "2026-12-05T04:59:00Z", "2026-12-05T05:00:00Z"),  # Saturday, of Friday's window
        (NIGHT, "2026-12-05T21:00:00Z", None),  # Saturday's evening is not
        (XMAS, "2026-12-24T22:59:00Z", None),
        (XMAS, "2026-12-24T23:00:00Z", "2026-12-25T23:00:00Z"),  # local midnight
        (XMAS, "2026-12-26T12:00:00Z", "2026-12-26T23:00:00Z"),
        (WORK, "2026-12-23T12:00:00Z", "2026-12-23T16:00:00Z"),
        (WORK, "2026-12-25T12:00:00Z", None),  # a Friday, but Christmas
        (mute(days=("weekends",)), "2026-12-06T22:59:00Z", "2026-12-06T23:00:00Z"),
        (mute(at="00:00-24:00"), "2026-12-06T22:59:00Z", "2026-12-06T23:00:00Z"),
        (BOUNDED, "2026-11-30T09:30:00Z", None),  # a Monday before it begins
        (BOUNDED, "2026-12-07T09:30:00Z", "2026-12-07T11:00:00Z"),
        (BOUNDED, "2026-12-14T09:30:00Z", "2026-12-14T10:00:00Z"),  # ends with the whole
        (mute(to="2027-01-01T00:00"), "2026-12-31T00:00:00Z", "2026-12-31T23:00:00Z"),
    ],
)
def test_a_window_follows_the_clock_on_the_wall(muted: Mute, at: str, end: str | None) -> None:
    """The table is the specification; times of the windows are local, instants are UTC."""
    assert until(muted, at) == end


@pytest.mark.parametrize(
    ("muted", "first", "end"),
    [
        # In winter the clock goes back: the window from 02:15 to 02:45 covers both of them.
        (mute(at="02:15-02:45"), "2026-10-25T00:15:00Z", "2026-10-25T01:45:00Z"),
        (mute(at="01:30-03:30"), "2026-10-24T23:30:00Z", "2026-10-25T02:30:00Z"),  # three hours long
        (mute(at="04:00-05:00"), "2026-10-25T03:00:00Z", "2026-10-25T04:00:00Z"),
        # In spring it goes forward, and 02:15 to 02:45 is on no clock: the widest reading.
        (mute(at="02:15-02:45"), "2027-03-28T00:15:00Z", "2027-03-28T01:45:00Z"),
        (mute(at="01:30-03:30"), "2027-03-28T00:30:00Z", "2027-03-28T01:30:00Z"),  # one hour long
        (mute(at="04:00-05:00"), "2027-03-28T02:00:00Z", "2027-03-28T03:00:00Z"),
    ],
)
def test_when_the_clock_is_changed_the_widest_reading_counts(muted: Mute, first: str, end: str) -> None:
    """Muted from the first instant its times may mean to the last one, without a hole."""
    first_us, end_us = parse_iso_us(first), parse_iso_us(end)
    assert calendars.muted_until(muted, first_us - 1) is None
    for at_us in range(first_us, end_us, 60_000_000):
        assert calendars.muted_until(muted, at_us) == end_us
    assert calendars.muted_until(muted, end_us) is None


@given(
    at_s=st.integers(1_767_225_600, 1_830_297_600),  # 2026 and 2027
    zone=st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    begin=st.integers(0, 1439),
    length=st.integers(1, 1440),
)
def test_whenever_the_clock_shows_a_time_of_the_window_it_is_muted(
    at_s: int, zone: str, begin: int, length: int
) -> None:
    """Whatever the zone and the day; beyond its times it is muted only around a change of the clock."""
    end = (begin + length - 1) % 1440 + 1
    muted = Mute(name="m", zone=zone, at=f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}")
    assert calendars.problem(muted) is None
    local = datetime.fromtimestamp(at_s, ZoneInfo(zone))
    minute = 60 * local.hour + local.minute
    shown = begin <= minute < end if begin < end else minute >= begin or minute < end
    found = calendars.muted_until(muted, at_s * MICROS)
    assert found is None or found > at_s * MICROS
    near = [datetime.fromtimestamp(at_s + days * 86_400, ZoneInfo(zone)).utcoffset() for days in (-1, 0, 1)]
    if len(set(near)) == 1:
        assert (found is not None) == shown
    else:
        assert found is not None or not shown


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('days = ["mo"]', "ml.muted[0] 'x': days: no day 'mo'; use mon, tue"),
        ('at = "6-8"', "ml.muted[0] 'x': at: '6-8' is no span of a day; give HH:MM-HH:MM"),
        ('at = "24:30-25:00"', "at: '24:30-25:00' is no span"),
        ('days = ["holidays"]', "country: days = holidays needs one"),
        ('days = ["holidays"]\ncountry = "ZZ"', "no holidays are known of 'ZZ'"),
        ('from = "2026-12-01"', "to: give its end"),
        ('from = "2026-12-02"\nto = "2026-12-01"', "to: must be later than from"),
        ('to = "soon"', "to: 'soon' is no ISO 8601 time"),
        ('at = "06:00-08:00"\nzone = "Mars/Base"', "no time zone 'Mars/Base': give an IANA name"),
        ('at = "06:00-08:00"\nclasses = ["flood"]', "classes: no class 'flood'; use demand-surge"),
        (
            'at = "06:00-08:00"\nkinds = ["latencies"]',
            "kinds: no kind of evidence 'latencies'; use surge, drop",
        ),
        ('service = "web"', "unknown field `service`"),
    ],
)
def test_settings_that_make_no_sense_are_told_with_key_and_remedy(
    toml: str, message: str, tmp_path: Path
) -> None:
    """Before anything starts."""
    file = tmp_path / "s.toml"
    file.write_text(f'[[ml.muted]]\nname = "x"\n{toml}\n')
    with pytest.raises(ConfigError) as caught:
        config.load(file, environment={})
    assert message in str(caught.value)


def test_mutes_take_the_zone_and_the_country_of_ml(tmp_path: Path) -> None:
    """Unless they name their own; two of one name are refused."""
    file = tmp_path / "s.toml"
    one = '[[ml.muted]]\nname = "a"\ndays = ["holidays"]\n'
    file.write_text(f'[ml]\nzone = "Europe/Berlin"\ncountry = "DE-BY"\n{one}')
    assert config.load(file, environment={}).ml.mutes() == (
        Mute(name="a", days=("holidays",), zone="Europe/Berlin", country="DE-BY"),
    )
    file.write_text(f'[ml]\ncountry = "DE"\n{one}{one}')
    with pytest.raises(ConfigError, match="two are called 'a'"):
        config.load(file, environment={})


def test_a_zone_that_is_none_is_told() -> None:
    """With the remedy."""
    with pytest.raises(UserError, match="no time zone 'Berlin': give an IANA name"):
        calendars.zone("Berlin")
