"""Limits on what events carry, on the columns of a round."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from smartscale.ingest.cardinality import Guard
from smartscale.ingest.cardinality import Limits as Places
from smartscale.ingest.limits import Excess, Limits, excesses, too_many_labels
from smartscale.records import events_json
from smartscale.records.events_json import to_batch

LIMITS = Limits(label_chars=5, id_chars=4, attributes=3, attribute_bytes=40)


def batch(*events: Mapping[str, object], tenant: str = "t") -> pa.RecordBatch:
    """As the edge decodes them."""
    found = events_json.decode(json.dumps(events).encode(), events_json.Limits(0, 10**9, 1 << 20))
    assert not found.refused
    return to_batch(found.events, found.times_us, [None] * len(events), lambda _: 0, tenant)


def told(found: list[Excess]) -> dict[str, list[int]]:
    return {each.code: np.flatnonzero(each.mask).tolist() for each in found}


def test_what_keeps_to_the_limits_is_not_looked_at() -> None:
    """Exactly at each limit."""
    good = {"service": "12345", "name": "ääääß", "id": "1234", "attributes": {"a": 1, "b": 2, "c": 3}}
    assert not list(excesses(batch(good, {"service": "a"}), LIMITS))


def test_each_limit_is_told_by_itself() -> None:
    events: list[Mapping[str, object]] = [
        {"service": "a"},
        {"service": "123456"},
        {"service": "a", "name": "123456"},
        {"service": "a", "id": "12345"},
        {"service": "a", "attributes": {"a": "x" * 40}},
        {"service": "a", "attributes": {"a": 1, "b": 2, "c": 3, "d": 4}},
    ]
    assert told(list(excesses(batch(*events), LIMITS))) == {
        "long-service": [1],
        "long-name": [2],
        "long-id": [3],
        "long-attributes": [4],
        "many-attributes": [5],
    }


@given(st.dictionaries(st.text("ab", max_size=2), st.integers(0, 9), max_size=8), st.integers(1, 6))
def test_attributes_are_counted_exactly(attributes: dict[str, int], most: int) -> None:
    """Although only long texts are parsed; written with and without spaces."""
    for separators in ((",", ":"), (", ", ": ")):
        body = f'[{{"service":"a","attributes":{json.dumps(attributes, separators=separators)}}}]'
        found = events_json.decode(body.encode(), events_json.Limits(0, 10**9, 1 << 20))
        made = to_batch(found.events, found.times_us, [None], lambda _: 0)
        limits = Limits(256, 256, most, 1 << 20)
        assert (told(list(excesses(made, limits))) == {"many-attributes": [0]}) == (len(attributes) > most)


def test_labels_are_counted_by_tenant() -> None:
    guard = Guard(Places(services=1, names=2, ttl_s=60))
    one = [
        {"service": "a", "name": "x"},
        {"service": "b"},
        {"service": "a", "name": "y"},
        {"service": "a", "name": "z"},
    ]
    assert told(list(too_many_labels(batch(*one, tenant="one"), guard, 0.0))) == {
        "too-many-services": [1],
        "too-many-names": [3],
    }
    assert not list(too_many_labels(batch({"service": "b"}, tenant="two"), guard, 0.0))
    both = pa.Table.from_batches(
        [batch(*one, tenant="one"), batch({"service": "c"}, {"service": "b"}, tenant="two")]
    )
    (joined,) = both.unify_dictionaries().combine_chunks().to_batches()
    assert told(list(too_many_labels(joined, guard, 1.0))) == {
        "too-many-services": [1, 4],
        "too-many-names": [3],
    }


def test_an_empty_round_breaks_nothing() -> None:
    empty = batch({"service": "a"}).slice(0, 0)
    assert not list(excesses(empty, LIMITS))
    assert not list(too_many_labels(empty, Guard(Places(1, 1, 60)), 0.0))
