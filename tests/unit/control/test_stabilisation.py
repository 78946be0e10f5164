"""Stabilisation and rate policies, against the Kubernetes documentation's examples and a slow, separate oracle."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.clock import MICROS
from smartscale.control.policy import RatePolicy, Rules
from smartscale.control.stabilisation import At, down_limit, limit, stabilise, up_limit

NOW = 10_000 * MICROS


def ago(seconds: float, replicas: int) -> At:
    return At(NOW - round(seconds * MICROS), replicas)


def rules(*policies: tuple[str, int, int], select: str = "Max", window_s: int = 0) -> Rules:
    return Rules(
        stabilization_window_seconds=window_s,
        select_policy=select,  # type: ignore[arg-type]  # words of the parameter tables below
        policies=[RatePolicy(type=t, value=v, period_seconds=p) for t, v, p in policies],  # type: ignore[arg-type]
    )


# Documentation: "Horizontal Pod Autoscaling", section "Configurable scaling behavior".
#   name                               current wanted ups            downs          up rules, down rules -> result
CASES: list[tuple[str, int, int, list[At], list[At], list[tuple[str, int, int]], int]] = [
    ("80 pods, at most 10 % a minute down: 72", 80, 10, [], [], [("Percent", 10, 60)], 72),
    ("then of 72: the period began with 80", 72, 10, [], [ago(30, 8)], [("Percent", 10, 60)], 72),
    (
        "a minute later: 72 less 10 % = 64.8, rounded down to 64",
        72,
        10,
        [],
        [ago(61, 8)],
        [("Percent", 10, 60)],
        64,
    ),
    ("4 pods or 10 %: of 80 the larger, 8", 80, 10, [], [], [("Pods", 4, 60), ("Percent", 10, 60)], 72),
    ("4 pods or 10 %: of 30 the larger, 4", 30, 10, [], [], [("Pods", 4, 60), ("Percent", 10, 60)], 26),
]


@pytest.mark.parametrize(("name", "current", "wanted", "ups", "downs", "policies", "expected"), CASES)
def test_scale_down_examples(
    name: str,
    current: int,
    wanted: int,
    ups: list[At],
    downs: list[At],
    policies: list[tuple[str, int, int]],
    expected: int,
) -> None:
    """Counts with the arithmetic in the name."""
    found = limit(current, wanted, ups, downs, (1, 100), (rules(("Pods", 4, 15)), rules(*policies)), NOW)
    assert (found.replicas, found.reason) == (expected, "ScaleDownLimit")


@pytest.mark.parametrize(
    ("current", "select", "ups", "expected"),
    [
        (1, "Max", [], 5),  # the larger of +4 and +100 %: 5
        (10, "Max", [], 20),  # doubled
        (10, "Min", [], 14),  # the smaller change
        (10, "Disabled", [], 10),
        (20, "Max", [ago(10, 10)], 20),  # the period began with 10: 20 is reached
        (20, "Max", [ago(15, 10)], 40),  # an event exactly one period old no longer counts
    ],
)
def test_scale_up_by_default_rules(current: int, select: str, ups: list[At], expected: int) -> None:
    """Kubernetes' default: 4 pods or 100 % every 15 s, whichever is more."""
    assert (
        up_limit(current, ups, [], rules(("Pods", 4, 15), ("Percent", 100, 15), select=select), NOW)
        == expected
    )


def test_bounds_are_named_when_they_bind() -> None:
    """TooManyReplicas and TooFewReplicas, as in the ScalingLimited condition."""
    free = rules(("Percent", 100, 15)), rules(("Percent", 100, 15))
    up, down = limit(8, 12, [], [], (2, 10), free, NOW), limit(8, 1, [], [], (2, 10), free, NOW)
    assert (up.replicas, up.reason, down.replicas, down.reason) == (
        10,
        "TooManyReplicas",
        2,
        "TooFewReplicas",
    )


