"""Replicas for a load, and the forecast's peak over the lead time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.clock import MICROS
from smartscale.control.demand import Peaks, interpolate, peak_over, replicas_for

FORECAST = Peaks("arrivals", 0, 10.0, [0.5, 0.9], [[100.0, 120.0], [110.0, 150.0], [120.0, 200.0]])


@pytest.mark.parametrize(
    ("until_s", "quantile", "load"),
    [
        (10, 0.5, 100.0),  # the first step alone
        (11, 0.5, 110.0),  # a second begun is a second covered
        (20, 0.9, 150.0),
        (20, 0.7, 130.0),  # half way between the levels
        (99, 0.9, 200.0),  # beyond the horizon: its end
        (10, 0.999, 120.0),  # beyond the last level: the last
        (-5, 0.5, 100.0),  # a forecast from the future of the lead time: at least one step
    ],
)
def test_the_peak_covers_the_time_asked_for(until_s: float, quantile: float, load: float) -> None:
    """Steps of 10 s, levels 0.5 and 0.9."""
    peak = peak_over(FORECAST, round(until_s * MICROS), quantile)
    assert peak is not None
    assert peak.load == pytest.approx(load)


def test_an_empty_forecast_has_no_peak() -> None:
    """Nothing is known, which is not zero."""
    assert peak_over(Peaks("arrivals", 0, 10.0, [0.5], []), MICROS, 0.5) is None


def test_what_the_forecast_cannot_say_is_told() -> None:
    """In the words of the explanation."""
    peak = peak_over(FORECAST, 99 * MICROS, 0.999)
    assert peak is not None
    assert "knows no level above 0.9" in peak.detail
    assert "after the forecast's horizon" in peak.detail


@given(st.integers(0, 10_000), st.floats(0.1, 1000), st.floats(0.05, 1.0), st.floats(1e-6, 1e6))
def test_replicas_do_not_depend_on_the_unit(
    replicas: int, capacity: float, utilization: float, factor: float
) -> None:
    """A load of exactly n replicas' work asks for n, in any unit."""
    load = replicas * capacity * utilization
    assert replicas_for(load * factor, capacity * factor, utilization) == replicas


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=5), st.floats(0, 1))
def test_interpolation_stays_between_its_neighbours(values: list[float], level: float) -> None:
    """Sorted values, evenly spaced levels."""
    values.sort()
    levels = [n / (len(values) - 1) for n in range(len(values))]
    assert values[0] <= interpolate(levels, values, level) <= values[-1] * (1 + 1e-12)
