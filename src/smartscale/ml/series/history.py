"""The past of all series as one ring of columns, two bytes a value.

Column ``step % width`` of ``ring`` holds the value of ``step`` as a **code**: a float without sign, of 6 bits of
exponent and 10 of mantissa, that covers 2^-20 to 2^44 with a relative error of at most 2^-11 (0.05 %; IEEE half
precision is as fine, but ends at 65,504). Code 0 is a gap. Four weeks of minutes of 10,000 series are 0.8 GB.
What must be exact (the last value, losses, residuals) is kept elsewhere.

A ``Past`` is the ring seen from an origin: it answers nothing later than the origin, so a method cannot look
ahead even by mistake.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

Codes = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]

GAP: Final = 0
"""Code of a value that is not known."""
_SCALE: Final = 2.0 ** (np.arange(64) - 30)
"""Value of the last bit of the mantissa, by exponent."""
_LEAST: Final = 1025 * 2.0**-30
_MOST: Final = 2047 * 2.0**33


@dataclass(frozen=True, slots=True)
class Past:
    """What is known at ``origin`` (a step's number). ``ring`` has shape (n_series, width)."""

    ring: Codes
    origin: int

    def between(self, first: int, last: int) -> Floats:
        """Values of steps ``first`` to ``last`` inclusive, shape (n_series, last - first + 1), a copy.

        NaN for gaps, for steps after the origin and for those the ring no longer holds."""
        found = np.empty((len(self.ring), max(last - first + 1, 0)), np.float32)
        _read(self.ring, self.origin, first, found)
        return found


def empty(n_series: int, width: int) -> Codes:
    """A ring of which nothing is known yet."""
    return np.full((n_series, width), GAP, np.uint16)


def put(ring: Codes, step: int, values: npt.NDArray[np.floating]) -> None:
    """Write the column of ``step``, in place; NaN is a gap."""
    _write(ring[:, step % ring.shape[1]], np.asarray(values, np.float64))


def encode(values: npt.NDArray[np.floating]) -> Codes:
    """Nearest codes; NaN is a gap, what is outside the range is taken as its end.

    >>> decode(encode(np.array([3.0, np.nan, 1e300, 0.0]))).tolist()
    [3.0, nan, 17583596109824.0, 9.546056389808655e-07]
    """
    codes = np.empty(len(values), np.uint16)
    _write(codes, np.asarray(values, np.float64))
    return codes


def decode(codes: Codes) -> Floats:
    """The values of codes, NaN for a gap. ``encode(decode(codes))`` is ``codes``."""
    values: Floats = ((1024 + (codes & 1023)) * _SCALE[codes >> 10]).astype(np.float32)
    values[codes == GAP] = np.nan
    return values


@njit(cache=True, nogil=True, error_model="numpy")
def _write(codes: Codes, values: npt.NDArray[np.float64]) -> None:
    for i in range(len(values)):
        value = values[i]
        if np.isnan(value):
            codes[i] = GAP
        else:
            mantissa, exponent = math.frexp(min(max(value, _LEAST), _MOST))
            # A mantissa rounded up to 2048 carries into the exponent by itself.
            codes[i] = (exponent + 19) * 1024 + int(np.rint(mantissa * 2048)) - 1024


@njit(cache=True, nogil=True, error_model="numpy")
def _read(ring: Codes, origin: int, first: int, found: Floats) -> None:
    width = ring.shape[1]
    for i in range(found.shape[0]):
        for j in range(found.shape[1]):
            step = first + j
            code = GAP
            if origin - width < step <= origin:
                code = ring[i, step % width]
            found[i, j] = np.nan if code == GAP else value_of(code)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def value_of(code: int) -> float:
    """As ``decode``, of one code that is not ``GAP``, within compiled loops."""
    return float((1024 + (code & 1023)) * _SCALE[code >> 10])


@njit(cache=True, nogil=True, error_model="numpy")
def mean_between(row: Codes, first: int, last: int, origin: int) -> tuple[float, int]:
    """Mean and number of what ``row`` (width,) knows of steps ``first`` to ``last`` at ``origin``; (NaN, 0) of nothing."""
    width = row.shape[0]
    first = max(first, origin - width + 1)
    last = min(last, origin)
    total, count = 0.0, 0
    if last >= first:
        at = first % width
        for _ in range(last - first + 1):
            code = row[at]
            if code != GAP:
                total += value_of(code)
                count += 1
            at += 1
            if at == width:
                at = 0
    if count == 0:
        return np.nan, 0
    return total / count, count
