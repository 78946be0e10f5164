"""The scaling decision: ``decide(policy, state, observation) -> (state, decision)``, pure.

In order, each step visible in the decision:

1. **Demand.** Reactive: the newest window's load. Predictive: the forecast's peak over the lead time at quantile
   1 - risk. The greatest asks for ``recommended`` replicas. ``algorithm: hpa`` knows reactive demand alone, as an
   ``External`` metric of type ``AverageValue`` with target ``capacityPerReplica * targetUtilization``. A forecast that has
   lost its skill asks for less: its peak is taken at a point between the present load and itself (``influence``).
2. **Tolerance** around the present count, as in HPA v2.
3. **Safety clamps** (``_SAFETY``), SmartScale's own: each may only hold the present count against a scale-in. One more
   holds what a doubted forecast would ask for if it were not doubted: lost skill adds no replica, and takes none.
4. **Stabilisation, rate policies, bounds**, as in HPA v2 of Kubernetes 1.33 (``stabilisation``). A count outside
   the bounds goes to the bound at once, as there. One difference: a target with no replicas is started, where an
   HPA takes it for switched off; a process target that has never run looks the same.
5. **Modes.** A direction that is ``Off`` or in ``Preview`` is decided, and not acted on.

With whole and recent evidence no clamp of step 3 applies, and ``algorithm: hpa`` is HPA to the letter.

Replay: a decision holds its observation and the state before it as JSON; ``replay`` decides again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from smartscale.clock import MICROS, iso
from smartscale.control.demand import DemandRow, Peak, Peaks, peak_over, replicas_for, trust_in, weighed
from smartscale.control.policy import Direction, Policy
from smartscale.control.stabilisation import At, Limited, limit, stabilise
from smartscale.records.decisions import Clamp, Condition, Decision, Demand
from smartscale.records.forecasts import DATA_GAP, FAULT

DEFAULT_LEAD_TIME_S: Final = 60.0
"""World time from decision to ready while none has been measured; chosen because a container with a warm image
takes tens of seconds, and a lead time taken too long costs little."""

ZERO_HOLD_S: Final = 300.0
"""World time for which a sudden silence is an anomaly before it is a reason to scale in; chosen as HPA's own
scale-down window: no outage shorter than that costs a replica."""


class OpenIncident(msgspec.Struct, frozen=True):
    """An open incident of the service. ``class_`` as in ``records.forecasts``."""

    id: str
    class_: str
    start_us: int


class Observation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything a decision may know.

    ``current`` and ``ready`` are the actuator's; ``current`` is None when it could not be asked
    (``actuator_error`` says why). ``demand`` is None when no row has been seen. ``lead_time_s`` is measured, None
    while it is not. ``stale_after_s`` and ``valid_for_s`` are world time: how old evidence for a scale-in may be,
    and how long the decision may be carried out. ``rebuilt`` is False until the state has been read back."""

    now_us: int
    epoch: int
    interval_s: float
    stale_after_s: float
    valid_for_s: float
    rebuilt: bool = True
    current: int | None = None
    ready: int = 0
    demand: DemandRow | None = None
    forecast: Peaks | None = None
    incidents: list[OpenIncident] = []
    lead_time_s: float | None = None
    actuator_error: str | None = None

    @property
    def age_s(self) -> float | None:
        """World seconds since the end of the newest window."""
        return None if self.demand is None else (self.now_us - self.demand.end_us) / MICROS


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a policy remembers: recommendations and scale events within their windows, the last desired count,
    the last load above zero and since when the load has been zero."""

    evaluations: int = 0
    history: list[At] = []
    ups: list[At] = []
    downs: list[At] = []
    desired: int = 0
    last_load: float = 0.0
    zero_since_us: int | None = None


class _Case(msgspec.Struct, frozen=True):
    """A decision in the making, as the clamps see it."""

    policy: Policy
    state: State
    seen: Observation
    current: int


def _missing(case: _Case) -> str | None:
    return _no_load(case.policy) if case.seen.demand is None else None


def _no_load(policy: Policy) -> str:
    return f"no {policy.spec.window} window of {policy.spec.service} has been seen"


def _stale(case: _Case) -> str | None:
    age_s, limit_s = case.seen.age_s, case.seen.stale_after_s
    if age_s is None or age_s <= limit_s:
        return None
    return f"the newest window ended {age_s:.0f} s ago, more than {limit_s:g} s"


def _incomplete(case: _Case) -> str | None:
    row = case.seen.demand
    return f"a source was missing in the window until {iso(row.end_us)}" if row and not row.complete else None


def _incident(case: _Case) -> str | None:
    held_by = [i for i in case.seen.incidents if i.class_ in (FAULT, DATA_GAP)]
    return ", ".join(f"incident {i.id} ({i.class_}) is open" for i in held_by) or None


def _sudden_zero(case: _Case) -> str | None:
    """Silence after a load of more than half a replica's work: an anomaly until it has lasted ``ZERO_HOLD_S``."""
    row, spec = case.seen.demand, case.policy.spec
    busy = 0.5 * spec.capacity_per_replica * spec.target_utilization
    if row is None or row.load > 0 or case.state.last_load <= busy:
        return None
    since = case.seen.now_us if case.state.zero_since_us is None else case.state.zero_since_us
    silent_s = (case.seen.now_us - since) / MICROS
    if silent_s >= ZERO_HOLD_S:
        return None
    return f"load fell from {case.state.last_load:.4g}/s to zero {silent_s:.0f} s ago; held for {ZERO_HOLD_S:g} s"


