"""Which row, forecast and incident a decision sees."""

from __future__ import annotations

import msgspec

from smartscale.clock import MICROS
from smartscale.control.evidence import Evidence
from smartscale.control.policy import Policy
from smartscale.records.forecasts import Forecast, Incident
from smartscale.records.metrics import MetricRow
from smartscale.testing.policies import policy


def metric(end_s: int, total: float | None, *, revision: int = 0, name: str = "arrivals") -> MetricRow:
    kind = "metric" if name == "arrivals" else "interaction"
    return MetricRow(
        "default", "shop", kind, name, "10s", (end_s - 10) * MICROS, end_s * MICROS, 10, 0, 7.0, 0.0,
        revision, final=False, complete=True, watermark_us=end_s * MICROS, value_sum=total,
    )  # fmt: skip


def forecast(series: str, origin_s: int) -> Forecast:
    return Forecast("default", "shop", series, origin_s * MICROS, 10.0, [0.5], [[1.0]], [[1.0]], "naive")


def incident(name: str, *, end_us: int | None = None) -> Incident:
    return Incident(name, "default", "shop", "fault", 0, end_us, 0, 1.0, "errors", None, None, None, "")


def evidence(rules: Policy) -> Evidence:
    found = Evidence()
    found.want([rules])
    return found


def test_arrivals_are_the_demand_where_they_are_reported() -> None:
    """300 in 10 s are 30/s; completions (7/s) serve only where there are no arrivals."""
    rules = policy()
    found = evidence(rules)
    found.add_row(metric(20, None, name="*"))
    first = found.demand(rules.spec)
    found.add_row(metric(10, 300.0))
    second = found.demand(rules.spec)
    assert first is not None
    assert second is not None
    assert [(first.series, first.load), (second.series, second.load)] == [("rate", 7.0), ("arrivals", 30.0)]


def test_the_later_window_wins_and_of_one_window_the_higher_revision() -> None:
    """In any order of arrival."""
    rules = policy()
    found = evidence(rules)
    for row in (metric(20, 100.0, revision=1), metric(20, 90.0, revision=0), metric(10, 500.0, revision=9)):
        found.add_row(row)
    newest = found.demand(rules.spec)
    assert newest is not None
    assert (newest.load, newest.revision, newest.end_us) == (10.0, 1, 20 * MICROS)


def test_a_window_without_reports_is_a_load_of_zero_not_nothing() -> None:
    """The row exists: the evidence is there, and says zero."""
    rules = policy()
    found = evidence(rules)
    found.add_row(metric(20, None))
    newest = found.demand(rules.spec)
    assert newest is not None
    assert newest.load == 0.0


def test_rows_that_no_policy_asks_for_are_not_kept() -> None:
    """Memory is bounded by the policies."""
    found = evidence(policy("other"))
    found.add_row(metric(20, 100.0))
    assert found.demand(policy().spec) is None


def test_the_forecast_is_that_of_the_demand_series() -> None:
    """The newest of arrivals, once arrivals are the demand."""
    rules = policy()
    found = evidence(rules)
    found.add_forecast(forecast("rate", 40))
    found.add_forecast(forecast("arrivals", 30))
    found.add_forecast(forecast("arrivals", 20))
    assert found.peaks(rules.spec) is None
    found.add_row(metric(20, 100.0))
    peaks = found.peaks(rules.spec)
    assert peaks is not None
    assert (peaks.series, peaks.origin_us) == ("arrivals", 30 * MICROS)


def test_an_incident_that_people_are_not_told_of_counts_all_the_same() -> None:
    """Mutes, feedback and the alert budget silence; they do not hide."""
    rules = policy()
    found = evidence(rules)
    found.add_incident(msgspec.structs.replace(incident("a"), notify=False, silenced="mute window 'x'"))
    assert [each.id for each in found.open_incidents(rules.spec)] == ["a"]


def test_only_open_incidents_count() -> None:
    """Until a record with an end closes them."""
    rules = policy()
    found = evidence(rules)
    found.add_incident(incident("a"))
    found.add_incident(incident("b"))
    found.add_incident(incident("a", end_us=5))
    assert [each.id for each in found.open_incidents(rules.spec)] == ["b"]
