"""Attributes of events by columns: the JSON of each distinct text is decoded once, and of it only what is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

OTHER: Final = "__other__"
"""The group of what has no group of its own: more keys than allowed, or a value too long to be a label."""

MAX_VALUE_CHARACTERS: Final = 100


@lru_cache
def _decoder(names: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Decodes an object to a struct with a raw JSON value for each name; other names are skipped."""
    fields = [(f"_{i}", msgspec.Raw, msgspec.Raw(b"")) for i in range(len(names))]
    wanted = msgspec.defstruct("Attributes", fields, rename={f"_{i}": name for i, name in enumerate(names)})
    return msgspec.json.Decoder(wanted)


def _distinct(column: pa.Array) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Code of each text (-1 for null), and the distinct texts."""
    encoded = pc.dictionary_encode(column)
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary.to_pylist()


def numbers(column: pa.Array, name: str) -> npt.NDArray[np.float64]:
    """An attribute as a number, shape (n,); NaN where there is none or it is no number.

    >>> numbers(pa.array(['{"bytes": 12}', '{"bytes": "12"}', None]), "bytes").tolist()
    [12.0, nan, nan]
    """
    codes, texts = _distinct(column)
    decode = _decoder((name,)).decode
    found = np.full(len(texts) + 1, np.nan)
    for i, text in enumerate(texts):
        try:
            value = msgspec.json.decode(decode(text)._0 or b"null")
        except msgspec.MsgspecError:
            continue  # no JSON object: no attributes
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[i] = value
    return found[codes]


def groups(column: pa.Array, names: Sequence[str]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The group of each event by the values of these attributes, as codes of shape (n,) into the list of groups.

    A group reads ``region=eu,tier=gold``; ``,``, ``=`` and ``%`` in a value are percent-encoded; a value that is missing
    or null is empty, one that is an object, a list or longer than 100 characters makes the group ``__other__``.

    >>> groups(pa.array(['{"region": "eu"}', None, '{"region": [1]}', '{"region": "eu", "x": 1}']), ["region"])
    (array([0, 2, 1, 0]), ['region=eu', '__other__', 'region='])
    """
    codes, texts = _distinct(column)
    decode = _decoder(tuple(names)).decode
    fields = [f"_{i}" for i in range(len(names))]
    numbered: dict[str, int] = {}
    of_values: dict[tuple[bytes, ...], int] = {}
    of_text = np.empty(len(texts) + 1, np.int64)
    for i, text in enumerate([*texts, "{}"]):
        try:
            found = decode(text)
        except msgspec.MsgspecError:
            found = decode(b"{}")
        values = tuple([bytes(getattr(found, field)) for field in fields])
        number = of_values.get(values)
        if number is None:
            number = of_values[values] = numbered.setdefault(_group(names, values), len(numbered))
        of_text[i] = number
    return of_text[codes], list(numbered)


def _group(names: Sequence[str], values: Sequence[bytes]) -> str:
    labels = [_label(value) for value in values]
    return OTHER if None in labels else ",".join(f"{n}={v}" for n, v in zip(names, labels, strict=True))


def _label(text: bytes) -> str | None:
    if text in (b"", b"null"):
        return ""
    if text[:1] in (b"{", b"["):
        return None
    value = msgspec.json.decode(text, type=str) if text[:1] == b'"' else text.decode()
    return value.translate(_ENCODED) if len(value) <= MAX_VALUE_CHARACTERS else None


_ENCODED: Final = str.maketrans({character: f"%{ord(character):02X}" for character in "%,=\x1f"})
"""The last one parts the pieces of a record key (see ``window.core``)."""
