"""The control stage as a process on the embedded log, with real replicas: killed, stopped, and replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartscale.actuators.processes import stop_all
from smartscale.clock import MICROS, WallClock
from smartscale.config import Settings, Topics
from smartscale.log.port import Message, TopicPartition
from smartscale.log.sqlite import SqliteLog
from smartscale.log.topics import specs
from smartscale.records import decisions, metrics, schema, topics
from smartscale.records.decisions import Decision
from smartscale.records.metrics import MetricRow
from smartscale.testing.fleets import until

pytestmark = pytest.mark.e2e

POLICY = """\
apiVersion: smartscale.io/v1alpha1
kind: ScalingPolicy
metadata: {name: shop}
spec:
  service: shop
  scaleTargetRef: {kind: Processes, name: shop}
  minReplicas: 1
  maxReplicas: 6
  capacityPerReplica: 10
  targetUtilization: 1.0
  mode: Auto
"""


class Pipeline:
    """A log, a policy, and controllers as processes; evaluated every second."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings(topics=Topics(partials=1))
        self.log = SqliteLog(str(folder / "log.db"))
        self.log.create(specs(self.settings))
        (folder / "policies").mkdir()
        (folder / "policies" / "shop.yaml").write_text(POLICY)
        self.controllers: list[subprocess.Popen[bytes]] = []

    def controller(self, slot: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "SMARTSCALE_LOG": f"sqlite:{self.folder / 'log.db'}",
            "SMARTSCALE_TOPICS__PARTIALS": "1",
            "SMARTSCALE_CONTROL__POLICIES": str(self.folder / "policies"),
            "SMARTSCALE_CONTROL__INTERVAL_S": "0.5",
            "SMARTSCALE_SAMPLE__DIRECTORY": str(self.folder / "sample"),
            "SMARTSCALE_SAMPLE__STARTUP_S": "0",
        }
        with (self.folder / "control.log").open("ab") as output:
            command = [sys.executable, "-m", "smartscale", "control", "--slot", slot]
            started = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        self.controllers.append(started)
        return started

    def arrivals(self, per_s: float) -> None:
        end_us = WallClock().now_us()
        row = MetricRow(
            "default", "shop", "metric", "arrivals", "10s", end_us - 10 * MICROS, end_us, 10, 0, 1.0, 0.0, 0,
            final=False, complete=True, watermark_us=end_us, value_sum=per_s * 10,
        )  # fmt: skip
        message = Message(topics.METRICS, 0, metrics.encode(row), headers=schema.headers(schema.METRIC))
        assert isinstance(self.log.publisher().append([message])[0], int)

    def decided(self) -> tuple[list[int], list[Decision]]:
        """Epochs claimed, and decisions, in the order of the log."""
        reader = self.log.reader()
        reader.assign({TopicPartition(topics.DECISIONS, 0): 0})
        epochs, found, at_end = [], [], False
        while not at_end:
            poll = reader.poll(1.0)
            at_end = bool(poll.ends)
            for record in poll.records:
                if schema.schema_of(record.headers) == schema.OWNER:
                    epochs.append(decisions.decode_owner(record.value).epoch)
                else:
                    found.append(decisions.decode_decision(record.value))
        reader.close()
        return epochs, found

    def pids(self) -> set[int]:
        """The replicas that serve."""
        folder = self.folder / "sample" / "replicas" / "shop"
        records = [json.loads(p.read_bytes()) for p in folder.glob("*.json") if p.name != "fleet.json"]
        return {r["pid"] for r in records if (folder / f"{r['id']}.sock").exists()}

    def serving(self, count: int) -> set[int]:
        until(lambda: len(self.pids()) == count, f"{count} replicas; see {self.folder}/control.log", 40)
        return self.pids()


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    made = Pipeline(tmp_path)
    yield made
    for controller in made.controllers:
        controller.kill()
        controller.wait(10)
    stop_all(tmp_path / "sample" / "replicas", drain_s=1.0)
    made.log.close()


def test_a_killed_controller_is_followed_by_one_that_adopts_its_replicas(pipeline: Pipeline) -> None:
    """kill -9: the replicas serve on. The successor claims epoch 2, keeps the same processes, and scales them."""
    first = pipeline.controller("0")
    pipeline.arrivals(25)
    replicas = pipeline.serving(3)
    first.kill()
    first.wait(10)
    assert pipeline.pids() == replicas
    second = pipeline.controller("0")
    until(lambda: pipeline.decided()[0] == [1, 2], "the successor's claim", 40)
    until(lambda: pipeline.decided()[1][-1].epoch == 2, "the successor's first decision")
    assert pipeline.pids() == replicas
    pipeline.arrivals(45)
    assert replicas < pipeline.serving(5)
    second.send_signal(signal.SIGTERM)
    assert second.wait(15) == 0


def test_a_controller_that_was_stopped_and_continued_changes_nothing(pipeline: Pipeline) -> None:
    """SIGSTOP; another one takes over with a higher epoch; SIGCONT: the first publishes nothing of its epoch."""
    first = pipeline.controller("0")
    pipeline.arrivals(25)
    pipeline.serving(3)
    first.send_signal(signal.SIGSTOP)
    pipeline.controller("1")
    until(lambda: pipeline.decided()[0] == [1, 2], "the second controller's claim", 60)
    pipeline.arrivals(45)
    replicas = pipeline.serving(5)
    before = len(pipeline.decided()[1])
    first.send_signal(signal.SIGCONT)
    until(lambda: len(pipeline.decided()[1]) >= before + 5, "five more decisions", 40)
    epochs, found = pipeline.decided()
    in_order = [decision.epoch for decision in found]
    assert in_order == sorted(in_order), "an epoch never comes back"
    assert epochs == sorted(set(epochs))
    assert pipeline.pids() == replicas
