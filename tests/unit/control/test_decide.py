"""The decision: examples with the arithmetic shown, and the properties that make it trustworthy.

Unless told otherwise a replica is meant for 10/s, so a load of 45/s asks for 5.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.clock import MICROS, monotonic_s
from smartscale.control.decide import Observation, OpenIncident, State, after, decide, replay
from smartscale.control.demand import DemandRow, Peaks, weighed
from smartscale.control.policy import Policy
from smartscale.control.stabilisation import At
from smartscale.records import decisions
from smartscale.records.decisions import Decision
from smartscale.testing.policies import policy

NOW = 1_000_000 * MICROS
AT_ONCE = {"scaleDown": {"stabilizationWindowSeconds": 0}}


def row(load: float, *, age_s: float = 5, complete: bool = True) -> DemandRow:
    end_us = NOW - round(age_s * MICROS)
    return DemandRow("arrivals", f"metric/arrivals/10s@{end_us}", float(load), end_us, 1, complete)


def seen(load: float | None = 45, current: int | None = 5, **more: object) -> Observation:
    fields: dict[str, object] = {
        "now_us": NOW,
        "epoch": 3,
        "interval_s": 15.0,
        "stale_after_s": 60.0,
        "valid_for_s": 30.0,
        "current": current,
        "ready": current or 0,
        "demand": None if load is None else row(load),
    }
    return Observation(**{**fields, **more})  # type: ignore[arg-type]  # overrides by name


def decided(rules: Policy, observation: Observation, state: State = State()) -> Decision:
    return decide(rules, state, observation)[1]


def reasons(decision: Decision) -> list[str]:
    return [clamp.reason for clamp in decision.clamps]


FLAT = Peaks("arrivals", NOW, 10.0, [0.5, 0.95], [[45.0, 80.0]] * 10)


def test_reactive_demand_asks_for_replicas_that_fit_the_load() -> None:
    """ceil(45 / 10) = 5, and 71/s asks for 8."""
    assert decided(policy(), seen(45)).desired == 5
    decision = decided(policy(), seen(71))
    assert (decision.desired, decision.act, decision.mode) == (8, True, "Auto")
    assert decision.reason.startswith("ReactiveDemand: ")


def test_target_utilisation_keeps_headroom() -> None:
    """45 / (10 * 0.5) = 9."""
    assert decided(policy(targetUtilization=0.5), seen(45)).desired == 9


def test_predictive_demand_scales_out_before_the_load_arrives() -> None:
    """The peak over the lead time at 95 % is 80/s: 8 replicas, though 45/s arrive now."""
    decision = decided(policy(), seen(45, forecast=FLAT))
    assert (decision.desired, decision.quantile) == (8, 0.95)
    assert {d.source: d.replicas for d in decision.demands} == {"reactive": 5, "predictive": 8}
    assert decision.reason.startswith("PredictiveDemand: ")


def test_a_higher_risk_takes_a_lower_quantile() -> None:
    """Risk 0.5 is the median, 45/s: 5."""
    assert decided(policy(predictive={"risk": 0.5}), seen(45, forecast=FLAT)).desired == 5


@pytest.mark.parametrize(
    ("given_s", "measured_s", "desired"), [(None, None, 8), (None, 5.0, 5), (60.0, 5.0, 8)]
)
def test_the_horizon_covers_lead_time_and_one_interval(
    given_s: float | None, measured_s: float | None, desired: int
) -> None:
    """80/s come in step 3, 20 to 30 s from now; 5 s of lead time and 15 s until the next decision end before."""
    rising = Peaks("arrivals", NOW, 10.0, [0.95], [[45.0], [45.0], *[[80.0]] * 8])
    predictive = {} if given_s is None else {"leadTimeSeconds": given_s}
    observation = seen(45, forecast=rising, lead_time_s=measured_s)
    assert decided(policy(predictive=predictive), observation).desired == desired


def test_an_old_forecast_is_not_used() -> None:
    """Older than metrics may be: the future it saw is past."""
    old = msgspec.structs.replace(FLAT, origin_us=NOW - 61 * MICROS)
    assert decided(policy(), seen(45, forecast=old)).desired == 5


@pytest.mark.parametrize(
    ("reason", "observation"),
    [
        ("StaleMetrics", seen(11, demand=row(11, age_s=61))),
        ("IncompleteEvidence", seen(11, demand=row(11, complete=False))),
        ("IncidentOpen", seen(11, incidents=[OpenIncident("i1", "fault", NOW)])),
        ("IncidentOpen", seen(11, incidents=[OpenIncident("i1", "data-gap", NOW)])),
        ("StateNotRebuilt", seen(11, rebuilt=False)),
    ],
)
def test_nothing_is_scaled_in_on_doubtful_evidence(reason: str, observation: Observation) -> None:
    """11/s would ask for 2 of the 5; each doubt holds them, says so, and says what would lift it."""
    rules = policy(behavior=AT_ONCE)
    assert decided(rules, seen(11)).desired == 2
    decision = decided(rules, observation)
    assert (decision.desired, decision.act, reasons(decision)) == (5, False, [reason])
    assert any(reason in sentence for sentence in decision.would_change)


@pytest.mark.parametrize("class_", ["demand-surge", "level-shift"])
def test_a_surge_or_a_new_level_is_no_reason_to_hold(class_: str) -> None:
    """Those are about demand, which the numbers show."""
    observation = seen(11, incidents=[OpenIncident("i1", class_, NOW)])
    assert decided(policy(behavior=AT_ONCE), observation).desired == 2


def test_doubtful_evidence_never_stops_a_scale_out() -> None:
    """A fault is open, and the load asks for more all the same."""
    assert decided(policy(), seen(71, incidents=[OpenIncident("i1", "fault", NOW)])).desired == 8


def test_missing_metrics_are_not_zero_load() -> None:
    """Held, and ScalingActive is False."""
    decision = decided(policy(behavior=AT_ONCE), seen(None))
    assert (decision.desired, decision.act) == (5, False)
    active = {c.type: (c.status, c.reason) for c in decision.conditions}["ScalingActive"]
    assert active == (False, "FailedGetExternalMetric")


def test_an_unknown_fleet_is_left_alone() -> None:
    """The actuator cannot be asked: nothing is done, whatever the load."""
    decision = decided(policy(), seen(500, None, actuator_error="no answer"), State(desired=4))
    assert (decision.current, decision.desired, decision.act) == (4, 4, False)
    assert decision.reason.startswith("FailedGetScale")


def test_a_sudden_silence_is_an_anomaly_before_it_is_a_reason_to_scale_in() -> None:
    """Timeline: 45/s, then 0 at t = 0. Held until 300 s of silence, then scaled in; any load ends the doubt."""
    rules = policy(behavior=AT_ONCE)
    state, _ = decide(rules, State(), seen(45))
    counts = {}
    for t in range(0, 330, 15):
        now_us = NOW + (t + 15) * MICROS
        silent = DemandRow("arrivals", f"r{t}", 0.0, now_us - MICROS, 1, complete=True)
        state, decision = decide(rules, state, seen(current=5, demand=silent, now_us=now_us))
        counts[t] = decision.desired
    assert {t: n for t, n in counts.items() if t < 300} == dict.fromkeys(range(0, 300, 15), 5)
    assert counts[315] == 1


def test_a_service_that_was_nearly_idle_may_fall_silent() -> None:
    """4/s is under half a replica's work: silence is no surprise."""
    rules = policy(behavior=AT_ONCE)
    state, _ = decide(rules, State(), seen(4, 2))
    assert decide(rules, state, seen(0, 2))[1].desired == 1


