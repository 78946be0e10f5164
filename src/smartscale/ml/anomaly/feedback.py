"""Whether people are told of an incident: what they said before, when they want to hear nothing, and the alert budget.

::

    incident, open and not told yet ──▶ muted? ──▶ a repeat of one acknowledged? ──▶ below a bar raised by false alarms?
                                          │                 │                               │
                                          ▼                 ▼                               ▼   else: budget spent?
                                    silenced, with the reason, and asked again at every step, for as long as it is open

Nothing here changes what an incident is: it is recorded, with the reason, and control acts on it. An incident that outlasts
its mute, or grows beyond its bar, or is still open when the budget is there again, is told then.

**False alarms** raise a bar for the effect of a kind at a service. Each moves it to the geometric mean of where it is
and ``MARGIN`` times the false alarm's effect; two such silence alarms of that size. It never rises above ``LIMITS``, and
what it rose by fades by half in ``HALF_LIFE_US``. So a **plain outage** is never silenced by feedback: ``ZERO`` has no
bar, and a fall to a tenth and 50 points of errors are beyond every limit.

**Acknowledged** incidents silence repeats: incidents of the same service without a new kind, not graver by ``WORSE``, that
begin until ``REPEAT_US`` after the end of the one that was acknowledged. Plain outages are told all the same.

Everything is a function of the records read so far: times come from them and from the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final, NamedTuple

import msgspec

from smartscale import calendars
from smartscale.clock import MICROS, iso
from smartscale.ml.anomaly.evidence import DROP, ERRORS, LATENCY, RULES, SURGE, ZERO
from smartscale.ml.anomaly.incidents import WORSE
from smartscale.records.explain import effect_text
from smartscale.records.forecasts import Incident
from smartscale.records.people import ACK, BUDGET_SPENT, FALSE_ALARM, Feedback, Mute, Notice

Name = tuple[str, str]
"""Tenant and service."""

MARGIN: Final = 1.5
"""A bar tends to this many times the effect that was called false: alarms half as large again are news once more."""
LIMITS: Final = {SURGE: 10.0, DROP: 10.0, ERRORS: 0.45, LATENCY: 10.0}
"""Where bars end: ten times the expected (of a drop: a tenth of it), 45 points of errors."""
OTHER_LIMIT: Final = 4.0
"""And for kinds not named there: this many times the effect that raises them."""
HALF_LIFE_US: Final = 14 * 86_400 * MICROS
"""Two weeks: a bar outlasts the weekend, and a service that has changed is watched afresh within a season."""
GONE: Final = 1.01
"""A bar less than a percent above its rule's effect is none."""
REPEAT_US: Final = 3600 * MICROS
"""An hour after the end of an acknowledged incident, whoever saw to it may still be at it."""
REMEMBERED: Final = 100
"""Ids of feedback kept per service, to know repeats by."""
OUTAGE: Final = {ZERO: 1.0, DROP: 10.0, ERRORS: 0.5}
"""Kinds, and the effects from which they are a plain outage."""
BUDGET: Final = "alert budget"
"""How the reason of an incident begins that the budget silenced."""
SEVERE: Final = 0.5
"""The last quarter of the budget is kept for incidents of at least this severity: half of the service."""


class Bar(msgspec.Struct, frozen=True):
    """The effect asked of a kind, as it was at ``since_us``, and how many false alarms raised it."""

    height: float
    since_us: int
    count: int


class Ack(msgspec.Struct, frozen=True):
    """An incident that was acknowledged. Incidents that begin before ``until_us`` may be repeats of it."""

    incident: str
    kinds: tuple[str, ...]
    severity: float
    until_us: int
    who: str


class Heard(msgspec.Struct, frozen=True):
    """What was said about one service."""

    bars: dict[str, Bar] = {}
    acks: tuple[Ack, ...] = ()
    ids: tuple[str, ...] = ()


