"""Quotas by tenant, and when those who are pushed back should come again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.ingest import backpressure
from smartscale.ingest.backpressure import retry_after_s
from smartscale.ingest.quotas import BURST_S, Quotas
from smartscale.ingest.tokens import Quota


def test_without_a_quota_nobody_waits() -> None:
    quotas = Quotas(Quota())
    quotas.charge("shop", 10**9, 10**12, 0.0)
    assert quotas.wait_s("shop", 0.0) == 0.0


def test_who_overdraws_waits_exactly_until_the_debt_is_paid() -> None:
    """100 a second, 200 to begin with; 500 are sent: 300 of debt take 3 s."""
    quotas = Quotas(Quota(events_per_s=100))
    assert quotas.wait_s("shop", 10.0) == 0.0
    quotas.charge("shop", 500, 0, 10.0)
    assert quotas.wait_s("shop", 10.0) == 3.0
    assert quotas.wait_s("shop", 12.5) == 0.5
    assert quotas.wait_s("shop", 13.0) == 0.0


def test_bytes_and_events_are_counted_apart_and_the_longer_wait_holds() -> None:
    quotas = Quotas(Quota(events_per_s=100, bytes_per_s=1000))
    quotas.charge("shop", 300, 6000, 0.0)
    assert quotas.wait_s("shop", 0.0) == 4.0


def test_one_tenants_debt_is_nothing_to_another() -> None:
    """And the file may give a tenant a quota of its own."""
    quotas = Quotas(Quota(events_per_s=10), {"bank": Quota(events_per_s=1000)})
    for tenant in ("shop", "bank"):
        quotas.charge(tenant, 1000, 0, 0.0)
    assert quotas.wait_s("shop", 0.0) == 98.0
    assert quotas.wait_s("bank", 0.0) == 0.0
    assert quotas.wait_s("other", 0.0) == 0.0


def test_new_quotas_hold_from_now_on_and_debts_stay() -> None:
    quotas = Quotas(Quota(events_per_s=10))
    quotas.charge("shop", 40, 0, 0.0)
    quotas.renew({"shop": Quota(events_per_s=100)}, frozenset({"shop"}))
    assert quotas.wait_s("shop", 0.0) == pytest.approx(0.2)
    quotas.renew({}, frozenset())
    assert quotas.wait_s("shop", 0.0) == 0.0


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 500)), min_size=1, max_size=60),
    st.floats(1, 1000),
)
def test_whoever_keeps_to_the_waits_gets_the_quota_and_no_more(
    requests: list[tuple[float, int]], rate: float
) -> None:
    """However requests come: what was let in before the last one is at most the burst, the rate times the time, and one
    request's overdraft; and no wait is longer than its debt."""
    quotas = Quotas(Quota(events_per_s=rate))
    now_s, sent, largest = 0.0, 0, 0
    for pause_s, events in requests:
        now_s += pause_s
        wait_s = quotas.wait_s("t", now_s)
        assert wait_s <= largest / rate + 1e-6
        now_s = math.nextafter(now_s + wait_s, math.inf)
        assert quotas.wait_s("t", now_s) < 1e-6
        assert sent <= rate * (BURST_S + now_s) + largest + 1e-6
        quotas.charge("t", events, 0, now_s)
        sent += events
        largest = max(largest, events)


amounts = st.floats(0, 1e9)


@given(amounts, st.floats(1, 1e9), amounts, st.floats(0, 1e5), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_whole_and_bounded_whatever_is_measured(
    waiting: float, limit: float, rate: float, stalled: float, spread: float
) -> None:
    wait_s = retry_after_s(waiting, limit, rate, stalled, spread)
    assert isinstance(wait_s, int)
    assert backpressure.LEAST_S <= wait_s <= backpressure.MOST_S


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0.1, 1e6))
def test_more_that_waits_or_a_slower_log_never_shortens_the_wait(a: float, b: float, rate: float) -> None:
    low, high = sorted((a, b))
    assert retry_after_s(low, 1e5, rate, 0, 0) <= retry_after_s(high, 1e5, rate, 0, 0)
    assert retry_after_s(high, 1e5, rate, 0, 0) >= retry_after_s(high, 1e5, rate * 2, 0, 0)


def test_a_log_that_is_gone_is_asked_less_and_less_often() -> None:
    """Who comes back when told, comes at twice the time: 2, 4, 8, 16, then every 30 s."""
    at_s, attempts = 2.0, []
    for _ in range(6):
        attempts.append(at_s)
        at_s += retry_after_s(1000, 1000, 1e6, at_s, 0.0)
    assert attempts == [2, 4, 8, 16, 32, 62]
