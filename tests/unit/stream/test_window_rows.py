"""What window does by columns is what it would do row by row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from smartscale.config import Windows
from smartscale.records import metrics
from smartscale.records.metrics import Histogram, MetricRow
from smartscale.stream.aggregates import named
from smartscale.stream.window.keys import Key, Keys
from smartscale.stream.window.merge import Rows, with_rollups
from smartscale.stream.windows import Families

NAMES = st.sampled_from(["a", "b", 'quo"te', "ü\n", ""])
KEYS = st.tuples(
    st.sampled_from(["default", "t2"]), NAMES, st.sampled_from(["log", "metric"]), NAMES, st.just("")
)


def fresh() -> Keys:
    return Keys(3_600_000_000, Families(Windows()), max_groups=1000)


def batch(rows: list[Key]) -> pa.RecordBatch:
    labels = ("tenant", "service", "kind", "name", "group")
    columns = [pa.array([row[i] for row in rows], pa.string()).dictionary_encode() for i in range(5)]
    return pa.RecordBatch.from_arrays(columns, names=list(labels))


@given(st.lists(st.lists(KEYS, min_size=1, max_size=20), max_size=5), st.booleans())
def test_the_numbers_of_many_keys_are_those_of_each(records: list[list[Key]], forgets: bool) -> None:
    """New keys are added in the order of the rows; after keys were forgotten numbers are found anew."""
    together, alone = fresh(), fresh()
    for rows in records:
        assert together.numbers(batch(rows)).tolist() == [alone.number(row) for row in rows]
        assert together.names == alone.names
        if forgets:
            for keys in (together, alone):
                keys.compact([0, 1])


@given(
    NAMES,
    NAMES,
    st.integers(0, 2**60),
    st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
    st.one_of(st.none(), st.just(Histogram(4, [1, 2], [3, 4]))),
)
def test_a_row_is_its_head_and_its_rest(
    service: str, name: str, count: int, p99: float | None, histogram: Histogram | None
) -> None:
    """Encoded in two parts, several rests at once."""
    row = MetricRow(
        "default", service, "log", name, "60s/5s", 0, 60, count, 1, 0.5, 0.25, 7, True, False, 99,
        latency_p99_ms=p99, histogram=histogram,
    )  # fmt: skip
    fields = tuple(
        one
        for one in MetricRow.__struct_fields__[4:]
        if one in MetricRow.__struct_fields__[:15] or one in ("latency_p99_ms", "histogram")
    )
    rest = metrics.rest_of(fields)(*(getattr(row, one) for one in fields))
    head = metrics.head("default", service, "log", name)
    assert [head + one for one in metrics.encode_rests([rest, rest])] == [metrics.encode(row)] * 2
    assert metrics.encode_rests([]) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=30))
def test_rollups_are_the_sums_of_their_names(rows: list[tuple[int, int]]) -> None:
    """Keys 0 and 1 have the roll-up 6, keys 2 to 4 have 7, key 5 has 8 and never shares its row."""
    rollup = np.array([6, 6, 7, 7, 7, 8, 6, 7, 8])
    sharing = np.array([True] * 5 + [False] + [True] * 3)
    aggregations = named(Windows())
    state = {name: column for one in aggregations for name, column in one.zero(len(rows)).items()}
    state["count"] = np.array([count for _, count in rows], np.int64)
    panes = Rows(np.array([key for key, _ in rows], np.int64), np.ones(len(rows), np.int64), state)
    merged = with_rollups([panes], rollup, sharing, aggregations)
    expected: dict[int, int] = {}
    for key, count in rows:
        for number in (key, int(rollup[key])):
            expected[number] = expected.get(number, 0) + count
    there = np.flatnonzero(merged.row_of >= 0)
    found = merged.rows.state["count"][merged.row_of[there]]
    assert dict(zip(there.tolist(), found.tolist(), strict=True)) == expected
    if 5 in expected:
        assert merged.row_of[5] != merged.row_of[8]
