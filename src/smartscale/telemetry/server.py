"""Answers ``/healthz``, ``/readyz`` and ``/metrics`` for a process that has no HTTP of its own."""

from __future__ import annotations

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from smartscale.errors import UserError
from smartscale.telemetry.health import Health


class HealthServer:
    """A small server in a thread of its own, for the length of a ``with`` block.

    Answers 200 while alive or ready, else 503, with the reason as text. ``port`` 0 takes any free port;
    ``.port`` tells which. Raises ``UserError`` if the port is taken.
    """

    def __init__(self, health: Health, port: int, host: str = "127.0.0.1") -> None:
        class Handler(_Handler):
            about = health

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise UserError(
                f"port {port} on {host} cannot be used for the health of {health.stage}: {error.strerror}; "
                "choose another with --port (0 takes any free one)"
            ) from error
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    about: Health

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/healthz":
                self._answer(*self.about.is_healthy)
            case "/readyz":
                self._answer(*self.about.is_ready)
            case "/metrics":
                self._send(HTTPStatus.OK, generate_latest(self.about.registry), CONTENT_TYPE_LATEST)
            case _:
                self._send(HTTPStatus.NOT_FOUND, b"try /healthz, /readyz or /metrics\n")

    def _answer(self, good: bool, reason: str) -> None:
        self._send(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n".encode())

    def _send(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Probes every second are not worth a line each."""
