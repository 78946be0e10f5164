"""The guarantees of ``smartscale.log.port``, on every adapter."""

from __future__ import annotations

import threading
from contextlib import closing
from itertools import pairwise

import pytest

from smartscale import clock
from smartscale.errors import FatalLogError, Fenced, OffsetOutOfRange, TopicMismatch, UnknownTopic
from smartscale.log.port import Bounds, Message, Position, TopicPartition, TopicSpec, lag
from smartscale.testing.log_harness import (
    RETENTION_BYTES,
    LogHarness,
    first_records,
    leaving,
    polls,
    until_assigned,
)


def values(records: object) -> list[bytes]:
    assert isinstance(records, list | tuple)
    return [record.value for record in records]


class TestAppending:
    def test_a_record_comes_back_as_it_was_written(self, harness: LogHarness) -> None:
        """Key, value, headers, partition and offset survive; the timestamp is the time of writing."""
        topic = harness.topic(partitions=2)
        before = clock.wall_ms()
        message = Message(topic, 1, b"value", b"key", {"schema": b"events/1", "n": b"5"})
        [offset] = harness.publisher().append([message])
        [record] = harness.read_all(TopicPartition(topic, 0), TopicPartition(topic, 1))
        assert (record.topic, record.partition, record.offset) == (topic, 1, offset)
        assert (record.key, record.value, dict(record.headers)) == (b"key", b"value", dict(message.headers))
        assert before <= record.timestamp_ms <= clock.wall_ms()

    def test_a_record_needs_neither_key_nor_headers_nor_value(self, harness: LogHarness) -> None:
        topic = harness.topic()
        harness.append(topic, b"")
        [record] = harness.read_all(TopicPartition(topic, 0))
        assert (record.key, record.value, dict(record.headers)) == (None, b"", {})

    def test_offsets_rise_in_the_order_of_writing(self, harness: LogHarness) -> None:
        """Within a call and from call to call; records are read in that order."""
        topic = harness.topic()
        offsets = harness.append(topic, b"0", b"1", b"2") + harness.append(topic, b"3", b"4")
        assert offsets == sorted(set(offsets))
        records = harness.read_all(TopicPartition(topic, 0))
        assert values(records) == [b"0", b"1", b"2", b"3", b"4"]
        assert [record.offset for record in records] == offsets

    def test_one_call_may_write_to_many_partitions(self, harness: LogHarness) -> None:
        topics = [harness.topic("a", 2), harness.topic("b", 2)]
        places = [TopicPartition(topic, p) for topic in topics for p in (0, 1)] * 3
        harness.publisher().append([Message(*at, str(n).encode()) for n, at in enumerate(places)])
        for n, at in enumerate(places[:4]):
            assert values(harness.read_all(at)) == [str(n + 4 * i).encode() for i in range(3)]

    def test_the_answer_for_an_unknown_topic_is_an_error(self, harness: LogHarness) -> None:
        [answer] = harness.publisher().append([Message(harness.name("nowhere"), 0, b"x")])
        assert isinstance(answer, UnknownTopic)

    def test_publishers_at_the_same_time_lose_nothing(self, harness: LogHarness) -> None:
        """Four threads with a publisher each: every record is there once, each writer's own in order."""
        topic = harness.topic()

        def write(writer: int) -> None:
            with closing(harness.log.publisher()) as publisher:
                for n in range(10):
                    assert not isinstance(
                        publisher.append([Message(topic, 0, b"%d %d" % (writer, n))])[0], Exception
                    )

        threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        read = values(harness.read_all(TopicPartition(topic, 0)))
        for i in range(4):
            assert [v for v in read if v.startswith(b"%d " % i)] == [b"%d %d" % (i, n) for n in range(10)]


