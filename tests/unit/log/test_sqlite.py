"""What the SQLite log does beyond the port's contract: leases, retention, its file, its errors."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from smartscale.errors import ConfigError, FatalLogError, Fenced, LogUnavailable, UnknownTopic
from smartscale.log import sqlite
from smartscale.log.port import Bounds, Message, Position, Record, TopicPartition, TopicSpec
from smartscale.log.sqlite import LEASE_S, RESTART_PAGES, SqliteLog


class Times:
    """The log's two clocks, moved by hand."""

    def __init__(self) -> None:
        self.monotonic_s = 1000.0
        self.wall_ms = 1_000_000


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "log.db")


@pytest.fixture
def log(path: str, times: Times) -> Iterator[SqliteLog]:
    log = SqliteLog(path, monotonic_s=lambda: times.monotonic_s, wall_ms=lambda: times.wall_ms)
    log.create([TopicSpec("in", 4)])
    with closing(log):
        yield log


IN = [TopicPartition("in", p) for p in range(4)]


def append(log: SqliteLog, *messages: Message) -> list[int | Exception]:
    with closing(log.publisher()) as publisher:
        return publisher.append(messages)


def read(log: SqliteLog, at: TopicPartition) -> list[Record]:
    with closing(log.reader()) as reader:
        reader.assign({at: log.bounds([at])[at].begin})
        return list(reader.poll(0).records)


