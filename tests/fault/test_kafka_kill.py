"""Exactly once on a real Kafka, whatever dies: the writing process, a stalled one, a broker.

Started as a script, this file is the process to be killed or stopped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, cast
from uuid import uuid4

import confluent_kafka as ck
import psutil
import pytest

from smartscale import clock
from smartscale.errors import FatalLogError, RetryableError, SmartScaleError
from smartscale.log import open_log
from smartscale.log.kafka import KafkaLog, KafkaWorker
from smartscale.log.port import Message, Poll, Position, Record, TopicPartition, TopicSpec
from smartscale.testing.kafka_broker import KafkaBroker, KafkaCluster
from smartscale.testing.log_harness import first_records, until_assigned

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

Outcome = tuple[list[bytes], Mapping[TopicPartition, Position]]
"""What is in the sink, and the group's positions."""

STEPS = ("sent", "positions", "committing", "committed")
"""Where the child is killed: after the records are at the broker, after the positions are, while the commit is
under way, after it has returned."""


@dataclass
class Names:
    """Topics and group of one test."""

    source: str
    sink: str
    group: str

    @property
    def at(self) -> TopicPartition:
        return TopicPartition(self.source, 0)

    @property
    def out(self) -> TopicPartition:
        return TopicPartition(self.sink, 0)


def prepare(log: KafkaLog, records: int = 3, partitions: int = 1) -> Names:
    unique = uuid4().hex[:12]
    names = Names(f"in-{unique}", f"out-{unique}", f"group-{unique}")
    log.create([TopicSpec(names.source, partitions), TopicSpec(names.sink, 1)])
    with closing(log.publisher()) as publisher:
        publisher.append([Message(names.source, 0, b"%d" % n) for n in range(records)])
    return names


def read_all(log: KafkaLog, at: TopicPartition) -> list[Record]:
    """Everything committed in one partition."""
    records: list[Record] = []
    with closing(log.reader()) as reader:
        reader.assign({at: log.bounds([at])[at].begin})
        deadline = clock.monotonic_s() + 60
        while clock.monotonic_s() < deadline:
            poll = reader.poll(0.1)
            records += poll.records
            if at in poll.ends:
                return records
    raise AssertionError(f"the end of {at} did not come")


# The child process.


