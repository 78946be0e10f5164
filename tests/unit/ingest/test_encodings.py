"""Content encodings: what goes in comes out, and a bomb is stopped at the limit."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from smartscale.ingest.encodings import Garbled, TooLong, UnknownEncoding, unpacked

LIMIT = 1 << 20
Pack = Callable[[bytes], bytes]
PACKERS: dict[str, Pack] = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}


def zstd_streamed(body: bytes) -> bytes:
    """As a client does that does not know the length beforehand: the frame does not state it."""
    stream = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_no_encoding_changes_nothing(encoding: str) -> None:
    assert unpacked(b"[]", encoding, 2) == b"[]"


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "zstd"])
@pytest.mark.parametrize("body", [b"", b"x", bytes(range(256)) * 300, b"a" * LIMIT])
def test_what_was_packed_comes_out(encoding: str, body: bytes) -> None:
    """Up to the limit itself."""
    pack = PACKERS["zstd" if encoding == "zstd" else "gzip"]
    assert unpacked(pack(body), encoding, LIMIT) == body


@pytest.mark.parametrize("encoding", PACKERS)
def test_several_members_or_frames_are_one_body(encoding: str) -> None:
    pack = PACKERS[encoding]
    assert unpacked(pack(b"ab") + pack(b"") + pack(b"cd"), encoding, 4) == b"abcd"


def test_a_zstd_body_of_unknown_length_is_read() -> None:
    assert unpacked(zstd_streamed(b"abc" * 1000), "zstd", LIMIT) == b"abc" * 1000
    with pytest.raises(TooLong):
        unpacked(zstd_streamed(b"abc" * 1000), "zstd", 2999)


@pytest.mark.parametrize("pack", [*PACKERS.items(), ("zstd", zstd_streamed)], ids=lambda pair: pair[0])
def test_a_bomb_is_stopped_at_the_limit(pack: tuple[str, Pack]) -> None:
    """A gigabyte's worth of zeros in a megabyte (gzip) or less: never more memory than the limit and a little."""
    encoding, packer = pack
    piece = packer(bytes(64 << 20))
    bomb = piece * 16
    tracemalloc.start()
    try:
        with pytest.raises(TooLong, match="once unpacked"):
            unpacked(bomb, encoding, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 2 * LIMIT + 2 * len(bomb)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_body_that_is_cut_off_or_something_else_is_told(encoding: str) -> None:
    """At every length, and with something behind it."""
    whole = PACKERS[encoding](b"some text, some text, some more text")
    for length in range(len(whole)):
        if encoding == "zstd" and length == 0:
            continue  # no frame at all is an empty body
        with pytest.raises(Garbled, match=f"not valid {encoding}"):
            unpacked(whole[:length], encoding, LIMIT)
    for wrong in (whole + b"x", b"[]", b"hello"):
        with pytest.raises(Garbled):
            unpacked(wrong, encoding, LIMIT)


def test_a_zstd_window_beyond_what_http_allows_is_refused() -> None:
    """RFC 9659: 8 MiB; the window would be the decoder's memory."""
    wide = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    with pytest.raises(Garbled):
        unpacked(stream.compress(b"x" * 100) + stream.flush(), "zstd", LIMIT)


def test_endless_empty_members_are_refused() -> None:
    with pytest.raises(Garbled, match="100 members"):
        unpacked(gzip.compress(b"") * 1000, "gzip", LIMIT)


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, zstd", "gzip,gzip", "nonsense"])
def test_other_encodings_are_told_which_are_read(encoding: str) -> None:
    with pytest.raises(UnknownEncoding, match="gzip, zstd"):
        unpacked(b"", encoding, LIMIT)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "zstd"]), st.data())
def test_no_bytes_break_a_decoder(noise: bytes, encoding: str, data: st.DataObject) -> None:
    """Noise, and a good body with some bytes replaced: either unpacked within the limit or told."""
    good = bytearray(PACKERS[encoding](b"payload " * 20))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at : at + len(noise)] = noise
    for body in (noise, bytes(good)):
        with contextlib.suppress(TooLong, Garbled):
            assert len(unpacked(body, encoding, 1000)) <= 1000
