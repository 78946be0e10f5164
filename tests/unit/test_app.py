"""The joints: the log's clock, and a stage as a process with health, signals and exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from smartscale import app, clock
from smartscale.clock import Anchor, ScaledClock, WallClock
from smartscale.config import Settings
from smartscale.errors import ConfigError
from smartscale.log.port import Message
from smartscale.log.topics import specs
from smartscale.telemetry import lifeline
from smartscale.telemetry.health import Health
from smartscale.telemetry.server import HealthServer
from smartscale.testing.memory_log import MemoryLog

ANCHOR = Anchor(origin_us=0, speed=10.0, wall_us=0)


@pytest.fixture
def log() -> MemoryLog:
    made = MemoryLog()
    made.create(specs(Settings()))
    return made


def test_without_an_anchor_world_time_is_the_wall_clock(log: MemoryLog) -> None:
    """Also where the topics do not exist yet."""
    assert isinstance(app.open_clock(log), WallClock)
    assert isinstance(app.open_clock(MemoryLog()), WallClock)


def test_every_process_gets_the_clock_of_the_first_anchor(log: MemoryLog) -> None:
    """A second one of the same speed changes nothing."""
    app.write_anchor(log, ANCHOR)
    assert app.write_anchor(log, Anchor(5, 10.0, 5)) == ANCHOR
    opened = app.open_clock(log)
    assert isinstance(opened, ScaledClock)
    assert opened.anchor == ANCHOR


def test_another_speed_or_events_by_the_wall_clock_are_refused(log: MemoryLog) -> None:
    """Their times would not agree."""
    log.publisher().append([Message("events", 0, b"x")])
    with pytest.raises(ConfigError, match="already holds events"):
        app.write_anchor(log, ANCHOR)
    other = MemoryLog()
    other.create(specs(Settings()))
    app.write_anchor(other, ANCHOR)
    with pytest.raises(ConfigError, match="runs at speed 10 and cannot change to 60"):
        app.write_anchor(other, Anchor(0, 60.0, 0))


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_health_and_readiness_are_told_with_their_reason() -> None:
    """Not ready while starting; unhealthy once it cannot recover."""
    health = Health("combine")
    with HealthServer(health, 0) as server:
        assert get(server.port, "/readyz") == (503, "starting\n")
        health.ready()
        assert get(server.port, "/readyz") == (200, "ready\n")
        assert get(server.port, "/healthz") == (200, "ok\n")
        health.failed("broken")
        assert get(server.port, "/healthz") == (503, "broken\n")
        assert get(server.port, "/metrics")[0] == 200
        assert get(server.port, "/else")[0] == 404


PROGRAM = """
import sys
from smartscale import app
from smartscale.config import Settings
from smartscale.errors import FatalLogError, LogUnavailable, UserError
from smartscale.telemetry import logs

def wait(context):
    context.health.ready()
    print("running", flush=True)
    context.stop.wait(60)

def wrong(context):
    raise UserError("mend this")

def broken(context):
    raise FatalLogError("the client is broken")

def away(context):
    raise LogUnavailable("the broker is down")

def bug(context):
    raise ZeroDivisionError

logs.set_up("test-0")
settings = Settings(log=sys.argv[1])
if sys.argv[2] != "early":
    log = app.opened(settings)
    app.prepare(log, settings)
    log.close()
sys.exit(app.run_stage("test", settings, run=globals().get(sys.argv[2])))
"""


def start(tmp_path: Path, what: str, lifeline_fd: int | None = None) -> subprocess.Popen[str]:
    passed = () if lifeline_fd is None else (lifeline_fd,)
    variables = {} if lifeline_fd is None else {lifeline.VARIABLE: str(lifeline_fd)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, f"sqlite:{tmp_path}/log.db", what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=passed,
        env={**os.environ, **variables},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stage_stops_cleanly_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """Exit code 0."""
    process = start(tmp_path, "wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "stopped cleanly" in said


@pytest.mark.parametrize(
    ("what", "code", "said", "traceback"),
    [
        ("wrong", 2, "mend this", False),
        ("early", 2, "create them with `smartscale topics", False),
        ("away", 3, "the broker is down", False),
        ("broken", 3, "the client is broken", True),
        ("bug", 3, "this is a bug", True),
    ],
)
def test_exit_codes_tell_who_must_act(
    tmp_path: Path, what: str, code: int, said: str, traceback: bool
) -> None:
    """2: a person; 3: a restart may help; the traceback is logged where it is a bug."""
    process = start(tmp_path, what)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert said in errors
    assert ("Traceback" in errors) is traceback


def test_a_stage_stops_when_its_supervisor_is_gone(tmp_path: Path) -> None:
    """The write end of the lifeline is closed, as by kill -9 of the one who holds it."""
    read_end, write_end = os.pipe()
    process = start(tmp_path, "wait", read_end)
    os.close(read_end)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    began_s = clock.monotonic_s()
    os.close(write_end)
    _, said = process.communicate(timeout=20)
    assert clock.monotonic_s() - began_s < lifeline.GRACE_S + 5
    assert "the supervisor is gone" in said


def test_a_lifeline_that_is_none_is_refused() -> None:
    """A leftover variable would otherwise stop the process at once."""
    with pytest.raises(ConfigError, match="no open file descriptor"):
        lifeline.watch(threading.Event(), {lifeline.VARIABLE: "999"})
