"""HTTP/1.1 (RFC 9112) as a core: bytes in, requests out; no I/O, no clock.

Strict where leniency has been abused: a head that is not exactly of the grammar, both a length and a transfer coding, two
different lengths, or any coding but ``chunked``, is refused and the connection closed, for what follows on it cannot be told
apart from a smuggled request.

Clients send the same head over and over, so heads are remembered once they have been parsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

MAX_HEAD: Final = 16 << 10
"""Bytes of a request line and its headers unless a parser is told otherwise; twice what common servers take."""
_MAX_LINE: Final = 1 << 10
"""Bytes of a chunk's size line or of a trailer; chosen because nobody needs either to be longer."""
_MAX_TRAILERS: Final = 64
_HEADS: Final = 256
"""Heads remembered, at most 4 MiB; chosen as more than the kinds of clients of one edge."""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*"
_HEAD: Final = re.compile(
    rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])\r\n((?:" + _TOKEN + rb":" + _VALUE + rb"\r\n)*)"
)
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):(" + _VALUE + rb")\r\n")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;" + _VALUE + rb")?")


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


@lru_cache(maxsize=_HEADS)
def parse_head(text: bytes) -> Head:
    """The head of a request, its empty last line left out. Raises ``BadRequest``."""
    match = _HEAD.fullmatch(text)
    if match is None:
        raise BadRequest(400, "the request line or a header is not of the form that HTTP/1.1 asks for")
    method, target, minor, fields = match.groups()
    headers: dict[str, str] = {}
    for raw_name, raw_value in _FIELD.findall(fields):
        name, value = raw_name.decode().lower(), raw_value.decode("latin-1").strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if minor == b"1" and "host" not in headers:
        raise BadRequest(400, "a request of HTTP/1.1 must have a Host header")
    path, _, query = target.decode().partition("?")
    connection = {word.strip() for word in headers.get("connection", "").lower().split(",")}
    keep_alive = "close" not in connection and (minor == b"1" or "keep-alive" in connection)
    expects = minor == b"1" and headers.get("expect", "").lower() == "100-continue"
    return Head(method.decode(), path, query, headers, _length(headers, minor), keep_alive, expects)


def _length(headers: Mapping[str, str], minor: bytes) -> int | None:
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked" or "content-length" in headers or minor == b"0":
            raise BadRequest(400, "a body comes either with its length or in chunks, and in no other coding")
        return None
    lengths = {each.strip() for each in headers.get("content-length", "0").split(",")}
    (length, *others) = lengths
    if others or not (length.isascii() and length.isdigit() and len(length) <= 15):
        raise BadRequest(400, "Content-Length must be one whole number")
    return int(length)


class Sink(Protocol):
    """What a parser tells, in this order for each request: ``head``, any number of ``body``, ``end``."""

    def head(self, head: Head) -> None: ...
    def body(self, part: bytes) -> None: ...
    def end(self) -> None: ...


class Parser:
    """Turns the bytes of one connection into calls of a ``Sink``. Holds at most a head, never a body."""

    def __init__(self, sink: Sink, max_head: int = MAX_HEAD) -> None:
        self._sink, self._max_head = sink, max_head
        self._rest = b""
        self._left = 0
        """Bytes of the body, or of the chunk, that are still to come."""
        self._state = _HEAD_NEXT
        self._trailers = 0

    @property
    def between(self) -> bool:
        """Nothing of a request has been fed that has not ended."""
        return self._state == _HEAD_NEXT and not self._rest

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises ``BadRequest``; then nothing more may be fed."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        at = 0
        while at < len(data):
            if self._state == _HEAD_NEXT:
                moved = self._head(data, at)
            elif self._state in (_BODY, _CHUNK_DATA):
                moved = self._part(data, at)
            else:
                moved = self._line(data, at)
            if moved < 0:
                self._rest = data[at:]
                return
            at = moved

    def _head(self, data: bytes, at: int) -> int:
        while data.startswith(b"\r\n", at):  # RFC 9112, section 2.2: empty lines before a request are skipped
            at += 2
        end = data.find(b"\r\n\r\n", at, at + self._max_head)
        if end < 0:
            if len(data) - at >= self._max_head:
                raise BadRequest(
                    431,
                    f"the request line and the headers have more than {self._max_head:,} bytes; send fewer",
                )
            return len(data) if at == len(data) else -1
        head = parse_head(data[at : end + 2])
        self._sink.head(head)
        if head.length is None:
            self._state, self._trailers = _CHUNK_SIZE, 0
        elif head.length:
            self._state, self._left = _BODY, head.length
        else:
            self._sink.end()
        return end + 4

    def _part(self, data: bytes, at: int) -> int:
        part = data[at : at + self._left]
        self._sink.body(part)
        self._left -= len(part)
        if not self._left:
            if self._state == _BODY:
                self._state = _HEAD_NEXT
                self._sink.end()
            else:
                self._state = _CHUNK_END
        return at + len(part)

    def _line(self, data: bytes, at: int) -> int:
        """A line of the chunked coding (RFC 9112, section 7.1)."""
        end = data.find(b"\r\n", at, at + _MAX_LINE)
        if end < 0:
            if len(data) - at >= _MAX_LINE:
                raise BadRequest(400, "a line of the chunked body is too long")
            return -1
        line = data[at:end]
        if self._state == _CHUNK_SIZE:
            match = _CHUNK.fullmatch(line)
            if match is None:
                raise BadRequest(400, "the size of a chunk is not a hexadecimal number")
            self._left = int(match[1], 16)
            self._state = _CHUNK_DATA if self._left else _TRAILER
        elif self._state == _CHUNK_END:
            if line:
                raise BadRequest(400, "a chunk is longer than its size")
            self._state = _CHUNK_SIZE
        elif not line:
            self._state = _HEAD_NEXT
            self._sink.end()
        else:
            self._trailers += 1
            if self._trailers > _MAX_TRAILERS:
                raise BadRequest(431, "too many trailers")
        return end + 2


_HEAD_NEXT, _BODY, _CHUNK_SIZE, _CHUNK_DATA, _CHUNK_END, _TRAILER = range(6)
