"""What every actuator guarantees (``smartscale.actuators.port``), held against each adapter."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartscale.actuators.dry_run import DryRunActuator
from smartscale.actuators.port import Actuator, DecisionRefused, Target
from smartscale.actuators.processes import ProcessActuator, stop_all
from smartscale.clock import ManualClock
from smartscale.testing.fleets import decision

TARGET = Target("shop")
SERVES_AT_ONCE = [
    sys.executable,
    "-c",
    "import pathlib, signal, sys; pathlib.Path(sys.argv[1]).touch(); signal.pause()",
]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000_000)


@pytest.fixture(params=["dry-run", "processes"])
def actuator(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Actuator]:
    if request.param == "dry-run":
        yield DryRunActuator(clock)
        return
    yield ProcessActuator(tmp_path, clock, [*SERVES_AT_ONCE, "{ready}"])
    stop_all(tmp_path)


def test_a_target_never_seen_has_no_replicas(actuator: Actuator) -> None:
    """And observing it changes nothing."""
    fleet = actuator.observe(TARGET)
    assert (fleet.desired, fleet.ready, fleet.starting) == (0, 0, 0)


def test_an_applied_count_is_what_is_observed(actuator: Actuator) -> None:
    """Level-based: what is wanted, whoever asked."""
    actuator.apply(TARGET, decision(2))
    fleet = actuator.observe(TARGET)
    assert (fleet.desired, fleet.ready + fleet.starting) == (2, 2)


def test_applying_twice_equals_applying_once(actuator: Actuator) -> None:
    """No second pair of replicas."""
    actuator.apply(TARGET, decision(2))
    fleet = actuator.apply(TARGET, decision(2))
    assert (fleet.desired, fleet.ready + fleet.starting) == (2, 2)


def test_an_expired_decision_is_refused(actuator: Actuator, clock: ManualClock) -> None:
    """A controller that was stopped and continued comes too late."""
    late = decision(3, expires_us=clock.now_us() + 5)
    clock.advance(1)
    with pytest.raises(DecisionRefused, match="expired"):
        actuator.apply(TARGET, late)
    assert actuator.observe(TARGET).desired == 0


def test_a_lower_epoch_is_refused_for_good(actuator: Actuator) -> None:
    """The successor has spoken."""
    actuator.apply(TARGET, decision(1, epoch=7))
    with pytest.raises(DecisionRefused, match="epoch 6"):
        actuator.apply(TARGET, decision(3, epoch=6, time_us=99))
    assert actuator.observe(TARGET).desired == 1


def test_an_older_decision_of_the_same_epoch_is_refused(actuator: Actuator) -> None:
    """Two calls that overtook each other."""
    actuator.apply(TARGET, decision(1, time_us=20))
    with pytest.raises(DecisionRefused, match="older"):
        actuator.apply(TARGET, decision(3, time_us=10))


def test_targets_are_fenced_apart(actuator: Actuator) -> None:
    """One target's epoch says nothing about another's."""
    actuator.apply(TARGET, decision(1, epoch=7))
    assert actuator.apply(Target("api"), decision(1, epoch=1)).desired == 1
