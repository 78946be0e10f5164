"""A past that follows the clock on the wall: what lies where after a change, and what it is good for in a forecast."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale import config
from smartscale.clock import MICROS
from smartscale.config import CalendarRule
from smartscale.errors import ConfigError
from smartscale.ml import snapshot
from smartscale.ml.anomaly.feedback import Plan
from smartscale.ml.partition import Models
from smartscale.ml.series import local_time
from smartscale.ml.series.local_time import LocalTime, Swap
from smartscale.ml.series.rows import Row
from smartscale.records.metrics import Progress

STEP_S = 1800
STEP_US = STEP_S * MICROS
DAY = 48
HOUR = 2
BERLIN = "Europe/Berlin"
Numbers = npt.NDArray[np.int64]


def step_at(text: str) -> int:
    """The step that begins at an instant."""
    return int(datetime.fromisoformat(text).timestamp()) // STEP_S + 1


def local(step: int, zone: str) -> datetime:
    """Local time at the beginning of a step."""
    return datetime.fromtimestamp((step - 1) * STEP_S, UTC).astimezone(ZoneInfo(zone))


SPRING, AUTUMN = step_at("2027-03-28T01:00:00Z"), step_at("2026-10-25T01:00:00Z")


def lived(rule: CalendarRule, first: int, last: int, width: int) -> npt.NDArray[np.uint16]:
    """A ring whose entries are the numbers of steps, from ``first`` = 1 on, moved as its calendar says; 0 is unknown."""
    plan, ring = LocalTime([rule], STEP_US, width), np.zeros((1, width), np.uint16)
    for step in range(first, last + 1):
        for _, moved, swaps in plan.begin(step):
            if moved:
                local_time.shift(ring, np.array([0]), step - 1, step, moved)
            for one in swaps:
                local_time.swap(ring, np.array([0]), step - 1, one)
        ring[:, step % width] = step - first + 1
    return ring


@pytest.mark.parametrize("change", [SPRING, AUTUMN], ids=["forward", "back"])
@pytest.mark.parametrize("later", [0, 1, 30, 3 * DAY])
def test_after_a_change_of_the_clock_whole_days_lie_between_equal_times(change: int, later: int) -> None:
    """What a label holds was seen at the label's time of the day; but for the hour around the change, which is as seen."""
    width, first, last = 9 * DAY, change - 6 * DAY, change + later
    ring = lived(CalendarRule(services="*", zone=BERLIN), first, last, width)
    found = 0
    for label in range(last - width + 1, last + 1):
        seen = int(ring[0, label % width])
        if seen == 0 or change - HOUR <= label < change:
            continue
        then = local(first + seen - 1, BERLIN)
        ahead = (last - label) % DAY
        wanted = local(last, BERLIN).hour * 60 + local(last, BERLIN).minute - 30 * ahead
        assert then.hour * 60 + then.minute == wanted % 1440
        found += 1
    assert found >= 6 * DAY + later - 2 * HOUR
    assert [ring[0, label % width] for label in range(change - HOUR, change)] == [
        6 * DAY - 1,
        6 * DAY,
    ]


@settings(max_examples=25)
@given(
    st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "UTC"]),
    st.integers(step_at("2026-09-01T00:00:00Z"), step_at("2027-04-20T00:00:00Z")),
    st.sampled_from(["", "DE", "US"]),
)
def test_a_past_from_outside_lies_as_if_it_had_been_lived_through(zone: str, last: int, country: str) -> None:
    """Imported at once, across changes and holidays: but for an hour around each change, the days' last hours, and on a
    holiday itself the part of a day that is still to be swapped."""
    width, first = 30 * DAY, last - 24 * DAY + 1
    rule = CalendarRule(services="*", zone=zone, country=country)
    ring = lived(rule, first, last, width)
    steps = np.arange(first, last + 1)
    told = LocalTime([rule], STEP_US, width).moved(0, steps, np.arange(1.0, len(steps) + 1))
    same = np.nan_to_num(told).astype(int) == ring[0, steps % width]
    assert same.mean() > 0.93


def test_holidays_change_places_and_are_put_back() -> None:
    """On Christmas, a Friday, yesterday and last week's Friday are the last Sundays; two days later all is as it was."""
    rule = CalendarRule(services="*", zone=BERLIN, country="DE")
    width, first = 30 * DAY, step_at("2026-11-27T00:00:00+01:00")
    christmas = step_at("2026-12-25T00:00:00+01:00")
    plan = LocalTime([rule], STEP_US, width)
    assert [(n, moved) for n, moved, _ in plan.begin(christmas)] == [(0, 0)]
    assert next(plan.begin(christmas))[2][0] == Swap(christmas - DAY, christmas - 5 * DAY, DAY - HOUR)
    noon = christmas + 24
    ring = lived(rule, first, noon, width)
    for back in (1, 7):
        then = local(first + int(ring[0, (noon - back * DAY) % width]) - 1, BERLIN)
        assert (then.weekday(), then.hour) == (6, 12)
    after = step_at("2026-12-29T12:00:00+01:00")
    plain, again = lived(CalendarRule(services="*"), first, after, width), lived(rule, first, after, width)
    back_days = np.arange(after - 25 * DAY, after)
    moved = again[0, back_days % width] != plain[0, back_days % width]
    assert {local(int(label), BERLIN).date().day for label in back_days[moved]} <= {22, 25, 26, 15, 18, 19}


