"""Chunks: columns of planned events become the JSON that the edge reads."""

from __future__ import annotations

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.clock import iso, parse_iso_us
from smartscale.producer.chunk import NONE, Columns, Heads, concatenated, in_order, of_events
from smartscale.records.events_json import EventIn

_YEAR_9999 = parse_iso_us("9999-12-31T23:59:59.999999Z")


def column(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


@given(
    st.lists(
        st.tuples(
            st.integers(0, _YEAR_9999),
            st.integers(100, 599) | st.just(NONE),
            st.integers(0, 2**31 * 1000 - 1) | st.just(NONE),
            st.floats(-1e9, 1e9) | st.just(float("nan")),
            st.integers(0, 2**62) | st.just(NONE),
            st.integers(0, 2**62),
            st.sampled_from(["shop", 'qu"ote\\', "größe"]),
        ),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=50)
def test_columns_are_written_as_the_json_of_the_same_events(
    rows: list[tuple[int, int, int, float, int, int, str]],
) -> None:
    """Decoded again, each event has the fields of its row and no others."""
    times, statuses, latencies, values, users, numbers, services = zip(*rows, strict=True)
    heads = Heads()
    columns = Columns(
        column(list(range(len(rows)))),
        column(list(times)),
        column([heads.place(service, "log", "x", "error") for service in services]),
        column(list(statuses)),
        column(list(latencies)),
        np.array(values),
        column(list(users)),
        column(list(numbers)),
    )
    for event, (time_us, status, latency, value, user, number, service) in zip(
        heads.encode(columns, 'r"un').events(), rows, strict=True
    ):
        assert (event.service, event.kind, event.name, event.severity) == (service, "log", "x", "error")
        assert event.time is not None
        assert parse_iso_us(event.time) == time_us
        assert event.status == (None if status == NONE else status)
        assert event.latency_ms == (None if latency == NONE else latency / 1000)
        assert event.value is None if np.isnan(value) else abs((event.value or 0.0) - value) < 1e-4
        assert event.user == (None if user == NONE else f"u{user}")
        assert event.id == f'r"un-{number}'


def test_a_chunk_gives_bodies_and_single_events() -> None:
    events = [EventIn(service="s", time=iso(i), id=str(i)) for i in range(3)]
    chunk = of_events(column([0, 1, 2]), events)
    assert chunk.events() == events
    assert msgspec.json.decode(chunk.body(1, 3), type=list[EventIn]) == events[1:]
    assert msgspec.json.decode(chunk.event(2), type=EventIn) == events[2]


def test_an_empty_chunk_has_no_events() -> None:
    assert of_events(column([]), []).events() == []


def test_parts_are_joined_in_the_order_of_their_due_times() -> None:
    def part(due: list[int], number: int) -> Columns:
        some = column(due)
        none = np.full(len(due), NONE)
        return Columns(some, some, none, none, none, none.astype(float), none, np.full(len(due), number))

    whole = in_order(concatenated([part([1, 5], 1), part([1, 3], 2)]))
    assert whole.due_us.tolist() == [1, 1, 3, 5]
    assert whole.number.tolist() == [1, 2, 2, 1]