def test_scaling_in_waits_for_the_stabilisation_window() -> None:
    """9 was recommended 100 s ago; the window is 300 s. In 200 s it will be left."""
    state = State(history=[At(NOW - 100 * MICROS, 9)])
    decision = decided(policy(), seen(11, 10), state)
    assert (decision.desired, reasons(decision)) == (9, ["ScaleDownStabilized"])
    assert "in 200 s no recommendation above 2 is left in the stabilisation window" in decision.would_change


def test_bad_evidence_leaves_a_held_recommendation_behind() -> None:
    """So a low number seen in doubt does not open the scale-down window afterwards."""
    state, _ = decide(policy(), State(), seen(11, demand=row(11, complete=False)))
    assert [at.replicas for at in state.history] == [5]


def test_modes_hold_each_direction_by_itself() -> None:
    """Scale-out is carried out, scale-in only shown."""
    rules = policy(mode={"scaleOut": "Auto", "scaleIn": "Preview"}, behavior=AT_ONCE)
    out, back = decided(rules, seen(71)), decided(rules, seen(11))
    assert (out.act, out.desired, back.act, back.desired, back.mode) == (True, 8, False, 2, "Preview")
    assert "mode Auto would act (it is Preview)" in back.would_change


def test_a_preview_leaves_no_scale_event() -> None:
    """Nothing was added, so no rate policy is used up."""
    assert decide(policy(mode="Preview"), State(), seen(71))[0].ups == []
    assert [at.replicas for at in decide(policy(), State(), seen(71))[0].ups] == [3]


