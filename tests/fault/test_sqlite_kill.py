"""The SQLite log when processes are killed (kill -9), run at the same time, or the disk is full.

The child programs below are real processes. Where one must die at a chosen statement, the child itself traces its
connections' statements; the product knows nothing of it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest

from smartscale.errors import LogFull
from smartscale.log.port import Log, Message, Position, Record, TopicPartition, TopicSpec
from smartscale.log.sqlite import SqliteLog
from smartscale.testing.log_harness import polls

IN, OUT = TopicPartition("in", 0), TopicPartition("out", 0)
SPECS = [TopicSpec("in", 1), TopicSpec("out", 2)]

DIE_AT = """
import apsw, os, signal

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Killer:
    armed = ""  # "before BEGIN", "before COMMIT" or "after COMMIT"
    def __call__(self, db):
        def before(cursor, sql, bindings):
            if Killer.armed == "before BEGIN" and sql.startswith("BEGIN IMMEDIATE"):
                die()
            if Killer.armed == "before COMMIT" and sql == "COMMIT" and db.txn_state() == apsw.SQLITE_TXN_WRITE:
                die()
            if sql.startswith("INSERT INTO records"):
                inserted.append(True)
            return True
        def after(sql, nanoseconds):
            if Killer.armed == "after COMMIT" and sql == "COMMIT" and inserted:
                die()
        inserted = []
        db.set_exec_trace(before)
        db.set_profile(after)

apsw.connection_hooks.append(Killer())
"""

APPEND_ONCE = (
    DIE_AT
    + """
import sys
from smartscale.log.port import Message
from smartscale.log.sqlite import SqliteLog
path, point = sys.argv[1:]
publisher = SqliteLog(path).publisher()
Killer.armed = point
publisher.append([Message("out", p, b"x" * 50_000) for p in (0, 1, 0, 1)])
"""
)

TRANSACT_ONCE = (
    DIE_AT
    + """
import sys
from smartscale.log.port import Message, Position
from smartscale.log.sqlite import SqliteLog
path, point = sys.argv[1:]
worker = SqliteLog(path).worker("group", ["in"], "0")
records = []
while not records:
    records = worker.poll(5).records
Killer.armed = point
with worker.transaction() as transaction:
    transaction.publish([Message("out", p, b"x" * 50_000) for p in (0, 1, 0, 1)])
    transaction.commit_positions({records[-1].at: Position(records[-1].offset + 1, "done")})
"""
)

APPEND_FOREVER = """
import sys
from smartscale.log.port import Message, TopicSpec
from smartscale.log.sqlite import SqliteLog
path, name, batches, *places = sys.argv[1:]
places = [place.split("/") for place in places]
log = SqliteLog(path)
log.create([TopicSpec("in", 1), TopicSpec("out", 2)])
publisher = log.publisher()
for n in range(int(batches)):
    value = b"%s %d %s" % (name.encode(), n, b"x" * 10_000)
    for answer in publisher.append([Message(topic, int(partition), value) for topic, partition in places]):
        assert not isinstance(answer, Exception), answer
    print(n, flush=True)
"""

COPY = """
import sys
from smartscale.log.port import Message, Position
from smartscale.log.sqlite import SqliteLog
path, slot = sys.argv[1:]
worker = SqliteLog(path).worker("group", ["in"], slot)
while True:
    poll = worker.poll(0.05, max_bytes=100_000)
    if poll.records:
        last = poll.records[-1]
        with worker.transaction() as transaction:
            transaction.publish(Message("out", record.offset % 2, record.value) for record in poll.records)
            transaction.commit_positions({last.at: Position(last.offset + 1)})
        print(last.offset, flush=True)
