"""A replica's queue, with drawn timelines in microseconds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smartscale.sample.protocol import OK, TIMED_OUT
from smartscale.sample.serving import Server, serve, service_time_us

FREE = Server(timeout_us=100, busy_until_us=0)


def test_an_idle_replica_begins_when_the_request_arrives() -> None:
    """Arrival 50, 30 of service: ends at 80, not earlier and not at once."""
    assert serve(FREE, [(1, 50)], [30])[1] == [(1, OK, 80)]


def test_requests_are_served_one_after_the_other() -> None:
    """Arrivals 0 and 10, 30 each: the second waits until 30 and ends at 60."""
    assert serve(FREE, [(1, 0), (2, 10)], [30, 30])[1] == [(1, OK, 30), (2, OK, 60)]


def test_a_request_that_would_wait_too_long_fails_and_uses_no_capacity() -> None:
    """Busy until 150: a request of 0 gives up at 100; one of 60 waits 90 and is served at 150."""
    busy = Server(timeout_us=100, busy_until_us=150)
    assert serve(busy, [(1, 0), (2, 60)], [30, 30])[1] == [(1, TIMED_OUT, 100), (2, OK, 180)]


def test_the_mean_service_time_is_the_inverse_of_capacity() -> None:
    """50/s: 20 ms at the mean draw, twice that when everything is twice as slow."""
    assert (service_time_us(50, 1.0, 1.0), service_time_us(50, 2.0, 1.0)) == (20_000, 40_000)


requests = st.lists(st.tuples(st.integers(0, 500), st.integers(1, 80)), max_size=30).map(sorted)


@given(requests, st.integers(0, 30))
def test_cutting_the_requests_into_batches_changes_nothing(batch: list[tuple[int, int]], cut: int) -> None:
    """However the frames arrive, the replica does the same."""
    numbered = [(n, arrival) for n, (arrival, _) in enumerate(batch)]
    times = [takes for _, takes in batch]
    whole = serve(FREE, numbered, times)[1]
    server, first = serve(FREE, numbered[:cut], times[:cut])
    assert first + serve(server, numbered[cut:], times[cut:])[1] == whole


@given(requests)
def test_every_request_ends_once_after_it_arrived(batch: list[tuple[int, int]]) -> None:
    """Nothing is lost, and no wait exceeds the time-out."""
    numbered = [(n, arrival) for n, (arrival, _) in enumerate(batch)]
    finished = serve(FREE, numbered, [takes for _, takes in batch])[1]
    assert [request for request, _, _ in finished] == [n for n, _ in numbered]
    for (_, arrival), (_, takes), (_, status, end) in zip(numbered, batch, finished, strict=True):
        assert end > arrival
        assert end - arrival <= 100 + (takes if status == OK else 0)
