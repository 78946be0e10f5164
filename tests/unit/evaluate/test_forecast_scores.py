"""Every score against a slow telling of its definition, every rule of thumb against a loop that cannot see ahead."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.errors import UserError
from smartscale.evaluate.forecasts import baselines, rolling
from smartscale.evaluate.forecasts.results import BEST, BETTER, OURS, ratios
from smartscale.evaluate.forecasts.rolling import Plan
from smartscale.evaluate.forecasts.scores import ALL_LEVELS, LEVELS, Scores, naive_error, score

Array = npt.NDArray[np.float64]
NAN = math.nan


def random(seed: int, steps: int = 4, origins: int = 7) -> tuple[Array, Array, Array]:
    """Quantiles of values and of maxima, and truths with gaps."""
    rng = np.random.default_rng(seed)
    values = np.sort(rng.gamma(2.0, 10.0, (origins, steps, len(ALL_LEVELS))), axis=2)
    peaks = np.sort(rng.gamma(4.0, 10.0, (origins, len(ALL_LEVELS))), axis=1)
    truth = rng.gamma(2.0, 10.0, (origins, steps))
    truth[rng.random(truth.shape) < 0.15] = np.nan
    return values, peaks, truth


def oracle(values: Array, peaks: Array, truth: Array, scale: float) -> dict[str, float]:
    """The definitions, one truth at a time, in pandas."""
    rows = [
        {"y": truth[o, h], "tau": tau, "q": values[o, h, k]}
        for o in range(truth.shape[0])
        for h in range(truth.shape[1])
        for k, tau in enumerate(ALL_LEVELS.tolist())
        if not math.isnan(truth[o, h])
    ]
    frame = pd.DataFrame(rows)
    frame["loss"] = [
        tau * (y - q) if y >= q else (1 - tau) * (q - y)
        for y, q, tau in frame[["y", "q", "tau"]].itertuples(index=False)
    ]
    wide = frame[frame["tau"] <= 0.99]
    at_level = 2 * wide.groupby("tau")["loss"].sum() / wide.groupby("tau")["y"].sum()
    at = {tau: frame[frame["tau"] == tau].reset_index() for tau in (0.05, 0.5, 0.95)}
    inside = (at[0.05]["q"] <= at[0.05]["y"]) & (at[0.95]["y"] <= at[0.95]["q"])
    tops = [max(row) for row in truth.tolist() if not any(math.isnan(y) for y in row)]
    top_q = [peaks[o, -1] for o in range(len(truth)) if not np.isnan(truth[o]).any()]
    return {
        "wql": float(at_level.mean()),
        "q95": float(at_level.loc[0.95]),
        "q99": float(at_level.loc[0.99]),
        "mase": float((at[0.5]["y"] - at[0.5]["q"]).abs().mean() / scale),
        "coverage": float(inside.mean()),
        "exceeded": float((frame["y"] > frame["q"])[frame["tau"] == 0.9].mean()),
        "peak": float(np.mean([top > q for top, q in zip(tops, top_q, strict=True)])),
    }


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_scores_are_what_their_definitions_say(seed: int) -> None:
    values, peaks, truth = random(seed)
    found = score(values, peaks, truth, scale=3.0)
    if np.isnan(truth).any(axis=1).all():
        return
    wanted = oracle(values, peaks, truth, 3.0)
    assert {
        "wql": found.wql,
        "q95": found.quantile_loss["0.95"],
        "q99": found.quantile_loss["0.99"],
        "mase": found.mase,
        "coverage": found.coverage_90,
        "exceeded": found.exceeded["0.9"],
        "peak": found.peak_exceeded["0.9995"],
    } == {name: pytest.approx(value) for name, value in wanted.items()}


def test_a_small_example_by_hand() -> None:
    """::

    truth          10  –  20      all quantiles are 12
    error          −2     +8
    pinball 0.95    0.1   7.6  →  2 · 7.7 / 30
    pinball 0.99    0.02  7.92 →  2 · 7.94 / 30
    median error    2     8    →  mean 5, naive error 4: MASE 1.25
    """
    values = np.full((1, 3, len(ALL_LEVELS)), 12.0)
    found = score(values, values[:, 0], np.array([[10.0, NAN, 20.0]]), scale=4.0)
    assert found.truths == 2
    assert found.quantile_loss["0.95"] == pytest.approx(2 * 7.7 / 30)
    assert found.quantile_loss["0.99"] == pytest.approx(2 * 7.94 / 30)
    assert found.mase == 1.25
    assert found.coverage_90 == 0
    assert found.exceeded["0.5"] == 0.5
    assert found.peak_exceeded["0.5"] is None  # a maximum with a gap in it is not known


@given(seed=st.integers(0, 10_000), factor=st.floats(0.01, 1000))
def test_another_unit_changes_no_score(seed: int, factor: float) -> None:
    values, peaks, truth = random(seed)
    one = score(values, peaks, truth, 3.0)
    other = score(values * factor, peaks * factor, truth * factor, 3.0 * factor)
    assert one.wql == pytest.approx(other.wql)
    assert one.mase == pytest.approx(other.mase)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_the_true_quantiles_score_best_on_average(seed: int) -> None:
    """Of an exponential distribution, against those of one with another mean."""
    rng = np.random.default_rng(seed)
    truth = rng.exponential(10.0, (400, 5))
    right = np.broadcast_to(-10 * np.log(1 - ALL_LEVELS), (400, 5, len(ALL_LEVELS)))
    losses = [score(right * k, right[:, 0] * k, truth, 1.0).wql or 0 for k in (1.0, 0.5, 2.0)]
    assert losses[0] == min(losses)


def test_nothing_to_divide_by_is_no_score() -> None:
    zero = np.zeros((2, 3, len(ALL_LEVELS)))
    found = score(zero, zero[:, 0], np.zeros((2, 3)), None)
    assert (found.wql, found.mase, found.coverage_90) == (None, None, 1.0)
    gone = score(zero, zero[:, 0], np.full((2, 3), NAN), 1.0)
    assert (gone.truths, gone.wql, gone.coverage_90, gone.exceeded["0.5"]) == (0, None, None, None)


def test_the_naive_error_is_that_of_the_warm_up() -> None:
    values = np.array([1.0, 3.0, NAN, 7.0, 8.0, 100.0])
    assert naive_error(values, 4) == 1.5  # |3 − 1| and |8 − 7|
    assert naive_error(np.ones(5), 4) is None


def test_ratios_are_to_the_best_of_each_group() -> None:
    def of(wql: float) -> Scores:
        levels: dict[str, float | None] = {f"{level:g}": wql for level in LEVELS}
        return Scores(1, wql, wql, levels, None, {}, {})

    made = {OURS: of(3.0), baselines.NAIVE: of(4.0), baselines.DAY: of(6.0), baselines.WINDOW: of(2.0)}
    found = ratios(made)["wql"]
    assert found == {
        baselines.NAIVE: 0.75, baselines.DAY: 0.5, baselines.WEEK: None, baselines.WINDOW: 1.5, BETTER: 0.75, BEST: 1.5,
    }  # fmt: skip


def slow_rule(name: str, values: Array, origin: int, h: int, period: int, window: int) -> float:
    """A rule's point from what is known at the origin, a value at a time; NaN where it has none."""
    known = [y for y in values[: origin + 1].tolist() if not math.isnan(y)]
    if name == baselines.NAIVE:
        return known[-1] if known else NAN
    if name == baselines.WINDOW:
        last = [y for y in values[max(origin - window + 1, 0) : origin + 1].tolist() if not math.isnan(y)]
        return float(np.mean(last)) if last else NAN
    at = origin + h
    while at > origin:
        at -= period
    return float(values[at]) if at >= 0 else NAN