def _not_rebuilt(case: _Case) -> str | None:
    return None if case.seen.rebuilt else "this controller has not yet read its history back"


_SAFETY: Final[dict[str, Callable[[_Case], str | None]]] = {
    "MissingMetrics": _missing,
    "StaleMetrics": _stale,
    "IncompleteEvidence": _incomplete,
    "IncidentOpen": _incident,
    "SuddenZero": _sudden_zero,
    "StateNotRebuilt": _not_rebuilt,
}
"""Reasons for which nothing is scaled in: each gives a sentence while it applies."""

_DOUBTED: Final = "ForecastDoubted"

_REMEDY: Final = {
    "MissingMetrics": "a row of the demand series",
    "StaleMetrics": "newer metrics",
    "IncompleteEvidence": "complete evidence",
    "IncidentOpen": "the end of the incident",
    "SuddenZero": "a longer silence, or any load",
    "StateNotRebuilt": "the rest of the history",
    _DOUBTED: "a lower forecast peak",
}


def decide(policy: Policy, state: State, seen: Observation) -> tuple[State, Decision]:
    """The next state and the decision. Never raises for any observation; pure."""
    demands, quantile = _demands(policy, seen)
    result = _resolve(policy, state, seen, demands)
    direction = _direction(result.current, result.desired)
    mode = policy.mode(direction or "scaleOut")
    decision = Decision(
        id=f"{policy.name}-{seen.epoch}-{state.evaluations + 1}",
        policy=policy.name,
        tenant=policy.spec.tenant,
        service=policy.spec.service,
        time_us=seen.now_us,
        expires_us=seen.now_us + round(seen.valid_for_s * MICROS),
        epoch=seen.epoch,
        mode=mode,
        current=result.current,
        recommended=result.recommended,
        desired=result.desired,
        act=direction is not None and mode == "Auto",
        demands=demands,
        clamps=result.clamps,
        conditions=result.conditions,
        reason=result.reason,
        capacity_per_replica=policy.spec.capacity_per_replica,
        quantile=quantile,
        metric_revisions={seen.demand.row: seen.demand.revision} if seen.demand else {},
        would_change=result.would_change
        + ([] if mode == "Auto" else [f"mode Auto would act (it is {mode})"]),
        inputs=msgspec.Raw(msgspec.json.encode(seen)),
        state=msgspec.Raw(msgspec.json.encode(state)),
    )
    return after(policy, decision), decision


class _Result(msgspec.Struct, frozen=True):
    """The numbers of a decision and their reasons."""

    current: int
    recommended: int
    desired: int
    clamps: list[Clamp]
    conditions: list[Condition]
    reason: str
    would_change: list[str]


