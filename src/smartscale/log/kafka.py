"""The event log on Apache Kafka: any number of machines.

Kafka does the partitioning, the replication, the group membership and the transactions; this adapter keeps no
state of its own beyond what one poll needs. The guarantees are those of ``smartscale.log.port``; how they come
about here is in ``docs/decisions/0003-kafka-transactions.md``.

**The transaction**, and what a crash after each step leaves behind:

1. ``begin``: nothing has left the process. Nothing happened.
2. records are sent, marked as belonging to the transaction: readers are ``read_committed`` and do not see them.
   The successor's ``init_transactions``, or the transaction time-out, aborts them.
3. the positions are sent to the group's coordinator, with this member's id and epoch. A member that lost its
   partitions is refused here (``Fenced``). They are pending until the transaction ends; a new owner of the
   partition waits for that before it reads the committed position.
4. ``commit``: once the coordinator has noted it, records and positions become visible, even if this process and
   the broker die; before that, 2 and 3 are undone. Where the answer is lost, the outcome is open until the slot's
   next producer starts (in ``rewind``, or in the successor): that settles it, and the positions are read again.

**Positions after a failure.** The client's read position stays advanced after an abort, so ``rewind`` puts every
partition back into the state "owned, position not yet told", in which an assignment starts as well: one way to
begin reading. **States of an owned partition**: *unplaced* (its committed position is being asked for; what
arrives is dropped) → *fresh* (position told; the stage may ``seek``) → *reading*.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Final, Self, TypeVar

import confluent_kafka as ck
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package re-exports without saying so
    AdminClient,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from smartscale.clock import monotonic_s
from smartscale.errors import (
    ConfigError,
    FatalLogError,
    Fenced,
    LogUnavailable,
    OffsetOutOfRange,
    PermanentError,
    SmartScaleError,
    TopicMismatch,
    UnknownTopic,
)
from smartscale.log.port import Bounds, Message, Poll, Position, Record, TopicPartition, TopicSpec

_K = TypeVar("_K")
_V = TypeVar("_V")

CALL_S: Final = 8.0
"""Real. One request to the cluster fails after this long; a start finds an unreachable broker within 10 s."""
TRANSACTION_S: Final = 10.0
"""Real. A transaction that takes longer is aborted by the broker, so that a hung writer cannot hold readers long."""
DELIVERY_S: Final = 15.0
"""Real. A record not acknowledged after this long has failed; longer than electing a new leader takes."""
COMMIT_S: Final = 15.0
"""Real. A commit not answered after this long has failed for now; ``rewind`` reads from the log what became of it."""
PLACE_S: Final = 1.0
"""Real. How long a poll may wait beyond its time-out for the committed positions of new partitions."""
SETTLE_S: Final = 2.0
"""Real. How long ``committed`` waits for transactions under way; they end within milliseconds unless they hang."""
SLICE_S: Final = 0.05
"""Real. How soon a waiting poll notices a change of the assignment."""
BATCH: Final = 100
"""Records taken from the client at once; what exceeds ``max_bytes`` is held for the next poll."""
MAX_RECORD_BYTES: Final = 4 << 20
"""Largest record: eight times what the stages write at most, so that a snapshot's chunk or a large key fits."""
MAX_METADATA_BYTES: Final = 4000
"""As the port says; Kafka's own default limit is 4,096."""

REPEAT_S: Final = 10.0
"""Real. The client logs every attempt to connect, twenty a second; the same failure is told again after this long."""


class _Repeats(logging.Filter):
    """Lets a line of the client through unless the same one, apart from its figures in brackets, came just before."""

    def __init__(self) -> None:
        super().__init__()
        self._told_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text, now_s = record.getMessage().partition("(after ")[0], monotonic_s()
        self._told_s = {line: at for line, at in self._told_s.items() if now_s - at < REPEAT_S}
        if text in self._told_s:
            return False
        self._told_s[text] = now_s
        return True


_log = logging.getLogger(__name__)
_log.addFilter(_Repeats())

_CLIENT: Mapping[str, object] = {
    "log.connection.close": False,  # idle connections are closed by the broker every ten minutes
    "reconnect.backoff.max.ms": 2000,  # a restarted broker is found again within two seconds
    "socket.timeout.ms": 10_000,
    "socket.connection.setup.timeout.ms": 5_000,
    "socket.nagle.disable": True,
    "allow.auto.create.topics": False,
}
_PRODUCER: Mapping[str, object] = {
    "message.max.bytes": MAX_RECORD_BYTES,
    "queue.buffering.max.kbytes": 64 << 10,  # the bound of a publisher's memory
    "linger.ms": 5,  # every append and commit flushes, which ends the lingering
    # The first retry's; it doubles up to a second. A transaction right after another meets the end of that one.
    "retry.backoff.ms": 10,
    # The other strategy forgets a restarting coordinator while a request waits for it: issue 5511 of librdkafka.
    "metadata.recovery.strategy": "none",
}
_CONSUMER: Mapping[str, object] = {
    "group.protocol": "consumer",
    "fetch.max.bytes": 32 << 20,
    "max.partition.fetch.bytes": 8 << 20,
    "queued.max.messages.kbytes": 64 << 10,  # read ahead: four polls of 16 MiB
    "fetch.wait.max.ms": 100,  # an idle fetch ends after this: how soon an end is told and a seek takes effect
    "fetch.queue.backoff.ms": 5,  # a full read-ahead queue is filled again at once
    "fetch.error.backoff.ms": 100,
    "max.poll.interval.ms": 30_000,  # a member that has not polled for so long hangs: its partitions move on
    "topic.metadata.refresh.interval.ms": 10_000,  # how soon added partitions are noticed by `classic` members
}
_CLASSIC: Mapping[str, object] = {
    "group.protocol": "classic",
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": 10_000,  # with the newer protocol these two are set on the broker
    "heartbeat.interval.ms": 1_000,  # how soon a member hears of a rebalance, of which a hand-over takes several
}
_READ: Mapping[str, object] = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",  # a gap is told, never skipped
}

