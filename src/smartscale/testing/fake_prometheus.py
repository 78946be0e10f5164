"""A Prometheus that answers range queries as the real one (2.42) was seen to: for tests of whoever asks it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs

Series = Callable[[float], float | None]
"""Value at a Unix time; None where there is none."""
MOST_POINTS = 11_000


class FakePrometheus:
    """``series`` by their labels are the answer to every query but ``bad(``, which it cannot parse.

    ``asked`` keeps the forms that came, ``tokens`` their Authorization headers."""

    def __init__(self, series: Mapping[tuple[tuple[str, str], ...], Series]) -> None:
        self.series = series
        self.asked: list[dict[str, str]] = []
        self.tokens: list[str | None] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[0] for name, values in parse_qs(text).items()}
                fake.asked.append(form)
                fake.tokens.append(self.headers.get("Authorization"))
                status, answer = fake.answer(form)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, form: Mapping[str, str]) -> tuple[int, dict[str, object]]:
        """Status and body."""
        start, end, step = (float(form[name]) for name in ("start", "end", "step"))
        count = int((end - start) / step + 1e-9) + 1
        if form["query"] == "bad(":
            return 400, _refusal("1:5: parse error: unclosed left parenthesis")
        if count > MOST_POINTS:
            return 400, _refusal("exceeded maximum resolution of 11,000 points per timeseries.")
        times = [start + i * step for i in range(count)]
        result = [
            {
                "metric": dict(labels),
                "values": [[at, str(value)] for at in times if (value := of(at)) is not None],
            }
            for labels, of in self.series.items()
        ]
        return 200, {"status": "success", "data": {"resultType": "matrix", "result": result}}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _refusal(why: str) -> dict[str, object]:
    return {"status": "error", "errorType": "bad_data", "error": why}
