"""What a forecast counts for: a smooth function of how it has done."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smartscale.ml.forecast.ensemble import Forecaster
from smartscale.ml.forecast.influence import influence

coverages = st.one_of(st.just(float("nan")), st.floats(0, 1))
skills = st.one_of(st.just(float("nan")), st.floats(-3, 1))


def one(coverage: float, skill: float, settled: float = 1000.0) -> float:
    return float(influence(np.array([coverage]), np.array([skill]), np.array([settled]))[0])


@given(coverages, skills, st.floats(0, 1000))
def test_it_is_between_nothing_and_everything(coverage: float, skill: float, settled: float) -> None:
    """And everything while there is too little evidence."""
    assert 0 <= one(coverage, skill, settled) <= 1
    assert one(coverage, skill, 50.0) == 1


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-3, 1), st.floats(-3, 1))
def test_better_evidence_counts_for_no_less_and_nothing_jumps(
    coverage: float, other: float, skill: float, other_skill: float
) -> None:
    """At most 1/0.3 a unit of coverage and 1/0.4 a unit of skill."""
    low, high = one(min(coverage, other), skill), one(max(coverage, other), skill)
    assert low <= high <= low + abs(coverage - other) / 0.3 + 1e-9
    low, high = one(coverage, min(skill, other_skill)), one(coverage, max(skill, other_skill))
    assert low <= high <= low + abs(skill - other_skill) / 0.4 + 1e-9


def test_it_falls_smoothly_when_a_series_becomes_unpredictable_and_comes_back() -> None:
    """A steady series, then one whose level changes every 20 steps to anything, then steady again."""
    rng = np.random.default_rng(0)
    plan = Forecaster(10.0, 6, 300)
    state, seen, level = plan.fresh(1), list[float](), 1000.0
    for step in range(1500):
        if step % 20 == 0:
            level = float(10 ** rng.uniform(0, 4)) if 500 <= step < 800 else 1000.0
        plan.learn(state, step, np.array([rng.poisson(level * 10) / 10]))
        seen.append(float(plan.influence(state)[0]))
    assert min(seen[200:500]) > 0.99
    assert min(seen[500:800]) < 0.6
    assert max(abs(np.diff(seen))) < 0.4
    assert seen[1499] > 0.9