@pytest.mark.parametrize("horizon", [6, 30])
def test_the_rules_of_thumb_are_what_a_loop_that_cannot_see_ahead_gives(horizon: int) -> None:
    """With a day of 24 steps, so that a horizon of 30 is beyond it."""
    rng = np.random.default_rng(3)
    values = rng.poisson(20, 400).astype(np.float64)
    values[rng.random(400) < 0.05] = np.nan
    plan = Plan(horizons=(2, horizon), origins=9)
    at = rolling.origins(values, plan)
    made = baselines.baselines(values, 3600.0, plan, at)
    assert list(made) == list(baselines.NAMES)
    periods = {baselines.DAY: 24, baselines.WEEK: 168}

    def quantiles(name: str, origin: int, h: int) -> Array | None:
        point = slow_rule(name, values, origin, h, periods.get(name, 0), horizon)
        errors = [
            values[s + h] - slow_rule(name, values, s, h, periods.get(name, 0), horizon)
            for s in range(origin - h + 1)
        ]
        errors = [error for error in errors if not math.isnan(error)]
        if math.isnan(point) or (name in periods and len(errors) < baselines.LEAST):
            return None
        return np.asarray(np.maximum(point + np.quantile(errors, ALL_LEVELS), 0.0))

    for o in (0, 4, len(at) - 1):
        for h in {1, 2, horizon}:
            naive = quantiles(baselines.NAIVE, int(at[o]), h)
            for name in baselines.NAMES:
                found = quantiles(name, int(at[o]), h)
                wanted = naive if found is None else found
                assert made[name].values[o, h - 1] == pytest.approx(wanted), (name, o, h)


