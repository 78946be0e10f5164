"""What every stage is given. A stage is a function ``run(context)`` that works until ``context.stop`` is set."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smartscale.clock import Clock
from smartscale.config import Settings
from smartscale.errors import RetryableError
from smartscale.log.port import Log, Worker
from smartscale.telemetry.health import Health

LOG = logging.getLogger(__name__)


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


def keep_working(
    context: Context,
    group: str,
    inputs: Sequence[str],
    turn: Callable[[Worker], None],
    start_over: Callable[[], None] = lambda: None,
) -> None:
    """Be a member of ``group`` and take one turn after the other until ``context.stop`` is set.

    After a ``RetryableError`` the reason is told, ``start_over`` drops what the stage holds in memory, and the worker is
    rewound: its next poll reports what is still owned, from the committed positions. Any other error ends the stage."""
    worker: Worker | None = None
    try:
        while not context.stop.is_set():
            try:
                if worker is None:
                    worker = context.log.worker(group, inputs, context.slot)
                turn(worker)
                context.health.ready()
            except RetryableError as error:
                LOG.warning(
                    "%s waits %g s, then goes on from the committed positions: %s",
                    group,
                    error.retry_after_s,
                    error,
                )
                context.health.not_ready(str(error))
                start_over()
                context.stop.wait(error.retry_after_s)
                if worker is not None:
                    worker.rewind()
    finally:
        if worker is not None:
            worker.close()
