"""Who is told of an incident: feedback, mutes, budget. Pure, with drawn timelines and arbitrary words."""

from __future__ import annotations

from collections import Counter
from datetime import date

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale import calendars
from smartscale.clock import MICROS, iso
from smartscale.ml.anomaly import feedback, incidents
from smartscale.ml.anomaly.evidence import DROP, ERRORS, LATENCY, RULES, SURGE, ZERO
from smartscale.ml.anomaly.feedback import Budget, Case, Heard, Plan
from smartscale.records import forecasts
from smartscale.records.forecasts import FAULT, LEVEL_SHIFT, Incident
from smartscale.records.people import ACK, FALSE_ALARM, SAID, Feedback, Mute, Notice

STEP_US = 10 * MICROS
DAY_US = 86_400 * MICROS
WEB = ("default", "web")


def incident(kinds: dict[str, float], at_us: int = 0, severity: float = 0.4, **more: object) -> Incident:
    made = Incident(
        f"inc-{at_us}", *WEB, FAULT, at_us, None, at_us, severity, "error_rate", 0.0, 0.06, 0.3, "text", kinds=kinds
    )  # fmt: skip
    return msgspec.structs.replace(made, **more)


def said(
    word: str, kinds: dict[str, float], at_us: int = 0, name: str = "1", severity: float = 0.4
) -> Feedback:
    return Feedback(
        id=name, said=word, incident="inc-0", tenant="default", service="web", class_=FAULT, kinds=kinds,
        severity=severity, end_us=at_us, time_us=at_us, who="ann",
    )  # fmt: skip


def reason(heard: Heard, one: Incident, at_us: int = 0, mutes: tuple[Mute, ...] = ()) -> str:
    return feedback.unwanted(heard, mutes, one, at_us)


def test_people_and_ml_know_the_same_kinds_of_evidence() -> None:
    """A mute that names another is refused, so the names are kept with the records."""
    assert set(forecasts.KINDS) == set(RULES)


# --- false alarms ---------------------------------------------------------------------------------------------


def test_two_false_alarms_silence_alarms_of_that_size_and_say_so() -> None:
    """One asks for more; greater alarms, other kinds and the outage of the same service are told."""
    later = 10 * 3600 * MICROS
    once = feedback.hear(Heard(), said(FALSE_ALARM, {SURGE: 3.0}))
    assert reason(once, incident({SURGE: 2.0}, later), later) == (
        "a false alarm raised the bar of surge to 2.4 times the expected"
    )
    assert reason(once, incident({SURGE: 3.0}, later), later) == ""
    twice = feedback.hear(once, said(FALSE_ALARM, {SURGE: 3.0}, name="2"))
    assert reason(twice, incident({SURGE: 3.0}, later), later).startswith("2 false alarms raised the bar")
    assert reason(twice, incident({SURGE: 4.5}, later), later) == ""
    assert reason(twice, incident({SURGE: 3.0, ERRORS: 0.1}, later), later) == ""


def test_what_false_alarms_raised_fades_and_is_gone_within_months() -> None:
    """Half of it, in logarithms, every two weeks."""
    heard = feedback.hear(Heard(), said(FALSE_ALARM, {LATENCY: 6.0}))
    rule = RULES[LATENCY].effect
    bars = [feedback.bar(LATENCY, heard.bars[LATENCY], weeks * 7 * DAY_US) for weeks in (0, 2, 4, 20)]
    assert bars[0] == pytest.approx((rule * 9) ** 0.5)
    assert bars[1] == pytest.approx(rule * (bars[0] / rule) ** 0.5)
    assert bars == sorted(bars, reverse=True)
    assert bars[-1] == rule


words = st.builds(
    said,
    st.sampled_from(SAID),
    st.dictionaries(st.sampled_from(sorted(RULES)), st.floats(0, 1e6), min_size=1),
    st.integers(0, 100 * DAY_US),
    st.text("abc", min_size=1, max_size=3),
    st.floats(0.05, 1),
)


