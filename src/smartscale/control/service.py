"""The control stage: metrics, forecasts and incidents in, decisions out, and the actuators called.

One member of the group ``control`` owns partition p of ``metrics`` and with it every policy whose service falls in
p; it alone writes ``decisions/p``. Forecasts and incidents of those services are in partition p of their topics,
read by a free-standing reader: partitions of three topics in one group could have different owners.

On assignment of p:

1. ``decisions/p`` is read back: the highest epoch, and each policy's last decision, which gives its state;
2. a transaction publishes an ``owner`` record with the next epoch and commits the position of ``metrics/p``. It
   fails (``Fenced``) if p has another owner by now. A crash before it leaves nothing behind; after it, the
   successor sees the epoch and takes a higher one;
3. ``metrics/p`` is read on from two minutes ago: older rows need no decision. Until its end has been reached once,
   nothing is scaled in.

Each evaluation, every ``control.interval_s`` of world time:

1. the actuators are asked for their fleets (bounded wait; no answer is no evidence, and nothing is scaled in);
2. ``decide`` for every policy, pure;
3. one transaction publishes the decisions and commits the positions; if it fails nothing has happened, states are
   as before, and the partitions are assigned anew;
4. only then the actuators are asked to act. A crash between 3 and 4 loses the action, not the decision; the next
   evaluation decides from the fleet as it is. Actuators refuse what is expired or of a lower epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from prometheus_client import Counter, Gauge

from smartscale.actuators.dry_run import DryRunActuator
from smartscale.actuators.port import Actuator
from smartscale.actuators.processes import ProcessActuator
from smartscale.clock import MICROS, wall_ms
from smartscale.control.decide import Observation, State, after, decide
from smartscale.control.evidence import Evidence
from smartscale.control.lanes import Answer, Lanes
from smartscale.control.policy import Loaded, Policy, reload
from smartscale.errors import SchemaError
from smartscale.log.partitioner import service_key, service_partition
from smartscale.log.port import Log, Message, Position, Record, TopicPartition, Worker
from smartscale.records import decisions, forecasts, metrics, schema, topics
from smartscale.records.decisions import Decision, Owner
from smartscale.sample import replica
from smartscale.stage import Context, keep_working

log = logging.getLogger(__name__)

GROUP: Final = "control"
RECENT_S: Final = 120.0
"""Real. Metrics and forecasts this old are read again on assignment: more than any pipeline's delay."""
INCIDENTS_S: Final = 86_400.0
"""Real. Incidents opened longer ago than this are no longer found on assignment; ml closes or renews them sooner."""
BACK_S: Final = (600.0, 86_400.0)
"""Real. How far ``decisions`` is read back for the epoch, in growing steps and then to its beginning."""
OBSERVE_S: Final = 1.0
"""Real. How long an evaluation waits for the actuators."""
POLL_S: Final = 0.2
"""Real. Longest wait for metrics; a stop is noticed within it."""
STALE_FLOOR_S: Final = 5.0
"""Real. Metrics are never stale before this, however fast the clock runs: the pipeline itself takes a second or two."""
VALID_FLOOR_S: Final = 5.0
"""Real. A decision can be carried out at least this long, which covers a slow actuator."""


class _Owned:
    """One partition that this process decides for."""

    def __init__(self, epoch: int, last: dict[str, Decision]) -> None:
        self.epoch = epoch
        self.last = last
        """Decisions read back whose policy has not been evaluated since."""
        self.states: dict[str, State] = {}
        self.evidence = Evidence()
        self.caught_up = False

    def state(self, policy: Policy) -> State:
        """The policy's state, rebuilt from its last decision if need be."""
        known = self.states.get(policy.name)
        if known is not None:
            return known
        previous = self.last.get(policy.name)
        if previous is None:
            return State()
        try:
            return after(policy, previous)
        except msgspec.MsgspecError as error:
            log.error("decision %s cannot be read back: %s; its state starts anew", previous.id, error)
            return State()


def run(context: Context, actuators: Mapping[str, Actuator] | None = None) -> None:
    """Decide and act until ``context.stop`` is set. ``actuators`` by ``scaleTargetRef.kind``; default: all there are."""
    if actuators is None:
        sample = context.settings.sample
        actuators = {
            "Processes": ProcessActuator(
                Path(sample.directory) / "replicas", context.clock, replica.command(sample, context.clock)
            ),
            "DryRun": DryRunActuator(context.clock),
        }
    controller = _Controller(context, Lanes(actuators))
    try:
        keep_working(context, GROUP, [topics.METRICS], controller.turn)
    finally:
        controller.close()


