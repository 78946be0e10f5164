"""Calls to actuators, each target in a lane of its own: one that fails or hangs never delays another's decision."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final, NamedTuple

from smartscale.actuators.port import Actuator, DecisionRefused, Fleet, Target
from smartscale.clock import monotonic_s
from smartscale.control.policy import TargetRef
from smartscale.errors import SmartScaleError
from smartscale.records.decisions import Decision

log = logging.getLogger(__name__)

WORKERS: Final = 8
"""Calls at the same time; a call is bounded by the port (``CALL_S``), so a lane waits for a worker at most that
long however many targets hang."""


class Answer(NamedTuple):
    """What a target said: its fleet, or None; and what went wrong last."""

    fleet: Fleet | None
    error: str | None


class _Lane:
    """One target: at most one call at a time."""

    def __init__(self) -> None:
        self.call: Future[Fleet] | None = None
        self.began_s = 0.0
        self.apply_error: str | None = None

    @property
    def is_busy(self) -> bool:
        return self.call is not None and not self.call.done()


class Lanes:
    """The lanes of all targets, with the actuator of each kind."""

    def __init__(self, actuators: Mapping[str, Actuator]) -> None:
        self._actuators = actuators
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="actuator")

    def observe(self, refs: Iterable[TargetRef], timeout_s: float) -> dict[tuple[str, str], Answer]:
        """Every target's fleet, by kind and name; waits at most ``timeout_s`` real seconds in all."""
        asked: dict[tuple[str, str], Future[Fleet]] = {}
        answers: dict[tuple[str, str], Answer] = {}
        for ref in refs:
            key, lane = self._lane(ref)
            if lane.is_busy:
                text = f"the actuator has been busy for {monotonic_s() - lane.began_s:.0f} s"
                answers[key] = Answer(None, text)
                continue
            lane.began_s = monotonic_s()
            lane.call = asked[key] = self._pool.submit(self._actuators[ref.kind].observe, _target(ref))
        wait(asked.values(), timeout=timeout_s)
        for key, call in asked.items():
            fleet, error = _outcome(call)
            lane = self._lanes[key]
            answers[key] = Answer(fleet, error or lane.apply_error)
            lane.apply_error = (
                None  # told once: the next evaluation asks again if there is still something to do
            )
        return answers

    def apply(self, ref: TargetRef, decision: Decision) -> None:
        """Have ``decision`` carried out, without waiting; a failure is told by the next ``observe``."""
        key, lane = self._lane(ref)
        if lane.is_busy:
            lane.apply_error = f"{decision.id} was not carried out: the actuator is busy"
            return
        lane.began_s = monotonic_s()
        lane.call = self._pool.submit(self._actuators[ref.kind].apply, _target(ref), decision)
        lane.call.add_done_callback(lambda call: self._applied(key, decision, call))

    def close(self) -> None:
        """Begin no further call."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _lane(self, ref: TargetRef) -> tuple[tuple[str, str], _Lane]:
        key = ref.kind, ref.name
        return key, self._lanes.setdefault(key, _Lane())

    def _applied(self, key: tuple[str, str], decision: Decision, call: Future[Fleet]) -> None:
        _, error = _outcome(call)
        self._lanes[key].apply_error = error and f"{decision.id}: {error}"
        if error is None:
            log.info("%s: %s replicas, %s", decision.policy, decision.desired, decision.reason)
        else:
            log.warning("%s could not be carried out: %s", decision.id, error)


def _target(ref: TargetRef) -> Target:
    return Target(ref.name, tuple(ref.command or ()))


def _outcome(call: Future[Fleet]) -> tuple[Fleet | None, str | None]:
    """The call's fleet or what went wrong. A bug in an actuator is told with its traceback and stops nobody else."""
    if not call.done():
        return None, "the actuator has not answered in time"
    if call.cancelled():
        return None, "the controller is stopping"
    error = call.exception()
    if error is None:
        return call.result(), None
    if not isinstance(error, SmartScaleError):
        log.error("an actuator failed", exc_info=error)
    kind = "refused" if isinstance(error, DecisionRefused) else type(error).__name__
    return None, f"{kind}: {error}"
