"""What every forecasting method, and the mixture of them, promises: one suite for all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.ml.forecast import checks
from smartscale.ml.forecast.ensemble import LEVELS, Forecaster, Quantiles, State
from smartscale.ml.forecast.pool import pool
from smartscale.ml.forecast.protocol import Method
from smartscale.ml.series.history import put

Array = npt.NDArray[np.float64]

STEP_S, DAY, HORIZON = 3600.0, 24, 6
METHODS = pool(STEP_S, HORIZON, history_steps=200)
SERIES = 3


def drawn(seed: int, steps: int, series: int = SERIES) -> Array:
    """Poisson counts around a daily wave, as rates a second, with a gap now and then; shape (steps, series)."""
    rng = np.random.default_rng(seed)
    wave = 50 + 30 * np.sin(np.arange(steps) * 2 * np.pi / DAY)
    rates = rng.poisson(wave[:, None] * np.arange(1, series + 1), (steps, series)).astype(np.float64)
    rates[rng.random((steps, series)) < 0.03] = np.nan
    return rates


def learned(rates: Array, plan: Forecaster) -> State:
    state = plan.fresh(rates.shape[1])
    for step, column in enumerate(rates):
        plan.learn(state, step, column)
    return state


def forecast(rates: Array, plan: Forecaster | None = None) -> Quantiles:
    plan = plan or Forecaster(STEP_S, HORIZON, 200)
    state = learned(rates, plan)
    return plan.forecast(state, state.memory, len(rates) - 1)


@pytest.mark.parametrize("promise", checks.CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_method_keeps_every_promise(method: Method, promise: Callable[[Method], None]) -> None:
    """The shared suite, on each method of the pool."""
    promise(method)


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
