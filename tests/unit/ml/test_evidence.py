"""What one step says, kind by kind, in the light of each service's own past."""

from __future__ import annotations

import numpy as np
import pytest

from smartscale.ml.anomaly import evidence
from smartscale.ml.anomaly.evidence import DROP, ERRORS, GAUGE, LATENCY, MEDIAN, SURGE, ZERO

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
