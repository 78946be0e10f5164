"""Bodies as they were before ``Content-Encoding``: gzip and zstd, with a bound that holds while they are unpacked.

A small body can stand for gigabytes (a decompression bomb). So no more than the limit is ever unpacked: memory is
bounded by the limit and the decoder's window (32 KiB for gzip, 8 MiB for zstd), whatever the body claims.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Final

import zstandard

ACCEPTED: Final = "gzip, zstd"
"""What ``Accept-Encoding`` says in an answer with status 415 (RFC 9110, section 12.5.3)."""

_ZSTD_WINDOW: Final = 8 << 20
"""The largest window that an HTTP sender may use (RFC 9659, section 3)."""


class UnknownEncoding(ValueError):
    """The body's ``Content-Encoding`` is not one that is read here."""


class TooLong(ValueError):
    """The body would be longer than the limit once it is unpacked."""


class Garbled(ValueError):
    """The body is not what its ``Content-Encoding`` says, or ends too early."""


def unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its encoding, at most ``limit`` bytes. ``encoding`` is the header's value, "" if there is none.

    Raises ``UnknownEncoding``, ``TooLong`` as soon as the limit is passed, ``Garbled``.

    >>> import gzip
    >>> unpacked(gzip.compress(b"[]"), "gzip", 100)
    b'[]'
    >>> unpacked(gzip.compress(bytes(1000)), "gzip", 100)
    Traceback (most recent call last):
        ...
    smartscale.ingest.encodings.TooLong: the body is longer than the limit of 100 bytes once unpacked; send less at once
    """
    unpack = _DECODERS.get(encoding.strip().lower())
    if unpack is None:
        raise UnknownEncoding(f"content-encoding {encoding!r} is not read here; send one of: {ACCEPTED}")
    try:
        whole = unpack(body, limit)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise Garbled(f"the body is not valid {encoding}: {error}") from None
    if len(whole) > limit:
        raise TooLong(
            f"the body is longer than the limit of {limit:,} bytes once unpacked; send less at once"
        )
    return whole


def _plain(body: bytes, _limit: int) -> bytes:
    return body


def _gzip(body: bytes, limit: int) -> bytes:
    """All members of the body, or one byte more than the limit of them."""
    parts: list[bytes] = []
    room = limit + 1
    for _ in range(_MAX_MEMBERS):
        member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        parts.append(member.decompress(body, room))
        room -= len(parts[-1])
        body = member.unused_data
        if room <= 0 or (member.eof and not body):
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if not member.eof:
            raise EOFError("it ends too early")
    raise EOFError(f"it has more than {_MAX_MEMBERS} members")


_MAX_MEMBERS: Final = 100
"""Members of a gzip body; a bound, because each costs a copy of what follows it, and few senders make more than one."""


def _zstd(body: bytes, limit: int) -> bytes:
    """All frames of the body, or one byte more than the limit of them.

    The reader does not tell a body that ends within a frame from one that ends behind it. So a frame of ours follows
    it: only behind a whole frame is that read as one."""
    decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    with decoder.stream_reader(body + _LAST_FRAME, read_across_frames=True) as reader:
        whole = reader.read(limit + len(_LAST) + 1)
    if len(whole) > limit + len(_LAST):
        return whole
    if not whole.endswith(_LAST):
        raise EOFError("it ends too early")
    return whole[: -len(_LAST)]


_LAST: Final = b"smartscale: the end"
_LAST_FRAME: Final = zstandard.ZstdCompressor().compress(_LAST)

_DECODERS: Final[Mapping[str, Callable[[bytes, int], bytes]]] = {
    "": _plain,
    "identity": _plain,
    "gzip": _gzip,
    "x-gzip": _gzip,
    "zstd": _zstd,
}
