"""The ml stage: reads ``metrics``, publishes ``forecasts`` and ``incidents``.

The transaction, per poll that brought records:

1. move the state of each partition through its records (in memory);
2. publish forecasts, incidents and dead letters to the partition of the same number (all these topics are
   partitioned alike), and, every ``ml.snapshot_s``, the state to ``ml-state``;
3. commit the position of every partition read.

A crash before 3 leaves nothing behind. The successor reads the newest snapshot of the partition, goes back to the
offset it covers, and moves through the records up to the committed position in silence: they were answered
already. From there on it publishes what the predecessor would have published (``partition``: the state depends on the
records alone). A failed transaction is treated as a crash of the state, not of the process.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import numpy as np
from prometheus_client import Counter, Gauge, Histogram

from smartscale import calendars
from smartscale.clock import monotonic_s
from smartscale.errors import SchemaError
from smartscale.log.partitioner import service_key
from smartscale.log.port import Message, Poll, Position, Record, TopicPartition, Worker
from smartscale.ml import snapshot
from smartscale.ml.anomaly import feedback
from smartscale.ml.forecast import pool
from smartscale.ml.forecast.boosting import Trainer
from smartscale.ml.partition import STANDING, Models, Outcome, State
from smartscale.ml.series.rows import read, window_label
from smartscale.records import dead_letters, forecasts, metrics, past, people, schema, topics
from smartscale.records.people import Feedback, Mute, Unmute
from smartscale.stage import Context, keep_working

log = logging.getLogger(__name__)

GROUP: Final = "ml"
POLL_S: Final = 0.25
"""Real. How long a poll waits for records: also how soon a stop is noticed."""
PAYLOAD_BYTES: Final = 64 << 10
SNAPSHOT_BYTES_PER_S: Final = 2 << 20
"""Snapshots come less often than ``ml.snapshot_s`` where they would write more than this: a restart then replays a few steps
more. Chosen as a hundredth of what a disk or a broker takes."""
QUANTILES: Final = (0.1, 0.5, 0.9)
"""Of live coverage, skill and influence over all series: a fixed number of gauges, however many series there are."""


class Telemetry:
    """What this process tells Prometheus."""

    def __init__(self, context: Context) -> None:
        registry = context.health.registry
        self.series = Gauge("smartscale_ml_series", "Series that are forecast", registry=registry)
        self.open = Gauge("smartscale_ml_incidents_open", "Incidents open now", registry=registry)
        self.coverage = Gauge(
            "smartscale_ml_coverage_ratio",
            "Share of truths inside the 90 % band lately, mean over series",
            registry=registry,
        )
        self.standing = Gauge(
            "smartscale_ml_standing",
            "Live coverage of the 90 % band, skill (1 - loss / naive loss) and influence: quantiles over series",
            ["of", "quantile"],
            registry=registry,
        )
        self.told = Counter(
            "smartscale_ml_incident_records",
            "Incident records published (opened, changed, closed)",
            ["class"],
            registry=registry,
        )
        self.silenced = Counter(
            "smartscale_ml_incident_records_silenced",
            "Incident records published that people were not to be told of",
            registry=registry,
        )
        self.snapshot = Counter(
            "smartscale_ml_snapshot_bytes", "Bytes of snapshots written to the log", registry=registry
        )
        self.bad = Counter("smartscale_ml_bad_rows", "Rows that could not be read", registry=registry)
        self.seconds = Histogram(
            "smartscale_ml_advance_seconds",
            "Real seconds to move a partition through one progress record",
            registry=registry,
        )


@dataclass(slots=True)
class Held:
    """A partition this process owns. Records before ``answered`` are replayed in silence; ``next`` is the next
    offset to be read."""

    models: Models
    state: State
    answered: int
    next: int
    saved: snapshot.Saved
    save_at_s: float
    """Real time before which no snapshot is written."""


def run(context: Context) -> None:
    """Forecast and watch every service whose metrics this process owns, until ``context.stop`` is set.

    Raises ``PermanentError`` if the log or a snapshot can never be read; ``RetryableError`` is handled here."""
    keep_working(context, GROUP, [topics.METRICS], Stage(context).turn)


class Stage:
    """One process of the stage: the partitions it holds, and one turn of its work."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.ml = context.settings.ml
        self.window = window_label(self.ml.step_s)
        self.held: dict[int, Held] = {}
        self.telemetry = Telemetry(context)
        pool.enrol(self.ml.methods)
        self.trainer = Trainer() if self.ml.boosting else None

    def turn(self, worker: Worker) -> None:
        """One poll and, if it brought something new, one transaction."""
        poll = worker.poll(POLL_S)
        self._own(worker, poll)
        outputs: list[Message] = []
        moved: set[int] = set()
        for record in poll.records:
            held = self.held[record.partition]
            messages = self._move(held, record)
            held.next = record.offset + 1
            if record.offset >= held.answered:
                outputs += messages
                moved.add(record.partition)
        if moved:
            self._commit(worker, outputs, moved)
        self._observe()

    def _own(self, worker: Worker, poll: Poll) -> None:
        for at in poll.revoked:
            self.held.pop(at.partition, None)
        for at, position in poll.assigned.items():
            held = self._recover(at, position)
            self.held[at.partition] = held
            worker.seek(at, held.next)

    def _recover(self, at: TopicPartition, position: Position | None) -> Held:
        """The newest snapshot, and how far from it the replay is silent."""
        models = self._models(at.partition)
        records = partial(self._snapshot, at.partition)
        beginning = snapshot.small(records)
        found = snapshot.restore(models, at.partition, beginning, records)
        state, covered, saved = found if found is not None else (models.fresh(), 0, snapshot.Saved())
        snapshot.restore_people(state, at.partition, beginning)
        begin = self.context.log.bounds([at])[at].begin
        start = max(covered, begin)
        if found is not None and begin > covered:
            log.warning(
                "ml: %s lost offsets %d to %d to retention before they were learned", at, covered, begin
            )
        answered = max(covered, position.offset if position is not None else 0)
        log.info("ml takes %s: snapshot to %d, replay to %d", at, covered, answered)
        return Held(models, state, answered, start, saved, monotonic_s() + self.ml.snapshot_s)

    def _snapshot(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of every record of the partition's snapshots, in order."""
        at = TopicPartition(topics.ML_STATE, partition)
        bounds = self.context.log.bounds([at])[at]
        if bounds.begin == bounds.end:
            return
        reader = self.context.log.reader()
        try:
            reader.assign({at: bounds.begin})
            ended = False
            while not ended:
                poll = reader.poll(POLL_S)
                yield from ((r.key, r.value) for r in poll.records if r.key is not None)
                ended = at in poll.ends
        finally:
            reader.close()

    def _models(self, partition: int) -> Models:
        """The plan for a partition, with its share of the alert budget: the shares add up to the whole."""
        count = self.context.settings.topics.partials
        whole, rest = divmod(self.ml.alerts_per_day, count)
        share = whole + (partition < rest)
        telling = feedback.Plan(partition, share, self.ml.zone, self.ml.mutes())
        ml = self.ml
        return Models(ml.step_s, ml.horizon_steps, ml.history_steps, telling, self.trainer, ml.calendars)

    def _move(self, held: Held, record: Record) -> list[Message]:
        """Move the partition's state by one record."""
        try:
            name = schema.schema_of(record.headers)
            if name == schema.METRIC:
                row = read(record.value, self.window)
                if row is not None:
                    held.models.take(held.state, row)
                return []
            if name in people.DECODERS:
                return self._hear(held, record, name)
            if name == schema.PAST:
                held.models.take_past(held.state, _past(record.value))
                return []
            if name != schema.PROGRESS:
                raise SchemaError(f"a record of schema {name!r} does not belong to {record.topic}")
            progress = _progress(record.value)
        except SchemaError as error:
            self.telemetry.bad.inc()
            log.warning("ml sets aside %s offset %d: %s", record.at, record.offset, error)
            return [_dead_letter(record, error)]
        with self.telemetry.seconds.time():
            outcome = held.models.advance(held.state, progress)
        self._tell(held, record, outcome)
        return list(_messages(record.partition, outcome))

    def _hear(self, held: Held, record: Record, name: str) -> list[Message]:
        """Take in what somebody said, and put it beside the incidents it is about. Raises ``SchemaError``."""
        try:
            said = people.DECODERS[name](record.value)
        except msgspec.MsgspecError as error:
            raise SchemaError(f"a record of schema {name!r} cannot be read: {error}") from error
        if (wrong := _wrong(said)) is not None:
            raise SchemaError(f"a record of schema {name!r} makes no sense: {wrong}")
        held.models.hear(held.state, said)
        return [Message(topics.INCIDENTS, record.partition, record.value, record.key, schema.headers(name))]

    def _commit(self, worker: Worker, outputs: list[Message], moved: Iterable[int]) -> None:
        now_s = monotonic_s()
        positions: dict[TopicPartition, Position] = {}
        saved: dict[int, snapshot.Saved] = {}
        for partition in moved:
            held = self.held[partition]
            positions[TopicPartition(topics.METRICS, partition)] = Position(held.next)
            if now_s >= held.save_at_s:
                saved[partition], records = snapshot.save(
                    held.models, held.state, held.next, partition, held.saved
                )
                size = sum(len(value) for value in records.values())
                held.save_at_s = now_s + max(self.ml.snapshot_s, size / SNAPSHOT_BYTES_PER_S)
                self.telemetry.snapshot.inc(size)
                outputs += [
                    Message(topics.ML_STATE, partition, value, key, schema.headers(schema.SNAPSHOT))
                    for key, value in records.items()
                ]
        with worker.transaction() as transaction:
            transaction.publish(outputs)
            transaction.commit_positions(positions)
        for partition, held_now in saved.items():
            self.held[partition].saved = held_now

    def _tell(self, held: Held, record: Record, outcome: Outcome) -> None:
        if record.offset < held.answered:
            return
        for tenant, service, series in outcome.imported:
            log.info("ml: %s/%s takes up the imported past of its %s", tenant, service, series)
        for incident in outcome.incidents:
            closed = "" if incident.end_us is None else " (closed)"
            log.info(
                "incident %s of %s, %s%s", incident.id, incident.tenant, forecasts.headline(incident), closed
            )
            self.telemetry.told.labels(incident.class_).inc()
            if not incident.notify:
                self.telemetry.silenced.inc()
        for notice in outcome.notices:
            log.warning("%s", notice.text)

    def _observe(self) -> None:
        states = [held.state for held in self.held.values()]
        self.telemetry.series.set(sum(1 for state in states for _ in state.who.known()))
        self.telemetry.open.set(sum(t.open is not None for state in states for t in state.tracks.values()))
        standings = [held.models.standing(held.state) for held in self.held.values()]
        for of in STANDING:
            known = np.concatenate([standing[of] for standing in standings]) if standings else np.empty(0)
            known = known[~np.isnan(known)]
            if of == "coverage" and len(known):
                self.telemetry.coverage.set(float(known.mean()))
            for quantile in QUANTILES if len(known) else ():
                value = float(np.quantile(known, quantile))
                self.telemetry.standing.labels(of, f"{quantile:g}").set(value)


def _wrong(said: Feedback | Mute | Unmute) -> str | None:
    match said:
        case Mute():
            return calendars.problem(said)
        case Feedback(said=word) if word not in people.SAID:
            return f"said: {word!r} is none of {', '.join(people.SAID)}"
        case _:
            return None


def _past(value: bytes) -> past.PastPart:
    try:
        return past.decode(value)
    except msgspec.MsgspecError as error:
        raise SchemaError(f"an imported past cannot be read: {error}") from error


def _progress(value: bytes) -> metrics.Progress:
    try:
        return metrics.decode_progress(value)
    except msgspec.MsgspecError as error:
        raise SchemaError(f"a progress record cannot be read: {error}") from error


def _messages(partition: int, outcome: Outcome) -> Iterable[Message]:
    for (tenant, service, _), value in outcome.forecasts.encoded():
        key = service_key(tenant, service)
        yield Message(topics.FORECASTS, partition, value, key, schema.headers(schema.FORECAST))
    for incident in outcome.incidents:
        key = service_key(incident.tenant, incident.service)
        value = forecasts.encode(incident)
        yield Message(topics.INCIDENTS, partition, value, key, schema.headers(schema.INCIDENT))
    for notice in outcome.notices:
        value = people.encode(notice)
        yield Message(topics.INCIDENTS, partition, value, headers=schema.headers(schema.NOTICE))


def _dead_letter(record: Record, error: SchemaError) -> Message:
    """It stands for no event: those were counted before they became this row."""
    letter = dead_letters.DeadLetter(
        reason=dead_letters.UNREADABLE,
        stage=GROUP,
        detail=str(error),
        count=0,
        time_us=record.timestamp_ms * 1000,
        source=str(record.at),
        offset=record.offset,
        payload=base64.b64encode(record.value[:PAYLOAD_BYTES]).decode(),
    )
    value = dead_letters.encode(letter)
    return Message(
        topics.DEAD_LETTERS, record.partition, value, record.key, schema.headers(schema.DEAD_LETTER)
    )