@given(st.lists(words, max_size=30), st.integers(0, 200 * DAY_US), st.sampled_from(sorted(RULES)))
def test_whatever_was_said_a_bar_stays_within_its_bound_and_an_outage_is_told(
    everything: list[Feedback], at_us: int, other: str
) -> None:
    """Nothing at all, 50 points of errors, a fall to a tenth: by any feedback in any order, at any time."""
    heard = Heard()
    for one in everything:
        heard = feedback.hear(heard, one)
    assert ZERO not in heard.bars
    for kind, raised in heard.bars.items():
        assert RULES[kind].effect <= feedback.bar(kind, raised, at_us) <= feedback.limit(kind)
    for outage in ({ZERO: 1.0}, {ERRORS: 0.5}, {DROP: 10.0}):
        assert reason(heard, incident({other: 1e-3, **outage}, at_us, severity=0.05), at_us) == ""


@given(st.lists(words, max_size=8), st.data())
def test_said_twice_counts_once(everything: list[Feedback], data: st.DataObject) -> None:
    """A retry, or a replay after the state was restored from behind it."""
    heard = Heard()
    for one in everything:
        heard = feedback.hear(heard, one)
    again = data.draw(st.sampled_from(everything)) if everything else None
    assert again is None or feedback.hear(heard, again) == heard
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(heard), type=Heard) == heard


# --- acknowledged ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "silent"),
    [
        (incident({LATENCY: 2.0}, 1800 * MICROS), True),
        (incident({LATENCY: 2.0}, 3599 * MICROS, severity=0.55), True),
        (incident({LATENCY: 2.0}, 1800 * MICROS, severity=0.61), False),  # graver
        (incident({LATENCY: 2.0, SURGE: 2.0}, 1800 * MICROS), False),  # something new
        (incident({LATENCY: 2.0}, 3600 * MICROS), False),  # an hour later
    ],
)
def test_an_acknowledged_incident_silences_its_repeats_for_an_hour(one: Incident, silent: bool) -> None:
    """Same service, nothing new, not graver."""
    heard = feedback.hear(Heard(), said(ACK, {LATENCY: 2.0, ERRORS: 0.1}))
    expected = "repeat of inc-0, which ann has seen" if silent else ""
    assert reason(heard, one, one.start_us) == expected


def test_the_hour_begins_when_the_acknowledged_incident_ends() -> None:
    """It was open when it was acknowledged."""
    heard = feedback.hear(Heard(), said(ACK, {LATENCY: 2.0}))
    end_us = 7200 * MICROS
    heard = feedback.ended(heard, incident({LATENCY: 2.0}, end_us=end_us))
    assert reason(heard, incident({LATENCY: 2.0}, end_us + 3599 * MICROS), end_us + 3599 * MICROS) != ""
    assert reason(heard, incident({LATENCY: 2.0}, end_us + 3600 * MICROS), end_us + 3600 * MICROS) == ""


# --- mutes ----------------------------------------------------------------------------------------------------

LONG = 31
"""Steps after which a level is the new one."""
DEMAND = {"^": 300.0, "-": 40.0}


def lived(
    timeline: str, muted: str = "", plan: Plan = Plan(0, 20), mute: Mute | None = None
) -> list[tuple[int, Incident]]:
    """Records of a service by step: ``.`` 100 a second, ``^`` 300, ``-`` 40, ``x`` errors. What was seen for ``LONG``
    steps is expected from then on. From the first to the last ``m`` of ``muted`` everything is muted."""
    mutes = [mute] if mute else []
    if "m" in muted:
        first, last = (muted.index("m") + 1) * STEP_US, (muted.rindex("m") + 2) * STEP_US
        mutes = [Mute(name="works", from_=iso(first), to=iso(last))]
    track, budget, records = incidents.Track(), Budget(), []
    expected, recent = 100.0, list[float]()
    for now, sign in enumerate(timeline, start=1):
        demand, errors = DEMAND.get(sign, 100.0), 0.3 if sign == "x" else 0.01
        usual, low, high = expected, 0.8 * expected, 1.2 * expected
        sights = [
            incidents.Sight(SURGE, demand, usual, low, high, demand / usual, demand > high),
            incidents.Sight(DROP, demand, usual, low, high, usual / demand, demand < low),
            incidents.Sight(ERRORS, errors, 0.01, 0.0, 0.06, errors - 0.01, errors > 0.06),
        ]
        recent = [*recent, demand][-LONG:]
        expected = demand if recent == [demand] * LONG else expected
        before = track
        track, record = incidents.step(
            track, incidents.Service(*WEB, "arrivals", demand_rose=False), sights, now, STEP_US
        )
        known = record or (track.open.told if track.open else None)
        if known is None:
            continue
        case = Case(WEB, known, record is not None, before.open is None)
        budget, [verdict], _ = feedback.judge(plan, budget, {}, mutes, [case], now * STEP_US)
        if track.open is not None:
            track = incidents.as_told(track, verdict.incident)
        records += [(now, verdict.record)] if verdict.record else []
    return records


