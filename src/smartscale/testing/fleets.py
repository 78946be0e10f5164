"""Decisions for actuators, and waiting for processes, in tests."""

from __future__ import annotations

import threading
from collections.abc import Callable

from smartscale.clock import monotonic_s
from smartscale.records.decisions import Decision

FAR = 2**60
"""World time that no test reaches."""


def decision(desired: int, *, epoch: int = 1, time_us: int = 0, expires_us: int = FAR) -> Decision:
    """A decision to have ``desired`` replicas of ``shop``."""
    return Decision(
        id=f"shop-{epoch}-{time_us}",
        policy="shop",
        tenant="default",
        service="shop",
        time_us=time_us,
        expires_us=expires_us,
        epoch=epoch,
        mode="Auto",
        current=0,
        recommended=desired,
        desired=desired,
        act=True,
        demands=[],
        clamps=[],
        conditions=[],
        reason="Test: asked for",
        capacity_per_replica=1.0,
    )


def until(condition: Callable[[], bool], what: str, deadline_s: float = 15.0) -> None:
    """Wait until ``condition`` holds; AssertionError naming ``what`` after ``deadline_s`` real seconds.

    For outside processes, which offer nothing to wait on."""
    end_s = monotonic_s() + deadline_s
    pause = threading.Event()
    while not condition():
        assert monotonic_s() < end_s, f"not within {deadline_s:g} s: {what}"
        pause.wait(0.02)
