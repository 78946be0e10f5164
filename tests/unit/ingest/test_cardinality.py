"""The cardinality guard: bounded labels, whatever comes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smartscale.ingest.cardinality import Guard, Limits


def refused(guard: Guard, pairs: list[tuple[str, str]], now_s: float = 0.0, tenant: str = "t") -> list[str]:
    """``s`` or ``n`` for each event that has a service or name too many, else ``.``."""
    services, names = sorted({s for s, _ in pairs}), sorted({n for _, n in pairs})
    over_service, over_name = guard.refused(
        tenant,
        services,
        names,
        np.array([services.index(s) for s, _ in pairs], dtype=np.int32),
        np.array([names.index(n) for _, n in pairs], dtype=np.int32),
        now_s,
    )
    return ["s" if s else "n" if n else "." for s, n in zip(over_service, over_name, strict=True)]


def test_known_labels_go_on_and_new_ones_beyond_the_limit_are_refused() -> None:
    guard = Guard(Limits(services=2, names=3, ttl_s=60))
    assert refused(guard, [("a", "x"), ("b", "x"), ("c", "x"), ("a", "x")]) == [".", ".", "s", "."]
    assert refused(guard, [("a", "y"), ("a", "z"), ("b", "x")]) == [".", "n", "."]
    assert guard.counts("t") == (2, 3)


def test_tenants_do_not_take_each_others_places() -> None:
    guard = Guard(Limits(services=1, names=1, ttl_s=60))
    assert refused(guard, [("a", "")], tenant="one") == ["."]
    assert refused(guard, [("b", "")], tenant="two") == ["."]
    assert refused(guard, [("b", "")], tenant="one") == ["s"]


def test_a_label_not_used_for_the_time_to_live_gives_its_place_back() -> None:
    guard = Guard(Limits(services=1, names=5, ttl_s=60))
    assert refused(guard, [("a", "")], 0) == ["."]
    assert refused(guard, [("a", "")], 50) == ["."]
    assert refused(guard, [("b", "")], 100) == ["s"]
    assert refused(guard, [("b", "")], 117) == ["."]  # 67 s after the last use, at the sweep


def test_zero_means_no_bound_and_nothing_is_remembered() -> None:
    guard = Guard(Limits(services=0, names=0, ttl_s=60))
    assert refused(guard, [(str(i), str(i)) for i in range(100)]) == ["."] * 100
    assert guard.counts("t") == (0, 0)


labels = st.sampled_from("abcdefgh")


@given(st.lists(st.lists(st.tuples(labels, labels), max_size=20), max_size=10))
def test_it_is_the_same_as_asking_event_by_event(rounds: list[list[tuple[str, str]]]) -> None:
    """But for which of several new labels in one call get the last places; so: the numbers known never pass the limits,
    what is known is taken, and an event with both labels known before is never refused."""
    guard = Guard(Limits(services=3, names=6, ttl_s=1e9))
    services: set[str] = set()
    pairs: set[tuple[str, str]] = set()
    for events in rounds:
        answers = refused(guard, events)
        for (service, name), answer in zip(events, answers, strict=True):
            assert answer == "." or (service, name) not in pairs
            assert answer != "s" or service not in services
        for (service, name), answer in zip(events, answers, strict=True):
            if answer != "s":
                services.add(service)
            if answer == ".":
                pairs.add((service, name))
        assert len(services) <= 3
        assert len(pairs) <= 6
        assert guard.counts("t") == (len(services), len(pairs))
