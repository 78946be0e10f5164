"""Requests become records: nothing lost, repeats meet their original, records stay within bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smartscale.ingest.batching import Packed, Packing, pack
from smartscale.ingest.decode import Events
from smartscale.ingest.identities import Identities
from smartscale.log.partitioner import event_hash, event_hashes, event_partition
from smartscale.records import events, schema, topics
from smartscale.records.events_json import EventIn, to_batch, user_hasher

NOW_US = 1_700_000_000_000_000


def packing(record_events: int = 100, max_record_bytes: int = events.MAX_RECORD_BYTES) -> Packing:
    return Packing("edge-1", record_events, "lz4", max_record_bytes)


def made(ids: Sequence[str | None], users: Sequence[str] | None = None) -> Events:
    """Events of one service with these ids and the times 0, 1, ..."""
    count = len(ids)
    known: Sequence[str | None] = users or [None] * count
    given = [EventIn(service="shop", id=each, user=user) for each, user in zip(ids, known, strict=True)]
    times_us = np.arange(count, dtype=np.int64)
    identities = Identities.of(event_hashes("default", ["shop"] * count, ids))
    batch = to_batch(given, times_us, identities.column(), user_hasher(b""))
    return Events(batch, identities, np.zeros(count, np.int64), np.arange(count))


def rows(packed: list[Packed]) -> list[dict[str, object]]:
    return [row for record in packed for row in events.decode(record.message.value).to_pylist()]


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 50).map(str)), min_size=1, max_size=100),
    st.integers(1, 5),
    st.integers(1, 8),
)
def test_every_event_is_in_one_record_of_the_right_partition(
    ids: list[str | None], partitions: int, record_events: int
) -> None:
    """Any events, any number of partitions: each once, at most ``record_events`` a record, and the record says which."""
    packed, turn = pack(made(ids), packing(record_events), partitions, 0, NOW_US)
    assert 0 <= turn < partitions
    seen = []
    for record in packed:
        batch = events.decode(record.message.value)
        assert 1 <= batch.num_rows <= record_events
        assert schema.int_header(record.message.headers, "n") == batch.num_rows
        assert batch["time"].to_pylist() == record.chosen.tolist()
        for row in batch.to_pylist():
            seen.append((row["time"], row["id"]))
            if row["id"] is not None:
                assert row["identity"] == event_hash("default", "shop", row["id"])
                assert record.message.partition == event_partition(row["identity"], partitions)
    assert sorted(seen) == list(enumerate(ids))


def test_events_without_identity_go_in_runs_to_one_partition_after_the_other() -> None:
    """Five events, runs of two, three partitions, 1 first: 2, 2 and 1 to 1, 2 and 0; then it is 1's turn."""
    packed, turn = pack(made([None] * 5), packing(record_events=2), partitions=3, turn=1, now_us=NOW_US)
    assert {record.message.partition: events.decode(record.message.value).num_rows for record in packed} == {
        1: 2,
        2: 2,
        0: 1,
    }
    assert turn == 1


def test_a_record_that_would_be_too_long_is_split() -> None:
    """2,000 events of random attributes do not fit into 8 KiB; every record does, and no event is lost."""
    chance = np.random.default_rng(1)
    users = [chance.bytes(8).hex() for _ in range(2000)]
    found = made([f"{i}" for i in range(2000)], users=users)
    packed, _ = pack(found, packing(record_events=5000, max_record_bytes=8192), 1, 0, NOW_US)
    assert len(packed) > 1
    assert all(len(record.message.value) <= 8192 for record in packed)
    assert sorted(int(str(row["id"])) for row in rows(packed)) == list(range(2000))


def test_one_event_alone_is_never_split() -> None:
    packed, _ = pack(made(["a"]), packing(max_record_bytes=10), 1, 0, NOW_US)
    assert len(packed) == 1


def test_a_record_says_what_it_is() -> None:
    """Headers: schema, number of events, time of writing, process."""
    (record,), _ = pack(made(["a", "b"]), packing(), 1, 0, NOW_US)
    assert record.message.topic == topics.EVENTS
    assert record.message.headers == {
        "schema": b"events/1",
        "n": b"2",
        "ingest_us": str(NOW_US).encode(),
        "process": b"edge-1",
    }


def test_a_record_carries_only_the_labels_that_it_uses() -> None:
    """Two records of one event each, of different services."""
    given = [EventIn(service=name) for name in "ab"]
    batch = to_batch(given, np.zeros(2, np.int64), [None] * 2, user_hasher(b""))
    found = Events(batch, Identities.of([None] * 2), np.zeros(2, np.int64), np.arange(2))
    packed, _ = pack(found, packing(record_events=1), 1, 0, NOW_US)
    labels = [events.decode(each.message.value)["service"].dictionary.to_pylist() for each in packed]
    assert labels == [["a"], ["b"]]
