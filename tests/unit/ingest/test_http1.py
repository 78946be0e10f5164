"""HTTP/1.1: the same requests however the bytes are cut; what is not of the grammar is refused."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.ingest.http1 import MAX_HEAD, BadRequest, Head, Parser, parse_head

PIPELINE = (
    b"POST /v1/events?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-A: 1\r\nx-a:  2 \r\n\r\nhello"
    b"\r\n\r\nGET /healthz HTTP/1.0\r\n\r\n"
    b"POST /v1/events HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    b"4\r\nwiki\r\nA;ext=1\r\n\r\npedia in\r\n0\r\nTrailer: x\r\n\r\n"
    b"PUT / HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n"
)


class Heard:
    """A sink that remembers requests as (head, body)."""

    def __init__(self) -> None:
        self.requests: list[tuple[Head, bytes]] = []
        self._head: Head | None = None
        self._body = b""

    def head(self, head: Head) -> None:
        assert self._head is None
        self._head, self._body = head, b""

    def body(self, part: bytes) -> None:
        assert part
        self._body += part

    def end(self) -> None:
        assert self._head is not None
        self.requests.append((self._head, self._body))
        self._head = None


def fed(*parts: bytes) -> list[tuple[Head, bytes]]:
    heard = Heard()
    parser = Parser(heard)
    for part in parts:
        parser.feed(part)
    return heard.requests


def test_requests_are_read_one_after_the_other() -> None:
    """With a length, without a body, in chunks; empty lines between them are skipped."""
    (first, hello), (second, none), (third, wiki), (fourth, _) = fed(PIPELINE)
    assert (first.method, first.path, first.query, first.length) == ("POST", "/v1/events", "x=1", 5)
    assert first.headers["x-a"] == "1, 2"
    assert (hello, none, wiki) == (b"hello", b"", b"wiki\r\npedia in")
    assert (second.path, second.keep_alive) == ("/healthz", False)
    assert (third.length, third.keep_alive) == (None, True)
    assert not fourth.keep_alive


@given(st.lists(st.integers(0, len(PIPELINE)), max_size=12))
def test_how_the_bytes_are_cut_changes_nothing(cuts: list[int]) -> None:
    bounds = sorted({0, *cuts, len(PIPELINE)})
    assert fed(*(PIPELINE[a:b] for a, b in pairwise(bounds))) == fed(PIPELINE)


def test_between_requests_nothing_is_held() -> None:
    parser = Parser(Heard())
    assert parser.between
    for place in range(len(PIPELINE)):
        parser.feed(PIPELINE[place : place + 1])
    assert parser.between
    parser.feed(b"G")
    assert not parser.between


@pytest.mark.parametrize(
    "text",
    [
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/2.0\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost : a\r\n\r\n",  # a space before the colon
        b"GET / HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\nx: b\r\n\r\n",  # a bare line feed
        b"GET / HTTP/1.1\r\nhost: a\x00\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5_0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + b"1" * 2000,
        b"GET / HTTP/1.1\r\nhost: " + b"a" * MAX_HEAD,
    ],
)
def test_what_is_not_of_the_grammar_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequest):
        fed(text)


def test_equal_lengths_are_one() -> None:
    """RFC 9112, section 6.3."""
    text = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 5\r\n"
    assert parse_head(text).length == 5


@given(st.binary(max_size=300), st.integers(0, 300))
def test_no_bytes_break_the_parser(text: bytes, cut: int) -> None:
    for start in (b"", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"):
        with suppress(BadRequest):
            fed(start, text[:cut], text[cut:])
