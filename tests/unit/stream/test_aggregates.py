"""Aggregations: the contract of each, and how far what they estimate may be off."""

from __future__ import annotations

import math
from collections.abc import Sequence

import datasketches
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.config import Windows
from smartscale.errors import ConfigError
from smartscale.records import events, histogram, value_histogram
from smartscale.stream.aggregates import (
    Aggregation,
    Latency,
    Requests,
    Users,
    Values,
    checks,
    named,
    register,
    users,
)
from smartscale.stream.aggregates.protocol import Events
from smartscale.stream.columns import State
from smartscale.testing.pipeline import Sent, events_value

LEVELS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
SENT = st.builds(
    Sent,
    service=st.just("a"),
    time_us=st.integers(0, 5),
    latency_us=st.none() | st.integers(0, 2**40),
    error=st.booleans(),
    value=st.none() | st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0]),
    user=st.none() | st.sampled_from(["ann", "bob", "cem"]),
)


def batch(sent: Sequence[Sent]) -> pa.RecordBatch:
    return events.decode(events_value(sent))


def of(aggregation: Aggregation, sent: Sequence[Sent]) -> dict[str, float]:
    """The results of one key with all these events."""
    state: State = aggregation.zero(1)
    aggregation.add(state, np.zeros(len(sent), np.int32), Events(pa.Table.from_batches([batch(sent)])))
    return {name: column.tolist()[0] for name, column in aggregation.result(state, 10.0).items()}


def exact(values: Sequence[float], level: float) -> float:
    """The inverse distribution function."""
    return sorted(values)[max(math.ceil(level * len(values)), 1) - 1]


@pytest.mark.parametrize("aggregation", [Requests(), Latency(), Values(), Users()], ids=lambda one: one.name)
@settings(max_examples=40)
@given(sent=st.lists(SENT, min_size=1, max_size=40), seed=st.integers(0, 1000))
def test_any_split_any_order_and_any_way_of_merging_give_one_result(
    aggregation: Aggregation, sent: list[Sent], seed: int
) -> None:
    """The contract that ``checks.check`` holds every class to."""
    checks.check(aggregation, batch(sent), seed)


@given(st.lists(st.integers(0, 2**32) | st.integers(0, 10**6), min_size=1, max_size=200))
def test_latency_percentiles_are_within_the_stated_relative_error_of_the_exact_ones(
    latencies: list[int],
) -> None:
    """2.17 %, or half a microsecond's rounding below the first boundary, up to 71 minutes."""
    found = of(Latency(), [Sent("a", 0, latency_us=latency) for latency in latencies])
    for name, level in LEVELS.items():
        wanted = exact(latencies, level)
        assert abs(found[f"latency_{name}_ms"] * 1000 - wanted) <= max(
            wanted * histogram.RELATIVE_ERROR, 1
        ) * (1 + 1e-9)
    assert found["latency_max_ms"] * 1000 == pytest.approx(max(latencies))


ANY_VALUE = st.floats(-(2.0**127), 2.0**127) | st.sampled_from(
    [0.0, -0.0, 1e-30, -1e-30, 3e38, -3e38, 1.0, -1.0]
)


@given(st.lists(ANY_VALUE, min_size=1, max_size=200))
def test_value_percentiles_are_within_the_stated_relative_error_whatever_the_sign_and_size(
    values: list[float],
) -> None:
    """2.17 % of the exact value for magnitudes from 2**-128 to 2**128; zero is zero."""
    found = of(Values(), [Sent("a", 0, value=value) for value in values])
    for name, level in LEVELS.items():
        wanted = exact(values, level)
        error = max(abs(wanted) * histogram.RELATIVE_ERROR, 2.0**-128) * (1 + 1e-9)
        assert abs(found[f"value_{name}"] - wanted) <= error, (name, wanted)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_slots_of_values_ascend_with_the_values(a: float, b: float) -> None:
    """Infinity and the least magnitudes included, so a quantile's rank is found by counting slots."""
    slots = value_histogram.slots(np.array([a, b]))
    assert a == b or (slots[0] <= slots[1]) == (a < b) or slots[0] == slots[1]
    assert (slots >= 0).all()
    assert (slots < value_histogram.SLOTS).all()