@pytest.mark.parametrize(
    ("current", "desired", "reason"), [(0, 2, "TooFewReplicas"), (40, 9, "TooManyReplicas")]
)
def test_a_count_outside_the_bounds_goes_to_the_bound_at_once(
    current: int, desired: int, reason: str
) -> None:
    """No stabilisation, no rate policy, no doubt: the bounds are the user's word."""
    decision = decided(policy(minReplicas=2, maxReplicas=9), seen(45, current, rebuilt=False))
    assert (decision.desired, decision.act) == (desired, True)
    assert reason in reasons(decision)


# algorithm: hpa as External metric of type AverageValue: target 10 per replica; the arithmetic of
# GetExternalPerPodMetricReplicas: ratio = load / (10 * current); within [0.9, 1.1]: current; else ceil(load / 10).
@pytest.mark.parametrize(
    ("load", "current", "recommended"),
    [
        (100, 10, 10),
        (110, 10, 10),  # 1.10: within the tolerance
        (111, 10, 12),  # 1.11: ceil(11.1)
        (90, 10, 10),  # 0.90: within the tolerance
        (89, 10, 9),  # 0.89: ceil(8.9)
        (200, 10, 20),
        (0.5, 10, 1),
    ],
)
def test_hpa_ignores_changes_within_its_tolerance(load: float, current: int, recommended: int) -> None:
    """As Kubernetes 1.33 does."""
    rules = policy(algorithm="hpa", behavior=AT_ONCE)
    assert decided(rules, seen(load, current)).desired == recommended


def test_hpa_knows_no_forecast() -> None:
    """Reactive demand alone."""
    decision = decided(policy(algorithm="hpa"), seen(45, forecast=FLAT))
    assert ([d.source for d in decision.demands], decision.quantile) == (["reactive"], None)


def test_a_decision_survives_the_wire_and_is_replayed() -> None:
    """Stored as JSON, read back, decided again: equal in every field."""
    _, decision = decide(policy(), State(history=[At(NOW - MICROS, 7)]), seen(45, forecast=FLAT))
    stored = decisions.decode_decision(decisions.encode(decision))
    assert replay(stored, policy()) == stored


def test_ten_thousand_decisions_fit_into_an_interval() -> None:
    """About 0.1 ms each; the bound is loose because the machine is shared."""
    rules, observation, began_s = policy(), seen(45, forecast=FLAT), monotonic_s()
    for _ in range(1000):
        decide(rules, State(), observation)
    assert monotonic_s() - began_s < 1.5


histories = st.lists(
    st.builds(lambda s, n: At(NOW - s * MICROS, n), st.integers(1, 400), st.integers(1, 100)), max_size=6
)
states = st.builds(
    lambda history, ups, downs, last: State(history=history, ups=ups, downs=downs, last_load=last),
    histories,
    histories,
    histories,
    st.floats(0, 1000),
)
loads = st.floats(0.1, 3000)
algorithms = st.sampled_from(["smartscale", "hpa"])
tops = st.floats(0, 3000)
trusts = st.one_of(st.just(1.0), st.floats(0, 1))


def flat(top: float, influence: float) -> Peaks:
    return msgspec.structs.replace(FLAT, peaks=[[top / 2, top]] * 10, influence=influence)


peaks = st.one_of(st.none(), st.builds(flat, tops, trusts))


@given(states, st.one_of(st.none(), st.floats(0, 1e9)), st.integers(0, 300), peaks, algorithms)
def test_bounds_are_always_kept(
    state: State, load: float | None, current: int, forecast: Peaks | None, algorithm: str
) -> None:
    """Whatever was seen, remembered or running."""
    rules = policy(minReplicas=3, maxReplicas=40, algorithm=algorithm)
    assert 3 <= decided(rules, seen(load, current, forecast=forecast), state).desired <= 40


@given(states, loads, loads, st.integers(1, 100), peaks, algorithms)
def test_more_demand_never_means_fewer_replicas(
    state: State, one: float, other: float, current: int, forecast: Peaks | None, algorithm: str
) -> None:
    """The same history, the same forecast, two loads. (Exactly zero is an anomaly, and held.)"""
    rules = policy(algorithm=algorithm)
    low, high = sorted([one, other])
    fewer = decided(rules, seen(low, current, forecast=forecast), state)
    more = decided(rules, seen(high, current, forecast=forecast), state)
    assert fewer.desired <= more.desired


