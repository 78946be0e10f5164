"""Incidents as people live with them: the ml process, the commands of docs/incidents.md, and a kill -9 in between."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from smartscale.cli.commands import cli
from smartscale.clock import wall_ms
from smartscale.log.port import Message
from smartscale.records import metrics, schema, topics
from smartscale.records.forecasts import DEMAND_SURGE
from smartscale.records.metrics import MetricRow, Progress
from smartscale.testing.processes import Pipeline, wait_until

pytestmark = pytest.mark.e2e

PAGE = (Path(__file__).parents[2] / "docs" / "incidents.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
STEP_US = 60_000_000
WAIT_S = 60.0


class World:
    """A service whose windows are written step by step, as the window stage would."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.step = wall_ms() * 1000 // STEP_US
        self.rng = np.random.default_rng(1)

    def live(self, steps: int, rate: float = 60.0) -> None:
        """So many windows of a minute, complete and final."""
        records = []
        for _ in range(steps):
            self.step += 1
            end_us, count = self.step * STEP_US, int(self.rng.poisson(60 * rate))
            row = MetricRow(
                "default", "shop", "interaction", "*", "60s", end_us - STEP_US, end_us, count, 0, count / 60, 0.0, 0,
                True, True, end_us,
            )  # fmt: skip
            progress = Progress(0, 0, end_us, end_us, end_us, end_us, 0, [])
            records += [(schema.METRIC, metrics.encode(row)), (schema.PROGRESS, metrics.encode(progress))]
        messages = [Message(topics.METRICS, 0, value, None, schema.headers(name)) for name, value in records]
        with self.pipeline.log() as log, closing(log.publisher()) as publisher:
            assert all(isinstance(answer, int) for answer in publisher.append(messages))

    def surge(self, known: int) -> dict[str, object]:
        """Three times the demand for six windows, and thirty calm ones: the incident that this makes, once it is over."""
        self.live(6, 180.0)
        self.live(30)

        def told() -> list[dict[str, object]]:
            return [one for one in run("list") if one["end_us"] is not None]

        wait_until(lambda: len(told()) > known, WAIT_S, lambda: self.pipeline.tail("ml"))
        return told()[-1]


def run(*words: str) -> list[dict[str, object]]:
    done = CliRunner().invoke(cli, ["incidents", *words, "--json"])
    assert done.exit_code == 0, (words, done.output, done.exception)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    address = f"sqlite:{tmp_path / 'log.db'}"
    monkeypatch.setenv("SMARTSCALE_LOG", address)
    settings = {
        "topics.events": 1,
        "topics.partials": 1,
        "ml.step_s": 60,
        "ml.horizon_steps": 6,
        "ml.history_steps": 400,
        "ml.snapshot_s": 0,
    }
    with Pipeline(address, tmp_path / "run", settings, ["ml"]) as pipeline:
        yield World(pipeline)


def test_a_false_alarm_lowers_later_ones_after_a_kill_and_the_page_is_true(
    world: World, tmp_path: Path
) -> None:
    """A surge is told; called a false alarm; ml is killed; the next one is recorded, with the reason, and not told. An
    outage is told all the same. Then every command of the page. A watch sends what is to be told, each once."""
    sent = tmp_path / "sent"
    watch = subprocess.Popen(
        [sys.executable, "-m", "smartscale", "incidents", "watch", "--exec", f"cat >> {sent}; echo >> {sent}"]
    )
    try:
        _live_through_it(world)
        wait_until(lambda: len(told_by(sent)) == 2, WAIT_S, lambda: str(told_by(sent)))
    finally:
        watch.terminate()
    assert watch.wait(30) == 0
    assert told_by(sent) == [str(one["id"]) for one in run("list") if one["notify"]]


def told_by(file: Path) -> list[str]:
    return [json.loads(line)["id"] for line in file.read_text().splitlines()] if file.exists() else []


def _live_through_it(world: World) -> None:
    with world.pipeline.log() as log:
        wait_until(lambda: bool(log.committed("watch")), WAIT_S, lambda: "the watch has not begun")
    world.live(60)
    first = world.surge(known=0)
    assert (first["class"], first["notify"], first["silenced"]) == (DEMAND_SURGE, True, "")
    for _ in range(2):
        said = run("false-alarm", str(first["id"]), "--who", "ann", "--wait", str(WAIT_S))[0]
        assert said["heard"] is True
    world.pipeline.kill("ml")
    world.pipeline.start("ml")
    world.pipeline.wait_ready("ml")
    world.live(70)  # more than the hour in which it would be a repeat
    second = world.surge(known=1)
    assert (second["class"], second["notify"]) == (DEMAND_SURGE, False)
    assert str(second["silenced"]).startswith("2 false alarms raised the bar of surge to")
    world.live(40, 0.5)
    wait_until(lambda: len(run("list")) == 3, WAIT_S, lambda: world.pipeline.tail("ml"))
    outage = run("list")[-1]
    assert (outage["notify"], outage["silenced"]) == (
        True,
        "",
    )  # a fall to a hundredth is told whatever was said

    for line in COMMANDS:
        words = re.findall(r"'[^']*'|\"[^\"]*\"|\S+", line.removeprefix("smartscale incidents "))
        ids = [str(second["id"]) if word == "inc-3f2a" else word.strip("'\"") for word in words]
        answers = run(*ids)
        assert all(answer.get("heard", True) for answer in answers), line
    assert {row["name"] for row in run("mutes")} == {"deployment", "sale", "feast"}
    explained = run("show", str(second["id"]))[0]["explanation"]
    assert isinstance(explained, dict)
    assert "marketing knows" in str(explained["said"])
    assert str(explained["told"]).startswith("no: 2 false alarms")
