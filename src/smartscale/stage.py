"""What every stage is given. A stage is a function ``run(context)`` that works until ``context.stop`` is set."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from smartscale.clock import Clock
from smartscale.config import Settings
from smartscale.log.port import Log
from smartscale.telemetry.health import Health


@dataclass(frozen=True, slots=True)
class Context:
    """Everything a stage may touch. ``slot`` is stable for this process among those of its stage.

    ``run(context)`` returns after ``stop`` is set, having finished what it accepted; it raises
    ``PermanentError`` when it cannot go on (the process then ends, the supervisor starts it again).
    ``RetryableError`` is handled inside: back off, tell ``health``, carry on."""

    log: Log
    clock: Clock
    settings: Settings
    stop: threading.Event
    health: Health
    slot: str = "0"
