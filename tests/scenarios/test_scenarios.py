"""Every ``*.yaml`` beside this file is a scenario for the controller. Adding a case is adding a file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from smartscale.control.decide import replay
from smartscale.testing.policies import policy
from smartscale.testing.scenarios import Scenario, play

FILES = sorted(Path(__file__).parent.glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_scenario(file: Path) -> None:
    """Replicas stay in the ranges that the file allows; overload and reversals stay below its limits."""
    scenario = msgspec.yaml.decode(file.read_bytes(), type=Scenario)
    trace = play(scenario)
    for expected in scenario.expect:
        low, high = expected.replicas
        seen = trace.wanted[expected.from_s : expected.to_s]
        assert low <= min(seen), f"{expected}: {min(seen)} at {expected.from_s + seen.index(min(seen))} s"
        assert max(seen) <= high, f"{expected}: {max(seen)} at {expected.from_s + seen.index(max(seen))} s"
    assert trace.overload_s <= scenario.max_overload_s
    assert trace.reversals <= scenario.max_reversals
    rules = policy(**scenario.policy)
    for decision in trace.decisions:
        assert replay(decision, rules) == decision
        assert rules.spec.min_replicas <= decision.desired <= rules.spec.max_replicas or decision.current == 0


def test_there_are_scenarios() -> None:
    """A renamed folder must not turn the suite green."""
    assert len(FILES) >= 8
