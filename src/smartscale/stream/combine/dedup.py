"""Repeats of events, found by 128-bit identities.

One ``RepeatFilter`` per input partition remembers identities for the deduplication window. It holds generations
of half a window each, by the wall-clock time of the records; a generation is dropped whole once it is older than
the window, so an identity is remembered for one to one and a half windows and expiry costs nothing. Two different
events share an identity with probability about n**2 / 2**129 (birthday bound): below 1e-20 for a billion events.

Each generation is an open-addressing hash table, at most half full, probed by compiled code. The second word alone
chooses the slot: the first has chosen the partition already, so within one its low bits are alike.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
from numba import njit

Words = npt.NDArray[np.uint64]
"""Identities as two words each, shape (n, 2)."""

_FIRST_CAPACITY = 1 << 12


@njit(cache=True, nogil=True)
def _mark_known(table: Words, identities: Words, repeat: npt.NDArray[np.bool_]) -> None:
    mask = np.uint64(len(table) - 1)
    for i in range(len(identities)):
        low, high = identities[i, 0] | np.uint64(1), identities[i, 1]
        slot = high & mask
        while table[slot, 0] != 0:
            if table[slot, 0] == low and table[slot, 1] == high:
                repeat[i] = True
                break
            slot = (slot + np.uint64(1)) & mask


@njit(cache=True, nogil=True)
def _insert(table: Words, identities: Words, repeat: npt.NDArray[np.bool_]) -> int:
    mask = np.uint64(len(table) - 1)
    added = 0
    for i in range(len(identities)):
        low, high = identities[i, 0] | np.uint64(1), identities[i, 1]
        slot = high & mask
        while True:
            if table[slot, 0] == 0:
                table[slot, 0] = low
                table[slot, 1] = high
                added += 1
                break
            if table[slot, 0] == low and table[slot, 1] == high:
                repeat[i] = True
                break
            slot = (slot + np.uint64(1)) & mask
    return added


class _Table:
    """A set of identities. The first word's lowest bit is always set, so that 0 marks a free slot."""

    def __init__(self, expected: int) -> None:
        self.size = 0
        capacity = _FIRST_CAPACITY
        while capacity < 2 * expected:
            capacity *= 2
        self.words = np.zeros((capacity, 2), np.uint64)

    def insert(self, identities: Words, repeat: npt.NDArray[np.bool_]) -> None:
        """Add all; sets ``repeat[i]`` where the identity was in the set or earlier in this batch."""
        if 2 * (self.size + len(identities)) > len(self.words):
            held = self.words[self.words[:, 0] != 0]
            self.words = _Table(2 * (len(held) + len(identities))).words
            _insert(self.words, held, np.empty(len(held), np.bool_))
        self.size += _insert(self.words, identities, repeat)


class RepeatFilter:
    """The identities seen lately in one partition.

    >>> seen = RepeatFilter(window_ms=120_000)
    >>> ids = np.array([[1, 2], [4, 4], [1, 2]], np.uint64)
    >>> seen.repeats(ids, written_ms=0).tolist()
    [False, False, True]
    >>> seen.repeats(ids[:1], written_ms=119_000).tolist()
    [True]
    """

    def __init__(self, window_ms: int) -> None:
        self._generation_ms = max(window_ms // 2, 1)
        self._tables: dict[int, _Table] = {}

    def __len__(self) -> int:
        return sum(table.size for table in self._tables.values())

    def repeats(self, identities: Words, written_ms: int) -> npt.NDArray[np.bool_]:
        """Remember ``identities`` of a record written at ``written_ms``; True for each one seen before, shape (n,).

        The first of equal identities in a batch counts, the others are repeats."""
        generation = written_ms // self._generation_ms
        repeat = np.zeros(len(identities), np.bool_)
        for old in [g for g in self._tables if g < generation - 2]:
            del self._tables[old]
        if generation not in self._tables:
            before = self._tables.get(generation - 1)
            self._tables[generation] = _Table(before.size if before else 0)
        for other, table in self._tables.items():
            if other != generation:
                _mark_known(table.words, identities, repeat)
        self._tables[generation].insert(identities, repeat)
        return repeat

    def spans(self, written_ms: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        """Stretches ``[start, end)`` of records, by their times of writing, whose identities are remembered equally long.

        >>> RepeatFilter(window_ms=20).spans(np.array([5, 6, 11, 12, 9]))
        [(0, 2), (2, 4), (4, 5)]
        """
        cuts = np.flatnonzero(np.diff(written_ms // self._generation_ms)) + 1
        return list(pairwise([0, *cuts.tolist(), len(written_ms)]))

    def know(self, identities: Words, written_ms: int) -> None:
        """Remember identities of a record written at ``written_ms``, which may be before what came last."""
        generation = written_ms // self._generation_ms
        if generation not in self._tables:
            self._tables[generation] = _Table(len(identities))
        self._tables[generation].insert(identities, np.zeros(len(identities), np.bool_))

    def forget_oldest(self) -> int:
        """Drop the oldest generation to stay within memory; returns how many identities that were."""
        if not self._tables:
            return 0
        return self._tables.pop(min(self._tables)).size
