"""An actuator that changes nothing but its own memory: for trying policies out, and the reference in tests."""

from __future__ import annotations

import threading

from smartscale.actuators.port import Fence, Fleet, Target, fenced
from smartscale.clock import Clock
from smartscale.records.decisions import Decision


class DryRunActuator:
    """Every replica asked for is ready at once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._fences: dict[str, Fence] = {}
        self._desired: dict[str, int] = {}

    def observe(self, target: Target) -> Fleet:
        with self._lock:
            return self._fleet(target)

    def apply(self, target: Target, decision: Decision) -> Fleet:
        with self._lock:
            fence = self._fences.get(target.name, Fence())
            self._fences[target.name] = fenced(fence, target, decision, self._clock.now_us())
            self._desired[target.name] = decision.desired
            return self._fleet(target)

    def _fleet(self, target: Target) -> Fleet:
        desired = self._desired.get(target.name, 0)
        return Fleet(desired=desired, ready=desired, lead_time_s=0.0)
