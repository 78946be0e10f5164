"""JSON events of many bodies become columns in one compiled pass, without a Python object an event.

Invariant: a body is taken only if ``events_json.decode`` finds every event of it good, and then the columns are the same.
Whatever is not plainly so (an escape in a label, an unknown key, a key given twice, an odd number or time, a value out of
range, bytes that are not UTF-8) leaves that body, and only it, to ``events_json``, which knows the reasons. So the pass need
not explain anything, and may refuse whatever is rare.

Bodies lie one after the other in one buffer, each followed by zero bytes. No token of JSON holds a zero byte, so no loop
runs past the end of its body, and no bounds are checked within one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from smartscale.records.events import SCHEMA
from smartscale.records.events_json import MAX_LABEL, SEVERITIES
from smartscale.records.octets import PADDING, load64, product
from smartscale.records.texts import Integers, Octets, string_array, strings

Words = npt.NDArray[np.uint64]
Reals = npt.NDArray[np.float64]
Slots = npt.NDArray[np.int32]


def _words(text: str) -> tuple[int, int]:
    """A text of at most sixteen bytes as two little-endian words, as the pass gathers keys."""
    padded = text.encode().ljust(16, b"\0")
    return int.from_bytes(padded[:8], "little"), int.from_bytes(padded[8:], "little")


_KEYS: Final = (
    "service", "time", "kind", "name", "status", "error", "severity", "latency_ms", "value", "user", "id",
    "attributes",
)  # fmt: skip
_KEY_WORDS: Final = np.array([_words(key) for key in _KEYS], dtype=np.uint64)
_SERVICE, _TIME, _KIND, _NAME, _STATUS, _ERROR, _SEVERITY, _LATENCY, _VALUE, _USER, _ID, _ATTRIBUTES = range(
    12
)
KINDS: Final = ("interaction", "log", "metric")
_KIND_WORDS: Final = np.array([_words(kind) for kind in KINDS], dtype=np.uint64)
_METRIC: Final = KINDS.index("metric")
_SEVERITY_WORDS: Final = np.array([_words(name) for name in SEVERITIES], dtype=np.uint64)
_SEVERITY_ERRS: Final = np.array(list(SEVERITIES.values()), dtype=np.bool_)

# The whole numbers of an event; -1 stands for null.
(_AT, _KIND_OF, _STATUS_OF, _ERROR_OF, _SERVICE_OF, _NAME_OF, _USER_OF, _ID_AT, _ID_SIZE, _ATTRIBUTES_AT,
 _ATTRIBUTES_SIZE, _SEVERITY_AT, _SEVERITY_SIZE, _INTEGERS) = range(14)  # fmt: skip

_TENS: Final = 10.0 ** np.arange(23)
"""Powers of ten that a double holds exactly: with a mantissa up to 2^53 one operation rounds correctly (W. D. Clinger,
"How to read floating point numbers accurately", PLDI 1990)."""
_ONES: Final = np.uint64(0x0101010101010101)
_SPACES: Final = np.uint64(0x2020202020202020)
_QUOTES: Final = np.uint64(0x2222222222222222)
_ESCAPES: Final = np.uint64(0x5C5C5C5C5C5C5C5C)
_DELETES: Final = np.uint64(0x7F7F7F7F7F7F7F7F)
_HIGHS: Final = np.uint64(0x8080808080808080)
_EXACT: Final = np.uint64(1 << 53)
_HARD, _SEEN, _COUNTS = 3, 4, 5
"""Of ``counts``, behind those of the texts: hard numbers, and the bytes of the body's texts or-ed together."""
_PROBES: Final = 64
"""A text that is not found after so many steps leaves its body to ``events_json``: so texts made to collide cost no more."""
# Functions with many arrays are inlined: passing the arrays costs half as much again as the work.
_U = np.uint64
_I = cast("Callable[[object], int]", np.int64)


@njit(cache=True, nogil=True)
def _space(data: Octets, at: int) -> int:
    while data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9:
        at += 1
    return at


@njit(cache=True, nogil=True)
def _clean(word: np.uint64) -> bool:
    """Whether none of eight octets is a quote, a backslash, below 0x20 or 0x7f (S. E. Anderson, "Bit twiddling hacks",
    "Determine if a word has a byte less than n"; it may say no where the answer is yes)."""
    quote, escape, delete = word ^ _QUOTES, word ^ _ESCAPES, word ^ _DELETES
    found = ((quote - _ONES) & ~quote) | ((escape - _ONES) & ~escape) | ((delete - _ONES) & ~delete)
    return bool((found | ((word - _SPACES) & ~word)) & _HIGHS == 0)


