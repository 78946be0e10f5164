"""The header ``Idempotency-Key``: a whole request that is sent again is counted once.

The key and an event's place in the body become the id of an event that has none, so a retry is found by the same means as a
repeated id: by ``Recent`` in this process, and exactly by the stage that counts, in whatever process the retry arrived, as
long as ids are remembered (``dedup.window_s``). A key must not be used for another body: the events at the same places would
pass for repeats. Where the process still knows the key it refuses such a request (422, as in
draft-ietf-httpapi-idempotency-key-header-07, section 2.7); ``Keys`` remembers the latest ones. After a restart, or in
another process, it cannot be known.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import xxhash

MAX_KEYS: Final = 50_000
"""Remembered; chosen as 8 MB at most."""


class Keys:
    """Keys and what they were used for. Not thread-safe.

    >>> keys = Keys()
    >>> keys.claim("shop", "k", b"[1]"), keys.claim("shop", "k", b"[1]"), keys.claim("shop", "k", b"[2]")
    (True, True, False)
    >>> keys.claim("bank", "k", b"[2]")
    True
    """

    def __init__(self, most: int = MAX_KEYS) -> None:
        self._most = most
        self._known: OrderedDict[bytes, bytes] = OrderedDict()

    def claim(self, tenant: str, key: str, body: bytes) -> bool:
        """False if the key is known for another body."""
        name, digest = _digest(f"{tenant}\x1f{key}".encode()), _digest(body)
        if self._known.setdefault(name, digest) != digest:
            return False
        self._known.move_to_end(name)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return True

    def release(self, tenant: str, key: str) -> None:
        """Nothing was taken of the request with this key: it may be mended and sent again."""
        self._known.pop(_digest(f"{tenant}\x1f{key}".encode()), None)


def _digest(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)