_E = ck.KafkaError
_FENCED = frozenset(
    {
        _E.ILLEGAL_GENERATION,
        _E.UNKNOWN_MEMBER_ID,
        _E.FENCED_INSTANCE_ID,
        _E.FENCED_MEMBER_EPOCH,
        _E.STALE_MEMBER_EPOCH,
        _E.REBALANCE_IN_PROGRESS,
        _E._ASSIGNMENT_LOST,
    }
)
_SUCCEEDED = frozenset({_E._FENCED, _E.PRODUCER_FENCED, _E.INVALID_PRODUCER_EPOCH})
_UNKNOWN = frozenset(
    {_E.UNKNOWN_TOPIC_OR_PART, _E.UNKNOWN_TOPIC_ID, _E._UNKNOWN_TOPIC, _E._UNKNOWN_PARTITION}
)
_OUT_OF_RANGE = frozenset({_E.OFFSET_OUT_OF_RANGE, _E._AUTO_OFFSET_RESET, _E._NO_OFFSET})
_REFUSED = frozenset(
    {
        _E._AUTHENTICATION,
        _E._SSL,
        _E.SASL_AUTHENTICATION_FAILED,
        _E.TOPIC_AUTHORIZATION_FAILED,
        _E.GROUP_AUTHORIZATION_FAILED,
        _E.CLUSTER_AUTHORIZATION_FAILED,
        _E.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
_TOO_LARGE = frozenset(
    {_E.MSG_SIZE_TOO_LARGE, _E.RECORD_LIST_TOO_LARGE, _E.INVALID_RECORD, _E.POLICY_VIOLATION}
)
_NO_KIP848 = tuple(_E(code).str() for code in (_E.UNSUPPORTED_VERSION, _E._UNSUPPORTED_FEATURE))
"""What a broker without the group protocol `consumer` answers; the client wraps it into a fatal error's text."""
_CREATE = "create it with `smartscale topics`"


def _translate(error: ck.KafkaError, doing: str, servers: str) -> SmartScaleError:
    """The error of our tree that says what the caller can do about Kafka's ``error``."""
    code, what = error.code(), f"{doing}: {error.str()} ({error.name()})"
    if code in _FENCED:
        return Fenced(f"{what}; this member no longer owns what it speaks for")
    if code in _SUCCEEDED:
        return FatalLogError(
            f"{what}; another process has taken this slot, or a transaction took longer than "
            f"{TRANSACTION_S:.0f} s: end this process"
        )
    if code in _UNKNOWN:
        return UnknownTopic(f"{what}; {_CREATE}")
    if code in _TOO_LARGE:
        return PermanentError(f"{what}; records may have at most {MAX_RECORD_BYTES:,} bytes")
    if code in _REFUSED:
        return FatalLogError(f"{what}; check the credentials in the [kafka] settings and the broker's ACLs")
    if error.fatal() or code == _E._FATAL:
        return FatalLogError(what)
    return LogUnavailable(
        f"{what}; is Kafka running at {servers}? (`make kafka` starts one on this machine; --log sets the address)"
    )


def _error(failure: ck.KafkaException) -> ck.KafkaError:
    error = failure.args[0]
    assert isinstance(error, ck.KafkaError)
    return error


def _kafka(at: TopicPartition, offset: int = ck.OFFSET_INVALID, metadata: str = "") -> ck.TopicPartition:
    return ck.TopicPartition(at.topic, at.partition, offset, metadata)


def _ours(at: ck.TopicPartition) -> TopicPartition:
    return TopicPartition(at.topic, at.partition)


class KafkaLog:
    """The ``Log`` on the Kafka cluster at ``servers`` (``HOST:PORT[,HOST:PORT…]``).

    ``settings`` are librdkafka's own (security.protocol, sasl.username, group.protocol, ...); those that the
    guarantees rest on cannot be overridden. Nothing is contacted before the first call; an unreachable cluster
    makes a call fail with ``LogUnavailable`` within 10 s. May be shared between threads, other than what it makes.
    """

    def __init__(self, servers: str, settings: Mapping[str, str] | None = None) -> None:
        self.servers = servers
        self._settings = dict(settings or {})
        self._refusal: ck.KafkaError | None = None
        self._admin: AdminClient | None = None
        self._counts: dict[str, int] = {}

    # The port.

    def create(self, specs: Sequence[TopicSpec]) -> None:
        existing, brokers = self._metadata()
        # Three copies, two of which must have a record before it counts, survive any one broker's death.
        copies = 3 if brokers >= 3 else 1
        missing = [spec for spec in specs if spec.name not in existing]
        if missing:
            made = self._client().create_topics(
                [_new_topic(spec, copies) for spec in missing], request_timeout=CALL_S
            )
            self._results("create topics", made, ignore=_E.TOPIC_ALREADY_EXISTS)
        have = self._await_partitions({spec.name: 1 for spec in specs})
        for spec in specs:
            _check(have[spec.name], spec)
        wider = {spec.name: spec.partitions for spec in specs if spec.partitions > have[spec.name].partitions}
        if wider:
            grown = self._client().create_partitions(
                [NewPartitions(name, count) for name, count in wider.items()], request_timeout=CALL_S
            )
            self._results("add partitions", grown, ignore=_E.INVALID_PARTITIONS)  # another process was faster
        self._await_partitions({spec.name: spec.partitions for spec in specs})

    def topics(self) -> Mapping[str, TopicSpec]:
        counts, _ = self._metadata()
        if not counts:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in counts]
        configs = self._results(
            "describe topics",
            self._client().describe_configs(resources, request_timeout=CALL_S),
            ignore=_E.UNKNOWN_TOPIC_OR_PART,  # just removed, or so new that this broker does not know it yet
        )
        return {
            resource.name: TopicSpec(
                resource.name,
                counts[resource.name],
                max(0, int(config["retention.bytes"].value)),
                "compact" in config["cleanup.policy"].value,
            )
            for resource, config in configs.items()
        }

    def publisher(self) -> KafkaPublisher:
        return KafkaPublisher(self)

    def reader(self) -> KafkaReader:
        return KafkaReader(self)

    def worker(self, group: str, topics: Sequence[str], slot: str) -> KafkaWorker:
        return KafkaWorker(self, group, topics, slot)

    def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        wanted = list(partitions)
        begin = self._offsets(wanted, OffsetSpec.earliest())  # type: ignore[no-untyped-call]  # untyped in the library
        end = self._offsets(wanted, OffsetSpec.latest())  # type: ignore[no-untyped-call]  # untyped in the library
        return {at: Bounds(begin[at], end[at]) for at in wanted}

    def offset_at(self, at: TopicPartition, wall_ms: int) -> int:
        # Before 1970 nothing was written; to Kafka negative times are no times.
        found = self._offsets([at], OffsetSpec.for_timestamp(max(0, wall_ms)))[at]
        return found if found >= 0 else self._offsets([at], OffsetSpec.latest())[at]  # type: ignore[no-untyped-call]  # untyped in the library

    def committed(self, group: str) -> Mapping[TopicPartition, Position]:
        # Positions that a transaction is just moving are waited for, so that a commit that has returned is seen;
        # but not for one that hangs: what it moves is not committed.
        # Partitions are named because Kafka leaves one out whose first position is just being committed.
        counts, _ = self._metadata()
        every = [TopicPartition(topic, p) for topic, count in counts.items() for p in range(count)]
        deadline = monotonic_s() + SETTLE_S
        answer = self._group_positions(group, every, settled=True)
        while any(at.error is not None for at in answer) and monotonic_s() < deadline:
            self._client().poll(SLICE_S)
            answer = self._group_positions(group, every, settled=True)
        if any(at.error is not None for at in answer):
            answer = self._group_positions(group, every, settled=False)
        return {_ours(at): Position(at.offset, at.metadata or "") for at in answer if at.offset >= 0}

    def _group_positions(
        self, group: str, partitions: Sequence[TopicPartition], settled: bool
    ) -> Sequence[ck.TopicPartition]:
        # A coordinator that has just been chosen says at once that it is still loading: asked again until it is not.
        deadline = monotonic_s() + CALL_S
        while True:
            try:
                answers = self._results(
                    f"read the positions of group {group}",
                    self._client().list_consumer_group_offsets(
                        [ck.ConsumerGroupTopicPartitions(group, [_kafka(at) for at in partitions])],
                        require_stable=settled,
                        request_timeout=CALL_S,
                    ),
                    ignore=_E.GROUP_ID_NOT_FOUND,
                )
                break
            except LogUnavailable:
                if monotonic_s() > deadline:
                    raise
            self._client().poll(SLICE_S)
        return [at for answer in answers.values() for at in answer.topic_partitions or ()]

    def close(self) -> None:
        self._admin = None

    # What the objects it makes share.

    def config(self, kind: Mapping[str, object], guarantees: Mapping[str, object]) -> dict[str, object]:
        """A client's configuration: tunables, then the user's settings, then what the guarantees rest on."""
        settings = {
            key: value
            for key, value in self._settings.items()
            if key != "group.protocol" or kind is _CONSUMER
        }
        return {
            **_CLIENT,
            **kind,
            **settings,
            **guarantees,
            "bootstrap.servers": self.servers,
            "logger": _log,
        }

    def made(self, make: Callable[[dict[str, object]], _V], config: dict[str, object]) -> _V:
        """A client; raises ``ConfigError`` when librdkafka refuses a setting."""
        try:
            return make(config)
        except ck.KafkaException as failure:
            raise ConfigError(
                f"the Kafka client refuses its settings: {_error(failure).str()}; mend the [kafka] settings"
            ) from failure

    def translate(self, error: ck.KafkaError, doing: str) -> SmartScaleError:
        return _translate(error, doing, self.servers)

    def require(self, at: TopicPartition) -> None:
        """Raises ``UnknownTopic`` unless the partition exists."""
        if not 0 <= at.partition < self._counts.get(at.topic, 0):
            self._metadata()
            count = self._counts.get(at.topic, 0)
            if not 0 <= at.partition < count:
                what = f"it has {count} partitions" if count else "there is no such topic"
                raise UnknownTopic(f"{at} does not exist ({what}); {_CREATE}")

    def _client(self) -> AdminClient:
        if self._admin is None:
            config = self.config({}, {"error_cb": self._heard})
            self._admin = self.made(AdminClient, config)  # type: ignore[arg-type]  # its stub forgets loggers
        return self._admin

    def _heard(self, error: ck.KafkaError) -> None:
        """What the client tells beside a call's own error, which is but a time-out where a broker does not let it in."""
        if error.code() in _REFUSED:
            self._refusal = error

    def _metadata(self) -> tuple[dict[str, int], int]:
        """Partitions of every topic, internal ones left out, and the number of brokers."""
        client = self._client()
        self._refusal = None
        try:
            metadata = client.list_topics(timeout=CALL_S)
        except ck.KafkaException as failure:
            client.poll(0)
            raise self.translate(self._refusal or _error(failure), "read the topics") from failure
        finally:
            client.poll(0)  # hands the client's log lines and what it has heard over
        self._counts = {
            name: len(topic.partitions)
            for name, topic in metadata.topics.items()
            if not name.startswith("__") and topic.error is None
        }
        return dict(self._counts), len(metadata.brokers)

    def _results(
        self, doing: str, futures: Mapping[_K, Future[_V]], ignore: int = _E.NO_ERROR
    ) -> dict[_K, _V]:
        """The futures' results; a future that failed with the code ``ignore`` has none."""
        results: dict[_K, _V] = {}
        for key, future in futures.items():
            try:
                results[key] = future.result()
            except ck.KafkaException as failure:
                if _error(failure).code() != ignore:
                    raise self.translate(_error(failure), f"{doing} ({key})") from failure
        return results

    def _offsets(self, partitions: Sequence[TopicPartition], spec: OffsetSpec) -> dict[TopicPartition, int]:
        for at in partitions:
            self.require(at)
        if not partitions:
            return {}
        try:
            return self._listed(partitions, spec)
        except LogUnavailable:
            # After a change of leader a client may ask with the leader's old epoch for ever; a new one learns the new one.
            self._admin = None
            raise

    def _listed(self, partitions: Sequence[TopicPartition], spec: OffsetSpec) -> dict[TopicPartition, int]:
        found = self._results(
            "read offsets",
            self._client().list_offsets(
                {_kafka(at): spec for at in partitions},
                isolation_level=ck.IsolationLevel.READ_COMMITTED,
                request_timeout=CALL_S,
            ),
        )
        unknown = [str(_ours(at)) for at, result in found.items() if result.offset == ck.OFFSET_INVALID]
        if unknown:  # seen while a new leader was being chosen
            raise LogUnavailable(f"read offsets: the broker does not know those of {', '.join(unknown)} yet")
        return {_ours(at): result.offset for at, result in found.items()}

    def _await_partitions(self, counts: Mapping[str, int]) -> Mapping[str, TopicSpec]:
        """The topics, once the brokers asked know these with at least so many partitions."""
        deadline = monotonic_s() + CALL_S
        while True:
            have = self.topics()
            lacking = [
                name for name, count in counts.items() if name not in have or have[name].partitions < count
            ]
            if not lacking:
                return have
            if monotonic_s() > deadline:
                raise LogUnavailable(
                    f"topics {', '.join(lacking)} were made but have not appeared at {self.servers}"
                )
            self._client().poll(SLICE_S)


def _new_topic(spec: TopicSpec, copies: int) -> NewTopic:
    kept = {
        # A segment is the unit that retention removes: at most a quarter of what is kept (1 MiB is Kafka's least).
        "retention.bytes": str(spec.retention_bytes or -1),
        "retention.ms": str(7 * 86_400_000 if spec.retention_bytes else -1),
        "segment.bytes": str(max(1 << 20, min(1 << 30, spec.retention_bytes // 4 or 1 << 30))),
        "cleanup.policy": "delete",
    }
    compacted = {
        "cleanup.policy": "compact",
        # A removed key is told for a day to readers that are away. The segment being written is not compacted, and a start
        # reads all of it: so it stays small.
        "delete.retention.ms": "86400000",
        "segment.bytes": str(64 << 20),
        "segment.ms": "600000",
        "min.cleanable.dirty.ratio": "0.2",
    }
    return NewTopic(
        spec.name,
        num_partitions=spec.partitions,
        replication_factor=copies,
        config={
            **(compacted if spec.compacted else kept),
            "min.insync.replicas": str(min(2, copies)),
            "max.message.bytes": str(MAX_RECORD_BYTES + (64 << 10)),  # the batch around a largest record
            "message.timestamp.type": "LogAppendTime",  # retention goes by the time of writing, on one clock
        },
    )


def _check(have: TopicSpec, want: TopicSpec) -> None:
    """Raises ``TopicMismatch`` unless the topic is as wanted or may be grown to be so.

    Retention is the operator's to change on a running cluster, so it is not compared."""
    for setting, is_now, asked in (
        ("cleanup policy", _policy(have), _policy(want)),
        ("partitions", have.partitions, want.partitions),
    ):
        grows = setting == "partitions" and have.partitions < want.partitions and not have.compacted
        if is_now != asked and not grows:
            raise TopicMismatch(
                f"topic {want.name} has {setting} {is_now}, asked for is {asked}; only more partitions can be "
                "added, and only where it is not compacted: mend the settings, or remove the topic"
            )


def _policy(spec: TopicSpec) -> str:
    return "compact" if spec.compacted else "delete"


def _produce(
    log: KafkaLog,
    producer: ck.Producer,
    message: Message,
    deadline: float,
    on_delivery: Callable[[ck.KafkaError | None, ck.Message], None],
) -> None:
    """Hand one message to the client, waiting for room until ``deadline``. An empty value is sent as none, which
    is how a compacted topic removes a key."""
    log.require(TopicPartition(message.topic, message.partition))
    while True:
        try:
            producer.produce(
                message.topic,
                value=message.value or None,
                key=message.key,
                partition=message.partition,
                on_delivery=on_delivery,
                headers=list(message.headers.items()),
            )
        except BufferError:
            if monotonic_s() > deadline:
                raise LogUnavailable(f"Kafka at {log.servers} does not take records fast enough") from None
            producer.poll(SLICE_S)
        except ck.KafkaException as failure:
            raise log.translate(_error(failure), f"write to {message.topic}/{message.partition}") from failure
        else:
            return


def _bounded(call: Callable[[], None], timeout_s: float) -> None:
    """Run a call of the client that may ignore its own time-out: librdkafka's issues 5456 and 5511, when a
    coordinator goes away. The thread that is left behind then ends with its client, whose successor fences it."""
    outcome: SimpleQueue[ck.KafkaException | None] = SimpleQueue()

    def run() -> None:
        try:
            call()
        except ck.KafkaException as failure:
            outcome.put(failure)
        else:
            outcome.put(None)

    Thread(target=run, daemon=True).start()
    try:
        failure = outcome.get(timeout=timeout_s)
    except Empty:
        raise ck.KafkaException(_E(_E._TIMED_OUT, "the client does not answer", fatal=True)) from None
    if failure is not None:
        raise failure


def _ignore(error: ck.KafkaError | None, written: ck.Message) -> None:
    """A delivery report nobody waits for."""


class KafkaPublisher:
    """A ``Publisher``: idempotent, acknowledged by all in-sync replicas."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self._producer = self._new()

    def _new(self) -> ck.Producer:
        timeout = {"delivery.timeout.ms": int(DELIVERY_S * 1000)}
        return self._log.made(
            ck.Producer, self._log.config({**_PRODUCER, **timeout}, {"enable.idempotence": True})
        )

    def append(self, messages: Sequence[Message]) -> list[int | Exception]:
        unanswered = LogUnavailable(
            f"Kafka at {self._log.servers} has not acknowledged the record within {DELIVERY_S:.0f} s"
        )
        answers: list[int | Exception] = [unanswered] * len(messages)
        deadline = monotonic_s() + DELIVERY_S

        def answer(index: int) -> Callable[[ck.KafkaError | None, ck.Message], None]:
            def told(error: ck.KafkaError | None, written: ck.Message) -> None:
                offset = written.offset()
                if error is not None or offset is None:
                    at = f"write to {written.topic()}/{written.partition()}"
                    answers[index] = self._log.translate(error or _E(_E._FAIL), at)
                else:
                    answers[index] = offset

            return told

        for index, message in enumerate(messages):
            try:
                _produce(self._log, self._producer, message, deadline, answer(index))
            except LogUnavailable as error:
                answers[index:] = [error] * (len(messages) - index)
                break
            except SmartScaleError as error:
                answers[index] = error
        # The client gives up on each record at its delivery time-out, a second later it has told so.
        self._producer.flush(max(0.0, deadline - monotonic_s()) + 1.0)
        if any(isinstance(told, LogUnavailable) for told in answers):
            # After a broker's restart a client may wait for ever for a leader that it does not ask for again; a new one
            # asks. What the old one still holds has been answered: it must not be written behind a retry.
            self._producer.purge()
            self._producer = self._new()
        return answers

    def close(self) -> None:
        """End the connections. Nothing is waited for: every ``append`` has done that."""
        del self._producer


@dataclass(slots=True)
class _Trouble:
    """What the client last said about its connections; None while all is well."""

    down: str | None = None

    def heard(self, error: ck.KafkaError) -> None:
        if error.code() == _E._ALL_BROKERS_DOWN:
            self.down = error.str()


_NOWHERE: Final = TopicPartition("", -1)


class _Intake:
    """Reads records of the partitions in ``reading`` from a consumer, within bounds of time and bytes."""

    def __init__(self, log: KafkaLog, consumer: ck.Consumer, trouble: _Trouble) -> None:
        self._log, self._consumer, self._trouble = log, consumer, trouble
        self._held: deque[ck.Message] = deque()
        self.reading: set[TopicPartition] = set()
        self.ends: set[TopicPartition] = set()

    def read(self, timeout_s: float, max_bytes: int, changed: Callable[[], bool]) -> list[Record]:
        """Records, as soon as there are any; none when an end was reached, ``changed()`` or the time is up."""
        deadline = monotonic_s() + timeout_s
        told, records, total = set(self.ends), list[Record](), 0
        while True:
            if not self._held:
                left_s = deadline - monotonic_s()
                waiting = not records and self.ends <= told and not changed()
                first = self._consumer.poll(max(0.0, min(left_s, SLICE_S)) if waiting else 0.0)
                if first is None:
                    if left_s <= 0 or not waiting:
                        self._probe(records)
                        return records
                    continue
                self._held.append(first)
                self._held.extend(self._consumer.consume(BATCH, 0))
            # A third party's topic brings one event a message: what is the same for messages in a row is looked up once.
            at, wanted = _NOWHERE, False
            while self._held:
                message = self._held[0]
                error = message.error()
                if (message.topic(), message.partition()) != at or error is not None:
                    at = TopicPartition(message.topic() or "", message.partition() or 0)
                    wanted = at in self.reading
                    if error is None and wanted:
                        self.ends.discard(at)
                if error is not None:
                    if error.code() != _E._PARTITION_EOF and records:
                        return records  # told by the next call
                    self._held.popleft()
                    self._event(at, message, error)
                    at = _NOWHERE
                elif not wanted:
                    self._held.popleft()
                else:
                    value = message.value() or b""
                    total += len(value)
                    if records and total > max_bytes:
                        return records
                    self._held.popleft()
                    records.append(
                        Record(
                            at.topic,
                            at.partition,
                            message.offset() or 0,
                            value,
                            message.key(),
                            _headers(message),
                            message.timestamp()[1],
                        )
                    )

    def forget(self, at: TopicPartition) -> None:
        """Stop reading a partition; what has been read ahead of it is dropped."""
        self.reading.discard(at)
        self.ends.discard(at)
        self._held = deque(m for m in self._held if m.error() or (m.topic(), m.partition()) != at)

    def ahead(self, at: TopicPartition) -> int | None:
        """The offset of the first record of ``at`` that was taken from the client but not returned yet."""
        return next(
            (m.offset() for m in self._held if not m.error() and (m.topic(), m.partition()) == at), None
        )

    def _event(self, at: TopicPartition, message: ck.Message, error: ck.KafkaError) -> None:
        code = error.code()
        if code == _E._PARTITION_EOF:
            if at in self.reading:
                self.ends.add(at)
        elif code in _OUT_OF_RANGE:
            if at in self.reading:
                self.forget(at)
                bounds = self._log.bounds([at])[at]
                raise OffsetOutOfRange(
                    f"{at}: offset {message.offset()} is outside the log, which holds {bounds.begin} to {bounds.end}"
                )
        elif code == _E._ALL_BROKERS_DOWN:
            self._trouble.heard(error)
        elif code == _E._MAX_POLL_EXCEEDED:
            _log.warning("no poll for too long: the group has given this member's partitions away")
        else:
            failure = self._log.translate(error, f"read {at}" if at.topic else "read")
            if not isinstance(failure, LogUnavailable):
                raise failure
            _log.warning("%s", failure)

    def _probe(self, records: Sequence[Record]) -> None:
        """After the client has lost every broker: raise ``LogUnavailable`` until one answers again."""
        if self._trouble.down is not None and not records:
            try:
                self._consumer.list_topics(timeout=1.0)
            except ck.KafkaException as failure:
                raise self._log.translate(_error(failure), "read") from failure
            self._trouble.down = None


def _headers(message: ck.Message) -> dict[str, bytes]:
    headers = message.headers()
    if not headers:
        return {}
    pairs = headers.items() if isinstance(headers, dict) else headers
    return {name: value.encode() if isinstance(value, str) else value or b"" for name, value in pairs}


class KafkaReader:
    """A ``Reader``: a consumer that belongs to no group."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        trouble = _Trouble()
        guarantees = {**_READ, "group.id": f"reader-{uuid.uuid4()}", "error_cb": trouble.heard}
        self._consumer: ck.Consumer = log.made(ck.Consumer, log.config(_CONSUMER, {**guarantees, **_CLASSIC}))
        self._trouble = trouble
        self._intake = _Intake(log, self._consumer, trouble)

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        for at in positions:
            self._log.require(at)
        self._consumer.assign([_kafka(at, offset) for at, offset in positions.items()])
        self._intake = _Intake(self._log, self._consumer, self._trouble)
        self._intake.reading = set(positions)

    def poll(self, timeout_s: float, max_bytes: int = 16 << 20) -> Poll:
        records = self._intake.read(timeout_s, max_bytes, lambda: False)
        return Poll(records=records, ends=frozenset(self._intake.ends))

    def close(self) -> None:
        self._consumer.close()


class KafkaWorker:
    """A ``Worker``: a group member and a transactional producer.

    A successor with the same group and slot fences the producer at once: the predecessor's next commit fails
    with ``FatalLogError``. Its partitions come to the successor when the broker's session time-out has passed."""

    def __init__(self, log: KafkaLog, group: str, topics: Sequence[str], slot: str) -> None:
        for topic in topics:
            log.require(TopicPartition(topic, 0))
        self._log, self._group, self._topics, self._slot = log, group, list(topics), slot
        self._broken: FatalLogError | None = None
        self._began_s = monotonic_s()
        self._trouble = _Trouble()
        self._start_producer()
        self._owned: set[TopicPartition] = set()
        self._unplaced: set[TopicPartition] = set()
        self._fresh: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._revoked: set[TopicPartition] = set()
        self._join("")

    def _start_producer(self) -> None:
        """A producer for this slot; whatever one before it had under way has ended when this returns."""
        self._renew = True
        self._producer = self._log.made(
            ck.Producer,
            self._log.config(
                {**_PRODUCER, "compression.type": "lz4"},
                {
                    "transactional.id": f"{self._group}-{self._slot}",
                    "transaction.timeout.ms": int(TRANSACTION_S * 1000),
                    "enable.idempotence": True,
                },
            ),
        )
        try:
            self._producer.list_topics(
                timeout=CALL_S
            )  # a connected client starts transactions without a retry
            self._producer.init_transactions(CALL_S)
        except ck.KafkaException as failure:
            doing = f"start as slot {self._slot} of group {self._group}"
            raise self._log.translate(_error(failure), doing) from failure
        finally:
            self._producer.poll(0)
        self._renew = False

    def _join(self, protocol: str) -> None:
        choice = {"group.protocol": protocol} if protocol else {}
        config = self._log.config(
            _CONSUMER, {**_READ, **choice, "group.id": self._group, "error_cb": self._trouble.heard}
        )
        if config["group.protocol"] == "classic":
            config = {**_CLASSIC, **config}
        self._protocol = config["group.protocol"]
        self._consumer: ck.Consumer = self._log.made(ck.Consumer, config)
        self._intake = _Intake(self._log, self._consumer, self._trouble)
        self._consumer.subscribe(
            self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    # Membership: called by the client from within a poll.

    def _on_assign(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        # Where to read from is known only after the committed positions have been asked for; until then the client
        # fetches nothing. The offset named here is never read from, but it must be a number: the client asks the broker
        # what "the end" is, and repeats that half a second later if a seek came before the answer, so that it would
        # leave the place sought and skip everything up to the end.
        consumer.incremental_assign([_kafka(_ours(at), 0) for at in partitions])
        consumer.pause(partitions)
        self._unplaced |= {_ours(at) for at in partitions}

    def _on_revoke(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        gone = {_ours(at) for at in partitions}
        consumer.resume(partitions)
        consumer.incremental_unassign(partitions)
        self._revoked |= self._lose(gone)
        self._unplaced -= gone

    def _lose(self, gone: Iterable[TopicPartition]) -> set[TopicPartition]:
        """Forget where these partitions were being read; returns those whose assignment had been told."""
        told = self._owned & set(gone)
        self._owned -= told
        for at in told:
            self._fresh.pop(at, None)
            self._intake.forget(at)
            self._paused.discard(at)
        return told

    # The port.

    def poll(self, timeout_s: float, max_bytes: int = 16 << 20) -> Poll:
        self._usable()
        deadline = monotonic_s() + timeout_s
        self._start_reading()
        try:
            records = self._intake.read(timeout_s, max_bytes, lambda: bool(self._unplaced or self._revoked))
        except FatalLogError as error:
            self._fall_back(error)
            return Poll()
        assigned = self._positions(max(PLACE_S, deadline - monotonic_s())) if self._unplaced else {}
        begins = self._log.bounds([at for at, position in assigned.items() if position is None])
        revoked, self._revoked = frozenset(self._revoked), set()
        for at, position in assigned.items():
            self._unplaced.discard(at)
            self._owned.add(at)
            self._fresh[at] = position.offset if position else begins[at].begin
        return Poll(
            records=[record for record in records if record.at in self._intake.reading],
            assigned=assigned,
            revoked=revoked,
            ends=frozenset(self._intake.ends),
        )

    def _fall_back(self, error: FatalLogError) -> None:
        """Join by the older group protocol if that is what the broker's answer asks for."""
        if self._protocol != "consumer" or not any(text in str(error) for text in _NO_KIP848):
            self._broken = error
            raise error
        _log.info("this Kafka does not know the group protocol `consumer` (KIP-848): joining by `classic`")
        self._consumer.close()
        self._join("classic")

    def _positions(self, timeout_s: float) -> dict[TopicPartition, Position | None]:
        """Committed positions of the unplaced partitions. One that a running transaction may still move is left
        out: its owner before this one may have died in the middle, and the broker aborts that in time."""
        try:
            found = self._consumer.committed([_kafka(at) for at in sorted(self._unplaced)], timeout=timeout_s)
        except ck.KafkaException as failure:
            _log.warning("%s", self._log.translate(_error(failure), "read the committed positions"))
            return {}
        return {
            _ours(at): Position(at.offset, at.metadata or "") if at.offset >= 0 else None
            for at in found
            if at.error is None
        }

    def _start_reading(self) -> None:
        for at, offset in list(self._fresh.items()):
            try:
                if at not in self._paused:
                    self._consumer.resume([_kafka(at)])
                self._consumer.seek(_kafka(at, offset))
            except ck.KafkaException as failure:
                if _error(failure).code() != _E._STATE:
                    raise self._log.translate(_error(failure), f"seek {at}") from failure
                # The client has stopped this partition after an error: start it anew.
                self._consumer.incremental_unassign([_kafka(at)])
                self._consumer.incremental_assign([_kafka(at, offset)])
            del self._fresh[at]
            self._intake.reading.add(at)

    def seek(self, at: TopicPartition, offset: int) -> None:
        self._own([at])
        self._intake.forget(at)
        self._fresh[at] = offset

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        wanted = list(partitions)
        self._own(wanted)
        for at in wanted:
            ahead = self._intake.ahead(at)
            if ahead is not None:
                self.seek(at, ahead)
        self._paused |= set(wanted)
        self._consumer.pause([_kafka(at) for at in wanted])

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        wanted = self._paused & set(partitions)
        self._paused -= wanted
        self._consumer.resume([_kafka(at) for at in wanted])

    def _own(self, partitions: Iterable[TopicPartition]) -> None:
        for at in partitions:
            if at not in self._owned:
                raise ValueError(f"{at} is not assigned to this worker")

    def transaction(self) -> KafkaTransaction:
        return KafkaTransaction(self)

    def rewind(self) -> None:
        self._usable()
        if self._renew:
            self._start_producer()
        self._consumer.resume([_kafka(at) for at in self._paused])
        told = self._lose(self._owned)
        self._revoked |= told
        self._unplaced |= told

    def close(self) -> None:
        self._consumer.close()
        del self._producer  # ends its connections and threads

    # The transaction's side.

    def _usable(self) -> None:
        if self._broken is not None:
            raise self._broken

    def begin(self) -> None:
        self._usable()
        if self._renew:
            raise LogUnavailable("a transaction has failed: rewind first")
        self._began_s = monotonic_s()
        try:
            self._producer.begin_transaction()
        except ck.KafkaException as failure:
            raise self._failed(failure, "begin a transaction") from failure

    def send(self, messages: Iterable[Message]) -> None:
        deadline = monotonic_s() + TRANSACTION_S
        for message in messages:
            _produce(
                self._log, self._producer, message, deadline, _ignore
            )  # a failed delivery fails the commit
        self._producer.poll(0)

    def owns(self, at: TopicPartition) -> bool:
        return at in self._owned

    def commit(self, positions: Mapping[TopicPartition, Position]) -> None:
        offsets = [_kafka(at, position.offset, position.metadata) for at, position in positions.items()]
        try:
            if offsets:
                member = self._consumer.consumer_group_metadata()
                producer = self._producer
                _bounded(lambda: producer.send_offsets_to_transaction(offsets, member, CALL_S), CALL_S + 2)
            self._producer.commit_transaction(COMMIT_S)
        except ck.KafkaException as failure:
            doing = f"commit as slot {self._slot} of group {self._group}"
            raise self._failed(failure, doing) from failure

    def abort(self) -> None:
        """Undo what was sent. Where that fails, the next producer of this slot does it, or the time-out."""
        try:
            self._producer.abort_transaction(CALL_S)
        except ck.KafkaException as failure:
            error = _error(failure)
            _log.warning("a transaction was not aborted in order: %s", error.str())
            self._renew = True
            if self._succeeded(error):
                self._broken = FatalLogError(str(self._log.translate(error, "abort a transaction")))

    def _failed(self, failure: ck.KafkaException, doing: str) -> SmartScaleError:
        """The error to raise. What was sent is aborted, or settled by the producer that ``rewind`` starts."""
        error = _error(failure)
        translated = self._log.translate(error, doing)
        if not error.fatal():
            self.abort()
        elif self._succeeded(error) or error.code() in _REFUSED:
            self._broken = FatalLogError(str(translated))
            return self._broken
        else:  # the client gave up; a new one can go on, since positions are read again
            self._renew = True
            return LogUnavailable(str(translated))
        return translated

    def _succeeded(self, error: ck.KafkaError) -> bool:
        """Whether another process has taken the slot. The broker fences in the same words the writer of a
        transaction that it has aborted for its age; only the age tells them apart."""
        return error.code() in _SUCCEEDED and monotonic_s() - self._began_s < TRANSACTION_S


class KafkaTransaction:
    """A ``Transaction`` of a ``KafkaWorker``: the numbered protocol at the head of this module."""

    def __init__(self, worker: KafkaWorker) -> None:
        self._worker = worker
        self._positions: dict[TopicPartition, Position] = {}

    def publish(self, messages: Iterable[Message]) -> None:
        self._worker.send(messages)

    def commit_positions(self, positions: Mapping[TopicPartition, Position]) -> None:
        for at, position in positions.items():
            if len(position.metadata.encode()) > MAX_METADATA_BYTES:
                raise ValueError(f"{at}: metadata of a position is at most {MAX_METADATA_BYTES} bytes")
            if not self._worker.owns(at):
                raise Fenced(f"{at} is not assigned to this worker, or no longer")
        self._positions.update(positions)

    def __enter__(self) -> Self:
        self._worker.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._worker.commit(self._positions)
        else:
            self._worker.abort()
