"""Loads and products of machine words for compiled loops over bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

PADDING = 16
"""Zero bytes that must follow the last byte looked at: a load may reach that far beyond it."""


def _load64(_context: Any, data: Any, index: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.gep(array.data, [arguments[1]])
        word = builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()))
        word.align = 1
        return word

    return types.uint64(data, index), generate


def _product(_context: Any, _left: Any, _right: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        whole = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        low = builder.trunc(whole, ir.IntType(64))
        high = builder.trunc(builder.lshr(whole, ir.Constant(wide, 64)), ir.IntType(64))
        return context.make_tuple(builder, signature.return_type, [low, high])

    both: Any = types.Tuple  # it has no annotations
    return both([types.uint64, types.uint64])(types.uint64, types.uint64), generate


load64: Final = cast("Callable[[npt.NDArray[np.uint8], int], np.uint64]", intrinsic(_load64))
"""``load64(data, index)``: the eight bytes at ``data[index:]``, wherever they lie, as a little-endian word; ``data`` is
contiguous."""
product: Final = cast("Callable[[np.uint64, np.uint64], tuple[np.uint64, np.uint64]]", intrinsic(_product))
"""``product(left, right)``: the 128 bits of the product of two words as (low, high)."""