def test_a_muted_incident_is_recorded_with_the_reason() -> None:
    """From its first record to its last."""
    records = lived("..xxxx......", "mmmmmmmmmmmm")
    assert [(r.notify, r.end_us is None) for _, r in records] == [(False, True), (False, False)]
    assert records[0][1].silenced == "mute window 'works' until 1970-01-01T00:02:10Z"


def test_an_incident_that_outlasts_its_mute_is_told_then() -> None:
    """Once, at the step after the window."""
    assert [(now, r.notify, r.silenced) for now, r in lived("..xxxxxxxx......", "mmmm")] == [
        (3, False, "mute window 'works' until 1970-01-01T00:00:50Z"),
        (5, True, ""),
        (13, True, ""),
    ]


@pytest.mark.parametrize(
    ("fields", "muted"),
    [
        ({"services": "w*"}, True),
        ({"services": "api"}, False),
        ({"tenants": "other"}, False),
        ({"classes": (FAULT,)}, True),
        ({"classes": ("data-gap",)}, False),
        ({"kinds": (ERRORS, LATENCY)}, True),
        ({"kinds": (SURGE,)}, False),
    ],
)
def test_a_mute_means_what_fits_all_it_names(fields: dict[str, object], muted: bool) -> None:
    """Patterns of names, classes, kinds."""
    mute = Mute(name="m", at="00:00-24:00", **fields)  # type: ignore[arg-type]
    assert calendars.means(mute, incident({ERRORS: 0.3})) == muted


# --- level shifts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeline", "muted", "shifts", "told"),
    [
        ("..." + "^" * 60, "", 1, 1),  # up
        ("..." + "-" * 60, "", 1, 1),  # down
        ("..." + "^" * 60 + "." * 60, "", 2, 2),  # up, and later back
        ("..." + "^" * 60 + "-" * 60, "", 2, 2),  # up, then far down
        ("..." + "^" * 60, "m" * 40, 1, 0),  # during a mute, over before it ends
        ("..." + "^" * 60, "m" * 10, 1, 1),  # the mute ends first
        ("..." + "^" * 60 + "." * 60, "m" * 40, 2, 1),  # up while muted, back when not
    ],
)
def test_people_are_told_once_of_each_level_shift(timeline: str, muted: str, shifts: int, told: int) -> None:
    """By the class the incident has at last; muted ones are in the log all the same."""
    records = [r for _, r in lived("." * LONG + timeline, "." * LONG + muted)]
    last = {r.id: r for r in records}
    assert [r.class_ for r in last.values()] == [LEVEL_SHIFT] * shifts
    assert all(r.end_us is not None for r in last.values())
    assert sum(r.notify for r in last.values()) == told


# --- the budget -----------------------------------------------------------------------------------------------


