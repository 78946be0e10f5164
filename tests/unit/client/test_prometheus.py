"""Range queries: pieces, gaps, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from smartscale.client.address import Address, Token
from smartscale.client.prometheus import POINTS, range_query
from smartscale.clock import MICROS
from smartscale.errors import UserError
from smartscale.testing.fake_prometheus import FakePrometheus

SHOP, PAY = (("service", "shop"),), (("service", "pay"),)


def at(fake: FakePrometheus) -> Address:
    return Address.of(fake.url, "the Prometheus server", "--prometheus")


def test_a_long_range_is_asked_for_in_pieces_and_comes_back_whole() -> None:
    steps = 2 * POINTS + 5
    with FakePrometheus({SHOP: lambda second: second}) as fake:
        shares: list[float] = []
        found = range_query(at(fake), "rate", 0, (steps - 1) * 60 * MICROS, 60 * MICROS, told=shares.append)
    assert len(fake.asked) == 3
    np.testing.assert_array_equal(found[SHOP], np.arange(steps) * 60.0)
    assert shares[-1] == 1.0


def test_what_has_no_finite_value_is_a_gap() -> None:
    """::

    second   0   10  20   30   40
    answer   1   -   NaN  +Inf 2       a series of other labels has its own gaps
    """
    told = {0: 1.0, 20: math.nan, 30: math.inf, 40: 2.0}
    with FakePrometheus({SHOP: lambda second: told.get(int(second)), PAY: lambda second: 5.0}) as fake:
        found = range_query(at(fake), "rate", 0, 40 * MICROS, 10 * MICROS)
    np.testing.assert_array_equal(found[SHOP], [1.0, np.nan, np.nan, np.nan, 2.0])
    np.testing.assert_array_equal(found[PAY], np.full(5, 5.0))


def test_the_token_goes_in_the_header() -> None:
    with FakePrometheus({SHOP: lambda second: 1.0}) as fake:
        range_query(at(fake), "rate", 0, 0, MICROS, Token("hush"))
    assert fake.tokens == ["Bearer hush"]


def test_a_refusal_is_told_in_the_servers_words() -> None:
    with FakePrometheus({}) as fake, pytest.raises(UserError, match=r"unclosed left parenthesis.*--query"):
        range_query(at(fake), "bad(", 0, MICROS, MICROS)


def test_no_server_is_told_with_the_option() -> None:
    with FakePrometheus({}) as fake:
        gone = at(fake)
    with pytest.raises(UserError, match=r"no answer from Prometheus .*--prometheus"):
        range_query(gone, "rate", 0, MICROS, MICROS)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(UserError, match="range of the query is empty"):
        range_query(Address.of("http://127.0.0.1:9"), "rate", MICROS, 0, MICROS)
