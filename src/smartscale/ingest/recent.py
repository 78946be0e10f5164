"""Identities of events that were lately written: for the verdict ``duplicate``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

RECENT: Final = 50_000
"""Identities remembered at least, twice that at most: about 10 MB, small enough for the processor's caches, and minutes of
most edges' events. Best effort: what is not recognised here is dropped downstream, where it is exact."""


class Recent:
    """The last identities, in two generations: when the younger is full, the older is forgotten.

    >>> recent = Recent(2)
    >>> recent.add([b"a", b"b", b"c"])
    >>> recent.repeats([b"c", None, b"x"])
    [0]
    """

    def __init__(self, size: int = RECENT) -> None:
        self._size = size
        self._young: set[bytes | None] = set()
        self._old: set[bytes | None] = set()

    def add(self, identities: Iterable[bytes | None]) -> None:
        self._young.update(identities)
        self._young.discard(None)
        if len(self._young) >= self._size:
            self._young, self._old = set(), self._young

    def repeats(self, identities: Sequence[bytes | None]) -> list[int]:
        """Places of the identities that are remembered."""
        if self._young.isdisjoint(identities) and self._old.isdisjoint(identities):
            return []
        return [
            i for i, identity in enumerate(identities) if identity in self._young or identity in self._old
        ]
