"""Keeps out of a process what it would load and never use, and memory that it has freed."""

from __future__ import annotations

import ctypes
import sys
import types
import warnings
from typing import Final

import pyarrow as pa

LARGE_BYTES: Final = 4 << 20
"""Chosen as a round of ingest: at 635,000 events a second 325 MB were resident without this, 286 MB with it."""
_M_MMAP_THRESHOLD: Final = -3
"""Of ``mallopt`` (glibc, malloc.h)."""


def return_large_blocks() -> None:
    """Give freed blocks of ``LARGE_BYTES`` or more back to the system at once, where the C library is glibc, which otherwise
    raises that bound with each larger block that is freed, and keeps what is below."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def without_pandas() -> None:
    """Make pyarrow do without pandas, which it would import with the first array it makes: 30 MB and half a second.

    It looks for pandas once; shown one that is too old for it, it goes on without. Does nothing if pandas is loaded already.
    Only for processes that never turn a column into a pandas object."""
    if "pandas" in sys.modules:
        return
    old = types.ModuleType("pandas")
    vars(old)["__version__"] = "0.0"
    sys.modules["pandas"] = old
    try:
        with warnings.catch_warnings(action="ignore"):  # that it is too old
            pa.array([0])
    finally:
        del sys.modules["pandas"]
