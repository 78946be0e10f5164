"""What is remembered of a series, where in it the like of a step lies, and which period it has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from smartscale.ml.forecast import period
from smartscale.ml.forecast.period import Periodic
from smartscale.ml.series import history, season
from smartscale.ml.series.history import Past

Array = npt.NDArray[np.float64]


def ring(values: Array, width: int = 64) -> history.Codes:
    """Steps 0, 1, ... of one series."""
    codes = history.empty(1, width)
    for step, value in enumerate(values):
        history.put(codes, step, np.array([value]))
    return codes


@given(st.floats(2.0**-19, 2.0**43))
def test_a_value_is_remembered_to_half_a_per_mille(value: float) -> None:
    """Two bytes: ten bits of mantissa, rounded, from a millionth to ten million millions."""
    (back,) = history.decode(history.encode(np.array([value])))
    assert abs(back / value - 1) <= 2.0**-11


@given(st.integers(1, 65535))
def test_a_code_is_its_own_value(code: int) -> None:
    """So a past that was written and read is the same past."""
    codes = np.array([code], np.uint16)
    assert history.encode(history.decode(codes)) == codes


def test_a_gap_is_remembered_as_a_gap() -> None:
    """And what lies outside of the ring, or after the origin, is not known either."""
    values = np.array([1.0, np.nan, 3.0, 4.0, 5.0])
    for width, origin, wanted in ((8, 3, [1, np.nan, 3, 4, np.nan]), (4, 4, [np.nan, np.nan, 3, 4, 5])):
        past = Past(ring(values, width), origin)
        np.testing.assert_array_equal(past.between(0, 4)[0], wanted)


def test_the_like_of_a_step_is_whole_periods_back_at_the_origin_or_before() -> None:
    """Period 24, origin 100: tomorrow at the same hour is today; three days on it still is today, not the future."""
    steps = (100, 101, 124, 125, 172, 173)
    assert [season.reference(step, 100, 24) for step in steps] == [76, 77, 100, 77, 100, 77]


@given(
    st.lists(st.one_of(st.floats(1, 100), st.just(float("nan"))), min_size=30, max_size=60),
    st.integers(4, 12),
    st.integers(0, 2),
    st.integers(1, 3),
)
def test_sliding_sums_are_what_each_mean_is(values: list[float], every: int, half: int, back: int) -> None:
    """``likes`` of many steps is ``like`` of each."""
    codes, origin = ring(np.array(values)), len(values) - 1
    found = np.empty(2 * every + 3)
    season.likes(codes[0], origin + 1, origin, every, back, half, found)
    wanted = [season.like(codes[0], origin + 1 + j, origin, every, back, half) for j in range(len(found))]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def found(values: Array) -> int:
    """The period of a series that is all known at its last step."""
    codes = ring(values, width=len(values))
    return int(period.find(codes[0], len(values) - 1, len(values), np.empty(len(values), np.float32)))


def test_a_period_is_found_and_its_multiples_are_not() -> None:
    """Bursts of 5 steps every 37, a saw of 50, a wave of 90, each with noise: neither 74 nor 100 nor 180."""
    rng, t = np.random.default_rng(0), np.arange(600)
    for every, shape in ((37, 3.0 * (t % 37 < 5)), (50, (t % 50) / 10), (90, 2 * np.sin(2 * np.pi * t / 90))):
        assert abs(found(10 + shape + rng.normal(0, 0.5, 600)) - every) <= 1


def test_noise_walks_and_steady_series_have_no_period() -> None:
    """Of 30 each, at most one is taken for periodic."""
    rng = np.random.default_rng(1)
    noise = [found(20 + rng.normal(0, 1, 600)) for _ in range(30)]
    walks = [found(100 + np.cumsum(rng.normal(0, 1, 600))) for _ in range(30)]
    assert sum(p > 0 for p in noise) <= 1
    assert sum(p > 0 for p in walks) <= 8  # they come back at times; the mixture judges what that is worth
    assert found(np.full(600, 7.0)) == 0


def test_recurring_bursts_are_foreseen() -> None:
    """A burst of three times the level every 40 steps: the next is told before it begins, and its end too."""
    rng, t = np.random.default_rng(2), np.arange(515)
    values = np.where(t % 40 < 5, 17.0, 10.0) + rng.normal(0, 0.3, 515)
    method, codes = Periodic(), history.empty(1, 600)
    memory = method.fresh(1)
    for step, value in enumerate(values):
        history.put(codes, step, np.array([value]))
        method.learn(memory, np.array([value]), Past(codes, step))
    path = method.forecast(memory, Past(codes, 514), 20)[0]  # bursts at 520 to 524
    np.testing.assert_allclose(path[:5], 10, atol=1)
    np.testing.assert_allclose(path[5:10], 17, atol=1)
    np.testing.assert_allclose(path[10:], 10, atol=1)
