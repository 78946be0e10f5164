"""Bounded memory, and how old the oldest event in it is."""

from __future__ import annotations

from smartscale.ingest.admission import Admission


def test_events_are_let_in_up_to_the_limit_and_again_once_settled() -> None:
    admission = Admission(max_events=10, max_bytes=100)
    first = admission.admit(6, oldest_us=50)
    assert first is not None
    assert admission.admit(5, oldest_us=60) is None
    assert admission.admit(4, oldest_us=60) is not None
    admission.settle(first)
    assert admission.events == 4
    assert admission.admit(6, oldest_us=70) is not None


def test_bodies_are_bounded_by_their_bytes() -> None:
    admission = Admission(max_events=10, max_bytes=100)
    assert admission.reserve(60)
    assert not admission.reserve(41)
    admission.free(60)
    assert admission.reserve(100)


def test_nothing_is_let_in_once_closed() -> None:
    admission = Admission(max_events=10, max_bytes=100)
    admission.closed = True
    assert admission.admit(1, oldest_us=0) is None


def test_the_oldest_event_is_the_least_of_those_not_settled_and_never_after_the_clock() -> None:
    """Admitted: 50, 30, 900 (ahead of the clock); the clock stands at 100."""
    admission = Admission(max_events=10, max_bytes=100)
    assert admission.oldest_us(100) == 100
    admission.admit(1, oldest_us=50)
    oldest = admission.admit(1, oldest_us=30)
    admission.admit(1, oldest_us=900)
    assert oldest is not None
    assert admission.oldest_us(100) == 30
    admission.settle(oldest)
    assert admission.oldest_us(100) == 50
