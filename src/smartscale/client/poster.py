"""Posts one batch of events at a time and waits until it is answered."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from typing import Final

import msgspec

from smartscale.client.address import Address, Token
from smartscale.client.answers import AGAIN, retry_after_s
from smartscale.errors import RetryableError, UserError
from smartscale.records.events_json import EventIn


class Verdict(msgspec.Struct, frozen=True):
    """Of an event that was not taken; ``index`` is its place in the batch."""

    index: int
    verdict: str
    reason: str


class Fate(msgspec.Struct, frozen=True):
    """What became of a batch: each of its events is in the log now, was there before, or was refused."""

    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    verdicts: Sequence[Verdict] = ()


_VERDICTS: Final = frozenset({200, 202, 207, 400})
_TIMEOUT_S: Final = 30.0
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Fate).decode


class Poster:
    """One connection to the edge, kept open between batches. Not thread-safe."""

    def __init__(self, address: Address, token: Token | None) -> None:
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        self._address = address
        self._connection = kind(address.host, address.port, timeout=_TIMEOUT_S)
        self._headers = {"Content-Type": "application/json", **(token.headers() if token else {})}

    def post(self, events: Sequence[EventIn]) -> Fate:
        """Raises ``RetryableError`` if there is no answer or it says to come again (then with the same events),
        ``UserError`` if the edge will not take this from us at all."""
        where = self._address.netloc
        try:
            self._connection.request(
                "POST", f"{self._address.prefix}/v1/events", _encode(events), self._headers
            )
            response = self._connection.getresponse()
            status, text = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise RetryableError(f"no answer from {where}: {error!r}") from None
        if status in AGAIN:
            told = f"{where} answered {status}: {text[:200].decode(errors='replace')}"
            raise RetryableError(told, retry_after_s(response.headers.get("Retry-After")))
        try:
            if status in _VERDICTS:
                fate = _decode(text)
                if fate.accepted + fate.duplicate + fate.refused == len(events):
                    return fate
        except msgspec.MsgspecError:
            pass  # not the edge's answer: told below
        raise UserError(f"{where} answered {status}: {text[:300].decode(errors='replace')}")

    def close(self) -> None:
        self._connection.close()
