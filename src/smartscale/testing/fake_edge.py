"""An edge that answers as it is told: for tests of whoever sends events."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

Answer = tuple[int, dict[str, object]]
"""Status and body."""


def accept(given: list[dict[str, object]], duplicate: int = 0) -> Answer:
    """All are accepted but for ``duplicate`` of them."""
    return 200, {"accepted": len(given) - duplicate, "duplicate": duplicate, "refused": 0, "verdicts": []}


class FakeEdge:
    """Answers with ``answer(number of the request, its events)``; None closes the connection without one.

    ``requests`` and ``headers`` keep what came, a request an entry."""

    def __init__(self) -> None:
        self.requests: list[list[dict[str, object]]] = []
        self.headers: list[Mapping[str, str]] = []
        self.answer: Callable[[int, list[dict[str, object]]], Answer | None] = lambda _, given: accept(given)
        self.lock = threading.Lock()
        edge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                given = body if isinstance(body, list) else [body]
                with edge.lock:
                    edge.requests.append(given)
                    edge.headers.append(dict(self.headers.items()))
                    found = edge.answer(len(edge.requests), given)
                if found is None:
                    self.close_connection = True
                    return
                said = json.dumps(found[1]).encode()
                self.send_response(found[0])
                if found[0] in (429, 503):
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that goes away is no error."""
                if not isinstance(sys.exception(), ConnectionError):
                    super().handle_error(request, client_address)  # type: ignore[arg-type]  # as it was called

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def received(self) -> list[dict[str, object]]:
        """Every event that came, in the order of the requests."""
        return [event for request in self.requests for event in request]
