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
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from smartscale.config import Ingest
from smartscale.errors import PermanentError, UserError
from smartscale.ingest.admission import Admission
from smartscale.ingest.batching import Packing
from smartscale.ingest.http import App
from smartscale.ingest.writer import Writer
from smartscale.records.events import Heartbeat
from smartscale.records.events_json import user_hasher
from smartscale.stage import Context

MAX_WAITING_BYTES: Final = 256 << 20
"""Bytes of bodies being read or waiting for their answer; chosen as sixteen bodies of the largest size."""
ANSWER_S: Final = 2.0
"""Real. How long the last answers may take to leave when stopping; a client that does not read is not waited for."""
BACKLOG: Final = 1024
"""Connections at a time; chosen as more than the senders of one edge keep open."""


def run(context: Context) -> None:
    """Serve until ``context.stop`` is set. Raises ``UserError`` if the port cannot be had, ``FatalLogError``."""
    _check_address(context.settings.ingest.host, context.settings.ingest.port)
    uvloop.run(_serve(context))


async def _serve(context: Context) -> None:
    loop = asyncio.get_running_loop()
    ingest = context.settings.ingest
    process = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    admission = Admission(ingest.queue_events, MAX_WAITING_BYTES)
    stopping = asyncio.Event()
    writer = Writer(
        context.log,
        context.clock,
        context.health,
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

    threading.Thread(target=watch, name="stop", daemon=True).start()
    writer.start()
    server = Server(
        app,
        address=_resolved(ingest.host),
        port=ingest.port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        backpressure=BACKLOG,
        log_enabled=False,
    )
    serving = asyncio.create_task(server.serve())
    stop = asyncio.create_task(stopping.wait())
    while not stop.done() and not serving.done():
        beat()
        await asyncio.wait(
            {stop, serving}, timeout=context.settings.time.heartbeat_s, return_when="FIRST_COMPLETED"
        )
    stop.cancel()
    context.health.not_ready("stopping")
    admission.closed = True
    beat(leaving=True)
    writer.close()
    await asyncio.to_thread(writer.join)
    await app.answered(ANSWER_S)
    if serving.done():
        raise PermanentError("the HTTP server ended by itself") from serving.exception()
    server.stop()  # type: ignore[no-untyped-call]  # granian has no annotation here
    await serving
    if writer.failure is not None:
        raise writer.failure


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    """Run ``what`` on the loop, from another thread; nothing if the loop has ended and nobody waits any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(what)


def _packing(process: str, ingest: Ingest) -> Packing:
    compressions: Mapping[str, Literal["lz4", "zstd"] | None] = {"lz4": "lz4", "zstd": "zstd", "none": None}
    hash_user = user_hasher(ingest.user_key.encode())
    return Packing(process, hash_user, ingest.record_events, compressions[ingest.compression])


def _resolved(host: str) -> str:
    """The address of a host name. Raises ``UserError``."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except socket.gaierror as error:
        raise UserError(
            f"setting ingest.host: {host!r} is no address of this machine: {error.strerror}"
        ) from error


def _check_address(host: str, port: int) -> None:
    """Raises ``UserError`` if nobody may listen there now.

    The server shares its port with any other that does the same, so the question must be asked without sharing."""
    address = _resolved(host)
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        what = (
            "is in use by another process"
            if error.errno == errno.EADDRINUSE
            else f"cannot be used: {error.strerror}"
        )
        raise UserError(
            f"port {port} on {host} {what}; choose another with --port (setting ingest.port)"
        ) from error
