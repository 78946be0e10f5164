"""What one step says, kind by kind, in the light of each service's own past."""

from __future__ import annotations

import numpy as np
import pytest

from smartscale.ml.anomaly import calibration, evidence, forest, tails
from smartscale.ml.anomaly.evidence import CREEP, DROP, ERRORS, GAUGE, LATENCY, MEDIAN, SURGE, ZERO

EXPECTED = 100.0
NAN = np.nan


def observed(
    demand: float,
    count: float,
    errors: float,
    p50: float,
    p99: float,
    missing: bool = False,
    cpu: float = 40.0,
) -> evidence.Observed:
    of = {"count": count, "errors": errors, "p50_ms": p50, "p99_ms": p99, "demand": demand}
    gauges = np.full((1, evidence.GAUGES), NAN)
    gauges[0, 0] = cpu
    columns = {name: np.array([value]) for name, value in of.items()}
    return evidence.Observed(missing=np.array([missing]), gauges=gauges, **columns)


def known(steps: int = 60) -> evidence.Baseline:
    """A service of 100 a second, 1 % errors, a median of 20 ms and a p99 of 100 ms, known for a while."""
    baseline, rng, quiet = evidence.fresh(1), np.random.default_rng(1), np.array([True])
    for _ in range(steps):
        count = rng.poisson(1000)
        p50, p99 = 20 * np.exp(rng.normal(0, 0.01)), 100 * np.exp(rng.normal(0, 0.05))
        past = observed(count / 10, count, rng.binomial(count, 0.01), p50, p99, cpu=rng.normal(40, 1))
        baseline = evidence.calibrate(baseline, judged(past, baseline), quiet)
        baseline = evidence.learn(baseline, past, quiet)
    return baseline


def followed(baseline: evidence.Baseline, now: evidence.Observed) -> evidence.Baseline:
    """After a quiet step."""
    quiet = np.array([True])
    return evidence.learn(evidence.calibrate(baseline, judged(now, baseline), quiet), now, quiet)


def judged(now: evidence.Observed, baseline: evidence.Baseline) -> evidence.Evidence:
    return evidence.judge(baseline, now, np.array([EXPECTED]), 10.0, np.array([True]))


def raised(found: evidence.Evidence) -> set[str]:
    return {kind for kind in evidence.KINDS if found.raised[kind][0]}


def test_an_ordinary_step_raises_nothing() -> None:
    """And its score is small."""
    found = judged(observed(103, 1030, 12, 20.2, 104), known())
    assert raised(found) == set()
    assert found.score[0] < 0.05


@pytest.mark.parametrize(
    ("now", "kinds"),
    [
        (observed(300, 3000, 30, 20, 100), {SURGE}),
        (observed(120, 1200, 11, 20, 100), set()),  # significant, but too little to wake anybody
        (observed(40, 400, 4, 20, 100), {DROP}),
        (observed(0, NAN, NAN, NAN, NAN), {ZERO}),
        (observed(NAN, NAN, NAN, NAN, NAN, missing=True), {ZERO}),
        (observed(100, 1000, 210, 20, 100), {ERRORS}),
        (observed(100, 1000, 10, 20, 300), {LATENCY}),
        (observed(100, 1000, 10, 60, 100), {MEDIAN}),
        (observed(100, 1000, 10, 60, 300), {LATENCY, MEDIAN}),
        (observed(100, 1000, 10, 20, 100, cpu=90), {GAUGE}),
        (observed(100, 1000, 10, 20, 100, cpu=50), set()),  # significant, but too little
        (observed(100, 10, 4, 20, 300), set()),  # ten requests prove nothing
        (observed(NAN, NAN, NAN, NAN, NAN), set()),  # uncertain is not missing
    ],
)
def test_evidence_needs_a_small_chance_and_a_large_effect(now: evidence.Observed, kinds: set[str]) -> None:
    """The two bars of every rule."""
    assert raised(judged(now, known())) == kinds


def test_a_service_that_is_always_noisy_has_to_be_noisier() -> None:
    """The same surge: news for a calm service, none for one that has them all the time."""
    calm, noisy, rng, quiet = known(), known(), np.random.default_rng(2), np.array([True])
    for _ in range(600):
        past = observed(EXPECTED * np.exp(rng.normal(0, 0.25)), 1000, 10, 20, 100)
        noisy = evidence.calibrate(noisy, judged(past, noisy), quiet)
    surge = observed(150, 1500, 15, 20, 100)
    assert raised(judged(surge, calm)) == {SURGE}
    assert raised(judged(surge, noisy)) == set()


