"""HTTP/1.1 (RFC 9112) as a core: bytes in, requests out; no I/O, no clock.

The grammar is llhttp's, the parser of Node.js, in its strict form (package ``httptools``). Beyond it, what could be
understood in two ways is refused, because what follows on such a connection cannot be told apart from a smuggled request:
any transfer coding but ``chunked``, and one in HTTP/1.0. A request to change the protocol (``Upgrade: h2c``) is answered
as if it had not asked, which RFC 9110, section 7.8, allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import httptools

MAX_HEAD: Final = 16 << 10
"""Bytes of a request line and its headers; chosen as twice what common servers take."""


class BadRequest(ValueError):
    """What came in is no request that can be read; the connection cannot be used any more."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Head:
    """A request line and its headers (names in lower case; several of one name joined by commas)."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    length: int | None
    """Bytes of the body; None if it comes in chunks."""
    keep_alive: bool
    expects: bool
    """The client waits for ``100 Continue`` before it sends the body."""


class Sink(Protocol):
    """What a parser tells, in this order for each request: ``head``, any number of ``body``, ``end``."""

    def head(self, head: Head) -> None: ...
    def body(self, part: bytes) -> None: ...
    def end(self) -> None: ...


class Parser:
    """Turns the bytes of one connection into calls of a ``Sink``. Holds at most a head, never a body."""

    def __init__(self, sink: Sink, max_head: int = MAX_HEAD) -> None:
        self._sink = sink
        self._max_head = max_head
        self._parser = httptools.HttpRequestParser(self)
        self._unheard = 0
        """Bytes fed since something was told: of an unfinished head, of the sizes of chunks, of trailers."""
        self._framing = b""
        self._silent = False
        self._begin()

    def _begin(self) -> None:
        self.between = True
        """Nothing of a request has been fed that has not ended."""
        self._target = b""
        self._headers: dict[str, str] = {}
        self._size = 0
        self._in_head = True

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises ``BadRequest``; then nothing more may be fed."""
        self._unheard += len(data)
        while data:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._stay_with_http1()
            except httptools.HttpParserCallbackError as error:
                raise error.__context__ or error from None
            except httptools.HttpParserError as error:
                raise BadRequest(400, f"this is not HTTP/1.1: {error}") from None
        if self.between:
            self._unheard = 0
        elif self._unheard > self._max_head:
            raise self._too_large()

    def _stay_with_http1(self) -> None:
        """llhttp leaves the rest of the connection to the protocol that was asked for, the request's body included: a new
        parser takes over, which is told how the body is framed by a head of which nobody hears."""
        self._parser = httptools.HttpRequestParser(self)
        if self._framing:
            framing, self._framing = self._framing, b""
            self._silent = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
            self._silent = False

    # What the parser of bytes calls.

    def on_message_begin(self) -> None:
        if not self._silent:
            self._begin()
            self.between = False

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, raw_name: bytes, raw_value: bytes) -> None:
        self._size += len(raw_name) + len(raw_value) + 4  # a colon, a space, the end of the line
        if not self._in_head or self._silent:
            return  # nothing here needs a trailer
        if self._size + len(self._target) > self._max_head:
            raise self._too_large()
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip()
        self._headers[name] = f"{self._headers[name]}, {value}" if name in self._headers else value

    def on_headers_complete(self) -> None:
        if self._silent:
            return
        self._unheard, self._in_head = 0, False
        if len(self._target) > self._max_head:
            raise self._too_large()
        head = self._head()
        if self._parser.should_upgrade() and head.length != 0:
            self._framing = (
                b"transfer-encoding: chunked" if head.length is None else b"content-length: %d" % head.length
            )
        self._sink.head(head)

    def on_body(self, part: bytes) -> None:
        self._unheard = 0
        self._sink.body(part)

    def on_message_complete(self) -> None:
        if self._framing:
            return  # its body is still to come, see ``_stay_with_http1``
        self._unheard = 0
        self.between = True
        self._sink.end()

    def _head(self) -> Head:
        headers, version = self._headers, self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise BadRequest(400, f"HTTP/{version} is not spoken here; use HTTP/1.1")
        if version == "1.1" and "host" not in headers:
            raise BadRequest(400, "a request of HTTP/1.1 must have a Host header")
        path, _, query = self._target.decode("latin-1").partition("?")
        return Head(
            method=self._parser.get_method().decode(),
            path=path,
            query=query,
            headers=headers,
            length=_length(headers, version),
            keep_alive=self._parser.should_keep_alive(),
            expects=version == "1.1" and headers.get("expect", "").lower() == "100-continue",
        )

    def _too_large(self) -> BadRequest:
        limit = f"{self._max_head:,} bytes"
        return BadRequest(431, f"the request line and the headers have more than {limit}; send fewer")


def _length(headers: Mapping[str, str], version: str) -> int | None:
    coding = headers.get("transfer-encoding")
    if coding is None:
        return int(headers.get("content-length", "0"))
    if coding.lower() != "chunked" or version == "1.0":
        raise BadRequest(400, "a body comes either with its length or in chunks, and in no other coding")
    return None
