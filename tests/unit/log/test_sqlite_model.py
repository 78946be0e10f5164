"""The SQLite log behaves as the in-memory reference, whatever is done to it in whatever order.

Hypothesis makes up the steps: appends, transactions, aborts, seeks, crashes (an object is dropped without ``close``
and its successor starts in the same slot), members joining and leaving, retention, time passing. After each step both
logs must have answered the same, and what they hold must be the same.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from smartscale.errors import SmartScaleError
from smartscale.log.port import Log, Message, Poll, Position, TopicPartition, TopicSpec, Worker
from smartscale.log.sqlite import SqliteLog
from smartscale.testing.memory_log import MemoryLog

TOPICS = [
    TopicSpec("in", 3, retention_bytes=120),
    TopicSpec("out", 2),
    TopicSpec("kept", 1, compacted=True),
]
PLACES = [TopicPartition(spec.name, p) for spec in TOPICS for p in range(spec.partitions)]
SLOTS = ["0", "1", "2"]
GROUP = "group"

messages = st.lists(
    st.builds(
        Message,
        topic=st.just("out"),
        partition=st.just(0),
        value=st.binary(max_size=60),
        key=st.sampled_from([b"a", b"b", b"c"]),
        headers=st.dictionaries(st.sampled_from(["n", "schema"]), st.binary(max_size=3)),
    ).flatmap(
        lambda message: st.sampled_from(PLACES).map(
            lambda at: Message(at.topic, at.partition, message.value, message.key, message.headers)
        )
    ),
    max_size=5,
)


class SqliteAgainstMemory(RuleBasedStateMachine):
    """Every rule does the same to both and compares."""

    @initialize()
    def start(self) -> None:
        self.now_ms = 1_000
        self.folder = Path(tempfile.mkdtemp())
        self.sqlite = self.open()
        self.memory = MemoryLog(wall_ms=lambda: self.now_ms)
        self.workers: dict[str, tuple[Worker, Worker]] = {}
        self.crashed: list[Worker] = []
        """Kept alive, as a hung process would be."""
        for log in (self.sqlite, self.memory):
            log.create(TOPICS)

    def open(self) -> SqliteLog:
        return SqliteLog(str(self.folder / "log.db"), monotonic_s=lambda: 0.0, wall_ms=lambda: self.now_ms)

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def both(self, slot: str, do: Callable[[Worker], object]) -> None:
        one, other = (outcome(do, worker) for worker in self.workers[slot])
        assert one == other

    @rule(batch=messages)
    def append(self, batch: list[Message]) -> None:
        def append(log: Log) -> list[int | Exception]:
            publisher = log.publisher()
            try:
                return publisher.append(batch)
            finally:
                publisher.close()

        assert append(self.sqlite) == append(self.memory)

    @rule(step_ms=st.integers(-20, 100))
    def time_passes(self, step_ms: int) -> None:
        """The wall clock may also be set back."""
        self.now_ms += step_ms

    @rule(slot=st.sampled_from(SLOTS), topics=st.sampled_from([("in",), ("in", "out"), ("in", "kept")]))
    def join(self, slot: str, topics: tuple[str, ...]) -> None:
        """A new member, or the successor of one that crashed or hangs."""
        self.crashed += self.workers.pop(slot, ())
        self.workers[slot] = (
            self.sqlite.worker(GROUP, topics, slot),
            self.memory.worker(GROUP, topics, slot),
        )

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.workers)))
        for worker in self.workers.pop(slot):
            worker.close()

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), times=st.integers(1, 4), max_bytes=st.sampled_from([1, 100, 1 << 20]))
    def poll(self, data: st.DataObject, times: int, max_bytes: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.workers)))
        for _ in range(times):
            self.both(slot, lambda worker: plain(worker.poll(0, max_bytes)))

    @precondition(lambda self: self.workers)
    @rule(
        data=st.data(),
        batch=messages,
        positions=st.dictionaries(
            st.sampled_from(PLACES), st.builds(Position, st.integers(0, 12), st.text(max_size=5)), max_size=2
        ),
        abort=st.booleans(),
    )
    def transact(
        self,
        data: st.DataObject,
        batch: list[Message],
        positions: dict[TopicPartition, Position],
        abort: bool,
    ) -> None:
        """Some speak for partitions the member does not own: both refuse."""
        slot = data.draw(st.sampled_from(sorted(self.workers)))

        def transact(worker: Worker) -> None:
            with worker.transaction() as transaction:
                transaction.publish(batch)
                transaction.commit_positions(positions)
                if abort:
                    raise SmartScaleError("abort")

        self.both(slot, transact)

    @precondition(lambda self: self.crashed)
    @rule(data=st.data(), batch=messages)
    def a_fenced_member_tries_to_write(self, data: st.DataObject, batch: list[Message]) -> None:
        late = data.draw(st.sampled_from(range(len(self.crashed))))
        assert outcome(lambda worker: transact_only(worker, batch), self.crashed[late]) == "Fenced"

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        for worker in self.workers[data.draw(st.sampled_from(sorted(self.workers)))]:
            worker.rewind()

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), at=st.sampled_from(PLACES), offset=st.integers(0, 12))
    def seek(self, data: st.DataObject, at: TopicPartition, offset: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.workers)))
        self.both(slot, lambda worker: worker.seek(at, offset))

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), at=st.sampled_from(PLACES), pause=st.booleans())
    def pause_or_resume(self, data: st.DataObject, at: TopicPartition, pause: bool) -> None:
        slot = data.draw(st.sampled_from(sorted(self.workers)))
        self.both(slot, lambda worker: worker.pause([at]) if pause else worker.resume([at]))

    @rule()
    def crash(self) -> None:
        """Everything of this process is dropped without ``close``; the file is opened anew."""
        self.sqlite = self.open()

    @rule(at=st.sampled_from(PLACES), wall_ms=st.integers(900, 2_000))
    def find_by_time(self, at: TopicPartition, wall_ms: int) -> None:
        assert self.sqlite.offset_at(at, wall_ms) == self.memory.offset_at(at, wall_ms)

    @invariant()
    def both_hold_the_same(self) -> None:
        assert self.sqlite.bounds(PLACES) == self.memory.bounds(PLACES)
        assert self.sqlite.committed(GROUP) == self.memory.committed(GROUP)
        reader = self.sqlite.reader()
        bounds = self.sqlite.bounds(PLACES)
        reader.assign({at: bounds[at].begin for at in PLACES})
        found = sorted(reader.poll(0, 1 << 30).records, key=lambda r: (r.topic, r.partition, r.offset))
        assert found == [record for topic in ("in", "kept", "out") for record in self.memory.records(topic)]
        reader.close()


def transact_only(worker: Worker, batch: list[Message]) -> None:
    with worker.transaction() as transaction:
        transaction.publish(batch)


def outcome(do: Callable[[Worker], object], worker: Worker) -> object:
    """What it returned, or the name of the error."""
    try:
        return do(worker)
    except (SmartScaleError, ValueError) as error:
        return type(error).__name__


def plain(poll: Poll) -> object:
    """Comparable."""
    return list(poll.records), dict(poll.assigned), poll.revoked, poll.ends


def test_sqlite_log_and_memory_log_agree() -> None:
    """Steps made up by hypothesis; a failure prints the shortest sequence that shows it."""
    run_state_machine_as_test(
        SqliteAgainstMemory,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
