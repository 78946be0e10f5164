"""A past from outside: gathered, taken up once, and worth as much as if it had been seen."""

from __future__ import annotations

import numpy as np
import pytest

from smartscale.errors import SchemaError
from smartscale.ml import past, snapshot
from smartscale.ml.anomaly.feedback import Plan
from smartscale.ml.forecast.protocol import to_rate
from smartscale.ml.partition import Models, State
from smartscale.ml.series.history import Past
from smartscale.ml.series.rows import Row
from smartscale.records.forecasts import RATE
from smartscale.records.metrics import Progress
from smartscale.records.past import PastPart

STEP_US = 60_000_000
DAY = 1440
BEGIN = 20_000 * DAY
"""Number of the step before the first: a midnight."""


def models() -> Models:
    return Models(60.0, 12, 3 * DAY, Plan(0, 20))


def load(step: int) -> float:
    """Requests a second at a step: a daily wave."""
    return round(50 + 40 * float(np.sin(2 * np.pi * step / DAY)), 3)


def part(first: int, rates: list[float | None], number: int = 0, parts: int = 1, name: str = "a") -> PastPart:
    """Values of steps ``first``, ``first + 1``, …: a step is numbered by its end."""
    return PastPart(
        name, "default", "shop", RATE, (BEGIN + first - 1) * STEP_US, STEP_US, rates, number, parts
    )


def see(plan: Models, state: State, step: int) -> tuple[list[list[float]], str]:
    """The forecast of the shop after one more window, and its rung of the ladder."""
    rate, end_us = load(step), (BEGIN + step) * STEP_US
    row = Row(
        "default", "shop", "interaction", "*", "60s", end_us - STEP_US, end_us, round(rate * 60), 0, rate, 0, True,
        True, 100.0,
    )  # fmt: skip
    plan.take(state, row)
    made = plan.advance(state, Progress(0, 0, end_us, end_us, end_us, end_us, 0, [])).forecasts
    return made[0].values, made[0].stage


def test_a_service_with_an_imported_past_forecasts_as_if_it_had_been_seen() -> None:
    """::

    seen by A   1 ─────────────────────────── 3000 ── 3010
    imported by B   1 ──────────────── 3000
    seen by B                               3001 ── 3010     from there on the same, to the bit
    """
    plan = models()
    a, b = plan.fresh(), plan.fresh()
    for step in range(1, 3001):
        see(plan, a, step)
    plan.take_past(b, part(1, [load(step) for step in range(1, 2001)], 0, 2))
    plan.take_past(b, part(2001, [load(step) for step in range(2001, 3001)], 1, 2))
    for step in range(3001, 3011):
        assert see(plan, a, step) == see(plan, b, step)
    assert see(plan, b, 3011)[1] == "daily"


def test_what_was_seen_counts_where_both_are_known_and_gaps_stay_gaps() -> None:
    """::

    seen                  o 11 ─ o 20         20 is the newest
    imported    1 ─ 5  gap  8 ─────────── 30  of 11 to 20 the seen, of 21 to 30 nothing
    """
    plan = models()
    state = plan.fresh()
    for step in range(11, 21):
        see(plan, state, step)
    told: list[float | None] = [1.0] * 5 + [None] * 2 + [2.0] * 23
    plan.take_past(state, part(1, told))
    assert plan.advance(state, progress_again(20)).imported == [("default", "shop", RATE)]
    kept = past_of(plan, state, 1, 21)
    np.testing.assert_allclose(kept[:10], [1, 1, 1, 1, 1, np.nan, np.nan, 2, 2, 2], rtol=2e-3)
    np.testing.assert_allclose(kept[10:20], [load(step) for step in range(11, 21)], rtol=2e-3)
    assert np.isnan(kept[20])
    assert state.models.seen.tolist() == [18]


def progress_again(step: int) -> Progress:
    end_us = (BEGIN + step) * STEP_US
    return Progress(0, 0, end_us, end_us, end_us, end_us, 0, [])


def past_of(
    plan: Models, state: State, first: int, last: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    assert state.newest is not None
    values = Past(state.models.past, state.newest).between(BEGIN + first, BEGIN + last)[0]
    return to_rate(values, plan.step_s)


def test_a_second_import_replaces_the_first_and_repeats_change_nothing() -> None:
    first, again = part(1, [1.0], 0, 2), part(2, [2.0], 1, 2)
    known = past.gather(past.gather((), first), again)
    assert past.is_whole(known)
    assert past.gather(past.gather(known, first), again) == known
    assert past.gather(known, part(1, [9.0], name="b")) == (part(1, [9.0], name="b"),)


@pytest.mark.parametrize(
    "late",
    [
        part(2, [2.0], 1, 2),
        part(3, [2.0], 1, 2, name="other"),
    ],
)
def test_a_part_without_those_before_it_is_refused(late: PastPart) -> None:
    with pytest.raises(SchemaError, match="import the history again"):
        past.gather((), late)


def test_a_part_that_leaves_a_hole_is_refused() -> None:
    with pytest.raises(SchemaError, match="import the history again"):
        past.gather((part(1, [1.0], 0, 2),), part(5, [2.0], 1, 2))


def test_a_past_of_another_step_is_refused_with_the_setting() -> None:
    other = PastPart("a", "default", "shop", RATE, 0, 10_000_000, [1.0])
    with pytest.raises(SchemaError, match=r"ml.step_s"):
        models().take_past(models().fresh(), other)


@pytest.mark.parametrize("begun", [False, True])
def test_it_survives_a_restart_before_and_after_it_is_taken_up(begun: bool) -> None:
    plan = models()
    state, saved = plan.fresh(), snapshot.Saved()
    kept: dict[bytes, bytes] = {}
    if begun:
        for step in range(2001, 2004):
            see(plan, state, step)
        saved, kept = snapshot.save(plan, state, 5, 0, saved)
    plan.take_past(state, part(1, [load(step) for step in range(1, 2001)]))
    if begun:
        see(plan, state, 2004)
    saved, records = snapshot.save(plan, state, 7, 0, saved)
    kept |= records
    restored = snapshot.restore(plan, 0, kept, kept.items)
    assert restored is not None
    again = restored[0]
    for step in range(2005, 2010):
        assert see(plan, state, step) == see(plan, again, step)


def test_a_past_that_ended_long_ago_is_passed_over_at_once() -> None:
    """Steps 1 to 50 are known, then nothing to 4000: as many steps of a gap cost one step."""
    plan = models()
    values = np.concatenate([np.full(50, 3.0), np.full(3950, np.nan)])
    state = past.learn(plan.forecaster, BEGIN + 1, values)
    assert state.seen.tolist() == [50]


def test_one_import_leaves_the_others_as_they_were() -> None:
    plan = models()
    alone, beside = plan.fresh(), plan.fresh()
    plan.take_past(beside, PastPart("z", "default", "other", RATE, BEGIN * STEP_US, STEP_US, [5.0] * 100))
    for step in range(200, 220):
        assert see(plan, alone, step) == see(plan, beside, step)
