"""`smartscale up` as a newcomer runs it: real processes, from the first start to the last summary."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from smartscale import clock

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SCENARIO = """
seed: 3
duration: 450s
services:
  - name: shop
    rate: 30
    shapes:
      - {kind: ramp, to: 5, start: 60s, duration: 120s}
      - {kind: step, factor: 0.2, start: 240s}
"""

POLICY = """
apiVersion: smartscale.io/v1alpha1
kind: ScalingPolicy
metadata: {name: shop}
spec:
  service: shop
  scaleTargetRef: {kind: Processes, name: shop}
  minReplicas: 1
  maxReplicas: 8
  capacityPerReplica: 50
  targetUtilization: 0.7
  demand: {metric: arrivals}
  window: 10s
  behavior: {scaleDown: {stabilizationWindowSeconds: 60}}
  mode: Auto
"""

SETTINGS = """
[ingest]
port = 0
[topics]
events = 2
partials = 2
[time]
out_of_orderness_s = 10.0
[control]
interval_s = 10.0
"""


def up(folder: Path, log: str, *words: str) -> list[str]:
    """The command, with everything of its own in ``folder``."""
    (folder / "settings.toml").write_text(SETTINGS)
    return [
        sys.executable, "-m", "smartscale", "up", "--config", str(folder / "settings.toml"), "--log", log,
        "--directory", str(folder / "run"), *words,
    ]  # fmt: skip


def eventually(holds: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
    """Wait until something holds, or fail with the words."""
    deadline_s = clock.monotonic_s() + limit_s
    while not holds():
        assert clock.monotonic_s() < deadline_s, f"after {limit_s:g} s still not: {what}"
        _pause()


def _pause() -> None:
    subprocess.run(["sleep", "0.1"], check=True)


def ready(folder: Path, stages: int = 5) -> Callable[[], bool]:
    """Whether every stage has told that it is ready."""
    file = folder / "run" / "smartscale.log"
    return lambda: file.exists() and file.read_text().count(" is ready\n") >= stages


def family(process: psutil.Process) -> list[psutil.Process]:
    """Everything that was started below ``smartscale up``."""
    return process.children(recursive=True)


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The command, killed at the end if need be; its stages then end by their lifeline."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("adapter", ["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_the_closed_loop_scales_out_and_in_and_the_books_balance(
    tmp_path: Path, adapter: str, request: pytest.FixtureRequest
) -> None:
    """Seven and a half minutes of world time in 45 s: calm, a ramp to five times the load, calm."""
    log = f"sqlite:{tmp_path}/log.db"
    if adapter == "kafka":
        with request.getfixturevalue("fresh_kafka")() as log:
            summary = closed_loop(tmp_path, log)
    else:
        summary = closed_loop(tmp_path, log)
    assert summary["failures"] == []
    assert summary["difference"] == 0
    assert summary["in_flight"] == 0
    assert summary["accepted"] == summary["windowed"] > 30 * 500
    assert summary["scale_outs"] >= 2
    assert summary["scale_ins"] >= 1
    assert summary["restarts"] == 0
    if adapter == "sqlite":
        books = status(log)
        assert (books["accepted"], books["difference"]) == (summary["accepted"], 0)
        assert again(tmp_path, log)["failures"] == []


def status(log: str) -> dict[str, int]:
    """The ledger as a new process finds it, from the books that the run has stored."""
    done = subprocess.run(
        [sys.executable, "-m", "smartscale", "status", "--log", log, "--json"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    books: dict[str, int] = json.loads(done.stdout)
    return books


def again(folder: Path, log: str) -> dict[str, Any]:
    """A second run on the same log: everything resumes where it stopped."""
    command = up(folder, log, "--policies", str(folder / "policy.yaml"), "--for", "10", "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    assert summary["restarts"] == 0
    return summary


@pytest.fixture
def fresh_kafka() -> Callable[[], AbstractContextManager[str]]:
    """A broker of the test's own: the product's topics have fixed names."""
    from smartscale.testing.kafka_broker import KafkaBroker

    @contextmanager
    def start() -> Iterator[str]:
        with KafkaBroker() as broker:
            yield broker.url

    return start


def closed_loop(folder: Path, log: str) -> dict[str, Any]:
    (folder / "load.yaml").write_text(SCENARIO)
    (folder / "policy.yaml").write_text(POLICY)
    command = up(
        folder, log, "--scenario", str(folder / "load.yaml"), "--policies", str(folder / "policy.yaml"),
        "--speed", "10", "--check", "--json",
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, (
        done.stdout + done.stderr + (folder / "run/smartscale.log").read_text()[-5000:]
    )
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def test_a_killed_stage_is_started_again_and_ctrl_c_stops_all_in_order(tmp_path: Path) -> None:
    """Kill -9 of combine, then SIGINT: exit code 0, and nothing is left behind."""
    with running(up(tmp_path, f"sqlite:{tmp_path}/log.db")) as process:
        eventually(ready(tmp_path), "all five stages are ready")
        children = family(psutil.Process(process.pid))
        next(p for p in children if "combine" in p.cmdline()).kill()
        eventually(ready(tmp_path, 6), "combine is ready again")
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    text = (tmp_path / "run/smartscale.log").read_text()
    assert process.returncode == 0, said + text
    assert "combine-0 ended: killed by signal 9; starting it again in 0.5 s" in text
    order = [
        text.rindex(f"{stage}-0: stopped cleanly")
        for stage in ("ingest", "combine", "window", "ml", "control")
    ]
    assert order == sorted(order)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []


def test_no_stage_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    """Kill -9 of `smartscale up` itself: the kernel closes the lifeline."""
    with running(up(tmp_path, f"sqlite:{tmp_path}/log.db")) as process:
        eventually(ready(tmp_path), "all five stages are ready")
        children = family(psutil.Process(process.pid))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=15)
    assert len(children) >= 5
    assert alive == []


def test_a_second_one_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    """One clear message, exit code 2; the first runs on."""
    command = up(tmp_path, f"sqlite:{tmp_path}/log.db")
    with running(command) as process:
        eventually((tmp_path / "run/smartscale.log").exists, "the first one has begun")
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 2
        assert "another `smartscale up`" in second.stderr
        assert "Traceback" not in second.stderr
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
