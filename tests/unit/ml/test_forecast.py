"""The mixture learns what helps, tells how sure it is, and is as sure as it says."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from smartscale.ml.forecast.baselines import Drift, Mean, Naive, Trend
from smartscale.ml.forecast.ensemble import LEVELS, Forecaster
from smartscale.ml.forecast.protocol import Method, Rung
from smartscale.ml.forecast.regression import Regression
from smartscale.ml.forecast.seasonal import Seasonal, SeasonalTrend
from smartscale.ml.series import history
from smartscale.ml.series.history import Past

Array = npt.NDArray[np.float64]


def after(method: Method, values: list[float], horizon: int = 2) -> list[float]:
    memory, ring = method.fresh(1), history.empty(1, 256)
    for step, value in enumerate(values):
        history.put(ring, step, np.array([value]))
        method.learn(memory, np.array([value]), Past(ring, step))
    path = method.forecast(memory, Past(ring, len(values) - 1), horizon)
    return [round(float(v), 3) for v in path[0]]


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


def test_drift_goes_on_at_the_mean_pace() -> None:
    """0, 1, 2, ... with a gap: one more a step, counted from the last value seen."""
    assert after(Drift(), [0.0, 1.0, np.nan, 3.0, 4.0, np.nan]) == [6.0, 7.0]


def test_a_season_repeats_and_follows_todays_level() -> None:
    """Period 4: yesterday 1 2 3 4, today 3 4 5 6: the season says 3, following says more after a day higher."""
    values = [1.0, 2, 3, 4, 3, 4, 5, 6]
    plain = after(Seasonal("day", 4, 0, False, Rung.DAILY), values, 4)
    moved = after(Seasonal("day", 4, 0, True, Rung.DAILY), values, 4)
    assert plain == [3, 4, 5, 6]
    assert all(high > low for low, high in zip(plain, moved, strict=True))


def test_season_level_and_trend_are_told_apart() -> None:
    """A wave of 24 steps, 5 higher since noon: the mean day, and most of today's difference on top, fading."""
    wave = [20 + 10 * np.sin(2 * np.pi * i / 24) for i in range(126)]
    path = after(SeasonalTrend("t", 24, 0, Rung.DAILY), [v + 5 * (i >= 108) for i, v in enumerate(wave)], 6)
    ahead = [p - 20 - 10 * np.sin(2 * np.pi * i / 24) for i, p in enumerate(path, 126)]
    assert 3 < ahead[0] < 6
    assert 0 < ahead[-1] < ahead[0]


def test_the_regression_finds_how_values_follow_each_other() -> None:
    """Two interleaved walks, y(t) = 10 + 0.9 (y(t - 2) - 10) + noise: it says what lies two steps back, shrunk towards 10,
    where naive would repeat the other walk's value."""
    rng, values = np.random.default_rng(1), [14.0, 6.0]
    for _ in range(298):
        values.append(10 + 0.9 * (values[-2] - 10) + rng.normal(0, 0.5))
    found = after(Regression(horizon=2, day=0, week=0, half=0), values)
    assert abs(values[-1] - values[-2]) > 1
    np.testing.assert_allclose(found, [10 + 0.9 * (v - 10) for v in values[-2:]], atol=0.4)


def test_the_regression_goes_no_further_than_was_ever_seen() -> None:
    """A leap ten times as large as any change before: the forecast stays within such changes of it."""
    rng = np.random.default_rng(2)
    values = [*(10 + rng.normal(0, 1, 120)), 40.0]
    reach = 2 * max(abs(b - a) for a, b in itertools.pairwise(values[:-1]))
    assert all(abs(v - 40) <= reach for v in after(Regression(horizon=2, day=0, week=0, half=0), values))


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
    assert sum(weight[name] for name in ("day", "day-level", "day-trend", "regression")) > 0.9
    assert plan.skill(state)[0] > 0.5


def test_the_ladder_starts_naive_and_climbs_with_evidence() -> None:
    """A steep ramp is a trend once it is seen to be one; gaps are no evidence, and a constant needs no more than naive."""
    plan = Forecaster(10.0, 3, 100)
    state = plan.fresh(3)
    for step in range(40):
        rate = 5.0 + 2 * step
        plan.learn(state, step, np.array([rate, rate if step < 2 else np.nan, 5.0]))
        if step == 1:
            assert plan.stage(state) == ["naive", "naive", "naive"]
    assert plan.stage(state) == ["trend", "naive", "naive"]
    assert np.isnan(plan.coverage(state)[1])


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
