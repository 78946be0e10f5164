"""Keeps out of a process what it would load and never use."""

from __future__ import annotations

import sys
import types
import warnings

import pyarrow as pa


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
