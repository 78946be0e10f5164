"""The one thread that decodes and writes: it gathers the bodies that have come in, makes columns of them, appends these to
the log, and tells how that went.

While one round is under way, the next one's bodies gather; so rounds grow with the load, and what a round costs is shared. A
failed round is given back to the clients (503), who send it again with the same ids.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram

from smartscale.clock import Clock, monotonic_s
from smartscale.errors import FatalLogError, SmartScaleError, UnknownTopic
from smartscale.ingest.batching import Packed, Packing, pack
from smartscale.ingest.decode import Events, Job, Outcome, Rules, decode, warm_up
from smartscale.ingest.identities import Recent
from smartscale.ingest.limits import Screen
from smartscale.ingest.refused import Letters, Refused, messages
from smartscale.log.layout import Spread
from smartscale.log.port import Log, Message, Publisher
from smartscale.records import schema, topics
from smartscale.records.events import Heartbeat
from smartscale.telemetry.health import Health

ROUND_BYTES: Final = 4 << 20
"""Bytes of bodies that one round takes up at most, or one body alone; chosen as some 20,000 events, so that records are full
and a round takes a twentieth of a second."""


class Writer(threading.Thread):
    """Writes jobs and heartbeats. Only ``put``, ``beat`` and ``close`` may be called from other threads.

    ``report`` gets every job exactly once, also those that come to nothing because the thread has ended; then
    ``failure`` says why, if it was an error. ``ended`` is called at the end."""

    def __init__(
        self,
        log: Log,
        clock: Clock,
        health: Health,
        rules: Rules,
        packing: Packing,
        screen: Screen,
        letters: Letters,
        linger_s: float,
        report: Callable[[Sequence[Outcome]], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__(name="writer", daemon=True)
        self.failure: Exception | None = None
        self._log, self._clock, self._health = log, clock, health
        self._rules, self._packing, self._screen, self._letters = rules, packing, screen, letters
        self._linger_s, self._report, self._on_end = linger_s, report, ended
        self._recent = Recent()
        self._metrics = _Metrics(health.registry)
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._bytes = 0
        self._first_s = 0.0
        self._heartbeat: Heartbeat | None = None
        self._closing = False
        self._ended = False
        self._publisher: Publisher | None = None
        self._partitions = 0
        """Over which ids are spread; ``events`` may have more by now, which get heartbeats."""
        self._beaten = 0
        self._letter_partitions = 0
        self._spread = Spread(log)
        self._turn = 0

    def put(self, job: Job) -> None:
        """Take a job; the caller has bounded how many there are."""
        with self._changed:
            if not self._ended:
                if not self._jobs:
                    self._first_s = monotonic_s()
                self._jobs.append(job)
                self._bytes += len(job.body)
                if (
                    len(self._jobs) == 1 or self._bytes >= ROUND_BYTES
                ):  # waking it for each would cost more than the rest
                    self._changed.notify()
                return
        self._report([_given_back(job, self.failure)])

    def beat(self, heartbeat: Heartbeat) -> None:
        """Write this heartbeat with the next round; it replaces one that still waits."""
        with self._changed:
            self._heartbeat = heartbeat
            self._changed.notify()

    def close(self) -> None:
        """Write what is there and end."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def run(self) -> None:
        try:
            warm_up(self._rules)  # before this process calls itself ready
            while self._round():
                pass
        except Exception as error:  # noqa: BLE001 -- told to whoever waits, then to the service, which raises it
            self.failure = error
        finally:
            if self._publisher is not None:
                self._publisher.close()
            self._spread.close()
            with self._changed:
                left, self._jobs = list(self._jobs), deque()
                self._ended = True
            self._report([_given_back(job, self.failure) for job in left])
            self._on_end()

    def _round(self) -> bool:
        """Write once; False if there is nothing more to come."""
        jobs, heartbeat = self._gather()
        if not jobs and heartbeat is None:
            return False
        try:
            outcomes = self._process(jobs, heartbeat)
        except Exception as error:
            self._report([_given_back(job, error) for job in jobs])
            raise
        self._report(outcomes)
        return True

    def _process(self, jobs: Sequence[Job], heartbeat: Heartbeat | None) -> list[Outcome]:
        """What became of the jobs, but for those that are left for the next round. Raises what ends the process."""
        found, outcomes = decode(jobs, self._rules, 2 * ROUND_BYTES)
        if len(outcomes) < len(jobs):
            heartbeat = self._put_back(jobs[len(outcomes) :], heartbeat)
        found = self._screen.kept(found, outcomes, monotonic_s())
        repeats = self._recent.repeats(found.identities)
        if len(repeats):
            for place in repeats.tolist():
                outcome = outcomes[found.owners[place]]
                outcome.repeats = [*outcome.repeats, int(found.places[place])]
            found = found.take(np.setdiff1d(np.arange(len(found)), repeats))
        self._write(found, outcomes, heartbeat)
        return outcomes

    def _put_back(self, jobs: Sequence[Job], heartbeat: Heartbeat | None) -> Heartbeat | None:
        """Leave these to the next round; the heartbeat that may be written now."""
        with self._changed:
            self._jobs.extendleft(reversed(jobs))
            self._bytes += sum(len(job.body) for job in jobs)
            if heartbeat is not None and heartbeat.leaving:
                self._heartbeat, heartbeat = heartbeat, None
        return heartbeat

    def _gather(self) -> tuple[list[Job], Heartbeat | None]:
        """What there is to write; waits for the first of it, and then a little for more."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._heartbeat or self._closing)
            if self._jobs:
                linger_s = self._first_s + self._linger_s - monotonic_s()
                self._changed.wait_for(
                    lambda: self._bytes >= ROUND_BYTES or self._closing, max(0.0, linger_s)
                )
            jobs: list[Job] = []
            taken = 0
            while self._jobs and (not jobs or taken + len(self._jobs[0].body) <= ROUND_BYTES):
                jobs.append(self._jobs.popleft())
                taken += len(jobs[-1].body)
            self._bytes -= taken
            self._first_s = monotonic_s()
            if self._jobs and self._heartbeat is not None and self._heartbeat.leaving:
                return jobs, None  # it must be the last thing that this process writes
            heartbeat, self._heartbeat = self._heartbeat, None
        return jobs, heartbeat

    def _write(self, found: Events, outcomes: Sequence[Outcome], heartbeat: Heartbeat | None) -> None:
        """Append; outcomes get the errors of what is not durable. Raises what ends the process."""
        try:
            publisher = self._connected(refresh=heartbeat is not None)
            packed = self._packed(found)
            beats = [] if heartbeat is None else _heartbeats(heartbeat, self._beaten)
            letters = self._told(outcomes, last=heartbeat is not None and heartbeat.leaving)
            if not packed and not beats and not letters:
                return
            with self._metrics.append_seconds.time():
                answers = publisher.append([record.message for record in packed] + letters + beats)
        except FatalLogError:
            raise
        except SmartScaleError as error:
            self._health.not_ready(str(error))
            for owner in np.unique(found.owners).tolist():
                outcomes[owner].error = error
            return
        failed = [answer for answer in answers if isinstance(answer, Exception)]
        for answer in failed:
            if isinstance(answer, FatalLogError) or not isinstance(answer, SmartScaleError):
                raise answer
        if failed:
            self._health.not_ready(str(failed[0]))
        else:
            self._health.ready()
        self._metrics.wrote(packed)
        for record, written in zip(packed, answers, strict=False):
            if isinstance(written, Exception):
                for owner in np.unique(found.owners[record.chosen]).tolist():
                    outcomes[owner].error = written
            else:
                self._recent.add(found.identities.take(record.chosen))

    def _connected(self, refresh: bool) -> Publisher:
        if refresh or not self._partitions:
            known = self._log.topics()
            found = known.get(topics.EVENTS)
            if found is None or topics.DEAD_LETTERS not in known:
                raise UnknownTopic(
                    "the log lacks the topics 'events' and 'dead-letters': run `smartscale topics`"
                )
            self._beaten = found.partitions
            self._letter_partitions = known[topics.DEAD_LETTERS].partitions
            self._partitions = self._spread.partitions() or found.partitions
        if self._publisher is None:
            self._publisher = self._log.publisher()
        return self._publisher

    def _told(self, outcomes: Sequence[Outcome], last: bool) -> list[Message]:
        """Letters about what is refused. They are written beside the round, whatever becomes of its events."""
        refused = (
            Refused(outcome.job.tenant, refusal.code, refusal.reason, refusal.payload)
            for outcome in outcomes
            for refusal in outcome.refused
        )
        letters = self._letters.take(refused, self._clock.now_us(), monotonic_s(), last)
        self._metrics.letters.inc(len(letters))
        return messages(letters, self._letter_partitions)

    def _packed(self, found: Events) -> list[Packed]:
        if not len(found):
            return []
        packed, self._turn = pack(found, self._packing, self._partitions, self._turn, self._clock.now_us())
        return packed


def _given_back(job: Job, cause: Exception | None) -> Outcome:
    return Outcome(job, error=FatalLogError(f"the writer has ended: {cause or 'this process is stopping'}"))


def _heartbeats(heartbeat: Heartbeat, partitions: int) -> list[Message]:
    value = msgspec.json.encode(heartbeat)
    headers = schema.headers(schema.HEARTBEAT, process=heartbeat.process)
    return [Message(topics.EVENTS, p, value, headers=headers) for p in range(partitions)]


class _Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.append_seconds = Histogram(
            "smartscale_ingest_append_seconds", "Time to make a round durable", registry=registry
        )
        self.records = Counter("smartscale_ingest_records", "Records of events written", registry=registry)
        self.bytes = Counter("smartscale_ingest_record_bytes", "Bytes of these records", registry=registry)
        self.letters = Counter(
            "smartscale_ingest_dead_letters", "Letters about refused events", registry=registry
        )

    def wrote(self, packed: Sequence[Packed]) -> None:
        self.records.inc(len(packed))
        self.bytes.inc(sum(len(record.message.value) for record in packed))
