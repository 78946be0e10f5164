"""Tables of arrays cut into tiles, so that a snapshot writes only those that changed.

A tile is a block of rows by a run of places of the second axis (a one-dimensional array has one place). How an array is cut
depends on its shape alone, and hardly on its rows: they are counted up to the next power of two until the block is
full, so that newcomers seldom change the cut. Rows at the end of a tile that hold nothing but ``blank`` are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

Values = npt.NDArray[np.generic]

ROWS: Final = 1024
LEAST_BYTES: Final = 16 << 10
"""Smaller tiles are joined: a record has its cost."""
MOST_BYTES: Final = 384 << 10
"""Larger ones are cut, if the second axis lets them: records are held to 512 KiB."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows and places of the second axis."""

    rows: slice
    places: slice

    @property
    def name(self) -> str:
        return f"{self.rows.start}|{self.places.start}"

    def of(self, array: Values) -> Values:
        """The part of ``array``, a view of two axes or more."""
        return _flat(array)[self.rows, self.places]


def cut(array: Values, run: int | None = None) -> Iterator[Tile]:
    """The tiles of an array, in order; ``run`` places each, if given."""
    whole = _flat(array)
    count, places = whole.shape[:2]
    place_bytes = whole.itemsize * int(np.prod(whole.shape[2:]))
    for first in range(0, count, ROWS):
        rows = min(ROWS, 1 << (count - first - 1).bit_length())
        least, most = (max(1, size // (rows * place_bytes)) for size in (LEAST_BYTES, MOST_BYTES))
        step = run or (least if whole.ndim > 2 else most)
        for start in range(0, places, step):
            yield Tile(slice(first, min(first + ROWS, count)), slice(start, min(start + step, places)))


def pack(array: Values, tile: Tile, blank: np.generic | None = None) -> bytes:
    """The values of a tile in C order, little-endian, up to the last row that is not all ``blank``."""
    values = tile.of(array)
    if blank is not None:
        said = ~(_is(values, blank).all(axis=1))
        values = values[: int(np.flatnonzero(said)[-1]) + 1 if said.any() else 0]
    return np.ascontiguousarray(values).tobytes()


def unpack(array: Values, tile: Tile, data: bytes, blank: np.generic | None = None) -> bool:
    """Write a packed tile into its place; rows left out become ``blank``. False if it is of another cut."""
    part = tile.of(array)
    row_bytes = part.itemsize * int(np.prod(part.shape[1:]))
    count = len(data) // row_bytes
    if len(data) % row_bytes or count > len(part) or (blank is None and count < len(part)):
        return False
    part[:count] = np.frombuffer(data, part.dtype).reshape(count, *part.shape[1:])
    if blank is not None:
        part[count:] = blank
    return True


def digest(data: bytes) -> int:
    """What tells contents apart."""
    return xxhash.xxh3_64_intdigest(data)


def _flat(array: Values) -> Values:
    """With two axes at least; always a view."""
    return array[:, None] if array.ndim == 1 else array


def _is(values: Values, blank: np.generic) -> npt.NDArray[np.bool_]:
    return np.isnan(values) if blank != blank else values == blank  # NaN alone is not itself
