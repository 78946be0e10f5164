"""The identities of many events as columns, and which of them were lately written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_NONE: Final = bytes(16)

Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Identities:
    """128-bit identities (``log.partitioner.event_hash``) of events in their order."""

    words: Words
    """(events, 2): each identity as two little-endian words; zeros where there is none."""
    known: npt.NDArray[np.bool_]
    """(events,): whether the event has one."""

    @classmethod
    def of(cls, hashes: Sequence[bytes | None]) -> Self:
        """From 16 bytes each, None where there is no identity."""
        joined = b"".join([each or _NONE for each in hashes])
        words = np.frombuffer(joined, dtype="<u8").reshape(-1, 2)
        return cls(words, (words[:, 0] | words[:, 1]) != 0)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One after the other; at least one part."""
        return cls(
            np.concatenate([part.words for part in parts]), np.concatenate([part.known for part in parts])
        )

    def __len__(self) -> int:
        return len(self.known)

    def take(self, places: Places) -> Identities:
        return Identities(self.words[places], self.known[places])

    def column(self) -> pa.FixedSizeBinaryArray:
        """As a column of ``records.events``."""
        absent = len(self) - int(self.known.sum())
        valid = pa.py_buffer(np.packbits(self.known, bitorder="little").tobytes()) if absent else None
        data = pa.py_buffer(np.ascontiguousarray(self.words).tobytes())
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(self), [valid, data], absent)


_SLOTS: Final = 1 << 17
"""Places of ``Recent``: a megabyte, small enough for the processor's caches, and minutes of most edges' events."""


class Recent:
    """Which identities were lately written: for the verdict ``duplicate``. Best effort: what it has forgotten is dropped
    downstream, where it is exact.

    A table with one place for each value of an identity's low bits, where the latest comer stays; so its memory is fixed.
    A place holds the identity's other word: an event is wrongly taken for a repeat once in 2^81 comparisons.

    >>> recent = Recent()
    >>> recent.add(Identities.of([b"a" * 16, None]))
    >>> recent.repeats(Identities.of([None, b"a" * 16, b"b" * 16])).tolist()
    [1]
    """

    def __init__(self, slots: int = _SLOTS) -> None:
        """``slots``: a power of two."""
        self._mask = np.uint64(slots - 1)
        self._table = np.zeros(slots, dtype=np.uint64)

    def add(self, identities: Identities) -> None:
        words = identities.words[identities.known]
        self._table[words[:, 0] & self._mask] = words[:, 1]

    def repeats(self, identities: Identities) -> Places:
        """Places of the identities that are remembered."""
        held = self._table[identities.words[:, 0] & self._mask]
        return np.flatnonzero((held == identities.words[:, 1]) & identities.known)