"""


@contextmanager
def running(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A child process, killed at the end in any case."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def kill_after(child: subprocess.Popen[str], lines: int) -> list[int]:
    """Let it print so many lines, kill -9, and return all numbers it printed: what it knows to be done."""
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(lines)]
    child.send_signal(signal.SIGKILL)
    told += [int(line) for line in child.stdout.read().splitlines()]
    assert child.wait(30) == -signal.SIGKILL
    return told


def read(log: Log, *partitions: TopicPartition) -> list[Record]:
    with closing(log.reader()) as reader:
        reader.assign(dict.fromkeys(partitions, 0))
        records: list[Record] = []
        for poll in polls(reader):
            records += poll.records
            if len(poll.ends) == len(partitions):
                return records
    raise AssertionError("unreachable: polls() fails first")


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = str(tmp_path / "log.db")
    with closing(SqliteLog(file)) as log:
        log.create(SPECS)
        with closing(log.publisher()) as publisher:
            publisher.append([Message("in", 0, b"input")])
    return file


POINTS = [("before BEGIN", False), ("before COMMIT", False), ("after COMMIT", True)]


@pytest.mark.parametrize(("point", "written"), POINTS)
def test_an_append_killed_at_any_point_is_there_whole_or_not_at_all(
    path: str, point: str, written: bool
) -> None:
    with running(APPEND_ONCE, path, point) as child:
        assert child.wait(30) == -signal.SIGKILL
    with closing(SqliteLog(path)) as log:
        records = read(log, OUT, TopicPartition("out", 1))
        assert len(records) == (4 if written else 0)
        assert all(record.value == b"x" * 50_000 for record in records)


@pytest.mark.parametrize(("point", "written"), POINTS)
def test_a_transaction_killed_at_any_point_is_there_whole_or_not_at_all(
    path: str, point: str, written: bool
) -> None:
    """Messages and positions together; the successor in the slot resumes at once from whichever it is."""
    with running(TRANSACT_ONCE, path, point) as child:
        assert child.wait(30) == -signal.SIGKILL
    position = Position(1, "done") if written else None
    with closing(SqliteLog(path)) as log:
        assert len(read(log, OUT, TopicPartition("out", 1))) == (4 if written else 0)
        assert log.committed("group").get(IN) == position
        with closing(log.worker("group", ["in"], "0")) as worker:
            assert worker.poll(0).assigned == {IN: position}
            assert len(worker.poll(0).records) == (0 if written else 1)


@pytest.mark.parametrize("seed", range(5))
def test_what_was_acknowledged_survives_a_kill_at_a_random_moment(path: str, seed: int) -> None:
    """Each call's records are in all of its topics or in none; at most the call under way is unacknowledged. A
    checkpoint comes every few hundred calls, so some are killed in the middle of one."""
    lines = random.Random(seed).randint(1, 1000)
    with running(APPEND_FOREVER, path, "writer", "1000000", "out/0", "out/1", "in/0") as child:
        told = kill_after(child, lines)
    with closing(SqliteLog(path)) as log:
        there = [read(log, at) for at in (OUT, TopicPartition("out", 1), IN)]
    values = [[int(r.value.split()[1]) for r in records if r.value != b"input"] for records in there]
    assert values[0] == values[1] == values[2] == list(range(len(values[0])))
    assert len(told) <= len(values[0]) <= len(told) + 1


def test_processes_that_append_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Four at once, the file not even created before: every record once, each writer's in order, no offset left out."""
    path = str(tmp_path / "log.db")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", APPEND_FOREVER, path, name, "100", "out/0", "in/0"],
            stdout=subprocess.DEVNULL,
        )
        for name in "abcd"
    ]
    assert [child.wait(60) for child in children] == [0] * 4
    with closing(SqliteLog(path)) as log:
        records = read(log, OUT)
    assert [record.offset for record in records] == list(range(400))
    for name in "abcd":
        mine = [r.value.rstrip(b"x") for r in records if r.value.startswith(name.encode())]
        assert mine == [b"%s %d " % (name.encode(), n) for n in range(100)]


