"""The compiled identities are those of the xxhash package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.log.partitioner import event_hash
from smartscale.log.xxh3 import Texts, event_words


def words(tenants: Sequence[str], services: Sequence[str], ids: Sequence[str | None]) -> list[bytes | None]:
    """One event for each of these, as ``event_words`` tells it."""
    data = "".join(each or "" for each in ids).encode() + bytes(16)
    sizes = np.array([-1 if each is None else len(each.encode()) for each in ids], np.int64)
    starts = np.cumsum(np.maximum(sizes, 0)) - np.maximum(sizes, 0)
    places = np.arange(len(ids))
    found = event_words(
        Texts.of(tenants), places, Texts.of(services), places, np.frombuffer(data, np.uint8), starts, sizes
    )
    assert found.shape == (len(ids), 2)
    return [None if each is None else found[i].tobytes() for i, each in enumerate(ids)]


@pytest.mark.parametrize("size", range(1, 300))
def test_every_length_has_its_hash(size: int) -> None:
    """Each range of lengths has a formula of its own, and beyond the last one the package itself is asked."""
    text = "".join(chr(33 + (i * 7 + size) % 90) for i in range(size))
    assert words(["t"], ["s"], [text]) == [event_hash("t", "s", text)]


@given(
    st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9), st.one_of(st.none(), st.text())), max_size=9)
)
def test_many_events_have_the_identities_they_have_alone(
    given_events: list[tuple[str, str, str | None]],
) -> None:
    tenants, services = [each[0] for each in given_events], [each[1] for each in given_events]
    ids = [each[2] for each in given_events]
    expected = [None if i is None else event_hash(t, s, i) for t, s, i in given_events]
    assert words(tenants, services, ids) == expected