class Budget(msgspec.Struct, frozen=True):
    """Notifications made on a day (its ordinal), and incidents that were not told because none was left."""

    day: int = -1
    used: int = 0
    silenced: int = 0


class Plan(NamedTuple):
    """``allowed``: this partition's share of the alert budget, a day of ``zone``. ``mutes`` are those of the settings."""

    partition: int
    allowed: int
    zone: str = "UTC"
    mutes: tuple[Mute, ...] = ()


def hear(heard: Heard, said: Feedback) -> Heard:
    """What is known of a service after one more word; a repeat of it changes nothing."""
    if said.id in heard.ids:
        return heard
    bars, acks = dict(heard.bars), heard.acks
    if said.said == FALSE_ALARM:
        for kind, effect in said.kinds.items():
            if kind in RULES and kind != ZERO:
                bars[kind] = _raised(kind, heard.bars.get(kind), effect, said.time_us)
    if said.said in (ACK, FALSE_ALARM):
        end_us = said.time_us if said.end_us is None else max(said.end_us, said.time_us)
        ack = Ack(said.incident, tuple(said.kinds), said.severity, end_us + REPEAT_US, said.who)
        acks = (*(a for a in acks if a.incident != said.incident and a.until_us > said.time_us), ack)
    return Heard(bars, acks, (*heard.ids, said.id)[-REMEMBERED:])


def _raised(kind: str, known: Bar | None, effect: float, at_us: int) -> Bar:
    rule = RULES[kind].effect
    height = bar(kind, known, at_us)
    goal = min(MARGIN * effect, limit(kind))
    raised = (height * max(goal, height)) ** 0.5
    count = 0 if height <= rule or known is None else known.count
    return Bar(min(raised, limit(kind)), at_us, count + 1)


def limit(kind: str) -> float:
    """Where the bar of a kind ends."""
    return LIMITS.get(kind, OTHER_LIMIT * RULES[kind].effect)


def bar(kind: str, known: Bar | None, at_us: int) -> float:
    """The effect asked of a kind now: what the false alarms raised it by fades by half every ``HALF_LIFE_US``."""
    rule = RULES[kind].effect
    if known is None:
        return rule
    age = max(0, at_us - known.since_us) / HALF_LIFE_US
    height = rule * max(known.height / rule, 1.0) ** (0.5**age)
    return rule if height < GONE * rule else height


def is_outage(incident: Incident) -> bool:
    """Whether it is so plain that no feedback silences it."""
    return any(incident.kinds.get(kind, 0.0) >= effect for kind, effect in OUTAGE.items())


def ended(heard: Heard, incident: Incident) -> Heard:
    """An incident has ended: if it was acknowledged, repeats are silent for a while from now on."""
    if incident.end_us is None or all(ack.incident != incident.id for ack in heard.acks):
        return heard
    until_us = incident.end_us + REPEAT_US
    acks = tuple(
        msgspec.structs.replace(ack, until_us=max(ack.until_us, until_us))
        if ack.incident == incident.id
        else ack
        for ack in heard.acks
    )
    return msgspec.structs.replace(heard, acks=acks)


def unwanted(heard: Heard, mutes: Sequence[Mute], incident: Incident, at_us: int) -> str:
    """Why nobody wants to hear of an open incident at this step; empty if somebody does."""
    for mute in mutes:
        until_us = calendars.muted_until(mute, at_us) if calendars.means(mute, incident) else None
        if until_us is not None:
            until = "it is lifted" if until_us == calendars.FOREVER else iso(until_us)
            return f"mute window {mute.name!r} until {until}"
    if is_outage(incident):
        return ""
    for ack in heard.acks:
        known = set(incident.kinds) <= set(ack.kinds) and incident.severity < ack.severity + WORSE
        if known and (incident.id == ack.incident or incident.start_us < ack.until_us):
            return f"repeat of {ack.incident}, which {ack.who or 'somebody'} has seen"
    asked = {kind: bar(kind, known, at_us) for kind, known in heard.bars.items() if kind in incident.kinds}
    if set(asked) == set(incident.kinds) and all(
        incident.kinds[k] < asked[k] > RULES[k].effect for k in asked
    ):
        kind = max(asked, key=lambda k: incident.kinds[k] / asked[k])
        count = heard.bars[kind].count
        alarms = "a false alarm" if count == 1 else f"{count} false alarms"
        return f"{alarms} raised the bar of {kind} to {effect_text(kind, asked[kind])}"
    return ""


