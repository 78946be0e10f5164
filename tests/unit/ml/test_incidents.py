"""From sights to incidents, drawn as timelines: one sign a step.

``.`` inside the band, ``^`` demand above it, ``_`` demand below it, ``0`` nothing at all, ``x`` errors,
``*`` as much demand as ``^``, most of which fails, ``~`` latency, ``%`` errors and latency, ``#`` demand above
the band with errors and latency, ``o`` nothing at all, but no longer a surprise to the forecast.
"""

from __future__ import annotations

import pytest

from smartscale.ml.anomaly.evidence import DROP, ERRORS, LATENCY, SURGE, ZERO
from smartscale.ml.anomaly.incidents import Service, Sight, Track, step
from smartscale.records.forecasts import DATA_GAP, DEMAND_SURGE, FAULT, LEVEL_SHIFT, Incident

STEP_US = 10_000_000
CALM = Service("default", "web", "arrivals", demand_rose=False)

NORMAL, HIGH, LOW = 100.0, 300.0, 40.0
DEMAND = {"^": HIGH, "#": HIGH, "*": HIGH, "_": LOW, "0": 0.0, "o": 0.0}
FAULTY, SLOW = frozenset("x%#"), frozenset("~%#")


def sights(sign: str) -> list[Sight]:
    """What is seen at a step, against a band of 80 to 120 a second, 1 % errors and 100 ms."""
    demand = DEMAND.get(sign, NORMAL)
    errors = 0.7 if sign == "*" else 0.3 if sign in FAULTY else 0.01
    p99 = 400.0 if sign in SLOW else 100.0
    return [
        Sight(SURGE, demand, 100.0, 80.0, 120.0, demand / 100, demand == HIGH),
        Sight(DROP, demand, 100.0, 80.0, 120.0, 100 / max(demand, 1), demand == LOW),
        Sight(ZERO, demand, 100.0, 80.0, 120.0, 1.0, sign == "0"),
        Sight(ERRORS, errors, 0.01, 0.0, 0.06, errors - 0.01, errors > 0.06),
        Sight(LATENCY, p99, 100.0, 0.0, 150.0, p99 / 100, p99 > 150),
    ]


def told(timeline: str, service: Service = CALM) -> list[Incident]:
    """Every record of a timeline whose first step is number 1."""
    track, records = Track(), []
    for now, sign in enumerate(timeline, start=1):
        track, incident = step(track, service, sights(sign), now, STEP_US)
        if incident is not None:
            records.append(incident)
    return records


def classes(timeline: str, service: Service = CALM) -> list[str]:
    """Final class of each incident of a timeline, in order."""
    return list({i.id: i.class_ for i in told(timeline, service)}.values())


@pytest.mark.parametrize(
    ("timeline", "expected"),
    [
        ("..........", []),
        ("...^^^^^......", [DEMAND_SURGE]),
        ("...xxxx.......", [FAULT]),
        ("...~~~~.......", [FAULT]),
        ("...~..........", []),  # one slow window is no incident
        ("...0000.......", [DATA_GAP]),
        ("...##########.....", [DEMAND_SURGE]),  # overload follows the surge
        ("...^^^%%%%%%......", [DEMAND_SURGE]),  # and may outlast it
        ("...x##########....", [DEMAND_SURGE]),  # errors were seen first, the surge explains them
        ("...xxxxxxx######...", [FAULT]),  # a fault that draws retries stays a fault
        ("...*******.......", [FAULT]),  # retries of what fails: without them demand is as it was
        ("...^*******......", [FAULT]),  # though the demand was seen first
        ("...xx0000......", [DATA_GAP]),
        ("..____........", []),  # a short dip
        (".._oooo.......", [DATA_GAP]),  # silence after a dip that the forecast has followed already
        ("..______........", [LEVEL_SHIFT]),
        ("...^^^.^^^....", [DEMAND_SURGE]),  # one calm step does not split an incident
        ("...^^^......^^^......", [DEMAND_SURGE, DEMAND_SURGE]),
        ("...xxx......xxx......", [FAULT, FAULT]),
        ("...^^^....xxxxx.....", [DEMAND_SURGE, FAULT]),  # errors alone are a fault, even after a surge
    ],
)
def test_a_timeline_gives_these_incidents(timeline: str, expected: list[str]) -> None:
    """The table is the specification."""
    assert classes(timeline) == expected


