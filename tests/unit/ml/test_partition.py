"""One partition moved through rows and progress: who learns what, when, and what is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from smartscale.errors import SchemaError
from smartscale.ml import snapshot
from smartscale.ml.anomaly.feedback import Plan
from smartscale.ml.partition import Models, Outcome, State
from smartscale.ml.series.rows import Row, read
from smartscale.records import metrics
from smartscale.records.forecasts import DATA_GAP, DEMAND_SURGE, FAULT, Incident
from smartscale.records.metrics import MetricRow, Progress

STEP_US = 10_000_000
ORIGIN = 180_000_000
"""Number of the step before the first."""


def models(alerts_per_day: int = 20) -> Models:
    return Models(10.0, 30, 400, Plan(0, alerts_per_day))


def row(
    step: int,
    rate: float,
    *,
    service: str = "web",
    kind: str = "interaction",
    error_rate: float = 0.0,
    p99_ms: float = 100.0,
    final: bool = True,
    complete: bool = True,
    revision: int = 0,
    count: int | None = None,
) -> Row:
    count = round(rate * 10) if count is None else count
    end_us = (ORIGIN + step) * STEP_US
    name = "*" if kind == "interaction" else "arrivals"
    return Row(
        "default", service, kind, name, "10s", end_us - STEP_US, end_us, count, round(count * error_rate),
        rate, revision, final, complete, p99_ms, count if kind == "metric" else None,
    )  # fmt: skip


def progress(step: int, final: int | None = None, provisional: int | None = None) -> Progress:
    """Complete to ``step``, final to ``final`` (default: as far)."""
    reached, closed = (ORIGIN + step) * STEP_US, (ORIGIN + (step if final is None else final)) * STEP_US
    beyond = reached if provisional is None else (ORIGIN + provisional) * STEP_US
    return Progress(0, 0, reached, beyond, closed, closed, 0, [])


def world(steps: int, *, burst: bool = True, fault: bool = True, seed: int = 0) -> Iterator[tuple[int, Row]]:
    """A demo in small: a ramp from 20 to 80 a second, a burst of three times that, and 30 % errors for a minute."""
    rng = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        rate = 20 + 60 * np.clip((step - 18) / 36, 0, 1)
        rate *= 3 if burst and 66 <= step < 76 else 1
        errors = 0.3 if fault and 96 <= step < 102 else 0.003
        seen = rng.poisson(rate * 10) / 10
        yield step, row(step, float(seen), error_rate=errors, p99_ms=float(120 * np.exp(rng.normal(0, 0.08))))


def told(rows: Iterator[tuple[int, Row]], plan: Models | None = None) -> list[Incident]:
    plan = plan or models()
    state, found = plan.fresh(), []
    for step, one in rows:
        plan.take(state, one)
        found += plan.advance(state, progress(step)).incidents
    return found


def run(plan: Models, state: State, steps: range, value: Callable[[int], float] = lambda _: 20.0) -> Outcome:
    """Final rows for each step; the outcome of the last."""
    outcome = Outcome()
    for step in steps:
        plan.take(state, row(step, value(step)))
        outcome = plan.advance(state, progress(step))
    return outcome


def test_every_series_is_forecast_when_a_step_is_reached() -> None:
    """Rate and arrivals of each service, from the newest window, and nothing when nothing moved."""
    plan = models()
    state = plan.fresh()
    plan.take(state, row(1, 20.0))
    plan.take(state, row(1, 30.0, kind="metric"))
    plan.take(state, row(1, 5.0, service="api"))
    made = plan.advance(state, progress(1)).forecasts
    assert [(f.service, f.series) for f in made] == [("web", "rate"), ("web", "arrivals"), ("api", "rate")]
    assert made[0].origin_us == (ORIGIN + 1) * STEP_US
    assert len(made[0].values) == len(made[0].peaks) == 30
    assert made[1].values[0][3] == pytest.approx(30.0, rel=0.01)
    assert plan.advance(state, progress(1)) == Outcome()


def test_provisional_rows_move_the_forecast_and_final_rows_are_learned_once() -> None:
    """The origin is the newest window; a repeat of a final row changes nothing."""
    plan = models()
    state = plan.fresh()
    run(plan, state, range(1, 21))
    plan.take(state, row(21, 60.0, final=False))
    ahead = plan.advance(state, progress(21, final=20)).forecasts[0]
    assert ahead.origin_us == (ORIGIN + 21) * STEP_US
    assert ahead.values[0][3] > 25
    assert state.models.seen.tolist() == [20]
    plan.take(state, row(21, 20.0, revision=1))
    plan.take(state, row(20, 999.0, revision=5))
    plan.take(state, row(22, 20.0, final=False))
    settled = plan.advance(state, progress(22, final=21)).forecasts[0]
    assert state.models.seen.tolist() == [21]
    assert settled.values[0][3] < 25


def test_the_highest_revision_wins_whatever_the_order() -> None:
    """Rows of a step wait for its progress."""
    plan = models()
    state = plan.fresh()
    plan.take(state, row(1, 40.0, revision=2))
    plan.take(state, row(1, 10.0, revision=1))
    assert plan.advance(state, progress(1)).forecasts[0].values[0][3] == pytest.approx(40.0, rel=0.01)


def test_incomplete_rows_are_gaps_and_no_data_gap() -> None:
    """Nothing is learned from them, and silence that is not evidence is not an incident."""
    plan = models()
    state = plan.fresh()
    run(plan, state, range(1, 31))
    found = []
    for step in range(31, 41):
        plan.take(state, row(step, 0.0, complete=False))
        found += plan.advance(state, progress(step)).incidents
    assert state.models.seen.tolist() == [30]
    assert found == []


def test_a_missing_row_is_a_data_gap_although_others_have_theirs() -> None:
    """One service falls silent: its incident, not the other's."""
    plan = models()
    state = plan.fresh()
    found = []
    for step in range(1, 41):
        plan.take(state, row(step, 20.0, service="api"))
        if step <= 30 or step > 36:
            plan.take(state, row(step, 20.0))
        found += plan.advance(state, progress(step)).incidents
    assert {(i.service, i.class_) for i in found} == {("web", DATA_GAP)}
    assert found[0].start_us == (ORIGIN + 30) * STEP_US
    assert found[-1].end_us == (ORIGIN + 36) * STEP_US


