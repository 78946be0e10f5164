"""The mixture learns what helps, tells how sure it is, and is as sure as it says."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from smartscale.ml.forecast import conformal, weighting
from smartscale.ml.forecast.baselines import Mean, Naive, Seasonal, Trend
from smartscale.ml.forecast.ensemble import LEVELS, Forecaster
from smartscale.ml.series.history import Past, put

Array = npt.NDArray[np.float64]
NOWHERE = Past(np.full((1, 4), np.nan, np.float32), 0)


def after(method: Naive | Mean | Trend, values: list[float], horizon: int = 2) -> list[float]:
    memory = method.fresh(1)
    for value in values:
        memory = method.learn(memory, np.array([value]))
    return [round(float(v), 3) for v in method.forecast(memory, NOWHERE, horizon)[0]]


def test_naive_repeats_the_last_value_over_a_gap() -> None:
    """3, then nothing: 3."""
    assert after(Naive(), [5.0, 3.0, np.nan]) == [3.0, 3.0]


def test_the_mean_starts_as_a_plain_mean() -> None:
    """(4 + 8) / 2 = 6 although alpha is small."""
    assert after(Mean("mean", 0.05), [4.0, 8.0]) == [6.0, 6.0]


def test_a_trend_goes_on_damped() -> None:
    """On 0, 1, 2, ... the next is near the line, and the steps grow smaller."""
    first, second, third = after(Trend("trend", 0.5, 0.3, 0.9), [float(i) for i in range(60)], 3)
    assert 59 < first < 60.5
    assert third - second < second - first < 1


def test_a_jump_is_a_new_level_and_not_a_slope() -> None:
    """From steady 10 to 20: the forecast stays about 20 instead of running away."""
    noise = np.random.default_rng(0).normal(0, 0.1, 42)
    values = [10 + e for e in noise[:40]] + [20 + e for e in noise[40:]]
    assert max(after(Trend("trend", 0.5, 0.3, 0.95), values, 30)) < 23


def test_a_season_repeats_and_follows_todays_level() -> None:
    """Period 4: yesterday 1 2 3 4, today 3 4 5 6: the season says 3, following says more after a day higher."""
    ring = np.full((1, 16), np.nan, np.float32)
    for step, value in enumerate([1, 2, 3, 4, 3, 4, 5, 6]):
        put(ring, step, np.array([float(value)]))
    past = Past(ring, 7)
    plain = Seasonal("day", 4, follow=False).forecast(np.empty((1, 0)), past, 4)
    moved = Seasonal("day", 4, follow=True).forecast(np.empty((1, 0)), past, 4)
    assert plain.tolist() == [[3, 4, 5, 6]]
    assert (moved > plain).all()


def test_weight_goes_to_the_method_that_loses_least() -> None:
    """Two methods, one always right: it takes nearly everything, and the wrong one is never quite dropped."""
    lost = np.zeros((1, 2))
    for _ in range(60):
        lost = weighting.charge(lost, np.array([[1.0, 2.0]]), np.array([1.5]), np.array([1.0]), horizon=1)
    good, bad = weighting.weights(lost, np.ones((1, 2), np.bool_), horizon=1)[0]
    assert good > 0.95
    assert 0 < bad < 0.05


def test_a_sleeping_method_weighs_nothing_and_wakes_without_a_handicap() -> None:
    """Charged what the mixture lost, it starts level with a pool of equals."""
    lost = np.zeros((1, 2))
    for _ in range(50):
        lost = weighting.charge(lost, np.array([[1.0, np.nan]]), np.array([1.0]), np.array([2.0]), horizon=1)
    asleep = weighting.weights(lost, np.array([[True, False]]), horizon=1)
    awake = weighting.weights(lost, np.array([[True, True]]), horizon=1)
    assert asleep.tolist() == [[1.0, 0.0]]
    np.testing.assert_allclose(awake, [[0.5, 0.5]])


@given(st.lists(st.floats(-100, 100), min_size=64, max_size=64))
def test_ring_quantiles_rise_with_the_level(sample: list[float]) -> None:
    """Within the ring, and within each tail."""
    ring, spread = np.array([sample], np.float32), np.ones(1)
    inner = conformal.quantiles(ring, np.array([np.linspace(0.05, 0.95, 19)]), spread)
    upper = conformal.quantiles(ring, np.array([[0.96, 0.98, 0.99, 0.999]]), spread)
    assert (np.diff(inner) >= 0).all()
    assert (np.diff(upper) > 0).all()


def test_the_conformal_level_rises_with_misses_and_settles_at_the_target() -> None:
    """Hits in the target's share leave the level where it is (Gibbs and Candes 2021)."""
    level, target = np.array([[0.9]]), np.array([0.9])
    known = np.array([True])
    missed = conformal.adapt(level, target, np.array([[False]]), known, horizon=1)
    assert missed[0, 0] > 0.9
    for hit in [True] * 9 + [False]:
        level = conformal.adapt(level, target, np.array([[hit]]), known, horizon=1)
    np.testing.assert_allclose(level, 0.9)