def test_the_quantiles_of_a_maximum_are_the_naive_one_s_plus_its_own_past_errors() -> None:
    values = np.random.default_rng(4).poisson(20, 200).astype(np.float64)
    plan = Plan(horizons=(3,), origins=5)
    at = rolling.origins(values, plan)
    made = baselines.baselines(values, 60.0, plan, at)[baselines.NAIVE]
    origin = int(at[2])
    errors = [values[s + 1 : s + 4].max() - values[s] for s in range(origin - 2)]
    assert made.peaks[2, 0] == pytest.approx(np.maximum(values[origin] + np.quantile(errors, ALL_LEVELS), 0))


def test_a_season_that_was_never_seen_is_left_out() -> None:
    """A day and a half: the day can be used in the last origins, the week never."""
    values = np.random.default_rng(5).poisson(20, 36 * 6).astype(np.float64)
    plan = Plan(horizons=(3,), origins=20)
    found = baselines.baselines(values, 600.0, plan, rolling.origins(values, plan))
    assert list(found) == [baselines.NAIVE, baselines.DAY, baselines.WINDOW]


@given(
    steps=st.integers(10, 400), origins=st.integers(1, 50), warm_up=st.floats(0, 0.9), horizon=st.integers(1, 9),
    gaps=st.lists(st.integers(0, 399), max_size=60),
)  # fmt: skip
def test_origins_leave_the_warm_up_and_a_whole_horizon_and_have_a_value(
    steps: int, origins: int, warm_up: float, horizon: int, gaps: list[int]
) -> None:
    values = np.ones(steps)
    values[[at for at in gaps if at < steps]] = np.nan
    plan = Plan((horizon,), origins, warm_up)
    try:
        at = rolling.origins(values, plan)
    except UserError:
        assert (
            steps - 1 - horizon < max(np.ceil(warm_up * steps), 1)
            or np.isnan(values[: steps - horizon]).all()
        )
        return
    assert 1 <= len(at) <= origins
    assert (np.diff(at) > 0).all()
    assert at[-1] + horizon < steps
    assert not np.isnan(values[at]).any()
    if not gaps:
        assert at[0] >= warm_up * steps
        assert len(at) == min(origins, steps - horizon - max(int(np.ceil(warm_up * steps)), 1))
