"""Exponential histograms of any numbers: negative, zero, huge; exact to merge, with a stated relative error.

As ``records.histogram``, with a sign: boundaries of magnitudes are powers of ``base = 2 ** (2 ** -4)``. Slots ascend with
the values they hold; with ``m`` from -2048 to 2049 and ``ZERO`` = 4098:

- slot ZERO: the value 0,
- slot ZERO + 1 + m + 2048: values in (base**(m-1), base**m]; m = -2048 holds everything above 0 up to 2**-128, m = 2049
  everything above 2**128 (3.4e38, as far as a 32-bit float goes), infinity included,
- slot ZERO - 1 - m - 2048: the same with the sign turned.

A quantile is answered with the harmonic midpoint of its bucket's magnitude: off by at most ``histogram.RELATIVE_ERROR``
(2.17 %) for magnitudes from 2**-128 to 2**128. Beyond, it is only known to lie between the boundary and the least or
greatest value seen.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from smartscale.records.histogram import BASE, SCALE

_LAST: Final = 128 << SCALE
ZERO: Final = 2 * _LAST + 2
SLOTS: Final = 2 * ZERO + 1

_m = np.arange(-_LAST, _LAST + 1)
_UPPER = np.ldexp(BASE ** (_m % (1 << SCALE)), _m >> SCALE)
_MIDDLE = np.concatenate(
    ([_UPPER[0]], 2 * _UPPER[:-1] * _UPPER[1:] / (_UPPER[:-1] + _UPPER[1:]), [_UPPER[-1]])
)
MIDPOINT: Final[npt.NDArray[np.float64]] = np.concatenate((-_MIDDLE[::-1], [0.0], _MIDDLE))
"""What a quantile that falls into the slot is answered with, shape (SLOTS,), ascending."""


def slots(value: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
    """The slot of each value, same shape; anything for NaN.

    >>> (slots(np.array([-2.0, -1.0, 0.0, 1.0, 2.0, np.inf])) - ZERO).tolist()
    [-2065, -2049, 0, 2049, 2065, 4098]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.ceil(np.log2(np.abs(value)) * (1 << SCALE) - 1e-11)
        m = np.clip(np.nan_to_num(exponent, nan=0.0, posinf=_LAST + 1, neginf=-_LAST), -_LAST, _LAST + 1)
        sign = np.nan_to_num(np.sign(value))
    found: npt.NDArray[np.int16] = (ZERO + sign * (m + (_LAST + 1))).astype(np.int16)
    return found