def test_bands_are_honest_from_the_first_minute() -> None:
    """One count is enough for a band: the 5 % to 95 % quantiles cover what chance alone does to a steady rate."""
    rng, plan, rate = np.random.default_rng(11), Forecaster(10.0, 6, 100), 20.0
    state = plan.fresh(400)
    plan.learn(state, 0, rng.poisson(rate * 10, 400) / 10)
    found = plan.forecast(state, state.memory, 0).values[:, 0]
    following = rng.poisson(rate * 10, 400) / 10
    inside = ((following >= found[:, 0]) & (following <= found[:, 6])).mean()
    assert inside > 0.85
    assert (found[:, 6] < 2 * rate).all()


def test_the_stated_coverage_is_the_coverage_seen() -> None:
    """Over 40 series of noisy counts that wander: the 90 % band holds 85 to 95 %, live and truly; the peaks too."""
    rng, plan = np.random.default_rng(3), Forecaster(10.0, 12, 400)
    level = 6 + np.cumsum(rng.normal(0, 0.05, (500, 40)), axis=0)
    rates = rng.poisson(np.maximum(level, 1) ** 2 * 10) / 10
    state = plan.fresh(40)
    inside, under = [], []
    for step in range(480):
        plan.learn(state, step, rates[step])
        if step >= 150 and step % 6 == 0:
            found = plan.forecast(state, state.memory, step)
            truth = rates[step + 1 : step + 13].T
            inside.append(((truth >= found.values[:, :, 0]) & (truth <= found.values[:, :, 6])).mean())
            under.append((truth.max(axis=1) <= found.peaks[:, -1, 6]).mean())
    assert 0.85 < np.mean(inside) < 0.95
    assert 0.90 < np.mean(under) < 0.99
    assert 0.85 < float(np.mean(plan.coverage(state))) < 0.95


def test_a_daily_wave_is_learned_within_days() -> None:
    """Hours with a daily wave: the rung is daily, the season carries the weight, and the skill shows it."""
    rng, plan = np.random.default_rng(4), Forecaster(3600.0, 6, 200)
    rates = rng.poisson(4000 + 3000 * np.sin(np.arange(160) * 2 * np.pi / 24)).astype(np.float64)
    state = plan.fresh(1)
    for step, rate in enumerate(rates):
        plan.learn(state, step, np.array([rate]))
    found = plan.forecast(state, state.memory, 159)
    weight = dict(zip([m.name for m in plan.methods], found.weights[0], strict=True))
    assert plan.stage(state) == ["daily"]
    assert weight["day"] + weight["day-level"] > 0.7
    assert plan.skill(state)[0] > 0.5


def test_the_ladder_starts_naive_and_climbs_with_evidence() -> None:
    """Gaps are no evidence."""
    plan = Forecaster(10.0, 3, 100)
    state = plan.fresh(2)
    for step in range(12):
        plan.learn(state, step, np.array([5.0, 5.0 if step < 6 else np.nan]))
    assert plan.stage(state) == ["trend", "naive"]
    assert np.isnan(plan.coverage(state)).all()


def test_a_burst_widens_the_band_to_what_was_seen_and_no_further() -> None:
    """Three times the rate for ten steps: afterwards the 95 % band stays within what was seen."""
    rng, plan = np.random.default_rng(5), Forecaster(10.0, 30, 300)
    rate = np.where((np.arange(140) >= 80) & (np.arange(140) < 90), 240, 80)
    state = plan.fresh(1)
    for step in range(140):
        plan.learn(state, step, np.array([rng.poisson(rate[step] * 10) / 10]))
    found = plan.forecast(state, state.memory, 139)
    assert found.peaks[0, 8, int(np.searchsorted(LEVELS, 0.95))] < 260
    assert found.peaks[0, 8, 3] < 100