class TestLeases:
    def test_a_silent_member_loses_its_partitions_when_its_lease_runs_out(
        self, log: SqliteLog, times: Times
    ) -> None:
        """5 s without a poll: the other takes all, and what the late one tries to commit is fenced."""
        late = log.worker("group", ["in"], "0")
        assert set(late.poll(0).assigned) == set(IN)
        other = log.worker("group", ["in"], "1")
        assert not other.poll(0).assigned, "all still belong to the silent member"
        times.monotonic_s += LEASE_S + 0.1
        assert set(other.poll(0).assigned) == set(IN)
        with pytest.raises(Fenced):
            with late.transaction() as transaction:
                transaction.commit_positions({IN[0]: Position(1)})

    def test_a_member_whose_lease_had_run_out_joins_again_at_its_next_poll(
        self, log: SqliteLog, times: Times
    ) -> None:
        late = log.worker("group", ["in"], "0")
        late.poll(0)
        other = log.worker("group", ["in"], "1")
        times.monotonic_s += LEASE_S + 0.1
        other.poll(0)
        assert late.poll(0).revoked == set(IN)
        assert len(other.poll(0).revoked) == 2
        assert len(late.poll(0).assigned) == 2

    def test_polls_and_commits_renew_the_lease(self, log: SqliteLog, times: Times) -> None:
        """16 s, something every four: a member that joins then finds nothing to take."""
        worker = log.worker("group", ["in"], "0")
        worker.poll(0)
        for _ in range(2):
            times.monotonic_s += 4
            worker.poll(0)
        for _ in range(2):
            times.monotonic_s += 4
            with worker.transaction() as transaction:
                transaction.commit_positions({})
        assert not log.worker("group", ["in"], "1").poll(0).assigned

    def test_an_expired_lease_that_nobody_claimed_still_holds(self, log: SqliteLog, times: Times) -> None:
        """Leases only say when others may take over; alone, a slow member loses nothing."""
        worker = log.worker("group", ["in"], "0")
        worker.poll(0)
        times.monotonic_s += 100
        with worker.transaction() as transaction:
            transaction.commit_positions({IN[0]: Position(1)})
        assert not worker.poll(0).revoked

    def test_leases_of_an_earlier_boot_count_as_expired(
        self, log: SqliteLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a reboot monotonic time starts anew, so their deadlines mean nothing."""
        log.worker("group", ["in"], "0").poll(0)
        monkeypatch.setattr(sqlite, "boot_id", lambda: "next boot")
        assert set(log.worker("group", ["in"], "1").poll(0).assigned) == set(IN)

    def test_a_successor_in_the_slot_inherits_at_once(self, log: SqliteLog) -> None:
        """And its predecessor, should it live, is told to end."""
        before = log.worker("group", ["in"], "0")
        before.poll(0)
        after = log.worker("group", ["in"], "0")
        assert set(after.poll(0).assigned) == set(IN)
        with pytest.raises(FatalLogError, match="successor"):
            before.poll(0)

    def test_a_partition_that_went_to_another_and_back_is_fenced_all_the_same(
        self, log: SqliteLog, times: Times
    ) -> None:
        """The epoch tells: what was read before it went is no longer valid."""
        one = log.worker("group", ["in"], "0")
        one.poll(0)
        with closing(log.worker("group", ["in"], "1")) as two:
            times.monotonic_s += LEASE_S + 0.1
            assert set(two.poll(0).assigned) == set(IN)
        with pytest.raises(Fenced):
            with one.transaction() as transaction:
                transaction.commit_positions({IN[0]: Position(5)})
        one.rewind()
        poll = one.poll(0)
        assert poll.revoked == poll.assigned.keys() == set(IN)

    def test_speaking_for_a_partition_of_another_is_fenced(self, log: SqliteLog) -> None:
        one = log.worker("group", ["in"], "0")
        two = log.worker("group", ["in"], "1")
        mine = one.poll(0).assigned
        others = two.poll(0).assigned
        assert mine.keys() | others.keys() == set(IN)
        with pytest.raises(Fenced):
            with one.transaction() as transaction:
                transaction.publish([Message("in", 0, b"x")])
                transaction.commit_positions({at: Position(1) for at in IN})
        assert log.bounds(IN)[IN[0]] == Bounds(0, 0)
        assert log.committed("group") == {}

    def test_members_may_read_different_topics(self, log: SqliteLog) -> None:
        """During a rolling upgrade: each topic is shared by those that subscribe to it."""
        log.create([TopicSpec("new", 2)])
        old, new = log.worker("group", ["in"], "0"), log.worker("group", ["in", "new"], "1")
        assert {at.topic for at in old.poll(0).assigned} == {"in"}
        assert {at for at in new.poll(0).assigned if at.topic == "new"} == {
            TopicPartition("new", p) for p in range(2)
        }

    def test_a_group_of_an_unknown_topic_is_refused(self, log: SqliteLog) -> None:
        with pytest.raises(UnknownTopic, match="nowhere"):
            log.worker("group", ["in", "nowhere"], "0")


class TestRetention:
    def test_the_oldest_records_of_the_topic_go_first(self, log: SqliteLog, times: Times) -> None:
        """1,000 bytes; written 400 to /0, 400 to /1, 400 to /0: the first goes, whole."""
        log.create([TopicSpec("kept", 2, retention_bytes=1000)])
        zero, one = TopicPartition("kept", 0), TopicPartition("kept", 1)
        for p in (0, 1, 0):
            append(log, Message("kept", p, b"x" * 400))
            times.wall_ms += 1
        assert log.bounds([zero, one]) == {zero: Bounds(1, 2), one: Bounds(0, 1)}
        append(log, Message("kept", 0, b"x" * 400))
        assert log.bounds([zero, one]) == {zero: Bounds(1, 3), one: Bounds(1, 1)}

    def test_the_newest_record_stays_however_large(self, log: SqliteLog) -> None:
        log.create([TopicSpec("kept", 1, retention_bytes=1000)])
        append(log, Message("kept", 0, b"a" * 5000), Message("kept", 0, b"b" * 5000))
        assert [record.value for record in read(log, TopicPartition("kept", 0))] == [b"b" * 5000]

    def test_the_file_does_not_grow_without_end(self, log: SqliteLog, path: str) -> None:
        """40 MB through a topic of 1 MB: the space of removed records is used again, and both files stay small."""
        log.create([TopicSpec("kept", 1, retention_bytes=1 << 20)])
        with closing(log.publisher()) as publisher:
            for _ in range(200):
                assert not isinstance(
                    publisher.append([Message("kept", 0, os.urandom(200_000))])[0], Exception
                )
        assert os.path.getsize(path) < 4 << 20
        assert os.path.getsize(path + "-wal") <= 2 * RESTART_PAGES * sqlite.PAGE_BYTES

    def test_an_empty_value_leaves_nothing_of_its_key(self, log: SqliteLog) -> None:
        log.create([TopicSpec("keyed", 1, compacted=True)])
        for value in (b"1", b"2", b""):
            append(log, Message("keyed", 0, value, b"key"))
        assert read(log, TopicPartition("keyed", 0)) == []
        assert log.bounds([TopicPartition("keyed", 0)]) == {TopicPartition("keyed", 0): Bounds(0, 3)}

    def test_a_keyless_record_is_refused_by_a_compacted_topic(self, log: SqliteLog) -> None:
        log.create([TopicSpec("keyed", 1, compacted=True)])
        with pytest.raises(ValueError, match="needs a key"):
            append(log, Message("keyed", 0, b"x"))

    def test_timestamps_do_not_fall_when_the_wall_clock_is_set_back(
        self, log: SqliteLog, times: Times
    ) -> None:
        append(log, Message("in", 0, b"0"))
        times.wall_ms -= 1000
        append(log, Message("in", 0, b"1"))
        assert [record.timestamp_ms for record in read(log, IN[0])] == [1_000_000, 1_000_000]


class TestFile:
    def test_what_is_no_log_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        """A missing folder, a folder, a text file, another program's database: each error says what to do."""
        text, other = tmp_path / "text", tmp_path / "other.db"
        text.write_bytes(b"no database " * 1000)
        with closing(apsw.Connection(str(other))) as db:
            db.execute("CREATE TABLE theirs (x)")
        for file, says in [
            (tmp_path / "missing" / "log.db", "does not exist; create it"),
            (tmp_path, "must be a file"),
            (text, "is no SmartScale log; name another file"),
            (other, "another program's database"),
        ]:
            before = file.read_bytes() if file.is_file() else None
            with pytest.raises(ConfigError, match=says):
                SqliteLog(str(file))
            assert (file.read_bytes() if file.is_file() else None) == before

    def test_memory_is_no_place_for_a_log(self) -> None:
        with pytest.raises(ConfigError, match="needs a file"):
            SqliteLog(":memory:")

    def test_a_log_of_another_format_is_refused(self, log: SqliteLog, path: str) -> None:
        with closing(apsw.Connection(path)) as db:
            db.pragma("user_version", 99)
        with pytest.raises(ConfigError, match="format 99"):
            SqliteLog(path)

    def test_a_sqlite_that_can_corrupt_the_log_is_refused(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
        with pytest.raises(ConfigError, match=r"3\.51\.3"):
            SqliteLog(path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_file_that_may_not_be_written_is_refused(self, log: SqliteLog, path: str) -> None:
        os.chmod(path, 0o400)
        with pytest.raises(ConfigError, match="may not be written"):
            SqliteLog(path)

    def test_a_lock_held_too_long_is_told(
        self, log: SqliteLog, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing was written, and the same call may work later."""
        monkeypatch.setattr(sqlite, "BUSY_S", 0.05)
        with closing(log.publisher()) as publisher:
            with closing(apsw.Connection(path)) as other:
                other.execute("BEGIN IMMEDIATE")
                [answer] = publisher.append([Message("in", 0, b"x")])
            assert isinstance(answer, LogUnavailable)
            assert publisher.append([Message("in", 0, b"x")]) == [0]

    def test_the_log_object_may_be_used_from_several_threads(self, log: SqliteLog) -> None:
        failures: list[Exception] = []

        def ask() -> None:
            try:
                for _ in range(50):
                    log.bounds(IN)
                    log.committed("group")
            except Exception as error:  # noqa: BLE001 (handed to the main thread)
                failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []

    def test_reading_a_range_reads_the_file_forwards(self, log: SqliteLog, path: str) -> None:
        """The plan of the query that polls use: a range of the table's own key, no sorting."""
        with closing(apsw.Connection(path)) as db:
            [(*_, plan)] = db.execute(
                "EXPLAIN QUERY PLAN SELECT id, value FROM records WHERE id >= 1 AND id < 9 ORDER BY id"
            )
        assert plan == "SEARCH records USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
