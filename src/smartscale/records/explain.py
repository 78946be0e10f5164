"""An incident in words and numbers, from its record alone: the same text wherever somebody asks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from smartscale.clock import iso, span_text
from smartscale.records.forecasts import ARRIVALS, DATA_GAP, DEMAND_SURGE, FAULT, LEVEL_SHIFT, RATE, Incident
from smartscale.records.people import Feedback, said_text

AROUND_US: Final = 60_000_000
"""Incidents that overlap one, give or take a minute, were there at its time."""


def explain(
    incident: Incident, others: Iterable[Incident] = (), said: Iterable[Feedback] = ()
) -> list[tuple[str, str]]:
    """Question and answer, in the order in which people ask. ``others``: incidents that may have been there at the time;
    ``said``: what people said of this one."""
    until_us = incident.updated_us if incident.end_us is None else incident.end_us
    lasted = span_text(max(0, until_us - incident.start_us))
    state = f"open for {lasted}" if incident.end_us is None else f"until {iso(until_us)} ({lasted})"
    return [
        ("what", f"{incident.class_} of {incident.service} (tenant {incident.tenant})"),
        ("when", f"since {iso(incident.start_us)}, {state}"),
        ("seen", incident.text),
        ("expected", _expected(incident)),
        ("how sure", _sure(incident)),
        ("how severe", f"{incident.severity:.2f} of 1: {_why_severe(incident)}"),
        ("why this class", _why_class(incident)),
        ("told", "yes" if incident.notify else f"no: {incident.silenced or 'the alert budget was spent'}"),
        ("at the time", "\n".join(_at_the_time(incident, others, until_us)) or "nothing else"),
        ("said", "\n".join(f"{iso(one.time_us)} {said_text(one)}" for one in said) or "nothing yet"),
    ]


def effect_text(kind: str, effect: float) -> str:
    """An effect with its unit.

    >>> effect_text("surge", 1.62), effect_text("drop", 2.0), effect_text("errors", 0.123)
    ('1.6 times the expected', '1/2.0 of the expected', '12 points above the expected')
    """
    match kind:
        case "errors":
            return f"{100 * effect:.0f} points above the expected"
        case "zero":
            return "nothing at all"
        case "drop":
            return f"1/{effect:.1f} of the expected"
        case _:
            return f"{effect:.1f} times the expected"


def _expected(incident: Incident) -> str:
    if incident.low is None or incident.high is None:
        return "unknown"
    unit, scale, digits = _UNITS.get(incident.metric.partition("_p")[0], ("", 1.0, "{:,.3g}"))
    low, high = (digits.format(scale * value) for value in (incident.low, incident.high))
    middle = "" if incident.expected is None else f", most likely {digits.format(scale * incident.expected)}"
    return f"{incident.metric} from {low} to {high}{unit and ' '}{unit}{middle}"


_UNITS: Final = {
    "error_rate": ("%", 100.0, "{:.1f}"),
    "latency": ("ms", 1.0, "{:,.0f}"),
    **dict.fromkeys((ARRIVALS, RATE), ("a second", 1.0, "{:,.1f}")),
}


def _sure(incident: Incident) -> str:
    if incident.probability is None:
        return "no probability was computed"
    return f"{100 * incident.probability:.1f} % that something is out of the ordinary"


def _why_severe(incident: Incident) -> str:
    parts = [f"{kind} {effect_text(kind, effect)}" for kind, effect in incident.kinds.items()]
    return ", ".join(parts) or "by how far it is beyond what was expected"


def _why_class(incident: Incident) -> str:
    kinds = incident.kinds
    match incident.class_:
        case c if c == DEMAND_SURGE and (not kinds or "surge" in kinds):
            return "demand is above what was forecast; control scales to it"
        case c if c == DEMAND_SURGE:
            return "answers are slow while demand has risen: it overloads the service; control scales to it"
        case c if c == FAULT and "surge" in kinds:
            return "failures came with the demand, or before it: what fails is tried again; control holds the replicas"
        case c if c == FAULT and set(kinds) <= {"gauge", "combined"} and kinds:
            return "system metrics that do not belong to this demand; control holds the replicas"
        case c if c == FAULT:
            return "errors or slow answers that demand does not explain; control holds the replicas"
        case c if c == DATA_GAP:
            return "nothing arrived where something was sure; control holds the replicas, silence is not taken for calm"
        case c if c == LEVEL_SHIFT and incident.end_us is not None:
            return f"{incident.metric} stayed at its new level: told once, and the normal one from then on"
        case c if c == LEVEL_SHIFT:
            return "demand fell below what was forecast, and stays there"
        case c:
            return c


def _at_the_time(incident: Incident, others: Iterable[Incident], until_us: int) -> list[str]:
    first_us, last_us = incident.start_us - AROUND_US, until_us + AROUND_US
    return [
        f"{other.id} {other.class_} of {other.service} since {iso(other.start_us)}: {other.text}"
        for other in sorted(others, key=lambda o: o.start_us)
        if other.id != incident.id
        and other.tenant == incident.tenant
        and other.start_us <= last_us
        and (other.end_us is None or other.end_us >= first_us)
    ]
