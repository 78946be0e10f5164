"""The one place where the parts are joined: a stage's name becomes a running process.

Exit codes of a process: 0 stopped cleanly, 2 the input is wrong (a person must act), 3 it cannot go on (a
restart may help), 4 ended because its supervisor was gone.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Final

import msgspec
from prometheus_client import ProcessCollector

from smartscale.clock import Anchor, Clock, ScaledClock, WallClock, monotonic_s
from smartscale.config import Settings
from smartscale.errors import ConfigError, RetryableError, SmartScaleError, UserError
from smartscale.lean import return_large_blocks, without_pandas
from smartscale.log import layout, open_log
from smartscale.log.port import Log, Message, TopicPartition, append_all
from smartscale.log.topics import specs
from smartscale.records import schema, topics
from smartscale.stage import Context
from smartscale.telemetry import lifeline
from smartscale.telemetry.health import Health
from smartscale.telemetry.server import HealthServer

log = logging.getLogger(__name__)

Run = Callable[[Context], None]

CLEAN: Final = 0
WRONG_INPUT: Final = 2
CANNOT_GO_ON: Final = 3

STAGES: Final = {
    "ingest": "smartscale.ingest.service",
    "combine": "smartscale.stream.combine.service",
    "window": "smartscale.stream.window.service",
    "ml": "smartscale.ml.service",
    "control": "smartscale.control.service",
}
"""Every stage and the module whose ``run(context)`` it is; imported only when it is to run."""

PATIENCE_S: Final = 5.0
"""Real seconds that new topics get; a broker elects their leaders within milliseconds."""

_CLOCK_AT: Final = TopicPartition(topics.CLOCK, 0)


def stage(name: str) -> Run:
    """The stage's function."""
    if name == "ingest":
        without_pandas()
        return_large_blocks()
    run: Run = importlib.import_module(STAGES[name]).run
    return run


def opened(settings: Settings) -> Log:
    """The event log that the settings name; the caller closes it."""
    return open_log(settings.log, settings.kafka)


def prepare(event_log: Log, settings: Settings) -> None:
    """Create and verify every topic, and wait until they can be used (a new topic on Kafka has no leader yet).

    ``topics.events`` is the least number of partitions: ``events`` may have been given more. Whoever finds that it has
    grown makes the edges spread ids over all of it. Raises ``TopicMismatch``, or ``RetryableError`` if the log cannot be
    reached."""
    there = event_log.topics().get(topics.EVENTS)
    event_log.create(specs(settings, at_least=there.partitions if there else 0))
    began_s = monotonic_s()
    while True:
        try:
            for name, spec in event_log.topics().items():
                event_log.bounds([TopicPartition(name, p) for p in range(spec.partitions)])
            if (grown := layout.agree(event_log)) is not None and grown.before:
                log.info(
                    "ids are spread over %d partitions of events from now on, not %d",
                    grown.partitions,
                    grown.before,
                )
            return
        except RetryableError as error:
            if monotonic_s() - began_s > PATIENCE_S:
                raise
            threading.Event().wait(min(error.retry_after_s, 0.2))


def open_clock(event_log: Log) -> Clock:
    """World time as this log has it: scaled if an anchor was written, else the wall clock."""
    anchor = read_anchor(event_log)
    return WallClock() if anchor is None else ScaledClock(anchor)


def read_anchor(event_log: Log) -> Anchor | None:
    """The anchor of the log's clock, or None where world time is the wall clock."""
    if topics.CLOCK not in event_log.topics():
        return None
    begin = event_log.bounds([_CLOCK_AT])[_CLOCK_AT].begin
    reader = event_log.reader()
    try:
        reader.assign({_CLOCK_AT: begin})
        while True:
            polled = reader.poll(1.0)
            for record in polled.records:
                if schema.schema_of(record.headers) == schema.ANCHOR:
                    return msgspec.json.decode(record.value, type=Anchor)
            if _CLOCK_AT in polled.ends:
                return None
    finally:
        reader.close()


def write_anchor(event_log: Log, anchor: Anchor) -> Anchor:
    """Set the log's clock, once: the first anchor stays for the log's life. Gives the one that holds.

    Raises ``ConfigError`` if one of another speed is there, or events by the wall clock are: their times would
    not agree with it.
    """
    there = read_anchor(event_log)
    if there is not None:
        if there.speed != anchor.speed:
            raise ConfigError(
                f"this log's clock runs at speed {there.speed:g} and cannot change to {anchor.speed:g}: "
                "start with a fresh log (--log), or without --speed"
            )
        return there
    partitions = [
        TopicPartition(topics.EVENTS, p) for p in range(event_log.topics()[topics.EVENTS].partitions)
    ]
    if any(bounds.end > 0 for bounds in event_log.bounds(partitions).values()):
        raise ConfigError(
            "this log already holds events by the wall clock, so its clock cannot be scaled: "
            "start with a fresh log (--log), or without --speed and --replay"
        )
    message = Message(topics.CLOCK, 0, msgspec.json.encode(anchor), headers=schema.headers(schema.ANCHOR))
    append_all(event_log, [message])
    return read_anchor(event_log) or anchor


def run_stage(
    name: str, settings: Settings, slot: str = "0", port: int | None = 0, run: Run | None = None
) -> int:
    """Run a stage in this process until SIGTERM, SIGINT or the loss of its supervisor; gives the exit code.

    ``port`` serves ``/healthz``, ``/readyz`` and ``/metrics`` (0: any free one; None: the stage serves them
    itself). ``run`` stands in for the stage of that name. The log must have its topics (``smartscale topics``).
    """
    stop = threading.Event()
    stop_on_signals(stop)
    try:
        lifeline.watch(stop)
        health = Health(name)
        ProcessCollector(registry=health.registry)
        with ExitStack() as stack:
            if port is not None:
                server = stack.enter_context(HealthServer(health, port))
                log.info("health and metrics on http://127.0.0.1:%d", server.port)
            event_log = opened(settings)
            stack.callback(event_log.close)
            _check_topics(event_log, settings)
            context = Context(event_log, open_clock(event_log), settings, stop, health, slot)
            try:
                (run or stage(name))(context)
            except Exception as error:
                health.failed(str(error))
                raise
    except UserError as error:
        log.error("%s", error)
        return WRONG_INPUT
    except RetryableError as error:
        log.error("%s", error)
        return CANNOT_GO_ON
    except SmartScaleError as error:
        log.exception("%s", error)
        return CANNOT_GO_ON
    except Exception:
        log.exception("%s failed: this is a bug", name)
        return CANNOT_GO_ON
    log.info("stopped cleanly")
    return CLEAN


def _check_topics(event_log: Log, settings: Settings) -> None:
    there = event_log.topics()
    missing = [spec.name for spec in specs(settings) if spec.name not in there]
    if missing:
        raise UserError(
            f"{settings.log} lacks the topics {', '.join(missing)}: create them with `smartscale topics --log ADDRESS`"
        )


def stop_on_signals(stop: threading.Event) -> None:
    """The first signal stops in good order; a second one has its usual effect, at once.

    The handler only writes to a pipe and a thread sets the event: a handler that did so itself could meet its
    own thread inside ``Event.wait``, holding the event's lock.
    """
    read_end, write_end = os.pipe()

    def handle(number: int, _frame: FrameType | None) -> None:
        os.write(write_end, b"x")
        signal.signal(number, signal.SIG_DFL)

    def wait() -> None:
        os.read(read_end, 1)
        stop.set()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