def test_a_spent_budget_silences_and_says_so_once_and_with_the_sum() -> None:
    """One notice when the first is silenced, one when the day is over."""
    plan, budget, notices = Plan(1, 2, "Europe/Berlin"), Budget(), []
    for i in range(5):
        case = Case((f"t{i}", "web"), incident({ZERO: 1.0}, i, severity=1.0), record=True, opens=True)
        budget, [verdict], new = feedback.judge(plan, budget, {}, [], [case], (20 + i // 4) * 3600 * MICROS)
        assert verdict.incident.notify == (i < 2)
        notices += new
    assert verdict.incident.silenced == "alert budget: all 2 of 1970-01-01 are spent"
    # Midnight in Berlin is 23:00 in UTC.
    budget, _, new = feedback.judge(plan, budget, {}, [], [], 23 * 3600 * MICROS)
    assert [n.silenced for n in (*notices, *new)] == [1, 3]
    assert len({n.id for n in (*notices, *new)}) == 1
    assert new[0].text == (
        "alert budget of 1970-01-01 spent: 3 incidents silenced (partition 1 may tell 2 a day)"
    )
    assert budget == Budget(date(1970, 1, 2).toordinal())


def test_the_gravest_of_a_step_comes_first_and_the_last_quarter_is_kept_for_the_grave() -> None:
    """No looking ahead: three of four are for whoever comes first."""
    cases = [
        Case((str(i), "web"), incident({ERRORS: 0.2}, i, severity=s), record=True, opens=True)
        for i, s in enumerate([0.1, 0.2, 0.3, 0.4])
    ]
    budget, verdicts, _ = feedback.judge(Plan(0, 4), Budget(), {}, [], cases, 0)
    assert [v.incident.notify for v in verdicts] == [False, True, True, True]
    assert verdicts[0].incident.silenced == "alert budget: the last 1 of 4 are kept for severity 0.5 and more"
    grave = Case(WEB, incident({ERRORS: 0.3}, 9, severity=0.6), record=True, opens=True)
    _, [verdict], _ = feedback.judge(Plan(0, 4), budget, {}, [], [grave], 0)
    assert verdict.incident.notify


steps = st.lists(
    st.tuples(
        st.integers(1, 4 * 3600),  # seconds since the step before
        st.lists(
            st.tuples(st.integers(0, 5), st.floats(0.05, 1), st.booleans()),
            max_size=4,
            unique_by=lambda c: c[0],
        ),
        st.booleans(),  # the state goes through a snapshot
    ),
    max_size=60,
)


@given(steps, st.integers(0, 5), st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]))
def test_no_day_has_more_notifications_than_the_budget_whatever_comes(
    stream: list[tuple[int, list[tuple[int, float, bool]], bool]], allowed: int, zone: str
) -> None:
    """Over arbitrary openings, changes and ends, across days, the change of the clock and restarts; each incident is told at
    most once, and the notice of a day counts those that were not."""
    plan, budget, now_us = Plan(0, allowed, zone), Budget(), 1_792_800_000 * MICROS  # 2026-10-24
    known: dict[int, Incident] = {}
    told: Counter[int] = Counter()
    silenced: Counter[int] = Counter()
    notices: dict[str, Notice] = {}
    for gap_s, moves, restart in stream:
        now_us += gap_s * MICROS
        cases = []
        for service, severity, ends in moves:
            before = known.get(service)
            now = before or incident({ERRORS: 0.3}, now_us, id=f"{service}-{now_us}")
            now = msgspec.structs.replace(
                now, severity=max(now.severity, severity), end_us=now_us if before and ends else None
            )
            cases.append(
                (service, before, Case((str(service), "web"), now, record=True, opens=before is None))
            )
        if restart:
            budget = msgspec.msgpack.decode(msgspec.msgpack.encode(budget), type=Budget)
        budget, verdicts, new = feedback.judge(plan, budget, {}, [], [case for _, _, case in cases], now_us)
        day = calendars.local_day(now_us, zone).toordinal()
        for (service, before, _), verdict in zip(cases, verdicts, strict=True):
            was = before is not None and before.notify
            told[day] += verdict.incident.notify and not was
            assert verdict.incident.notify or not was
            silenced[day] += not verdict.incident.notify and (before is None or not before.silenced)
            known[service] = verdict.incident
            if verdict.incident.end_us is not None:
                del known[service]
        notices |= {n.id: n for n in new}
    assert all(count <= allowed for count in told.values())
    noticed = {n.day: n.silenced for n in notices.values()}
    assert noticed.keys() == {date.fromordinal(day).isoformat() for day, count in silenced.items() if count}