def test_the_last_value_is_that_of_the_latest_event_time_and_the_greatest_of_several_then() -> None:
    """The order of arrival says nothing."""
    sent = [
        Sent("a", 5, value=1.0),
        Sent("a", 9, value=-3.0),
        Sent("a", 9, value=-7.0),
        Sent("a", 2, value=8.0),
    ]
    assert of(Values(), sent)["value_last"] == of(Values(), sent[::-1])["value_last"] == -3.0


def test_percentiles_of_values_are_not_told_where_a_partial_of_version_1_has_none() -> None:
    """Its count is known, its histogram is not: percentiles would speak for a part only."""
    state = Values().zero(1)
    Values().add(
        state, np.zeros(1, np.int32), Events(pa.Table.from_batches([batch([Sent("a", 0, value=2.0)])]))
    )
    state["value_count"] = state["value_count"] + 1
    found = Values().result(state, 10.0)
    assert np.isnan(found["value_p50"][0])
    assert found["value_max"][0] == 2.0


# Distinct users.


def sketch_of(ids: np.ndarray) -> np.ndarray:
    state = Users().zero(1)
    n = len(ids)
    table = pa.table({"user": pa.array(ids, pa.uint64())})
    Users().add(state, np.zeros(n, np.int32), Events(table))
    held: np.ndarray = state["users"].values
    return held


@pytest.mark.parametrize("n", [1, 2, 100, users.K, users.K + 1, 5000, 200_000])
def test_a_sketch_of_users_is_one_of_apache_datasketches(n: int) -> None:
    """The same hashes as its update sketch keeps after ``trim``, and its library reads ours, to the same estimate."""
    ids = np.arange(n, dtype=np.uint64)
    theirs = datasketches.update_theta_sketch(11)
    for one in ids.tolist():
        theirs.update(one)
    theirs.trim()
    ours = sketch_of(ids)
    read = datasketches.compact_theta_sketch.deserialize(users.serialized(ours))
    assert sorted(read) == ours[: users.K].tolist()
    if theirs.is_estimation_mode():
        assert sorted(read) == sorted(theirs)
        assert read.theta64 == theirs.theta64
    lists = Users().zero(1)["users"]
    estimate = users.estimates(type(lists)(np.array([0, len(ours)]), ours))[0]
    assert read.get_estimate() == pytest.approx(estimate)
    assert np.array_equal(users.deserialized(users.serialized(ours)), ours)


def test_distinct_users_are_within_the_stated_error() -> None:
    """Two hundred sets of 20,000 users: 95 % within two standard errors, none beyond five, no bias to speak of; exact up to
    2,048; small sketches are small."""
    random = np.random.default_rng(1)
    off = []
    for _ in range(200):
        ids = random.integers(0, 2**64, 20_000, np.uint64, endpoint=False)
        sketch = sketch_of(np.concatenate((ids, ids[:5000])))
        off.append(
            datasketches.compact_theta_sketch.deserialize(users.serialized(sketch)).get_estimate() / 20_000
            - 1
        )
    error = np.abs(off) / users.RELATIVE_STANDARD_ERROR
    assert np.mean(error < 2) > 0.9
    assert error.max() < 5
    assert abs(np.mean(off)) < users.RELATIVE_STANDARD_ERROR / 4
    assert len(users.serialized(sketch_of(ids))) == 24 + 8 * users.K
    assert len(users.serialized(sketch_of(ids[:3]))) == 40
    assert len(np.unique(sketch_of(ids[:2048]))) == 2048


# The register.


def test_an_unknown_aggregation_is_refused_with_what_to_do() -> None:
    """It names those there are, and where further ones come from."""
    with pytest.raises(ConfigError, match=r"no aggregation 'apdx'; known: requests, .*windows\.modules"):
        named(Windows(aggregates=["requests", "apdx"]))


def test_a_module_that_cannot_be_imported_is_told() -> None:
    """Not a traceback."""
    with pytest.raises(ConfigError, match=r"'no_such_module' cannot be imported"):
        named(Windows(modules=["no_such_module"]))


def test_two_classes_of_one_name_are_refused() -> None:
    """The second would silently compute something else."""

    class Other(Requests):
        pass

    with pytest.raises(ConfigError, match="registered twice"):
        register(Other())
