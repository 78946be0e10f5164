"""The control stage on the log in memory: epochs, rebuilt state, decisions before actions, failing actuators."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smartscale.actuators.dry_run import DryRunActuator
from smartscale.actuators.port import Actuator, Fleet, Target
from smartscale.clock import MICROS, ManualClock
from smartscale.config import Control, Settings, Topics
from smartscale.control import service
from smartscale.control.decide import State, after, replay
from smartscale.control.policy import load
from smartscale.errors import Fenced, RetryableError
from smartscale.log.port import Message
from smartscale.log.topics import specs
from smartscale.records import decisions, forecasts, metrics, schema, topics
from smartscale.records.decisions import Decision, Owner
from smartscale.records.forecasts import Incident
from smartscale.records.metrics import MetricRow
from smartscale.stage import Context
from smartscale.telemetry.health import Health
from smartscale.testing.fleets import until
from smartscale.testing.memory_log import MemoryLog

POLICY = """\
apiVersion: smartscale.io/v1alpha1
kind: ScalingPolicy
metadata: {name: NAME}
spec:
  service: NAME
  scaleTargetRef: {kind: DryRun, name: NAME}
  minReplicas: 1
  maxReplicas: 50
  capacityPerReplica: 10
  targetUtilization: 1.0
  mode: Auto
  behavior: {scaleDown: {stabilizationWindowSeconds: 60}}
"""


class World:
    """A log with one partition for services, a clock moved by hand, and policies in a folder."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        for name in names:
            (folder / f"{name}.yaml").write_text(POLICY.replace("NAME", name))
        self.clock = ManualClock(1_000_000 * MICROS)
        self.settings = Settings(
            topics=Topics(partials=1), control=Control(policies=str(folder), interval_s=15.0, stale_s=60.0)
        )
        self.log = MemoryLog()
        self.log.create(specs(self.settings))
        self.health = Health("control")

    @contextmanager
    def running(self, actuator: Actuator, slot: str = "0") -> Iterator[None]:
        """A controller in a thread."""
        stop = threading.Event()
        self.health = Health("control")
        context = Context(self.log, self.clock, self.settings, stop, self.health, slot)
        errors: list[BaseException] = []

        def target() -> None:
            try:
                service.run(context, {"DryRun": actuator})
            except BaseException as error:  # noqa: BLE001  # told by the assertion below
                errors.append(error)

        thread = threading.Thread(target=target)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(20)
        assert not thread.is_alive()
        assert errors == []

    def publish(self, schema_name: str, topic: str, value: bytes) -> None:
        for answer in self.log.publisher().append(
            [Message(topic, 0, value, headers=schema.headers(schema_name))]
        ):
            assert not isinstance(answer, Exception)

    def arrivals(self, per_s: float, name: str = "shop", *, complete: bool = True) -> None:
        """A window of arrivals that has just ended."""
        end_us = self.clock.now_us()
        row = MetricRow(
            "default", name, "metric", "arrivals", "10s", end_us - 10 * MICROS, end_us, 10, 0, 1.0, 0.0, 0,
            final=False, complete=complete, watermark_us=end_us, value_sum=per_s * 10,
        )  # fmt: skip
        self.publish(schema.METRIC, topics.METRICS, metrics.encode(row))

    def decisions(self, name: str = "shop") -> list[Decision]:
        found = [
            decisions.decode_decision(record.value)
            for record in self.log.records(topics.DECISIONS)
            if record.headers["schema"].decode() == schema.DECISION
        ]
        return [decision for decision in found if decision.policy == name]

    def epochs(self) -> list[int]:
        return [
            decisions.decode_owner(record.value).epoch
            for record in self.log.records(topics.DECISIONS)
            if record.headers["schema"].decode() == schema.OWNER
        ]

    def evaluate(self, name: str = "shop") -> Decision:
        """Let an interval pass, and give the next decision."""
        before = len(self.decisions(name))
        self.clock.advance(15)
        until(lambda: len(self.decisions(name)) > before, "the next decision")
        return self.decisions(name)[-1]

    def decided(self, holds: Callable[[Decision], bool], what: str, name: str = "shop") -> Decision:
        """Evaluate until a decision is as wanted."""
        for _ in range(20):
            decision = self.evaluate(name)
            if holds(decision):
                return decision
        raise AssertionError(f"not within 20 evaluations: {what}; last: {decision.reason}")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, "shop")