class Case(NamedTuple):
    """A service with an incident, at one step. ``record``: whether there is news of it. ``opens``: it is new."""

    name: Name
    incident: Incident
    record: bool
    opens: bool


class Verdict(NamedTuple):
    """What is published of a case, if anything, and the incident as it now is."""

    name: Name
    record: Incident | None
    incident: Incident


def judge(
    plan: Plan,
    budget: Budget,
    heard: Mapping[Name, Heard],
    mutes: Sequence[Mute],
    cases: Sequence[Case],
    at_us: int,
) -> tuple[Budget, list[Verdict], list[Notice]]:
    """Who is told at the step that ends at ``at_us``: the gravest of the step first, while the budget lasts.

    ``mutes`` are those made by command. Verdicts come in the order of the cases."""
    notices = []
    day = calendars.local_day(at_us, plan.zone).toordinal()
    if day != budget.day:
        if budget.silenced > 0:
            notices.append(notice(plan, budget, at_us))
        budget = Budget(day)
    every = [*plan.mutes, *mutes]
    verdicts = {}
    for case in sorted(cases, key=lambda c: (-c.incident.severity, c.name)):
        now = case.incident
        if now.end_us is None and (case.opens or not now.notify):
            reason = unwanted(heard.get(case.name, Heard()), every, now, at_us)
            if not reason and has_room(budget, plan.allowed, now.severity):
                budget = msgspec.structs.replace(budget, used=budget.used + 1)
            elif not reason:
                reason = spent_text(budget, plan.allowed, now.severity)
                if not now.silenced.startswith(BUDGET):
                    budget = msgspec.structs.replace(budget, silenced=budget.silenced + 1)
                    if budget.silenced == 1:
                        notices.append(notice(plan, budget, at_us))
            now = msgspec.structs.replace(now, notify=not reason, silenced=reason)
        told_late = now.notify and not case.incident.notify
        verdicts[case.name] = Verdict(case.name, now if case.record or told_late else None, now)
    return budget, [verdicts[case.name] for case in cases], notices


def has_room(budget: Budget, allowed: int, severity: float) -> bool:
    """Whether the budget has room for a notification. The last quarter is kept for what is severe."""
    kept = allowed // 4
    return budget.used < (allowed if severity >= SEVERE else allowed - kept)


def spent_text(budget: Budget, allowed: int, severity: float) -> str:
    """Why the budget has no room, for ``Incident.silenced``."""
    if severity < SEVERE and budget.used < allowed:
        return (
            f"{BUDGET}: the last {allowed - budget.used} of {allowed} are kept for severity {SEVERE} and more"
        )
    return f"{BUDGET}: all {allowed} of {date.fromordinal(budget.day)} are spent"


def notice(plan: Plan, budget: Budget, at_us: int) -> Notice:
    """That the budget of a day is spent, and how many incidents that has silenced so far."""
    day = date.fromordinal(budget.day).isoformat()
    silenced = f"{budget.silenced} incident{'' if budget.silenced == 1 else 's'}"
    return Notice(
        id=f"budget-{day}-{plan.partition}",
        kind=BUDGET_SPENT,
        partition=plan.partition,
        day=day,
        allowed=plan.allowed,
        silenced=budget.silenced,
        time_us=at_us,
        text=f"alert budget of {day} spent: {silenced} silenced (partition {plan.partition} may tell {plan.allowed} a day)",
    )
