"""Latencies keep three digits, and merge whatever way they are split; a timeline stays as long as it may be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.producer.recorder import LONGEST_US, Latencies, Timeline

durations = st.lists(st.integers(0, 2**33), min_size=1, max_size=200)
levels = st.floats(0, 1)


def latencies(values: list[int], bits: int = 11) -> Latencies:
    whole = Latencies(bits)
    whole.add(np.array(values, dtype=np.int64))
    return whole


@given(durations, levels, st.sampled_from([6, 11]))
@settings(max_examples=100)
def test_a_quantile_is_that_of_the_values_within_the_stated_error(
    values: list[int], level: float, bits: int
) -> None:
    """The least value that at least ``level`` of all do not exceed; never told too small."""
    true = sorted(values)[max(int(np.ceil(round(level * len(values), 6))) - 1, 0)]
    told = latencies(values, bits).quantile_us(level)
    assert true <= told <= true * (1 + 2.0 ** (1 - bits))


@given(durations, durations)
@settings(max_examples=50)
def test_merged_parts_equal_the_whole(left: list[int], right: list[int]) -> None:
    whole, merged = latencies(left + right), latencies(right)
    merged.merge(latencies(left).sparse().latencies())
    assert merged.sparse() == whole.sparse()


def test_what_is_known_exactly() -> None:
    """Count, mean, least and greatest; and every value below 2,048 us."""
    some = latencies([3, 2_047, 7_654_321])
    assert (some.count, some.min_us, some.max_us, some.mean_us) == (3, 3, 7_654_321, 7_656_371 / 3)
    assert some.quantiles_us([0.0, 0.5, 0.67, 1.0]).tolist() == [3, 2_047, 7_654_321, 7_654_321]
    assert latencies([-5, 2**60]).quantiles_us([0.5, 1.0]).tolist() == [0, LONGEST_US]
    assert Latencies().quantile_us(0.99) == 0


def test_p9999_of_ten_thousand_is_the_second_greatest() -> None:
    assert latencies([*range(9_998), 20_000, 30_000]).quantile_us(0.9999) == 20_000 + 20_000 % 2 + 15


def test_histograms_of_different_precision_do_not_merge() -> None:
    with pytest.raises(ValueError, match="do not merge"):
        Latencies(6).merge(Latencies(11))


def test_a_timeline_places_requests_by_their_planned_time() -> None:
    timeline = Timeline()
    timeline.add("sent", np.array([-0.1, 0.5, 2.5]), np.array([1, 10, 100]))
    timeline.add_latencies(np.array([0.1, 2.0]), np.array([50, 60]))
    assert timeline.counts["sent"].tolist() == [11, 0, 100]
    assert [each.count for each in timeline.latencies] == [1, 0, 1]


@given(st.lists(st.tuples(st.floats(0, 2_000), st.integers(1, 9)), max_size=20), st.data())
@settings(max_examples=15)
def test_a_timeline_stays_bounded_and_merges_whatever_its_steps(
    events: list[tuple[float, int]], data: st.DataObject
) -> None:
    """However many seconds, at most 600 slices; the parts of several workers give the whole."""
    cut = data.draw(st.integers(0, len(events)))
    parts = []
    for part in (events, events[:cut], events[cut:]):
        timeline = Timeline()
        for at_s, count in part:
            timeline.add("planned", np.array([at_s]), np.array([count]))
            timeline.add_latencies(np.array([at_s]), np.array([count]))
        assert len(timeline) <= 600
        parts.append(timeline.wire().timeline())
    whole, merged, other = parts
    merged.merge(other)
    assert merged.step_s == whole.step_s
    assert merged.counts["planned"].tolist() == whole.counts["planned"].tolist()
    assert [each.sparse() for each in merged.latencies] == [each.sparse() for each in whole.latencies]