def test_load_comes_in_and_replicas_go_out(world: World) -> None:
    """45/s with 10/s a replica: 5 replicas. The decision is in the log, replayable, and the actuator has it."""
    actuator = DryRunActuator(world.clock)
    with world.running(actuator):
        until(lambda: len(world.decisions()) > 0, "a first decision")
        world.arrivals(45)
        decision = world.decided(lambda d: d.desired == 5, "five replicas")
        until(lambda: actuator.observe(Target("shop")).desired == 5, "the actuator has five")
        policy = load(world.folder).policies[0]
        assert replay(decision, policy) == decision
        assert world.health.is_ready[0]


def test_each_owner_claims_a_higher_epoch_before_it_decides(world: World) -> None:
    """Three controllers one after the other: epochs 1, 2, 3, each before its decisions."""
    for _ in range(3):
        with world.running(DryRunActuator(world.clock)):
            world.evaluate()
    assert world.epochs() == [1, 2, 3]
    seen = 0
    for record in world.log.records(topics.DECISIONS):
        if record.headers["schema"].decode() == schema.OWNER:
            seen = decisions.decode_owner(record.value).epoch
        else:
            assert decisions.decode_decision(record.value).epoch == seen


def test_a_restart_remembers_the_stabilisation_window(world: World) -> None:
    """90/s, then 20/s: the successor still holds 9, because the window of 60 s was read back; its state goes on."""
    actuator = DryRunActuator(world.clock)
    with world.running(actuator):
        until(lambda: len(world.decisions()) > 0, "a first decision")
        world.arrivals(90)
        world.decided(lambda d: d.current == 9, "nine replicas")
    last = world.decisions()[-1]
    with world.running(actuator):
        world.arrivals(20)
        decision = world.evaluate()
        while not decision.demands or decision.demands[0].load != 20:
            decision = world.evaluate()
        assert (decision.desired, decision.epoch) == (9, 2)
        first = next(d for d in world.decisions() if d.epoch == 2)
        assert first.id == f"shop-2-{after(load(world.folder).policies[0], last).evaluations + 1}"


def test_a_fenced_controller_publishes_nothing_and_comes_back(world: World) -> None:
    """The commit fails: no decision, no action; then the partition is claimed anew with a higher epoch."""
    with world.running(DryRunActuator(world.clock)):
        world.evaluate()
        before = len(world.decisions())
        world.log.fail_next_commit(Fenced("another owner", retry_after_s=0.01))
        world.clock.advance(15)
        until(lambda: len(world.epochs()) == 2, "a second claim")
        assert len(world.decisions()) == before
        assert world.evaluate().epoch == 2


class Broken:
    """An actuator that fails in the ways given by target."""

    def __init__(self, clock: ManualClock) -> None:
        self.good = DryRunActuator(clock)
        self.release = threading.Event()

    def observe(self, target: Target) -> Fleet:
        if target.name == "hangs":
            self.release.wait(20)
        if target.name == "fails":
            raise RetryableError("connection refused")
        return self.good.observe(target)

    def apply(self, target: Target, decision: Decision) -> Fleet:
        return self.good.apply(target, decision)


