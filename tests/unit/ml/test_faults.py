"""The load generator's faults, once each, through the models step by step: told in time, as what they are, and nothing else.

``benchmarks/models/anomalies.py`` measures the same on hundreds of faults and weeks of traffic.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from smartscale.clock import MICROS
from smartscale.ml.anomaly.feedback import Plan
from smartscale.ml.partition import Models, State
from smartscale.ml.series.rows import Row
from smartscale.producer import scenario
from smartscale.producer.labels import TrueFault, true_faults
from smartscale.producer.windows import Windows, windows
from smartscale.records.forecasts import LEVEL_SHIFT, Incident
from smartscale.records.metrics import Progress

STEP_US = 10 * MICROS
MINUTES = 65
SCENARIO = """
seed: 4
duration: 65m
services:
  - {name: silent, rate: 30}
  - {name: failing, rate: 30, error_rate: 0.01}
  - {name: slow, rate: 30}
  - {name: storming, rate: 30}
  - {name: crowded, rate: 30, arrivals: {process: self_similar, sessions: 60}}
  - {name: shifted, rate: 30}
  - {name: "calm-{n}", rate: 30, count: 3, spread: 0.8}
  - {name: bursty, rate: 40, arrivals: {process: self_similar, sessions: 30}}
  - {name: busy, rate: 100, capacity: {per_s: 200}, shapes: [{kind: sine, amplitude: 0.5, period: 50m}]}
faults:
  - {kind: drop_to_zero, services: [silent], start: 2405s, duration: 3m}
  - {kind: error_spike, services: [failing], start: 2405s, duration: 3m, size: 0.2}
  - {kind: latency_step, services: [slow], start: 2405s, duration: 3m, size: 3}
  - {kind: retry_storm, services: [storming], start: 2405s, duration: 3m, size: 0.5}
  - {kind: flash_crowd, services: [crowded], start: 2405s, duration: 5m, size: 3}
  - {kind: level_shift, services: [shifted], start: 2405s, size: 1.6}
"""


@pytest.fixture(scope="module")
def faults() -> dict[str, TrueFault]:
    return {fault.service: fault for fault in true_faults(scenario.load_of(SCENARIO))}


def models() -> Models:
    return Models(10.0, 3, 600, Plan(0, 1000))


def rows(drawn: Windows, step: int) -> Iterator[Row]:
    end_us = drawn.start_us + (step + 1) * STEP_US
    for i, service in enumerate(drawn.services):
        count, (p50, p99) = int(drawn.count[i, step]), drawn.latency_ms[i, step, [0, 3]].tolist()
        yield Row(
            "default", service, "interaction", "*", "10s", end_us - STEP_US, end_us, count, int(drawn.errors[i, step]),
            count / 10, 1, True, True, p99 if count else None, None, p50 if count else None,
        )  # fmt: skip
        if service == "busy":
            cpu = 40.0 + step % 3 + (50 if 180 <= step < 210 else 0)
            yield Row(
                "default", service, "metric", "cpu_percent", "10s", end_us - STEP_US, end_us, 1, 0, 0.1, 1, True, True,
                None, cpu, None, cpu,
            )  # fmt: skip


def advance(plan: Models, state: State, drawn: Windows, steps: range) -> list[Incident]:
    found: list[Incident] = []
    for step in steps:
        for row in rows(drawn, step):
            plan.take(state, row)
        end_us = drawn.start_us + (step + 1) * STEP_US
        found += plan.advance(state, Progress(0, 0, end_us, end_us, end_us, end_us, 0, [])).incidents
    return found


@pytest.fixture(scope="module")
def told() -> dict[str, list[Incident]]:
    """What was told of each service."""
    drawn, plan = windows(scenario.load_of(SCENARIO)), models()
    found = advance(plan, plan.fresh(), drawn, range(MINUTES * 6))
    return {service: [each for each in found if each.service == service] for service in drawn.services}


@pytest.mark.parametrize("service", ["silent", "failing", "slow", "storming", "crowded"])
def test_a_fault_is_told_within_thirty_seconds_as_what_it_is(
    service: str, told: dict[str, list[Incident]], faults: dict[str, TrueFault]
) -> None:
    """After the first complete window of the fault; and no second incident is made of it."""
    fault, records = faults[service], told[service]
    first_us = -(-fault.start_us // STEP_US) * STEP_US + STEP_US
    right = [each for each in records if each.class_ == fault.class_]
    assert right[0].updated_us <= first_us + 30 * MICROS
    assert len({each.id for each in records}) == 1
    assert records[-1].class_ == fault.class_
    assert records[-1].end_us is not None
    assert (right[0].probability or 0.0) > 0.5


def test_a_level_shift_is_told_once_and_then_is_the_new_normal(told: dict[str, list[Incident]]) -> None:
    """Twenty minutes later nothing more has been said."""
    records = told["shifted"]
    assert len({each.id for each in records}) == 1
    assert records[-1].class_ == LEVEL_SHIFT
    assert records[-1].end_us is not None


def test_clean_traffic_tells_nothing(told: dict[str, list[Incident]]) -> None:
    """Chance, bursts and waves are no incidents."""
    assert [each.text for name in ("calm-1", "calm-2", "calm-3", "bursty") for each in told[name]] == []


def test_a_gauge_that_leaves_its_level_is_told_by_its_name(told: dict[str, list[Incident]]) -> None:
    """CPU jumps for five minutes while demand, errors and latency are as they were."""
    assert {each.metric for each in told["busy"]} == {"cpu_percent"}
    assert told["busy"][0].class_ == "fault"
    assert told["busy"][-1].end_us is not None
