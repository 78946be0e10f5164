"""Scenarios for the controller: a load and faults in, allowed replicas and overload out, in virtual time.

``play`` runs ``decide`` against a simulated fleet: replicas serve a start-up time after they were asked for, metrics
come in windows of ten seconds and are two seconds late. Nothing reads a clock.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from smartscale.clock import MICROS
from smartscale.control.decide import Observation, OpenIncident, State, decide
from smartscale.control.demand import DemandRow, Peaks
from smartscale.records.decisions import Decision
from smartscale.testing.policies import policy

WINDOW_S: Final = 10
DELAY_S: Final = 2
HORIZON: Final = 30
_Seconds = Annotated[int, Meta(ge=0)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping of a scenario file."""


class Point(_Part, frozen=True, kw_only=True):
    """The load at an instant; between two points it changes in a straight line."""

    at_s: _Seconds
    per_s: Annotated[float, Meta(ge=0)]


class Fault(_Part, frozen=True, kw_only=True):
    """``data_gap``: no windows come; ``incomplete``: they come marked so; ``incident``: ml has one of ``class_``
    open; ``reads_zero``: the metric says zero though the load goes on; ``actuator``: no answer."""

    kind: Literal["data_gap", "incomplete", "incident", "reads_zero", "actuator"]
    from_s: _Seconds
    to_s: _Seconds
    class_: str = msgspec.field(default="fault", name="class")


class Expected(_Part, frozen=True, kw_only=True):
    """Between two instants replicas wanted are in ``replicas``, both included."""

    from_s: _Seconds
    to_s: _Seconds
    replicas: tuple[int, int]


class Scenario(_Part, frozen=True, kw_only=True):
    """A scenario file. ``forecast``: ``none``, or ``oracle`` (the true maximum to come)."""

    about: str
    policy: dict[str, object]
    load: Annotated[list[Point], Meta(min_length=1)]
    duration_s: Annotated[int, Meta(gt=0)]
    startup_s: float = 30.0
    interval_s: float = 15.0
    forecast: Literal["none", "oracle"] = "none"
    faults: list[Fault] = []
    expect: list[Expected]
    max_overload_s: int
    max_reversals: int

    def load_at(self, second: float) -> float:
        """Events a second at an instant."""
        before = self.load[0]
        for point in self.load:
            if point.at_s > second:
                share = (second - before.at_s) / (point.at_s - before.at_s) if point is not before else 0.0
                return before.per_s + share * (point.per_s - before.per_s)
            before = point
        return before.per_s

    def active(self, kind: str, second: float) -> Fault | None:
        return next((f for f in self.faults if f.kind == kind and f.from_s <= second < f.to_s), None)


class Trace(msgspec.Struct):
    """What came of a scenario: wanted and ready replicas by second, and every decision."""

    wanted: list[int]
    ready: list[int]
    overload_s: int
    reversals: int
    decisions: list[Decision]


def play(scenario: Scenario) -> Trace:
    """Run a scenario second by second."""
    rules = policy(**scenario.policy)
    capacity = rules.spec.capacity_per_replica
    state, fleet = State(), list[int]()  # the second from which each replica serves
    trace = Trace([], [], 0, 0, [])
    last_change, due_s = 0, 0.0
    for second in range(scenario.duration_s):
        if second >= due_s:
            due_s += scenario.interval_s
            state, decision = decide(rules, state, _observe(scenario, second, len(fleet)))
            trace.decisions.append(decision)
            change = decision.desired - len(fleet) if decision.act else 0
            if change:
                trace.reversals += change * last_change < 0
                last_change = change
                fleet = (
                    fleet[:change] if change < 0 else fleet + [second + round(scenario.startup_s)] * change
                )
        ready = sum(start <= second for start in fleet)
        trace.wanted.append(len(fleet))
        trace.ready.append(ready)
        trace.overload_s += scenario.load_at(second) > ready * capacity
    return trace


def _observe(scenario: Scenario, second: int, current: int) -> Observation:
    broken = scenario.active("actuator", second)
    incident = scenario.active("incident", second)
    return Observation(
        now_us=second * MICROS,
        epoch=1,
        interval_s=scenario.interval_s,
        stale_after_s=60.0,
        valid_for_s=2 * scenario.interval_s,
        current=None if broken else current,
        demand=_row(scenario, second),
        forecast=_forecast(scenario, second) if scenario.forecast == "oracle" else None,
        incidents=[OpenIncident("i1", incident.class_, incident.from_s * MICROS)] if incident else [],
        lead_time_s=scenario.startup_s,
        actuator_error="no answer" if broken else None,
    )


def _row(scenario: Scenario, second: int) -> DemandRow | None:
    """The newest window that has come in by now."""
    end_s = (second - DELAY_S) // WINDOW_S * WINDOW_S
    while end_s >= WINDOW_S and scenario.active("data_gap", end_s - 1):
        end_s -= WINDOW_S
    if end_s < WINDOW_S:
        return None
    loads = [scenario.load_at(at) for at in range(end_s - WINDOW_S, end_s)]
    load = 0.0 if scenario.active("reads_zero", end_s - 1) else sum(loads) / WINDOW_S
    complete = scenario.active("incomplete", end_s - 1) is None
    return DemandRow("arrivals", f"metric/arrivals/10s@{end_s}", load, end_s * MICROS, 1, complete)


def _forecast(scenario: Scenario, second: int) -> Peaks:
    origin_s = second // WINDOW_S * WINDOW_S
    highest, peaks = 0.0, []
    for step in range(HORIZON):
        at_s = origin_s + step * WINDOW_S
        highest = max(highest, *(scenario.load_at(at_s + more) for more in range(WINDOW_S + 1)))
        peaks.append([highest, highest])
    return Peaks("arrivals", origin_s * MICROS, float(WINDOW_S), [0.5, 0.95], peaks)