def test_an_actuator_that_fails_or_hangs_blocks_no_other_policy(tmp_path: Path) -> None:
    """The good one is scaled; the others say why they are not, and are not scaled in."""
    world = World(tmp_path, "good", "fails", "hangs")
    broken = Broken(world.clock)
    try:
        with world.running(broken):
            for name in ("good", "fails", "hangs"):
                world.arrivals(45, name)
            world.decided(lambda d: d.desired == 5, "the good one scaled", "good")
            for name, text in (("fails", "connection refused"), ("hangs", "actuator")):
                decision = world.decisions(name)[-1]
                assert not decision.act
                assert decision.reason.startswith("FailedGetScale")
                assert text in decision.reason
            broken.release.set()
    finally:
        broken.release.set()


class Refusing(DryRunActuator):
    """An actuator that cannot carry anything out."""

    def apply(self, target: Target, decision: Decision) -> Fleet:
        raise RetryableError("quota exceeded")


def test_an_action_that_failed_is_told_by_the_next_decision_and_asked_for_again(world: World) -> None:
    """AbleToScale is False with the reason, and the decision still wants the change."""
    with world.running(Refusing(world.clock)):
        until(lambda: len(world.decisions()) > 0, "a first decision")
        decision = world.decided(lambda d: not d.conditions[0].status, "the failure told")
        assert "quota exceeded" in decision.conditions[0].message
        assert (decision.current, decision.desired, decision.act) == (0, 1, True)


def test_incidents_are_heard(world: World) -> None:
    """A fault that is open holds replicas; once it is closed they may go."""
    fault = Incident("i1", "default", "shop", "fault", 0, None, 0, 1.0, "errors", None, None, None, "")
    closed = Incident("i1", "default", "shop", "fault", 0, 9, 9, 1.0, "errors", None, None, None, "")
    with world.running(DryRunActuator(world.clock)):
        until(lambda: len(world.decisions()) > 0, "a first decision")
        world.arrivals(90)
        world.decided(lambda d: d.current == 9, "nine replicas")
        world.publish(schema.INCIDENT, topics.INCIDENTS, forecasts.encode(fault))
        for _ in range(8):
            world.arrivals(20)
            decision = world.evaluate()
        assert (decision.desired, decision.clamps[0].reason) == (9, "IncidentOpen")
        world.publish(schema.INCIDENT, topics.INCIDENTS, forecasts.encode(closed))
        for _ in range(8):
            world.arrivals(20)
            decision = world.evaluate()
        assert decision.desired == 2


def test_a_record_that_cannot_be_read_is_skipped_and_counted(world: World) -> None:
    """It stops nothing."""
    with world.running(DryRunActuator(world.clock)):
        until(lambda: len(world.decisions()) > 0, "a first decision")
        world.publish(schema.METRIC, topics.METRICS, b"{")
        world.arrivals(45)
        world.decided(lambda d: d.desired == 5, "five replicas")
    labels = {"topic": topics.METRICS}
    assert world.health.registry.get_sample_value("smartscale_control_unreadable_records_total", labels) == 1


def test_policies_are_read_again_when_a_file_changes(world: World) -> None:
    """A new file is a new policy; a bad one is told and stops no other."""
    with world.running(DryRunActuator(world.clock)):
        world.evaluate()
        (world.folder / "api.yaml").write_text(POLICY.replace("NAME", "api"))
        (world.folder / "bad.yaml").write_text("kind: Nonsense")
        world.evaluate()
        assert world.evaluate("api").service == "api"
    assert (world.health.registry.get_sample_value("smartscale_control_policy_problems") or 0) > 0


def test_reading_back_finds_the_highest_epoch_and_each_last_decision(world: World) -> None:
    """Of an empty partition: epoch 0 and nothing."""
    assert service.read_back(world.log, 0) == (0, {})
    world.publish(schema.OWNER, topics.DECISIONS, decisions.encode(Owner(0, 4, "x", 0)))
    assert service.read_back(world.log, 0)[0] == 4
    with world.running(DryRunActuator(world.clock)):
        last = world.evaluate()
    epoch, known = service.read_back(world.log, 0)
    assert (epoch, known["shop"].id) == (5, world.decisions()[-1].id)
    assert last.epoch == 5
    assert after(load(world.folder).policies[0], known["shop"]) != State()
