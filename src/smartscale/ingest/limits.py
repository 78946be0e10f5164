"""Limits on what an event may carry, checked on the columns of a round: array work, and Python only for what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from smartscale.ingest.cardinality import Guard

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Limits:
    """At most so much in each event."""

    label_chars: int
    """Of ``service`` and ``name``."""
    id_chars: int
    attributes: int
    """How many."""
    attribute_bytes: int
    """Of all attributes as JSON."""


@dataclass(frozen=True, slots=True)
class Excess:
    """Events (events,) of a batch that break one limit."""

    mask: Mask
    code: str
    reason: str


def excesses(batch: pa.RecordBatch, limits: Limits) -> Iterator[Excess]:
    """What breaks a limit, of a batch with the columns of ``records.events``; nothing for most batches."""
    for field in ("service", "name"):
        column = batch[field]
        long = _longer(pc.utf8_length(column.dictionary), limits.label_chars)
        if long.any():
            yield Excess(
                long[_codes(column)],
                f"long-{field}",
                f"`{field}` has more than {limits.label_chars} characters; shorten it",
            )
    long = _longer(pc.utf8_length(batch["id"]), limits.id_chars)
    if long.any():
        yield Excess(long, "long-id", f"`id` has more than {limits.id_chars} characters; shorten it")
    sizes = pc.binary_length(batch["attributes"])
    long = _longer(sizes, limits.attribute_bytes)
    if long.any():
        yield Excess(
            long,
            "long-attributes",
            f"the attributes have more than {limits.attribute_bytes:,} bytes; send fewer or shorter ones",
        )
    perhaps = np.flatnonzero(_longer(sizes, limits.attributes * _LEAST_BYTES) & ~long)
    many = np.zeros(len(batch), dtype=np.bool_)
    for place in perhaps.tolist():
        many[place] = len(_object(batch["attributes"][place].as_py())) > limits.attributes
    if many.any():
        yield Excess(
            many,
            "many-attributes",
            f"there are more than {limits.attributes} attributes; send the ones that matter",
        )


_LEAST_BYTES: Final = 5
"""Of an attribute in JSON, its comma included: ``"":0,``. Fewer bytes than that times the limit need no counting."""
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def too_many_labels(batch: pa.RecordBatch, guard: Guard, now_s: float) -> Iterator[Excess]:
    """Events whose service or name is one too many for their tenant."""
    if not len(batch):
        return
    tenants, tenant = batch["tenant"].dictionary.to_pylist(), _codes(batch["tenant"])
    services, names = batch["service"].dictionary.to_pylist(), batch["name"].dictionary.to_pylist()
    service, name = _codes(batch["service"]), _codes(batch["name"])
    over = {"services": np.zeros(len(batch), dtype=np.bool_), "names": np.zeros(len(batch), dtype=np.bool_)}
    for code in np.unique(tenant).tolist():
        mine = np.flatnonzero(tenant == code)
        over["services"][mine], over["names"][mine] = guard.refused(
            tenants[code], services, names, service[mine], name[mine], now_s
        )
    for what, limit in (("services", guard.limits.services), ("names", guard.limits.names)):
        if over[what].any():
            yield Excess(
                over[what],
                f"too-many-{what}",
                f"this tenant has more than {limit:,} different {what}, and this is a new one: keep what varies, such as "
                "ids, in `attributes`, or ask the operator for a higher limit",
            )


def _codes(column: pa.DictionaryArray) -> npt.NDArray[np.int32]:
    codes: npt.NDArray[np.int32] = column.indices.to_numpy()
    return codes


def _longer(lengths: pa.Array, limit: int) -> Mask:
    longer: Mask = pc.fill_null(pc.greater(lengths, limit), False).to_numpy(zero_copy_only=False)
    return longer