# --- what it is good for --------------------------------------------------------------------------------------


def shop(step: int, feasts: tuple[str, ...] = ()) -> float:
    """Requests a second: 20, and 180 more around eight in the morning in Berlin, but on Sundays and feasts."""
    at = local(step, BERLIN)
    rests = at.weekday() == 6 or at.date().isoformat() in feasts
    hours = at.hour + at.minute / 60 + 0.25
    return 20 + (0 if rests else 180 * float(np.exp(-(((hours - 8) / 0.8) ** 2))))


def rows(first: int, last: int, feasts: tuple[str, ...] = ()) -> Iterator[list[Row]]:
    """The windows of each step, of two services with the same demand."""
    rng = np.random.default_rng(1)
    for step in range(first, last + 1):
        end_us, window = step * STEP_US, f"{STEP_S}s"
        rate = float(rng.poisson(STEP_S * shop(step, feasts) / 10)) / STEP_S * 10
        yield [
            Row(
                "default", name, "interaction", "*", window, end_us - STEP_US, end_us, round(rate * STEP_S), 0, rate, 0,
                True, True,
            )
            for name in ("shop", "abroad")
        ]  # fmt: skip


def progress(step: int) -> Progress:
    us = step * STEP_US
    return Progress(0, 0, us, us, us, us, 0, [])


def models(*rules: CalendarRule) -> Models:
    return Models(STEP_S, 4, 28 * DAY, Plan(0, 20), local=rules)


def misses(plan: Models, first: int, begin: int, end: int, feasts: tuple[str, ...] = ()) -> list[float]:
    """Mean absolute error of each service's medians two steps ahead, made from ``begin`` to ``end``."""
    state, errors = plan.fresh(), []
    for several in rows(first, end, feasts):
        for row in several:
            plan.take(state, row)
        step = several[0].end_us // STEP_US
        if step % DAY == 0 or step >= begin:
            made = plan.advance(state, progress(step)).forecasts
            if step >= begin:
                truth = shop(step + 2, feasts)
                errors.append([abs(one.values[1][one.levels.index(0.5)] - truth) for one in made])
    return [float(error) for error in np.mean(errors, axis=0)]


@pytest.mark.parametrize("day", ["2027-03-29T", "2026-10-26T"], ids=["forward", "back"])
def test_the_morning_peak_is_forecast_at_the_right_hour_after_a_change_of_the_clock(day: str) -> None:
    """On the Monday after it: by local time it is, by UTC it is an hour off."""
    zone = "+02:00" if day.startswith("2027") else "+01:00"
    begin, end = step_at(f"{day}05:00:00{zone}"), step_at(f"{day}11:00:00{zone}")
    plan = models(CalendarRule(services="sh*", zone=BERLIN))
    by_local, by_utc = misses(plan, begin - 11 * DAY, begin, end)
    assert by_local < 0.5 * by_utc
    assert by_local < 15


def test_a_holiday_is_forecast_from_the_last_sundays() -> None:
    """Christmas, a Friday, without its peak."""
    feasts = ("2026-12-25", "2026-12-26")
    begin, end = step_at("2026-12-25T05:00:00+01:00"), step_at("2026-12-25T11:00:00+01:00")
    plan = models(CalendarRule(services="shop", zone=BERLIN, country="DE"))
    by_country, without = misses(plan, begin - 21 * DAY, begin, end, feasts)
    assert by_country < 0.3 * without


def test_a_snapshot_after_a_change_holds_the_moved_past() -> None:
    """Blocks of the past that were written before are written again."""
    plan = models(CalendarRule(services="*", zone=BERLIN))
    state, saved, records = plan.fresh(), snapshot.Saved(), dict[bytes, bytes]()
    for several in rows(SPRING - 8 * DAY, SPRING + 1):
        for row in several:
            plan.take(state, row)
        step = several[0].end_us // STEP_US
        if step in (SPRING - 1, SPRING + 1):
            plan.advance(state, progress(step))
            saved, new = snapshot.save(plan, state, 0, 0, saved)
            records |= new
    found = snapshot.restore(plan, 0, snapshot.small(records.items), records.items)
    assert found is not None
    np.testing.assert_array_equal(found[0].models.past, state.models.past)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[[ml.calendars]]\nservices = "*"\nzone = "Berlin"', "ml.calendars '*': no time zone 'Berlin'"),
        (
            '[[ml.calendars]]\nservices = "*"\ncountry = "ZZ"',
            "ml.calendars '*': no holidays are known of 'ZZ'",
        ),
        ('[[ml.calendars]]\nservices = "*"\ntimezone = "UTC"', "unknown field `timezone`"),
        (
            '[windows]\ntumbling_s = [7]\n[ml]\nstep_s = 7\n[[ml.calendars]]\nservices = "*"',
            "steps that divide an hour",
        ),
    ],
)
def test_calendars_that_make_no_sense_are_told(
    toml: str, message: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With key and remedy."""
    file = tmp_path_factory.mktemp("settings") / "s.toml"
    file.write_text(toml)
    with pytest.raises(ConfigError) as caught:
        config.load(file, environment={})
    assert message in str(caught.value)
