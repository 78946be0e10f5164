"""The ingestion service: takes events over HTTP and answers once they are durable in the log.

Stopping, step by step: nothing more is let in (503); what was let in is written and answered; a last heartbeat says
that this process leaves, so that nobody waits for it; the server closes.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

import uvloop

from smartscale.clock import MICROS
from smartscale.config import Ingest, Settings
from smartscale.errors import UserError
from smartscale.ingest.access_log import AccessLog
from smartscale.ingest.admission import Admission
from smartscale.ingest.batching import Packing
from smartscale.ingest.cardinality import Guard
from smartscale.ingest.cardinality import Limits as Labels
from smartscale.ingest.decode import Rules
from smartscale.ingest.gate import Gate
from smartscale.ingest.http import App
from smartscale.ingest.limits import Limits, Screen
from smartscale.ingest.metrics import Metrics
from smartscale.ingest.refused import Letters
from smartscale.ingest.server import Bounds, Server
from smartscale.ingest.tls import tls_context
from smartscale.ingest.tokens import Quota
from smartscale.ingest.tokens_file import TokensFile
from smartscale.ingest.writer import Writer
from smartscale.records.events import Heartbeat
from smartscale.records.events_json import user_hasher
from smartscale.stage import Context

LOG = logging.getLogger(__name__)

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
    tokens = TokensFile(Path(ingest.tokens_file)) if ingest.tokens_file else None
    gate = Gate(
        admission,
        Quota(ingest.quota_events_per_s, ingest.quota_bytes_per_s),
        ingest.tenant_share,
        tokens.tokens if tokens else None,
    )
    access_log = _access_log(ingest)
    stopping = asyncio.Event()
    writer = Writer(
        context.log,
        context.clock,
        context.health,
        rules(context.settings),
        _packing(process, ingest),
        _screen(ingest),
        Letters(ingest.dead_letters_per_s),
        ingest.linger_ms / 1000,
        report=lambda outcomes: _tell(loop, lambda: app.settle(outcomes)),
        ended=lambda: _tell(loop, stopping.set),
    )
    app = App(context.settings, context.clock, context.health, admission, gate, writer.put, access_log)
    _more_metrics(app.metrics, tokens, access_log)

    def beat(leaving: bool = False) -> None:
        clock_us = context.clock.now_us()  # before the oldest is looked for
        writer.beat(Heartbeat(process, clock_us, admission.oldest_us(clock_us), leaving))

    def watch() -> None:
        context.stop.wait()
        _tell(loop, stopping.set)

    _allow_files(ingest.max_connections)
    server = Server(app, _bounds(ingest))
    await _listen(server, ingest.host, ingest.port, tls_context(ingest))
    _warn_if_open(ingest)
    threading.Thread(target=watch, name="stop", daemon=True).start()
    writer.start()
    gc.freeze()  # what is there now stays: a collection need not look at it again and again
    stop = asyncio.create_task(stopping.wait())
    while not stop.done():
        beat()
        if tokens is not None and tokens.refresh():
            gate.renew(tokens.tokens)
        await asyncio.wait({stop}, timeout=context.settings.time.heartbeat_s)
    context.health.not_ready("stopping")
    admission.closed = True
    beat(leaving=True)
    writer.close()
    await asyncio.to_thread(writer.join)
    await server.stop(ANSWER_S)
    if access_log is not None:
        await asyncio.to_thread(access_log.close)
    if writer.failure is not None:
        raise writer.failure


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    """Run ``what`` on the loop, from another thread; nothing if the loop has ended and nobody waits any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(what)


def _packing(process: str, ingest: Ingest) -> Packing:
    compressions: Mapping[str, Literal["lz4", "zstd"] | None] = {"lz4": "lz4", "zstd": "zstd", "none": None}
    return Packing(process, ingest.record_events, compressions[ingest.compression])


def rules(settings: Settings) -> Rules:
    """What is taken, as the settings say."""
    ingest = settings.ingest
    return Rules(
        round(settings.time.max_future_s * MICROS),
        ingest.max_event_bytes,
        ingest.max_batch_events,
        ingest.max_body_bytes,
        user_hasher(ingest.user_key.encode()),
    )


def _allow_files(connections: int) -> None:
    """Raise this process's limit of open files to what its connections need, as far as the system lets it; many start
    processes with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


_OTHER_FILES: Final = 256
"""Files and connections beside those of clients: the log's, Python's own."""


def _screen(ingest: Ingest) -> Screen:
    limits = Limits(
        ingest.max_label_chars, ingest.max_id_chars, ingest.max_attributes, ingest.max_attribute_bytes
    )
    return Screen(limits, Guard(Labels(ingest.max_services, ingest.max_names, ingest.label_ttl_s)))


def _bounds(ingest: Ingest) -> Bounds:
    return Bounds(
        ingest.header_timeout_s,
        ingest.body_timeout_s,
        ingest.idle_timeout_s,
        ingest.max_connections,
        ingest.max_header_bytes,
    )


def _access_log(ingest: Ingest) -> AccessLog | None:
    """Started. Raises ``UserError`` if the file cannot be opened."""
    if not ingest.access_log:
        return None
    try:
        log = AccessLog(Path(ingest.access_log), "json" if ingest.access_log_format == "json" else "text")
    except OSError as error:
        raise UserError(
            f"setting ingest.access_log: {ingest.access_log} cannot be written: {error.strerror}"
        ) from error
    log.start()
    return log


def _more_metrics(metrics: Metrics, tokens: TokensFile | None, access_log: AccessLog | None) -> None:
    if tokens is not None:
        metrics.gauge(
            "tokens_file_broken", "1 while the file of tokens has a mistake", lambda: bool(tokens.mistake)
        )
    if access_log is not None:
        metrics.gauge("access_log_dropped", "Lines that were not written", lambda: access_log.dropped)


def _warn_if_open(ingest: Ingest) -> None:
    if not ingest.tokens_file and ingest.host not in _LOOPBACK:
        LOG.warning(
            "ingest.host is %s and there are no tokens: whoever reaches port %d may send events; set ingest.tokens_file",
            ingest.host,
            ingest.port,
        )
    if ingest.tokens_file and not ingest.tls_certificate and ingest.host not in _LOOPBACK:
        LOG.warning(
            "ingest.host is %s and tokens travel in clear: set ingest.tls_certificate, or let a proxy speak TLS",
            ingest.host,
        )


_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


async def _listen(server: Server, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    """Raises ``UserError`` if the address cannot be had."""
    try:
        await server.start(host, port, context=tls)
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