class TestTopics:
    def test_creating_twice_changes_nothing(self, harness: LogHarness) -> None:
        topic = harness.topic(partitions=3)
        harness.append(topic, b"x", partition=2)
        harness.topic(partitions=3)
        assert harness.log.topics()[topic].partitions == 3
        assert values(harness.read_all(TopicPartition(topic, 2))) == [b"x"]

    def test_creating_at_the_same_time_works(self, harness: LogHarness) -> None:
        """Several processes start together and all create the same topics."""
        specs = [TopicSpec(harness.name(name), 2) for name in "abc"]
        failures: list[Exception] = []

        def create() -> None:
            try:
                harness.log.create(specs)
            except Exception as error:  # noqa: BLE001 (handed to the main thread)
                failures.append(error)

        threads = [threading.Thread(target=create) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert {spec.name for spec in specs} <= harness.log.topics().keys()

    def test_a_topic_can_grow(self, harness: LogHarness) -> None:
        topic = harness.topic(partitions=1)
        harness.append(topic, b"old")
        harness.topic(partitions=3)
        harness.append(topic, b"new", partition=2)
        assert values(harness.read_all(TopicPartition(topic, 0))) == [b"old"]
        assert values(harness.read_all(TopicPartition(topic, 2))) == [b"new"]

    def test_other_settings_are_a_mismatch(self, harness: LogHarness) -> None:
        """Fewer partitions, another kind, more partitions of a compacted topic: told with the topic's name."""
        topic, compacted = harness.topic("a", 2), harness.topic("b", 2, compacted=True)
        for spec in [
            TopicSpec(topic, 1),
            TopicSpec(topic, 2, compacted=True),
            TopicSpec(compacted, 3, compacted=True),
        ]:
            with pytest.raises(TopicMismatch, match=spec.name):
                harness.log.create([spec])

    def test_bounds_name_what_is_there(self, harness: LogHarness) -> None:
        topic = harness.topic(partitions=2)
        offsets = harness.append(topic, b"0", b"1", partition=1)
        bounds = harness.log.bounds([TopicPartition(topic, 0), TopicPartition(topic, 1)])
        assert bounds[TopicPartition(topic, 0)] == Bounds(0, 0)
        assert bounds[TopicPartition(topic, 1)].begin == offsets[0]
        assert bounds[TopicPartition(topic, 1)].end > offsets[1]

    def test_bounds_of_what_does_not_exist_are_an_error(self, harness: LogHarness) -> None:
        with pytest.raises(UnknownTopic):
            harness.log.bounds([TopicPartition(harness.name("nowhere"), 0)])

    def test_a_position_is_found_by_the_time_of_writing(self, harness: LogHarness) -> None:
        """The first record at or after the time; the end if there is none."""
        topic = harness.topic()
        at = TopicPartition(topic, 0)
        harness.append(topic, b"0", b"1")
        wait_for_the_next_millisecond()
        later = clock.wall_ms()
        [offset] = harness.append(topic, b"2")
        for long_ago in (0, -120_000):
            assert harness.log.offset_at(at, long_ago) == harness.log.bounds([at])[at].begin
        assert harness.log.offset_at(at, later) == offset
        assert harness.log.offset_at(at, later + 3_600_000) == harness.log.bounds([at])[at].end

    def test_a_compacted_topic_keeps_the_last_record_of_each_key(self, harness: LogHarness) -> None:
        """At least: an adapter may keep older ones for a while, before the last. An empty value removes a key."""
        topic = harness.topic(compacted=True)
        for key, value in [(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"4"), (b"c", b""), (b"b", b"5")]:
            harness.append(topic, value, key=key)
        last = {record.key: record.value for record in harness.read_all(TopicPartition(topic, 0))}
        assert {key: value for key, value in last.items() if value} == {b"a": b"3", b"b": b"5"}


def wait_for_the_next_millisecond() -> None:
    now = clock.wall_ms()
    while clock.wall_ms() <= now + 1:
        pass


class TestReading:
    def test_the_end_is_told_even_of_an_empty_partition(self, harness: LogHarness) -> None:
        topic = harness.topic(partitions=2)
        harness.append(topic, b"x", partition=1)
        reader = harness.reader()
        reader.assign({TopicPartition(topic, 0): 0, TopicPartition(topic, 1): 0})
        ends: set[TopicPartition] = set()
        for poll in polls(reader):
            ends |= poll.ends
            if len(ends) == 2:
                break

    def test_the_end_is_told_again_after_more_was_read(self, harness: LogHarness) -> None:
        topic = harness.topic()
        reader = harness.reader()
        reader.assign({TopicPartition(topic, 0): 0})
        next(poll for poll in polls(reader) if poll.ends)
        harness.append(topic, b"x")
        seen: list[bytes] = []
        for poll in polls(reader):
            seen += values(poll.records)
            if seen and poll.ends:
                break
        assert seen == [b"x"]

    def test_a_poll_is_bounded_but_gives_at_least_one_record(self, harness: LogHarness) -> None:
        """Three records of 100 bytes: 250 bytes hold two, 10 bytes hold one all the same."""
        topic = harness.topic()
        harness.append(topic, *[bytes([n]) * 100 for n in range(6)])
        reader = harness.reader()
        reader.assign({TopicPartition(topic, 0): 0})
        sizes: list[int] = []
        for poll in polls(reader, max_bytes=250):
            assert len(poll.records) <= 2
            sizes += [len(poll.records)]
            if sum(sizes) >= 4:
                break
        tail: list[bytes] = []
        for poll in polls(reader, max_bytes=10):
            assert len(poll.records) <= 1
            tail += values(poll.records)
            if tail and tail[-1][0] == 5:
                break
        assert sum(sizes) + len(tail) == 6

    def test_no_partition_starves_another(self, harness: LogHarness) -> None:
        """With room for one record a poll, every partition has its turn."""
        topic = harness.topic(partitions=3)
        for p in range(3):
            harness.append(topic, *[b"x" * 100] * 5, partition=p)
        reader = harness.reader()
        reader.assign({TopicPartition(topic, p): 0 for p in range(3)})
        seen = 0
        for poll in polls(reader, max_bytes=100):
            seen += len(poll.records)
            if seen == 15:
                break

    def test_a_poll_waits_no_longer_than_told(self, harness: LogHarness) -> None:
        topic = harness.topic()
        reader = harness.reader()
        reader.assign({TopicPartition(topic, 0): 0})
        next(poll for poll in polls(reader) if poll.ends)
        start = clock.monotonic_s()
        assert not reader.poll(0.2).records
        assert clock.monotonic_s() - start < 2, "0.2 s, and room for a busy machine"

    def test_a_poll_returns_as_soon_as_there_is_a_record(self, harness: LogHarness) -> None:
        topic = harness.topic()
        reader = harness.reader()
        reader.assign({TopicPartition(topic, 0): 0})
        next(poll for poll in polls(reader) if poll.ends)
        writer = threading.Timer(0.1, harness.append, (topic, b"x"))
        writer.start()
        start = clock.monotonic_s()
        records: list[bytes] = []
        while not records:
            records += values(reader.poll(20).records)
            assert clock.monotonic_s() - start < 15
        writer.join()
        assert records == [b"x"]

    def test_reading_starts_where_it_was_told(self, harness: LogHarness) -> None:
        """And ``assign`` replaces what was assigned before."""
        topic = harness.topic(partitions=2)
        offsets = harness.append(topic, b"0", b"1", b"2")
        harness.append(topic, b"other", partition=1)
        reader = harness.reader()
        reader.assign({TopicPartition(topic, 1): 0})
        assert values(first_records(reader, 1)) == [b"other"]
        reader.assign({TopicPartition(topic, 0): offsets[1]})
        assert values(first_records(reader, 2)) == [b"1", b"2"]

    def test_a_removed_position_is_told_and_not_skipped(self, harness: LogHarness) -> None:
        topic = harness.topic(retention_bytes=RETENTION_BYTES)
        at = TopicPartition(topic, 0)
        harness.append(topic, *[b"x" * 200] * 10)
        begin = harness.cut(at)
        assert harness.log.bounds([at])[at].begin == begin > 0
        reader = harness.reader()
        reader.assign({at: 0})
        with pytest.raises(OffsetOutOfRange, match=str(at)):
            for poll in polls(reader):
                assert not poll.records
        reader.assign({at: begin})
        assert first_records(reader, 1)[0].offset == begin

    def test_a_reader_leaves_no_trace(self, harness: LogHarness) -> None:
        topic = harness.topic()
        harness.append(topic, b"x")
        worker = harness.worker(topic)
        with leaving(worker):
            harness.read_all(TopicPartition(topic, 0))
            assert values(first_records(worker, 1)) == [b"x"]
            assert harness.log.committed(harness.group) == {}


class TestTransactions:
    def test_messages_and_positions_are_committed_in_one_step(self, harness: LogHarness) -> None:
        source, sink = harness.topic("in"), harness.topic("out")
        [offset] = harness.append(source, b"x")
        with leaving(harness.worker(source)) as worker:
            [record] = first_records(worker, 1)
            with worker.transaction() as transaction:
                transaction.publish([Message(sink, 0, record.value + b"!")])
                transaction.publish([Message(sink, 0, record.value + b"?")])
                transaction.commit_positions({record.at: Position(offset + 1, "metadata ✓")})
            assert values(harness.read_all(TopicPartition(sink, 0))) == [b"x!", b"x?"]
            assert harness.log.committed(harness.group) == {record.at: Position(offset + 1, "metadata ✓")}

    def test_a_transaction_left_by_an_error_leaves_nothing(self, harness: LogHarness) -> None:
        """And after ``rewind`` the same records come again."""
        source, sink = harness.topic("in"), harness.topic("out")
        harness.append(source, b"0", b"1")
        with leaving(harness.worker(source)) as worker:
            records = first_records(worker, 2)
            with pytest.raises(ZeroDivisionError):
                with worker.transaction() as transaction:
                    transaction.publish([Message(sink, 0, b"x")])
                    transaction.commit_positions({records[0].at: Position(records[0].offset + 1)})
                    raise ZeroDivisionError
            worker.rewind()
            again = next(poll for poll in polls(worker) if poll.assigned)
            assert again.revoked == {records[0].at}
            assert dict(again.assigned) == {records[0].at: None}
            assert not again.records
            assert first_records(worker, 2) == records
            assert harness.read_all(TopicPartition(sink, 0)) == []
            assert harness.log.committed(harness.group) == {}

    def test_an_open_transaction_is_not_seen(self, harness: LogHarness) -> None:
        """A reader passes it by; once committed, it is read."""
        source, sink = harness.topic("in"), harness.topic("out")
        with leaving(harness.worker(source)) as worker:
            until_assigned(worker, 1)
            with worker.transaction() as transaction:
                transaction.publish([Message(sink, 0, b"x" * 1000) for _ in range(100)])
                transaction.commit_positions({TopicPartition(source, 0): Position(0)})
                assert harness.read_all(TopicPartition(sink, 0)) == []
            assert len(harness.read_all(TopicPartition(sink, 0))) == 100

    def test_gaps_in_offsets_do_no_harm(self, harness: LogHarness) -> None:
        """Transactions, aborted ones too, between appends: read in order, and ``offset + 1`` resumes after each."""
        topic = harness.topic()
        at = TopicPartition(topic, 0)
        with leaving(harness.worker(topic)) as worker:
            until_assigned(worker, 1)
            for n in range(4):
                harness.append(topic, b"append %d" % n)
                with worker.transaction() as transaction:
                    transaction.publish([Message(topic, 0, b"commit %d" % n)])
                    transaction.commit_positions({at: Position(0)})
                with pytest.raises(ZeroDivisionError):
                    with worker.transaction() as transaction:
                        transaction.publish([Message(topic, 0, b"never %d" % n)])
                        raise ZeroDivisionError
        records = harness.read_all(at)
        assert values(records) == [value for n in range(4) for value in (b"append %d" % n, b"commit %d" % n)]
        for record, following in pairwise(records):
            reader = harness.reader()
            reader.assign({at: record.offset + 1})
            assert first_records(reader, 1)[0] == following

    def test_metadata_of_4000_bytes_comes_back(self, harness: LogHarness) -> None:
        topic = harness.topic()
        metadata = "".join(chr(32 + n % 90) for n in range(4000))
        with leaving(harness.worker(topic)) as worker:
            until_assigned(worker, 1)
            with worker.transaction() as transaction:
                transaction.commit_positions({TopicPartition(topic, 0): Position(0, metadata)})
        with leaving(harness.worker(topic)) as worker:
            poll = until_assigned(worker, 1)
            assert poll.assigned == {TopicPartition(topic, 0): Position(0, metadata)}

    def test_metadata_longer_than_promised_is_refused(self, harness: LogHarness) -> None:
        topic = harness.topic()
        with leaving(harness.worker(topic)) as worker:
            until_assigned(worker, 1)
            with pytest.raises(ValueError, match="4000"):
                with worker.transaction() as transaction:
                    transaction.commit_positions({TopicPartition(topic, 0): Position(0, "x" * 4001)})

    def test_publishing_to_an_unknown_topic_fails_the_transaction(self, harness: LogHarness) -> None:
        topic = harness.topic()
        with leaving(harness.worker(topic)) as worker:
            until_assigned(worker, 1)
            with pytest.raises(UnknownTopic):
                with worker.transaction() as transaction:
                    transaction.publish([Message(harness.name("nowhere"), 0, b"x")])
                    transaction.commit_positions({TopicPartition(topic, 0): Position(0, "x")})
            assert harness.log.committed(harness.group) == {}


class TestGroups:
    def test_a_new_group_starts_at_the_beginning(self, harness: LogHarness) -> None:
        """The assignment says that nothing was committed, and carries no records."""
        topic = harness.topic(partitions=2)
        harness.append(topic, b"0", partition=0)
        harness.append(topic, b"1", partition=1)
        with leaving(harness.worker(topic)) as worker:
            owned: dict[TopicPartition, Position | None] = {}
            records: list[bytes] = []
            for poll in polls(worker):
                owned |= poll.assigned
                assert not {record.at for record in poll.records} & poll.assigned.keys()
                records += values(poll.records)
                if len(records) == 2:
                    break
            assert owned == {TopicPartition(topic, 0): None, TopicPartition(topic, 1): None}
            assert sorted(records) == [b"0", b"1"]

    def test_a_successor_resumes_at_the_committed_position(self, harness: LogHarness) -> None:
        topic = harness.topic()
        offsets = harness.append(topic, b"0", b"1", b"2")
        at = TopicPartition(topic, 0)
        with leaving(harness.worker(topic)) as worker:
            first_records(worker, 3)
            with worker.transaction() as transaction:
                transaction.commit_positions({at: Position(offsets[1] + 1, "m")})
        with leaving(harness.worker(topic, slot="1")) as worker:
            assert until_assigned(worker, 1).assigned == {at: Position(offsets[1] + 1, "m")}
            assert values(first_records(worker, 1)) == [b"2"]

    def test_a_stage_may_seek_before_the_first_record(self, harness: LogHarness) -> None:
        """Back, to rebuild its state, or forward."""
        topic = harness.topic()
        at = TopicPartition(topic, 0)
        offsets = harness.append(topic, *[b"%d" % n for n in range(5)])
        with leaving(harness.worker(topic)) as worker:
            until_assigned(worker, 1)
            worker.seek(at, offsets[3])
            assert values(first_records(worker, 2)) == [b"3", b"4"]
            worker.seek(at, offsets[1])
            assert values(first_records(worker, 4)) == [b"1", b"2", b"3", b"4"]

    def test_a_paused_partition_gives_no_records(self, harness: LogHarness) -> None:
        topic = harness.topic(partitions=2)
        paused = TopicPartition(topic, 0)
        with leaving(harness.worker(topic)) as worker:
            until_assigned(worker, 2)
            worker.pause([paused])
            harness.append(topic, b"paused", partition=0)
            harness.append(topic, b"other", partition=1)
            assert values(first_records(worker, 1)) == [b"other"]
            worker.resume([paused])
            assert values(first_records(worker, 1)) == [b"paused"]

    def test_two_members_share_and_the_survivor_takes_over(self, harness: LogHarness) -> None:
        """Every partition has one owner at a time; after one leaves, the other resumes at the committed positions."""
        topic = harness.topic(partitions=4)
        every = {TopicPartition(topic, p) for p in range(4)}
        for at in every:
            harness.append(topic, b"0", b"1", partition=at.partition)
        one = harness.worker(topic, slot="0")
        owned_one = set(until_assigned(one, 4).assigned)
        with leaving(harness.worker(topic, slot="1")) as two:
            owned_two: set[TopicPartition] = set()
            for poll_one, poll_two in zip(polls(one), polls(two), strict=False):
                owned_one = (owned_one - poll_one.revoked) | poll_one.assigned.keys()
                owned_two = (owned_two - poll_two.revoked) | poll_two.assigned.keys()
                assert not owned_one & owned_two
                if len(owned_one) == len(owned_two) == 2 and owned_one | owned_two == every:
                    break
            with one.transaction() as transaction:
                transaction.commit_positions({at: Position(1, "one") for at in owned_one})
            one.close()
            positions: dict[TopicPartition, Position | None] = {}
            for poll in polls(two):
                positions |= poll.assigned
                if owned_two | positions.keys() == every:
                    break
            assert {at: positions[at] for at in owned_one} == {at: Position(1, "one") for at in owned_one}

    def test_a_successor_in_the_same_slot_fences_its_predecessor(self, harness: LogHarness) -> None:
        """At once: the predecessor, thought dead, wakes up and can change nothing any more."""
        topic, sink = harness.topic(), harness.topic("out")
        at = TopicPartition(topic, 0)
        harness.append(topic, b"x")
        late = harness.worker(topic)
        first_records(late, 1)
        with leaving(harness.worker(topic)) as worker:
            with pytest.raises((Fenced, FatalLogError)):
                with late.transaction() as transaction:
                    transaction.publish([Message(sink, 0, b"late")])
                    transaction.commit_positions({at: Position(1, "late")})
            late.close()
            until_assigned(worker, 1)
            with worker.transaction() as transaction:
                transaction.commit_positions({at: Position(1, "successor")})
            assert harness.log.committed(harness.group) == {at: Position(1, "successor")}
            assert harness.read_all(TopicPartition(sink, 0)) == []

    def test_new_partitions_find_an_owner(self, harness: LogHarness) -> None:
        topic = harness.topic(partitions=1)
        with leaving(harness.worker(topic)) as worker:
            until_assigned(worker, 1)
            harness.topic(partitions=3)
            harness.append(topic, b"new", partition=2)
            assert values(first_records(worker, 1)) == [b"new"]

    def test_groups_do_not_disturb_each_other(self, harness: LogHarness) -> None:
        topic = harness.topic()
        harness.append(topic, b"x")
        for group in ("a", "b"):
            with leaving(harness.log.worker(harness.name(group), [topic], "0")) as worker:
                [record] = first_records(worker, 1)
                with worker.transaction() as transaction:
                    transaction.commit_positions({record.at: Position(record.offset + 1, group)})
        for group in ("a", "b"):
            [position] = harness.log.committed(harness.name(group)).values()
            assert position.metadata == group

    def test_an_unknown_group_has_no_positions(self, harness: LogHarness) -> None:
        assert harness.log.committed(harness.group) == {}

    def test_a_committed_position_that_was_removed_is_told(self, harness: LogHarness) -> None:
        topic = harness.topic(retention_bytes=RETENTION_BYTES)
        at = TopicPartition(topic, 0)
        harness.append(topic, *[b"x" * 90] * 10)
        with leaving(harness.worker(topic)) as worker:
            until_assigned(worker, 1)
            with worker.transaction() as transaction:
                transaction.commit_positions({at: Position(1)})
        begin = harness.cut(at)
        with leaving(harness.worker(topic)) as worker:
            until_assigned(worker, 1)
            with pytest.raises(OffsetOutOfRange):
                for poll in polls(worker):
                    assert not poll.records
            worker.seek(at, begin)
            assert first_records(worker, 1)[0].offset == begin

    def test_lag_counts_what_is_not_consumed(self, harness: LogHarness) -> None:
        topic = harness.topic()
        offsets = harness.append(topic, b"0", b"1", b"2")
        at = TopicPartition(topic, 0)
        assert lag(harness.log, harness.group, [topic]) == {at: 3}
        with leaving(harness.worker(topic)) as worker:
            until_assigned(worker, 1)
            with worker.transaction() as transaction:
                transaction.commit_positions({at: Position(offsets[0] + 1)})
        assert lag(harness.log, harness.group, [topic]) == {at: 2}