class _Controller:
    def __init__(self, context: Context, lanes: Lanes) -> None:
        self._context = context
        self._clock, self._log, self._settings = context.clock, context.log, context.settings.control
        self._lanes = lanes
        self._reader = context.log.reader()
        self._partitions = context.log.topics()[topics.METRICS].partitions
        self._positions: dict[TopicPartition, int] = {}
        """Next offset of each owned partition of ``metrics``."""
        self._side: dict[TopicPartition, int] = {}
        """Next offset of each partition of forecasts and incidents."""
        self._owned: dict[int, _Owned] = {}
        self._policies: dict[int, list[Policy]] = {}
        self._loaded = Loaded([], [])
        self._signature: object = None
        self._due_us = 0
        registry = context.health.registry
        self._decided = Counter(
            "smartscale_control_decisions", "Decisions published", ["policy", "reason"], registry=registry
        )
        self._replicas = Gauge(
            "smartscale_control_replicas", "Replicas by policy", ["policy", "which"], registry=registry
        )
        self._unreadable = Counter(
            "smartscale_control_unreadable_records", "Input records skipped", ["topic"], registry=registry
        )
        self._problems = Gauge(
            "smartscale_control_policy_problems", "Mistakes in policy files", registry=registry
        )

    def close(self) -> None:
        self._lanes.close()
        self._reader.close()

    def turn(self, worker: Worker) -> None:
        """Read what there is; evaluate if it is time."""
        wait_s = (
            self._clock.to_real_s((self._due_us - self._clock.now_us()) / MICROS) if self._owned else POLL_S
        )
        poll = worker.poll(min(max(wait_s, 0.0), POLL_S))
        for at in poll.revoked:
            self._owned.pop(at.partition, None)
            self._positions.pop(at, None)
        for at, committed in poll.assigned.items():
            self._take_over(worker, at, committed)
        for record in poll.records:
            # Rows read again on assignment lie before the committed position, which never goes back.
            self._positions[record.at] = max(self._positions[record.at], record.offset + 1)
            self._absorb(record)
        for at in poll.ends:
            if at.partition in self._owned:
                self._owned[at.partition].caught_up = True
        self._read_aside()
        if self._owned and self._clock.now_us() >= self._due_us:
            self._due_us = self._clock.now_us() + round(self._settings.interval_s * MICROS)
            self._evaluate(worker)

    def _take_over(self, worker: Worker, at: TopicPartition, committed: Position | None) -> None:
        """Steps 1 to 3 of an assignment (see the module)."""
        partition = at.partition
        epoch, last = read_back(self._log, partition)
        now_ms = wall_ms()
        recent = self._log.offset_at(at, now_ms - round(RECENT_S * 1000))
        owner = Owner(partition, epoch + 1, f"{GROUP}-{self._context.slot}", self._clock.now_us())
        claim = Message(
            topics.DECISIONS, partition, decisions.encode(owner), headers=schema.headers(schema.OWNER)
        )
        with worker.transaction() as transaction:
            transaction.publish([claim])
            transaction.commit_positions({at: committed or Position(recent)})
        worker.seek(at, recent)
        self._positions[at] = max(recent, committed.offset if committed else 0)
        self._owned[partition] = _Owned(epoch + 1, last)
        self._owned[partition].evidence.want(self._policies.get(partition, []))
        log.info(
            "partition %d is this controller's, epoch %d, %d policies known", partition, epoch + 1, len(last)
        )
        for topic, span_s in ((topics.FORECASTS, RECENT_S), (topics.INCIDENTS, INCIDENTS_S)):
            side = TopicPartition(topic, partition)
            self._side[side] = self._log.offset_at(side, now_ms - round(span_s * 1000))
        self._side = {side: offset for side, offset in self._side.items() if side.partition in self._owned}
        self._reader.assign(self._side)

    def _read_aside(self) -> None:
        """Forecasts and incidents that are there."""
        while self._side:
            poll = self._reader.poll(0.0)
            for record in poll.records:
                self._side[record.at] = record.offset + 1
                self._absorb(record)
            if not poll.records:
                return

    def _absorb(self, record: Record) -> None:
        """Add a record to the evidence. One that cannot be read is told and skipped."""
        owned = self._owned.get(record.partition)
        if owned is None:
            return
        try:
            match schema.schema_of(record.headers):
                case schema.METRIC:
                    owned.evidence.add_row(metrics.decode_row(record.value))
                case schema.FORECAST:
                    owned.evidence.add_forecast(forecasts.decode_forecast(record.value))
                case schema.INCIDENT:
                    owned.evidence.add_incident(forecasts.decode_incident(record.value))
        except (SchemaError, msgspec.MsgspecError) as error:
            self._unreadable.labels(record.topic).inc()
            log.error("%s offset %d is skipped: %s", record.at, record.offset, error)

    def _evaluate(self, worker: Worker) -> None:
        """Steps 1 to 4 of an evaluation (see the module)."""
        self._reload()
        mine = [(p, policy) for p in sorted(self._owned) for policy in self._policies.get(p, [])]
        fleets = self._lanes.observe([policy.spec.scale_target_ref for _, policy in mine], OBSERVE_S)
        decided: list[tuple[int, Policy, State, Decision]] = []
        for partition, policy in mine:
            owned, ref = self._owned[partition], policy.spec.scale_target_ref
            seen = self._observation(owned, policy, fleets[ref.kind, ref.name])
            decided.append((partition, policy, *decide(policy, owned.state(policy), seen)))
        with worker.transaction() as transaction:
            transaction.publish(
                Message(
                    topics.DECISIONS,
                    partition,
                    decisions.encode(decision),
                    key=service_key(decision.tenant, decision.service),
                    headers=schema.headers(schema.DECISION),
                )
                for partition, _, _, decision in decided
            )
            transaction.commit_positions({at: Position(offset) for at, offset in self._positions.items()})
        for partition, policy, state, decision in decided:
            self._owned[partition].states[policy.name] = state
            self._decided.labels(policy.name, decision.reason.partition(":")[0]).inc()
            self._replicas.labels(policy.name, "current").set(decision.current)
            self._replicas.labels(policy.name, "desired").set(decision.desired)
            if decision.act:
                self._lanes.apply(policy.spec.scale_target_ref, decision)

    def _observation(self, owned: _Owned, policy: Policy, answer: Answer) -> Observation:
        fleet = answer.fleet
        real_s = 1 / self._clock.to_real_s(1.0)
        interval_s = self._settings.interval_s
        return Observation(
            now_us=self._clock.now_us(),
            epoch=owned.epoch,
            interval_s=interval_s,
            stale_after_s=max(self._settings.stale_s, STALE_FLOOR_S * real_s),
            valid_for_s=max(2 * interval_s, VALID_FLOOR_S * real_s),
            rebuilt=owned.caught_up,
            current=None if fleet is None else fleet.desired,
            ready=0 if fleet is None else fleet.ready,
            demand=owned.evidence.demand(policy.spec),
            forecast=owned.evidence.peaks(policy.spec),
            incidents=owned.evidence.open_incidents(policy.spec),
            lead_time_s=None if fleet is None else fleet.lead_time_s,
            actuator_error=answer.error,
        )

    def _reload(self) -> None:
        """Read the policies again if a file has changed, come or gone; tell what is wrong with them."""
        path = Path(self._settings.policies)
        signature = _signature(path)
        if signature == self._signature:
            return
        self._signature = signature
        self._loaded = loaded = reload(self._loaded, path)
        for problem in loaded.problems:
            log.error("policy file: %s", problem)
        self._problems.set(len(loaded.problems))
        self._policies = {}
        for policy in loaded.policies:
            partition = service_partition(policy.spec.tenant, policy.spec.service, self._partitions)
            self._policies.setdefault(partition, []).append(policy)
        for partition, owned in self._owned.items():
            owned.evidence.want(self._policies.get(partition, []))
        log.info("%d policies in use, %d problems", len(loaded.policies), len(loaded.problems))