def test_scaling_in_takes_the_highest_recommendation_of_its_window() -> None:
    """Timeline: 9 at -200 s, 6 at -100 s, 4 now, with a window of 300 s: 9 holds."""
    history = [ago(200, 9), ago(100, 6)]
    assert stabilise(10, 4, history, NOW, rules(("Pods", 1, 1)), rules(("Pods", 1, 1), window_s=300)) == 9
    assert stabilise(10, 4, history, NOW, rules(("Pods", 1, 1)), rules(("Pods", 1, 1), window_s=150)) == 6
    assert stabilise(10, 4, history, NOW, rules(("Pods", 1, 1)), rules(("Pods", 1, 1), window_s=0)) == 4


def test_scaling_out_takes_the_lowest_recommendation_of_its_window() -> None:
    """Timeline: 5 at -20 s, 9 now, with a window of 60 s: 5 holds."""
    up = rules(("Pods", 1, 1), window_s=60)
    assert stabilise(3, 9, [ago(20, 5)], NOW, up, rules(("Pods", 1, 1))) == 5


events = st.lists(st.builds(lambda s, n: ago(s, n), st.integers(0, 120), st.integers(1, 20)), max_size=6)
rates = st.lists(
    st.tuples(st.sampled_from(["Pods", "Percent"]), st.integers(1, 200), st.integers(1, 120)),
    min_size=1,
    max_size=3,
)
selects = st.sampled_from(["Max", "Min", "Disabled"])


def oracle_change(current: int, ups: list[At], downs: list[At], behaviour: Rules, sign: int) -> int:
    """The reachable count by trying one replica after the other: a count is allowed by a rate policy if it does
    not lie beyond that policy's own limit; Max asks for any policy's consent, Min for all of them."""
    if behaviour.select_policy == "Disabled":
        return current
    consent = any if behaviour.select_policy == "Max" else all
    reached = current
    for step in range(1, 2000):
        candidate = current + sign * step
        votes = []
        for rate in behaviour.policies or []:
            start = float(current)
            for event in ups:
                start -= event.replicas if NOW - event.time_us < rate.period_seconds * MICROS else 0
            for event in downs:
                start += event.replicas if NOW - event.time_us < rate.period_seconds * MICROS else 0
            allowed = rate.value if rate.type == "Pods" else None
            if sign > 0:
                edge = start + allowed if allowed is not None else math.ceil(start * (1 + rate.value / 100))
                votes.append(candidate <= edge)
            else:
                edge = start - allowed if allowed is not None else math.trunc(start * (1 - rate.value / 100))
                votes.append(candidate >= edge)
        if not consent(votes):
            break
        reached = candidate
    return reached


@given(st.integers(1, 60), events, events, rates, selects)
def test_limits_agree_with_a_slow_oracle(
    current: int, ups: list[At], downs: list[At], policies: list[tuple[str, int, int]], select: str
) -> None:
    """Up and down limits equal those found by asking for one replica more, again and again."""
    behaviour = rules(*policies, select=select)
    assert min(up_limit(current, ups, downs, behaviour, NOW), 1000) == min(
        oracle_change(current, ups, downs, behaviour, 1), 1000
    )
    assert max(down_limit(current, ups, downs, behaviour, NOW), -1000) == max(
        oracle_change(current, ups, downs, behaviour, -1), -1000
    )


@given(st.integers(0, 50), st.integers(0, 50), events, st.integers(0, 120), st.integers(0, 120))
def test_stabilisation_agrees_with_a_slow_oracle(
    current: int, wanted: int, history: list[At], up_s: int, down_s: int
) -> None:
    """The nearest count to the present one that no recommendation in either window speaks against."""
    up, down = rules(("Pods", 1, 1), window_s=up_s), rules(("Pods", 1, 1), window_s=down_s)
    in_up = [wanted] + [r.replicas for r in history if NOW - r.time_us < up_s * MICROS]
    in_down = [wanted] + [r.replicas for r in history if NOW - r.time_us < down_s * MICROS]
    count = current
    while all(r > count for r in in_up):
        count += 1
    while all(r < count for r in in_down):
        count -= 1
    assert stabilise(current, wanted, history, NOW, up, down) == count
