"""The actuator: what changes the world on behalf of a decision.

Guarantees every adapter gives (``tests/contract/test_actuators.py`` holds each of them to it):

1. **Fenced.** ``apply`` refuses a decision that has expired, one of a lower epoch than it has ever seen for the
   target, and one older than the last it carried out. The check lives where the write happens and survives the
   controller, so a controller that was stopped and continued changes nothing.
2. **Idempotent.** Applying a decision twice equals applying it once.
3. **Bounded.** Every call returns or raises within ``CALL_S`` real seconds; it does not wait for replicas to
   become ready or to drain.
4. **Level-based.** ``observe`` tells what is wanted now, whoever asked for it.

Safe to call from several threads.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from smartscale.clock import iso
from smartscale.errors import PermanentError
from smartscale.records.decisions import Decision

CALL_S: Final = 10.0
"""Real seconds a call may take; chosen to be shorter than a group member's session."""


class DecisionRefused(PermanentError):
    """The decision must not be carried out any more. A newer one may be."""


class Target(msgspec.Struct, frozen=True):
    """What is scaled. ``command`` starts one replica (processes only; empty: the actuator's default)."""

    name: str
    command: tuple[str, ...] = ()


class Fleet(msgspec.Struct, frozen=True):
    """Replicas of a target: wanted, serving, started but not yet serving, on their way out.

    ``lead_time_s`` is the median world time from start to ready of those serving; None while unknown."""

    desired: int
    ready: int
    starting: int = 0
    draining: int = 0
    lead_time_s: float | None = None


class Fence(msgspec.Struct, frozen=True):
    """The last decision carried out for a target."""

    epoch: int = 0
    time_us: int = 0
    decision: str = ""


class Actuator(Protocol):
    """Scales targets of one kind."""

    def observe(self, target: Target) -> Fleet:
        """The fleet now; all zero for a target never seen. Raises ``RetryableError``."""
        ...

    def apply(self, target: Target, decision: Decision) -> Fleet:
        """Make ``decision.desired`` the wanted count and begin to reach it.

        Raises ``DecisionRefused`` (guarantee 1) or ``RetryableError`` (a later call may work)."""
        ...


def fenced(fence: Fence, target: Target, decision: Decision, now_us: int) -> Fence:
    """The fence after ``decision``; raises ``DecisionRefused`` if it must not be carried out (guarantee 1)."""
    what = f"decision {decision.id} for {target.name}"
    if now_us >= decision.expires_us:
        raise DecisionRefused(f"{what} expired at {iso(decision.expires_us)}: a newer one will follow")
    if decision.epoch < fence.epoch:
        raise DecisionRefused(
            f"{what} is of epoch {decision.epoch}, and {fence.decision} of epoch {fence.epoch} was carried out: "
            f"another controller owns the target (or the log is new: then remove the target's old registry)"
        )
    if decision.epoch == fence.epoch and decision.time_us < fence.time_us:
        raise DecisionRefused(f"{what} is older than {fence.decision}, which was carried out")
    return Fence(decision.epoch, decision.time_us, decision.id)
