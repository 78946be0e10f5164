"""``log.partitioner.event_hash`` for many events at once, compiled: XXH3 with 128 bits, seed 0.

Follows the specification of xxHash, "XXH3 algorithm overview" (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md), for
inputs of 4 to 240 bytes; longer ones, which are rare, are left to the xxhash package. Names are those of the specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash
from numba import njit

from smartscale.log.partitioner import SEPARATOR
from smartscale.records.octets import PADDING, load64, product

Octets = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]

_LONGEST: Final = 240
_SECRET: Final = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
        "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8"
        "fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb17"
        "0ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
    )
    + bytes(PADDING),
    dtype=np.uint8,
)
_U = np.uint64
_PRIME32_1: Final = _U(0x9E3779B1)
_PRIME32_2: Final = _U(0x85EBCA77)
_PRIME64_1: Final = _U(0x9E3779B185EBCA87)
_PRIME64_2: Final = _U(0xC2B2AE3D27D4EB4F)
_PRIME64_4: Final = _U(0x85EBCA77C2B2AE63)
_PRIME_MX1: Final = _U(0x165667919E3779F9)
_PRIME_MX2: Final = _U(0x9FB21C651E98DF25)
_LOW32: Final = _U(0xFFFFFFFF)
_SEPARATOR: Final = ord(SEPARATOR)


@njit(cache=True, nogil=True)
def _swapped(word: np.uint64) -> np.uint64:
    word = ((word & _U(0x00FF00FF00FF00FF)) << _U(8)) | ((word >> _U(8)) & _U(0x00FF00FF00FF00FF))
    word = ((word & _U(0x0000FFFF0000FFFF)) << _U(16)) | ((word >> _U(16)) & _U(0x0000FFFF0000FFFF))
    return (word << _U(32)) | (word >> _U(32))


@njit(cache=True, nogil=True)
def _avalanche(word: np.uint64) -> np.uint64:
    word = (word ^ (word >> _U(37))) * _PRIME_MX1
    return word ^ (word >> _U(32))


@njit(cache=True, nogil=True)
def _mix16(data: Octets, at: int, secret: int, seed: np.uint64) -> np.uint64:
    low, high = product(
        load64(data, at) ^ (load64(_SECRET, secret) + seed),
        load64(data, at + 8) ^ (load64(_SECRET, secret + 8) - seed),
    )
    return low ^ high


@njit(cache=True, nogil=True)
def _mix32(
    low: np.uint64, high: np.uint64, data: Octets, first: int, second: int, secret: int, seed: np.uint64
) -> tuple[np.uint64, np.uint64]:
    low = (low + _mix16(data, first, secret, seed)) ^ (load64(data, second) + load64(data, second + 8))
    high = (high + _mix16(data, second, secret + 16, seed)) ^ (load64(data, first) + load64(data, first + 8))
    return low, high


@njit(cache=True, nogil=True)
def _short(data: Octets, size: int) -> tuple[np.uint64, np.uint64]:
    """4 to 8 bytes."""
    first = load64(data, 0) & _LOW32
    last = load64(data, size - 4) & _LOW32
    keyed = (first + (last << _U(32))) ^ (load64(_SECRET, 16) ^ load64(_SECRET, 24))
    low, high = product(keyed, _PRIME64_1 + (_U(size) << _U(2)))
    high += low << _U(1)
    low ^= high >> _U(3)
    low = (low ^ (low >> _U(35))) * _PRIME_MX2
    return low ^ (low >> _U(28)), _avalanche(high)


@njit(cache=True, nogil=True)
def _medium(data: Octets, size: int) -> tuple[np.uint64, np.uint64]:
    """9 to 16 bytes."""
    first, last = load64(data, 0), load64(data, size - 8)
    low, high = product(first ^ last ^ load64(_SECRET, 32) ^ load64(_SECRET, 40), _PRIME64_1)
    low += _U(size - 1) << _U(54)
    last ^= load64(_SECRET, 48) ^ load64(_SECRET, 56)
    high += last + (last & _LOW32) * (_PRIME32_2 - _U(1))
    low ^= _swapped(high)
    final_low, final_high = product(low, _PRIME64_2)
    return _avalanche(final_low), _avalanche(final_high + high * _PRIME64_2)


@njit(cache=True, nogil=True)
def _long(data: Octets, size: int) -> tuple[np.uint64, np.uint64]:
    """17 to 240 bytes."""
    none = _U(0)
    low, high = _U(size) * _PRIME64_1, none
    if size <= 128:
        for block in range((size - 1) // 32, 0, -1):
            low, high = _mix32(low, high, data, 16 * block, size - 16 * (block + 1), 32 * block, none)
        low, high = _mix32(low, high, data, 0, size - 16, 0, none)
    else:
        for at in range(0, 128, 32):
            low, high = _mix32(low, high, data, at, at + 16, at, none)
        low, high = _avalanche(low), _avalanche(high)
        for at in range(128, size - 31, 32):
            low, high = _mix32(low, high, data, at, at + 16, at - 125, none)
        low, high = _mix32(low, high, data, size - 16, size - 32, 103, none)
    last = low * _PRIME64_1 + high * _PRIME64_4 + _U(size) * _PRIME64_2
    return _avalanche(low + high), none - _avalanche(last)


@njit(cache=True, nogil=True)
def _digest(data: Octets, size: int) -> tuple[np.uint64, np.uint64]:
    """The hash of the first ``size`` bytes as its digest's two halves, read as little-endian words."""
    if size <= 8:
        low, high = _short(data, size)
    elif size <= 16:
        low, high = _medium(data, size)
    else:
        low, high = _long(data, size)
    return _swapped(high), _swapped(low)