def test_steps_of_an_incident_do_not_become_usual() -> None:
    """The baseline learns quiet steps only."""
    before, now, loud = known(), observed(100, 1000, 500, 200, 900), np.array([False])
    after = evidence.learn(evidence.calibrate(before, judged(now, before), loud), now, loud)
    for name in ("errors", "latency", "usual", "spread", "tails"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_a_slow_leak_is_raised_before_it_has_grown_by_thirty_percent() -> None:
    """One percent a minute, after two hours of history; no single window is strange enough to tell."""
    baseline, rng = known(720), np.random.default_rng(3)
    for minute in np.arange(0, 30, 1 / 6):
        now = observed(100, 1000, 10, 20 * (1 + 0.01 * minute) * np.exp(rng.normal(0, 0.03)), 100)
        found = raised(judged(now, baseline))
        if found:
            break
        baseline = followed(baseline, now)
    assert found == {CREEP}
    assert 8 < minute < 28


def test_latency_that_demand_explains_does_not_creep() -> None:
    """It rises and falls with demand each hour, by a half."""
    baseline, rng = evidence.fresh(1), np.random.default_rng(4)
    for step in range(1800):
        demand = 100 * 2 ** np.sin(2 * np.pi * step / 360)
        p50 = 20 * (demand / 100) ** 0.4 * np.exp(rng.normal(0, 0.03))
        now = observed(demand, 10 * demand, 10, p50, 100)
        if step > 1080:
            assert CREEP not in raised(judged(now, baseline))
        baseline = followed(baseline, now)


def test_a_forecast_gone_astray_is_no_surge() -> None:
    """Demand is what it was for the last minutes, twice of what somebody expected."""
    baseline = known()
    found = evidence.judge(
        baseline, observed(100, 1000, 10, 20, 100), np.array([50.0]), 10.0, np.array([True])
    )
    assert raised(found) == set()


def test_the_more_strange_the_rarer_and_the_surer() -> None:
    """Rarity falls, strength and probability rise; an edge is the score that is as rare as asked."""
    scores = np.linspace(0, 60, 400)
    p = tails.rarity(tails.fresh(len(scores)), scores)
    said = calibration.probability(calibration.strength(p))
    assert (np.diff(p) <= 0).all()
    assert (np.diff(said) >= 0).all()
    assert said[0] < 0.01
    assert said[-1] > 0.95
    for chance in (1e-2, 1e-3, 1e-6):
        assert tails.rarity(tails.fresh(), tails.edge(tails.fresh(), chance)) == pytest.approx(chance)


def test_what_usually_moves_together_and_does_not_is_rare() -> None:
    """Of two metrics that rise and fall as one, both high is rarer than chance; one high and one low is far rarer."""
    rng, quiet, state = np.random.default_rng(6), np.ones(40, np.bool_), forest.fresh(4)
    for step in range(1, forest.EVERY + 1):
        rows = rng.standard_normal((40, 4))
        rows[:, 1] = rows[:, 0] + 0.2 * rng.standard_normal(40)
        forest.learn(state, rows, quiet, step)
    together, apart = np.array([3.5, 3.5, 0.0, 0.0]), np.array([3.5, -3.5, 0.0, 0.0])
    _, p, _ = forest.Forest().judge(state, np.array([together, apart]))
    assert p[1] < 1e-6 < p[0]


def test_the_same_sample_grows_the_same_forest() -> None:
    """After a restart the scores are those without one; what is strange together is rarer than either alone."""
    rng, quiet, state = np.random.default_rng(5), np.ones(40, np.bool_), forest.fresh(4)
    for step in range(1, forest.EVERY + 1):
        forest.learn(state, rng.standard_normal((40, 4)), quiet, step)
    asked = np.array([[3.5, 4, 4, 4], [0, 0, 3.5, 3.5], [0, 0, 0, 9], [0, 0, 0, 0]])
    strange, p, usual = forest.Forest().judge(state, asked)
    again, _, _ = forest.Forest().judge(state, asked)
    np.testing.assert_array_equal(strange, again)
    assert p[0] < p[1] < 1
    assert strange[0] > usual
    assert np.isnan(strange[2:]).all()  # one feature alone is no combination
