"""Forecasts to JSON: a refresh of thousands of series is ten million numbers, so a compiled loop writes their digits.

Rates are told to 1e-4 a second: short on the wire, finer than one event an hour.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.records import forecasts
from smartscale.records.forecasts import Forecast

Small = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

PARTS: Final = 10_000
"""Of one event a second."""
MOST: Final = 1e11
"""Larger rates are left to the encoder of records: their digits do not fit."""
WIDTH: Final = 18
"""Bytes of a number and its comma at most."""


def rounded(rates: Small) -> list[list[float]]:
    """Rates as they are told, shape (horizon, levels)."""
    told: list[list[float]] = (np.rint(rates.astype(np.float64) * PARTS) / PARTS).tolist()
    return told


def encode(about: Forecast, values: Small, peaks: Small) -> bytes:
    """The record ``about`` with these values and peaks, both of shape (horizon, levels), instead of its own."""
    if max(values.max(), peaks.max()) >= MOST:
        whole = msgspec.structs.replace(about, values=rounded(values), peaks=rounded(peaks))
        return forecasts.encode(whole)
    empty = forecasts.encode(msgspec.structs.replace(about, values=[], peaks=[]))
    before, after = empty.split(b'"values":[],"peaks":[]', 1)
    room = np.empty(2 * (values.size * WIDTH + 2 * len(values) + 2), np.uint8)
    end = _write(values, room, 0)
    last = _write(peaks, room, end)
    parts = (before, b'"values":', room[:end].tobytes(), b',"peaks":', room[end:last].tobytes(), after)
    return b"".join(parts)


@njit(cache=True)
def _write(rates: Small, room: Bytes, at: int) -> int:
    """The rates as a JSON array of arrays from place ``at``; the place after it."""
    room[at] = 91  # [
    at += 1
    for row in range(rates.shape[0]):
        if row > 0:
            room[at] = 44  # ,
            at += 1
        room[at] = 91
        at += 1
        for column in range(rates.shape[1]):
            if column > 0:
                room[at] = 44
                at += 1
            at = _number(int(np.rint(np.float64(rates[row, column]) * PARTS)), room, at)
        room[at] = 93  # ]
        at += 1
    room[at] = 93
    return at + 1


@njit(cache=True)
def _number(parts: int, room: Bytes, at: int) -> int:
    """``parts`` ten-thousandths in decimals, at least one."""
    whole, rest = parts // PARTS, parts % PARTS
    digits, power = 1, 10
    while whole >= power:
        digits += 1
        power *= 10
    for place in range(digits):
        room[at + digits - 1 - place] = 48 + whole % 10
        whole //= 10
    at += digits
    room[at] = 46  # .
    at += 1
    unit = PARTS // 10
    while True:
        room[at] = 48 + rest // unit
        at += 1
        rest %= unit
        unit //= 10
        if rest == 0:
            return at