@pytest.mark.parametrize("seed", range(3))
def test_the_burst_and_the_fault_are_told_and_the_ramp_is_not(seed: int) -> None:
    """Two incidents with the right classes, the first window of each."""
    found = told(world(120, seed=seed))
    opened = {i.id: i for i in reversed(found)}.values()
    starts = {i.class_: i.start_us // STEP_US - ORIGIN + 1 for i in opened}
    assert starts == {DEMAND_SURGE: 66, FAULT: 96}
    assert all(i.end_us is not None for i in {i.id: i for i in found}.values())


@pytest.mark.parametrize("seed", range(10, 14))
def test_a_clean_ramp_gives_no_incident(seed: int) -> None:
    """A steady ramp is forecastable."""
    assert told(world(120, burst=False, fault=False, seed=seed)) == []


@pytest.mark.parametrize(("last_rate", "expected"), [(60.0, DEMAND_SURGE), (20.0, FAULT)])
def test_slow_answers_are_demands_doing_only_where_demand_has_risen(last_rate: float, expected: str) -> None:
    """Latency times five at the end of a ramp, and on steady traffic."""
    plan = models()
    state, found = plan.fresh(), []
    for step in range(1, 61):
        rate = 20 + (last_rate - 20) * min(max(step - 20, 0) / 35, 1)
        plan.take(state, row(step, rate, p99_ms=500.0 if step > 54 else 100.0))
        found += plan.advance(state, progress(step)).incidents
    assert {i.class_ for i in found} == {expected}


def test_the_alert_budget_holds_by_construction() -> None:
    """With one alert a day, the second incident is told silently."""
    found = told(world(120), models(alerts_per_day=1))
    assert [i.notify for i in {i.id: i for i in found}.values()] == [True, False]


def test_no_alert_during_the_warm_up() -> None:
    """A service that starts with a jump is no incident."""
    plan = models()
    state = plan.fresh()
    assert run(plan, state, range(1, 12), lambda s: 200.0 if s > 8 else 10.0).incidents == []
    assert state.tracks == {}


def test_a_long_outage_is_passed_over_at_once() -> None:
    """A year without a row: a gap, not a million steps, and the next values are forecast from."""
    plan = models()
    state = plan.fresh()
    run(plan, state, range(1, 31))
    later = 30 + 365 * 8640
    plan.take(state, row(later, 50.0))
    made = plan.advance(state, progress(later)).forecasts
    assert made[0].values[0][3] > 30


def test_a_service_without_rows_for_the_whole_history_is_forgotten() -> None:
    """An incident it had open is closed, and the next newcomer takes its rows, knowing nothing of it: memory follows
    the living."""
    plan = models()
    state = plan.fresh()
    found = []
    for step in range(1, 450):
        plan.take(state, row(step, 20.0, service="api"))
        if step <= 30:
            plan.take(state, row(step, 20.0))
        found += plan.advance(state, progress(step)).incidents
    assert found[-1].end_us is not None
    plan.take(state, row(450, 5.0, service="new"))
    made = plan.advance(state, progress(450)).forecasts
    assert [f.service for f in made] == ["api", "new"]
    assert made[1].values[0][3] == pytest.approx(5.0, rel=0.05)
    assert state.services == [("default", "api"), ("default", "new")]
    assert len(state.models.seen) == len(state.series) == 2


@pytest.mark.parametrize(
    "absurd", [[1e15, 0.0, 1e15, 3.0], [0.0], [1e-9, 1e12]], ids=["huge", "nothing", "wild"]
)
def test_an_absurd_series_harms_no_other(absurd: list[float]) -> None:
    """Beside a service whose rates are absurd, another's forecasts and incidents are what they are without it."""
    plan = models()
    alone, beside = plan.fresh(), plan.fresh()
    for step, one in world(110):
        for state in (alone, beside):
            plan.take(state, one)
        plan.take(beside, row(step, absurd[step % len(absurd)], service="absurd", count=int(step % 2)))
        expected, found = (plan.advance(state, progress(step)) for state in (alone, beside))
        assert [f for f in found.forecasts if f.service == "web"] == list(expected.forecasts)
        assert [i for i in found.incidents if i.service == "web"] == expected.incidents
        for forecast in found.forecasts:
            told = np.array([forecast.values, forecast.peaks])
            assert np.isfinite(told).all()
            assert (told >= 0).all()


@pytest.mark.parametrize("cut", [5, 40, 70, 99])
def test_a_restored_snapshot_goes_on_exactly_as_the_original(cut: int) -> None:
    """Same forecasts and incidents after, at any cut, incident open or not, with provisional rows waiting."""
    plan = models()
    original = plan.fresh()
    restored: State | None = None
    for step, one in world(110):
        for state in (original, restored) if restored is not None else (original,):
            plan.take(state, one)
        outcome = plan.advance(original, progress(step, final=max(step - 3, 0)))
        if restored is not None:
            assert plan.advance(restored, progress(step, final=max(step - 3, 0))) == outcome
        if step == cut:
            _, records = snapshot.save(plan, original, 17, 0, snapshot.Saved())
            found = snapshot.restore(plan, 0, records, records.items)
            assert found is not None
            restored, offset, _ = found
            assert offset == 17


def test_a_snapshot_writes_what_changed_and_together_they_hold_everything() -> None:
    """Of 300 services over a while, with a newcomer, one that is forgotten and one whose past is imported: each snapshot
    and those before it give back the whole state, and a step's costs a small part of the first."""
    plan = Models(10.0, 60, 400, Plan(0, 20))
    state, kept, saved, sizes = plan.fresh(), dict[bytes, bytes](), snapshot.Saved(), list[int]()
    rng = np.random.default_rng(3)
    for step in range(1, 12):
        for number in range(300 + step // 4):
            if number != 7 or step < 3:
                plan.take(state, row(step, float(rng.poisson(300) / 10), service=f"s{number}"))
        plan.advance(state, progress(step, final=max(step - 2, 0)))
        if step == 7:
            state.last_row[7] = ORIGIN - 1000
            plan.advance(state, progress(step, final=step - 1))
        saved, records = snapshot.save(plan, state, step, 0, saved)
        sizes.append(sum(map(len, records.values())))
        kept |= records
        found = snapshot.restore(plan, 0, kept, kept.items)
        assert found is not None
        restored, offset, held = found
        assert (offset, held) == (step, saved)
        assert (restored.series, restored.last_row) == (state.series, state.last_row)
        for one, other in ((restored.models, state.models), (restored.usual, state.usual)):
            for field in dataclasses.fields(one):
                np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    assert sizes[-2] < sum(map(len, kept.values())) / 3


def test_a_snapshot_of_other_settings_is_not_used() -> None:
    """Another horizon means other arrays: start over from the log."""
    plan = models()
    state = plan.fresh()
    run(plan, state, range(1, 5))
    _, records = snapshot.save(plan, state, 1, 0, snapshot.Saved())
    assert snapshot.restore(Models(10.0, 12, 400, Plan(0, 20)), 0, records, records.items) is None


def test_a_snapshot_with_a_part_missing_is_refused() -> None:
    """Half a state is worse than none."""
    plan = models()
    state = plan.fresh()
    run(plan, state, range(1, 5))
    _, records = snapshot.save(plan, state, 1, 0, snapshot.Saved())
    part = next(key for key in records if b"past" in key)
    kept = {key: value for key, value in records.items() if key != part}
    with pytest.raises(SchemaError, match="lacks part"):
        snapshot.restore(plan, 0, kept, kept.items)
    with pytest.raises(SchemaError, match="lacks part"):
        snapshot.restore(plan, 0, records, (records | {part: records[part][:-2]}).items)


def test_only_roll_ups_of_the_step_and_arrivals_are_read() -> None:
    """Everything else on the topic passes by."""

    def written(**changes: object) -> bytes:
        fields = {
            "tenant": "default", "service": "web", "kind": "interaction", "name": "*", "window": "10s",
            "start_us": 0, "end_us": STEP_US, "count": 10, "errors": 1, "rate_per_s": 1.0, "error_rate": 0.1,
            "revision": 0, "final": True, "complete": True, "watermark_us": STEP_US,
        } | changes  # fmt: skip
        return metrics.encode(MetricRow(**fields))  # type: ignore[arg-type]  # one table of fields for all cases

    assert read(written(), "10s") is not None
    assert read(written(kind="metric", name="arrivals", value_sum=30.0), "10s") is not None
    for other in ({"window": "60s"}, {"name": "/cart"}, {"kind": "log"}, {"kind": "metric"}):
        assert read(written(**other), "10s") is None
    for bad in ({"rate_per_s": -1.0}, {"rate_per_s": 1e300}, {"errors": 11}, {"end_us": 0}):
        with pytest.raises(SchemaError, match="makes no sense"):
            read(written(**bad), "10s")
    with pytest.raises(SchemaError, match="cannot be read"):
        read(b"{}", "10s")
