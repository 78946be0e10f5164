"""The search for the highest rate: right on a quiet machine, robust on a noisy one, and it says what it does not know."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.errors import UserError
from smartscale.producer.rate_search import CLOSE, Search, Target, Trial


def outcome(search: Search, sustained: bool, limited: bool = False) -> Trial:
    return Trial(
        search.rate_per_s, search.long, sustained, "" if sustained else "slow", 1.0, 1.0, 100, limited
    )


@given(st.floats(2, 1e7))
@settings(max_examples=200)
def test_without_noise_the_answer_is_within_five_percent_below_the_capacity(capacity: float) -> None:
    search, trials = Search(1000.0), 0
    while not search.over:
        search = search.after(outcome(search, search.rate_per_s <= capacity))
        trials += 1
    assert capacity / CLOSE * 0.999 <= search.low <= capacity
    assert search.high > capacity
    assert trials <= 60


def test_with_noise_it_ends_and_is_seldom_far_off() -> None:
    """One trial in ten within a fifth of the capacity gives the wrong answer, and one in fifty fails anywhere: of 500
    searches nine in ten are within 15 %, and none is far above."""
    chance = random.Random(1)
    close = 0
    for _ in range(500):
        capacity = math.exp(chance.uniform(math.log(50), math.log(1e6)))
        search, trials = Search(1000.0), 0
        while not search.over:
            good = search.rate_per_s <= capacity
            near = abs(math.log(search.rate_per_s / capacity)) < 0.2
            if (near and chance.random() < 0.1) or (good and chance.random() < 0.02):
                good = not good
            search = search.after(outcome(search, good))
            trials += 1
            assert trials < 120
        assert search.low <= capacity * 1.25
        close += abs(math.log(max(search.low, 1) / capacity)) < 0.15
    assert close >= 450


def test_one_failure_while_doubling_is_not_believed() -> None:
    search = Search(1000.0)
    search = search.after(outcome(search, False))
    assert search.rate_per_s == 1000
    search = search.after(outcome(search, True)).after(outcome(search, True))
    assert (search.low, search.rate_per_s) == (1000, 2000)


def test_where_the_generator_is_the_limit_its_own_highest_rate_is_found_and_said_to_be_it() -> None:
    """It fails above 5,000 by itself; a server that fails from 3,000 on is the limit, though the generator fails higher."""
    for server, limited in ((1e9, True), (3000.0, False)):
        search = Search(1000.0)
        while not search.over:
            rate = search.rate_per_s
            search = search.after(outcome(search, rate <= min(5000, server), limited=rate > 5000))
        least = min(5000, server)
        assert least / CLOSE <= search.low <= least
        assert search.limited == limited


def test_what_sustains_nothing_is_given_up() -> None:
    search, trials = Search(1000.0), 0
    while not search.over:
        search, trials = search.after(outcome(search, False)), trials + 1
    assert search.low == 0
    assert trials == 2 * 10  # 1000, 500, ... 2, each twice


def test_a_rate_that_a_long_trial_does_not_confirm_is_lowered_a_few_times() -> None:
    search = Search(1000.0)
    while not search.over:
        search = search.after(outcome(search, search.rate_per_s <= 5000 and not search.long))
    assert search.low == 0
    assert search.confirmations == 4


@pytest.mark.parametrize("flattering", [1.1, 1.4, 1.9])
def test_short_trials_that_flatter_a_server_do_not_hide_its_capacity(flattering: float) -> None:
    """A queue needs time to reach the target: a short trial can pass at nearly twice the capacity."""
    search = Search(1000.0)
    while not search.over:
        holds = search.rate_per_s <= 2000 * (1 if search.long else flattering)
        search = search.after(outcome(search, holds))
    assert 2000 / 1.5 <= search.low <= 2000


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("p99=50ms", Target("p99", 50)),
        ("p99.9 = 0.2s", Target("p99.9", 200)),
        ("max=1s", Target("max", 1000)),
    ],
)
def test_a_target_is_read(text: str, target: Target) -> None:
    assert Target.read(text) == target


@pytest.mark.parametrize("text", ["p98=50ms", "50ms", "p99=0ms", "p99=50", "p99=5.5.5ms"])
def test_a_wrong_target_is_told(text: str) -> None:
    with pytest.raises(UserError, match="p99=50ms"):
        Target.read(text)