@contextmanager
def child(url: str, names: Names, behaviour: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """This file as a process; killed at the end in any case."""
    command = [sys.executable, __file__, url, names.source, names.sink, names.group, behaviour, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def hear(process: subprocess.Popen[str]) -> str:
    """The child's next line."""
    line = cast(IO[str], process.stdout).readline().strip()
    assert line, "the child ended without a word"
    return line


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def act(url: str, source: str, sink: str, group: str, behaviour: str, *arguments: str) -> None:
    log = KafkaLog(url.removeprefix("kafka://"))
    names = Names(source, sink, group)
    worker = log.worker(group, [source], "child")
    records = first_records(worker, 3)
    if behaviour == "die":
        die_at(worker, names, records, *arguments)
    else:
        wake_up(worker, names, records)


def die_at(worker: KafkaWorker, names: Names, records: list[Record], step: str) -> None:
    """Write what was read, and say when the step is reached; the parent kills this process there."""
    with worker.transaction() as transaction:
        transaction.publish([Message(names.sink, 0, record.value) for record in records])
        worker._producer.flush(10)
        if step == "sent":
            say(step)
            signal.pause()
        offsets = {names.at: Position(records[-1].offset + 1, "of the child")}
        if step in ("positions", "committing"):
            transaction.commit_positions(offsets)
            send_positions_then(worker, lambda: hold(step))
        transaction.commit_positions(offsets)
    say(step)
    signal.pause()


def hold(step: str) -> None:
    say(step)
    if step == "positions":
        signal.pause()


def send_positions_then(worker: KafkaWorker, then: Callable[[], None]) -> None:
    """Make the worker's producer call ``then`` between the positions and the commit."""

    class Producer:
        def __init__(self, real: object) -> None:
            self._real = real

        def __getattr__(self, name: str) -> object:
            if name == "commit_transaction":
                then()
            return getattr(self._real, name)

    worker._producer = cast(ck.Producer, Producer(worker._producer))


def wake_up(worker: KafkaWorker, names: Names, records: list[Record]) -> None:
    """Hold records in hand until told to go on; then try to commit them, and say what came of it."""
    say("read")
    assert sys.stdin.readline()
    try:
        with worker.transaction() as transaction:
            transaction.publish([Message(names.sink, 0, b"zombie") for _ in records])
            transaction.commit_positions({names.at: Position(records[-1].offset + 1, "zombie")})
    except SmartScaleError as error:
        say(type(error).__name__)
    else:
        say("committed")
    worker.rewind()
    revoked: set[TopicPartition] = set()
    while names.at not in revoked:
        revoked |= worker.poll(0.1).revoked
    say("revoked")
    worker.close()


# Killed in the middle.


def test_a_kill_at_any_step_leaves_all_or_nothing(kafka_url: str) -> None:
    """Records and positions: neither before the commit, both after it; the successor reads on from there, and in
    the end every record has gone through once."""
    log = KafkaLog(kafka_url.removeprefix("kafka://"))
    names = {step: prepare(log) for step in STEPS}

    def kill_at(step: str) -> None:
        with child(kafka_url, names[step], "die", step) as process:
            assert hear(process) == step
            process.kill()

    in_parallel([partial(kill_at, step) for step in STEPS])

    def succeed(step: str) -> None:
        """The successor's start ends what the child had under way."""
        mine = names[step]
        with closing(log.worker(mine.group, [mine.source], "child")) as successor:
            written = [record.value for record in read_all(log, mine.out)]
            positions = log.committed(mine.group)
            everything: Outcome = ([b"0", b"1", b"2"], {mine.at: Position(3, "of the child")})
            nothing: Outcome = ([], {})
            allowed: list[Outcome] = {"committing": [everything, nothing], "committed": [everything]}.get(
                step, [nothing]
            )
            assert (written, positions) in allowed, f"after a kill at {step!r}"
            with closing(log.publisher()) as publisher:
                publisher.append([Message(mine.source, 0, b"3")])
            copy_until(successor, mine, lambda: len(read_all(log, mine.out)) == 4)
            assert [record.value for record in read_all(log, mine.out)] == [b"0", b"1", b"2", b"3"]

    in_parallel([partial(succeed, step) for step in STEPS])


def in_parallel(calls: list[Callable[[], None]]) -> None:
    """Run all, wait for all, raise the first failure."""
    failures: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 (handed to the main thread)
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def copy_step(worker: KafkaWorker, names: Names, poll: Poll, owned: dict[TopicPartition, int]) -> None:
    """The stage under test: copies each record to the sink, in one transaction with its position."""
    for at in poll.revoked:
        owned.pop(at, None)
    for at, position in poll.assigned.items():
        owned[at] = position.offset if position else 0
    if not poll.records:
        return
    for record in poll.records:
        owned[record.at] = record.offset + 1
    with worker.transaction() as transaction:
        transaction.publish([Message(names.sink, 0, record.value) for record in poll.records])
        transaction.commit_positions({at: Position(offset, "copied") for at, offset in owned.items()})


def copy_until(worker: KafkaWorker, names: Names, done: Callable[[], bool]) -> None:
    owned: dict[TopicPartition, int] = {}
    deadline = clock.monotonic_s() + 60
    while True:
        poll = worker.poll(0.2)
        copy_step(worker, names, poll, owned)
        if poll.records and done():
            return
        assert clock.monotonic_s() < deadline, "the successor did not catch up"


# Stalled, replaced, and awake again.


@pytest.mark.parametrize("told", ["before it wakes", "once its membership is over"])
def test_a_stalled_worker_can_commit_nothing_once_its_partition_has_moved(kafka_url: str, told: str) -> None:
    """It holds records, is stopped until another member owns the partition, and goes on where it was: at once,
    or after its client has heard from the group that it was thrown out."""
    log = KafkaLog(kafka_url.removeprefix("kafka://"))
    names = prepare(log)
    with child(kafka_url, names, "wake up") as process:
        assert hear(process) == "read"
        os.kill(process.pid, signal.SIGSTOP)
        with closing(log.worker(names.group, [names.source], "other")) as other:
            until_assigned(other, 1)
            with other.transaction() as transaction:
                transaction.publish([Message(names.sink, 0, b"other")])
                transaction.commit_positions({names.at: Position(2, "other")})
            go = cast(IO[str], process.stdin)
            if told == "before it wakes":
                go.write("go\n")
                go.flush()
                os.kill(process.pid, signal.SIGCONT)
            else:
                os.kill(process.pid, signal.SIGCONT)
                polled_for(other, 2.0)  # several heartbeats of 0.5 s: the child's client has heard by then
                go.write("go\n")
                go.flush()
            verdict = polled_until(other, lambda: hear(process))
            assert verdict == "Fenced"
            assert polled_until(other, lambda: hear(process)) == "revoked"
            assert log.committed(names.group) == {names.at: Position(2, "other")}
            assert [record.value for record in read_all(log, names.out)] == [b"other"]


def polled_for(worker: KafkaWorker, seconds: float) -> None:
    deadline = clock.monotonic_s() + seconds
    while clock.monotonic_s() < deadline:
        worker.poll(0.1)


def polled_until(worker: KafkaWorker, wait: Callable[[], str]) -> str:
    """``wait``'s answer; the worker is polled meanwhile, as a living member is."""
    answers: list[str] = []
    waiting = threading.Thread(target=lambda: answers.append(wait()))
    waiting.start()
    while waiting.is_alive():
        worker.poll(0.1)
    return answers[0]


# Brokers that come and go.


@dataclass
class Load:
    """A publisher and a copying worker, each in a thread, that go on over every retryable error.

    A worker with a fatal error is replaced, as its supervisor would do."""

    url: str
    names: Names
    accepted: set[str] = field(default_factory=set)
    copied: int = 0
    failures: list[BaseException] = field(default_factory=list)
    interruptions: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Load:
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._guard, args=(f,)) for f in (self._publish, self._copy)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (looked at by the test)
            self.failures.append(error)

    def _publish(self) -> None:
        log = open_log(self.url)
        with closing(log.publisher()) as publisher:
            n = 0
            while not self.stop.is_set():
                ids = [f"{n + i}" for i in range(20)]
                n += 20
                while ids and not self.stop.is_set():  # the same ids again, until each has been accepted
                    answers = publisher.append([Message(self.names.source, 0, i.encode()) for i in ids])
                    refused = [
                        i for i, answer in zip(ids, answers, strict=True) if isinstance(answer, Exception)
                    ]
                    self.interruptions.update({str(a) for a in answers if isinstance(a, Exception)})
                    self.accepted |= set(ids) - set(refused)
                    ids = refused
                self.stop.wait(0.02)

    def _copy(self) -> None:
        log = cast(KafkaLog, open_log(self.url))
        worker = log.worker(self.names.group, [self.names.source], "0")
        owned: dict[TopicPartition, int] = {}
        while not self.stop.is_set():
            try:
                poll = worker.poll(0.2)
                copy_step(worker, self.names, poll, owned)
                self.copied += len(poll.records)
            except FatalLogError as error:
                self.interruptions[str(error)] += 1
                worker.close()
                worker, owned = self._replace(log), {}
            except RetryableError as error:
                self.interruptions[str(error)] += 1
                self._rewind(worker)
        worker.close()

    def _rewind(self, worker: KafkaWorker) -> None:
        try:
            worker.rewind()
        except RetryableError:
            self.interruptions["rewind"] += 1
            self.stop.wait(0.2)

    def _replace(self, log: KafkaLog) -> KafkaWorker:
        while True:
            try:
                return log.worker(self.names.group, [self.names.source], "0")
            except RetryableError:
                self.interruptions["start"] += 1
                self.stop.wait(0.2)

    def more(self, records: int = 100) -> None:
        """Wait until so many more records have been accepted and copied."""
        accepted, copied = len(self.accepted) + records, self.copied + records
        deadline = clock.monotonic_s() + 90
        while len(self.accepted) < accepted or self.copied < copied:
            assert not self.failures, self.failures
            assert clock.monotonic_s() < deadline, f"no progress; interruptions: {self.interruptions}"
            self.stop.wait(0.05)


def assert_exactly_once(load: Load) -> None:
    """Everything accepted is in the source, and the copy is the source's beginning, record by record, with
    nothing lost, doubled or out of order; a successor copies the rest."""
    assert not load.failures, load.failures
    log = cast(KafkaLog, open_log(load.url))
    source = [record.value for record in read_all(log, load.names.at)]
    assert load.accepted <= {value.decode() for value in source}
    with closing(log.worker(load.names.group, [load.names.source], "0")) as worker:
        if len(read_all(log, load.names.out)) < len(source):
            copy_until(worker, load.names, lambda: len(read_all(log, load.names.out)) >= len(source))
    assert [record.value for record in read_all(log, load.names.out)] == source


def test_a_broker_restart_loses_and_doubles_nothing(kafka_broker: KafkaBroker) -> None:
    """Killed and started again, then stopped in order and started again, under an open worker and publisher."""
    names = prepare(KafkaLog(kafka_broker.address), records=0)
    with Load(kafka_broker.url, names) as load:
        load.more()
        kafka_broker.kill()
        kafka_broker.start()
        load.more()
        kafka_broker.stop()
        kafka_broker.start()
        load.more()
    assert_exactly_once(load)


@pytest.mark.slow
def test_a_cluster_outlives_one_of_its_brokers(kafka_cluster: KafkaCluster) -> None:
    """It is killed, the two others carry on, and it comes back; records have three copies, two of which count."""
    names = prepare(KafkaLog(kafka_cluster.url.removeprefix("kafka://")), records=0)
    with Load(kafka_cluster.url, names) as load:
        load.more()
        kafka_cluster.brokers[0].kill()
        load.more()
        kafka_cluster.brokers[0].start()
        load.more()
    assert_exactly_once(load)


# The broker itself.


def test_a_broker_dies_with_the_process_that_started_it() -> None:
    """Kill -9 of the parent leaves no Java behind."""
    script = (
        "from smartscale.testing.kafka_broker import KafkaBroker\n"
        "broker = KafkaBroker(); broker.launch(); print(broker._process.pid, broker._node.directory, flush=True)\n"
        "import signal; signal.pause()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid, directory = cast(IO[str], parent.stdout).readline().split()
    java = psutil.Process(int(pid))
    parent.kill()
    parent.communicate()
    gone, alive = psutil.wait_procs([java], timeout=20)
    for process in alive:
        process.kill()
    for path in sorted(Path(directory).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    Path(directory).rmdir()
    assert gone
    assert not alive


if __name__ == "__main__":
    act(*sys.argv[1:])