@njit(cache=True, nogil=True)
def _put(target: Octets, at: int, data: Octets, start: int, size: int) -> int:
    for i in range(size):
        target[at + i] = data[start + i]
    return at + size


@njit(cache=True, nogil=True)
def _event_hashes(
    tenants: Octets,
    tenant_at: Integers,
    tenant: Integers,
    services: Octets,
    service_at: Integers,
    service: Integers,
    data: Octets,
    id_start: Integers,
    id_size: Integers,
    words: npt.NDArray[np.uint64],
) -> Integers:
    text = np.zeros(_LONGEST + PADDING, np.uint8)
    left = np.empty(len(service), np.int64)
    count = 0
    for i in range(len(service)):
        size = id_size[i]
        if size < 0:
            continue
        t, s = tenant[i], service[i]
        tenant_size, service_size = tenant_at[t + 1] - tenant_at[t], service_at[s + 1] - service_at[s]
        total = tenant_size + service_size + size + 2
        if total > _LONGEST or total < 4:
            left[count] = i
            count += 1
            continue
        at = _put(text, 0, tenants, tenant_at[t], tenant_size)
        text[at] = _SEPARATOR
        at = _put(text, at + 1, services, service_at[s], service_size)
        text[at] = _SEPARATOR
        _put(text, at + 1, data, id_start[i], size)
        words[i, 0], words[i, 1] = _digest(text, total)
    return left[:count]


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts one after the other: ``octets[at[i]:at[i + 1]]``."""

    octets: Octets
    at: Integers

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        encoded = [text.encode() for text in texts]
        at = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(each) for each in encoded], out=at[1:])
        return cls(np.frombuffer(b"".join(encoded) + bytes(PADDING), dtype=np.uint8), at)

    def __getitem__(self, place: int) -> bytes:
        return self.octets[self.at[place] : self.at[place + 1]].tobytes()


def event_words(
    tenants: Texts,
    tenant: Integers,
    services: Texts,
    service: Integers,
    data: Octets,
    id_start: Integers,
    id_size: Integers,
) -> npt.NDArray[np.uint64]:
    """(events, 2): the identity of each event as two little-endian words, zeros where it has no id.

    ``tenant`` and ``service`` (events,) say which of the texts is an event's; its id is ``id_size`` bytes of ``data`` from
    ``id_start`` on, and there is none where the size is negative."""
    words = np.zeros((len(service), 2), np.uint64)
    left = _event_hashes(
        tenants.octets,
        tenants.at,
        tenant,
        services.octets,
        services.at,
        service,
        data,
        id_start,
        id_size,
        words,
    )
    for i in left.tolist():
        text = data[id_start[i] : id_start[i] + id_size[i]].tobytes()
        whole = SEPARATOR.encode().join([tenants[tenant[i]], services[service[i]], text])
        words[i] = np.frombuffer(xxhash.xxh3_128_digest(whole), dtype="<u8")
    return words
