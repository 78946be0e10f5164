"""HTTP/1.1: the same requests however the bytes are cut; what is not of the grammar is refused."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.ingest.http1 import MAX_HEAD, BadRequest, Head, Parser

PIPELINE = (
    b"POST /v1/events?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-A: 1\r\nx-a:  2 \r\n\r\nhello"
    b"\r\n\r\nGET /healthz HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"
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
    assert (second.path, second.keep_alive) == ("/healthz", True)
    assert (third.length, third.keep_alive) == (None, True)
    assert not fourth.keep_alive


@given(st.lists(st.integers(0, len(PIPELINE)), max_size=12))
def test_how_the_bytes_are_cut_changes_nothing(cuts: list[int]) -> None:
    bounds = sorted({0, *cuts, len(PIPELINE)})
    assert fed(*(PIPELINE[a:b] for a, b in pairwise(bounds))) == fed(PIPELINE)


def test_between_requests_nothing_is_held() -> None:
    parser = Parser(Heard())
    assert parser.between
    text = PIPELINE.replace(b"connection: close\r\n", b"")
    for place in range(len(text)):
        parser.feed(text[place : place + 1])
    assert parser.between
    parser.feed(b"G")
    assert not parser.between


@pytest.mark.parametrize(
    "text",
    [
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/2.0\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost : a\r\n\r\n",  # a space before the colon
        b"GET / HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\nx: b\r\n\r\n",  # a bare line feed
        b"GET / HTTP/1.1\r\nhost: a\x00\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
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


def test_a_request_to_change_the_protocol_is_answered_as_any_other() -> None:
    """Java's client asks for HTTP/2 at first; what follows on the connection is still HTTP/1.1."""
    ask = b"host: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n"
    post = b"POST /v1/events HTTP/1.1\r\n" + ask + b"content-length: 2\r\n\r\nhi"
    chunked = (
        b"POST /v1/events HTTP/1.1\r\n" + ask + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    )
    text = post + chunked + b"GET / HTTP/1.1\r\n" + ask + b"\r\n" + PIPELINE
    heard = fed(text)
    assert [body for _, body in heard[:3]] == [b"hi", b"hi", b""]
    assert len(heard) == 7
    assert fed(*(text[at : at + 1] for at in range(len(text)))) == heard


@pytest.mark.parametrize("endless", [b"GET /" + b"a" * 100, b"GET / HTTP/1.1\r\nhost: " + b"a" * 100])
def test_a_head_that_does_not_end_is_held_to_its_bound(endless: bytes) -> None:
    parser = Parser(Heard())
    parser.feed(endless)
    with pytest.raises(BadRequest, match="more than") as refused:
        for _ in range(MAX_HEAD // 100 + 1):
            parser.feed(b"a" * 100)
    assert refused.value.status == 431


def test_trailers_that_do_not_end_are_held_to_the_bound_of_a_head() -> None:
    parser = Parser(Heard())
    parser.feed(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n")
    with pytest.raises(BadRequest):
        for _ in range(MAX_HEAD // 10 + 1):
            parser.feed(b"x: aaaaa\r\n")


@given(st.binary(max_size=300), st.integers(0, 300))
def test_no_bytes_break_the_parser(text: bytes, cut: int) -> None:
    for start in (b"", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"):
        with suppress(BadRequest):
            fed(start, text[:cut], text[cut:])
