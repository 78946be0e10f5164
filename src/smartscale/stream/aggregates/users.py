"""Distinct users: the theta sketch of Apache DataSketches, as it is after ``trim``.

A sketch keeps the ``K + 1`` least distinct hashes of users. With at most K of them the count is exact; else the last one is
theta, and the estimate is ``K / (theta / 2**63)`` with a relative standard error of at most ``1 / sqrt(K - 1)``: 2.2 % (two
thirds of estimates are within 2.2 %, 95 % within 4.4 %). See Bar-Yossef et al., "Counting distinct elements in a data
stream", 2002, and the theta sketch framework, Dasgupta et al., 2016.

The hashes are those of DataSketches' update sketch for a 64-bit whole number (MurmurHash3 x64 128, seed 9001, first word
halved), so ``serialized`` gives a sketch that its libraries in C++, Java and Python read, merge and intersect. The least
hashes of a union do not depend on any order: merging is exact and commutative, unlike the merging of sketches that keep a
varying number of hashes. A sketch of n users takes 8 n bytes, at most 16 KiB.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.stream.aggregates.protocol import Aggregation, Events, Groups
from smartscale.stream.columns import Array, Ints, Lists, State, empty_lists

K: Final = 2048
RELATIVE_STANDARD_ERROR: Final = 1 / np.sqrt(K - 1)

Hashes = npt.NDArray[np.uint64]


@njit(cache=True, nogil=True)
def _mix(word: np.uint64) -> np.uint64:
    word ^= word >> np.uint64(33)
    word *= np.uint64(0xFF51AFD7ED558CCD)
    word ^= word >> np.uint64(33)
    word *= np.uint64(0xC4CEB9FE1A85EC53)
    return word ^ (word >> np.uint64(33))


@njit(cache=True, nogil=True)
def _hash(users: Hashes, out: Hashes) -> None:
    """MurmurHash3_x64_128 of eight bytes, first word, less its last bit."""
    seed = np.uint64(9001)
    for i in range(len(users)):
        k1 = users[i] * np.uint64(0x87C37B91114253D5)
        k1 = (k1 << np.uint64(31)) | (k1 >> np.uint64(33))
        h1 = seed ^ (k1 * np.uint64(0x4CF5AD432745937F)) ^ np.uint64(8)
        h2 = seed ^ np.uint64(8)
        h1 += h2
        h2 += h1
        out[i] = (_mix(h1) + _mix(h2)) >> np.uint64(1)


def hashes(users: Hashes) -> Hashes:
    """What a sketch keeps of each user, same shape, in (0, 2**63)."""
    out = np.empty_like(users)
    _hash(users, out)
    return out


@njit(cache=True, nogil=True)
def _least(
    group: Groups, offsets: Ints, values: Hashes, groups: int, keep: int, out_offsets: Ints, out: Hashes
) -> int:
    """The ``keep`` least distinct hashes of each group, ascending; row i has ``values[offsets[i]:offsets[i + 1]]``."""
    start = np.zeros(groups + 1, np.int64)
    for i in range(len(group)):
        if group[i] >= 0:
            start[group[i] + 1] += offsets[i + 1] - offsets[i]
    for g in range(groups):
        start[g + 1] += start[g]
    place = start[:groups].copy()
    laid_out = np.empty(start[groups], np.uint64)
    for i in range(len(group)):
        g = group[i]
        if g >= 0:
            for e in range(offsets[i], offsets[i + 1]):
                laid_out[place[g]] = values[e]
                place[g] += 1
    filled = 0
    for g in range(groups):
        held = laid_out[start[g] : start[g + 1]]
        held.sort()
        first = filled
        for h in held:
            if filled > first and out[filled - 1] == h:
                continue
            if filled - first == keep:
                break
            out[filled] = h
            filled += 1
        out_offsets[g + 1] = filled
    return filled


def _sketches(group: Groups, rows: Lists, n: int) -> Lists:
    offsets = np.zeros(n + 1, np.int64)
    out = np.empty(len(rows.values), np.uint64)
    filled = _least(group, rows.offsets, rows.values, n, K + 1, offsets, out)
    return Lists(offsets, out[:filled])


class Users(Aggregation):
    """Events without a user do not count."""

    name = "users"
    reads = ("user",)
    needs_no_gaps: ClassVar[bool] = False

    def zero(self, n: int) -> State:
        return {"users": empty_lists(n, np.uint64)}

    def add(self, state: State, group: Groups, events: Events) -> None:
        if events.has("user"):
            there = events.has_user
            offsets = np.concatenate(([0], np.cumsum(there)))
            found = Lists(offsets, hashes(events.user[there]))
            state["users"] = _sketches(group, found, len(state["users"]))

    def merge(self, state: State, group: Groups, other: State) -> None:
        state["users"] = _sketches(group, other["users"], len(state["users"]))

    def result(self, state: State, _size_s: float, /) -> dict[str, Array]:
        return {"users": estimates(state["users"])}


def estimates(sketches: Lists) -> npt.NDArray[np.float64]:
    """How many distinct users each sketch stands for, shape (n,); NaN where it saw none."""
    length = np.diff(sketches.offsets)
    found = np.where(length == 0, np.nan, length.astype(np.float64))
    full = length > K
    if full.any():
        theta = sketches.values[sketches.offsets[1:][full] - 1]
        found[full] = K / (theta.astype(np.float64) / 2**63)
    return found


_SEED_HASH: Final = 0x93CC
_FLAGS: Final = 0x1A
"""Read only, compact, ordered."""


def serialized(sketch: Hashes) -> bytes:
    """A compact theta sketch in DataSketches' own format (serial version 3)."""
    held, theta = (sketch[:K], sketch[K:]) if len(sketch) > K else (sketch, sketch[:0])
    head = struct.pack("<BBBBBBHII", 3 if len(theta) else 2, 3, 3, 0, 0, _FLAGS, _SEED_HASH, len(held), 0)
    return head + theta.astype("<u8").tobytes() + held.astype("<u8").tobytes()


def deserialized(data: bytes) -> Hashes:
    """The sketch in what ``serialized`` wrote."""
    words = 3 if data[0] == 3 else 2
    theta, held = np.frombuffer(data, "<u8", words - 2, 16), np.frombuffer(data, "<u8", -1, 8 * words)
    return np.concatenate((held, theta)).astype(np.uint64)
