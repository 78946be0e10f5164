"""Bounded memory, and how old the oldest event in it is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.ingest.admission import SPAN_S, Admission, Drain


def test_bodies_are_bounded_by_their_bytes() -> None:
    admission = Admission(max_bytes=100)
    assert admission.reserve(60)
    assert not admission.reserve(41)
    admission.free(60)
    assert admission.reserve(100)


def test_the_oldest_body_is_the_first_received_of_those_not_settled_and_never_after_the_clock() -> None:
    """Received: 50, 30 (the clock was set back), 900 (ahead of it now); the clock stands at 100."""
    admission = Admission(max_bytes=100)
    assert admission.oldest_us(100) == 100
    admission.admit(received_us=50)
    oldest = admission.admit(received_us=30)
    admission.admit(received_us=900)
    assert admission.oldest_us(100) == 30
    admission.settle(oldest)
    assert admission.oldest_us(100) == 50
    assert admission.requests == 2


def test_what_drained_long_ago_counts_no_more() -> None:
    """One burst of 1,000 bytes: 200 a second over the span of 5 s, less by 1/e each further span."""
    drain = Drain()
    assert (drain.bytes_per_s(0.0), drain.stalled_s(0.0), drain.events_in(10)) == (0.0, math.inf, 0.0)
    drain.add(10.0, size=1000, events=10)
    assert drain.bytes_per_s(10.0) == 200.0
    assert drain.bytes_per_s(10.0 + SPAN_S) == pytest.approx(200.0 / math.e)
    assert drain.events_in(500) == 5.0
    assert drain.stalled_s(13.0) == 3.0


@given(
    st.lists(st.tuples(st.sampled_from(["receive", "write", "beat", "wait"]), st.integers(0, 9)), max_size=60)
)
def test_nothing_is_written_behind_a_heartbeat_that_was_received_before_what_it_says(
    steps: list[tuple[str, int]],
) -> None:
    """Any order of receiving, writing (whichever body), beating and waiting: the promise of ``Heartbeat``."""
    admission = Admission(max_bytes=100)
    clock_us, promised_us = 0, 0
    waiting: list[tuple[int, int]] = []
    for step, number in steps:
        if step == "receive":
            waiting.append((clock_us, admission.admit(clock_us)))
        elif step == "write" and waiting:
            received_us, ticket = waiting.pop(number % len(waiting))
            assert received_us >= promised_us
            admission.settle(ticket)
        elif step == "beat":
            promised_us = max(promised_us, admission.oldest_us(clock_us))
        else:
            clock_us += number