@njit(cache=True, nogil=True)
def _text(data: Octets, at: int) -> tuple[int, int]:
    """The end of a text without escapes that starts at ``at``, and its bytes or-ed together (or 128 for any above ASCII);
    -1 if it is not plain."""
    seen = 0
    while True:
        word = load64(data, at)
        while _clean(word):
            if word & _HIGHS:
                seen |= 128
            at += 8
            word = load64(data, at)
        for _ in range(8):
            octet = data[at]
            if octet == 34:
                return at, seen
            if octet < 32 or octet == 92 or octet == 127:
                return -1, 0
            seen |= octet
            at += 1


@njit(cache=True, nogil=True)
def _digits(data: Octets, at: int, count: int) -> int:
    """The number that so many digits stand for; hugely negative if one of them is none."""
    number = 0
    for i in range(at, at + count):
        octet = _I(data[i])
        if octet < 48 or octet > 57:
            return -1_000_000_000
        number = 10 * number + octet - 48
    return number


@njit(cache=True, nogil=True)
def _days(year: int, month: int, day: int) -> int:
    """Days since 1970 (H. Hinnant, "chrono-compatible low-level date algorithms", days_from_civil)."""
    if month <= 2:
        year -= 1
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


@njit(cache=True, nogil=True)
def _instant(data: Octets, at: int, end: int) -> int:
    """``YYYY-MM-DDTHH:MM:SS[.fraction](Z|+HH:MM|-HH:MM)`` in microseconds, -1 if it is not that or before 1970."""
    if end - at < 20 or data[at + 4] != 45 or data[at + 7] != 45 or data[at + 10] != 84:
        return -1
    if data[at + 13] != 58 or data[at + 16] != 58:
        return -1
    year, month, day = _digits(data, at, 4), _digits(data, at + 5, 2), _digits(data, at + 8, 2)
    hour, minute, second = _digits(data, at + 11, 2), _digits(data, at + 14, 2), _digits(data, at + 17, 2)
    if year < 1970 or month < 1 or month > 12 or day < 1 or hour < 0 or minute < 0 or second < 0:
        return -1
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    length = 28 + leap if month == 2 else 30 + ((month + month // 8) & 1)
    if day > length or hour > 23 or minute > 59 or second > 59:
        return -1
    whole = ((_days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    at += 19
    micros = 0
    if data[at] == 46:
        at += 1
        digits = 0
        while 48 <= data[at] <= 57:
            if digits < 6:
                micros = 10 * micros + _I(data[at]) - 48
            elif digits == 6 and data[at] >= 53:
                micros += 1
            digits += 1
            at += 1
        if digits == 0 or digits > 9:
            return -1
        for _ in range(digits, 6):
            micros *= 10
    if data[at] == 90:
        at += 1
    elif data[at] == 43 or data[at] == 45:
        if data[at + 3] != 58:
            return -1
        hours, minutes = _digits(data, at + 1, 2), _digits(data, at + 4, 2)
        if hours < 0 or hours > 14 or minutes < 0 or minutes > 59:
            return -1
        offset = 60 * (60 * hours + minutes)
        whole += -offset if data[at] == 43 else offset
        at += 6
    else:
        return -1
    return whole * 1_000_000 + micros if at == end and whole >= 0 else -1


@njit(cache=True, nogil=True)
def _number(data: Octets, at: int) -> tuple[int, float, bool, bool]:
    """The end of a JSON number (-1 if it is none), its value, whether the value is exact, and whether it is whole."""
    negative = data[at] == 45
    at += negative
    mantissa, digits, exponent, whole = _U(0), 0, 0, True
    if data[at] == 48:
        at += 1
    elif 49 <= data[at] <= 57:
        while 48 <= data[at] <= 57:
            mantissa = mantissa * _U(10) + _U(data[at] - 48)
            digits += 1
            at += 1
    else:
        return -1, 0.0, False, False
    if data[at] == 46:
        whole = False
        at += 1
        first = at
        while 48 <= data[at] <= 57:
            mantissa = mantissa * _U(10) + _U(data[at] - 48)
            digits += digits > 0 or mantissa != 0
            at += 1
        exponent = first - at
        if exponent == 0:
            return -1, 0.0, False, False
    if data[at] == 101 or data[at] == 69:
        whole = False
        at += 1
        sign = 1
        if data[at] == 43 or data[at] == 45:
            sign = -1 if data[at] == 45 else 1
            at += 1
        if data[at] < 48 or data[at] > 57:
            return -1, 0.0, False, False
        power = 0
        while 48 <= data[at] <= 57:
            power = min(10 * power + _I(data[at]) - 48, 100_000)
            at += 1
        exponent += sign * power
    if digits > 19 or mantissa > _EXACT or exponent < -22 or exponent > 22 or (negative and mantissa == 0):
        return at, 0.0, False, whole
    value = float(mantissa)
    value = value / _TENS[-exponent] if exponent < 0 else value * _TENS[exponent]
    return at, -value if negative else value, True, whole


@njit(cache=True, nogil=True)
def _literal(data: Octets, at: int) -> tuple[int, int]:
    """The end of true (1), false (0) or null (-1), and which it is; an end of -1 if it is none of them."""
    if data[at] == 116 and data[at + 1] == 114 and data[at + 2] == 117 and data[at + 3] == 101:
        return at + 4, 1
    if (
        data[at] == 102
        and data[at + 1] == 97
        and data[at + 2] == 108
        and data[at + 3] == 115
        and data[at + 4] == 101
    ):
        return at + 5, 0
    if data[at] == 110 and data[at + 1] == 117 and data[at + 2] == 108 and data[at + 3] == 108:
        return at + 4, -1
    return -1, 0


@njit(cache=True, nogil=True)
def _any_text(data: Octets, at: int) -> tuple[int, int]:
    """As ``_text``, with escapes."""
    seen = 0
    while True:
        word = load64(data, at)
        while _clean(word):
            if word & _HIGHS:
                seen |= 128
            at += 8
            word = load64(data, at)
        octet = data[at]
        if octet == 34:
            return at, seen
        if octet < 32:
            return -1, 0
        if octet == 92:
            at += 1
            octet = data[at]
            if octet == 117:
                for i in range(at + 1, at + 5):
                    digit = data[i]
                    if not (48 <= digit <= 57 or 65 <= digit <= 70 or 97 <= digit <= 102):
                        return -1, 0
                at += 4
            elif not (
                octet == 34 or octet == 92 or octet == 47 or octet == 98 or octet == 102
                or octet == 110 or octet == 114 or octet == 116
            ):  # fmt: skip
                return -1, 0
        seen |= octet
        at += 1


@njit(cache=True, nogil=True)
def _object(data: Octets, at: int) -> tuple[int, int]:
    """The end of the JSON object that starts at ``at`` and its texts' bytes or-ed together; -1 if it is none, or nested
    more than 60 deep. ``kinds`` has a bit for each level: 1 in an object."""
    seen, depth, kinds = 0, 1, _U(1)
    at = _space(data, at + 1)
    empty = True
    while True:
        in_object = kinds & _U(1) == _U(1)
        if empty and data[at] == (125 if in_object else 93):
            closed = True
        else:
            closed = False
            if in_object:
                if data[at] != 34:
                    return -1, 0
                at, more = _any_text(data, at + 1)
                if at < 0:
                    return -1, 0
                seen |= more
                at = _space(data, at + 1)
                if data[at] != 58:
                    return -1, 0
                at = _space(data, at + 1)
            octet = data[at]
            if octet == 123 or octet == 91:
                if depth == 60:
                    return -1, 0
                depth += 1
                kinds = (kinds << _U(1)) | _U(octet == 123)
                at = _space(data, at + 1)
                empty = True
                continue
            if octet == 34:
                at, more = _any_text(data, at + 1)
                seen |= more
                if at >= 0:
                    at += 1
            elif octet == 45 or 48 <= octet <= 57:
                at, _value, _exact, _whole = _number(data, at)
            else:
                at, _which = _literal(data, at)
            if at < 0:
                return -1, 0
            at = _space(data, at)
        while True:
            if not closed:
                if data[at] == 44:
                    at = _space(data, at + 1)
                    empty = False
                    break
                if data[at] != (125 if kinds & _U(1) == _U(1) else 93):
                    return -1, 0
            closed = False
            depth -= 1
            kinds >>= _U(1)
            at += 1
            if depth == 0:
                return at, seen
            at = _space(data, at)


@njit(cache=True, nogil=True)
def _is_utf8(data: Octets, at: int, end: int) -> bool:
    """Whether the bytes are UTF-8 (RFC 3629, section 4)."""
    while at < end:
        octet = data[at]
        if octet < 0x80:
            at += 1
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= octet <= 0xDF:
            more = 1
        elif 0xE0 <= octet <= 0xEF:
            more = 2
            low = 0xA0 if octet == 0xE0 else low
            high = 0x9F if octet == 0xED else high
        elif 0xF0 <= octet <= 0xF4:
            more = 3
            low = 0x90 if octet == 0xF0 else low
            high = 0x8F if octet == 0xF4 else high
        else:
            return False
        if not low <= data[at + 1] <= high:
            return False
        for i in range(at + 2, at + more + 1):
            if not 0x80 <= data[i] <= 0xBF:
                return False
        at += more + 1
    return True


@njit(cache=True, nogil=True)
def _characters(data: Octets, at: int, end: int) -> int:
    count = 0
    for i in range(at, end):
        count += data[i] & 0xC0 != 0x80
    return count


@njit(cache=True, nogil=True)
def _match(words: Words, first: np.uint64, second: np.uint64) -> int:
    for i in range(len(words)):
        if words[i, 0] == first and words[i, 1] == second:
            return i
    return -1


@njit(cache=True, nogil=True)
def _short(data: Octets, at: int, end: int) -> tuple[np.uint64, np.uint64]:
    """A text of at most sixteen bytes as two words; ones that match nothing for a longer one."""
    size = end - at
    if size > 16:
        return ~_U(0), ~_U(0)
    first, second = load64(data, at), _U(0)
    if size < 8:
        return first & ((_U(1) << _U(8 * size)) - _U(1)), second
    if size < 16:
        second = load64(data, at + 8) & ((_U(1) << _U(8 * (size - 8))) - _U(1))
    else:
        second = load64(data, at + 8)
    return first, second


@njit(cache=True, nogil=True)
def _hashed(data: Octets, at: int, size: int) -> np.uint64:
    """A hash for tables within a round, which never leaves the process: folded products, as in wyhash."""
    word = _U(size) ^ _U(0x9E3779B97F4A7C15)
    end = at + size
    while at + 8 <= end:
        low, high = product(word ^ load64(data, at), _U(0x9FB21C651E98DF25))
        word = low ^ high
        at += 8
    if at < end:
        tail = load64(data, at) & ((_U(1) << _U(8 * (end - at))) - _U(1))
        low, high = product(word ^ tail, _U(0x9FB21C651E98DF25))
        word = low ^ high
    return word


@njit(cache=True, nogil=True)
def _same(data: Octets, one: int, other: int, size: int) -> bool:
    end = one + size
    while one + 8 <= end:
        if load64(data, one) != load64(data, other):
            return False
        one += 8
        other += 8
    if one < end:
        mask = (_U(1) << _U(8 * (end - one))) - _U(1)
        return bool((load64(data, one) ^ load64(data, other)) & mask == 0)
    return True


@njit(cache=True, nogil=True)
def _code(
    data: Octets,
    at: int,
    size: int,
    field: int,
    slots: Slots,
    spans: Integers,
    hashes: Words,
    counts: Integers,
) -> int:
    """The number of this text among the known ones of a field, of which it is one from now on; -1 if it cannot be told."""
    word = _hashed(data, at, size)
    mask = slots.shape[1] - 1
    slot = _I(word & _U(mask))
    for _ in range(_PROBES):
        code = slots[field, slot]
        if code < 0:
            code = counts[field]
            slots[field, slot] = code
            spans[field, code, 0], spans[field, code, 1], hashes[field, code] = at, size, word
            counts[field] += 1
            return int(code)
        if (
            hashes[field, code] == word
            and spans[field, code, 1] == size
            and _same(data, spans[field, code, 0], at, size)
        ):
            return int(code)
        slot = (slot + 1) & mask
    return -1


@njit(cache=True, nogil=True)
def _letters(data: Octets, at: int, end: int) -> bool:
    for i in range(at, end):
        if not (65 <= data[i] <= 90 or 97 <= data[i] <= 122):
            return False
    return True


@njit(cache=True, nogil=True)
def _severity(data: Octets, at: int, end: int) -> int:
    """The place of a severity, in upper or lower case, among ``SEVERITIES``; -1 if it is none."""
    if not _letters(data, at, end):
        return -1
    first, second = _short(data, at, end)
    size = end - at
    if size < 8:
        return _match(_SEVERITY_WORDS, first | (_SPACES & ((_U(1) << _U(8 * size)) - _U(1))), second)
    if size < 16:
        second |= _SPACES & ((_U(1) << _U(8 * (size - 8))) - _U(1))
    return _match(_SEVERITY_WORDS, first | _SPACES, second)


@njit(cache=True, nogil=True, inline="always")
def _take_text(
    data: Octets,
    at: int,
    end: int,
    key: int,
    latest_us: int,
    row: Integers,
    slots: Slots,
    spans: Integers,
    hashes: Words,
    counts: Integers,
) -> bool:
    """Put the text at ``at`` into the row; False if it is not plainly good for this key."""
    size = end - at
    if key == _TIME:
        row[_AT] = _instant(data, at, end)
        return bool(0 <= row[_AT] <= latest_us)
    if key == _SERVICE or key == _NAME:
        if size > MAX_LABEL and _characters(data, at, end) > MAX_LABEL:
            return False
        if key == _SERVICE:
            row[_SERVICE_OF] = _code(data, at, size, 0, slots, spans, hashes, counts)
            return bool(size > 0 and row[_SERVICE_OF] >= 0)
        row[_NAME_OF] = _code(data, at, size, 1, slots, spans, hashes, counts)
        return bool(row[_NAME_OF] >= 0 and not (size == 1 and data[at] == 42))  # "*" stands for all names
    if key == _ID:
        row[_ID_AT], row[_ID_SIZE] = at, size
        return size > 0
    if key == _KIND:
        first, second = _short(data, at, end)
        row[_KIND_OF] = _match(_KIND_WORDS, first, second)
        return bool(row[_KIND_OF] >= 0)
    if key == _USER:
        row[_USER_OF] = _code(data, at, size, 2, slots, spans, hashes, counts)
        return bool(row[_USER_OF] >= 0)
    if key == _SEVERITY:
        row[_SEVERITY_AT], row[_SEVERITY_SIZE] = at, size
        return _severity(data, at, end) >= 0
    return False


@njit(cache=True, nogil=True, inline="always")
def _take_number(
    data: Octets, at: int, key: int, place: int, row: Integers, real: Reals, hard: Integers, counts: Integers
) -> int:
    """Put the number at ``at`` into the row at ``place``; its end, -1 if it is not plainly good for this key."""
    end, number, exact, whole = _number(data, at)
    if end < 0:
        return -1
    if key == _STATUS:
        row[_STATUS_OF] = _I(number)
        return end if exact and whole and 100 <= number <= 599 else -1
    if key != _LATENCY and key != _VALUE:
        return -1
    column = _I(key == _VALUE)
    real[column] = number
    if not exact:
        task = hard[counts[_HARD]]
        task[0], task[1], task[2], task[3] = place, column, at, end
        counts[_HARD] += 1
    elif key == _LATENCY and not 0.0 <= number < 2147483648.0:
        return -1
    return end


@njit(cache=True, nogil=True, inline="always")
def _event(
    data: Octets,
    at: int,
    now_us: int,
    latest_us: int,
    place: int,
    row: Integers,
    real: Reals,
    slots: Slots,
    spans: Integers,
    hashes: Words,
    hard: Integers,
    counts: Integers,
) -> int:
    """Fill the row at ``place`` with the event that starts at ``at``; its end, -1 if it is not plainly good."""
    row[:] = -1
    row[_AT], row[_KIND_OF] = now_us, 0
    real[:] = np.nan
    given = 0
    if data[at] != 123:
        return -1
    at = _space(data, at + 1)
    while True:
        if data[at] != 34:
            return -1
        start = at + 1
        at = start
        while data[at] != 34 and at - start < 11 and data[at] >= 32:
            at += 1
        if data[at] != 34:
            return -1
        first, second = _short(data, start, at)
        key = _match(_KEY_WORDS, first, second)
        if key < 0 or given & (1 << key):
            return -1
        given |= 1 << key
        at = _space(data, at + 1)
        if data[at] != 58:
            return -1
        at = _space(data, at + 1)
        octet = data[at]
        if octet == 34:
            end, seen = _text(data, at + 1)
            if end < 0 or not _take_text(
                data, at + 1, end, key, latest_us, row, slots, spans, hashes, counts
            ):
                return -1
            counts[_SEEN] |= seen
            at = end + 1
        elif octet == 123:
            end, seen = _object(data, at)
            if end < 0 or key != _ATTRIBUTES:
                return -1
            row[_ATTRIBUTES_AT], row[_ATTRIBUTES_SIZE] = at, end - at
            counts[_SEEN] |= seen
            at = end
        elif octet == 45 or 48 <= octet <= 57:
            at = _take_number(data, at, key, place, row, real, hard, counts)
        else:
            at, which = _literal(data, at)
            if key == _ERROR:
                row[_ERROR_OF] = which
            elif which >= 0 or key == _SERVICE or key == _KIND or key == _NAME:
                return -1
        if at < 0:
            return -1
        at = _space(data, at)
        if data[at] == 125:
            break
        if data[at] != 44:
            return -1
        at = _space(data, at + 1)
    if row[_NAME_OF] < 0:
        row[_NAME_OF] = _code(data, at, 0, 1, slots, spans, hashes, counts)
    if row[_ERROR_OF] < 0:
        severity = row[_SEVERITY_AT]
        bad = severity >= 0 and _SEVERITY_ERRS[_severity(data, severity, severity + row[_SEVERITY_SIZE])]
        row[_ERROR_OF] = row[_STATUS_OF] >= 500 or bad
    if row[_SERVICE_OF] < 0 or row[_NAME_OF] < 0 or (row[_KIND_OF] == _METRIC and np.isnan(real[1])):
        return -1
    return at + 1


@njit(cache=True, nogil=True)
def _scan(
    data: Octets,
    starts: Integers,
    ends: Integers,
    as_lines: npt.NDArray[np.bool_],
    now_us: Integers,
    latest_us: Integers,
    max_event_bytes: int,
    max_events: int,
    rows: Integers,
    reals: Reals,
    found: Integers,
    slots: Slots,
    spans: Integers,
    hashes: Words,
    hard: Integers,
    counts: Integers,
) -> None:
    """Fills ``rows`` and ``reals`` with the events of the bodies that are taken, ``found`` with how many each body has (-1:
    it is not taken), ``spans[f]`` with the distinct texts of service, name and user, and ``hard`` with the numbers still to
    be parsed (row, which of ``reals``, start, end). ``counts``: how many texts of each field and hard numbers there are."""
    row = 0
    for body in range(len(starts)):
        first, first_hard = row, counts[_HARD]
        at, end = _space(data, starts[body]), ends[body]
        counts[_SEEN] = 0
        array = data[at] == 91
        taken = not (array and as_lines[body])
        if array:
            at = _space(data, at + 1)
        done = array and data[at] == 93
        at += done
        while taken and not done:
            start = at
            taken = False
            if row - first >= max_events:
                break
            at = _event(
                data, at, now_us[body], latest_us[body], row, rows[row], reals[row], slots, spans, hashes, hard, counts
            )  # fmt: skip
            if at < 0 or at - start > max_event_bytes:
                break
            row += 1
            taken = True
            if array:
                at = _space(data, at)
                done = data[at] == 93
                taken = done or data[at] == 44
                at = at + 1 if done else _space(data, at + 1)
            else:
                while data[at] == 32 or data[at] == 9 or data[at] == 13:
                    at += 1
                taken = at == end or data[at] == 10
                at = _space(data, at)
                done = at == end
        if taken and _space(data, at) == end and (counts[_SEEN] < 128 or _is_utf8(data, starts[body], end)):
            found[body] = row - first
        else:
            found[body] = -1
            row, counts[_HARD] = first, first_hard


_OPENING: Final = np.frombuffer(b'{"severity":"', dtype=np.uint8)


@njit(cache=True, nogil=True)
def _with_severity(data: Octets, rows: Integers) -> tuple[npt.NDArray[np.int32], Octets]:
    """The attributes of each event with its severity, if it has one, put first."""
    offsets = np.empty(len(rows) + 1, np.int32)
    most = 0
    for i in range(len(rows)):
        most += max(rows[i, _ATTRIBUTES_SIZE], 0) + max(rows[i, _SEVERITY_SIZE], 0) + len(_OPENING) + 3
    octets = np.empty(most, np.uint8)
    to = 0
    for i in range(len(rows)):
        offsets[i] = to
        at, size = rows[i, _ATTRIBUTES_AT], rows[i, _ATTRIBUTES_SIZE]
        severity_size = rows[i, _SEVERITY_SIZE]
        if severity_size >= 0:
            for j in range(len(_OPENING)):
                octets[to + j] = _OPENING[j]
            to += len(_OPENING)
            for j in range(severity_size):
                octets[to + j] = data[rows[i, _SEVERITY_AT] + j]
            to += severity_size
            octets[to] = 34
            to += 1
            if size < 0 or data[_space(data, at + 1)] == 125:
                octets[to] = 125
                to += 1
                continue
            octets[to] = 44
            to += 1
            at += 1
            size -= 1
        for j in range(size):
            octets[to + j] = data[at + j]
        to += max(size, 0)
    offsets[len(rows)] = to
    return offsets, octets[:to]


@dataclass(frozen=True, slots=True)
class Bodies:
    """Bodies one after the other, as the pass reads them."""

    data: Octets
    starts: Integers
    ends: Integers

    @classmethod
    def of(cls, bodies: Sequence[bytes]) -> Bodies:
        """Copies the bodies once."""
        sizes = np.fromiter(map(len, bodies), np.int64, len(bodies))
        ends = np.cumsum(sizes + PADDING) - PADDING
        joined = _GAP.join([*bodies, b""])
        return cls(np.frombuffer(joined or _GAP, dtype=np.uint8), ends - sizes, ends)


_GAP: Final = bytes(PADDING)


@dataclass(frozen=True, slots=True, eq=False)
class Scanned:
    """The events of the bodies that were taken, one row each, in the order of the bodies."""

    counts: Integers
    """(bodies,): how many events each has; -1 if ``events_json`` must look at it."""
    data: Octets
    rows: Integers
    reals: Reals
    texts: tuple[Integers, Integers, Integers]
    """Start and size of each distinct service, name and user."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def owners(self) -> Integers:
        """(events,): each event's body."""
        owners: Integers = np.repeat(np.arange(len(self.counts)), np.maximum(self.counts, 0))
        return owners

    @property
    def places(self) -> Integers:
        """(events,): each event's place in its body."""
        counts = np.maximum(self.counts, 0)
        first = np.cumsum(counts) - counts
        places: Integers = np.arange(len(self)) - np.repeat(first, counts)
        return places

    def ids(self) -> tuple[Integers, Integers]:
        """(events,) each: where in ``data`` an event's id starts, and its size; -1 if it has none."""
        return self.rows[:, _ID_AT], self.rows[:, _ID_SIZE]

    def with_ids(self, name: Callable[[int, int], str | None]) -> Scanned:
        """The same events, where those without an id have the one that ``name`` gives for their body and their place in
        it (None: none)."""
        owners, places = self.owners, self.places
        rows, texts, size = self.rows.copy(), [self.data.tobytes()], len(self.data)
        for row in np.flatnonzero(rows[:, _ID_SIZE] < 0).tolist():
            named = name(int(owners[row]), int(places[row]))
            if named is not None:
                texts.append(named.encode())
                rows[row, _ID_AT], rows[row, _ID_SIZE] = size, len(texts[-1])
                size += len(texts[-1])
        data = np.frombuffer(b"".join([*texts, _GAP]), dtype=np.uint8)
        return Scanned(self.counts, data, rows, self.reals, self.texts)

    def services(self) -> tuple[Integers, pa.StringArray]:
        """(events,) number of each event's service, and the services."""
        return self._labels(_SERVICE_OF, 0)

    def columns(
        self,
        hash_user: Callable[[str], int],
        tenant: pa.DictionaryArray,
        identity: pa.FixedSizeBinaryArray,
    ) -> pa.RecordBatch:
        """A batch of ``records.events.SCHEMA``."""
        rows = self.rows
        latency_ms, value = self.reals[:, 0], self.reals[:, 1]
        made = {
            "time": pa.array(rows[:, _AT]),
            "tenant": tenant,
            "service": _dictionary(*self.services()),
            "kind": _dictionary(*_used(rows[:, _KIND_OF], pa.array(KINDS))),
            "name": _dictionary(*self._labels(_NAME_OF, 1)),
            "status": pa.array(rows[:, _STATUS_OF].astype(np.int16), mask=rows[:, _STATUS_OF] < 0),
            "error": pa.array(rows[:, _ERROR_OF] > 0),
            "latency": _whole(np.rint(latency_ms * 1000.0), np.isnan(latency_ms)),
            "value": pa.array(value, mask=np.isnan(value)),
            "user": self._users(hash_user),
            "identity": identity,
            "id": strings(self.data, *self.ids()),
            "attributes": self._attributes(),
        }
        return pa.RecordBatch.from_arrays([made[name] for name in SCHEMA.names], schema=SCHEMA)

    def _labels(self, column: int, field: int) -> tuple[Integers, pa.StringArray]:
        spans = self.texts[field]
        codes, used = _renumbered(self.rows[:, column], len(spans))
        return codes, strings(self.data, spans[used, 0], spans[used, 1])

    def _users(self, hash_user: Callable[[str], int]) -> pa.UInt64Array:
        known = self.rows[:, _USER_OF] >= 0
        hashes = np.zeros(len(self), np.uint64)
        if known.any():
            spans = self.texts[2]
            codes, used = _renumbered(self.rows[known, _USER_OF], len(spans))
            texts = strings(self.data, spans[used, 0], spans[used, 1]).to_pylist()
            hashes[known] = np.array([hash_user(text) for text in texts], np.uint64)[codes]
        return pa.array(hashes, mask=~known)

    def _attributes(self) -> pa.StringArray:
        size, severity = self.rows[:, _ATTRIBUTES_SIZE], self.rows[:, _SEVERITY_SIZE]
        if (severity < 0).all():
            return strings(self.data, self.rows[:, _ATTRIBUTES_AT], size)
        return string_array(*_with_severity(self.data, self.rows), (size >= 0) | (severity >= 0))


def scan(
    bodies: Bodies,
    as_lines: npt.NDArray[np.bool_],
    now_us: Integers,
    latest_us: Integers,
    max_event_bytes: int,
    max_events: int,
) -> Scanned:
    """Decode what is plainly good. All arrays are (bodies,): whether a body is one object a line (else that is found out),
    the time of events that state none, and the latest time an event may have. A body has at most ``max_events``."""
    size, count = len(bodies.data), len(bodies.starts)
    most = size // len('{"service":"a"}') + count + 1
    texts = size // len('{"name":""') + count + 1
    slots = np.full((3, 1 << max(8, (size // _OCTETS_A_SLOT).bit_length())), -1, np.int32)
    rows = np.empty((most, _INTEGERS), np.int64)
    reals = np.empty((most, 2), np.float64)
    found = np.empty(count, np.int64)
    spans = np.empty((3, texts, 2), np.int64)
    hard = np.empty((2 * most, 4), np.int64)
    counts = np.zeros(_COUNTS, np.int64)
    _scan(
        bodies.data, bodies.starts, bodies.ends, as_lines, now_us, latest_us, max_event_bytes, max_events,
        rows, reals, found, slots, spans, np.empty((3, texts), np.uint64), hard, counts,
    )  # fmt: skip
    total = int(np.maximum(found, 0).sum())
    services, names, users = (spans[field, : counts[field]] for field in range(3))
    scanned = Scanned(found, bodies.data, rows[:total], reals[:total], (services, names, users))
    return _without(scanned, _parsed(scanned, hard[: counts[_HARD]])) if counts[_HARD] else scanned


_OCTETS_A_SLOT: Final = 32
"""Chosen as a sixth of a usual event: tables of distinct texts stay half empty even if no two events share one. Where events
are smaller and all different, some bodies are left."""


def _parsed(found: Scanned, hard: Integers) -> set[int]:
    """Parse the numbers that were left, in place; the rows whose number is out of range."""
    bad = set[int]()
    for row, column, start, end in hard.tolist():
        text = found.data[start:end].tobytes()
        try:
            number = float(text) if any(octet in text for octet in b".eE") else float(int(text))
        except (OverflowError, ValueError):
            number = np.inf
        found.reals[row, column] = number
        if not np.isfinite(number) or (column == 0 and not 0 <= number < 2**31):
            bad.add(row)
    return bad


def _without(found: Scanned, bad: set[int]) -> Scanned:
    """Without the bodies of these rows, which are left to ``events_json``."""
    if not bad:
        return found
    owners, counts = found.owners, found.counts.copy()
    counts[owners[sorted(bad)]] = -1
    keep = counts[owners] >= 0
    return Scanned(counts, found.data, found.rows[keep], found.reals[keep], found.texts)


def _renumbered(codes: Integers, size: int) -> tuple[Integers, Integers]:
    """The codes counted anew without those that do not occur, and those that do."""
    seen = np.zeros(size, np.bool_)
    seen[codes] = True
    numbers: Integers = np.cumsum(seen) - 1
    renumbered: Integers = numbers[codes]
    return renumbered, np.flatnonzero(seen)


def _used(codes: Integers, values: pa.StringArray) -> tuple[Integers, pa.StringArray]:
    codes, used = _renumbered(codes, len(values))
    return codes, values.take(pa.array(used))


def _dictionary(codes: Integers, values: pa.StringArray) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), values, safe=False)


def _whole(values: Reals, absent: npt.NDArray[np.bool_]) -> pa.Int64Array:
    return pa.array(np.where(absent, 0, values).astype(np.int64), mask=absent)