def _resolve(policy: Policy, state: State, seen: Observation, demands: list[Demand]) -> _Result:
    """Steps 2 to 4 of the module's list."""
    asked = max((d.replicas for d in demands), default=None)
    if seen.current is None:
        last = state.desired
        error = seen.actuator_error or "the actuator has not answered"
        text = f"the present replicas are unknown: {error}"
        return _Result(
            last, last if asked is None else asked, last, [], [Condition("AbleToScale", False, "FailedGetScale", text)],
            f"FailedGetScale: {text}", ["an answer of the actuator"],
        )  # fmt: skip
    case = _Case(policy, state, seen, seen.current)
    recommended = seen.current if asked is None else asked
    clamps: list[Clamp] = []
    tolerated = _tolerate(case, demands, recommended, clamps)
    safe = _doubt(case, _safety(case, tolerated, clamps), clamps)
    stable, limited = _shape(case, safe, clamps)
    conditions = [
        _able(case, safe, stable),
        _active(case, demands),
        Condition("ScalingLimited", limited.limited, limited.reason, limited.message),
    ]
    reason = _reason(case, limited.replicas, demands, clamps)
    would_change = _would_change(case, recommended, clamps)
    return _Result(seen.current, recommended, limited.replicas, clamps, conditions, reason, would_change)


def after(policy: Policy, decision: Decision) -> State:
    """The state that a decision leaves behind: what ``decide`` returns, and what a restart rebuilds it from.

    A recommendation that a safety clamp held is remembered as held, so that bad evidence does not open the
    scale-down window; without any demand nothing is remembered, as in HPA."""
    state = msgspec.json.decode(decision.state, type=State)
    seen = msgspec.json.decode(decision.inputs, type=Observation)
    now_us = decision.time_us
    history, ups, downs = state.history, state.ups, state.downs
    if decision.demands and seen.current is not None:
        recorded = next(
            (
                c.after
                for c in reversed(decision.clamps)
                if c.reason in _SAFETY or c.reason in ("WithinTolerance", _DOUBTED)
            ),
            decision.recommended,
        )
        history = [*history, At(now_us, recorded)]
    change = decision.desired - decision.current
    if decision.act and change > 0:
        ups = [*ups, At(now_us, change)]
    elif decision.act and change < 0:
        downs = [*downs, At(now_us, -change)]
    up, down = policy.scale_up, policy.scale_down
    look_back_s = max(up.stabilization_window_seconds or 0, down.stabilization_window_seconds or 0)
    period_s = max(rate.period_seconds for rules in (up, down) for rate in rules.policies or [])
    row = seen.demand
    zero_since = state.zero_since_us
    if row is not None and row.complete:
        zero_since = (now_us if zero_since is None else zero_since) if row.load <= 0 else None
    return State(
        evaluations=state.evaluations + 1,
        history=_younger(history, now_us, look_back_s),
        ups=_younger(ups, now_us, period_s),
        downs=_younger(downs, now_us, period_s),
        desired=decision.desired,
        last_load=row.load if row is not None and row.load > 0 else state.last_load,
        zero_since_us=zero_since,
    )


def replay(decision: Decision, policy: Policy) -> Decision:
    """Decide again from what a stored decision saw. Equal to ``decision`` if the policy is the same.

    Raises ``msgspec.DecodeError`` if the record's inputs or state cannot be read."""
    state = msgspec.json.decode(decision.state, type=State)
    seen = msgspec.json.decode(decision.inputs, type=Observation)
    return decide(policy, state, seen)[1]


def _younger(events: list[At], now_us: int, span_s: float) -> list[At]:
    return [event for event in events if event.time_us > now_us - span_s * MICROS]


def _demands(policy: Policy, seen: Observation) -> tuple[list[Demand], float | None]:
    """Demand by source, and the forecast quantile used."""
    spec = policy.spec
    per_replica = f"{spec.capacity_per_replica:g}/s at {spec.target_utilization:g}"
    demands = []
    if (row := seen.demand) is not None:
        replicas = replicas_for(row.load, spec.capacity_per_replica, spec.target_utilization)
        text = f"{row.series} {row.load:.4g}/s in the window until {iso(row.end_us)}, {per_replica} a replica"
        demands.append(Demand("reactive", row.load, replicas, text))
    forecast, peak = seen.forecast, _foreseen(policy, seen)
    if forecast is None or peak is None:
        return demands, None
    load = weighed(peak.load, row.load if row is not None else 0.0, forecast.influence)
    replicas = replicas_for(load, spec.capacity_per_replica, spec.target_utilization)
    text = f"{peak.detail}, lead time {_lead_time_s(policy, seen):.0f} s, {per_replica} a replica"
    if forecast.influence < 1:
        text += f"; {trust_in(forecast)}, so {load:.4g}/s"
    return [*demands, Demand("predictive", load, replicas, text)], peak.quantile


