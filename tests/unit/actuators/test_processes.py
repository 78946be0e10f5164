"""The process actuator with real processes: adopted, replaced, drained, and none left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartscale.actuators import processes
from smartscale.actuators.port import Target
from smartscale.actuators.processes import ProcessActuator, stop_all
from smartscale.clock import ManualClock
from smartscale.errors import PermanentError, RetryableError
from smartscale.testing.fleets import decision, until

SHOP = Target("shop")
SERVE = [
    sys.executable,
    "-c",
    "import pathlib, signal, sys; pathlib.Path(sys.argv[1]).touch(); signal.pause()",
    "{ready}",
]
STUBBORN = [
    sys.executable,
    "-c",
    "import pathlib, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "pathlib.Path(sys.argv[1]).touch()\nwhile True: signal.pause()",
    "{ready}",
]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    stop_all(tmp_path, drain_s=0.5)


def pids(root: Path) -> dict[str, int]:
    """Pid by replica id, oldest first."""
    records = [json.loads(p.read_bytes()) for p in (root / "shop").glob("*.json") if p.name != "fleet.json"]
    return {r["id"]: r["pid"] for r in sorted(records, key=lambda r: r["started_us"])}


def alive(pid: int) -> bool:
    return processes._start_ticks(pid) is not None


def all_ready(actuator: ProcessActuator, count: int) -> None:
    until(lambda: actuator.observe(SHOP).ready == count, f"{count} replicas ready")


def test_replicas_are_started_and_the_newest_go_first(root: Path) -> None:
    """Three, one after the other; scaling in to one leaves the oldest."""
    clock = ManualClock(1)
    actuator = ProcessActuator(root, clock, SERVE)
    for count in (1, 2, 3):
        clock.advance(1)
        actuator.apply(SHOP, decision(count, time_us=count))
    all_ready(actuator, 3)
    oldest = next(iter(pids(root)))
    actuator.apply(SHOP, decision(1, time_us=4))
    until(lambda: actuator.observe(SHOP).draining == 0, "the others have drained")
    assert list(pids(root)) == [oldest]


def test_a_successor_adopts_what_runs(root: Path) -> None:
    """The same processes, and no more of them."""
    ProcessActuator(root, ManualClock(1), SERVE).apply(SHOP, decision(2))
    before = pids(root)
    successor = ProcessActuator(root, ManualClock(1), SERVE)
    all_ready(successor, 2)
    assert pids(root) == before


def test_a_killed_replica_is_noticed_and_replaced(root: Path) -> None:
    """kill -9; the next observation starts another one."""
    actuator = ProcessActuator(root, ManualClock(1), SERVE)
    actuator.apply(SHOP, decision(2))
    all_ready(actuator, 2)
    victim, pid = next(iter(pids(root).items()))
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), "the victim is dead")
    all_ready(actuator, 2)
    assert victim not in pids(root)


def test_a_reused_pid_is_not_mistaken_for_a_replica(root: Path) -> None:
    """The start time tells them apart: the stranger is neither counted nor killed."""
    actuator = ProcessActuator(root, ManualClock(1), SERVE)
    actuator.apply(SHOP, decision(0))
    stranger = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        record = {"id": "x", "started_us": 1, "started_ms": 1, "pid": stranger.pid, "start_ticks": 1}
        (root / "shop" / "x.json").write_text(json.dumps(record))
        fleet = actuator.observe(SHOP)
        assert (fleet.ready, fleet.starting, fleet.draining) == (0, 0, 0)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_crash_between_start_and_record_leaves_no_orphan(root: Path) -> None:
    """The record has no pid yet; the process is found by its mark and adopted."""
    actuator = ProcessActuator(root, ManualClock(1), SERVE)
    actuator.apply(SHOP, decision(1))
    all_ready(actuator, 1)
    name, pid = next(iter(pids(root).items()))
    path = root / "shop" / f"{name}.json"
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({**record, "pid": 0, "start_ticks": 0}))
    successor = ProcessActuator(root, ManualClock(1), SERVE)
    all_ready(successor, 1)
    assert pids(root) == {name: pid}


def test_a_replica_that_will_not_drain_is_killed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM is ignored; SIGKILL follows after DRAIN_S."""
    monkeypatch.setattr(processes, "DRAIN_S", 0.1)
    actuator = ProcessActuator(root, ManualClock(1), STUBBORN)
    actuator.apply(SHOP, decision(1, time_us=1))
    all_ready(actuator, 1)
    pid = next(iter(pids(root).values()))
    actuator.apply(SHOP, decision(0, time_us=2))
    assert alive(pid)
    until(lambda: actuator.observe(SHOP).draining == 0, "the draining replica is gone")
    assert not alive(pid)