def test_copying_is_exactly_once_however_often_the_copier_is_killed(path: str) -> None:
    """A copier is killed eight times and started again in its slot, while a writer appends. In the end every input is
    in the output exactly once."""
    choose = random.Random(1)
    with closing(SqliteLog(path)) as log:
        with running(APPEND_FOREVER, path, "writer", "2000", "in/0") as writer:
            for _ in range(8):
                with running(COPY, path, "0") as copier:
                    kill_after(copier, choose.randint(1, 10))
            assert writer.stdout is not None
            writer.stdout.read()
            assert writer.wait(60) == 0
        end = log.bounds([IN])[IN].end
        with running(COPY, path, "0") as copier:
            assert copier.stdout is not None
            while int(copier.stdout.readline()) + 1 < end:
                pass
        copied = Counter(record.value for record in read(log, OUT, TopicPartition("out", 1)))
        assert copied == Counter(record.value for record in read(log, IN))
        assert set(copied.values()) == {1}


def test_a_torn_write_ahead_log_gives_whole_calls_only(path: str, tmp_path: Path) -> None:
    """As after a loss of power: the write-ahead log is cut at a random byte. What is left is the calls up to some point."""
    cut = random.Random(7)
    with closing(SqliteLog(path)) as log, closing(log.publisher()) as publisher:
        for n in range(20):
            publisher.append([Message("out", p, b"%d" % n) for p in (0, 1, 0, 1)])
        wal = Path(path + "-wal").read_bytes()
        found = set()
        for _ in range(20):
            torn = tmp_path / "torn.db"
            shutil.copy(path, torn)
            Path(f"{torn}-wal").write_bytes(wal[: cut.randrange(len(wal))])
            Path(f"{torn}-shm").unlink(missing_ok=True)
            with closing(SqliteLog(str(torn))) as after:
                if "out" in after.topics():
                    zero, one = (read(after, TopicPartition("out", p)) for p in (0, 1))
                    assert [r.value for r in zero] == [r.value for r in one]
                    assert [r.value for r in zero] == [b"%d" % (n // 2) for n in range(len(zero))]
                    assert len(zero) % 2 == 0
                    found.add(len(zero))
        assert len(found) > 5, "the cuts must have hit different calls"


@contextmanager
def disk_with_room_for(pages: int) -> Iterator[None]:
    """Connections opened inside find the disk full once the file has grown to this many pages."""

    def limit(db: apsw.Connection) -> None:
        db.pragma("max_page_count", pages)

    apsw.connection_hooks.append(limit)
    try:
        yield
    finally:
        apsw.connection_hooks.remove(limit)


def test_a_full_disk_refuses_the_call_and_keeps_what_was_accepted(path: str) -> None:
    """``LogFull`` for every message of the call, none of it written; reading goes on; with room again, so does writing."""
    big = [Message("out", 0, os.urandom(100_000)) for _ in range(3)]
    with disk_with_room_for(100), closing(SqliteLog(path)) as log, closing(log.publisher()) as publisher:
        accepted: list[Message] = []
        answers: Sequence[int | Exception] = []
        while not any(isinstance(answer, Exception) for answer in answers):
            accepted += big if answers else []
            answers = publisher.append(big)
        assert len(accepted) > 3
        assert [type(answer) for answer in answers] == [LogFull] * 3
        assert "no room on the disk" in str(answers[0])
        with closing(log.worker("group", ["in"], "0")) as worker:
            assert worker.poll(0).assigned
            with pytest.raises(LogFull):
                with worker.transaction() as transaction:
                    transaction.publish(big)
                    transaction.commit_positions({IN: Position(1)})
            assert log.committed("group") == {}
        assert [record.value for record in read(log, OUT)] == [message.value for message in accepted]
    with closing(SqliteLog(path)) as log, closing(log.publisher()) as publisher:
        assert publisher.append(big)[0] == len(accepted)
