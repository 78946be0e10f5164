"""The latency histogram: exact slots, quantiles with a stated error, merging by adding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smartscale.records import histogram
from smartscale.records.histogram import MIDPOINT_US, RELATIVE_ERROR, SLOTS, UPPER_US

LATENCIES = st.lists(st.integers(1, 2**32), min_size=1, max_size=200)


def by_search(latency_us: np.ndarray) -> np.ndarray:
    """The slot by definition: the first whose upper boundary is not below the value."""
    return np.searchsorted(UPPER_US, latency_us.astype(np.float64), side="left")


def dense(latency_us: list[int]) -> np.ndarray:
    return np.bincount(histogram.slots(np.array(latency_us, np.int64)), minlength=SLOTS)[None, :]


def test_slots_are_exact_around_every_boundary() -> None:
    """Whole microseconds at each boundary, and up to three on either side of it."""
    boundaries = np.floor(UPPER_US[:-1]).astype(np.int64)
    around = np.unique((boundaries[:, None] + np.arange(-3, 4)).clip(0))
    assert (histogram.slots(around) == by_search(around)).all()


def test_slots_are_exact_for_small_latencies() -> None:
    """Every whole microsecond up to a second."""
    small = np.arange(1_000_000)
    assert (histogram.slots(small) == by_search(small)).all()


@given(st.lists(st.integers(0, 2**62), min_size=1))
def test_slots_are_those_of_the_definition(latencies: list[int]) -> None:
    """Any latency, overflow included."""
    values = np.array(latencies, np.int64)
    assert (histogram.slots(values) == by_search(values)).all()


def test_what_is_not_positive_counts_as_the_shortest_and_what_is_too_long_as_the_longest() -> None:
    """Underflow and overflow have slots of their own."""
    values = np.array([-5, 0, 1, 2**32, 2**32 + 1])
    assert histogram.slots(values).tolist() == [0, 0, 0, SLOTS - 2, SLOTS - 1]


@given(
    LATENCIES, st.lists(st.sampled_from([0.001, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0]), min_size=1, unique=True)
)
def test_a_quantile_is_within_the_stated_error_of_the_exact_one(
    latencies: list[int], levels: list[float]
) -> None:
    """The exact one is the inverse distribution function: the value of rank ``ceil(level * n)``."""
    levels = sorted(levels)
    exact = np.quantile(latencies, levels, method="inverted_cdf")
    found = histogram.quantiles(dense(latencies), np.array(levels))[0]
    assert (np.abs(found - exact) <= exact * RELATIVE_ERROR * (1 + 1e-12)).all()


@given(LATENCIES)
def test_quantiles_do_not_cross(latencies: list[int]) -> None:
    """A higher level never gives a lower latency."""
    found = histogram.quantiles(dense(latencies), np.linspace(0.01, 1, 50))[0]
    assert (np.diff(found) >= 0).all()


@given(LATENCIES, LATENCIES)
def test_merging_is_adding_in_either_order(some: list[int], others: list[int]) -> None:
    """The histogram of all is the sum of the histograms of the parts."""
    assert (dense(some) + dense(others) == dense(others + some)).all()


def test_nothing_measured_has_no_quantile() -> None:
    """NaN, not zero."""
    assert np.isnan(histogram.quantiles(np.zeros((2, SLOTS), np.int64), np.array([0.5]))).all()


def test_the_stated_error_is_the_greatest_at_any_boundary() -> None:
    """The harmonic midpoint errs alike at both ends of its slot."""
    lower, upper, middle = UPPER_US[:-2], UPPER_US[1:-1], MIDPOINT_US[1:-1]
    assert np.allclose((middle - lower) / lower, RELATIVE_ERROR)
    assert np.allclose((upper - middle) / upper, RELATIVE_ERROR)