def read_back(event_log: Log, partition: int) -> tuple[int, dict[str, Decision]]:
    """The highest epoch in ``decisions/partition`` (0 if none), and the last decision of each policy found.

    Reads ten minutes back, further only if there is nothing: every record carries an epoch, and epochs only rise."""
    at = TopicPartition(topics.DECISIONS, partition)
    now_ms = wall_ms()
    begin = event_log.bounds([at])[at].begin
    starts = [max(begin, event_log.offset_at(at, now_ms - round(span_s * 1000))) for span_s in BACK_S]
    for start in [*starts, begin]:
        epoch, last = _read_from(event_log, at, start)
        if epoch:
            return epoch, last
    return 0, {}


def _read_from(event_log: Log, at: TopicPartition, start: int) -> tuple[int, dict[str, Decision]]:
    epoch, last = 0, dict[str, Decision]()
    reader = event_log.reader()
    try:
        reader.assign({at: start})
        at_end = False
        while not at_end:
            poll = reader.poll(1.0)
            at_end = at in poll.ends
            for record in poll.records:
                kind = schema.schema_of(record.headers)
                if kind == schema.OWNER:
                    epoch = max(epoch, decisions.decode_owner(record.value).epoch)
                elif kind == schema.DECISION:
                    decision = decisions.decode_decision(record.value)
                    epoch = max(epoch, decision.epoch)
                    last[decision.policy] = decision
    finally:
        reader.close()
    return epoch, last


def _signature(path: Path) -> object:
    """Changes when a policy file changes."""
    files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
    found = []
    for file in files:
        try:
            status = file.stat()
        except FileNotFoundError:
            continue
        found.append((str(file), status.st_mtime_ns, status.st_size))
    return found