def _foreseen(policy: Policy, seen: Observation) -> Peak | None:
    """The forecast's peak over the lead time, before what it counts for; None without a forecast to be used."""
    spec, forecast = policy.spec, seen.forecast
    if spec.algorithm == "hpa" or not spec.predictive.enabled or forecast is None:
        return None
    if seen.now_us - forecast.origin_us > seen.stale_after_s * MICROS:
        return None
    # A replica asked for now serves after the lead time, and the next decision's after one interval more.
    until_us = seen.now_us + round((_lead_time_s(policy, seen) + seen.interval_s) * MICROS)
    return peak_over(forecast, until_us, 1 - spec.predictive.risk)


def _lead_time_s(policy: Policy, seen: Observation) -> float:
    given = policy.spec.predictive.lead_time_seconds
    if given is not None:
        return given
    return DEFAULT_LEAD_TIME_S if seen.lead_time_s is None else seen.lead_time_s


def _tolerate(case: _Case, demands: list[Demand], recommended: int, clamps: list[Clamp]) -> int:
    """The present count where the load is within the tolerance of what it is meant for
    (``GetExternalPerPodMetricReplicas`` with ``Tolerances.isWithin``)."""
    spec = case.policy.spec
    if recommended == case.current or case.current == 0 or not demands:
        return recommended
    load = max(d.load for d in demands)
    ratio = load / (spec.capacity_per_replica * spec.target_utilization * case.current)
    low, high = case.policy.scale_down.tolerance or 0.0, case.policy.scale_up.tolerance or 0.0
    if (low or high) and 1 - low <= ratio <= 1 + high:
        text = f"the load is {ratio:.3f} of the target, within [{1 - low:g}, {1 + high:g}]"
        clamps.append(Clamp("WithinTolerance", recommended, case.current, text))
        return case.current
    return recommended


def _safety(case: _Case, wanted: int, clamps: list[Clamp]) -> int:
    """Hold against scale-in, naming every reason that applies; never lowers."""
    if wanted >= case.current:
        return wanted
    for reason, applies in _SAFETY.items():
        text = applies(case)
        if text is not None:
            clamps.append(Clamp(reason, wanted, case.current, f"{text}: nothing is scaled in"))
            wanted = case.current
    return wanted


def _doubt(case: _Case, wanted: int, clamps: list[Clamp]) -> int:
    """Against a scale-in the forecast counts in full, whatever its influence."""
    spec, forecast, peak = case.policy.spec, case.seen.forecast, _foreseen(case.policy, case.seen)
    if wanted >= case.current or forecast is None or peak is None or forecast.influence >= 1:
        return wanted
    full = replicas_for(peak.load, spec.capacity_per_replica, spec.target_utilization)
    held = min(case.current, full)
    if held <= wanted:
        return wanted
    text = f"{trust_in(forecast)}; in full it asks for {full}, and doubt is no reason to scale in"
    clamps.append(Clamp(_DOUBTED, wanted, held, text))
    return held


def _shape(case: _Case, wanted: int, clamps: list[Clamp]) -> tuple[int, Limited]:
    """Stabilisation, rate policies and bounds."""
    spec, current = case.policy.spec, case.current
    stable = wanted
    if current > spec.max_replicas:
        limited = Limited(spec.max_replicas, True, "TooManyReplicas", f"maxReplicas is {spec.max_replicas}")
    elif current < spec.min_replicas:
        limited = Limited(spec.min_replicas, True, "TooFewReplicas", f"minReplicas is {spec.min_replicas}")
    else:
        rules, now_us = (case.policy.scale_up, case.policy.scale_down), case.seen.now_us
        stable = stabilise(current, wanted, case.state.history, now_us, *rules)
        if stable != wanted:
            reason, which = (
                ("ScaleUpStabilized", "lowest") if wanted >= current else ("ScaleDownStabilized", "highest")
            )
            text = f"the {which} recommendation of the stabilisation window is applied"
            clamps.append(Clamp(reason, wanted, stable, text))
        bounds = spec.min_replicas, spec.max_replicas
        limited = limit(current, stable, case.state.ups, case.state.downs, bounds, rules, now_us)
    if limited.limited:
        clamps.append(Clamp(limited.reason, stable, limited.replicas, limited.message))
    return stable, limited


