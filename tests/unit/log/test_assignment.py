"""Who reads which partition."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from smartscale.log.assignment import assign, moves
from smartscale.log.port import TopicPartition

EVENTS = [TopicPartition("events", p) for p in range(4)]

topics = st.frozensets(st.sampled_from(["a", "b", "c"]), min_size=1)
members = st.dictionaries(st.integers(1, 6), topics, max_size=5)
partitions = st.builds(
    lambda a, b, c: [TopicPartition(t, p) for t, n in [("a", a), ("b", b), ("c", c)] for p in range(n)],
    *[st.integers(0, 7)] * 3,
)
owners = st.dictionaries(
    st.builds(TopicPartition, st.sampled_from(["a", "b", "c"]), st.integers(0, 6)), st.integers(1, 6)
)


def test_a_member_alone_owns_everything() -> None:
    assert set(assign(EVENTS, {7: {"events"}}, {}).values()) == {7}


def test_a_newcomer_gets_its_share_and_the_rest_stays() -> None:
    """4 partitions of member 1; member 2 joins: two move, two stay."""
    owned = dict.fromkeys(EVENTS, 1)
    target = assign(EVENTS, {1: {"events"}, 2: {"events"}}, owned)
    assert Counter(target.values()) == {1: 2, 2: 2}


def test_nothing_moves_when_a_free_partition_restores_the_balance() -> None:
    """1 owns p0 and p1, p2 and p3 are free, 2 joins: it gets the free ones."""
    owned = dict.fromkeys(EVENTS[:2], 1)
    target = assign(EVENTS, {1: {"events"}, 2: {"events"}}, owned)
    assert target == dict(zip(EVENTS, [1, 1, 2, 2], strict=True))


def test_topics_of_one_partition_are_spread() -> None:
    """Equal within each topic, so what they have of other topics decides."""
    every = [TopicPartition(topic, 0) for topic in "abcd"]
    target = assign(every, {1: set("abcd"), 2: set("abcd")}, {})
    assert Counter(target.values()) == {1: 2, 2: 2}


def test_a_partition_is_taken_only_once_its_owner_has_let_go() -> None:
    live = {1: {"events"}, 2: {"events"}}
    owned = dict.fromkeys(EVENTS, 1)
    assert moves(2, EVENTS, live, owned) == (frozenset(), frozenset())
    given_up = moves(1, EVENTS, live, owned).give_up
    assert len(given_up) == 2
    left = {at: 1 for at in EVENTS if at not in given_up}
    assert moves(2, EVENTS, live, left) == (frozenset(), given_up)


def test_the_partitions_of_the_dead_are_taken_at_once() -> None:
    assert moves(2, EVENTS, {2: {"events"}}, dict.fromkeys(EVENTS, 1)).take == frozenset(EVENTS)


def test_who_no_longer_subscribes_lets_go() -> None:
    assert moves(1, EVENTS, {1: {"other"}}, dict.fromkeys(EVENTS, 1)).give_up == frozenset(EVENTS)


@given(partitions=partitions, members=members, owners=owners)
def test_every_partition_has_one_able_owner_and_loads_are_level(
    partitions: list[TopicPartition], members: dict[int, frozenset[str]], owners: dict[TopicPartition, int]
) -> None:
    """Over all group states: owned by a subscriber if there is one; within a topic loads differ by one at most."""
    target = assign(partitions, members, owners)
    for topic in "abc":
        able = [member for member, subscribed in members.items() if topic in subscribed]
        of_topic = [at for at in partitions if at.topic == topic]
        assert {at for at in target if at.topic == topic} == (set(of_topic) if able else set())
        load = Counter(dict.fromkeys(able, 0))
        load.update(target[at] for at in of_topic if able)
        assert set(load) == set(able)
        assert not able or max(load.values()) - min(load.values()) <= 1


@given(partitions=partitions, members=members, owners=owners)
def test_assigning_again_changes_nothing(
    partitions: list[TopicPartition], members: dict[int, frozenset[str]], owners: dict[TopicPartition, int]
) -> None:
    target = assign(partitions, members, owners)
    assert assign(partitions, members, target) == target


@given(partitions=partitions, members=members, owners=owners)
def test_members_that_move_one_after_the_other_come_to_rest(
    partitions: list[TopicPartition], members: dict[int, frozenset[str]], owners: dict[TopicPartition, int]
) -> None:
    """Each does its own moves in turn; after two rounds nobody moves, and no partition ever had two owners."""
    state = dict(owners)
    for _ in range(2):
        for me in members:
            todo = moves(me, partitions, members, state)
            assert all(state.get(at) not in members for at in todo.take)
            state = {at: owner for at, owner in state.items() if at not in todo.give_up}
            state |= dict.fromkeys(todo.take, me)
    assert all(moves(me, partitions, members, state) == (frozenset(), frozenset()) for me in members)