def test_an_incident_is_told_when_it_opens_and_when_it_closes() -> None:
    """Starts with the first strange window, ends with the last, closes after three calm ones."""
    first, last = told("...^^^^......")
    assert (first.start_us, first.end_us, first.updated_us) == (3 * STEP_US, None, 4 * STEP_US)
    assert (last.start_us, last.end_us, last.updated_us) == (3 * STEP_US, 7 * STEP_US, 10 * STEP_US)
    assert first.id == last.id
    assert (first.metric, first.low, first.high, first.seen) == ("arrivals", 80.0, 120.0, 300.0)
    assert first.text == "arrivals 300 /s for 10 s, expected 100 /s (80 to 120)"
    assert last.text == "arrivals 300 /s for 40 s, expected 100 /s (80 to 120)"
    assert (first.expected, first.kinds) == (100.0, {SURGE: 3.0})


def test_a_fault_says_how_bad_in_words_and_numbers() -> None:
    """Metric, usual value and severity."""
    opened = told("..%%%")[0]
    assert opened.metric == "error_rate"
    assert opened.severity == pytest.approx(0.58)
    assert opened.text == "error rate 30.0 % for 10 s, usually 1.0 % (up to 6.0 %)"


def test_the_last_record_tells_all_that_was_seen() -> None:
    """Errors that ended first, and slow answers that went on; each with its own time."""
    last = told("..%%%~~~~......")[-1]
    assert last.text == (
        "error rate 30.0 % for 30 s, usually 1.0 % (up to 6.0 %); "
        "p99 latency 400 ms for 70 s, usually 100 ms (up to 150)"
    )
    assert last.kinds == {ERRORS: pytest.approx(0.29), LATENCY: 4.0}
    assert last.end_us == 9 * STEP_US


def test_a_surge_that_stays_is_told_once_as_a_level_shift() -> None:
    """After five minutes the new level is the normal one: the incident is closed although demand is not back."""
    records = told("..." + "^" * 31)
    assert [r.class_ for r in records] == [DEMAND_SURGE, LEVEL_SHIFT]
    assert records[-1].end_us is not None


def test_slow_answers_while_demand_has_risen_are_its_consequence() -> None:
    """An overload on a ramp is no fault of the service."""
    assert classes("..~~~~....", CALM._replace(demand_rose=True)) == [DEMAND_SURGE]
    assert classes("..xxxx....", CALM._replace(demand_rose=True)) == [FAULT]


def test_demand_returning_to_what_it_was_is_no_news() -> None:
    """After the surge the forecast still expects 300: the fall to 100 is raised, and not told."""
    track, _ = Track(), None
    records = []
    for now, sign in enumerate("..^^^^" + "." * 12, start=1):
        seen = sights(sign)
        if now > 6:  # the models expect the surge to go on, for a while
            seen[1] = Sight(DROP, NORMAL, 300.0, 250.0, 350.0, 3.0, raised=True)
        track, incident = step(track, CALM, seen, now, STEP_US)
        records += [incident] if incident else []
    assert {r.class_ for r in records} == {DEMAND_SURGE}


def test_what_cannot_be_measured_counts_as_calm() -> None:
    """Without requests there is no error rate: the fault ends."""
    track, last = Track(), None
    for now, sign in enumerate("xxx...", start=1):
        seen = sights(sign) if sign == "x" else sights(sign)[:3]
        track, incident = step(track, CALM, seen, now, STEP_US)
        last = incident or last
    assert last is not None
    assert last.end_us == 3 * STEP_US
