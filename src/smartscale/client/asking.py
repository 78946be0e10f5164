"""One HTTP request and its answer, for commands that ask now and then; load goes through ``poster``."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass

from smartscale.client.address import Address

TIMEOUT_S = 30.0
"""Real. Longer than any answer of a healthy server takes."""


@dataclass(frozen=True, slots=True)
class Reply:
    """``status`` 0: there was no answer, and ``body`` names the reason. Header names are as they came."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def ask(
    at: Address,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One attempt; ``path`` is below the address's prefix. Never raises for what the network does."""
    kind = http.client.HTTPSConnection if at.scheme == "https" else http.client.HTTPConnection
    connection = kind(at.host, at.port, timeout=TIMEOUT_S)
    try:
        connection.request(method, at.prefix + path, body, dict(headers or {}))
        response = connection.getresponse()
        return Reply(response.status, response.read(), dict(response.headers))
    except (OSError, http.client.HTTPException) as error:
        return Reply(0, f"{type(error).__name__}: {error}".encode(), {})
    finally:
        connection.close()