def test_none_is_left_behind(root: Path) -> None:
    """stop_all ends every replica of every target, stubborn ones too, and can be called twice."""
    gentle, stubborn = (
        ProcessActuator(root, ManualClock(1), SERVE),
        ProcessActuator(root, ManualClock(1), STUBBORN),
    )
    gentle.apply(SHOP, decision(2))
    stubborn.apply(Target("api"), decision(1))
    all_ready(gentle, 2)
    until(lambda: stubborn.observe(Target("api")).ready == 1, "the stubborn one ready")
    found = [json.loads(p.read_bytes())["pid"] for p in root.glob("*/*.json") if p.name != "fleet.json"]
    assert stop_all(root, drain_s=0.3) == 3
    assert not any(alive(pid) for pid in found)
    assert stop_all(root) == 0
    assert gentle.observe(SHOP).desired == 0


def test_replicas_survive_their_controller_and_end_with_its_supervisor(root: Path) -> None:
    """The controller is killed: the replica runs on. The lifeline breaks: it ends by itself."""
    read_end, write_end = os.pipe()
    program = f"""
import os, sys, time
from pathlib import Path
from smartscale.actuators.port import Target
from smartscale.actuators.processes import ProcessActuator
from smartscale.clock import WallClock
from smartscale.config import Sample
from smartscale.sample.replica import command
from smartscale.testing.fleets import decision
clock = WallClock()
actuator = ProcessActuator(Path({str(root)!r}), clock, command(Sample(startup_s=0), clock))
actuator.apply(Target("shop"), decision(1))
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "SMARTSCALE_LIFELINE_FD": str(read_end)}
    controller = subprocess.run(
        [sys.executable, "-c", program], env=environment, pass_fds=[read_end], check=False, timeout=30
    )
    assert controller.returncode == -signal.SIGKILL
    os.close(read_end)
    observer = ProcessActuator(root, ManualClock(1), SERVE)
    all_ready(observer, 1)
    pid = next(iter(pids(root).values()))
    assert alive(pid)
    os.close(write_end)
    until(lambda: not alive(pid), "the replica has ended with its supervisor")


def test_replicas_that_die_at_once_are_replaced_ever_more_slowly(root: Path) -> None:
    """A program that ends before it serves: not a fork bomb."""
    actuator = ProcessActuator(root, ManualClock(1), [sys.executable, "-c", "raise SystemExit(1)", "{ready}"])
    actuator.apply(SHOP, decision(1))
    first = set(pids(root))
    until(lambda: actuator.observe(SHOP).starting == 0, "its death is noticed")
    assert set(pids(root)) == set()
    assert actuator.observe(SHOP).starting == 0, "it pauses"
    until(lambda: actuator.observe(SHOP).starting == 1, "it is tried again")
    assert set(pids(root)) != first


def test_a_wrong_command_is_told(root: Path) -> None:
    """With the target and the remedy; nothing stays registered."""
    with pytest.raises(RetryableError, match=r"target shop: /no/such cannot be started"):
        ProcessActuator(root, ManualClock(1), ["/no/such"]).apply(SHOP, decision(1))
    assert pids(root) == {}
    with pytest.raises(PermanentError, match=r"spec\.scaleTargetRef\.command"):
        ProcessActuator(root, ManualClock(1)).apply(SHOP, decision(1))


def test_a_damaged_registry_is_told(root: Path) -> None:
    """Not overwritten: it may be somebody's."""
    (root / "shop").mkdir()
    (root / "shop" / "fleet.json").write_text("{")
    with pytest.raises(PermanentError, match=r"fleet\.json cannot be read"):
        ProcessActuator(root, ManualClock(1), SERVE).observe(SHOP)


def test_a_damaged_registry_hides_no_replica_from_the_end(root: Path) -> None:
    """stop_all ends what is registered all the same."""
    actuator = ProcessActuator(root, ManualClock(1), SERVE)
    actuator.apply(SHOP, decision(1))
    pid = next(iter(pids(root).values()))
    (root / "shop" / "fleet.json").write_text("{")
    assert stop_all(root) == 1
    assert not alive(pid)
