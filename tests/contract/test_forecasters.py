"""What every forecasting method, and the mixture of them, promises: one suite for all of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.ml.forecast.baselines import pool
from smartscale.ml.forecast.ensemble import LEVELS, Forecaster, Quantiles, State
from smartscale.ml.forecast.protocol import Method
from smartscale.ml.series.history import Past, put

Array = npt.NDArray[np.float64]

STEP_S, DAY, HORIZON = 3600.0, 24, 6
METHODS = pool(STEP_S, history_steps=200)
SERIES = 3


def drawn(seed: int, steps: int, series: int = SERIES) -> Array:
    """Poisson counts around a daily wave, as rates a second, with a gap now and then; shape (steps, series)."""
    rng = np.random.default_rng(seed)
    wave = 50 + 30 * np.sin(np.arange(steps) * 2 * np.pi / DAY)
    rates = rng.poisson(wave[:, None] * np.arange(1, series + 1), (steps, series)).astype(np.float64)
    rates[rng.random((steps, series)) < 0.03] = np.nan
    return rates


def taught(method: Method, roots: Array) -> tuple[Array, Past]:
    """Memory and past of a method that has learned all of ``roots``, shape (steps, series)."""
    memory = method.fresh(roots.shape[1])
    ring = np.full((roots.shape[1], 256), np.nan, np.float32)
    for step, column in enumerate(roots):
        put(ring, step, column)
        memory = method.learn(memory, column)
    return memory, Past(ring, len(roots) - 1)


def learned(rates: Array, plan: Forecaster) -> State:
    state = plan.fresh(rates.shape[1])
    for step, column in enumerate(rates):
        plan.learn(state, step, column)
    return state


def forecast(rates: Array, plan: Forecaster | None = None) -> Quantiles:
    plan = plan or Forecaster(STEP_S, HORIZON, 200)
    state = learned(rates, plan)
    return plan.forecast(state, state.memory, len(rates) - 1)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
class TestEveryMethod:
    """Each promise, for each method of the pool."""

    def test_leaves_its_arguments_as_they_are(self, method: Method) -> None:
        """Asking twice gives the same answer, and learning returns a new memory."""
        roots = np.sqrt(drawn(1, 60))
        memory, past = taught(method, roots)
        before, ring = memory.copy(), past.ring.copy()
        first = method.forecast(memory, past, HORIZON)
        method.learn(memory, roots[0])
        np.testing.assert_array_equal(method.forecast(memory, past, HORIZON), first)
        np.testing.assert_array_equal(memory, before)
        np.testing.assert_array_equal(past.ring, ring)

    def test_cannot_see_the_future(self, method: Method) -> None:
        """Columns after the origin replaced by noise change nothing, with a horizon beyond the season too."""
        memory, past = taught(method, np.sqrt(drawn(2, 60)))
        horizon = 2 * DAY + 5
        expected = method.forecast(memory, past, horizon)
        for step in range(past.origin + 1, past.origin + 1 + horizon):
            put(past.ring, step, np.full(SERIES, 1e6))
        np.testing.assert_array_equal(method.forecast(memory, past, horizon), expected)

    def test_scales_with_its_values(self, method: Method) -> None:
        """Twice the values give twice the forecast."""
        roots = np.sqrt(drawn(3, 60))
        one = method.forecast(*taught(method, roots), HORIZON)
        two = method.forecast(*taught(method, 2 * roots), HORIZON)
        np.testing.assert_allclose(two, 2 * one, rtol=1e-4, atol=1e-4)

    def test_keeps_series_apart(self, method: Method) -> None:
        """An absurd series leaves the others' forecasts as they are."""
        roots = np.sqrt(drawn(4, 60))
        absurd = roots.copy()
        absurd[:, 0] = 1e30
        calm, wild = (method.forecast(*taught(method, r), HORIZON) for r in (roots, absurd))
        np.testing.assert_array_equal(wild[1:], calm[1:])

    def test_says_nothing_before_it_knows_anything(self, method: Method) -> None:
        """Without a value there is no forecast, and no error."""
        memory, past = taught(method, np.full((5, SERIES), np.nan))
        assert np.isnan(method.forecast(memory, past, HORIZON)).all()


class TestTheMixture:
    """The same promises of the quantile forecasts that are published."""

    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 10_000), steps=st.integers(1, 80))
    def test_quantiles_are_ordered_and_never_below_zero(self, seed: int, steps: int) -> None:
        """For any history: levels never cross, peaks are at least values and never fall with the horizon."""
        rates = drawn(seed, steps)
        rates[0] = 1.0
        found = forecast(rates)
        for part in (found.values, found.peaks):
            assert part.shape == (SERIES, HORIZON, len(LEVELS))
            assert (part >= 0).all()
            assert (np.diff(part, axis=2) >= 0).all()
        assert (found.peaks >= found.values).all()
        assert (np.diff(found.peaks, axis=1) >= 0).all()

    def test_cannot_see_the_future(self) -> None:
        """A forecast at an origin is the same whatever is learned later."""
        rates, plan = drawn(5, 90), Forecaster(STEP_S, HORIZON, 200)
        state = plan.fresh(SERIES)
        for step, column in enumerate(rates[:70]):
            plan.learn(state, step, column)
        put(state.past, 70, np.full(SERIES, 1e6))
        seen = plan.forecast(state, state.memory, 69)
        np.testing.assert_array_equal(seen.values, forecast(rates[:70]).values)

    def test_the_same_history_gives_the_same_forecast(self) -> None:
        """Nothing is random."""
        rates = drawn(6, 60)
        np.testing.assert_array_equal(forecast(rates).peaks, forecast(rates).peaks)

    def test_scales_roughly_with_its_values(self) -> None:
        """Ten times the traffic gives ten times the median (counts are noisier when small, so not exactly)."""
        rates = drawn(7, 60, series=1)
        one, ten = forecast(rates).values, forecast(10 * rates).values
        np.testing.assert_allclose(ten[:, :, 3], 10 * one[:, :, 3], rtol=0.02)

    def test_one_bad_series_harms_no_other(self) -> None:
        """Values near the largest float in one series, and the others are forecast as without it."""
        rates = drawn(8, 60)
        absurd = rates.copy()
        absurd[::2, 0] = 1e30
        np.testing.assert_array_equal(forecast(absurd).values[1:], forecast(rates).values[1:])

    def test_asking_leaves_the_state_as_it_is(self) -> None:
        """Forecasting and judging are questions."""
        rates, plan = drawn(9, 60), Forecaster(STEP_S, HORIZON, 200)
        state = learned(rates, plan)
        first = plan.forecast(state, state.memory, 59)
        plan.surprise(state, state.memory, 59, rates[0])
        np.testing.assert_array_equal(plan.forecast(state, state.memory, 59).peaks, first.peaks)

    def test_provisional_values_move_the_origin_but_teach_nothing(self) -> None:
        """After a view, learning the final values gives what it gives without the view."""
        rates, plan = drawn(10, 60), Forecaster(STEP_S, HORIZON, 200)
        seen, unseen = learned(rates[:50], plan), learned(rates[:50], plan)
        memory = plan.view(seen, seen.memory, 50, rates[50] * 3)
        moved = plan.forecast(seen, memory, 50)
        assert not np.allclose(moved.values, plan.forecast(unseen, unseen.memory, 49).values)
        for step in range(50, 60):
            plan.learn(seen, step, rates[step])
            plan.learn(unseen, step, rates[step])
        np.testing.assert_array_equal(
            plan.forecast(seen, seen.memory, 59).values, plan.forecast(unseen, unseen.memory, 59).values
        )
