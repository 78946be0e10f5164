"""The ingestion service: takes events over HTTP and answers once they are durable in the log.

Stopping, step by step: nothing more is let in (503); what was let in is written and answered; a last heartbeat says
that this process leaves, so that nobody waits for it; the server closes.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Final, Literal

import uvloop

from smartscale.clock import MICROS
from smartscale.config import Ingest, Settings
from smartscale.errors import UserError
from smartscale.ingest.admission import Admission
from smartscale.ingest.batching import Packing
from smartscale.ingest.decode import Rules
from smartscale.ingest.http import App
from smartscale.ingest.server import Server
from smartscale.ingest.writer import Writer
from smartscale.records.events import Heartbeat
from smartscale.records.events_json import user_hasher
from smartscale.stage import Context

ANSWER_S: Final = 2.0
"""Real. How long the last answers may take to leave when stopping; a client that does not read is not waited for."""


def run(context: Context) -> None:
    """Serve until ``context.stop`` is set. Raises ``UserError`` if the port cannot be had, ``FatalLogError``."""
    uvloop.run(_serve(context))


async def _serve(context: Context) -> None:
    loop = asyncio.get_running_loop()
    ingest = context.settings.ingest
    process = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    admission = Admission(ingest.queue_bytes)
    stopping = asyncio.Event()
    writer = Writer(
        context.log,
        context.clock,
        context.health,
        _rules(context.settings),
        _packing(process, ingest),
        ingest.linger_ms / 1000,
        report=lambda outcomes: _tell(loop, lambda: app.settle(outcomes)),
        ended=lambda: _tell(loop, stopping.set),
    )
    app = App(context.settings, context.clock, context.health, admission, writer.put)

    def beat(leaving: bool = False) -> None:
        clock_us = context.clock.now_us()  # before the oldest is looked for
        writer.beat(Heartbeat(process, clock_us, admission.oldest_us(clock_us), leaving))

    def watch() -> None:
        context.stop.wait()
        _tell(loop, stopping.set)

    server = Server(app)
    await _listen(server, ingest.host, ingest.port)
    threading.Thread(target=watch, name="stop", daemon=True).start()
    writer.start()
    stop = asyncio.create_task(stopping.wait())
    while not stop.done():
        beat()
        await asyncio.wait({stop}, timeout=context.settings.time.heartbeat_s)
    context.health.not_ready("stopping")
    admission.closed = True
    beat(leaving=True)
    writer.close()
    await asyncio.to_thread(writer.join)
    await server.stop(ANSWER_S)
    if writer.failure is not None:
        raise writer.failure


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    """Run ``what`` on the loop, from another thread; nothing if the loop has ended and nobody waits any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(what)


def _packing(process: str, ingest: Ingest) -> Packing:
    compressions: Mapping[str, Literal["lz4", "zstd"] | None] = {"lz4": "lz4", "zstd": "zstd", "none": None}
    return Packing(process, ingest.record_events, compressions[ingest.compression])


def _rules(settings: Settings) -> Rules:
    ingest = settings.ingest
    return Rules(
        round(settings.time.max_future_s * MICROS),
        ingest.max_event_bytes,
        ingest.max_batch_events,
        ingest.max_body_bytes,
        user_hasher(ingest.user_key.encode()),
    )


async def _listen(server: Server, host: str, port: int) -> None:
    """Raises ``UserError`` if the address cannot be had."""
    try:
        await server.start(host, port)
    except socket.gaierror as error:
        raise UserError(
            f"setting ingest.host: {host!r} is no address of this machine: {error.strerror}"
        ) from error
    except OSError as error:
        what = (
            "is in use by another process"
            if error.errno == errno.EADDRINUSE
            else f"cannot be used: {error.strerror}"
        )
        raise UserError(
            f"port {port} on {host} {what}; choose another with --port (setting ingest.port)"
        ) from error