def _direction(current: int, desired: int) -> Direction | None:
    return None if desired == current else ("scaleOut" if desired > current else "scaleIn")


def _able(case: _Case, safe: int, stable: int) -> Condition:
    if case.seen.actuator_error is not None:
        text = f"the last change could not be carried out: {case.seen.actuator_error}"
        return Condition("AbleToScale", False, "FailedUpdateScale", text)
    if stable != safe:
        reason = "ScaleUpStabilized" if safe >= case.current else "ScaleDownStabilized"
        return Condition(
            "AbleToScale", True, reason, "a recent recommendation is applied instead of the present one"
        )
    return Condition("AbleToScale", True, "ReadyForNewScale", "the recommended count may be applied")


def _active(case: _Case, demands: list[Demand]) -> Condition:
    if case.policy.mode("scaleOut") == case.policy.mode("scaleIn") == "Off":
        return Condition("ScalingActive", False, "ScalingDisabled", "the policy's mode is Off")
    if not demands:
        return Condition("ScalingActive", False, "FailedGetExternalMetric", _no_load(case.policy))
    series = case.seen.demand.series if case.seen.demand else demands[0].source
    return Condition("ScalingActive", True, "ValidMetricFound", f"replicas follow {series}")


def _reason(case: _Case, desired: int, demands: list[Demand], clamps: list[Clamp]) -> str:
    """Code and sentence: the last clamp that changed the count, else the demand that asked for most."""
    current = case.current
    binding = next((c for c in reversed(clamps) if c.before != c.after), None)
    if binding is not None:
        return f"{binding.reason}: {binding.detail} ({current} -> {desired})"
    if not demands:
        return f"MissingMetrics: {_no_load(case.policy)} ({current} -> {desired})"
    strongest = max(demands, key=lambda d: d.replicas)
    return f"{strongest.source.capitalize()}Demand: {strongest.detail} ({current} -> {desired})"


def _would_change(case: _Case, recommended: int, clamps: list[Clamp]) -> list[str]:
    """What would have led to another result."""
    spec = case.policy.spec
    unit = spec.capacity_per_replica * spec.target_utilization
    told = [f"a load above {unit * recommended:.4g}/s would ask for more than {recommended} replicas"]
    if recommended > 0:
        told.append(f"a load up to {unit * (recommended - 1):.4g}/s would ask for fewer than {recommended}")
    forecast, peak = case.seen.forecast, _foreseen(case.policy, case.seen)
    if forecast is not None and peak is not None and forecast.influence < 1:
        full = replicas_for(peak.load, spec.capacity_per_replica, spec.target_utilization)
        if full > recommended:
            told.append(f"a forecast that counts in full would ask for {full} replicas")
    for clamp in clamps:
        if clamp.reason in _REMEDY:
            told.append(f"{_REMEDY[clamp.reason]} would lift {clamp.reason}")
        elif clamp.reason == "ScaleDownStabilized":
            told.append(_when_stable(case, clamp))
        elif clamp.before != clamp.after:
            told.append(f"without {clamp.reason} the count would be {clamp.before}")
    return told


def _when_stable(case: _Case, clamp: Clamp) -> str:
    window_us = (case.policy.scale_down.stabilization_window_seconds or 0) * MICROS
    holding = [at.time_us for at in case.state.history if at.replicas > clamp.before]
    left_s = max(0.0, (max(holding, default=case.seen.now_us) + window_us - case.seen.now_us) / MICROS)
    return f"in {left_s:.0f} s no recommendation above {clamp.before} is left in the stabilisation window"
