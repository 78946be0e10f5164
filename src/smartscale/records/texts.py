"""Texts in a body become an Arrow column, without a Python object a text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

Octets = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


def strings(data: Octets, at: Integers, sizes: Integers) -> pa.StringArray:
    """The texts of ``sizes`` bytes at the places ``at`` of ``data``; a size of -1 is null."""
    return string_array(*_gathered(data, at, sizes), sizes >= 0)


def string_array(
    offsets: npt.NDArray[np.int32], octets: Octets, present: npt.NDArray[np.bool_]
) -> pa.StringArray:
    """A column from Arrow's own layout: text i is ``octets[offsets[i]:offsets[i + 1]]``, null where not ``present``."""
    absent = len(present) - int(np.count_nonzero(present))
    valid = pa.py_buffer(np.packbits(present, bitorder="little")) if absent else None
    return pa.StringArray.from_buffers(
        len(present), pa.py_buffer(offsets), pa.py_buffer(octets), valid, absent
    )


@njit(cache=True, nogil=True)
def _gathered(data: Octets, at: Integers, sizes: Integers) -> tuple[npt.NDArray[np.int32], Octets]:
    """Texts (a size of -1 stands for none) as Arrow lays them out: offsets and bytes."""
    offsets = np.empty(len(at) + 1, np.int32)
    total = 0
    for i in range(len(at)):
        offsets[i] = total
        total += max(sizes[i], 0)
    offsets[len(at)] = total
    octets = np.empty(total, np.uint8)
    for i in range(len(at)):
        to, source = offsets[i], at[i]
        for j in range(sizes[i]):
            octets[to + j] = data[source + j]
    return offsets, octets
