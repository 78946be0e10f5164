"""Which member of a group reads which partition, where SmartScale keeps the groups itself.

Invariants of ``assign``: every partition that a live member subscribes to has exactly one owner; within a topic the
loads of its subscribers differ by at most one; an owner keeps a partition unless keeping it would break the
balance. So a member that joins or leaves moves as few partitions as possible (their state must be rebuilt), and
repeating the assignment on its own result changes nothing.

>>> events = [TopicPartition("events", p) for p in range(4)]
>>> owned = assign(events, {1: {"events"}}, {})
>>> sorted({at.partition for at, member in assign(events, {1: {"events"}, 2: {"events"}}, owned).items() if member == 2})
[0, 1]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from smartscale.log.port import TopicPartition


class Moves(NamedTuple):
    """What one member does now: let go first, so that the next owner may take it at its own next poll."""

    give_up: frozenset[TopicPartition]
    take: frozenset[TopicPartition]


def assign(
    partitions: Iterable[TopicPartition],
    members: Mapping[int, Set[str]],
    owners: Mapping[TopicPartition, int],
) -> dict[TopicPartition, int]:
    """The owner each partition should have. ``members`` are the live ones with the topics they subscribe to;
    ``owners`` the present owners (one that is not in ``members`` counts as none). Cost: partitions times members."""
    by_topic: dict[str, list[TopicPartition]] = {}
    for at in sorted(partitions):
        by_topic.setdefault(at.topic, []).append(at)
    target: dict[TopicPartition, int] = {}
    for topic, of_topic in by_topic.items():
        able = [member for member, topics in members.items() if topic in topics]
        if able:
            target |= _assign_topic(of_topic, able, owners, Counter(target.values()))
    return target


def _assign_topic(
    of_topic: Sequence[TopicPartition],
    able: Sequence[int],
    owners: Mapping[TopicPartition, int],
    elsewhere: Counter[int],
) -> dict[TopicPartition, int]:
    """``elsewhere`` is what each member has of other topics: it decides between equals."""
    target = {at: owners[at] for at in of_topic if owners.get(at) in able}
    load = Counter(target.values())

    def poorest() -> int:
        return min(able, key=lambda member: (load[member], elsewhere[member], member))

    for at in sorted(of_topic, key=target.__contains__):  # the free ones first: they may restore the balance
        if at not in target or load[target[at]] - load[poorest()] > 1:
            if at in target:
                load[target[at]] -= 1
            target[at] = poorest()
            load[target[at]] += 1
    return target


def moves(
    me: int,
    partitions: Iterable[TopicPartition],
    members: Mapping[int, Set[str]],
    owners: Mapping[TopicPartition, int],
) -> Moves:
    """What member ``me`` gives up and takes now. It takes nothing that another live member still holds."""
    target = assign(partitions, members, owners)
    return Moves(
        give_up=frozenset(at for at, owner in owners.items() if owner == me and target.get(at) != me),
        take=frozenset(at for at, owner in target.items() if owner == me and owners.get(at) not in members),
    )