@given(
    states, loads, st.integers(1, 100), peaks, algorithms, st.sampled_from(["missing", "stale", "incomplete"])
)
def test_no_scale_in_on_missing_stale_or_incomplete_evidence(
    state: State, load: float, current: int, forecast: Peaks | None, algorithm: str, doubt: str
) -> None:
    """Whatever the rest says."""
    demand = {"missing": None, "stale": row(load, age_s=99), "incomplete": row(load, complete=False)}[doubt]
    observation = seen(current=current, demand=demand, forecast=forecast)
    assert decided(policy(algorithm=algorithm, behavior=AT_ONCE), observation, state).desired >= current


@given(states, loads, st.integers(1, 100), peaks, algorithms, st.sampled_from([0.25, 2.0, 1024.0]))
def test_units_change_nothing(
    state: State, load: float, current: int, forecast: Peaks | None, algorithm: str, unit: float
) -> None:
    """Load, forecast and capacity in another unit (a power of two, so that floats stay exact)."""
    scaled_forecast = forecast and msgspec.structs.replace(
        forecast, peaks=[[value * unit for value in step] for step in forecast.peaks]
    )
    scaled_state = msgspec.structs.replace(state, last_load=state.last_load * unit)
    one = decided(policy(algorithm=algorithm), seen(load, current, forecast=forecast), state)
    other = decided(
        policy(algorithm=algorithm, capacityPerReplica=10.0 * unit),
        seen(load * unit, current, forecast=scaled_forecast),
        scaled_state,
    )
    assert (one.desired, one.recommended, reasons(one)) == (other.desired, other.recommended, reasons(other))


@given(states, loads, st.integers(1, 100), tops, trusts, trusts, algorithms)
def test_lost_skill_adds_no_replica_and_takes_none(
    state: State, load: float, current: int, top: float, one: float, other: float, algorithm: str
) -> None:
    """Influence moves a scale-out between reactive demand (0) and the whole forecast (1), and no scale-in at all."""
    rules, (less, more) = policy(algorithm=algorithm, behavior=AT_ONCE), sorted([one, other])
    by = {
        trust: decided(rules, seen(load, current, forecast=flat(top, trust)), state).desired
        for trust in (0.0, less, more, 1.0)
    }
    reactive = decided(rules, seen(load, current), state).desired
    assert by[0.0] <= by[less] <= by[more] <= by[1.0]
    assert by[0.0] >= reactive
    if reactive > current:
        assert by[0.0] == reactive
    if by[1.0] <= current:
        assert by[0.0] == by[1.0]


@given(loads, tops, trusts, trusts)
def test_demand_moves_no_further_than_trust_does(load: float, top: float, one: float, other: float) -> None:
    """The forecast's share of the way from the present load to the peak is its influence."""
    moved = abs(weighed(top, load, one) - weighed(top, load, other))
    assert moved <= abs(one - other) * abs(top - load) + 1e-9 * max(top, load)


def test_what_a_forecast_counts_for_is_explained() -> None:
    """Peak 80/s of a forecast that counts for 0.4 beside 45/s: 59/s, 6 replicas; in full it would be 8. A scale-in
    stops where the whole forecast would."""
    doubted = msgspec.structs.replace(FLAT, influence=0.4, coverage=0.71, skill=-0.3)
    decision = decided(policy(), seen(45, forecast=doubted))
    assert decision.desired == 6
    assert "; the forecast counts for 0.4: coverage 71 %, skill -0.30, so 59/s" in decision.reason
    assert "a forecast that counts in full would ask for 8 replicas" in decision.would_change
    held = decided(policy(behavior=AT_ONCE), seen(45, 10, forecast=doubted))
    assert (held.desired, reasons(held)) == (8, ["ForecastDoubted"])
    assert "doubt is no reason to scale in" in held.reason


@given(states, loads, st.integers(1, 100), peaks, algorithms)
def test_deciding_twice_is_deciding_once(
    state: State, load: float, current: int, forecast: Peaks | None, algorithm: str
) -> None:
    """Pure: the same answer; and replayed from its own record, the same again."""
    rules = policy(algorithm=algorithm)
    new_state, decision = decide(rules, state, seen(load, current, forecast=forecast))
    assert decide(rules, state, seen(load, current, forecast=forecast)) == (new_state, decision)
    assert replay(decision, rules) == decision
    assert after(rules, decision) == new_state
